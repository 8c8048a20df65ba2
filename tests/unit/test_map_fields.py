"""Map keys and values to bytes and back, per-CPU values, and hints for refused maps."""

from __future__ import annotations

import errno
import struct
from collections import namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf._uapi.enums import MapType
from pybpf.btf import Btf, Int, Member, Struct
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.values import codec
from pybpf.maps import hints
from pybpf.maps.fields import (
    BytesField,
    CodecField,
    FdField,
    Field,
    IntField,
    LpmField,
    PerCpuField,
    StackField,
)
from pybpf.maps.percpu import PerCpu


class PairCodec:
    size = 6

    def decode(self, buffer: Any, offset: int = 0) -> tuple[int, int]:
        return struct.unpack_from("=IH", buffer, offset)  # type: ignore[return-value]

    def encode(self, value: Any) -> bytes:
        return struct.pack("=IH", *value)

    def iter_unpack(self, buffer: Any, *, before: int = 0, after: int = 0) -> Any:
        return struct.iter_unpack(f"={before}xIH{after}x", buffer)


def one(field: Field, data: bytes) -> Any:
    """Decode as `Map` does: through a view made once."""
    return field.decode(field.view(memoryview(data)))


def quick(field: Field, value: Any) -> bytes:
    """Encode as `Map` tries first; what that refuses goes through `encode`."""
    memory = memoryview(bytearray(field.size))
    try:
        field.view(memory)[field.at] = value if field.convert is None else field.convert(value)
    except (TypeError, ValueError):
        return bytes(field.encode(value))
    return bytes(memory)


PAIRS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))
CASES: list[tuple[Field, st.SearchStrategy[Any]]] = [
    (BytesField(5), st.binary(min_size=5, max_size=5)),
    (IntField(1), st.integers(0, 255)),
    (IntField(2, signed=True), st.integers(-(2**15), 2**15 - 1)),
    (IntField(4), st.integers(0, 2**32 - 1)),
    (IntField(8, signed=True), st.integers(-(2**63), 2**63 - 1)),
    (CodecField(PairCodec()), PAIRS),
    (LpmField(8), st.tuples(st.integers(0, 32), st.binary(min_size=4, max_size=4))),
    (PerCpuField(IntField(8), 3), st.tuples(*[st.integers(0, 2**64 - 1)] * 3)),
    (PerCpuField(IntField(4), 2), st.tuples(*[st.integers(0, 2**32 - 1)] * 2)),
    (PerCpuField(CodecField(PairCodec()), 2), st.tuples(PAIRS, PAIRS)),
]


@pytest.mark.parametrize(("field", "values"), CASES, ids=lambda v: type(v).__name__)
@given(data=st.data())
def test_round_trip(field: Field, values: st.SearchStrategy[Any], data: Any) -> None:
    """decode(encode(v)) is v, one by one and for a whole batch, in the size the map has."""
    items = data.draw(st.lists(values, max_size=5))
    for item in items:
        encoded = bytes(field.encode(item))
        assert len(encoded) == field.size
        assert quick(field, item) == encoded
        assert one(field, encoded) == item
    packed = bytes(field.encode_all(items))
    assert packed == b"".join(bytes(field.encode(item)) for item in items)
    assert list(field.decode_all(memoryview(packed))) == items


@pytest.mark.parametrize("field", [IntField(4), BytesField(4), FdField(), LpmField(8)])
def test_bytes_are_always_taken(field: Field) -> None:
    """Raw bytes of the right size pass through every field; others are refused."""
    assert field.encode(b"\1" * field.size) == b"\1" * field.size
    with pytest.raises(ValueError, match=f"the map needs {field.size}"):
        field.encode(b"\1" * (field.size + 1))


@pytest.mark.parametrize("value", [2**32, -1])
def test_int_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit 4 bytes"):
        IntField(4).encode(value)
    with pytest.raises(ValueError, match="does not fit 4 bytes"):
        IntField(4).encode_all([1, value])


@pytest.mark.parametrize("value", ["1", None, 1.5, (1, 2)])
def test_int_of_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError):
        IntField(8).encode(value)


def test_bytes_field_takes_bytes_and_fitting_ints() -> None:
    """Without a type a number is written in native order, but never guessed when reading."""
    assert BytesField(4).encode(7) == struct.pack("=I", 7)
    assert BytesField(2).encode(-1) == b"\xff\xff"
    assert one(BytesField(4), bytes(4)) == bytes(4)
    with pytest.raises(TypeError, match="needs 5 bytes"):
        BytesField(5).encode(7)
    with pytest.raises(TypeError, match="needs 4 bytes"):
        BytesField(4).encode("seven")
    with pytest.raises(ValueError, match="does not fit 4"):
        BytesField(4).encode(1 << 32)


def test_fd_field_asks_for_fileno() -> None:
    class File:
        def fileno(self) -> int:
            return 42

    assert FdField().encode(File()) == FdField().encode(42) == struct.pack("=I", 42)


def test_lpm_prefix_is_checked() -> None:
    with pytest.raises(ValueError, match="prefix length 33"):
        LpmField(8).encode((33, bytes(4)))
    with pytest.raises(ValueError, match="needs 4"):
        LpmField(8).encode((8, bytes(5)))


def test_stack_ends_at_the_first_zero() -> None:
    field = StackField(32)
    assert one(field, struct.pack("=4Q", 5, 6, 0, 0)) == (5, 6)
    assert one(field, struct.pack("=4Q", 5, 6, 7, 8)) == (5, 6, 7, 8)
    both = struct.pack("=8Q", 1, 0, 0, 0, 2, 3, 0, 0)
    assert list(field.decode_all(memoryview(both))) == [(1,), (2, 3)]


def test_stack_of_build_ids() -> None:
    """struct bpf_stack_build_id: status, 20 bytes, offset; status 0 is unused."""
    rows = struct.pack("=i20sQ", 1, b"b" * 20, 64) + struct.pack("=i20sQ", 0, b"", 0)
    assert one(StackField(64, build_id=True), rows) == ((1, b"b" * 20, 64),)


def test_percpu_writes_one_or_all() -> None:
    """A list is each CPU's own value, anything else everybody's; padding is zero."""
    field = PerCpuField(IntField(4), 2)
    assert field.encode([1, 2]) == struct.pack("=IIII", 1, 0, 2, 0)
    assert field.encode(7) == struct.pack("=IIII", 7, 0, 7, 0)
    assert field.encode(PerCpu([1, 2])) == field.encode((1, 2))
    with pytest.raises(ValueError, match="3 values given for 2 possible CPUs"):
        field.encode([1, 2, 3])


@pytest.mark.parametrize("cpus", [2, 3])
def test_percpu_writes_one_record_to_all(cpus: int) -> None:
    """A record is a tuple, but one value: what was read for one CPU can be written for all."""
    builder = BtfBuilder()
    number = builder.add(Int("int", 4, 32))
    pair = builder.add(Struct("pair", 8, (Member("left", number, 0), Member("right", number, 32))))
    field = PerCpuField(CodecField(codec(Btf(builder.build()), pair)), cpus)
    record = one(field, struct.pack("=II", 5, 6) * cpus)[0]
    assert field.encode(record) == struct.pack("=II", 5, 6) * cpus


def test_percpu_is_a_sequence() -> None:
    values = PerCpu([1, 2, 4])
    assert (len(values), values[2], values[:2], list(values)) == (3, 4, (1, 2), [1, 2, 4])
    assert values.sum() == 7
    assert values == [1, 2, 4] and values == PerCpu((1, 2, 4)) and values != [1, 2]
    assert hash(values) == hash(PerCpu([1, 2, 4]))
    assert repr(values) == "PerCpu([1, 2, 4])"


def test_percpu_sums_records_and_arrays() -> None:
    """Added member by member and item by item. What is not a number keeps the first CPU's value."""
    Row = namedtuple("Row", "count name slots")
    values = PerCpu([Row(1, b"x", (1, 2)), Row(2, b"y", (10, 20))])
    assert values.sum() == Row(3, b"x", (11, 22))
    assert values.sum(key=lambda row: row.slots) == (11, 22)
    assert PerCpu([(1, 2), (3, 4)]).sum() == (4, 6)
    with pytest.raises(TypeError, match="cannot be added"):
        PerCpu([b"a", b"b"]).sum()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((MapType.BPF_MAP_TYPE_HASH, 4, 8, 0, 0), "max_entries is 0"),
        ((MapType.BPF_MAP_TYPE_HASH, 0, 8, 1, 0), "key_size is 0"),
        ((MapType.BPF_MAP_TYPE_HASH, 4, 0, 1, 0), "value_size is 0"),
        ((MapType.BPF_MAP_TYPE_ARRAY, 8, 8, 1, 0), "key of an array is 4 bytes"),
        ((MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, 0, 0), "size in bytes and is 0"),
        ((MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, 5000, 0), "power of two"),
        ((MapType.BPF_MAP_TYPE_RINGBUF, 4, 0, 4096, 0), "sizes must be 0"),
        ((MapType.BPF_MAP_TYPE_QUEUE, 4, 8, 1, 0), "queue has no keys"),
        ((MapType.BPF_MAP_TYPE_PROG_ARRAY, 4, 8, 1, 0), "4-byte fd"),
        ((MapType.BPF_MAP_TYPE_LPM_TRIE, 8, 8, 1, 0), "BPF_F_NO_PREALLOC"),
        ((MapType.BPF_MAP_TYPE_LPM_TRIE, 4, 8, 1, 1), "5 to 260"),
        ((MapType.BPF_MAP_TYPE_LRU_HASH, 4, 8, 1, 1), "LRU"),
        ((MapType.BPF_MAP_TYPE_HASH, 4, 8, 1, 2), "BPF_F_NO_COMMON_LRU"),
        ((MapType.BPF_MAP_TYPE_STACK_TRACE, 4, 12, 1, 0), "not a multiple of 8"),
        ((MapType.BPF_MAP_TYPE_STACK_TRACE, 4, 8 * 128, 1, 0), "perf_event_max_stack"),
        ((MapType.BPF_MAP_TYPE_PERCPU_HASH, 4, 32769, 1, 0), "limit of 32768"),
        ((MapType.BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, 1, 0), "inner map"),
        ((MapType.BPF_MAP_TYPE_HASH, 4, 8, 1, 1 << 10), "MMAPABLE"),
        ((MapType.BPF_MAP_TYPE_HASH, 513, 8, 1, 0), "longer than the BPF stack"),
        ((MapType.BPF_MAP_TYPE_TASK_STORAGE, 4, 8, 0, 1), "BTF types"),
        ((MapType.BPF_MAP_TYPE_TASK_STORAGE, 4, 8, 1, 1), "must be 0"),
        ((MapType.BPF_MAP_TYPE_CGROUP_STORAGE, 16, 8, 1, 0), "must be 0"),
    ],
)
def test_hint_names_the_culprit(arguments: tuple[int, int, int, int, int], words: str) -> None:
    assert words in hints.explain(errno.EINVAL, *arguments)


def test_no_hint_for_what_looks_right() -> None:
    """Good arguments and other errors get no invented explanation."""
    assert hints.explain(errno.EINVAL, MapType.BPF_MAP_TYPE_HASH, 4, 8, 10, 0) == ""
    assert hints.explain(errno.EMFILE, MapType.BPF_MAP_TYPE_HASH, 0, 0, 0, 0) == ""
    assert "do not fit" in hints.explain(errno.ENOMEM, MapType.BPF_MAP_TYPE_HASH, 4, 8, 10, 0)
