"""The modules that targets depend on, as they were when addresses and BTF ids were read.

Between reading an address and making a link, a module may be unloaded, or reloaded elsewhere,
and its old memory may hold another module's functions. No earlier check can rule that out.
So the engine checks before each link and again after it. If the module is the same both times,
it was there all the time, and the link is on the address that was read (`pybpf.kernel.modules`
explains why). If not, the link is closed at once, and its functions are looked up again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Protocol

from ..errors import BpfError
from .reasons import Reason, Skipped
from .target import Target
from .template import Template
from .traits import Hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..kernel.host import Facts
    from .resolve import Resolver

__all__ = ["ROUNDS", "Ground", "Stale", "Stands"]

#: Times that functions of modules that come and go are looked up again.
ROUNDS = 4


class Stale(BpfError):
    """Report that a function changed since it was planned: its module was unloaded, or it moved.

    :param again: looking it up again may help
    """

    def __init__(self, target: Target, reason: Reason, detail: str = "", *, again: bool) -> None:
        super().__init__(errno.ENOENT, target.label, reason.text)
        self.reason = reason
        self.detail = detail
        self.again = again


class Stands(Protocol):
    """Answer the engine's questions about the modules of its targets."""

    def lost(self, modules: Iterable[str]) -> set[str]:
        """Find the modules whose facts no longer hold. "" is the kernel itself."""

    def again(self, targets: Sequence[Target]) -> tuple[Sequence[Target], list[Skipped]]:
        """Look functions up again. Functions that no longer exist come with a reason."""


class Ground:
    """Check the modules of the running kernel against the moment of the facts.

    :param resolver: looks functions up again
    :param facts: the facts that the targets were found in
    :param template: the program that is attached
    """

    def __init__(self, resolver: Resolver, facts: Facts, template: Template) -> None:
        self._resolver = resolver
        self._facts = facts
        self._template = template

    def lost(self, modules: Iterable[str]) -> set[str]:
        """Find the modules whose facts no longer hold."""
        return self._facts.loaded.lost(modules)

    def again(self, targets: Sequence[Target]) -> tuple[Sequence[Target], list[Skipped]]:
        """Look functions up in facts of this moment.

        :returns: functions that exist, with their present addresses and BTF ids, and the others
        """
        self._facts = self._facts.current()
        at_exit = self._template.hook is not Hook.ENTRY
        found, gone = self._resolver.at(self._facts).again(targets, at_exit=at_exit)
        return (self._resolver.with_sleep(found) if self._template.sleepable else found), gone
