"""Name addresses of the kernel and of processes, and fold stacks for flame graphs.

An address of a process is named in two steps: ``/proc/PID/maps`` gives the file that has its code,
and the file's symbol tables give the function. Both are kept. A process that ended may be asked
about still, if it was asked about before. An id may come again as another process, and exec gives a
process another program. Three numbers of ``/proc/PID/stat`` tell: when it started, and where its
code and its stack start. Files are known by device and inode, because one path can mean several.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right

from .dataclass import dataclass
from .digits import hexadecimal
from .elf import SHN_UNDEF, STT_FUNC, STT_GNU_IFUNC, ElfFile
from .errors import BpfError, ObjectFormatError
from .kernel.host import Facts
from .links.binary import debug_file, open_elf
from .namedtuple import NamedTuple
from .wording import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Mapping as Counts
    from typing import TypeVar

    K = TypeVar("K")
    V = TypeVar("V")

__all__ = ["Mapping", "Place", "Symbols", "fold", "open_mapped", "parse_maps"]

# What the kernel puts behind the path of a file that no longer has it.
_DELETED = " (deleted)"
# Most processes and files that are kept. The one that was read first goes first.
_PROCESSES, _FILES = 1024, 512
# What in /proc/PID/stat tells two programs apart, and changes with the memory's layout, counted
# from the field behind the name: starttime, startcode, startstack; vsize (proc_pid_stat(5)).
_PROGRAM, _SIZE = (19, 23, 25), 20
# Seconds in which a process is not looked at again. A stack is older than that when it is named.
_FRESH = 0.01
# Seconds after which an address that is in no mapping makes the maps be read again.
_STALE = 0.5


@dataclass(frozen=True, slots=True)
class Mapping:
    """Describe a part of a process's memory that has code.

    :param start: first address
    :param end: address after the last
    :param offset: place of its first byte in the file
    :param path: the file, or the kernel's name for it, ``[vdso]``; "" if it has none, as the code
        that a JIT wrote
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
        if len(words) > 4 and "x" in words[1]:
            start, end = map(hexadecimal, words[0].partition("-")[::2])
            offset = hexadecimal(words[2])
            if start is None or end is None or offset is None or start >= end:
                raise ObjectFormatError(f"not a mapping: {line[:80]!r}", file=file, offset=at)
            path = words[5] if len(words) > 5 else ""
            found.append(Mapping(start, end, offset, path, f"{words[3]} {words[4]}"))
        at += len(line) + 1
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Describe where an address of a process is.

    :param path: the file, as the process sees it, or the kernel's name for it, ``[vdso]``
    :param offset: place in the file, in bytes
    :param function: the function there, "" if it is not known
    :param distance: bytes from the function's start; 0 if it is not known
    """

    path: str
    offset: int
    function: str = ""
    distance: int = 0


class _Functions:
    # Functions of one executable or library, by their place in the file.

    def __init__(self, elf: ElfFile, path: str) -> None:
        found: dict[int, tuple[int, str]] = {}
        tables = [elf.dynamic_symbols, elf.symbols]  # names that other files use come first
        debug = debug_file(elf, path) if not elf.symbols else None
        if debug is not None:
            tables.append(debug.symbols)
        for symbol in (one for table in tables for one in table):
            if symbol.type in (STT_FUNC, STT_GNU_IFUNC) and symbol.shndx != SHN_UNDEF:
                offset = elf.file_offset(symbol.value)
                if offset is not None:
                    found.setdefault(offset, (symbol.size, symbol.name.partition("@")[0]))
        self._offsets = sorted(found)
        self._found = found

    def at(self, offset: int) -> tuple[str, int]:
        # Name, and bytes from its start.
        at = bisect_right(self._offsets, offset) - 1
        if at >= 0:
            start = self._offsets[at]
            size, name = self._found[start]
            if not size or offset < start + size:
                return name, offset - start
        return "", 0


class _Moment(NamedTuple):
    # A process at one time: which program it runs, and how much memory it has mapped.
    program: tuple[bytes, ...]
    size: bytes

    @classmethod
    def of(cls, pid: int) -> _Moment | None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()  # the name may have anything
        except OSError:
            return None  # it has ended
        if fields[_SIZE] == b"0":
            return None  # it has ended and nobody asked for its status
        return cls(tuple([fields[at] for at in _PROGRAM]), fields[_SIZE])


class _Process:
    # What is known of one process, as long as it runs one program.

    def __init__(self, pid: int, now: _Moment) -> None:
        self.read = now
        self.looked = self.read_at = time.monotonic()
        self.parts = _read_maps(pid)
        self.unreadable: set[tuple[str, str]] = set()  # files

    def read_again(self, pid: int) -> None:
        # Memory may be mapped in place of other memory of the same size, so the size alone does
        # not tell for long.
        now, late = _Moment.of(pid), time.monotonic() - self.read_at > _STALE
        if now is not None and (late or now != self.read):
            self.read, self.parts = now, _read_maps(pid) or self.parts
            self.read_at = time.monotonic()

    def part(self, address: int) -> Mapping | None:
        for part in self.parts:
            if part.start <= address < part.end:
                return part
        return None


class Symbols:
    """Name addresses of the running kernel and of processes. What was read is kept.

    A process that has ended has no names any more, unless it was asked about while it lived.

    :param facts: facts of the kernel, to share them
    """

    def __init__(self, facts: Facts | None = None) -> None:
        self._facts = facts if facts is not None else Facts()
        self._processes: dict[int, _Process] = {}
        self._files: dict[tuple[str, str], _Functions] = {}

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
        """Name a function of a process. ``[libc.so.6]`` if only its file is known.

        ``[unknown]`` if not even that is.
        """
        place = self.place(pid, address)
        if place is None:
            return "[unknown]"
        name = os.path.basename(place.path.removesuffix(_DELETED))
        return place.function or (name if name.startswith("[") else f"[{name}]")

    def place(self, pid: int, address: int) -> Place | None:
        """Find the file and the function that an address of a process is in.

        :returns: None if the address is in no file, or the process cannot be read
        """
        process = self._process(pid)
        if process is None:
            return None
        part = process.part(address)
        if part is None:
            process.read_again(pid)  # it may have loaded a library since
            part = process.part(address)
        if part is None or not part.path:
            return None
        offset = address - part.start + part.offset
        functions = self._functions(pid, process, part)
        return Place(part.path, offset, *(functions.at(offset) if functions else ()))

    def _process(self, pid: int) -> _Process | None:
        known = self._processes.get(pid)
        if known is not None and time.monotonic() - known.looked < _FRESH:
            return known
        now = _Moment.of(pid)
        if known is not None and (now is None or known.read.program == now.program):
            known.looked = time.monotonic()
            return known
        if now is None:
            return None
        process = _Process(pid, now)
        _keep(self._processes, pid, process, _PROCESSES)
        return process

    def _functions(self, pid: int, process: _Process, part: Mapping) -> _Functions | None:
        key = part.file, part.path
        if key in self._files:
            return self._files[key]
        if key in process.unreadable or not part.path.startswith("/"):
            return None
        try:
            functions = _Functions(open_mapped(pid, part), part.path)
        except (BpfError, ObjectFormatError, OSError):
            process.unreadable.add(key)  # another process may still have it
            return None
        _keep(self._files, key, functions, _FILES)
        return functions


def _keep(table: dict[K, V], key: K, value: V, most: int) -> None:
    table.pop(key, None)
    if len(table) >= most:
        del table[next(iter(table))]
    table[key] = value


def _read_maps(pid: int) -> list[Mapping]:
    path = f"/proc/{pid}/maps"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return parse_maps(file.read(), path)
    except OSError:
        return []  # the process has ended


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
