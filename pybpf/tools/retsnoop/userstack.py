"""Names for the addresses of a program's stack, from /proc/PID/maps and the symbols of its files.

The maps of a process vanish when it ends. Its addresses then stay numbers, unless the maps were
read before.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from ...elf import STT_FUNC, STT_GNU_IFUNC, ElfFile
from ...errors import BpfError, ObjectFormatError
from ...symbols import Mapping, open_mapped, parse_maps

__all__ = ["UNKNOWN", "Programs", "Symbols"]

#: Stands for an address without a name.
UNKNOWN = "[unknown]"
_MAX_PROCESSES = 1024


class Symbols:
    """Hold the functions of an ELF file, sorted by their offset in the file.

    :param functions: (offset, size, name)
    """

    def __init__(self, functions: Iterable[tuple[int, int, str]]) -> None:
        self._functions = sorted(functions)
        self._starts = [start for start, _, _ in self._functions]

    @classmethod
    def of(cls, elf: ElfFile) -> Symbols:
        """Read the functions of a file.

        :raises ObjectFormatError: its tables are malformed
        """
        found = []
        for symbol in (*elf.symbols, *elf.dynamic_symbols):
            if symbol.type in (STT_FUNC, STT_GNU_IFUNC) and symbol.value:
                at = elf.file_offset(symbol.value)
                if at is not None:
                    found.append((at, symbol.size, symbol.name))
        return cls(found)

    def lookup(self, offset: int) -> tuple[str, int] | None:
        """Return (name, distance) of the function that covers a file offset."""
        at = bisect.bisect_right(self._starts, offset) - 1
        if at < 0:
            return None
        start, size, name = self._functions[at]
        return (name, offset - start) if offset - start < max(size, 1) else None


class Programs:
    """Name addresses of processes. Maps and symbols are read once and kept."""

    def __init__(self) -> None:
        self._maps: dict[int, list[Mapping]] = {}
        self._symbols: dict[tuple[str, str], Symbols] = {}

    def name(self, process: int, address: int) -> str:
        """Return ``name+0xOFFSET (file)``, or as much of it as is known.

        :param address: return address
        """
        found = self._mapping(process, address)
        if found is None:
            return f"{address:#x} {UNKNOWN}"
        # The call, not the instruction after it.
        offset = address - 1 - found.start + found.offset
        symbol = self._symbols_of(process, found).lookup(offset)
        if symbol is None:
            return f"{offset + 1:#x} ({found.path})"
        name, distance = symbol
        return f"{name}+{distance + 1:#x} ({found.path})"

    def _mapping(self, process: int, address: int) -> Mapping | None:
        for again in (False, True):
            if again or process not in self._maps:
                if len(self._maps) >= _MAX_PROCESSES:
                    self._maps.clear()
                maps = _read_maps(process)
                if maps or process not in self._maps:
                    self._maps[process] = maps
            for one in self._maps[process]:
                if one.start <= address < one.end:
                    return one
        return None

    def _symbols_of(self, process: int, part: Mapping) -> Symbols:
        key = part.file, part.path
        if key not in self._symbols:
            self._symbols[key] = _read_symbols(process, part)
        return self._symbols[key]


def _read_maps(process: int) -> list[Mapping]:
    path = f"/proc/{process}/maps"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return parse_maps(file.read(), path)
    except OSError:
        return []


def _read_symbols(process: int, part: Mapping) -> Symbols:
    try:
        return Symbols.of(open_mapped(process, part))
    except (BpfError, OSError, ObjectFormatError):
        return Symbols(())
