"""The ring buffer walk and its decoders, over rings built here byte by byte."""

from __future__ import annotations

import ctypes
import struct
from array import array
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.btf import Array, Btf, Int, Member, Struct
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.record import plain
from pybpf.btf.types import Type
from pybpf.btf.values import Codec, codec
from pybpf.errors import BpfError
from pybpf.ringbuf.kinds import record_decoder
from pybpf.ringbuf.records import (
    BUSY,
    DISCARD,
    bytes_decoder,
    call_decoder,
    codec_decoder,
    ctypes_decoder,
    record_offset,
    scan,
    stride_of,
    struct_decoder,
)


class Rec(NamedTuple):
    payload: bytes
    flags: int = 0


def ring(records: list[Rec]) -> bytes:
    """What the kernel would have written for these reservations."""
    out = bytearray()
    for record in records:
        out += struct.pack("=II", len(record.payload) | record.flags, 7)
        out += record.payload
        out += b"\xee" * (-len(out) % 8)
    return bytes(out)


def words(data: bytes | bytearray) -> memoryview:
    return memoryview(data).cast("I")


def decode(data: bytes | bytearray, decoder: Any, **options: Any) -> list[Any]:
    out: list[Any] = []
    decoder(memoryview(data), scan(words(data), 0, len(data), **options).runs, out)
    return out


records = st.lists(
    st.builds(
        Rec,
        # Few lengths, so that runs happen.
        st.sampled_from([0, 1, 4, 7, 8, 9, 24]).flatmap(
            lambda n: st.binary(min_size=n, max_size=n)
        ),
        st.sampled_from([0, 0, 0, DISCARD, BUSY]),
    ),
    max_size=60,
)
runs_of_records = st.lists(
    st.tuples(st.sampled_from([0, 8, 20]), st.integers(1, 100), st.sampled_from([0, 0, DISCARD])),
    max_size=8,
)


def expected(items: list[Rec]) -> list[bytes]:
    """A plain reading of the format: up to the first busy record, without the discarded."""
    out = []
    for item in items:
        if item.flags & BUSY:
            break
        if not item.flags & DISCARD:
            out.append(item.payload)
    return out


@given(records)
def test_walk_equals_plain_reading(items: list[Rec]) -> None:
    """Every complete record comes out once, in order; nothing behind a busy one does."""
    assert decode(ring(items), bytes_decoder()) == expected(items)


@given(runs_of_records)
def test_guessing_equals_plain_reading(groups: list[tuple[int, int, int]]) -> None:
    """Long uniform runs, where the walk guesses ahead, give the same result."""
    items = [Rec(bytes([i % 256]) * n, flag) for n, count, flag in groups for i in range(count)]
    assert decode(ring(items), bytes_decoder()) == expected(items)


@given(records, st.integers(1, 20))
def test_limit_and_resume(items: list[Rec], limit: int) -> None:
    """Reading in bites of `limit` gives what one read gives, and no bite is bigger."""
    data = ring(items)
    at, hint, out = 0, -1, []
    while True:
        found = scan(words(data), at, len(data), limit=limit, hint=hint)
        assert found.records <= limit
        bytes_decoder()(memoryview(data), found.runs, out)
        if found.end == at:
            break
        at, hint = found.end, found.header
    assert out == expected(items)


@given(records)
def test_one_run_loses_nothing(items: list[Rec]) -> None:
    """`one_run` stops in front of the second run, and resuming there finds the rest."""
    data = ring(items)
    at, out = 0, []
    while True:
        found = scan(words(data), at, len(data), one_run=True)
        assert len(found.runs) <= 1
        bytes_decoder()(memoryview(data), found.runs, out)
        if found.end == at:
            break
        at = found.end
    assert out == expected(items)


def test_uniform_ring_is_one_run() -> None:
    """A thousand equal records are one run: this is what makes decoding fast."""
    data = ring([Rec(b"x" * 32)] * 1000)
    found = scan(words(data), 0, len(data))
    assert found.runs == [(0, 1000, 32)]
    assert (found.end, found.records, found.discarded, found.busy) == (40_000, 1000, 0, False)


def test_busy_record_stops_the_walk() -> None:
    """The busy record and what is behind it stay, also in the middle of a guess."""
    items = [Rec(b"a" * 8)] * 40
    data = ring([*items, Rec(b"a" * 8, BUSY), *items])
    found = scan(words(data), 0, len(data))
    assert (found.records, found.end, found.busy) == (40, 40 * 16, True)


def test_discarded_records_are_counted_and_passed() -> None:
    data = ring([Rec(b"a" * 8), Rec(b"b" * 8, DISCARD), Rec(b"c" * 8)])
    found = scan(words(data), 0, len(data))
    assert found.runs == [(0, 1, 8), (32, 1, 8)]
    assert (found.records, found.discarded, found.end) == (2, 1, 48)


def test_wrapped_record_is_read_through_the_double_mapping() -> None:
    """A record that crosses the end of the ring is in one piece when the pages repeat."""
    size = 64
    stream = ring([Rec(bytes([i]) * 16) for i in range(4)])  # 24 bytes each
    position = 48
    pages = bytearray(size)
    for i in range(48):
        pages[(position + i) % size] = stream[i]
    twice = bytes(pages) * 2
    out: list[Any] = []
    bytes_decoder()(memoryview(twice), scan(words(twice), position, position + 48).runs, out)
    assert out == [b"\0" * 16, b"\1" * 16]


@pytest.mark.parametrize("cut", [8, 16, 32])
def test_record_beyond_the_end_is_an_error(cut: int) -> None:
    """A length that leaves the ring is reported, never followed."""
    data = ring([Rec(b"a" * 8), Rec(b"b" * 32)])
    with pytest.raises(BpfError, match="beyond the producer position"):
        scan(words(data), 0, len(data) - cut)


def test_stride() -> None:
    """Header plus payload, rounded up to 8 bytes, as kernel/bpf/ringbuf.c does."""
    assert [stride_of(n) for n in (0, 1, 8, 9, 32)] == [8, 16, 16, 24, 40]


def test_record_offset_counts_over_runs() -> None:
    runs = [(0, 2, 8), (48, 3, 20)]
    assert [record_offset(runs, i) for i in range(5)] == [0, 16, 48, 80, 112]
    with pytest.raises(ValueError):
        record_offset(runs, 5)


@pytest.mark.parametrize("prefix", ["", "@", "=", "<"])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_struct_tuples(prefix: str, count: int) -> None:
    """Tuples equal what `unpack` gives for each payload, tails of longer records ignored."""
    form = struct.Struct(prefix + "IHQ")
    payloads = [form.pack(i, i % 9, i << 40) + b"tail" for i in range(count)]
    got = decode(ring([Rec(p) for p in payloads]), struct_decoder(form))
    assert got == [form.unpack_from(p) for p in payloads]


def test_big_endian_struct() -> None:
    form = struct.Struct(">I")
    data = ring([Rec(form.pack(5)), Rec(form.pack(6))])
    assert decode(data, struct_decoder(form)) == [(5,), (6,)]


@pytest.mark.parametrize("count", [1, 5])
def test_short_record_is_a_value_error(count: int) -> None:
    """A record shorter than its type is refused, not padded or read past its end."""
    data = ring([Rec(b"abcd")] * count)
    with pytest.raises(ValueError, match="4 bytes, but its type takes 8"):
        decode(data, struct_decoder(struct.Struct("=Q")))


class Pair:
    """The codec protocol, by hand."""

    size = 4

    def decode(self, buffer: Any, offset: int = 0) -> tuple[int, int]:
        return struct.unpack_from("=HH", buffer, offset)  # type: ignore[return-value]

    def iter_unpack(self, buffer: Any, *, before: int = 0, after: int = 0) -> Any:
        return struct.iter_unpack(f"={before}xHH{after}x", buffer)


def test_codec() -> None:
    data = ring([Rec(struct.pack("=HH", i, i + 1) + b"..") for i in range(20)])
    assert decode(data, codec_decoder(Pair())) == [(i, i + 1) for i in range(20)]
    with pytest.raises(ValueError, match="2 bytes"):
        decode(ring([Rec(b"ab")]), codec_decoder(Pair()))


class Event(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_uint32), ("path", ctypes.c_char * 12))


def event_codec() -> Codec:
    """The codec of ``struct { unsigned pid; struct { int length; char path[12]; } file; }``."""
    b = BtfBuilder()
    number, char = b.add(Int("unsigned int", 4, 32)), b.add(Int("char", 1, 8, 0, 2))
    path = b.add(Array(char, number, 12))
    file = b.add(Struct("file", 16, (Member("length", number, 0), Member("path", path, 32))))
    event = b.add(Struct("event", 20, (Member("pid", number, 0), Member("file", file, 32))))
    return codec(Btf(b.build()), event)


@pytest.mark.parametrize("count", [1, 5])
def test_a_record_may_end_inside_the_last_array(count: int) -> None:
    """As programs send it that send what they filled. The rest is 0; less than that is refused."""
    kind = event_codec()
    assert (kind.size, kind.least) == (20, 8)
    short = struct.pack("=II", 7, 4) + b"/bin"
    whole = short.ljust(20, b"!")
    found = decode(ring([Rec(short), Rec(whole)] + [Rec(short)] * count), codec_decoder(kind))
    texts = [(one.pid, str(one.file.path)) for one in found]
    assert texts == [(7, "/bin"), (7, "/bin!!!!!!!!")] + [(7, "/bin")] * count
    assert found[0].file.path.raw == b"/bin".ljust(12, b"\0")
    assert decode(ring([Rec(short[:8])]), codec_decoder(kind))[0].file.path == ""
    with pytest.raises(ValueError, match="7 bytes, but its type takes 8 bytes"):
        decode(ring([Rec(short[:7])] * count), codec_decoder(kind))


PAIR = Struct("pair", 4, (Member("a", 1, 0), Member("b", 1, 16)))


@pytest.mark.parametrize(
    ("element", "values"),
    [
        (Int("char", 1, 8, 0, 2), ["", "a", "some text", "a" * 40]),
        (Int("unsigned char", 1, 8), [b"", b"\0", b"\1\2\0\3", bytes(range(50))]),
        (Int("unsigned int", 4, 32), [(), (7,), (1, 2, 3), tuple(range(20))]),
        (
            Struct("pair", 4, (Member("a", 1, 0), Member("b", 1, 16))),
            [(), ((1, 2),), ((3, 4),) * 9],
        ),
    ],
    ids=["text", "bytes", "numbers", "records"],
)
def test_a_flexible_array_has_the_rest_of_the_record(element: Type, values: list[Any]) -> None:
    """``struct { int n; unsigned short kind; ELEMENT data[]; }``, with 2 bytes of padding or none,
    in records of every length, one by one and several of one length."""
    b = BtfBuilder()
    short, number = b.add(Int("unsigned short", 2, 16)), b.add(Int("int", 4, 32, 0, 1))
    inner = b.add(element)
    aligned = 8 if getattr(element, "size", 1) == 4 and isinstance(element, Int) else 6
    event = b.add(
        Struct(
            "event",
            8,
            (
                Member("n", number, 0),
                Member("kind", short, 32),
                Member("data", b.add(Array(inner, number, 0)), 8 * aligned),
            ),
        )
    )
    kind = codec(Btf(b.build()), event)
    assert (kind.size, kind.least) == (8, aligned)

    def raw(value: Any) -> bytes:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytes):
            return value
        return b"".join(
            struct.pack("=HH", *one) if isinstance(one, tuple) else struct.pack("=I", one)
            for one in value
        )

    heads = [struct.pack("=IH", n, n % 3).ljust(aligned, b"\0") for n in range(3 * len(values))]
    every = [value for value in values for _ in range(3)]
    records = [Rec(head + raw(value)) for head, value in zip(heads, every, strict=True)]
    found = decode(ring(records), codec_decoder(kind))
    assert [(one.n, one.kind) for one in found] == [(n, n % 3) for n in range(len(every))]
    assert [one.data for one in found] == every
    assert [one.to_dict()["data"] for one in found] == [plain(one.data) for one in found]
    half = decode(ring([Rec(heads[0] + raw(values[-1]) + b"x")]), codec_decoder(kind))[0]
    rest = half.data if isinstance(element, Struct) or aligned == 8 else half.data[:-1]
    assert rest == values[-1]  # less than an element is ignored


@pytest.mark.parametrize("count", [1, 5])
def test_ctypes(count: int) -> None:
    """Objects of a ctypes.Structure keep their contents when the ring goes on."""
    data = bytearray(
        ring([Rec(struct.pack("=I", i) + b"name".ljust(12, b"\0") + b"..") for i in range(count)])
    )
    found = decode(data, ctypes_decoder(Event))
    data[:] = bytes(len(data))
    assert [(one.pid, one.path) for one in found] == [(i, b"name") for i in range(count)]
    short = decode(ring([Rec(struct.pack("=I", 9) + b"ab")] * count), ctypes_decoder(Event))
    assert [(one.pid, one.path) for one in short] == [(9, b"ab")] * count
    with pytest.raises(ValueError, match="3 bytes, but its type takes 4 bytes"):
        decode(ring([Rec(b"abc")]), ctypes_decoder(Event))


class OneMap:
    """A map of an object whose BTF has a kernel type of a near name, and no ``struct event``."""

    name, type, max_entries, map_flags = "events", 27, 4096, 0

    def __init__(self, *names: str) -> None:
        b = BtfBuilder()
        number = b.add(Int("int", 4, 32))
        for one in names:
            b.add(Struct(one, 4, (Member("x", number, 0),)))
        self.btf = Btf(b.build())

    def fileno(self) -> int:
        return -1


def test_a_type_that_clang_left_out() -> None:
    """The error says why, and what to do without the source. A near name is no more than a guess;
    a name that differs by a letter is a slip."""
    left_out = (
        r"no type 'struct event' in the object's BTF: clang keeps .* or describe it by a ctypes"
    )
    with pytest.raises(ValueError, match=left_out + r".*; is it 'struct perf_event'\?$"):
        record_decoder("struct event", OneMap("perf_event"))
    with pytest.raises(ValueError, match=left_out):
        record_decoder("struct event", OneMap("other"))
    with pytest.raises(ValueError, match=r"^no type 'struct evnt'; is it 'struct event'\? \(in"):
        record_decoder("struct evnt", OneMap("event"))
    assert decode(ring([Rec(bytes(16))]), record_decoder(Event, OneMap("x")))[0].pid == 0


def test_call_decoder_releases_its_views() -> None:
    """A view kept beyond the call is dead, so stale ring memory cannot be read by mistake."""
    kept: list[memoryview] = []

    def keep(view: memoryview) -> int:
        kept.append(view)
        return len(view)

    assert decode(ring([Rec(b"ab"), Rec(b"abc")]), call_decoder(keep)) == [2, 3]
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])


def test_decoder_keeps_what_was_good() -> None:
    """After an exception the list holds the records before the guilty one."""

    def fussy(view: memoryview) -> bytes:
        if view[0] == 3:
            raise KeyError("three")
        return bytes(view)

    data = ring([Rec(bytes([i])) for i in range(6)])
    out: list[Any] = []
    with pytest.raises(KeyError):
        call_decoder(fussy)(memoryview(data), scan(words(data), 0, len(data)).runs, out)
    assert out == [b"\0", b"\1", b"\2"]


def test_a_record_completed_between_two_looks_is_no_error() -> None:
    """The kernel may clear a busy bit after a run was compared and before it is counted."""
    header = 8
    words = array("I", [header, 0, 0, 0] * 4)

    class Racing:
        """Headers that differ when compared and are all alike when listed."""

        def __init__(self, seen: memoryview) -> None:
            self.seen = seen

        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

        def tolist(self) -> list[int]:
            return self.seen.tolist()

    class Ring:
        def __getitem__(self, where: int | slice) -> object:
            got = memoryview(words)[where]
            return Racing(got) if isinstance(got, memoryview) else got

    found = scan(Ring(), 0, 64, hint=header)  # type: ignore[arg-type]
    assert found.records == 4
    assert found.end == 64
