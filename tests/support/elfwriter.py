"""Write small ELF64 objects in a test, so that the test shows the bytes it is about."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

__all__ = ["ElfWriter", "code", "replace_name", "section_header"]

PROGBITS, SYMTAB, STRTAB, NOBITS, REL = 1, 2, 3, 8, 9
EXEC = 4


@dataclass
class _Section:
    name: str
    data: bytes
    type: int
    flags: int = 0
    link: int = 0
    info: int = 0
    entsize: int = 0
    size: int | None = None


def code(*insns: tuple[int, int, int, int]) -> bytes:
    """Make instructions from (code, src << 4 | dst, off, imm)."""
    return b"".join(struct.pack("<BBhi", *insn) for insn in insns)


@dataclass
class ElfWriter:
    """Collect sections and symbols in order. Index 0 of both is the null entry."""

    machine: int = 247
    type: int = 1
    sections: list[_Section] = field(default_factory=lambda: [_Section("", b"", 0)])
    symbols: list[bytes] = field(default_factory=lambda: [bytes(24)])
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    with_symbols: bool = True

    def section(
        self,
        name: str,
        data: bytes = b"",
        *,
        type: int = PROGBITS,
        flags: int = 0,
        info: int = 0,
        entsize: int = 0,
        size: int | None = None,
    ) -> int:
        """Add a section and return its index."""
        self.sections.append(_Section(name, data, type, flags, 0, info, entsize, size))
        return len(self.sections) - 1

    def text(self, name: str, data: bytes) -> int:
        """Add an executable section."""
        return self.section(name, data, flags=EXEC | 2)

    def symbol(
        self,
        name: str,
        section: int,
        value: int = 0,
        size: int = 0,
        *,
        bind: int = 1,
        type: int = 0,
        visibility: int = 0,
    ) -> int:
        """Add a symbol and return its index."""
        at = len(self.strings) if name else 0
        if name:
            self.strings += name.encode() + b"\0"
        self.symbols.append(
            struct.pack("<IBBHQQ", at, bind << 4 | type, visibility, section, value, size)
        )
        return len(self.symbols) - 1

    def function(self, name: str, section: int, data: bytes, start: int = 0, bind: int = 1) -> int:
        """Add a function symbol over `data`, `start` bytes into the section."""
        return self.symbol(name, section, start, len(data), bind=bind, type=2)

    def relocations(self, target: int, *rels: tuple[int, int, int]) -> int:
        """Add relocations (offset, type, symbol index) of a section."""
        data = b"".join(struct.pack("<QQ", at, symbol << 32 | kind) for at, kind, symbol in rels)
        name = ".rel" + self.sections[target].name
        return self.section(name, data, type=REL, info=target, entsize=16)

    def build(self) -> bytes:
        """Return the file: header, contents, section headers."""
        sections = list(self.sections)
        if self.with_symbols:
            sections.append(_Section(".symtab", b"".join(self.symbols), SYMTAB, entsize=24))
            sections[-1].link = len(sections)
            sections.append(_Section(".strtab", bytes(self.strings), STRTAB))
        names = bytearray(b"\0")
        offsets = []
        for section in [*sections, _Section(".shstrtab", b"", STRTAB)]:
            offsets.append(len(names) if section.name else 0)
            names += section.name.encode() + b"\0" if section.name else b""
        sections.append(_Section(".shstrtab", bytes(names), STRTAB))
        out = bytearray(64)
        headers = []
        for section, name in zip(sections, offsets, strict=True):
            out += bytes(-len(out) % 8)
            size = len(section.data) if section.size is None else section.size
            at = len(out) if section.type else 0
            headers.append(
                struct.pack(
                    "<IIQQQQIIQQ",
                    name,
                    section.type,
                    section.flags,
                    0,
                    at,
                    size,
                    section.link,
                    section.info,
                    8,
                    section.entsize,
                )
            )
            out += section.data if section.type != NOBITS else b""
        out += bytes(-len(out) % 8)
        out[:64] = struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01" + bytes(9),
            self.type,
            self.machine,
            1,
            0,
            0,
            len(out),
            0,
            64,
            0,
            0,
            64,
            len(headers),
            len(headers) - 1,
        )
        return bytes(out) + b"".join(headers)


def section_header(data: bytes, name: str) -> int:
    """Return the file offset of a section's header."""
    (shoff,) = struct.unpack_from("<Q", data, 40)
    count, names = struct.unpack_from("<HH", data, 60)
    (strings,) = struct.unpack_from("<Q", data, shoff + names * 64 + 24)
    for index in range(count):
        at = shoff + index * 64
        (name_at,) = struct.unpack_from("<I", data, at)
        start = strings + name_at
        if data[start : data.index(0, start)] == name.encode():
            return at
    raise LookupError(name)


def replace_name(data: bytes, old: str, new: str) -> bytes:
    """Rename one section to a name that is not longer, only by its own header."""
    at = section_header(data, old)
    (shoff,) = struct.unpack_from("<Q", data, 40)
    (names,) = struct.unpack_from("<H", data, 62)
    table = shoff + names * 64
    start, size = struct.unpack_from("<QQ", data, table + 24)
    # A longer string table at the end of the file.
    strings = data[start : start + size] + new.encode() + b"\0"
    out = bytearray(data + strings)
    struct.pack_into("<QQ", out, table + 24, len(data), len(strings))
    struct.pack_into("<I", out, at, size)
    return bytes(out)
