"""pybpf.btf.values against ctypes' layouts, known bytes, and what must be refused."""

from __future__ import annotations

import array
import copy
import ctypes
import gzip
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf._uapi.enums import MapType
from pybpf.btf import (
    Array,
    Btf,
    BtfKind,
    Const,
    Datasec,
    Enum,
    Enum64,
    EnumValue,
    Float,
    FuncProto,
    Fwd,
    Int,
    Linkage,
    Member,
    Ptr,
    Struct,
    Type,
    Typedef,
    Union,
    Var,
    VarSecinfo,
)
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.values import CharArray, Codec, Record, UnionValue, codec
from pybpf.errors import ObjectFormatError
from pybpf.maps.fields import BytesField, CodecField, Field
from pybpf.maps.kinds import value_field
from tests.support.examples import examples

DATA = Path(__file__).parents[1] / "data"

# Ids 1.. of these are used by the types that tests add.
BASICS: list[Type] = [
    Int("char", 1, 8, 0, 1),  # 1
    Int("unsigned char", 1, 8),  # 2
    Int("signed char", 1, 8, 0, 1),  # 3
    Int("int", 4, 32, 0, 1),  # 4
    Int("unsigned int", 4, 32),  # 5
    Int("long", 8, 64, 0, 1),  # 6
    Int("unsigned long", 8, 64),  # 7
    Int("_Bool", 1, 8, 0, 4),  # 8
    Int("__int128", 16, 128, 0, 1),  # 9
    Float("double", 8),  # 10
    Ptr(0),  # 11
    Enum("colour", 4, (EnumValue("RED", 1), EnumValue("BLUE", 5))),  # 12
    Enum64("big", 8, (EnumValue("NEG", -1),), True),  # 13
    Array(1, 5, 16),  # 14 char[16]
    Array(4, 5, 3),  # 15 int[3]
    Int("short", 2, 16, 0, 1),  # 16
    Float("float", 4),  # 17
]


def make(*types: Type) -> Codec:
    """Codec of the last of these types, added after BASICS (ids from 18)."""
    builder = BtfBuilder()
    for t in (*BASICS, *types):
        last = builder.add(t)
    return codec(Btf(builder.build()), last)


@pytest.mark.parametrize(
    ("number", "raw", "value"),
    [
        (1, b"\xff", -1),
        (2, b"\xff", 255),
        (4, b"\xfe\xff\xff\xff", -2),
        (5, b"\xfe\xff\xff\xff", 2**32 - 2),
        (7, b"\xff" * 8, 2**64 - 1),
        (8, b"\x01", True),
        (9, b"\xff" * 16, -1),
        (9, bytes(15) + b"\x40", 0x40 << 120),
        (10, struct.pack("<d", 1.5), 1.5),
        (11, b"\xf0" + b"\xff" * 7, 2**64 - 16),
        (12, b"\x05\0\0\0", 5),
        (13, b"\xff" * 8, -1),
        (14, b"hello".ljust(16, b"\0"), b"hello".ljust(16, b"\0")),
        (15, struct.pack("<3i", 1, -2, 3), (1, -2, 3)),
    ],
)
def test_plain_types(number: int, raw: bytes, value: Any) -> None:
    """Every plain type decodes to its Python value, encodes back, and takes its own bytes."""
    builder = BtfBuilder()
    for t in BASICS:
        builder.add(t)
    one = codec(Btf(builder.build()), number)
    assert one.size == len(raw)
    got = one.decode(b"??" + raw, 2)
    assert got == value and type(got) in (int, bool, float, tuple, CharArray)
    assert one.encode(got) == raw == one.encode(raw)
    assert list(one.iter_unpack(raw * 3)) == [value] * 3


def test_types_are_looked_through() -> None:
    """Typedefs, qualifiers and variables stand for their types; a codec is made once."""
    builder = BtfBuilder()
    for t in (*BASICS, Typedef("u", 4), Const(18), Var("v", 19, Linkage.GLOBAL)):
        builder.add(t)
    btf = Btf(builder.build())
    assert codec(btf, 20).decode(b"\xff" * 4) == -1
    assert codec(btf, 20) is codec(btf, 20)


EVENT = Struct(
    "event",
    64,
    (
        Member("pid", 5, 0),
        Member("ok", 8, 32),
        Member("ts", 7, 64),
        Member("comm", 14, 128),
        Member("args", 15, 256),
        Member("where", 18, 384),
    ),
)
POINT = Struct("point", 8, (Member("x", 4, 0), Member("y", 4, 32)))


def event() -> Codec:
    return make(POINT, EVENT)


def test_records() -> None:
    """A struct is a tuple with attributes: nested, hashable, comparable, printable."""
    one = event()
    raw = struct.pack("<I?3xQ16s3i4xii8x", 7, True, 9, b"bash", 1, 2, 3, -4, 5)
    got = one.decode(raw)
    assert (got.pid, got.ok, got.ts, got.comm, got.args) == (7, True, 9, "bash", (1, 2, 3))
    assert (got.where.x, got.where.y) == (-4, 5) and isinstance(got, Record)
    assert got == one.decode(raw) and hash(got) == hash(one.decode(raw))
    assert got._fields == one.fields == ("pid", "ok", "ts", "comm", "args", "where")
    assert got._asdict()["where"]._asdict() == {"x": -4, "y": 5}
    assert repr(got.where) == "struct point(x=-4, y=5)" and "pid=7" in repr(got)
    assert got._replace(pid=8).pid == 8 and got.pid == 7
    assert copy.deepcopy(got) == got
    with pytest.raises(ValueError, match="nope"):
        got._replace(nope=1)
    with pytest.raises(AttributeError, match=r"a copy and cannot be changed.*_replace\(pid="):
        got.pid = 9


def test_char_arrays_are_text() -> None:
    """Up to the first NUL: printed, formatted, compared, put into JSON and looked up as text."""
    raw = b"bash\0rest of it\0\0"[:16]
    text = event().decode(struct.pack("<I?3xQ16s3i4xii8x", 7, True, 9, raw, 1, 2, 3, -4, 5)).comm
    assert isinstance(text, str) and type(str(text)) is str
    assert str(text) == f"{text}" == text == "bash" and f"{text:>6}" == "  bash"
    assert text == b"bash" and text == b"bash" and text == raw and text.raw == bytes(text) == raw
    assert text != "bas" and text != b"bas" and text != "bash2" and text != 5 and text
    assert json.dumps(text) == '"bash"' and repr(text) == "'bash'"
    assert {"bash": 1}[text] == {text: 1}["bash"] == 1 and text in {"bash"}
    assert text.decode() == text.decode("utf-8", "strict") == "bash"
    assert copy.deepcopy(text).raw == pickle.loads(pickle.dumps(text)).raw == raw


def test_char_arrays_that_differ_behind_the_nul_are_not_equal() -> None:
    """As keys of a map they are two, so they are two keys of a dict."""
    one, two = CharArray(b"ab\0\0"), CharArray(b"ab\0x")
    assert one == "ab" == two and one != two and hash(one) == hash(two)
    assert len({one: 1, two: 2}) == 2 and CharArray(b"ab\0\0") == one


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (bytes(16), ""),
        (b"\xff\xfe".ljust(16, b"\0"), "\ufffd\ufffd"),
        ("Grüße".encode().ljust(16, b"\0"), "Grüße"),
        (b"x" * 15 + "ü".encode()[:1], "x" * 15 + "\ufffd"),  # cut in the middle
        (b"no NUL in sight!", "no NUL in sight!"),
    ],
)
@pytest.mark.parametrize("size", [16, 64])
def test_any_bytes_are_text(raw: bytes, text: str, size: int) -> None:
    """Short arrays (whose texts are kept) and long ones; bytes and value survive encoding."""
    one = make(Array(1, 5, size))
    raw = raw.ljust(size, b"\0")
    for _ in range(2):
        got = one.decode(raw)
        assert got == text and got.raw == raw and one.encode(got) == raw
    assert json.loads(json.dumps(got)) == text
    assert list(one.iter_unpack(raw * 3)) == [text] * 3


def test_kept_texts_are_few() -> None:
    """However many different names go through one field."""
    one = make(Array(1, 5, 16))
    names = [b"task %d" % number for number in range(5000)]
    assert [one.decode(name.ljust(16, b"\0")) == name for name in names] == [True] * 5000


def test_unsigned_char_arrays_are_bytes() -> None:
    """An address or a hash is not text."""
    one = make(Array(2, 5, 6))
    got = one.decode(b"\0\x16\x3e\0\0\1")
    assert type(got) is bytes and got == b"\0\x16\x3e\0\0\1" and one.encode(got) == got
    assert one.encode("ab") == b"ab\0\0\0\0" and one.encode(b"ab") == b"ab\0\0\0\0"
    assert one.encode([1, 255]) == one.encode((1, 255)) == b"\1\xff\0\0\0\0"
    for bad in ([256], [-1], ["a"], [1.5], [0] * 7):
        with pytest.raises(ValueError, match=r"numbers from 0 to 255|7 bytes given"):
            one.encode(bad)
    with pytest.raises(TypeError):
        one.encode(5)


def test_to_dict_goes_into_json() -> None:
    """Nested structs, arrays of them, enums, pointers, text, bytes, bit-fields and unions."""
    one = make(
        POINT,
        Int("unsigned char", 1, 8),
        Array(19, 4, 6),
        Array(18, 4, 2),
        Union("both", 4, (Member("i", 4, 0), Member("u", 5, 0))),
        Union("", 4, (Member("j", 4, 0), Member("v", 5, 0))),
        Struct(
            "all",
            96,
            (
                Member("comm", 14, 0),
                Member("mac", 20, 128),
                Member("points", 21, 192),
                Member("both", 22, 320),
                Member("", 23, 352),
                Member("colour", 12, 384),
                Member("next", 11, 448),
                Member("numbers", 15, 512),
                Member("ok", 8, 608),
                Member("low", 5, 616, 3),
                Member("big", 9, 640),
            ),
        ),
    )
    raw = b"bash\0junk".ljust(16, b"\0") + b"\1\2\3\4\5\6\0\0"
    raw += struct.pack("<4i", 1, 2, 3, 4) + b"\xff" * 4 + b"\xfe\xff\xff\xff"
    raw += struct.pack("<I4xQ3i?B2x", 5, 0xFFFF888000000000, 7, 8, 9, True, 0b101) + b"\xff" * 16
    value = one.decode(raw).to_dict()
    assert value == {
        "comm": "bash",
        "mac": [1, 2, 3, 4, 5, 6],
        "points": [{"x": 1, "y": 2}, {"x": 3, "y": 4}],
        "both": {"i": -1, "u": 2**32 - 1},
        "j": -2,
        "v": 2**32 - 2,
        "colour": 5,
        "next": 0xFFFF888000000000,
        "numbers": [7, 8, 9],
        "ok": True,
        "low": 5,
        "big": -1,
    }
    assert json.loads(json.dumps(value)) == value and type(value["comm"]) is str
    assert one.decode(raw).both.to_dict() == {"i": -1, "u": 2**32 - 1}
    assert one.decode(one.encode(value)).to_dict() == value  # and back


def test_to_dict_of_a_union_comes_back_whole() -> None:
    """A member that is written later does not clear what is padding in it."""
    builder = BtfBuilder()
    padded = Struct("padded", 8, (Member("small", 2, 0), Member("wide", 5, 32)))  # 18
    for t in (*BASICS, padded, Union("both", 8, (Member("l", 7, 0), Member("p", 18, 0)))):
        number = builder.add(t)
    one = codec(Btf(builder.build()), number)
    raw = b"\1\2\3\4\5\6\7\x08"
    assert one.encode(one.decode(raw).to_dict()) == raw


def test_views_of_wider_items_are_their_bytes() -> None:
    """The length that counts is that in bytes."""
    view = memoryview(array.array("I", [1, 2]))
    assert make(Array(2, 5, 12)).encode(view) == struct.pack("<II", 1, 2) + bytes(4)
    assert make(POINT).encode(view) == struct.pack("<II", 1, 2)
    with pytest.raises(ValueError, match="8 bytes given, at most 4"):
        make(Array(2, 5, 4)).encode(view)


def test_records_go_to_other_processes() -> None:
    """Pickled, they are equal, have the same attributes and can be stored."""
    one = make(
        POINT,
        Union("both", 8, (Member("i", 4, 0), Member("p", 18, 0))),
        Union("", 4, (Member("j", 4, 0), Member("v", 5, 0))),
        Struct(
            "all",
            48,
            (
                Member("comm", 14, 0),
                Member("both", 19, 128),
                Member("", 20, 192),
                Member("where", 18, 224),
                Member("args", 15, 288),
            ),
        ),
    )
    got = one.decode(bytes(range(48)))
    back = pickle.loads(pickle.dumps(got))
    assert back == got and repr(back) == repr(got) and back.to_dict() == got.to_dict()
    assert (back.j, back.v, back.where.y, back.both.p.x) == (got.j, got.v, got.where.y, got.both.i)
    assert back.comm.raw == got.comm.raw and back._replace(args=(1, 2, 3)).args == (1, 2, 3)
    assert one.encode(back) == one.encode(got)
    assert pickle.loads(pickle.dumps(back)) == back
    assert copy.deepcopy(got) is copy.copy(got) is got


def test_a_field_called_to_dict_does_not_hide_the_method() -> None:
    """It is in the dict."""
    one = make(Struct("odd", 4, (Member("to_dict", 4, 0),)))
    assert one.decode(b"\5\0\0\0").to_dict() == {"to_dict": 5}


def test_encoding_takes_many_forms() -> None:
    """Records, dicts (missing fields zero), sequences, bytes, str and names all encode."""
    one = event()
    raw = struct.pack("<I?3xQ16s3i4xii8x", 7, True, 9, b"bash", 1, 2, 3, -4, 5)
    got = one.decode(raw)
    forms = [
        got,
        tuple(got),
        [7, True, 9, "bash", [1, 2, 3], {"x": -4, "y": 5}],
        got._asdict(),
        {"pid": 7, "ok": 1, "ts": 9, "comm": b"bash", "args": (1, 2, 3), "where": (-4, 5)},
        raw,
        bytearray(raw),
    ]
    assert [one.encode(form) for form in forms] == [raw] * len(forms)
    assert one.encode({}) == bytes(64)
    assert one.encode({"args": [1]})[32:44] == struct.pack("<3i", 1, 0, 0)
    colour = make(BASICS[11])
    assert colour.encode("BLUE") == colour.encode(5) == b"\x05\0\0\0"
    # A record of another layout goes over by name.
    wide = make(Struct("point", 16, (Member("y", 6, 0), Member("x", 6, 64))))
    assert wide.encode(got.where) == struct.pack("<qq", 5, -4)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ({"pid": -1}, ValueError, "pid"),
        ({"pid": 1 << 32}, ValueError, "pid: .* does not fit 4"),
        ({"pid": "x"}, TypeError, "pid"),
        ({"pid": 1.5}, TypeError, "pid"),
        ({"ok": "yes"}, TypeError, "bool"),
        ({"comm": "x" * 17}, ValueError, "comm: 17 bytes"),
        ({"comm": 5}, TypeError, "comm"),
        ({"args": [1, 2, 3, 4]}, ValueError, "args: 4 items"),
        ({"args": [1, 1 << 31]}, ValueError, r"args: \[1\]"),
        ({"args": 5}, TypeError, "args"),
        ({"where": {"z": 1}}, ValueError, "where: struct point has no field 'z'"),
        ({"nope": 1}, ValueError, "no field 'nope'"),
        ((1, 2), ValueError, "2 values given"),
        (b"short", ValueError, "5 bytes given"),
        (5, TypeError, "dict or tuple"),
        ((-1, True, 9, b"", (), (0, 0)), ValueError, "pid"),
    ],
)
def test_values_that_do_not_fit(value: Any, error: type[Exception], text: str) -> None:
    """A wrong value names its field and never becomes wrong bytes."""
    with pytest.raises(error, match=text):
        event().encode(value)


def test_flat_structs_name_the_bad_field_too() -> None:
    """The one-call path falls back to the one that explains."""
    one = make(POINT)
    assert one.encode((1, 2)) == struct.pack("<ii", 1, 2)
    with pytest.raises(ValueError, match="y: 2147483648 does not fit"):
        one.encode((1, 1 << 31))
    with pytest.raises(ValueError, match="3 values"):
        one.encode((1, 2, 3))


def test_short_buffers() -> None:
    """Too few bytes are a ValueError that says how many are needed."""
    one = event()
    with pytest.raises(ValueError, match="64 bytes needed at offset 1, the buffer has 64"):
        one.decode(bytes(64), 1)
    with pytest.raises(ValueError, match="65 bytes given, not a multiple of 64"):
        one.iter_unpack(bytes(65))
    with pytest.raises(ValueError, match="size 0"):
        make(Struct("empty", 0)).iter_unpack(b"")


def test_bitfields() -> None:
    """Bit-fields of both signs, of bool and enum type, sharing bytes, over 8 bytes too."""
    one = make(
        Struct(
            "flags",
            24,
            (
                Member("a", 5, 0, 3),
                Member("b", 4, 3, 7),
                Member("flag", 8, 10, 1),
                Member("c", 12, 11, 3),
                Member("plain", 5, 32),
                Member("wide", 7, 64, 60),
                Member("over", 7, 124, 12),
            ),
            True,
        )
    )
    value = {"a": 5, "b": -30, "flag": True, "c": 5, "plain": 9, "wide": 1 << 59, "over": 0xABC}
    raw = one.encode(value)
    bits = 5 | (-30 & 0x7F) << 3 | 1 << 10 | 5 << 11 | 9 << 32 | 1 << (64 + 59) | 0xABC << 124
    assert int.from_bytes(raw, "little") == bits
    got = one.decode(raw)
    assert got._asdict() == value and got.flag is True
    assert one.encode(got) == raw
    assert list(one.iter_unpack(raw * 2)) == [got, got]
    for bad in ({"a": 8}, {"b": 64}, {"b": -65}, {"a": -1}):
        with pytest.raises(ValueError, match="bits"):
            one.encode(bad)
    with pytest.raises(TypeError):
        one.encode({"a": "x"})


def test_a_bitfield_beside_an_array_of_length_zero() -> None:
    """``struct point rest[0]; char bit : 1;``: both are at one place, and only one has bytes."""
    rest = (Member("first", 5, 0), Member("rest", 19, 32), Member("bit", 2, 32, 1))
    one = make(POINT, Array(18, 5, 0), Struct("odd", 8, (*rest, Member("last", 2, 40)), True))
    got = one.decode(struct.pack("<IBBxx", 7, 1, 9))
    assert got == (7, (), 1, 9)
    assert one.decode(one.encode(got)) == got


def test_bitfields_without_kind_flag() -> None:
    """Integers narrower than their size are bit-fields, as old compilers wrote them."""
    one = make(
        Int("unsigned int", 4, 3, 0),  # 18
        Int("int", 4, 5, 3, 1),  # 19: at bit 3 of its word
        Struct("old", 4, (Member("low", 18, 0), Member("high", 19, 0))),
    )
    got = one.decode(bytes([0b11111_101, 0, 0, 0]))
    assert (got.low, got.high) == (5, -1)


UNION = Union("number", 8, (Member("l", 7, 0), Member("i", 4, 0), Member("text", 14, 0)))


def test_unions() -> None:
    """A union is its bytes; members decode on demand and one of them encodes."""
    one = make(
        Union("number", 8, (Member("l", 7, 0), Member("i", 4, 0), Member("p", 18, 0))), POINT
    )
    builder = BtfBuilder()
    members = (Member("l", 7, 0), Member("i", 4, 0), Member("p", 18, 0), Member("bits", 5, 0, 4))
    for t in (*BASICS, POINT, Union("number", 8, members, True)):
        number = builder.add(t)
    one = codec(Btf(builder.build()), number)
    got = one.decode(b"\xfe\xff\xff\xff\x01\0\0\0")
    assert isinstance(got, UnionValue) and got == b"\xfe\xff\xff\xff\x01\0\0\0"
    assert (got.l, got.i, got.p.y, got.bits) == (0x1FFFFFFFE, -2, 1, 14)
    assert set(got._asdict()) == {"l", "i", "p", "bits"} and "i=-2" in repr(got)
    assert one.encode({"i": -2}) == b"\xfe\xff\xff\xff\0\0\0\0"
    assert one.encode({"p": (1, 2)}) == struct.pack("<ii", 1, 2)
    assert one.encode({"bits": 9}) == b"\x09" + bytes(7)
    assert one.encode(got) == got
    for bad in ({"nope": 1}, {"i": 1 << 40}, b"123"):
        with pytest.raises(ValueError, match=r"nope|i: |3 bytes"):
            one.encode(bad)
    with pytest.raises(TypeError):
        one.encode(5)


def test_anonymous_members() -> None:
    """Fields of anonymous structs and unions, nested in each other, belong to the record."""
    one = make(
        Struct("", 8, (Member("c", 4, 0), Member("d", 4, 32))),  # 18
        Union("", 8, (Member("whole", 7, 0), Member("", 18, 0))),  # 19
        Struct("", 16, (Member("b", 7, 0), Member("", 19, 64))),  # 20
        Struct("outer", 24, (Member("a", 7, 0), Member("", 20, 64))),
    )
    got = one.decode(struct.pack("<QQii", 1, 2, 3, -4))
    assert (got.a, got.b, got.c, got.d) == (1, 2, 3, -4)
    assert got.whole == 3 | (-4 & 0xFFFFFFFF) << 32
    assert set(got._asdict()) == {"a", "b", "c", "d", "whole"}
    assert got._fields == ("a", "b", "")
    assert one.encode(got._asdict()) == one.encode(got) == struct.pack("<QQii", 1, 2, 3, -4)
    assert one.encode({"d": 7}) == struct.pack("<QQii", 0, 0, 0, 7)
    assert one.encode({"a": 1, "whole": 5}) == struct.pack("<QQQ", 1, 0, 5)
    with pytest.raises(ValueError, match="no field 'e'"):
        one.encode({"e": 1})


def test_arrays_of_everything() -> None:
    """Arrays of structs, of arrays, of char arrays, of nothing."""
    points = make(POINT, Array(18, 5, 2))
    assert points.decode(struct.pack("<4i", 1, 2, 3, 4))[1].x == 3
    assert points.encode([(1, 2), {"x": 3, "y": 4}]) == struct.pack("<4i", 1, 2, 3, 4)
    grid = make(Array(15, 5, 2))
    assert grid.decode(struct.pack("<6i", *range(6))) == ((0, 1, 2), (3, 4, 5))
    assert grid.encode([[0, 1, 2], (3, 4, 5)]) == struct.pack("<6i", *range(6))
    names = make(Array(14, 5, 2))
    assert [str(n) for n in names.decode(b"ab".ljust(16, b"\0") + b"cd".ljust(16, b"\0"))] == [
        "ab",
        "cd",
    ]
    assert make(Array(4, 5, 0)).decode(b"") == () and make(Array(1, 5, 0)).decode(b"") == b""
    assert make(Array(3, 5, 2)).decode(b"\xff\x01") == (-1, 1)  # signed char is a number
    assert make(Array(2, 5, 2)).decode(b"\xff\x01") == b"\xff\x01"
    flexible = make(Array(4, 5, 0), Struct("flex", 4, (Member("n", 4, 0), Member("d", 18, 32))))
    assert flexible.decode(b"\x05\0\0\0") == (5, ())
    empties = make(Struct("none", 0), Array(18, 5, 3))
    assert empties.decode(b"") == ()


def test_odd_names_and_overlaps() -> None:
    """Names that clash with ours, and fields that overlap, still decode."""
    clash = make(
        Struct(
            "clash", 12, (Member("count", 4, 0), Member("_asdict", 4, 32), Member("class", 4, 64))
        )
    )
    got = clash.decode(struct.pack("<3i", 1, 2, 3))
    assert got.count == 1 and got._asdict() == {"count": 1, "_asdict": 2, "class": 3}
    assert getattr(got, "class") == 3
    over = make(
        Struct(
            "over",
            8,
            (Member("all", 7, 0), Member("low", 4, 0), Member("bits", 5, 36, 4)),
            True,
        )
    )
    got = over.decode(b"\x01\0\0\0\x20\0\0\0")
    assert got._asdict() == {"all": 0x20_0000_0001, "low": 1, "bits": 2}


@pytest.mark.parametrize(
    "types",
    [
        [FuncProto(0)],
        [Fwd("f")],
        [Typedef("v", 0)],
        [Struct("s", 4, (Member("x", 6, 0),))],
        [Struct("s", 8, (Member("x", 4, 3),))],
        [Struct("s", 8, (Member("x", 14, 0, 3),), True)],
        [Struct("s", 8, (Member("x", 2, 0, 30),), True)],
        [Struct("s", 8, (Member("x", 18, 0),))],
        [Struct("s", 8, (Member("", 18, 0),))],
        [Array(4, 5, 2**31)],
        [Array(1, 5, 2**31)],
        [Struct("s", 2**31)],
        [Enum("e", 3)],
    ],
)
def test_types_without_values(types: list[Type]) -> None:
    """Types that have no values, or contradict themselves, are refused as malformed."""
    with pytest.raises(ObjectFormatError) as err:
        make(*types)
    assert err.value.section == ".BTF"


# Against ctypes: random C structs, laid out by ctypes.

LEAVES: list[tuple[int, Any]] = [
    (2, ctypes.c_uint8),
    (16, ctypes.c_int16),
    (4, ctypes.c_int32),
    (5, ctypes.c_uint32),
    (6, ctypes.c_int64),
    (7, ctypes.c_uint64),
    (8, ctypes.c_bool),
    (10, ctypes.c_double),
    (15, ctypes.c_int32 * 3),
]
BIT_LEAVES: list[tuple[int, Any]] = [(4, ctypes.c_int32), (5, ctypes.c_uint32)]
SHAPES = st.recursive(
    st.one_of(
        st.sampled_from([("leaf", i) for i in range(len(LEAVES))]),
        st.tuples(st.just("bits"), st.integers(0, 1), st.integers(1, 31)),
    ),
    lambda inner: st.tuples(st.just("struct"), st.lists(inner, min_size=1, max_size=5)),
    max_leaves=12,
)


def build(builder: BtfBuilder, fields: list[Any], name: str) -> tuple[int, type[ctypes.Structure]]:
    """The same struct in ctypes and in BTF, whose offsets come from ctypes."""
    ids, entries = [], []
    for number, shape in enumerate(fields):
        if shape[0] == "leaf":
            type_id, c = LEAVES[shape[1]]
            entries.append((f"f{number}", c))
        elif shape[0] == "bits":
            type_id, c = BIT_LEAVES[shape[1]]
            entries.append((f"f{number}", c, shape[2]))
        else:
            type_id, c = build(builder, shape[1], f"{name}_{number}")
            entries.append((f"f{number}", c))
        ids.append(type_id)
    made = type(name, (ctypes.Structure,), {"_fields_": entries})
    members = []
    for entry, type_id in zip(entries, ids, strict=True):
        field = getattr(made, entry[0])
        if len(entry) == 3:
            at = field.offset * 8 + (field.size & 0xFFFF)
            members.append(Member(entry[0], type_id, at, field.size >> 16))
        else:
            members.append(Member(entry[0], type_id, field.offset * 8))
    size = ctypes.sizeof(made)
    return builder.add(Struct(name, size, tuple(members), True)), made


def check_equal(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, ctypes.Structure):
        for entry in theirs._fields_:
            check_equal(getattr(mine, entry[0]), getattr(theirs, entry[0]))
    elif isinstance(theirs, ctypes.Array):
        assert mine == tuple(theirs)
    else:
        assert mine == theirs or (mine != mine and theirs != theirs)


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=6), st.data())
def test_layouts_are_those_of_c(fields: list[Any], data: st.DataObject) -> None:
    """Random structs decode to what ctypes sees in the same bytes, and encode back."""
    builder = BtfBuilder()
    for t in BASICS:
        builder.add(t)
    type_id, made = build(builder, fields, "s")
    btf = Btf(builder.build())
    one = codec(btf, type_id)
    raw = data.draw(st.binary(min_size=one.size, max_size=one.size))
    theirs = made.from_buffer_copy(raw)
    mine = one.decode(raw)
    check_equal(mine, theirs)
    assert one.size == ctypes.sizeof(made)
    again = one.decode(one.encode(mine))
    check_equal(again, theirs)
    assert one.encode(again) == one.encode(mine) == one.encode(mine._asdict())
    assert len(list(one.iter_unpack(raw * 3))) == 3


def test_every_kernel_struct_has_a_codec() -> None:
    """A sample of the kernel's structs round-trips through records and dicts."""
    btf = Btf(gzip.decompress((DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz").read_bytes()))
    done = 0
    for type_id in btf.ids(BtfKind.STRUCT)[::61]:
        one = codec(btf, type_id)
        assert one.size == btf.sizeof(type_id)
        zero = one.decode(bytes(one.size))
        assert one.encode(zero) == bytes(one.size) == one.encode(zero._asdict())
        done += 1
    assert done > 100


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_types(edits: list[tuple[int, int]]) -> None:
    """Codecs of forged types exist or are refused as malformed, nothing else."""
    builder = BtfBuilder()
    inner = Union("", 8, (Member("whole", 7, 0), Member("", 18, 0)))
    outer = Struct("o", 72, (Member("e", 19, 0), Member("", 20, 512)))
    for t in (*BASICS, POINT, EVENT, inner, outer, Array(21, 5, 4)):
        builder.add(t)
    blob = bytearray(builder.build())
    for at, value in edits:
        blob[24 + at % (len(blob) - 24)] = value
    try:
        btf = Btf(bytes(blob))
        ids = range(1, btf.nr_types)
    except ObjectFormatError:
        return
    for type_id in ids:
        try:
            one = codec(btf, type_id)
        except ObjectFormatError:
            continue
        if one.size < 1 << 16:
            assert one.encode(one.decode(bytes(one.size))) == bytes(one.size)


def test_values_with_bytes_around_them() -> None:
    """`before` and `after` pass over headers and padding, as in a ring buffer."""
    one = make(Struct("pair", 8, (Member("a", 5, 0), Member("b", 5, 32))))
    rows = [struct.pack("<8xII4x", i, i + 1) for i in range(50)]
    assert list(one.iter_unpack(b"".join(rows), before=8, after=4)) == [
        (i, i + 1) for i in range(50)
    ]
    with pytest.raises(ValueError, match="not a multiple of 20"):
        one.iter_unpack(bytes(30), before=8, after=4)


def test_a_data_section_is_a_record_of_its_variables() -> None:
    """Statics may share a name: the later one has its place in its name."""
    made = make(
        Var("count", 5),  # 18
        Var("label", 14),  # 19
        Var("count", 4),  # 20
        Datasec(
            ".data",
            28,
            (VarSecinfo(18, 0, 4), VarSecinfo(19, 4, 16), VarSecinfo(20, 24, 4)),
        ),
    )
    raw = struct.pack("<I16s4xi", 7, b"abc", -7)
    value = made.decode(raw)
    assert (value.count, value.label, value[2]) == (7, "abc", -7)
    assert value.to_dict() == {"count": 7, "label": "abc", "count@0x18": -7}
    assert made.encode(value) == made.encode(value.to_dict()) == raw


def test_a_variable_outside_its_section() -> None:
    with pytest.raises(ObjectFormatError, match="ends before its member 'count'"):
        make(Var("count", 5), Datasec(".data", 4, (VarSecinfo(18, 2, 4),)))


def test_a_section_that_cannot_be_typed_is_bytes() -> None:
    """One forged variable hides nothing. A section of an object not loaded yet is bytes, too."""
    builder = BtfBuilder()
    for t in (*BASICS, FuncProto(0), Var("odd", 18), Var("count", 5)):
        builder.add(t)
    odd = builder.add(Datasec(".data", 4, (VarSecinfo(19, 0, 4),)))
    good = builder.add(Datasec(".bss", 4, (VarSecinfo(20, 0, 4),)))
    btf = Btf(builder.build())

    def kind(type_id: int, *, sections: bool = True) -> type[Field]:
        return type(value_field(MapType.BPF_MAP_TYPE_ARRAY, 4, 0, btf, type_id, sections=sections))

    assert kind(odd) is BytesField
    assert kind(good) is CodecField
    assert kind(good, sections=False) is BytesField
