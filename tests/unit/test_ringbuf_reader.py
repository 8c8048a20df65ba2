"""RingBuffer over a memory file that is laid out as the kernel lays out a ring."""

from __future__ import annotations

import gc
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.errors import BpfError, StateError
from pybpf.ringbuf import RingBuffer
from pybpf.ringbuf.overwrite import newest
from pybpf.ringbuf.records import BUSY, DISCARD
from tests.support.examples import examples

PAGE = mmap.PAGESIZE


class FakeRing:
    """The producer's side: a consumer page, a producer page, the data pages twice."""

    name = "fake"
    type = 27
    map_flags = 0

    def __init__(self, size: int = PAGE) -> None:
        self.max_entries = size
        self.file = os.memfd_create("ring")
        os.ftruncate(self.file, 2 * PAGE + 2 * size)
        self.memory = mmap.mmap(self.file, 2 * PAGE + 2 * size)

    def fileno(self) -> int:
        return self.file

    def close(self) -> None:
        self.memory.close()
        os.close(self.file)

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("=Q", self.memory, 0)[0])

    @property
    def produced(self) -> int:
        return int(struct.unpack_from("=Q", self.memory, PAGE)[0])

    def put(self, payload: bytes, flags: int = 0) -> bool:
        record = struct.pack("=II", len(payload) | flags, 0) + payload
        record += bytes(-len(record) % 8)
        at = self.produced
        if at + len(record) - self.consumed > self.max_entries - 1:
            return False
        for i, byte in enumerate(record):
            place = (at + i) % self.max_entries
            self.memory[2 * PAGE + place] = byte
            self.memory[2 * PAGE + self.max_entries + place] = byte
        struct.pack_into("=Q", self.memory, PAGE, at + len(record))
        return True

    def submit(self, position: int) -> None:
        """Clear the busy bit of the record at `position`."""
        for copy in (0, self.max_entries):
            place = 2 * PAGE + copy + position % self.max_entries
            (header,) = struct.unpack_from("=I", self.memory, place)
            struct.pack_into("=I", self.memory, place, header & ~BUSY)


@pytest.fixture
def ring() -> Iterator[FakeRing]:
    made = FakeRing()
    yield made
    made.close()


def test_read_takes_all_and_moves_the_position(ring: FakeRing) -> None:
    for i in range(5):
        ring.put(bytes([i]) * i)
    with RingBuffer(ring) as rb:
        assert rb.available == 2 * 8 * 5 - 8
        assert rb.read(0) == [bytes([i]) * i for i in range(5)]
        assert rb.available == 0
        assert rb.read(0) == []
        assert rb.consumer_position == rb.producer_position == ring.consumed == 72


def test_max_records_leaves_the_rest(ring: FakeRing) -> None:
    for i in range(10):
        ring.put(struct.pack("=Q", i))
    with RingBuffer(ring, struct.Struct("=Q")) as rb:
        assert rb.read(0, max_records=3) == [(0,), (1,), (2,)]
        assert ring.consumed == 48
        assert rb.read(0, max_records=100) == [(i,) for i in range(3, 10)]
        with pytest.raises(ValueError, match="positive"):
            rb.read(0, max_records=0)


def test_wraps_around_many_times(ring: FakeRing) -> None:
    """Ten times the ring's size goes through it, in records that do not divide it."""
    with RingBuffer(ring) as rb:
        sent = received = 0
        while sent < 10 * ring.max_entries // 24:
            while ring.put(struct.pack("=Q", sent) + b"!" * (sent % 7)):
                sent += 1
            for record in rb.read(0):
                assert record == struct.pack("=Q", received) + b"!" * (received % 7)
                received += 1
        assert received == sent
        assert ring.consumed > 9 * ring.max_entries


def test_busy_record_waits_for_its_submission(ring: FakeRing) -> None:
    """Nothing behind a busy record is read early, and the wait for it ends on time."""
    ring.put(b"one")
    position = ring.produced
    ring.put(b"two", BUSY)
    ring.put(b"three")
    with RingBuffer(ring) as rb:
        assert rb.read(0) == [b"one"]
        assert rb.read(0.01) == []
        assert ring.consumed == position
        ring.submit(position)
        assert rb.read(1) == [b"two", b"three"]


def test_discarded_records_are_passed(ring: FakeRing) -> None:
    """A ring of nothing but discarded records gives its space back."""
    for _ in range(4):
        ring.put(b"no", DISCARD)
    with RingBuffer(ring) as rb:
        assert rb.read(0) == []
        assert ring.consumed == ring.produced
        ring.put(b"no", DISCARD)
        ring.put(b"yes")
        ring.put(b"no", DISCARD)
        assert rb.read(0) == [b"yes"]
        assert ring.consumed == ring.produced


def fussy(view: memoryview) -> int:
    if view[0] == 2:
        raise LookupError("two")
    return view[0]


def test_decoder_error_loses_no_neighbour(ring: FakeRing) -> None:
    """Records before the guilty one come first, then its error, then the rest."""
    for i in range(5):
        ring.put(bytes([i]))
    with RingBuffer(ring, fussy) as rb:
        assert rb.read(0) == [0, 1]
        assert ring.consumed == 32
        with pytest.raises(LookupError, match="two"):
            rb.read(0)
        assert ring.consumed == 48
        assert rb.read(0) == [3, 4]


def test_records_consumes_what_it_yielded(ring: FakeRing) -> None:
    """Leaving the loop in the middle leaves the unread records in the ring."""
    for i in range(6):
        ring.put(bytes([i]))
    with RingBuffer(ring, bytes) as rb:
        for record in rb.records(0):
            if record == b"\2":
                break
        assert ring.consumed == 48
        assert list(rb.records(0)) == [b"\3", b"\4", b"\5"]


def test_records_with_a_decoder_error(ring: FakeRing) -> None:
    for i in range(4):
        ring.put(bytes([i]))
    with RingBuffer(ring, fussy) as rb:
        got = []
        with pytest.raises(LookupError):
            for record in rb.records(0):
                got.append(record)
        assert got == [0, 1]
        assert list(rb.records(0)) == [3]


def test_consume_hands_out_views(ring: FakeRing) -> None:
    for i in range(3):
        ring.put(bytes([i]) * 5)
    ring.put(b"no", DISCARD)
    got: list[bytes] = []
    with RingBuffer(ring) as rb:
        assert rb.consume(lambda view: got.append(bytes(view))) == 3
        assert rb.consume(lambda view: got.append(bytes(view))) == 0
    assert got == [bytes([i]) * 5 for i in range(3)]
    assert ring.consumed == ring.produced


def test_consume_error_counts_the_guilty_record(ring: FakeRing) -> None:
    """The callback's exception is the caller's; reading goes on behind the record it saw."""
    for i in range(4):
        ring.put(bytes([i]))

    def callback(view: memoryview) -> None:
        if view[0] == 1:
            raise LookupError

    with RingBuffer(ring) as rb:
        with pytest.raises(LookupError):
            rb.consume(callback)
        assert ring.consumed == 32
        assert rb.read(0) == [b"\2", b"\3"]


def test_chunk_is_one_run_in_place(ring: FakeRing) -> None:
    for i in range(20):
        ring.put(struct.pack("=IIQ", i, 7, i * i))
    ring.put(b"other")
    with RingBuffer(ring) as rb:
        with rb.chunk() as chunk:
            assert chunk is not None
            assert (len(chunk), chunk.record_size, chunk.stride) == (20, 16, 24)
            assert chunk.column(0, "I").tolist() == list(range(20))
            assert sum(chunk.column(8, "Q").tolist()) == sum(i * i for i in range(20))
            assert list(chunk.rows(struct.Struct("=II")))[3] == (3, 7)
            with pytest.raises(ValueError, match="no field"):
                chunk.column(12, "Q")
            assert ring.consumed == 0
        assert ring.consumed == 20 * 24
        with rb.chunk() as chunk:
            assert chunk is not None
            assert bytes(chunk.view[8:13]) == b"other"
        with rb.chunk() as chunk:
            assert chunk is None


def test_column_that_outlives_the_reader(ring: FakeRing) -> None:
    """close() while a view exists is not an error: that view keeps the memory mapped."""
    ring.put(struct.pack("=Q", 3))
    rb = RingBuffer(ring)
    with rb.chunk() as chunk:
        assert chunk is not None
        column = chunk.column(0, "Q")
    rb.close()
    assert column.tolist() == [3]


def test_batches_end_after_the_timeout(ring: FakeRing) -> None:
    for i in range(5):
        ring.put(bytes([i]))
    with RingBuffer(ring) as rb:
        assert list(rb.batches(0, max_records=2)) == [[b"\0", b"\1"], [b"\2", b"\3"], [b"\4"]]


def test_lost_is_what_the_program_counted(ring: FakeRing) -> None:
    counter = [3]
    with RingBuffer(ring, lost=lambda: counter[0]) as rb:
        assert rb.lost == 3
        counter[0] += 1
        assert rb.lost == 4
    with RingBuffer(ring) as rb:
        assert rb.lost is None


def test_closed_reader_says_so(ring: FakeRing) -> None:
    rb = RingBuffer(ring)
    rb.close()
    rb.close()
    assert rb.closed
    assert "closed" in repr(rb)
    with pytest.raises(StateError, match="closed"):
        rb.read(0)
    with pytest.raises(StateError, match="closed"):
        _ = rb.available


def test_wrong_maps_are_refused(ring: FakeRing) -> None:
    """Another map type gets a named error before any mmap."""
    ring.type = 1
    with pytest.raises(BpfError, match="not a BPF_MAP_TYPE_RINGBUF"):
        RingBuffer(ring)


class OverwritingRing(FakeRing):
    """A full one writes over its oldest records, as the kernel's does in overwrite mode."""

    map_flags = 1 << 19

    @property
    def overwritten(self) -> int:
        return int(struct.unpack_from("=Q", self.memory, PAGE + 16)[0])

    def put(self, payload: bytes, flags: int = 0) -> bool:
        stride = (len(payload) + 15) & ~7
        oldest = self.overwritten
        while self.produced + stride - oldest > self.max_entries - 1:
            (header,) = struct.unpack_from("=I", self.memory, 2 * PAGE + oldest % self.max_entries)
            oldest += ((header & 0xFFFFFFF) + 15) & ~7
        struct.pack_into("=Q", self.memory, PAGE + 16, oldest)
        consumed = self.consumed
        struct.pack_into("=Q", self.memory, 0, self.produced)  # FakeRing's own rule does not hold
        done = super().put(payload, flags)
        struct.pack_into("=Q", self.memory, 0, consumed)
        return done


@pytest.fixture
def overwriting() -> Iterator[OverwritingRing]:
    made = OverwritingRing()
    yield made
    made.close()


@settings(max_examples=examples(100), deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 400), st.integers(8, 60), st.integers(1, 300))))
def test_the_newest_records_of_a_ring_that_overwrites(steps: list[tuple[int, int, int]]) -> None:
    """Records come once, in order, never a torn one; bytes that are read and lost add up."""
    made = OverwritingRing()
    try:
        with RingBuffer(made) as rb:
            sent, last, taken = 0, -1, 0
            for count, length, wanted in steps:
                for _ in range(count):
                    made.put(struct.pack("=Q", sent) + bytes([sent % 251]) * length)
                    sent += 1
                for record in rb.read(0, max_records=wanted):
                    (number,) = struct.unpack_from("=Q", record)
                    assert number > last
                    assert record[8:] == bytes([number % 251]) * (len(record) - 8)
                    last = number
                    taken += (len(record) + 15) & ~7
                assert taken + rb.overwritten == rb.consumer_position
            left = rb.available
            assert left <= made.max_entries
            rest = rb.read(0)
            assert not rest or struct.unpack_from("=Q", rest[-1]) == (sent - 1,)
            assert rb.available == 0 and rb.read(0) == []
    finally:
        made.close()


def test_a_record_that_is_not_submitted_is_waited_for(overwriting: OverwritingRing) -> None:
    """It is seen once it is submitted, though a copy had it busy."""
    with RingBuffer(overwriting) as rb:
        overwriting.put(b"12345678")
        at = overwriting.produced
        overwriting.put(b"busybusy", BUSY)
        overwriting.put(b"afterone")
        assert rb.read(0) == [b"12345678"]
        assert rb.read(0) == []
        overwriting.submit(at)
        assert rb.read(0) == [b"busybusy", b"afterone"]
        overwriting.put(b"87654321")
        with rb.chunk() as chunk:
            assert chunk is not None and chunk.column(0, "Q")[0] == int.from_bytes(
                b"87654321", "little"
            )
        overwriting.put(b"bycallme")
        assert rb.consume(lambda view: None) == 1
        assert (rb.available, rb.overwritten) == (0, 0)


class Producer:
    """Gives the position of what was overwritten, at each question a later one."""

    def __init__(self, *places: int, pending: int = 0) -> None:
        self.places = iter(places)
        self.pending = pending

    def __getitem__(self, word: int) -> int:
        return (64, self.pending)[word] if word < 2 else next(self.places)


def eight_records(busy: int = -1) -> memoryview:
    """Records without payload: each is its header, with its number. Mapped twice in a row.

    :param busy: number of the one that is not submitted
    """
    headers = [struct.pack("=II", BUSY if n == busy else 0, n) for n in range(8)]
    return memoryview(b"".join(headers) * 2)


def test_what_is_overwritten_while_it_is_copied_is_dropped() -> None:
    """The copy starts behind what the kernel wrote over meanwhile."""
    data = eight_records()
    copied = newest(Producer(0, 0, 24), data, 8)  # type: ignore[arg-type]
    assert copied is not None
    assert (copied.first, copied.end, bytes(copied.data)) == (24, 64, bytes(data[24:64]))
    again = newest(Producer(0, 0, 64, 64, 64), data, 0)  # type: ignore[arg-type]
    assert again is None
    # Overwritten while the headers were looked at: from the start.
    copied = newest(Producer(0, 16, 16, 16, 16), data, 0)  # type: ignore[arg-type]
    assert copied is not None and copied.first == 16


def test_a_record_that_is_not_submitted_is_not_copied() -> None:
    """A copy could have its header after, and its contents before it was submitted."""
    data = eight_records(5)
    for pending in (0, 24, 40):
        copied = newest(Producer(0, 0, 0, pending=pending), data, 8)  # type: ignore[arg-type]
        assert copied is not None and (copied.first, copied.end) == (8, 40)
    assert newest(Producer(0, 0, 0), data, 40) is None  # type: ignore[arg-type]


def test_unmappable_ring_is_a_bpf_error() -> None:
    """mmap's refusal becomes one BpfError that names the map, and leaves nothing mapped."""
    read, write = os.pipe()

    class Pipe:
        name = "pipe"
        type = 27
        map_flags = 0
        max_entries = PAGE

        def fileno(self) -> int:
            return read

    try:
        with pytest.raises(BpfError, match="mmap of ring buffer 'pipe'"):
            RingBuffer(Pipe())
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("kind", ["struct event", 7])
def test_type_names_need_btf(ring: FakeRing, kind: Any) -> None:
    with pytest.raises(ValueError, match="no BTF"):
        RingBuffer(ring, kind)


def test_nonsense_type(ring: FakeRing) -> None:
    with pytest.raises(TypeError, match="not a record type"):
        RingBuffer(ring, 1.5)


def test_garbage_collector_is_back_after_a_read() -> None:
    """A long read pauses the collector; it runs again afterwards, after an error too."""
    seen: list[bool] = []

    def watch(view: memoryview) -> int:
        seen.append(gc.isenabled())
        if view[0] == 1:
            raise LookupError
        return 0

    ring = FakeRing(1 << 17)
    for _ in range(5000):
        ring.put(b"\0")
    ring.put(b"\1")
    with RingBuffer(ring, watch) as rb:
        assert len(rb.read(0)) == 5000
        assert seen[0] and not seen[-1] and gc.isenabled()
        with pytest.raises(LookupError):
            rb.read(0)
        assert gc.isenabled()
    ring.close()
