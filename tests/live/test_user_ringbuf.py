"""Records from user space reach a BPF program, in order, through a user ring buffer."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf._uapi.enums import MapType
from pybpf.maps import Map

DATA = Path(__file__).parents[1] / "data"
PACKET = bytes(64)


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "map_user_ring.bpf.o") as opened:
        opened.load()
        yield opened


def test_records_of_a_type(obj: pybpf.Object) -> None:
    """Values of a BTF type arrive whole and in order, while the ring wraps many times."""
    drain = obj.programs["drain"]
    with pybpf.UserRingBuffer(obj.maps["orders"], "struct order") as ring:
        for turn in range(100):
            for number in range(37):
                ring.write({"number": number, "amount": turn, "name": f"turn {turn}"})
            assert drain.test_run(PACKET).retval == 37
            assert ring.available == 0
    assert obj.globals.taken == 3700 and obj.globals.wrong == 0
    assert obj.globals.amounts == 37 * sum(range(100))
    assert obj.globals.last == (36, 99, "turn 99")


def test_reserve_submit_discard(obj: pybpf.Object) -> None:
    """The program stops at a reserved record, takes it once submitted, passes a discarded one."""
    drain = obj.programs["drain"]
    order = struct.Struct("=Qi12s")
    with pybpf.UserRingBuffer(obj.maps["orders"]) as ring:
        first, second = ring.reserve(order.size), ring.reserve(order.size)
        third = ring.reserve(4)
        second.discard()
        third.submit()
        assert drain.test_run(PACKET).retval != 2  # the first is not ready
        assert obj.globals.taken == 0
        order.pack_into(first.data, 0, 7, -5, b"late")
        first.submit()
        assert drain.test_run(PACKET).retval == 2
        assert (obj.globals.taken, obj.globals.wrong) == (1, 1)  # 4 bytes are not an order
        assert obj.globals.last == (7, -5, "late")
        with pytest.raises(ValueError, match="already"):
            first.submit()
        with pytest.raises(RuntimeError), ring.reserve(order.size):
            raise RuntimeError
        assert drain.test_run(PACKET).retval == 0  # an exception discards


def test_a_kept_view_does_not_hold_up_the_program(obj: pybpf.Object) -> None:
    """A record is submitted or discarded even if something still holds its memory."""
    drain = obj.programs["drain"]
    with pybpf.UserRingBuffer(obj.maps["orders"]) as ring:
        with ring.reserve(24) as record:
            kept = struct.iter_unpack("8s", record.data)
        assert drain.test_run(PACKET).retval == 1
        del kept
        assert ring.available == 0


def test_a_full_ring(obj: pybpf.Object) -> None:
    """Without room there is one error, or a wait until the program has taken records."""
    drain = obj.programs["drain"]
    with pybpf.UserRingBuffer(obj.maps["orders"]) as ring:
        for _ in range(4096 // 32):
            ring.write(bytes(24))
        assert ring.available == ring.size
        assert not select.select([], [ring], [], 0)[1]
        with pytest.raises(pybpf.BpfError, match="no program has drained it") as caught:
            ring.write(bytes(24), timeout=0.01)
        assert caught.value.errno == errno.ENOSPC
        thread = threading.Timer(0.05, lambda: drain.test_run(PACKET))
        thread.start()
        ring.write(bytes(24), timeout=None)
        thread.join()
        assert select.select([], [ring], [], 0)[1]
        with pytest.raises(pybpf.BpfError, match="max_entries") as caught:
            ring.reserve(4096)
        assert caught.value.errno == errno.E2BIG


def test_wrong_maps_and_types(obj: pybpf.Object) -> None:
    """Another map, another type and a closed ring are refused by name; nothing leaks."""
    with (
        Map.create_new(MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, name="events") as other,
        pytest.raises(pybpf.BpfError, match=r"map 'events': .*USER_RINGBUF"),
    ):
        pybpf.UserRingBuffer(other)
    orders = obj.maps["orders"]
    with pytest.raises(ValueError, match="struct ordre"):
        pybpf.UserRingBuffer(orders, "struct ordre")
    with pytest.raises(TypeError, match="record type"):
        pybpf.UserRingBuffer(orders, 1.5)
    before = len(os.listdir("/proc/self/fd"))
    with pybpf.UserRingBuffer(orders, struct.Struct("=I")) as ring:
        ring.write((5,))
        with pytest.raises(ValueError, match="above 0"):
            ring.reserve(0)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(pybpf.StateError, match="closed"):
        ring.reserve(8)
