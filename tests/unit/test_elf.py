"""The ELF reader: what it reads from files written here, and that it refuses all others."""

from __future__ import annotations

import struct

import pytest

from pybpf.elf import SHT_NOBITS, SHT_REL, STB_WEAK, STT_FUNC, STV_HIDDEN, ElfFile
from pybpf.errors import ObjectFormatError
from tests.support.elfwriter import NOBITS, ElfWriter, code, section_header

EXIT = code((0x95, 0, 0, 0))


def sample() -> tuple[ElfWriter, int, int]:
    """A program, zeros, data with a relocation: (writer, index of the program, of the data)."""
    writer = ElfWriter()
    program = writer.text("socket", EXIT * 2)
    data = writer.section(".data", b"12345678", flags=3)
    writer.section(".bss", type=NOBITS, flags=3, size=1 << 20)
    writer.function("main", program, EXIT * 2)
    writer.symbol("x", data, 4, 4, bind=2, type=1, visibility=2)
    writer.relocations(program, (8, 1, 2), (0, 10, 1))
    return writer, program, data


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def refusal(data: bytes) -> ObjectFormatError:
    with pytest.raises(ObjectFormatError) as caught:
        file = ElfFile(data, "x.o")
        _ = file.symbols
        for section in file.sections:
            if section.type == SHT_REL:
                list(file.relocations(section))
    assert caught.value.file == "x.o"
    assert caught.value.section
    assert caught.value.offset is not None
    return caught.value


def test_sections_in_file_order() -> None:
    """Names, kinds and sizes come out as they were written."""
    writer, program, data = sample()
    file = ElfFile(writer.build())
    names = [section.name for section in file.sections]
    assert names == [
        "", "socket", ".data", ".bss", ".relsocket", ".symtab", ".strtab", ".shstrtab",
    ]  # fmt: skip
    assert [s.idx for s in file.sections] == list(range(8))
    assert file.sections[program].size == 16
    assert file.find(".data") is file.sections[data]
    assert file.find(".text") is None


def test_contents_are_views() -> None:
    """Contents are the section's bytes without a copy, and nothing for .bss."""
    file = ElfFile(sample()[0].build())
    data, bss = file.find(".data"), file.find(".bss")
    assert data is not None and bss is not None
    assert bytes(file.contents(data)) == b"12345678"
    assert file.contents(data).obj is file.data
    assert bss.type == SHT_NOBITS and bss.size == 1 << 20
    assert len(file.contents(bss)) == 0


def test_symbols() -> None:
    """Every field of a symbol, and the null symbol at index 0."""
    _, program, data = sample()
    null, main, x = ElfFile(sample()[0].build()).symbols
    assert null == ("", 0, 0, 0, 0, 0, 0)
    assert (main.name, main.size, main.type, main.shndx) == ("main", 16, STT_FUNC, program)
    assert (x.name, x.value, x.bind, x.visibility, x.shndx) == ("x", 4, STB_WEAK, STV_HIDDEN, data)


def test_relocations() -> None:
    """Offset, type and symbol of relocations, in file order."""
    file = ElfFile(sample()[0].build())
    section = file.find(".relsocket")
    assert section is not None
    assert list(file.relocations(section)) == [(8, 1, 2), (0, 10, 1)]


def test_no_symbol_table() -> None:
    """A stripped file has no symbols. That alone is not an error here."""
    writer = sample()[0]
    writer.with_symbols = False
    file = ElfFile(writer.build())
    assert file.symbol_section is None
    assert file.symbols == []


def test_other_machines_on_request() -> None:
    """A file for any machine can be read, but only when asked for."""
    data = ElfWriter(machine=62, type=2).build()
    assert ElfFile(data, any_machine=True).find(".symtab")
    assert refusal(data).offset == 16


def test_more_sections_than_the_header_can_say() -> None:
    """e_shnum 0 and e_shstrndx 0xffff: the real values are in section header 0."""
    data = sample()[0].build()
    (shoff,) = struct.unpack_from("<Q", data, 40)
    count, names = struct.unpack_from("<HH", data, 60)
    data = patched(data, 60, struct.pack("<HH", 0, 0xFFFF))
    data = patched(data, shoff + 32, struct.pack("<QI", count, names))
    assert len(ElfFile(data).sections) == count


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, b"\x7fELG", "not an ELF file"),
        (4, b"\x01", "not a 64-bit"),
        (5, b"\x02", "big-endian"),
        (5, b"\x07", "byte order 7"),
        (6, b"\x02", "ELF version"),
        (16, b"\x02\x00", "e_type 2"),
        (18, b"\x3e\x00", "e_machine 62"),
        (52, b"\x20\x00", "header says"),
        (58, b"\x28\x00", "section headers of 40"),
        (40, b"\xff\xff\xff\xff\xff\xff\xff\x7f", "outside the file"),
        (40, bytes(8), "outside the file"),
        (60, b"\xff\xfe", "end outside the file"),
        (62, b"\xfe\xff", "section names"),
        (62, b"\x00\x00", "section names"),
        (62, b"\x01\x00", "no section names"),
    ],
)
def test_malformed_headers(offset: int, value: bytes, says: str) -> None:
    """Each field of the ELF header is checked, and the error names its offset."""
    err = refusal(patched(sample()[0].build(), offset, value))
    assert says in err.what
    assert err.offset == offset or err.section == "ELF section headers"


@pytest.mark.parametrize("size", [0, 1, 3, 4, 16, 63])
def test_shorter_than_a_header(size: int) -> None:
    """A file that ends inside the ELF header."""
    err = refusal(sample()[0].build()[:size])
    assert "cannot hold" in err.what
    assert err.offset == size


def test_every_truncation_is_refused() -> None:
    """Wherever the file ends too early, there is one error and no other exception."""
    data = sample()[0].build()
    for size in range(64, len(data)):
        refusal(data[:size])


@pytest.mark.parametrize(
    ("section", "field", "value", "says"),
    [
        (".data", 24, 1 << 40, "ends outside the file"),
        (".data", 32, (1 << 64) - 1, "ends outside the file"),
        (".data", 0, 0xFFFFFF, "outside the names"),
        (".symtab", 56, 25, "symbols of 25 bytes"),
        (".symtab", 32, 25, "whole number of symbols"),
        (".symtab", 40, 99, "symbol names in section 99"),
        (".symtab", 40, 1, "symbol names in section 'socket'"),
        (".relsocket", 56, 24, "whole number of relocations"),
        (".relsocket", 32, 17, "whole number of relocations"),
    ],
)
def test_malformed_section_headers(section: str, field: int, value: int, says: str) -> None:
    """Offset, size, name, link and entry size of section headers are checked."""
    data = sample()[0].build()
    width = 4 if field in (0, 40) else 8
    at = section_header(data, section) + field
    assert says in refusal(patched(data, at, value.to_bytes(width, "little"))).what


def test_second_symbol_table() -> None:
    """Two symbol tables are refused: no relocation would say which it means."""
    writer = sample()[0]
    writer.section(".symtab2", bytes(24), type=2, entsize=24)
    assert "second symbol table" in refusal(writer.build()).what


def test_symbol_name_outside_the_strings() -> None:
    """A name offset behind the string table names the symbol."""
    data = sample()[0].build()
    (at,) = struct.unpack_from("<Q", data, section_header(data, ".symtab") + 24)
    err = refusal(patched(data, at + 48, b"\xff\xff\x00\x00"))
    assert "name of symbol 2" in err.what
    assert err.offset == 48
