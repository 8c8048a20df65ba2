"""BTF-defined maps: members, sizes, conflicts and nesting, on BTF built here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.btf import (
    Array,
    Btf,
    Const,
    Enum,
    Enum64,
    EnumValue,
    FuncProto,
    Int,
    Member,
    Ptr,
    Struct,
    Typedef,
)
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import ObjectFormatError
from pybpf.obj.mapdefs import parse, ring_size
from pybpf.obj.spec import MapSpec

HASH, ARRAY, PROG_ARRAY, ARRAY_OF_MAPS, RINGBUF = 1, 2, 3, 12, 27


class Definition:
    """Builds the struct that defines a map, member by member."""

    def __init__(self) -> None:
        self.types = BtfBuilder()
        self.int = self.types.add(Int("int", 4, 32, 0, 1))
        self.members: list[Member] = []

    def member(self, name: str, type_id: int) -> None:
        self.members.append(Member(name, type_id, 64 * len(self.members)))

    def number(self, name: str, value: int) -> Definition:
        array = self.types.add(Array(self.int, self.int, value))
        self.member(name, self.types.add(Ptr(array)))
        return self

    def type(self, name: str, type_id: int) -> Definition:
        self.member(name, self.types.add(Ptr(type_id)))
        return self

    def values(self, target: int, nelems: int = 0) -> Definition:
        pointer = self.types.add(Ptr(target))
        self.member("values", self.types.add(Array(pointer, self.int, nelems)))
        return self

    def struct(self) -> int:
        done = self.types.add(Struct("", 8 * len(self.members), tuple(self.members)))
        self.members = []
        return done

    def parse(self) -> MapSpec:
        struct = self.struct()
        btf = Btf(self.types.build())
        definition = btf.type(struct)
        assert isinstance(definition, Struct)
        return parse(btf, "m", definition, ObjectFormatError)


def refusal(definition: Definition) -> str:
    with pytest.raises(ObjectFormatError) as caught:
        definition.parse()
    return caught.value.what


def test_all_numbers() -> None:
    """Every member that is a number reaches the field of its name."""
    spec = (
        Definition()
        .number("type", HASH)
        .number("max_entries", 77)
        .number("map_flags", 5)
        .number("numa_node", 2)
        .number("key_size", 12)
        .number("value_size", 34)
        .number("pinning", 1)
        .number("map_extra", 9)
        .parse()
    )
    assert (spec.type, spec.max_entries, spec.map_flags, spec.numa_node) == (HASH, 77, 5, 2)
    assert (spec.key_size, spec.value_size, spec.pinning, spec.map_extra) == (12, 34, 1, 9)
    assert (spec.key_type_id, spec.value_type_id) == (0, 0)


def test_key_and_value_types() -> None:
    """Types give sizes and ids, through typedefs; a struct's is its whole size."""
    d = Definition()
    value = d.types.add(Struct("v", 24, ()))
    alias = d.types.add(Typedef("key_t", d.int))
    spec = d.number("type", HASH).type("key", alias).type("value", value).parse()
    assert (spec.key_size, spec.key_type_id) == (4, alias)
    assert (spec.value_size, spec.value_type_id) == (24, value)


def test_numbers_through_modifiers() -> None:
    """The pointer may be const; what it points to must be an array."""
    d = Definition()
    array = d.types.add(Array(d.int, d.int, ARRAY))
    pointer = d.types.add(Const(d.types.add(Ptr(array))))
    d.member("type", pointer)
    assert d.parse().type == ARRAY


def test_size_and_type_may_both_be_given() -> None:
    """key_size next to key, if they agree, in any order."""
    first = Definition()
    first.number("type", HASH).number("key_size", 4).type("key", first.int)
    second = Definition()
    second.number("type", HASH).type("key", second.int).number("key_size", 4)
    assert first.parse().key_size == second.parse().key_size == 4


@pytest.mark.parametrize("what", ["key", "value"])
def test_conflicting_sizes(what: str) -> None:
    """Two sizes that differ are refused, whichever comes first."""
    d = Definition()
    d.number("type", HASH).number(what + "_size", 8).type(what, d.int)
    assert f"{what}_size is 8 and 4" in refusal(d)
    d = Definition()
    d.number("type", HASH).type(what, d.int).number(what + "_size", 8)
    assert f"{what}_size is 4 and 8" in refusal(d)


@pytest.mark.parametrize("cls", [Enum, Enum64])
def test_map_extra_as_enum(cls: type[Enum] | type[Enum64]) -> None:
    """__ulong: the only value of an enum, 64 bits wide."""
    d = Definition().number("type", HASH)
    value = 0xFFFF_FFFF if cls is Enum else 0x1234_5678_9ABC_DEF0
    d.member("map_extra", d.types.add(cls("", 8, (EnumValue("x", value),))))
    assert d.parse().map_extra == value


def test_map_extra_needs_one_value() -> None:
    """An enum with two values is not a number."""
    d = Definition().number("type", HASH)
    values = (EnumValue("a", 1), EnumValue("b", 2))
    d.member("map_extra", d.types.add(Enum("", 4, values)))
    assert "map_extra" in refusal(d)


def test_inner_map() -> None:
    """An array of maps carries its inner definition and 4-byte values."""
    d = Definition()
    inner = d.number("type", ARRAY).number("max_entries", 3).number("value_size", 8).struct()
    spec = d.number("type", ARRAY_OF_MAPS).number("max_entries", 2).values(inner).parse()
    assert spec.value_size == 4
    assert spec.inner is not None
    assert spec.inner.name == "m.inner"
    assert (spec.inner.type, spec.inner.max_entries, spec.inner.value_size) == (ARRAY, 3, 8)


def test_program_array() -> None:
    """A program array's values point to functions and make no inner map."""
    d = Definition().number("type", PROG_ARRAY)
    spec = d.values(d.types.add(FuncProto(d.int))).parse()
    assert spec.inner is None
    assert spec.value_size == 4


def malformed() -> dict[str, Definition]:
    """Definitions that make no sense, by what the error says."""
    cases: dict[str, Definition] = {}
    cases["the map has no type"] = Definition().number("max_entries", 1)
    cases["unknown member 'typo'"] = Definition().number("type", HASH).number("typo", 1)
    cases["invalid pinning 2"] = Definition().number("type", HASH).number("pinning", 2)
    d = cases["'max_entries' is not a pointer to an array"] = Definition().number("type", HASH)
    d.type("max_entries", d.int)
    d = cases["member 'key' is not a pointer"] = Definition().number("type", HASH)
    d.member("key", d.int)
    d = cases["holds neither maps nor programs"] = Definition().number("type", HASH)
    d.values(d.types.add(FuncProto(d.int)))
    d = cases["not an array of length zero"] = Definition().number("type", PROG_ARRAY)
    d.values(d.types.add(FuncProto(d.int)), nelems=2)
    d = cases["does not hold pointers to functions"] = Definition().number("type", PROG_ARRAY)
    d.values(d.int)
    d = cases["not hold pointers to map definitions"] = Definition().number("type", ARRAY_OF_MAPS)
    d.values(d.int)
    d = cases["does not hold pointers"] = Definition().number("type", ARRAY_OF_MAPS)
    d.member("values", d.types.add(Array(d.int, d.int, 0)))
    d = cases["'values' is not the last one"] = Definition().number("type", PROG_ARRAY)
    d.values(d.types.add(FuncProto(d.int))).number("max_entries", 2)
    d = cases["value_size is 8 and 4"] = Definition().number("type", PROG_ARRAY)
    d.number("value_size", 8).values(d.types.add(FuncProto(d.int)))
    d = cases["itself a map of maps"] = Definition()
    leaf = d.number("type", ARRAY).struct()
    nested = d.number("type", ARRAY_OF_MAPS).values(leaf).struct()
    d.number("type", ARRAY_OF_MAPS).values(nested)
    d = cases["inner map is pinned"] = Definition()
    pinned = d.number("type", ARRAY).number("pinning", 1).struct()
    d.number("type", ARRAY_OF_MAPS).values(pinned)
    d = cases["does not fit in 32 bits"] = Definition().number("type", HASH)
    d.type("value", d.types.add(Array(d.int, d.int, 0xFFFFFFFF)))
    return cases


@pytest.mark.parametrize("says", malformed())
def test_malformed(says: str) -> None:
    """Each definition that makes no sense is refused with its own reason."""
    assert says in refusal(malformed()[says])


def test_ring_buffers_are_rounded() -> None:
    """A ring's size in a definition becomes a power of two of pages."""
    assert Definition().number("type", RINGBUF).number("max_entries", 5000).parse().max_entries == (
        8192
    )
    assert Definition().number("type", HASH).number("max_entries", 5000).parse().max_entries == 5000


@given(st.integers(0, 0xFFFFFFFF))
def test_ring_size(size: int) -> None:
    """The least power of two of pages that holds the size; 0 and sizes past 2 GiB stay."""
    rounded = ring_size(size)
    if size == 0 or size > 1 << 31:
        assert rounded == size
        return
    assert rounded % 4096 == 0 and (rounded // 4096).bit_count() == 1
    assert rounded >= size
    assert rounded == 4096 or rounded // 2 < size
