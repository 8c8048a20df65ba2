"""Attach to a few exact names without reading the kernel's tables.

Reading the symbols and the list of traceable functions takes longer than all the rest of a run
that attaches to one function. So the kernel is asked about each name (`pybpf.kernel.funcfind`).
It does not tell whether ftrace can trace the function, but refuses a link that it cannot make. What
is refused is looked up in the tables afterwards, which say why.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from ..kernel.funcfind import FunctionFinder
    from .options import AttachOptions

__all__ = ["Asking", "may_ask"]


def may_ask(options: AttachOptions) -> bool:
    """Tell whether targets may be used before it is known that they can be traced.

    Every mechanism must be one whose links the kernel checks. A caller that follows what
    happens sees only what is certain.
    """
    watched = options.planned is not None or options.progress is not None
    return not watched and all(one.checks_place for one in options.mechanisms)


class Asking:
    """Answer `pybpf.multi.select.select` by asking the kernel. It is a context manager."""

    def __init__(self) -> None:
        self._finder: FunctionFinder | None = None
        self._count = 0
        self._can = True

    @property
    def answered(self) -> bool:
        """Return True if there were questions, and each was answered."""
        return self._can and self._count > 0

    def __call__(self, name: str) -> int | None:
        """Return the address of the kernel's own function of a name, None if it cannot be told."""
        address = None
        try:
            if self._can:
                if self._finder is None:
                    from ..kernel.funcfind import FunctionFinder  # 2 ms, only for exact names

                    self._finder = FunctionFinder()
                address = self._finder.find(name)
        except OSError:
            pass  # no rights, an older kernel, or no /sys
        self._count += 1
        self._can = address is not None
        return address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._finder is not None:
            self._finder.close()
