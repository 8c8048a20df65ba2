"""Turn big-endian objects into little-endian ones so that they can be inspected.

Everything with a fixed layout is rewritten: ELF headers, symbols, relocations, BTF, BTF.ext, legacy
map definitions, the version, and instructions (whose two register fields are also swapped). The
contents of data sections stay as they are. Only types tell what they are, and an object for
machines of the other byte order is never loaded.
"""

from __future__ import annotations

import struct

from ..elf import SHF_EXECINSTR, SHT_PROGBITS, SHT_REL, SHT_SYMTAB
from ..errors import ObjectFormatError

__all__ = ["is_big_endian", "to_little_endian"]

_EHDR, _SHDR, _SYM, _REL = "16sHHIQQQIHHHHHH", "IIQQQQIIQQ", "IBBHQQ", "QQ"
_EHDR_SIZE, _SHDR_SIZE = 64, 64
_BTF_MAGIC = 0xEB9F


def is_big_endian(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether this is a 64-bit ELF file of big-endian byte order."""
    return bytes(data[:4]) == b"\x7fELF" and len(data) > 5 and data[4] == 2 and data[5] == 2


def to_little_endian(data: bytes | bytearray | memoryview, name: str = "") -> bytes:
    """Rewrite a big-endian object file.

    :raises ObjectFormatError: a header points outside the file
    """
    out = bytearray(data)
    if len(out) < _EHDR_SIZE:
        raise ObjectFormatError("too few bytes for an ELF header", file=name)
    header = list(struct.unpack_from(">" + _EHDR, out))
    header[0] = header[0][:5] + b"\x01" + header[0][6:]
    struct.pack_into("<" + _EHDR, out, 0, *header)
    start, size, count = header[6], header[11], header[12]
    if size != _SHDR_SIZE or not start or start + count * size > len(out):
        raise ObjectFormatError("section headers outside the file", file=name, offset=40)
    sections = []
    for at in range(start, start + count * size, size):
        fields = struct.unpack_from(">" + _SHDR, out, at)
        struct.pack_into("<" + _SHDR, out, at, *fields)
        sections.append(fields)
    names = sections[header[13]] if header[13] < count else None
    for fields in sections:
        name_at, kind, flags, _, at, length = fields[:6]
        if kind == 8 or not length:  # SHT_NOBITS
            continue
        if at + length > len(out):
            raise ObjectFormatError("a section ends outside the file", file=name, offset=40)
        label = _name(out, names, name_at)
        if kind == SHT_SYMTAB:
            _each(out, at, length, _SYM)
        elif kind == SHT_REL:
            _each(out, at, length, _REL)
        elif kind == SHT_PROGBITS and flags & SHF_EXECINSTR:
            _instructions(out, at, length)
        elif label == ".BTF":
            _btf(out, at, length, name)
        elif label == ".BTF.ext":
            _half_word(out, at)
            _each(out, at + 4, length - 4, "I")
        elif label == ".maps":
            _each(out, at, length, "Q")  # pointers to programs
        elif label in ("version", "maps") or label.startswith("maps/") or label.endswith("/maps"):
            _each(out, at, length, "I")
    return bytes(out)


def _name(data: bytearray, names: tuple[int, ...] | None, at: int) -> str:
    if names is None:
        return ""
    start = names[4] + at
    return bytes(data[start : max(data.find(b"\0", start), start)]).decode("latin-1")


def _each(data: bytearray, at: int, length: int, form: str) -> None:
    size = struct.calcsize("<" + form)
    for place in range(at, at + length // size * size, size):
        struct.pack_into("<" + form, data, place, *struct.unpack_from(">" + form, data, place))


def _half_word(data: bytearray, at: int) -> None:
    data[at : at + 2] = data[at : at + 2][::-1]


def _instructions(data: bytearray, at: int, length: int) -> None:
    for place in range(at, at + length // 8 * 8, 8):
        code, registers, offset, immediate = struct.unpack_from(">BBhi", data, place)
        swapped = registers >> 4 | (registers & 15) << 4
        struct.pack_into("<BBhi", data, place, code, swapped, offset, immediate)


def _btf(data: bytearray, at: int, length: int, name: str) -> None:
    if length < 24 or struct.unpack_from(">H", data, at)[0] != _BTF_MAGIC:
        raise ObjectFormatError("no big-endian BTF header", file=name, section=".BTF", offset=0)
    (header,) = struct.unpack_from(">I", data, at + 4)
    types_at, types = struct.unpack_from(">II", data, at + 8)
    if header + types_at + types > length or header < 24:
        what = "type section ends after the data"
        raise ObjectFormatError(what, file=name, section=".BTF", offset=8)
    _half_word(data, at)
    _each(data, at + 4, header - 4, "I")
    _each(data, at + header + types_at, types, "I")  # every record is made of 32-bit words
