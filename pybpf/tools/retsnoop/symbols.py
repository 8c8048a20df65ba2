"""Names of kernel addresses, as `stacks` wants them."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...kernel.kallsyms import Kallsyms

__all__ = ["KernelSymbols"]


class KernelSymbols:
    """/proc/kallsyms, each address looked up once.

    :param read: gives the table; asked at the first lookup, which comes after
        attaching, so that the trampolines and programs made for it are in it
    """

    def __init__(self, read: Callable[[], Kallsyms]) -> None:
        self._read = read
        self._table: Kallsyms | None = None
        self._known: dict[int, tuple[str, str, int] | None] = {}

    def lookup(self, addr: int) -> tuple[str, str, int] | None:
        """(name, module, start address) of the symbol that covers `addr`, or None."""
        if addr not in self._known:
            if self._table is None:
                self._table = self._read()
            found = self._table.lookup(addr)
            if found is None:
                self._known[addr] = None
            else:
                symbol, _ = found
                self._known[addr] = (symbol.name, symbol.module, symbol.addr)
        return self._known[addr]
