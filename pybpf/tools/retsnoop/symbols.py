"""Names of kernel addresses, for `stacks`."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...kernel.kallsyms import Kallsyms
    from .stacks import Symbols

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


def end_of(start: int, symbols: Symbols) -> int:
    """Return where the function that starts at `start` ends, 0 if no symbol starts there.

    The kernel's table has no sizes, so the next symbol is searched for.
    """

    def covers(address: int) -> bool:
        found = symbols.lookup(address)
        return found is not None and found[2] == start

    if not covers(start):
        return 0
    low, high = start, start + _MOST  # covers(low), and high is past the end
    if covers(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if covers(middle):
            low = middle
        else:
            high = middle
    return high
