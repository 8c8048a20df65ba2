"""What targets stand on: the modules as they were when addresses and BTF ids were read.

Between reading an address and making a link, a module may go, or be loaded anew somewhere else,
and its former memory may hold another module's functions. No look beforehand can rule that out.
So the engine asks before each link and again after it: if the module is the same one both times,
it was there all the while, and the link is where the address was read (`pybpf.kernel.modules`
tells why). If not, the link is closed at once, and its functions are looked up anew.
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

#: So often functions of modules that come and go are looked up anew.
ROUNDS = 4


class Stale(BpfError):
    """A function is no longer what was planned for: its module went, or it is elsewhere.

    :param again: looking it up anew may help
    """

    def __init__(self, target: Target, reason: Reason, detail: str = "", *, again: bool) -> None:
        super().__init__(errno.ENOENT, target.label, reason.text)
        self.reason = reason
        self.detail = detail
        self.again = again


class Stands(Protocol):
    """What the engine asks about the modules of its targets."""

    def lost(self, modules: Iterable[str]) -> set[str]:
        """Modules of which what was read no longer holds; "" is the kernel itself."""

    def again(self, targets: Sequence[Target]) -> tuple[Sequence[Target], list[Skipped]]:
        """Look functions up anew; those that are not there any more come with a reason."""


class Ground:
    """The modules of the running kernel, at the moment that facts are of.

    :param resolver: finds functions anew
    :param facts: what the targets were found in
    :param template: the program that is attached
    """

    def __init__(self, resolver: Resolver, facts: Facts, template: Template) -> None:
        self._resolver = resolver
        self._facts = facts
        self._template = template

    def lost(self, modules: Iterable[str]) -> set[str]:
        """Find the modules of which what was read no longer holds."""
        return self._facts.loaded.lost(modules)

    def again(self, targets: Sequence[Target]) -> tuple[Sequence[Target], list[Skipped]]:
        """Look functions up in facts of this moment.

        :returns: those that are there, with their addresses and BTF ids of now; and the others
        """
        self._facts = self._facts.current()
        at_exit = self._template.hook is not Hook.ENTRY
        found, gone = self._resolver.at(self._facts).again(targets, at_exit=at_exit)
        return (self._resolver.with_sleep(found) if self._template.sleepable else found), gone
