"""Perf event buffers on the running kernel: order per CPU, typed records, counted losses."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf._uapi.enums import MapType
from pybpf.maps import Map
from pybpf.ringbuf.perf import PerfBuffer
from tests.support.require import facts

OBJECT = Path(__file__).parents[1] / "data" / "map_perf.bpf.o"


@pytest.fixture
def perf() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT, facts=facts()) as obj:
        obj.load()
        yield obj


@pytest.fixture
def one_cpu() -> Iterator[int]:
    """Everything of this test runs on one CPU."""
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    yield cpu
    os.sched_setaffinity(0, before)


def offer(obj: pybpf.Object, times: int) -> None:
    obj.programs["offer_packet"].test_run(bytes(64), repeat=times)


def test_typed_records_in_order(perf: pybpf.Object, one_cpu: int) -> None:
    with PerfBuffer(perf.maps["events"], "struct event") as buffer:
        perf.programs["offer"].test_run()
        (record,) = buffer.read(5)
        assert (record.seq, record.cpu, record.text) == (1, one_cpu, "perf")
        offer(perf, 1000)
        assert [r.seq for r in buffer.read(5)] == list(range(2, 1002))
        assert buffer.read(0.05) == []
        assert buffer.lost == 0 and perf.globals.failed == 0


def test_wrap_around(perf: pybpf.Object, one_cpu: int) -> None:
    """Many times the ring's size goes through it and no record is cut."""
    with PerfBuffer(perf.maps["events"], "struct event", pages=1) as buffer:
        numbers: list[int] = []
        for _ in range(200):
            offer(perf, 50)
            for cpu, records in buffer.read_by_cpu(5):
                assert cpu == one_cpu
                numbers += [record.seq for record in records]
        assert numbers == list(range(1, 10_001))


def test_losses_are_counted(perf: pybpf.Object, one_cpu: int) -> None:
    """The kernel reports what did not fit once there is room again."""
    with PerfBuffer(perf.maps["events"], "struct event", pages=1) as buffer:
        offer(perf, 1000)
        got = len(buffer.read(5))
        assert 0 < got < 1000
        offer(perf, 1)  # makes the kernel write its LOST record
        got += len(buffer.read(5))
        assert got + buffer.lost == perf.globals.seq == 1001
        assert buffer.lost == perf.globals.failed
        assert buffer.lost_by_cpu == {one_cpu: buffer.lost}


def test_max_records_and_errors(perf: pybpf.Object, one_cpu: int) -> None:
    """A record that cannot be decoded raises once; none of its neighbours is lost."""

    def fussy(view: memoryview) -> int:
        number = view[0]
        if number == 3:
            raise LookupError("three")
        return number

    with PerfBuffer(perf.maps["events"], fussy) as buffer:
        offer(perf, 2)
        assert buffer.read(5, max_records=1) == [1]
        assert buffer.read(0) == [2]
        offer(perf, 4)
        with pytest.raises(LookupError, match="three"):
            buffer.read(5)
        assert buffer.read(0) == [4, 5, 6]


def test_every_record_with_an_error_counts(perf: pybpf.Object, one_cpu: int) -> None:
    """The exception of the first one says how many more there were."""

    def even(view: memoryview) -> int:
        if view[0] % 2:
            raise LookupError(view[0])
        return view[0]

    with PerfBuffer(perf.maps["events"], even) as buffer:
        offer(perf, 6)
        with pytest.raises(LookupError, match="1") as caught:
            buffer.read(5)
        assert caught.value.__notes__ == ["2 more records had errors, too"]
        assert buffer.read(0) == [2, 4, 6]


def test_read_after_somebody_else_waited(perf: pybpf.Object, one_cpu: int) -> None:
    """The kernel says only once that there are records. `read` finds them all the same."""
    with PerfBuffer(perf.maps["events"], "struct event") as buffer:
        offer(perf, 2)
        assert select.select([buffer], [], [], 5)[0] == [buffer]
        select.select([buffer], [], [], 0)
        timer = threading.Timer(3, offer, [perf, 1])  # what else would end the wait
        timer.start()
        assert [record.seq for record in buffer.read()] == [1, 2]
        timer.cancel()
        timer.join()


def test_closing_when_the_map_refuses(perf: pybpf.Object) -> None:
    """Every ring is closed, even if the map can no longer be changed."""
    before = len(os.listdir("/proc/self/fd"))
    buffer = PerfBuffer(perf.maps["events"])
    perf.maps["events"].freeze()
    with pytest.raises(pybpf.BpfError, match="frozen"):
        buffer.close()
    assert buffer.closed
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_wakes_the_task_that_waits(perf: pybpf.Object) -> None:
    async def main() -> None:
        buffer = PerfBuffer(perf.maps["events"])
        waiting = asyncio.ensure_future(anext(buffer.batches()))
        await asyncio.sleep(0.01)
        buffer.close()
        with pytest.raises(pybpf.StateError, match="closed"):
            await asyncio.wait_for(waiting, 5)

    asyncio.run(main())


def test_life(perf: pybpf.Object) -> None:
    events = perf.maps["events"]
    buffer = PerfBuffer(events)
    offer(perf, 1)
    assert perf.globals.failed == 0
    buffer.close()
    buffer.close()
    offer(perf, 1)
    assert perf.globals.failed == 1  # nobody listens any more
    with pytest.raises(pybpf.StateError, match="closed"):
        buffer.read(0)
    with pytest.raises(ValueError, match="power of two"):
        PerfBuffer(events, pages=3)
    with (
        Map.create_new(MapType.BPF_MAP_TYPE_HASH, 4, 4, 4) as other,
        pytest.raises(pybpf.BpfError, match="not a BPF_MAP_TYPE_PERF_EVENT_ARRAY"),
    ):
        PerfBuffer(other)


def test_asynchronous_batches(perf: pybpf.Object, one_cpu: int) -> None:
    """``async for`` gives the records of all CPUs, and ends after the timeout."""

    async def main() -> list[int]:
        numbers: list[int] = []
        async with PerfBuffer(perf.maps["events"], "struct event") as buffer:
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, offer, perf, 3)
            async for batch in buffer.batches(0.5):
                numbers += [record.seq for record in batch]
            loop.call_later(0.05, offer, perf, 1)
            async for batch in buffer:
                numbers += [record.seq for record in batch]
                break
        return numbers

    assert asyncio.run(main()) == [1, 2, 3, 4]
