"""Name addresses of the kernel and of processes, and fold stacks for flame graphs."""

from __future__ import annotations

import os
from bisect import bisect_right

from .dataclass import dataclass
from .digits import hexadecimal
from .elf import STT_FUNC, ElfFile
from .errors import BpfError, ObjectFormatError
from .kernel.host import Facts
from .links.binary import debug_file, open_elf
from .wording import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Mapping as Counts

__all__ = ["Mapping", "Symbols", "fold", "open_mapped", "parse_maps"]

# What the kernel puts behind the path of a file that no longer has it.
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Describe a part of a process's memory that has code and a name.

    :param start: first address
    :param end: address after the last
    :param offset: place of its first byte in the file
    :param path: the file, or the kernel's name for it, ``[vdso]``
    :param file: device and inode of the file. A path means another file in another container,
        or once it was replaced
    """

    start: int
    end: int
    offset: int
    path: str
    file: str = ""


def open_mapped(pid: int, part: Mapping) -> ElfFile:
    """Read the file behind a part of a process's memory.

    It may be in another container, and may have been deleted or replaced since. The latter needs
    CAP_CHECKPOINT_RESTORE.

    :raises BpfError: it cannot be opened
    :raises ObjectFormatError: it is not ELF64
    """
    try:
        return open_elf(f"/proc/{pid}/map_files/{part.start:x}-{part.end:x}")
    except BpfError:
        if part.path.endswith(_DELETED):
            raise
    return open_elf(f"/proc/{pid}/root{part.path}")  # as that process sees it


def parse_maps(text: str, file: str = "/proc/PID/maps") -> list[Mapping]:
    """Find the parts with code in the text of ``/proc/PID/maps``, in its order.

    :param file: name of the text, for messages
    :raises ObjectFormatError: a line has another form
    """
    found = []
    at = 0
    for line in text.split("\n"):
        words = line.split(maxsplit=5)
        if len(words) == 6 and "x" in words[1]:
            start, end = map(hexadecimal, words[0].partition("-")[::2])
            offset = hexadecimal(words[2])
            if start is None or end is None or offset is None or start >= end:
                raise ObjectFormatError(f"not a mapping: {line[:80]!r}", file=file, offset=at)
            found.append(Mapping(start, end, offset, words[5], f"{words[3]} {words[4]}"))
        at += len(line) + 1
    return found


class _Functions:
    # Functions of one executable or library, by their place in the file.

    def __init__(self, elf: ElfFile, path: str) -> None:
        found: dict[int, tuple[int, str]] = {}
        tables = [elf.dynamic_symbols, elf.symbols]  # names that other files use come first
        debug = debug_file(elf, path) if not elf.symbols else None
        if debug is not None:
            tables.append(debug.symbols)
        for symbol in (one for table in tables for one in table):
            if symbol.type == STT_FUNC and symbol.shndx:
                offset = elf.file_offset(symbol.value)
                if offset is not None:
                    found.setdefault(offset, (symbol.size, symbol.name.partition("@")[0]))
        self._offsets = sorted(found)
        self._found = found

    def name(self, offset: int) -> str:
        at = bisect_right(self._offsets, offset) - 1
        if at < 0:
            return ""
        size, name = self._found[self._offsets[at]]
        return name if not size or offset < self._offsets[at] + size else ""


class Symbols:
    """Name addresses of the running kernel and of processes. What was read is kept.

    A process that has ended has no names any more, so ask while it lives.

    :param facts: facts of the kernel, to share them
    """

    def __init__(self, facts: Facts | None = None) -> None:
        self._facts = facts if facts is not None else Facts()
        self._memory: dict[int, list[Mapping]] = {}
        self._files: dict[tuple[str, str], _Functions | None] = {}

    def kernel(self, address: int) -> str:
        """Name a kernel function, ``vfs_read`` or ``nf_hook [nf_conntrack]``. Else ``[unknown]``.

        :raises DeniedByPolicy: if kernel addresses are hidden
        """
        found = self._facts.kallsyms.lookup(address)
        if found is None:
            return "[unknown]"
        symbol = found[0]
        return f"{symbol.name} [{symbol.module}]" if symbol.module else symbol.name

    def user(self, pid: int, address: int) -> str:
        """Name a function of a process. ``[libc.so.6]`` if only its file is known."""
        for again in (False, True):
            for part in self._parts(pid, again):
                if part.start <= address < part.end:
                    functions = self._functions(pid, part)
                    name = functions.name(address - part.start + part.offset) if functions else ""
                    return name or f"[{os.path.basename(part.path.removesuffix(_DELETED))}]"
        return "[unknown]"

    def _parts(self, pid: int, again: bool) -> list[Mapping]:
        # `again`: it may have loaded a library since.
        if again or pid not in self._memory:
            self._memory[pid] = _read_maps(pid)
        return self._memory[pid]

    def _functions(self, pid: int, part: Mapping) -> _Functions | None:
        key = part.file, part.path
        if key not in self._files:
            try:
                self._files[key] = _Functions(open_mapped(pid, part), part.path)
            except (BpfError, ObjectFormatError, OSError):
                self._files[key] = None
        return self._files[key]


def _read_maps(pid: int) -> list[Mapping]:
    path = f"/proc/{pid}/maps"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            parts = parse_maps(file.read(), path)
    except OSError:
        return []  # the process has ended
    return [part for part in parts if part.path.startswith("/")]


def fold(stacks: Counts[Sequence[str], int] | Iterable[tuple[Sequence[str], int]]) -> list[str]:
    """Write stacks in the form that flame graph tools read: ``main;f;g 12``, largest count first.

    :param stacks: count by stack; each stack has the innermost function first, as from the kernel
    """
    pairs = stacks.items() if hasattr(stacks, "items") else stacks
    counts: dict[str, int] = {}
    for names, count in pairs:
        line = ";".join(plain(name).replace(";", ":") for name in reversed(list(names)))
        counts[line] = counts.get(line, 0) + count
    return [
        f"{line} {count}" for line, count in sorted(counts.items(), key=lambda p: (-p[1], p[0]))
    ]
