"""The ring buffer on the running kernel: nothing lost, drops counted, order kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pybpf._uapi.enums import MapFlag, MapType
from pybpf.errors import BpfError, StateError
from pybpf.maps import Map
from pybpf.ringbuf import RingBuffer, RingBuffers
from tests.support.ringprog import Producer

NUMBERED = struct.Struct("=Q")
NO_WAKEUP = 1


@contextlib.contextmanager
def new_ring(size: int) -> Iterator[Map]:
    with Map.create_new(MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, size, name="events") as ring:
        yield ring


@contextlib.contextmanager
def running(producer: Producer, times: int, pause: float = 0, bite: int = 1000) -> Iterator[None]:
    """Offer records from another thread while the block runs."""

    def work() -> None:
        left = times
        while left:
            now = min(bite, left)
            producer.run(now)
            left -= now
            if pause:
                time.sleep(pause)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_hundred_thousand_records_none_lost() -> None:
    """All of 100,000 records come, once and in order, while the ring wraps many times."""
    with (
        new_ring(1 << 20) as ring,
        Producer.output(ring, 32) as producer,
        RingBuffer(ring, NUMBERED, lost=lambda: producer.dropped) as rb,
    ):
        numbers: list[int] = []
        for _ in range(100):
            producer.run(1000)
            for batch in rb.batches(0):
                numbers += [number for (number,) in batch]
        assert numbers == list(range(1, 100_001))
        assert rb.lost == 0
        assert rb.consumer_position == rb.producer_position == 100_000 * 40


@pytest.mark.parametrize("kind", ["read", "consume", "records", "chunk"])
def test_concurrent_reader_accounts_for_every_record(kind: str) -> None:
    """With the producer at full speed in another thread, received + dropped = offered, in order."""
    total = 100_000
    with (
        new_ring(1 << 18) as ring,
        Producer.output(ring, 16) as producer,
        RingBuffer(ring, NUMBERED, lost=lambda: producer.dropped) as rb,
    ):
        numbers: list[int] = []

        def take() -> None:
            if kind == "read":
                numbers.extend(number for (number,) in rb.read(0.05))
            elif kind == "records":
                numbers.extend(number for (number,) in rb.records(0))
            elif kind == "consume":
                rb.consume(lambda view: numbers.append(view.cast("Q")[0]), 0.05)
            else:
                with rb.chunk(0.05) as chunk:
                    if chunk is not None:
                        numbers.extend(chunk.column(0, "Q").tolist())

        with running(producer, total):
            while producer.offered < total:
                take()
        while rb.available:
            take()
        assert producer.offered == total
        assert len(numbers) + producer.dropped == total
        assert numbers == sorted(set(numbers))
        assert len(numbers) > 1000


def test_small_ring_counts_what_it_drops() -> None:
    """A ring that is too small keeps the oldest records; the rest is counted, not forgotten."""
    with (
        new_ring(4096) as ring,
        Producer.output(ring, 56) as producer,
        RingBuffer(ring, NUMBERED, lost=lambda: producer.dropped) as rb,
    ):
        producer.run(1000)
        kept = rb.read(0)
        # 64 bytes each; the kernel leaves one byte of the ring free.
        assert kept == [(i,) for i in range(1, 64)]
        assert rb.lost == 1000 - 63
        producer.run(1)
        assert rb.read(0) == [(1001,)]


def test_mixed_sizes_and_wrap_around() -> None:
    """Records of 8 to 256 bytes, a ring they do not divide: each payload is whole."""
    with (
        new_ring(1 << 14) as ring,
        Producer.output(ring, None) as producer,
        RingBuffer(ring) as rb,
    ):
        tail = bytes(range(256))
        number = 0
        for _ in range(200):
            producer.run(100)
            for record in rb.read(0):
                number += 1
                size = (number & 31) * 8 + 8
                assert record == NUMBERED.pack(number) + tail[8:size]
        assert number == 20_000 and producer.dropped == 0


def test_discarded_records_never_come_out() -> None:
    with (
        new_ring(1 << 16) as ring,
        Producer.reserve(ring, discard_every=3) as producer,
        RingBuffer(ring, struct.Struct("=QQ")) as rb,
    ):
        producer.run(1000)
        assert rb.read(0) == [(i, i) for i in range(1, 1001) if i % 3]
        assert rb.available == 0


def test_max_records_and_position() -> None:
    with (
        new_ring(1 << 16) as ring,
        Producer.output(ring, 8) as producer,
        RingBuffer(ring, NUMBERED) as rb,
    ):
        producer.run(10)
        assert rb.read(0, max_records=4) == [(i,) for i in range(1, 5)]
        assert rb.available == 6 * 16
        # A second reader of the same ring goes on where the first stood.
        with RingBuffer(ring, NUMBERED) as again:
            assert again.read(0) == [(i,) for i in range(5, 11)]
        assert rb.available == 0


def test_error_in_the_callers_loop_leaves_the_rest() -> None:
    """The caller's exception is the caller's; the unread records are still in the ring."""
    with (
        new_ring(1 << 16) as ring,
        Producer.output(ring, 8) as producer,
        RingBuffer(ring, NUMBERED) as rb,
    ):
        producer.run(10)
        with pytest.raises(ZeroDivisionError):
            for (number,) in rb.records(0):
                1 // (number - 4)
        assert rb.read(0) == [(i,) for i in range(5, 11)]


def test_read_waits_for_the_first_record() -> None:
    """An idle read sleeps until a record comes, and a timeout is kept."""
    with (
        new_ring(1 << 16) as ring,
        Producer.output(ring, 8) as producer,
        RingBuffer(ring, NUMBERED) as rb,
    ):
        start = time.monotonic()
        assert rb.read(0.1) == []
        assert 0.09 < time.monotonic() - start < 5
        timer = threading.Timer(0.1, producer.run, [1])
        timer.start()
        before = time.process_time()
        assert rb.read(30) == [(1,)]
        assert time.process_time() - before < 0.09  # slept, did not spin
        timer.join()


def test_records_without_wakeup_come_at_the_timeout() -> None:
    """BPF_RB_NO_WAKEUP wakes nobody. The read still sees the record when its time is up."""
    with (
        new_ring(1 << 16) as ring,
        Producer.output(ring, 8, flags=NO_WAKEUP) as producer,
        RingBuffer(ring, NUMBERED) as rb,
    ):
        timer = threading.Timer(0.05, producer.run, [1])
        timer.start()
        assert rb.read(0.5) == [(1,)]
        timer.join()


def test_signals_do_not_cut_a_read_short() -> None:
    """EINTR is retried, and an exception of a signal handler comes through."""
    with new_ring(4096) as ring, RingBuffer(ring) as rb:
        seen: list[int] = []
        before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        try:
            timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1])
            timer.start()
            start = time.monotonic()
            assert rb.read(0.3) == []
            assert seen and time.monotonic() - start > 0.25

            def stop(number: int, frame: object) -> None:
                raise KeyboardInterrupt

            signal.signal(signal.SIGUSR1, stop)
            timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1])
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                rb.read(30)
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_asynchronous_batches() -> None:
    """`async for` sleeps in the event loop between batches and ends after the timeout."""

    async def main() -> tuple[list[int], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        with new_ring(1 << 16) as ring, Producer.output(ring, 8) as producer:
            async with RingBuffer(ring, NUMBERED) as rb:
                ticker = asyncio.create_task(tick())
                timer = threading.Timer(0.1, producer.run, [100])
                timer.start()
                numbers: list[int] = []
                async for batch in rb.batches(0.3):
                    numbers += [number for (number,) in batch]
                timer.join()
                ticker.cancel()
        return numbers, ticks

    numbers, ticks = asyncio.run(main())
    assert numbers == list(range(1, 101))
    assert ticks > 5


def test_closing_wakes_the_task_that_waits() -> None:
    """A task in ``async for`` learns that the ring was closed, also by another thread."""

    async def main(from_thread: bool) -> None:
        with new_ring(4096) as ring:
            rb = RingBuffer(ring)
            waiting = asyncio.ensure_future(anext(rb.batches()))
            await asyncio.sleep(0.01)
            if from_thread:
                await asyncio.to_thread(rb.close)
            else:
                rb.close()
            with pytest.raises(StateError, match="closed"):
                await asyncio.wait_for(waiting, 5)
            assert not rb.wakers

    for from_thread in (False, True):
        asyncio.run(main(from_thread))


def test_a_number_that_is_another_files_now() -> None:
    """The end of a wait leaves the reader of the file that got the closed ring's number."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        with new_ring(4096) as ring:
            rb = RingBuffer(ring)
            waiting = asyncio.ensure_future(anext(rb.batches()))
            await asyncio.sleep(0.01)
            number = rb.fileno()
            rb.close()
            reading, writing = os.pipe()
            os.dup2(reading, number)
            try:
                loop.add_reader(number, lambda: came.set_result(os.read(number, 9)))
                waiting.cancel()
                await asyncio.wait([waiting])
                os.write(writing, b"mine")
                return await asyncio.wait_for(came, 5)
            finally:
                loop.remove_reader(number)
                for one in {reading, writing, number}:
                    os.close(one)

    assert asyncio.run(main()) == b"mine"


def test_a_kept_view_of_a_chunk_does_not_bring_it_back() -> None:
    """Records of a chunk are consumed, even if something still holds its memory."""
    with new_ring(4096) as ring, Producer.output(ring, 8) as producer, RingBuffer(ring) as rb:
        producer.run(3)
        with pytest.raises(BufferError), rb.chunk() as chunk:
            assert chunk is not None
            kept = NUMBERED.iter_unpack(chunk.view)
        assert rb.available == 0
        del kept


def test_an_iterator_that_outlives_the_ring() -> None:
    """Dropping it after the ring was closed is no error."""
    with new_ring(4096) as ring, Producer.output(ring, 8) as producer:
        producer.run(2)
        with RingBuffer(ring, NUMBERED) as rb:
            records = rb.records(0)
            assert next(records) == (1,)
        records.close()  # type: ignore[attr-defined]


def test_an_error_in_one_ring_does_not_lose_the_others_records() -> None:
    """What was read from other rings is returned. The next call raises, and the rest goes on."""

    def never(view: memoryview) -> int:
        raise LookupError(len(view))

    with (
        new_ring(4096) as one,
        new_ring(4096) as two,
        Producer.output(one, 8) as fine,
        Producer.output(two, 8) as faulty,
        RingBuffer(one, NUMBERED) as first,
        RingBuffer(two, never) as second,
    ):
        rings = RingBuffers([first, second])
        fine.run(2)
        faulty.run(1)
        assert rings.read(1) == [(first, [(1,), (2,)])]
        with pytest.raises(LookupError, match="8"):
            rings.read(1)
        fine.run(1)
        assert rings.read(1) == [(first, [(3,)])]


def test_several_rings_with_one_wait() -> None:
    with (
        new_ring(4096) as one,
        new_ring(4096) as two,
        Producer.output(two, 8) as producer,
        RingBuffer(one, NUMBERED) as first,
        RingBuffer(two, NUMBERED) as second,
    ):
        rings = RingBuffers([first, second])
        assert rings.wait(0.05) == [] and rings.read(0) == []
        producer.run(3)
        assert rings.wait(1) == [second]
        assert rings.read(1) == [(second, [(1,), (2,), (3,)])]
        # The fd works with any poller.
        producer.run(1)
        assert select.select([first, second], [], [], 1)[0] == [second]


@pytest.fixture
def overwriting() -> Iterator[Map]:
    """A ring of 4096 bytes that writes over its oldest records."""
    flags = MapFlag.BPF_F_RB_OVERWRITE
    try:
        ring = Map.create_new(MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, map_flags=flags)
    except BpfError as error:
        pytest.skip(f"this kernel has no rings in overwrite mode (7.0): {error}")
    with ring:
        yield ring


@pytest.mark.first_on("latest")
def test_the_newest_records(overwriting: Map) -> None:
    """A full ring takes every record and keeps the last ones. It says how many bytes were lost."""
    stride, count = 24, 1000
    with Producer.output(overwriting, 16) as producer, RingBuffer(overwriting) as rb:
        producer.run(count)
        assert (producer.offered, producer.dropped) == (count, 0)
        numbers = [int.from_bytes(record[:8], "little") for record in rb.read(0)]
        assert numbers == list(range(count - len(numbers) + 1, count + 1))
        assert len(numbers) >= 4096 // stride - 1
        assert rb.overwritten == (count - len(numbers)) * stride
        producer.run(3)
        assert [int.from_bytes(record[:8], "little") for record in rb.read(5)] == [
            count + 1,
            count + 2,
            count + 3,
        ]


@pytest.mark.first_on("latest")
def test_overwriting_while_it_is_read(overwriting: Map) -> None:
    """Records come in order and whole, and what is read and lost is all that was offered."""
    with Producer.output(overwriting, 16) as producer, RingBuffer(overwriting) as rb:
        last = taken = 0
        with running(producer, 20_000):
            while last < 20_000:
                for record in rb.read(5):
                    number = int.from_bytes(record[:8], "little")
                    assert number > last
                    last = number
                    taken += 1
        assert 24 * taken + rb.overwritten == 24 * 20_000 == rb.consumer_position


def test_not_a_ring() -> None:
    with (
        Map.create_new(MapType.BPF_MAP_TYPE_HASH, 4, 4, 4) as other,
        pytest.raises(BpfError, match="not a BPF_MAP_TYPE_RINGBUF"),
    ):
        RingBuffer(other)


def test_reader_outlives_the_map() -> None:
    """A reader goes on when map and object are closed: it holds all that it needs."""
    with new_ring(4096) as ring, Producer.output(ring, 8) as producer:
        producer.run(2)
        rb = RingBuffer(ring, NUMBERED)
    with rb:
        assert rb.read(0) == [(1,), (2,)]
        assert rb.read(0.01) == []


def test_column_outlives_the_reader() -> None:
    with new_ring(4096) as ring, Producer.output(ring, 8) as producer:
        rb = RingBuffer(ring, NUMBERED)
        producer.run(2)
        with rb.chunk() as chunk:
            assert chunk is not None
            column = chunk.column(0, "Q")
        rb.close()
        assert column.tolist() == [1, 2]
        del column, chunk
    assert rb.closed
