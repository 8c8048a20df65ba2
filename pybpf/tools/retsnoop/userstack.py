"""Lines for the addresses of a program's stack."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...symbols import Symbols

__all__ = ["UNKNOWN", "user_frame"]

#: Stands for an address without a name.
UNKNOWN = "[unknown]"


def user_frame(symbols: Symbols, process: int, address: int) -> str:
    """Return ``name+0xOFFSET (file)``, or as much of it as is known.

    :param process: its id
    :param address: return address
    """
    place = symbols.place(process, address - 1)  # the call, not the instruction after it
    if place is None:
        return f"{address:#x} {UNKNOWN}"
    if not place.function:
        return f"{place.offset + 1:#x} ({place.path})"
    return f"{place.function}+{place.distance + 1:#x} ({place.path})"
