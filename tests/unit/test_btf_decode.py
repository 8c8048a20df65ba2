"""pybpf.btf.decode against hand-made records, a real kernel's blob, and forged ones."""

from __future__ import annotations

import gzip
import string
import struct
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybpf.btf import (
    Array,
    Btf,
    BtfKind,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    EnumValue,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Restrict,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Unknown,
    Var,
    VarSecinfo,
    Void,
    Volatile,
)
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import ObjectFormatError
from tests.support.examples import examples

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def vmlinux() -> Btf:
    return Btf(gzip.decompress((DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz").read_bytes()))


class Raw:
    """Hand-packed BTF, so that a test shows its words."""

    def __init__(self, base_strings: int = 0) -> None:
        self.strings = b"" if base_strings else b"\0"
        self.base = base_strings
        self.types = b""

    def name(self, text: str) -> int:
        at = self.base + len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(self, name: str, kind: int, size: int, *words: int, vlen: int = 0, kflag: int = 0):
        info = kflag << 31 | kind << 24 | vlen
        head = [self.name(name) if name else 0, info, size, *words]
        self.types += struct.pack(f"<{len(head)}I", *(w & 0xFFFFFFFF for w in head))
        return self

    def blob(self, extra_header: bytes = b"", magic: int = 0xEB9F) -> bytes:
        hdr_len = 24 + len(extra_header)
        head = struct.pack(
            "<HBBIIIII",
            magic,
            1,
            0,
            hdr_len,
            0,
            len(self.types),
            len(self.types),
            len(self.strings),
        )
        return head + extra_header + self.types + self.strings


def all_kinds() -> Raw:
    r = Raw()
    r.add("int", 1, 4, 1 << 24 | 32)  # 1
    r.add("", 2, 1)  # 2 ptr
    r.add("", 3, 0, 1, 1, 7)  # 3 array
    a, b = r.name("a"), r.name("b")
    r.add("s", 4, 8, a, 1, 0, b, 1, 3 << 24 | 33, vlen=2, kflag=1)  # 4
    r.add("u", 5, 4, a, 1, 0, vlen=1)  # 5
    r.add("e", 6, 4, a, -1, b, 5, vlen=2, kflag=1)  # 6
    r.add("f", 7, 0, kflag=1)  # 7
    r.add("t", 8, 1)  # 8
    r.add("", 9, 8)  # 9 volatile
    r.add("", 10, 9)  # 10 const
    r.add("", 11, 10)  # 11 restrict
    r.add("fn", 12, 13, vlen=1)  # 12
    r.add("", 13, 1, a, 1, 0, 0, vlen=2)  # 13 proto, variadic
    r.add("v", 14, 1, 1)  # 14
    r.add(".data", 15, 4, 14, 0, 4, vlen=1)  # 15
    r.add("double", 16, 8)  # 16
    r.add("tag", 17, 4, -1)  # 17
    r.add("user", 18, 1)  # 18
    r.add("e64", 19, 8, a, 1, 2, b, 0xFFFFFFFF, 0xFFFFFFFF, vlen=2)  # 19
    return r


EXPECTED = [
    Void(),
    Int("int", 4, 32, 0, 1),
    Ptr(1),
    Array(1, 1, 7),
    Struct("s", 8, (Member("a", 1, 0, 0), Member("b", 1, 33, 3)), True),
    Union("u", 4, (Member("a", 1, 0),)),
    Enum("e", 4, (EnumValue("a", -1), EnumValue("b", 5)), True),
    Fwd("f", True),
    Typedef("t", 1),
    Volatile(8),
    Const(9),
    Restrict(10),
    Func("fn", 13, 1),
    FuncProto(1, (Param("a", 1), Param("", 0))),
    Var("v", 1, 1),
    Datasec(".data", 4, (VarSecinfo(14, 0, 4),)),
    Float("double", 8),
    DeclTag("tag", 4, -1),
    TypeTag("user", 1),
    Enum64("e64", 8, (EnumValue("a", 2 << 32 | 1), EnumValue("b", 2**64 - 1))),
]


def test_all_19_kinds_decode_to_their_fields() -> None:
    """Each kind's record gives exactly the value the UAPI header describes."""
    btf = Btf(all_kinds().blob())
    assert btf.nr_types == 20
    assert [btf.type(i) for i in range(20)] == EXPECTED
    assert [btf.kind(i) for i in range(20)] == list(range(20))
    assert [t.kind for t in EXPECTED] == [BtfKind(i) for i in range(20)]
    assert [btf.name(i) for i in range(20)] == [t.name for t in EXPECTED]
    assert list(btf.types()) == list(enumerate(EXPECTED))[1:]


def test_funcs_find_and_walks() -> None:
    """Name look-ups, FUNC listing, modifier skipping, sizes and alignments on known types."""
    btf = Btf(all_kinds().blob())
    assert list(btf.funcs()) == [(12, "fn", 13)]
    assert btf.find("s") == 4 and btf.find("s", BtfKind.UNION) is None
    assert btf.find("") is None and btf.find("nosuch") is None and btf.find("a\0b") is None
    assert btf.skip_mods_and_typedefs(11) == 1 and btf.skip_mods_and_typedefs(0) == 0
    assert [btf.sizeof(i) for i in (1, 2, 3, 4, 11, 14, 15, 16, 17, 19)] == [
        4, 8, 28, 8, 4, 4, 4, 8, 8, 8,
    ]  # fmt: skip
    assert [btf.alignof(i) for i in (1, 2, 3, 4, 5, 11, 16, 19)] == [4, 8, 4, 4, 4, 4, 8, 8]
    for sizeless in (0, 7, 12, 13):
        with pytest.raises(ObjectFormatError, match="no size"):
            btf.sizeof(sizeless)
        with pytest.raises(ObjectFormatError):
            btf.alignof(sizeless)


def test_find_agrees_before_and_after_the_index() -> None:
    """The searching look-up and the indexed one give the same ids, names as string tails too."""
    r = Raw()
    r.add("xfoo", 7, 0).add("foo", 7, 0).add("foo", 1, 4, 32).add("oo", 7, 0)
    tail = r.base + r.strings.index(b"xfoo") + 1
    r.types += struct.pack("<3I", tail, 7 << 24, 0)  # "foo" as the tail of "xfoo"
    for name, kind, want in [
        ("foo", None, [2, 3, 5]), ("foo", 7, [2, 5]), ("foo", 1, [3]), ("oo", None, [4]),
    ]:  # fmt: skip
        scanning, indexed = Btf(r.blob()), Btf(r.blob())
        indexed.names()
        assert scanning.find_all(name, kind) == indexed.find_all(name, kind) == want
        assert scanning.find(name, kind) == indexed.find(name, kind) == want[0]


def test_flavours_before_and_after_the_index() -> None:
    """The essential name's own types and all of its flavours, however they are looked up."""
    r = Raw()
    for name in ("foo", "foo___v1", "foo___a___b", "___foo", "foo____v", "foo___", "xfoo___v1", ""):
        r.add(name, 7, 0)
    tail = r.strings.index(b"xfoo___v1") + 1
    r.types += struct.pack("<3I", tail, 7 << 24, 0)  # 9: "foo___v1" as the tail of another
    searching, indexed = Btf(r.blob()), Btf(r.blob())
    indexed.names()
    for essential, want in [
        ("foo", [1, 2, 9]), ("foo___a", [3]), ("xfoo", [7]), ("foo___v1", []), ("", []),
        ("___foo", [4]), ("foo____v", [5]), ("foo___", [6]), ("fo", []),
    ]:  # fmt: skip
        assert searching.find_essential(essential) == want, essential
        assert indexed.find_essential(essential) == want, essential


def test_split_btf_continues_its_base() -> None:
    """A module's ids and string offsets start where the base's end; its own names win."""
    base = Btf(all_kinds().blob())
    r = Raw(base_strings=base.blob.strings_end)
    r.add("mod", 4, 4, base.blob.strings_end, 1, 0, vlen=1)
    r.add("", 2, 20).add("int", 1, 8, 64).add("fn2", 12, 13)
    split = Btf(r.blob(), base=base)
    assert split.start_id == 20 and split.nr_types == 24
    assert split.type(20) == Struct("mod", 4, (Member("mod", 1, 0),))
    assert split.type(4) == base.type(4) and split.name(4) == "s"
    assert split.find("int") == 22 and split.find_all("int") == [22, 1]
    assert split.find("s") == 4 and split.sizeof(21) == 8 and split.sizeof(20) == 4
    assert list(split.funcs()) == [(23, "fn2", 13)]
    assert split.skip_mods_and_typedefs(11) == 1


def test_layout_section_lets_unknown_kinds_be_skipped() -> None:
    """A kind this library does not know is stepped over when the BTF says how long it is."""
    r = Raw().add("int", 1, 4, 32).add("new", 25, 0, 1, 2, 3, vlen=1).add("", 2, 1)
    with pytest.raises(ObjectFormatError, match="unknown BTF kind 25"):
        _ = Btf(r.blob()).nr_types
    layout = b"".join(struct.pack("<BBH", 4 if k == 25 else 0, 8, 0) for k in range(26))
    blob = bytearray(r.blob(extra_header=struct.pack("<II", len(r.types), len(layout))))
    at = 32 + len(r.types)
    blob[at:at] = layout
    struct.pack_into("<I", blob, 16, len(r.types) + len(layout))
    btf = Btf(bytes(blob))
    assert btf.type(2) == Unknown("new", 25) and btf.kind(2) == 25
    assert btf.type(3) == Ptr(1) and btf.nr_types == 4


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"", "cannot hold"),
        (b"\x9f\xeb\x01", "cannot hold"),
        (b"\xeb\x9f" + bytes(30), "big-endian"),
        (b"\x7fELF" + bytes(30), "bad BTF magic"),
        (Raw().blob()[:-1], "string section ends after"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 0), "string section is empty"),
        (struct.pack("<HBBIIIII", 0xEB9F, 2, 0, 24, 0, 0, 0, 1) + b"\0", "version 2"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 9999, 0, 0, 0, 1) + b"\0", "header length"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 2) + b"\0x", "end with a NUL"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 2) + b"x\0", "start with a NUL"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 2, 0, 4, 1) + bytes(9), "aligned"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 8, 4, 1) + bytes(9), "before the end"),
    ],
)
def test_bad_headers(blob: bytes, text: str) -> None:
    """Each malformed header gives one error that names the section."""
    with pytest.raises(ObjectFormatError, match=text) as err:
        Btf(blob, name="x.o")
    assert err.value.section == ".BTF" and err.value.file == "x.o"
    assert err.value.offset is not None and f"offset {err.value.offset:#x}" in str(err.value)


@pytest.mark.parametrize(
    ("raw", "text", "offset"),
    [
        (Raw().add("i", 1, 4, 32).add("s", 4, 4, vlen=9), "ends after", 24 + 16),
        (Raw().add("i", 1, 4), "ends after", 24),
        (Raw().add("x", 20, 0), "unknown BTF kind 20", 24 + 4),
        (Raw().add("x", 0, 0), "unknown BTF kind 0", 24 + 4),
        (Raw().add("", 2, 5), "refers to type 5", 24),
        (Raw().add("i", 1, 4, 32).add("s", 4, 4, 999, 1, 0, vlen=1), "name offset 999", 40),
        (Raw().add("i", 1, 4, 32).add("s", 4, 4, 0, 77, 0, vlen=1), "type 77", 40),
        (Raw().add("f", 12, 9), "type 9", 24),
    ],
)
def test_bad_records(raw: Raw, text: str, offset: int) -> None:
    """Forged lengths, kinds, names and ids are found by validate, with their offset."""
    btf = Btf(raw.blob())
    with pytest.raises(ObjectFormatError, match=text) as err:
        btf.validate()
    assert (err.value.section, err.value.offset) == (".BTF", offset)


def test_funcs_reports_forged_names_and_protos() -> None:
    """The fast FUNC listing checks what it returns."""
    bad_proto = Btf(Raw().add("f", 12, 9).blob())
    with pytest.raises(ObjectFormatError, match="type 9"):
        list(bad_proto.funcs())
    r = Raw()
    r.types += struct.pack("<3I", 5000, 12 << 24, 0)
    with pytest.raises(ObjectFormatError, match="name offset 5000"):
        list(Btf(r.blob()).funcs())


def test_cycles_end_in_an_error() -> None:
    """Typedef, pointer, array and struct cycles terminate."""
    btf = Btf(Raw().add("a", 8, 2).add("b", 8, 1).add("", 3, 0, 3, 1, 2**32 - 1).blob())
    for walk in (btf.skip_mods_and_typedefs, btf.sizeof, btf.alignof):
        with pytest.raises(ObjectFormatError, match="does not end"):
            walk(1)
    for walk in (btf.sizeof, btf.alignof):
        with pytest.raises(ObjectFormatError, match="does not end"):
            walk(3)
    nested = Raw()
    for i in range(1, 200):
        nested.add("s", 4, 4, 0, i % 199 + 1, 0, 0, i % 199 + 1, 0, vlen=2)
    with pytest.raises(ObjectFormatError, match="does not end"):
        Btf(nested.blob()).alignof(1)


@pytest.mark.parametrize("bad", [-1, 20, 2**31, 2**40])
def test_ids_that_do_not_exist(bad: int) -> None:
    """An id from somewhere else gives a format error, never an IndexError."""
    btf = Btf(all_kinds().blob())
    for call in (
        btf.type,
        btf.kind,
        btf.name,
        btf.sizeof,
        btf.alignof,
        btf.skip_mods_and_typedefs,
    ):
        with pytest.raises(ObjectFormatError, match="type"):
            call(bad)
    with pytest.raises(ObjectFormatError):
        btf.string(bad + 10_000 if bad >= 0 else bad)


def test_names_that_are_not_ascii() -> None:
    """UTF-8 names survive, other bytes are escaped; FUNC listing takes the careful path."""
    r = Raw().add("größe", 7, 0).add("fn", 12, 0)
    r.strings += b"\xff\xfe\0"
    r.types += struct.pack("<3I", len(r.strings) - 3, 7 << 24, 0)
    btf = Btf(r.blob())
    assert btf.name(1) == "größe" and btf.find("größe") == 1
    assert btf.name(3) == r"\xff\xfe" and list(btf.funcs()) == [(2, "fn", 0)]


def test_memoryview_input_is_not_copied_as_raw() -> None:
    """raw gives the bytes that went in, whatever buffer they came from."""
    blob = all_kinds().blob()
    assert Btf(memoryview(bytearray(blob))).raw == blob == Btf(blob).raw


# The real kernel.


def test_vmlinux_counts(vmlinux: Btf) -> None:
    """Counts of the 6.12 kernel equal what bpftool lists for the same blob."""
    assert vmlinux.nr_types == 108151
    funcs = list(vmlinux.funcs())
    assert len(funcs) == 47814 == len(vmlinux.ids(BtfKind.FUNC))
    assert all(vmlinux.kind(proto) == BtfKind.FUNC_PROTO for _, _, proto in funcs[::97])


def test_vmlinux_is_valid_and_known_types_are_right(vmlinux: Btf) -> None:
    """Every record decodes; a few structs have their known shape."""
    vmlinux.validate()
    list_head = vmlinux.find("list_head", BtfKind.STRUCT)
    assert list_head is not None
    t = vmlinux.type(list_head)
    assert isinstance(t, Struct) and t.size == 16
    assert [(m.name, m.bit_offset) for m in t.members] == [("next", 0), ("prev", 64)]
    assert vmlinux.sizeof(list_head) == 16 and vmlinux.alignof(list_head) == 8
    task = vmlinux.find("task_struct", BtfKind.STRUCT)
    assert task is not None and vmlinux.find_all("task_struct", BtfKind.STRUCT) == [task]


def test_find_equals_a_full_scan(vmlinux: Btf) -> None:
    """Searching look-up, index and FUNC listing agree on a sample of the kernel's names."""
    by_list: dict[str, list[int]] = {}
    for type_id, name, _ in vmlinux.funcs():
        by_list.setdefault(name, []).append(type_id)
    fresh = Btf(vmlinux.raw)
    for name in ("vfs_read", "bpf_fentry_test1", "schedule", "dst_release", "msleep", "__kmalloc"):
        if name in by_list:
            assert fresh.find_all(name, BtfKind.FUNC) == by_list[name]
    assert fresh._names._index is None
    for name in list(by_list)[::501]:
        assert vmlinux.find_all(name, BtfKind.FUNC) == by_list[name]


@contextmanager
def counted_searches(size: int) -> Iterator[list[int]]:
    """Counts the searches of blobs of at least `size` bytes made inside (one number in a list)."""
    count = [0]

    def watch(_frame: FrameType, event: str, call: Any) -> None:
        if event == "c_call" and call.__name__ == "find":
            where = call.__self__
            count[0] += isinstance(where, bytes) and len(where) >= size

    sys.setprofile(watch)
    try:
        yield count
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", ["s", "t", "e", "d", "u", "id", "list", "key", "file", "path"])
def test_a_name_that_ends_thousands_of_strings_costs_few_searches(vmlinux: Btf, name: str) -> None:
    """Types called as many strings end: some searches of the blob each, or the index."""
    assert vmlinux.raw.count(name.encode() + b"\0") > 100
    fresh = Btf(vmlinux.raw)
    names = vmlinux.names()
    hits = names.get(name, [])
    want = [hits] if isinstance(hits, int) else hits
    with counted_searches(1 << 16) as count:
        assert fresh.find_all(name) == want
        assert fresh.find(name) == (want[0] if want else None)
        found = fresh.find_essential(name)
    assert set(want) <= set(found)
    assert count[0] <= 3 * (40 + len(want))


def test_many_names_cost_one_index(vmlinux: Btf) -> None:
    """However many names are looked up, and however short: some searches, then an index."""
    fresh = Btf(vmlinux.raw)
    names = [x for t in string.ascii_lowercase for x in (t, f"{t}s", f"{t}id", f"re{t}")]
    with counted_searches(1 << 16) as count:
        for name in names:
            fresh.find_essential(name)
            fresh.find_all(name)
    assert fresh._names._index is not None and count[0] <= 24 * 60


def test_a_string_that_is_there_a_thousand_times() -> None:
    """Equal strings, each named by a type, and inner names: the index, not a search for each."""
    for one in (b"s\0", b"as\0"):
        r = Raw()
        r.strings += one * 3000
        for number in range(3000):
            at = 1 + number * len(one) + one.index(b"s")
            r.types += struct.pack("<3I", at, 7 << 24, 0)
        with counted_searches(1 << 10) as count:
            assert Btf(r.blob()).find_all("s") == list(range(1, 3001))
        assert count[0] <= 3100


@given(
    st.lists(st.text("ab_", max_size=8), min_size=1, max_size=8),
    st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(0, 8)), max_size=12),
    st.lists(st.text("ab_", min_size=1, max_size=8), min_size=1, max_size=6),
)
def test_searches_equal_the_index(
    strings: list[str], types: list[tuple[bool, int, int]], names: list[str]
) -> None:
    """On any strings, with names inside them, in a base and a split BTF, as the index says."""
    base, split = Raw(), Raw()
    places = [base.name(text) for text in strings]
    split.strings, split.base = b"", len(base.strings)
    own = [split.name(text) for text in reversed(strings)]
    for in_base, which, skip in types:
        which %= len(strings)
        if in_base:
            at = min(places[which] + skip, len(base.strings) - 1)
            base.types += struct.pack("<3I", at, 7 << 24, 0)
        else:
            at = min(own[which] + skip, split.base + len(split.strings) - 1)
            split.types += struct.pack("<3I", at, 7 << 24, 0)
    for name in (*names, *strings):
        searching, indexed = (Btf(split.blob(), base=Btf(base.blob())) for _ in range(2))
        for btf in (indexed, indexed.base):
            assert btf is not None
            btf.names()
        want = indexed.find_all(name)
        assert searching.find(name) == (want[0] if want else None)
        assert searching.find_all(name) == want
        assert searching.find_essential(name) == indexed.find_essential(name)


def everything(btf: Btf) -> None:
    """All that a reader of untrusted BTF would call."""
    for type_id in range(min(btf.nr_types, 400)):
        for call in (btf.type, btf.name, btf.sizeof, btf.alignof, btf.skip_mods_and_typedefs):
            try:
                call(type_id)
            except ObjectFormatError as err:
                assert err.section == ".BTF"
    list(btf.funcs())
    btf.find("s")
    btf.names()
    btf.validate()


SMALL = all_kinds().blob()


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6
    ),
    st.integers(0, len(SMALL)),
)
def test_mutations_of_a_blob_with_every_kind(edits: list[tuple[int, int]], cut: int) -> None:
    """Changed and cut blobs give ObjectFormatError or an answer, quickly, nothing else."""
    blob = bytearray(SMALL)
    for at, value in edits:
        blob[at] = value
    for data in (bytes(blob), bytes(blob[:cut])):
        try:
            everything(Btf(data))
        except ObjectFormatError as err:
            assert err.section == ".BTF"


@settings(max_examples=examples(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutations_of_a_real_blob(vmlinux: Btf, data: st.DataObject) -> None:
    """Forged words in the kernel's BTF cost neither two seconds nor 200 MB in decoding."""
    blob = bytearray(vmlinux.raw)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(blob) // 4 - 1)) * 4
        struct.pack_into("<I", blob, at, data.draw(st.integers(0, 2**32 - 1)))
    start = time.process_time()
    try:
        btf = Btf(bytes(blob))
        _ = btf.nr_types
        list(btf.funcs())
        btf.find("task_struct")
        btf.sizeof(btf.nr_types // 2)
    except ObjectFormatError as err:
        assert err.section == ".BTF"
    assert time.process_time() - start < 2


def test_memory_of_a_forged_vlen() -> None:
    """The largest vlen in a small blob allocates nothing before it is rejected."""
    r = Raw()
    r.types += struct.pack("<3I", 0, 4 << 24 | 0xFFFFFF, 4) + bytes(120)
    tracemalloc.start()
    try:
        with pytest.raises(ObjectFormatError):
            Btf(r.blob()).validate()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_tags_are_found_without_a_walk(vmlinux: Btf) -> None:
    """A declaration tag of that text, not a type or a longer text."""
    types = BtfBuilder()
    number = types.add(Int("bpf_kfunc", 4, 32))
    types.add(DeclTag("bpf_kfunc_not", number, -1))
    assert not Btf(types.build()).has_tag("bpf_kfunc")
    types.add(DeclTag("bpf_kfunc", number, -1))
    tagged = Btf(types.build())
    assert tagged.has_tag("bpf_kfunc") and not tagged.has_tag("bpf")
    assert "offsets" not in tagged.blob.__dict__
    known = {t.name for _, t in vmlinux.types() if isinstance(t, DeclTag)}
    assert vmlinux.has_tag("bpf_kfunc") == ("bpf_kfunc" in known)
