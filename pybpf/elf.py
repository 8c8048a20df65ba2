"""ELF64 object files as clang's BPF target writes them: bytes in, records out.

By default only little-endian ET_REL files for EM_BPF are read. A caller may allow any other
little-endian file, e.g. a vmlinux for its BTF, or an executable or library for its symbols.
Opening checks every header against the length of the file, so later code may slice
without checking again. Contents are returned as views and never copied.
Debug sections and their relocations are most of a typical object and are not
read. Symbols are decoded when they are first needed.

Source of the layouts: elf(5), include/uapi/linux/elf.h.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from functools import cached_property

from .errors import ObjectFormatError
from .namedtuple import NamedTuple
from .wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap

__all__ = [
    "EM_BPF",
    "SHF_EXECINSTR",
    "SHN_LORESERVE",
    "SHN_UNDEF",
    "SHT_NOBITS",
    "SHT_NULL",
    "SHT_PROGBITS",
    "SHT_REL",
    "SHT_STRTAB",
    "SHT_SYMTAB",
    "STB_GLOBAL",
    "STB_LOCAL",
    "STB_WEAK",
    "STT_FUNC",
    "STT_GNU_IFUNC",
    "STT_NOTYPE",
    "STT_OBJECT",
    "STT_SECTION",
    "STV_HIDDEN",
    "STV_INTERNAL",
    "ElfFile",
    "Rel",
    "Section",
    "Symbol",
]

EM_BPF = 247
_ET_REL = 1

SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB = 0, 1, 2, 3
SHT_NOBITS, SHT_REL = 8, 9
SHT_DYNSYM = 11
SHT_GNU_VERDEF, SHT_GNU_VERSYM = 0x6FFFFFFD, 0x6FFFFFFF
PT_LOAD = 1
SHF_EXECINSTR = 4

SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00  # from here on a symbol's section index is a special value

STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION = 0, 1, 2, 3
STT_GNU_IFUNC = 10  # a function that returns the address of the function to call
STV_DEFAULT, STV_INTERNAL, STV_HIDDEN = 0, 1, 2

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_REL = struct.Struct("<QII")  # r_info is symbol << 32 | type
_PHDR = struct.Struct("<IIQQQQQQ")
_VERDEF = struct.Struct("<HHHHIII")  # version, flags, index, count, hash, aux, next
_VERSYM_HIDDEN = 1 << 15  # a name without a version does not mean this one

# Names of things that are not sections, for error messages.
_HEADER = "ELF header"
_TABLE = "ELF section headers"

# Longest section name; the names of uprobe sections contain a path.
_MAX_NAME = 2048
# Most characters of all names of a table together, for each byte of its strings, and some more.
# Names may share strings, but a forged table could have its whole strings again and again.
_PER_BYTE, _SOME = 16, 1 << 20


class Section(NamedTuple):
    """``Elf64_Shdr``. ``offset`` and ``size`` in bytes of the file, ``addr`` where it is loaded."""

    idx: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    entsize: int
    addr: int


class Symbol(NamedTuple):
    """``Elf64_Sym``. ``value`` and ``size`` in bytes of the section ``shndx``."""

    name: str
    value: int
    size: int
    bind: int
    type: int
    visibility: int
    shndx: int


class Rel(NamedTuple):
    """``Elf64_Rel``: relocation ``type`` to a symbol, at byte ``offset`` of the section."""

    offset: int
    type: int
    symbol: int


class ElfFile:
    """Read a BPF object file.

    :param data: the whole file
    :param name: file name, for messages
    :param any_machine: accept ELF64 files of any type for any machine
    :raises ObjectFormatError: the file is not an ELF64 little-endian relocatable BPF
        object, or a header points outside the file. ``.section`` names the
        part of the file, ``.offset`` is in bytes of that part.
    """

    def __init__(
        self,
        data: bytes | bytearray | memoryview | mmap,
        name: str = "",
        *,
        any_machine: bool = False,
    ) -> None:
        self.name = name
        # A mapped file is not copied: its slices are bytes too.
        self.data = bytes(data) if isinstance(data, (bytearray, memoryview)) else data
        self._view = memoryview(self.data)
        shoff, count, names_at = self._read_header(any_machine)
        self.sections = self._read_sections(shoff, count, names_at)

    def error(self, what: str, section: str, offset: int) -> ObjectFormatError:
        """Make an error about this file. `offset` is in bytes of the section."""
        return ObjectFormatError(
            what, file=self.name, section=section or "<nameless>", offset=offset
        )

    def _read_header(self, any_machine: bool) -> tuple[int, int, int]:
        """Return (offset of the section headers, their number, index of their names)."""
        data = self.data
        if len(data) < _EHDR.size:
            what = f"{many(len(data), 'byte')} cannot hold an ELF header"
            raise self.error(what, _HEADER, len(data))
        (ident, kind, machine, _, _, _, shoff, _, ehsize, _, _, shentsize, shnum, shstrndx) = (
            _EHDR.unpack_from(data)
        )
        if ident[:4] != b"\x7fELF":
            raise self.error("not an ELF file", _HEADER, 0)
        if ident[4] != 2:
            raise self.error("not a 64-bit ELF file", _HEADER, 4)
        if ident[5] != 1:
            what = "big-endian object" if ident[5] == 2 else f"unknown byte order {ident[5]}"
            raise self.error(f"{what}; only little-endian BPF objects are read", _HEADER, 5)
        if ident[6] != 1:
            raise self.error(f"unknown ELF version {ident[6]}", _HEADER, 6)
        if kind != _ET_REL and not any_machine:
            raise self.error(f"not a relocatable object (e_type {kind})", _HEADER, 16)
        if machine != EM_BPF and not any_machine:
            raise self.error(f"not a BPF object (e_machine {machine})", _HEADER, 18)
        if ehsize != _EHDR.size:
            raise self.error(f"ELF header says it has {many(ehsize, 'byte')}", _HEADER, 52)
        if shentsize != _SHDR.size:
            raise self.error(f"section headers of {many(shentsize, 'byte')} each", _HEADER, 58)
        if not shoff or shoff + _SHDR.size > len(data):
            raise self.error(f"section headers at {shoff:#x}, outside the file", _HEADER, 40)
        if not shnum or shstrndx == 0xFFFF:
            # Values that do not fit in the header's 16 bits are in section header 0.
            first = _SHDR.unpack_from(data, shoff)
            shnum = shnum or first[5]
            shstrndx = first[6] if shstrndx == 0xFFFF else shstrndx
        if shnum > (len(data) - shoff) // _SHDR.size:
            raise self.error(
                f"{shnum} section headers at {shoff:#x} end outside the file", _HEADER, 60
            )
        if not 0 < shstrndx < shnum:
            raise self.error(f"section names in section {shstrndx} of {shnum}", _HEADER, 62)
        return shoff, shnum, shstrndx

    def _read_sections(self, shoff: int, count: int, names_at: int) -> list[Section]:
        data, size = self.data, len(self.data)
        headers = list(_SHDR.iter_unpack(data[shoff : shoff + count * _SHDR.size]))
        _, kind, _, _, start, length, _, _, _, _ = headers[names_at]
        if kind != SHT_STRTAB or start + length > size:
            raise self.error("no section names", _TABLE, names_at * _SHDR.size)
        text, name_of = _strings(data, start, length)
        find, new = text.find, tuple.__new__  # takes a third of the time of Section(...)
        left = _SOME + _PER_BYTE * len(text)
        sections: list[Section] = []
        for header in headers:
            name_at, kind, flags, addr, offset, length, link, info, _, entsize = header
            stop = find("\0", name_at, name_at + _MAX_NAME)
            if stop < 0:
                raise self.error(
                    f"name of section {len(sections)} is outside the names",
                    _TABLE,
                    len(sections) * _SHDR.size,
                )
            name = text[name_at:stop] if name_of is None else name_of(text[name_at:stop])
            left -= stop - name_at
            if left < 0:
                raise self.error("the names of sections are too long", _TABLE, 0)
            if offset + length > size and kind != SHT_NOBITS and kind != SHT_NULL:
                raise self.error(
                    f"section {name!r} of {many(length, 'byte')} at {offset:#x} ends outside "
                    f"the file of {size} bytes",
                    _TABLE,
                    len(sections) * _SHDR.size,
                )
            row = len(sections), name, kind, flags, offset, length, link, info, entsize, addr
            sections.append(new(Section, row))
        return sections

    def find(self, name: str) -> Section | None:
        """Return the first section with a name, or None."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Section]:
        return {section.name: section for section in reversed(self.sections)}

    def contents(self, section: Section) -> memoryview:
        """Return a section's bytes. They are empty for SHT_NOBITS."""
        if section.type in (SHT_NOBITS, SHT_NULL):
            return memoryview(b"")
        return self._view[section.offset : section.offset + section.size]

    @property
    def machine(self) -> int:
        """Return ``e_machine``."""
        return int(_EHDR.unpack_from(self.data)[2])

    @cached_property
    def symbol_section(self) -> Section | None:
        """Return the symbol table. A file has at most one."""
        tables = [section for section in self.sections if section.type == SHT_SYMTAB]
        if len(tables) > 1:
            raise self.error("a second symbol table", tables[1].name, 0)
        return tables[0] if tables else None

    @cached_property
    def symbols(self) -> list[Symbol]:
        """Return all symbols, including the null symbol at index 0. Relocations use these
        indexes."""
        table = self.symbol_section
        return self._read_symbols(table) if table is not None else []

    @cached_property
    def dynamic_symbols(self) -> list[Symbol]:
        """Return the symbols for the dynamic linker (.dynsym), which a stripped library keeps.

        A symbol with a version is called ``NAME@VERSION``, or ``NAME@@VERSION`` if
        the name alone means that version.
        """
        table = next((s for s in self.sections if s.type == SHT_DYNSYM), None)
        if table is None:
            return []
        symbols = self._read_symbols(table)
        section = next((s for s in self.sections if s.type == SHT_GNU_VERSYM), None)
        names = self._version_names()
        if section is None or section.size != 2 * len(symbols) or not names:
            return symbols
        found = []
        for symbol, (version,) in zip(
            symbols, struct.iter_unpack("<H", self.contents(section)), strict=True
        ):
            name = names.get(version & ~_VERSYM_HIDDEN)
            if name and symbol.shndx != SHN_UNDEF:
                at = "@" if version & _VERSYM_HIDDEN else "@@"
                symbol = symbol._replace(name=f"{symbol.name}{at}{name}")
            found.append(symbol)
        return found

    def _version_names(self) -> dict[int, str]:
        # Names of the versions that this library defines, by index. 0 and 1 mean no version.
        section = next((s for s in self.sections if s.type == SHT_GNU_VERDEF), None)
        if section is None or not 0 < section.link < len(self.sections):
            return {}
        strings = self.sections[section.link]
        text, _ = _strings(self.data, strings.offset, strings.size)
        data = self.contents(section)
        names: dict[int, str] = {}
        at = 0
        for _ in range(section.info):
            if at + _VERDEF.size > len(data):
                raise self.error("a version definition is outside", section.name, at)
            _, flags, index, _, _, aux, step = _VERDEF.unpack_from(data, at)
            if at + aux + 8 > len(data):
                raise self.error("the name of a version is outside", section.name, at + aux)
            (name_at,) = struct.unpack_from("<I", data, at + aux)
            if not flags & 1:  # VER_FLG_BASE: the library itself
                end = text.find("\0", name_at, name_at + _MAX_NAME)
                if end < 0:
                    raise self.error("the name of a version is outside", section.name, at + aux)
                names[index] = text[name_at:end]
            if not step:
                break
            at += step
        return names

    def file_offset(self, address: int) -> int | None:
        """Return the file offset of the byte that is loaded at a virtual address, or None.

        :param address: address as in the symbols of executables and shared libraries
        :raises ObjectFormatError: if the program headers are outside the file
        """
        starts, loaded = self._loaded
        at = bisect_right(starts, address) - 1
        if at < 0:
            return None
        start, length, offset = loaded[at]
        return offset + address - start if address < start + length else None

    @cached_property
    def _loaded(self) -> tuple[list[int], list[tuple[int, int, int]]]:
        # Where each loaded part starts, ascending; and (start, bytes, place in the file) of it.
        # They do not overlap, or the file could not be loaded.
        (_, _, _, _, _, phoff, _, _, _, phentsize, phnum, _, _, _) = _EHDR.unpack_from(self.data)
        if phnum and (phentsize != _PHDR.size or phoff + phnum * _PHDR.size > len(self.data)):
            raise self.error(
                f"{phnum} program headers at {phoff:#x}, outside the file", _HEADER, 32
            )
        rows = _PHDR.iter_unpack(self.data[phoff : phoff + phnum * _PHDR.size])
        loaded = sorted((row[3], row[5], row[2]) for row in rows if row[0] == PT_LOAD and row[5])
        return [start for start, _, _ in loaded], loaded

    def _read_symbols(self, table: Section) -> list[Symbol]:
        if table.entsize != _SYM.size:
            raise self.error(f"symbols of {many(table.entsize, 'byte')} each", table.name, 0)
        if table.size % _SYM.size:
            raise self.error("not a whole number of symbols", table.name, table.size)
        if not 0 < table.link < len(self.sections):
            raise self.error(f"symbol names in section {table.link}", table.name, 0)
        strings = self.sections[table.link]
        if strings.type != SHT_STRTAB:
            raise self.error(f"symbol names in section {strings.name!r}", table.name, 0)
        text, name_of = _strings(self.data, strings.offset, strings.size)
        find, new = text.find, tuple.__new__
        left = _SOME + _PER_BYTE * len(text)
        symbols: list[Symbol] = []
        add = symbols.append
        for name_at, info, other, shndx, value, size in _SYM.iter_unpack(self.contents(table)):
            name = ""
            if name_at:
                stop = find("\0", name_at, name_at + _MAX_NAME)
                if stop < 0:
                    raise self.error(
                        f"name of symbol {len(symbols)} is outside the names",
                        table.name,
                        len(symbols) * _SYM.size,
                    )
                name = text[name_at:stop] if name_of is None else name_of(text[name_at:stop])
                left -= stop - name_at
                if left < 0:
                    raise self.error("the names of symbols are too long", table.name, 0)
            add(new(Symbol, (name, value, size, info >> 4, info & 15, other & 3, shndx)))
        return symbols

    def relocations(self, section: Section) -> list[Rel]:
        """Return the entries of an SHT_REL section, in file order.

        :raises ObjectFormatError: entries of another size
        """
        return list(map(Rel._make, self.relocation_rows(section)))

    def relocation_rows(self, section: Section) -> list[tuple[int, int, int]]:
        """Return the same as plain tuples (offset, type, symbol), in a third of the time."""
        if section.entsize != _REL.size or section.size % _REL.size:
            raise self.error("not a whole number of relocations", section.name, section.size)
        return list(_REL.iter_unpack(self.contents(section)))


def _strings(
    data: bytes | mmap, start: int, length: int
) -> tuple[str, Callable[[str], str] | None]:
    """Return a string table as text with one character per byte, and a decoder if one is needed."""
    text = data[start : start + length].decode("latin-1")
    return text, None if text.isascii() else _utf8


def _utf8(latin1: str) -> str:
    return latin1.encode("latin-1").decode("utf-8", "backslashreplace")
