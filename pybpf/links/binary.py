"""Find executables and libraries by name, and places in them by symbol.

Distributions strip binaries and keep the symbols in separate debug files, which
``.note.gnu.build-id`` or ``.gnu_debuglink`` name. If the binary lacks a symbol, its debug file is
searched. Addresses are the same in both, but only the binary says where they are in the file.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from ..dataclass import dataclass
from ..digits import number
from ..elf import SHN_UNDEF, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, ElfFile, Symbol
from ..errors import BpfError, ObjectFormatError
from .link import near

__all__ = ["Place", "debug_file", "find_binary", "find_place", "find_places", "open_elf"]

#: Where distributions put separate debug files.
DEBUG_FOLDER = "/usr/lib/debug"
_NOTE_HEADER = 16  # bytes before the build id in its note: the sizes, the type and "GNU"

# Where the dynamic linker and shells look besides LD_LIBRARY_PATH and PATH; the same as libbpf.
_LIBRARY_DIRS = (
    "/usr/lib64",
    "/usr/lib",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
)
_PROGRAM_DIRS = ("/usr/bin", "/usr/sbin")


@dataclass(frozen=True, slots=True)
class Place:
    """Describe a place in a file that code is loaded from.

    :param path: of the executable or library
    :param offset: bytes from the start of the file
    :param inside: bytes from the start of the function, 0 if it was not given by symbol
    """

    path: str
    offset: int
    inside: int = 0


def find_binary(name: str | os.PathLike[str]) -> str:
    """Find an executable or library by its usual name.

    A name with a slash is a path, and so is each `os.PathLike`. Other names are searched as in
    libbpf: ``libc.so.6`` in LD_LIBRARY_PATH and the system's library directories, ``bash`` in
    PATH, /usr/bin and /usr/sbin.

    :raises BpfError: ENOENT if it does not exist, with near names
    """
    if not isinstance(name, str):
        return os.path.join(os.curdir, name)
    if "/" in name:
        return name
    library = name.endswith(".so") or ".so." in name
    variable = os.environ.get("LD_LIBRARY_PATH" if library else "PATH", "")
    places = [*variable.split(":"), *(_LIBRARY_DIRS if library else _PROGRAM_DIRS)]
    folders = list(dict.fromkeys(filter(None, places)))
    for folder in folders:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.R_OK if library else os.R_OK | os.X_OK):
            return path
    what = "library" if library else "program"
    hint = near(name, _files(folders)) or f"looked in {', '.join(folders)}"
    raise BpfError(errno.ENOENT, f"{what} {name!r}", hint)


def _files(folders: Iterable[str]) -> list[str]:
    names: dict[str, None] = {}
    for folder in folders:
        try:
            names |= dict.fromkeys(os.listdir(folder))
        except OSError:
            continue
    return list(names)


def find_place(binary: str | os.PathLike[str], symbol_or_offset: str | int) -> Place:
    """Find a place in an executable or library.

    :param binary: as `find_binary` takes it
    :param symbol_or_offset: a function, ``malloc``, perhaps with a version, ``memcpy@GLIBC_2.14``,
        or with bytes from its start, ``malloc+0x10``; or bytes from the start of the file.
        Symbols are searched in .symtab, in .dynsym and in the separate debug file, if any
    :raises BpfError: ENOENT if the file or function does not exist, with near names; EINVAL if
        several functions have that name
    :raises ObjectFormatError: if the file is not ELF64
    """
    path = find_binary(binary)
    data = _mapped(path)
    if isinstance(symbol_or_offset, int):
        if not 0 <= symbol_or_offset < len(data):
            hint = f"the file has {len(data):#x} bytes"
            raise BpfError(errno.EINVAL, f"offset {symbol_or_offset:#x} of {path!r}", hint)
        return Place(path, symbol_or_offset)
    name, inside = _split(symbol_or_offset)
    elf = ElfFile(data, path, any_machine=True)
    try:
        symbol = _function(elf, name, path)
    except BpfError as error:
        debug = debug_file(elf, path) if error.errno == errno.ENOENT else None
        if debug is None:
            raise
        symbol = _function(debug, name, path)
    offset = elf.file_offset(symbol.value)
    if offset is None:
        hint = "no segment of the file is loaded there"
        raise BpfError(errno.ENOENT, f"function {name!r} of {path!r}", hint)
    if inside and symbol.size and inside >= symbol.size:
        hint = f"the function has {symbol.size:#x} bytes"
        raise BpfError(errno.EINVAL, f"{name}+{inside:#x} of {path!r}", hint)
    return Place(path, offset + inside, inside)


def find_places(
    binary: str | os.PathLike[str], symbols: str | Sequence[str]
) -> list[tuple[str, Place]]:
    """Find the functions of an executable or library that match a glob or names.

    :param symbols: a glob (``*alloc``), which is compared with names without their versions; or
        names as `find_place` takes them
    :returns: (name, place), sorted by place; functions that share a place are given once. A glob
        leaves out functions that the dynamic linker chooses at run time (IFUNC)
    :raises BpfError: ENOENT if nothing matches, with near names
    """
    if not isinstance(symbols, str):
        return [(symbol, find_place(binary, symbol)) for symbol in symbols]
    path = find_binary(binary)
    elf = ElfFile(_mapped(path), path, any_machine=True)
    found: dict[int, str] = {}
    names: list[str] = []
    for symbol in (*elf.symbols, *elf.dynamic_symbols):
        if not _is_function(symbol):
            continue
        name = symbol.name.partition("@")[0]
        names.append(name)
        if symbol.type != STT_GNU_IFUNC and fnmatchcase(name, symbols):
            offset = elf.file_offset(symbol.value)
            if offset is not None:
                found.setdefault(offset, name)
    if not found:
        hint = near(symbols.strip("*?"), names)
        raise BpfError(errno.ENOENT, f"functions {symbols!r} of {path!r}", hint)
    return [(name, Place(path, offset)) for offset, name in sorted(found.items())]


def open_elf(path: str) -> ElfFile:
    """Read an executable or library by mapping it, without a copy.

    :raises BpfError: if it cannot be opened, with near names
    :raises ObjectFormatError: if the file is not ELF64
    """
    return ElfFile(_mapped(path), path, any_machine=True)


def debug_file(elf: ElfFile, path: str, folder: str = "") -> ElfFile | None:
    """Find the separate debug file of a binary. Return None if it has none.

    The build id is searched first, in ``FOLDER/.build-id``. Then the name in ``.gnu_debuglink`` is
    searched: beside the binary, in ``.debug`` beside it, and below `folder`. A file of another
    build is passed over: its addresses are of other code.
    """
    for name in _debug_names(elf, path, folder or DEBUG_FOLDER):
        if os.path.isfile(name) and not _same_file(name, path):
            try:
                found = open_elf(name)
                if _is_of_the_same_build(elf, found):
                    return found
            except (OSError, ObjectFormatError):
                continue
    return None


def _is_of_the_same_build(elf: ElfFile, debug: ElfFile) -> bool:
    # By the build id, or by the checksum of the whole file in .gnu_debuglink.
    ours, theirs = _build_id(elf), _build_id(debug)
    if ours or theirs:
        return ours == theirs
    link = elf.find(".gnu_debuglink")
    if link is None:
        return False
    import zlib  # only for files without a build id

    checksum = int.from_bytes(bytes(elf.contents(link)[-4:]), "little")
    return zlib.crc32(debug.data) == checksum


def _build_id(elf: ElfFile) -> bytes:
    note = elf.find(".note.gnu.build-id")
    return bytes(elf.contents(note)[_NOTE_HEADER:]) if note is not None else b""


def _debug_names(elf: ElfFile, path: str, folder: str) -> Iterator[str]:
    number = _build_id(elf).hex()
    if number:
        yield f"{folder}/.build-id/{number[:2]}/{number[2:]}.debug"
    link = elf.find(".gnu_debuglink")
    if link is not None:
        name = os.fsdecode(bytes(elf.contents(link)).partition(b"\0")[0])
        beside = os.path.dirname(os.path.realpath(path))
        if name and "/" not in name:
            yield from (f"{beside}/{name}", f"{beside}/.debug/{name}", f"{folder}{beside}/{name}")


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _mapped(path: str) -> mmap.mmap | bytes:
    # Not closed here: the mapping ends with the last view of it.
    what = f"opening {path!r}"
    try:
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BpfError(errno.EINVAL, what, "it is not a regular file")
            if not os.fstat(file.fileno()).st_size:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except BpfError:
        raise
    except OSError as error:
        hint = ""
        if error.errno == errno.ENOENT:
            hint = near(os.path.basename(path), _files([os.path.dirname(path) or "."]))
        raise BpfError(error.errno or errno.EIO, what, hint) from None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO would wait for its writer


def _split(symbol: str) -> tuple[str, int]:
    # "malloc+0x10" -> ("malloc", 16). Names may contain a plus ("operator+").
    name, plus, inside = symbol.rpartition("+")
    if plus and name:
        offset = number(inside)
        if offset is not None:
            return name, offset
    return symbol, 0


def _function(elf: ElfFile, name: str, path: str) -> Symbol:
    what = f"function {name!r} of {path!r}"
    for symbols in (elf.symbols, elf.dynamic_symbols):
        found = [s for s in symbols if _is_function(s) and _is_called(s.name, name)]
        if found:
            return _only(found, what)
    known = [s.name for t in (elf.symbols, elf.dynamic_symbols) for s in t if _is_function(s)]
    versions = [one for one in known if one.startswith(f"{name}@")]
    plain = (one.partition("@")[0] for one in known)
    hint = f"it has versions: {', '.join(versions)}" if versions else near(name, plain)
    if not known:
        hint = "the file has no symbols of functions: give an offset"
    raise BpfError(errno.ENOENT, what, hint)


def _is_function(symbol: Symbol) -> bool:
    return symbol.type in (STT_FUNC, STT_GNU_IFUNC) and symbol.shndx != SHN_UNDEF


def _is_called(name: str, wanted: str) -> bool:
    # "f" means "f" or its default version. "f@V" means that version, default or not.
    base, at, version = name.partition("@")
    default = version.startswith("@")
    if "@" not in wanted:
        return base == wanted and (not at or default)
    return name == wanted or f"{base}@{version.lstrip('@')}" == wanted


def _only(found: list[Symbol], what: str) -> Symbol:
    # Static functions of several source files may share a name. A global function wins.
    visible = [symbol for symbol in found if symbol.bind != STB_LOCAL] or found
    places = {symbol.value: symbol for symbol in visible}
    if len(places) > 1:
        hint = f"{len(places)} functions have this name: give the offset in the file"
        raise BpfError(errno.EINVAL, what, hint)
    symbol = visible[0]
    if symbol.type == STT_GNU_IFUNC:
        hint = "the dynamic linker chooses its code among several (IFUNC): give the one you mean"
        raise BpfError(errno.EINVAL, what, hint)
    return symbol
