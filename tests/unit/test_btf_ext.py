"""pybpf.btf.ext: hand-packed tables, larger records, forged ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.btf import Btf
from pybpf.btf.ext import BtfExt, CoreRelo
from pybpf.errors import ObjectFormatError
from tests.support.examples import examples

STRINGS = b"\0.text\0kprobe/x\x000:1:2\0a.c\0int x;\0"
TEXT, KPROBE, ACCESS, FILE, LINE = (
    STRINGS.index(s) for s in (b".text", b"kprobe", b"0:1", b"a.c", b"int")
)
BTF = Btf(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, len(STRINGS)) + STRINGS, name="o")


def table(rec_size: int, *blocks: tuple[int, list[tuple[int, ...]]]) -> bytes:
    out = struct.pack("<I", rec_size)
    for name, rows in blocks:
        out += struct.pack("<II", name, len(rows))
        for row in rows:
            out += struct.pack(f"<{len(row)}I", *row).ljust(rec_size, b"\xee")
    return out


def ext(func: bytes = b"", line: bytes = b"", core: bytes = b"", hdr_len: int = 32) -> bytes:
    words = [0, len(func), len(func), len(line), len(func) + len(line), len(core)]
    head = struct.pack("<HBBI6I", 0xEB9F, 1, 0, hdr_len, *words)[:hdr_len].ljust(hdr_len, b"\0")
    return head + func + line + core


FUNCS = table(8, (TEXT, [(0, 5), (64, 6)]), (KPROBE, [(0, 7)]))
LINES = table(16, (KPROBE, [(0, FILE, LINE, 3 << 10 | 4), (8, FILE, 0, 0)]))
CORES = table(16, (KPROBE, [(8, 2, ACCESS, 0), (24, 3, ACCESS, 12)]))


def test_three_tables() -> None:
    """Records come out by section, in file order, with their strings."""
    got = BtfExt(ext(FUNCS, LINES, CORES), BTF)
    assert got.func_info == {".text": [(0, 5), (64, 6)], "kprobe/x": [(0, 7)]}
    assert got.line_info == {"kprobe/x": [(0, FILE, LINE, 3076), (8, FILE, 0, 0)]}
    assert got.core_relos == {
        "kprobe/x": [CoreRelo(8, 2, "0:1:2", 0), CoreRelo(24, 3, "0:1:2", 12)]
    }


def test_larger_records_and_headers() -> None:
    """What newer compilers append is skipped; an old short header has no relocations."""
    wide = ext(
        table(20, (TEXT, [(0, 5), (64, 6)])),
        table(24, (TEXT, [(0, FILE, LINE, 1)])),
        table(32, (TEXT, [(8, 2, ACCESS, 0)])),
        hdr_len=48,
    )
    got = BtfExt(wide, BTF)
    assert got.func_info == {".text": [(0, 5), (64, 6)]} and got.func_info_rec_size == 20
    assert got.line_info == {".text": [(0, FILE, LINE, 1)]} and got.line_info_rec_size == 24
    assert got.core_relos == {".text": [CoreRelo(8, 2, "0:1:2", 0)]}
    old = BtfExt(ext(FUNCS, LINES, hdr_len=24), BTF)
    assert old.core_relos == {} and len(old.func_info) == 2


def test_one_section_in_two_blocks() -> None:
    """Blocks of the same section are joined."""
    got = BtfExt(ext(table(8, (TEXT, [(0, 1)]), (TEXT, [(8, 2)]))), BTF)
    assert got.func_info == {".text": [(0, 1), (8, 2)]}


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"\x9f\xeb", "cannot hold"),
        (b"\xeb\x9f" + bytes(40), "big-endian"),
        (bytes(40), "bad magic"),
        (struct.pack("<HBBI", 0xEB9F, 2, 0, 32) + bytes(24), "version 2"),
        (struct.pack("<HBBI", 0xEB9F, 1, 0, 999) + bytes(24), "header length"),
        (struct.pack("<HBBI", 0xEB9F, 1, 0, 16) + bytes(24), "header length"),
        (ext(FUNCS)[:-4], "ends after"),
        (ext(table(4, (TEXT, [(1,)]))), "record size 4"),
        (ext(table(10, (TEXT, [(1,)]))), "record size 10"),
        (ext(table(8)), "is empty"),
        (ext(table(8, (TEXT, []))), "claims 0"),
        (ext(table(8) + struct.pack("<II", TEXT, 2**31)), "claims 2147483648"),
        (ext(table(8, (TEXT, [(0, 1)])) + bytes(4)), "cut off"),
        (ext(table(8, (9999, [(0, 1)]))), "string offset 9999"),
    ],
)
def test_bad_tables(blob: bytes, text: str) -> None:
    """Malformed tables give one error that names .BTF.ext, file and offset."""
    with pytest.raises(ObjectFormatError, match=text) as err:
        BtfExt(blob, BTF)
    assert (err.value.section, err.value.file) == (".BTF.ext", "o")
    assert err.value.offset is not None


def test_bad_access_string() -> None:
    """An access string outside .BTF's strings is an error of .BTF.ext."""
    with pytest.raises(ObjectFormatError, match="9999") as err:
        _ = BtfExt(ext(core=table(16, (TEXT, [(0, 1, 9999, 0)]))), BTF).core_relos
    assert err.value.section == ".BTF.ext"


GOOD = ext(FUNCS, LINES, CORES)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=5),
    st.integers(0, len(GOOD)),
)
def test_mutations(edits: list[tuple[int, int]], cut: int) -> None:
    """Changed or cut tables decode or give ObjectFormatError of .BTF.ext, nothing else."""
    blob = bytearray(GOOD)
    for at, value in edits:
        blob[at] = value
    try:
        got = BtfExt(blob[:cut], BTF)
        _ = got.func_info, got.line_info, got.core_relos
    except ObjectFormatError as err:
        assert err.section == ".BTF.ext"
