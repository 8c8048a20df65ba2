"""pybpf.btf.encode: what is written reads back; object BTF becomes loadable; old kinds stand in."""

from __future__ import annotations

import dataclasses
import string

import pytest
from hypothesis import given, settings
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
    Linkage,
    Member,
    Param,
    Ptr,
    Restrict,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Unknown,
    Var,
    VarSecinfo,
    Void,
    Volatile,
)
from pybpf.btf.encode import BTF_FEATURES, BtfBuilder, fixup_for_load, sanitize
from pybpf.errors import ObjectFormatError
from tests.support.examples import examples

IDS = st.integers(0, 20)  # 20 types are built, so every reference exists
U32 = st.integers(0, 2**32 - 1)
NAMES = st.text(string.ascii_letters + string.digits + "_.äé", max_size=8)
MEMBERS = st.lists(st.builds(Member, NAMES, IDS, U32), max_size=5).map(tuple)
BITFIELDS = st.lists(
    st.builds(Member, NAMES, IDS, st.integers(0, 2**24 - 1), st.integers(0, 255)), max_size=5
).map(tuple)
TYPES = st.one_of(
    st.builds(Int, NAMES, U32, *[st.integers(0, 255)] * 2, st.integers(0, 15)),
    st.builds(Ptr, IDS),
    st.builds(Array, IDS, IDS, U32),
    st.builds(Struct, NAMES, U32, MEMBERS),
    st.builds(Struct, NAMES, U32, BITFIELDS, st.just(True)),
    st.builds(Union, NAMES, U32, MEMBERS),
    st.builds(Union, NAMES, U32, BITFIELDS, st.just(True)),
    st.builds(Enum, NAMES, U32, st.lists(st.builds(EnumValue, NAMES, U32), max_size=4).map(tuple)),
    st.builds(
        Enum,
        NAMES,
        U32,
        st.lists(st.builds(EnumValue, NAMES, st.integers(-(2**31), 2**31 - 1))).map(tuple),
        st.just(True),
    ),
    st.builds(Fwd, NAMES, st.booleans()),
    st.builds(Typedef, NAMES, IDS),
    st.builds(Volatile, IDS),
    st.builds(Const, IDS),
    st.builds(Restrict, IDS),
    st.builds(Func, NAMES, IDS, st.integers(0, 2)),
    st.builds(FuncProto, IDS, st.lists(st.builds(Param, NAMES, IDS), max_size=6).map(tuple)),
    st.builds(Var, NAMES, IDS, st.integers(0, 2)),
    st.builds(
        Datasec, NAMES, U32, st.lists(st.builds(VarSecinfo, IDS, U32, U32), max_size=4).map(tuple)
    ),
    st.builds(Float, NAMES, U32),
    st.builds(DeclTag, NAMES, IDS, st.integers(-1, 2**31 - 1), st.booleans()),
    st.builds(TypeTag, NAMES, IDS, st.booleans()),
    st.builds(
        Enum64,
        NAMES,
        U32,
        st.lists(st.builds(EnumValue, NAMES, st.integers(-(2**63), 2**63 - 1))).map(tuple),
        st.just(True),
    ),
    st.builds(
        Enum64,
        NAMES,
        U32,
        st.lists(st.builds(EnumValue, NAMES, st.integers(0, 2**64 - 1))).map(tuple),
    ),
)


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(TYPES, min_size=20, max_size=20), st.integers(0, 19))
def test_round_trip(types: list[Type], split: int) -> None:
    """Any types written read back equal, as one BTF and split over a base and its continuation."""
    whole = BtfBuilder()
    assert [whole.add(t) for t in types] == list(range(1, 21))
    read = Btf(whole.build())
    assert [t for _, t in read.types()] == types
    low = BtfBuilder()
    for t in types[:split]:
        low.add(t)
    base = Btf(low.build())
    high = BtfBuilder(base)
    for t in types[split:]:
        high.add(t)
    both = Btf(high.build(), base=base)
    upper = [both.type(i) for i in range(base.nr_types, 21)]
    assert upper == types[split:] and both.nr_types == 21


@pytest.mark.parametrize(
    "bad",
    [
        Ptr(-1),
        Ptr(1 << 32),
        Int("i", 4, 256),
        Int("i", 4, 32, 0, 16),
        Enum("e", 4, (EnumValue("v", -1),)),
        Enum("e", 4, (EnumValue("v", 1 << 31),), True),
        Enum64("e", 8, (EnumValue("v", 1 << 64),)),
        Struct("s", 4, (Member("m", 1, 1 << 24, 3),)),
        Struct("s", 4, (Member("m", 1, 0, 256),)),
        Typedef("nul\0in", 1),
        DeclTag("t", 1, -2),
        Void(),
        Unknown("u", 25),
    ],
)
def test_what_does_not_fit_is_refused(bad: Type) -> None:
    """Each field out of range is a ValueError, never a wrong record."""
    with pytest.raises(ValueError, match=r"."):
        BtfBuilder().add(bad)


def test_strings_are_shared() -> None:
    """A name is stored once."""
    b = BtfBuilder()
    b.add(Typedef("same", 0))
    b.add(Fwd("same"))
    assert b.build().count(b"same") == 1
    assert b.string("") == 0 and b.string("same") == 1


def object_btf() -> BtfBuilder:
    """What clang writes for an object with globals, externs and a kfunc."""
    b = BtfBuilder()
    b.add(Int("int", 4, 32, 0, 1))  # 1
    b.add(Int("char", 1, 8, 0, 1))  # 2
    b.add(Int("unsigned long", 8, 64))  # 3
    b.add(Var("g2", 1, Linkage.GLOBAL))  # 4
    b.add(Var("g1", 3, Linkage.GLOBAL))  # 5
    b.add(Var("hid", 1, Linkage.GLOBAL))  # 6
    b.add(Var("st", 1, Linkage.STATIC))  # 7
    b.add(
        Datasec(
            ".data",
            0,
            (VarSecinfo(4, 0, 4), VarSecinfo(5, 0, 8), VarSecinfo(6, 0, 4), VarSecinfo(7, 20, 4)),
        )
    )  # 8
    b.add(FuncProto(1, (Param("", 1), Param("named", 3))))  # 9
    b.add(Func("kfunc", 9, Linkage.EXTERN))  # 10
    b.add(Var("ksym", 0, Linkage.EXTERN))  # 11
    b.add(Datasec(".ksyms", 0, (VarSecinfo(10, 0, 0), VarSecinfo(11, 0, 0))))  # 12
    b.add(Var("CONFIG_B", 2, Linkage.EXTERN))  # 13
    b.add(Var("CONFIG_A", 2, Linkage.EXTERN))  # 14
    b.add(Var("CONFIG_HZ", 3, Linkage.EXTERN))  # 15
    b.add(Datasec(".kconfig", 0, tuple(VarSecinfo(i, 0, 0) for i in (13, 14, 15))))  # 16
    b.add(Func("sub", 9, Linkage.GLOBAL))  # 17
    b.add(Func("main", 9, Linkage.GLOBAL))  # 18
    return b


OFFSETS = {(".data", "g2"): 8, (".data", "g1"): 0, (".data", "hid"): 12}


def test_fixup_makes_sections_whole() -> None:
    """Sizes, offsets, order, externs and hidden symbols come out as the kernel wants them."""
    before = Btf(object_btf().build())
    blob = fixup_for_load(before, {".data": 24}, OFFSETS, static_vars={"hid"}, static_funcs={"sub"})
    after = Btf(blob)
    after.validate()
    assert after.type(8) == Datasec(
        ".data",
        24,
        (VarSecinfo(5, 0, 8), VarSecinfo(4, 8, 4), VarSecinfo(6, 12, 4), VarSecinfo(7, 20, 4)),
    )
    assert after.type(6) == Var("hid", 1, Linkage.STATIC)
    assert after.type(10) == Func("kfunc", 9, Linkage.GLOBAL)
    assert after.type(9) == FuncProto(1, (Param("dummy_ksym", 1), Param("named", 3)))
    assert after.type(11) == Var("ksym", 1, Linkage.GLOBAL)
    assert after.type(19) == Var("dummy_ksym", 1, Linkage.GLOBAL)
    assert after.type(12) == Datasec(".ksyms", 8, (VarSecinfo(19, 0, 4), VarSecinfo(11, 4, 4)))
    assert after.type(16) == Datasec(
        ".kconfig", 10, (VarSecinfo(15, 0, 8), VarSecinfo(14, 8, 1), VarSecinfo(13, 9, 1))
    )
    assert [after.type(i).linkage for i in (13, 14, 15, 17, 18)] == [1, 1, 1, 0, 1]
    untouched = [1, 2, 3, 5, 7, 18]
    assert [after.type(i) for i in untouched] == [before.type(i) for i in untouched]
    assert before.raw == object_btf().build()


def test_fixup_keeps_a_linked_objects_layout() -> None:
    """A section whose size is known (bpftool gen object) keeps its offsets."""
    b = BtfBuilder()
    b.add(Int("int", 4, 32))
    b.add(Var("v", 1, Linkage.GLOBAL))
    b.add(Datasec(".bss", 16, (VarSecinfo(2, 12, 4),)))
    after = Btf(fixup_for_load(Btf(b.build()), {}, {}))
    assert after.type(3) == Datasec(".bss", 16, (VarSecinfo(2, 12, 4),))


def test_kconfig_offsets_can_be_given() -> None:
    """A caller that placed the variables itself has the last word."""
    sizes = {".data": 24, ".kconfig": 64}
    given_offsets = {(".kconfig", "CONFIG_HZ"): 40}
    after = Btf(fixup_for_load(Btf(object_btf().build()), sizes, {**OFFSETS, **given_offsets}))
    t = after.type(16)
    assert isinstance(t, Datasec) and t.size == 64
    assert t.entries[-1] == VarSecinfo(15, 40, 8)


@pytest.mark.parametrize(
    ("types", "text"),
    [
        ([Datasec(".data", 0)], "size of section"),
        ([Datasec(".rodata", 0, (VarSecinfo(0, 0, 4),))], "not a variable"),
        ([Datasec(".ksyms", 0, (VarSecinfo(0, 0, 4),))], "32-bit integer"),
        ([Datasec(".kconfig", 0, (VarSecinfo(0, 0, 4),))], "not a variable"),
        (
            [Datasec(".rodata", 0, (VarSecinfo(2, 0, 4),)), Var("v", 3, 1), Int("i", 4, 32)],
            "symbol",
        ),
        ([Datasec(".ksyms", 0, (VarSecinfo(2, 0, 4),)), Int("i", 4, 32)], "neither"),
    ],
)
def test_fixup_errors(types: list[Type], text: str) -> None:
    """Objects whose sections do not fit together are refused by name."""
    b = BtfBuilder()
    for t in types:
        b.add(t)
    with pytest.raises(ObjectFormatError, match=text) as err:
        fixup_for_load(Btf(b.build()), {".rodata": 8}, {})
    assert err.value.section == ".BTF"


def test_sanitize_without_a_change_gives_the_same_bytes() -> None:
    """A kernel that knows everything, or nothing that is in the blob, sees the blob."""
    b = BtfBuilder()
    b.add(Int("int", 4, 32))
    blob = b.build()
    assert sanitize(blob, BTF_FEATURES) is blob
    assert sanitize(blob, ()) is blob


def test_sanitize_replaces_what_is_new() -> None:
    """Each kind becomes the one libbpf puts in its place, ids stay."""
    b = BtfBuilder()
    b.add(Int("int", 4, 32))  # 1
    b.add(Float("float", 4))  # 2
    b.add(TypeTag("user", 1))  # 3
    b.add(DeclTag("tag", 1, -1))  # 4
    b.add(Enum64("e", 8, (EnumValue("A", 1 << 40), EnumValue("B", 2))))  # 5
    b.add(Enum("s", 4, (EnumValue("N", -1),), True))  # 6
    b.add(FuncProto(1, (Param("x", 1), Param("", 1))))  # 7
    b.add(Func("f", 7, Linkage.GLOBAL))  # 8
    b.add(Var("v", 1, Linkage.GLOBAL))  # 9
    b.add(Datasec("?.data", 8, (VarSecinfo(9, 4, 4),)))  # 10
    blob = b.build()
    original = Btf(blob)

    def one(feature: str) -> dict[int, Type]:
        after = Btf(sanitize(blob, set(BTF_FEATURES) - {feature}))
        after.validate()
        return {i: t for i, t in after.types() if i > 10 or t != original.type(i)}

    assert one("float") == {2: Struct("", 4)}
    assert one("type_tag") == {3: Const(1)}
    assert one("decl_tag") == {4: Int("tag", 1, 8)}
    assert one("enum64") == {
        5: Union("e", 8, (Member("A", 11, 0), Member("B", 11, 0))),
        6: Enum("s", 4, (EnumValue("N", 2**32 - 1),)),
        11: Int("enum64_placeholder", 1, 8),
    }
    tag = {4: Int("tag", 1, 8)}
    enum = Enum("", 4, (EnumValue("x", 1), EnumValue("arg1", 1)))
    assert one("func") == {7: enum, 8: Typedef("f", 7), **tag}
    assert one("func_global") == {8: Func("f", 7, 0)}
    assert one("datasec") == {
        9: Int("v", 1, 8),
        10: Struct("__data", 8, (Member("v", 9, 32),)),
        **tag,
    }
    assert one("qmark_datasec") == {10: Datasec("_.data", 8, (VarSecinfo(9, 4, 4),))}
    assert set(BTF_FEATURES) == {
        "float", "type_tag", "decl_tag", "enum64", "func", "func_global", "datasec",
        "qmark_datasec",
    }  # fmt: skip


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(TYPES, min_size=20, max_size=20), st.sets(st.sampled_from(sorted(BTF_FEATURES))))
def test_sanitize_any_blob(types: list[Type], features: set[str]) -> None:
    """Whatever a blob holds, the result decodes, has the same ids and no missing kind."""
    b = BtfBuilder()
    for t in types:
        b.add(t)
    after = Btf(sanitize(b.build(), features))
    after.validate()
    assert after.nr_types in (21, 22)
    gone = {"datasec": 15, "float": 16, "decl_tag": 17, "type_tag": 18, "enum64": 19, "func": 13}
    for feature, kind in gone.items():
        if feature not in features:
            assert not after.ids(kind)


def test_every_writable_kind_is_in_the_strategy() -> None:
    """The round trip covers all kinds, so a new one cannot be forgotten."""
    import pybpf.btf.types as module

    writable = {
        cls.KIND
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Type) and dataclasses.is_dataclass(cls)
        and hasattr(cls, "KIND") and cls is not Void
    }  # fmt: skip
    assert writable == set(BtfKind) - {BtfKind.UNKN}
