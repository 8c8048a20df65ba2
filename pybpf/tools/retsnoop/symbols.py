"""Names of kernel addresses, for `stacks`."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...kernel.kallsyms import Kallsyms

__all__ = ["KernelSymbols", "end_of"]

_MOST = 1 << 17  # bytes; no kernel function is longer


class KernelSymbols:
    """Look up addresses in /proc/kallsyms, each once.

    :param read: returns the table; called at the first lookup, after attaching,
        so that the table has the trampolines and programs made for it
    """

    def __init__(self, read: Callable[[], Kallsyms]) -> None:
        self._read = read
        self._table: Kallsyms | None = None
        self._known: dict[int, tuple[str, str, int] | None] = {}

    def lookup(self, addr: int) -> tuple[str, str, int] | None:
        """Return (name, module, start address) of the symbol that covers `addr`, or None."""
        if addr not in self._known:
            if self._table is None:
                self._table = self._read()
            found = None if self._table.hidden else self._table.lookup(addr)
            if found is None:
                self._known[addr] = None
            else:
                symbol, _ = found
                self._known[addr] = (symbol.name, symbol.module, symbol.addr)
        return self._known[addr]


def end_of(start: int, table: Kallsyms) -> int:
    """Return where the function that starts at `start` ends, 0 if no symbol starts there.

    The table has no sizes, so a function lasts until the next symbol.
    """
    if not table.at(start):
        return 0
    most = start + _MOST
    return min(table.above(start) or most, most)
