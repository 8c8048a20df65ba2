"""What was closed and is used all the same: one kind of error, whatever it was."""

from __future__ import annotations

import asyncio
import errno
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf._uapi.enums import MapType
from pybpf.errors import BpfError, StateError
from pybpf.kernel.kcore import BpfMemory
from pybpf.links import Link, LinkSet
from pybpf.maps import Map
from pybpf.ringbuf import RingBuffers
from tests.support.ringprog import Producer

DATA = Path(__file__).parents[1] / "data"
T = MapType

Uses = dict[str, Callable[[Any], object]]


def new_map(kind: MapType) -> Map:
    key, value, entries = {
        T.BPF_MAP_TYPE_HASH: (4, 8, 64),
        T.BPF_MAP_TYPE_ARRAY: (4, 8, 64),
        T.BPF_MAP_TYPE_QUEUE: (0, 8, 64),
        T.BPF_MAP_TYPE_RINGBUF: (0, 0, 4096),
        T.BPF_MAP_TYPE_USER_RINGBUF: (0, 0, 4096),
        T.BPF_MAP_TYPE_PERF_EVENT_ARRAY: (4, 4, 0),
    }[kind]
    return Map.create_new(kind, key, value, entries, name="mine")


def reader(kind: MapType, of: Callable[[Map], Any]) -> Callable[[], Any]:
    """Make a reader whose map is closed before it."""

    def make() -> Any:
        with new_map(kind) as one:
            return of(one)

    return make


def loaded(of: Callable[[pybpf.Object], Any]) -> Callable[[], Any]:
    """Take a part of a loaded object, which stays open."""

    def make() -> Any:
        obj = pybpf.open(DATA / "attach_by_hand.bpf.o")
        obj.load()
        made = of(obj)
        if made is not obj:
            for part in (*obj.programs.values(), obj):
                if part is not made:
                    part.close()
        return made

    return make


def iterator() -> Link:
    with pybpf.open(DATA / "iter_task.bpf.o") as obj:
        obj.load()
        return next(iter(obj.programs.values())).attach_iter()


def taken(view: Any) -> object:
    with view as found:
        return found


OF_READERS: Uses = {
    "fileno": lambda it: it.fileno(),
    "read": lambda it: it.read(0),
    "batches": lambda it: list(it.batches(0)),
}
OF_MAPS: Uses = {
    "fd": lambda it: it.fd,
    "fileno": lambda it: it.fileno(),
    "info": lambda it: it.info(),
    "length": len,
    "keys": list,
    "items": lambda it: list(it.items()),
    "value": lambda it: it[1],
    "assign": lambda it: it.update({1: bytes(8)}),
    "in": lambda it: 1 in it,
    "raw": lambda it: it.raw,
    "pin": lambda it: it.pin("/sys/fs/bpf/never"),
    "freeze": lambda it: it.freeze(),
}

#: What is closed, and the ways to use it.
CLOSED: dict[str, tuple[Callable[[], Any], Uses]] = {
    "hash": (lambda: new_map(T.BPF_MAP_TYPE_HASH), OF_MAPS),
    "array": (lambda: new_map(T.BPF_MAP_TYPE_ARRAY), OF_MAPS),
    "queue": (
        lambda: new_map(T.BPF_MAP_TYPE_QUEUE),
        {
            "push": lambda it: it.push(1),
            "pop": lambda it: it.pop(),
            "pop of a key": lambda it: it.pop(1),
            "peek": lambda it: it.peek(),
            "clear": lambda it: it.clear(),
        },
    ),
    "ring": (
        reader(T.BPF_MAP_TYPE_RINGBUF, pybpf.RingBuffer),
        OF_READERS
        | {
            "records": lambda it: list(it.records(0)),
            "consume": lambda it: it.consume(len),
            "chunk": lambda it: taken(it.chunk()),
            "available": lambda it: it.available,
            "consumer": lambda it: it.consumer_position,
            "producer": lambda it: it.producer_position,
            "several": lambda it: RingBuffers([it]),
        },
    ),
    "perf buffer": (
        reader(T.BPF_MAP_TYPE_PERF_EVENT_ARRAY, pybpf.PerfBuffer),
        OF_READERS | {"by cpu": lambda it: it.read_by_cpu(0)},
    ),
    "user ring": (
        reader(T.BPF_MAP_TYPE_USER_RINGBUF, pybpf.UserRingBuffer),
        {
            "fileno": lambda it: it.fileno(),
            "reserve": lambda it: it.reserve(8),
            "too large": lambda it: it.reserve(1 << 20),
            "write": lambda it: it.write(b"record"),
            "available": lambda it: it.available,
        },
    ),
    "link": (
        loaded(lambda obj: obj.programs["on_xdp"].attach_xdp("lo")),
        {
            "fd": lambda it: it.fd,
            "fileno": lambda it: it.fileno(),
            "id": lambda it: it.id,
            "info": lambda it: it.info(),
            "update": lambda it: it.update(it),
            "pin": lambda it: it.pin("/sys/fs/bpf/never"),
        },
    ),
    "iterator": (iterator, {"open": lambda it: it.open(), "read": lambda it: it.read()}),
    "program": (
        loaded(lambda obj: obj.programs["on_xdp"]),
        {
            "fd": lambda it: it.fd,
            "info": lambda it: it.info(),
            "test_run": lambda it: it.test_run(bytes(64)),
            "attach": lambda it: it.attach_xdp("lo"),
        },
    ),
    "object": (
        loaded(lambda obj: obj),
        {
            "load": lambda it: it.load(),
            "prepare": lambda it: it.prepare(),
            "attach": lambda it: it.attach(),
            "program": lambda it: it.programs["on_xdp"].info(),
        },
    ),
    "memory of the kernel": (BpfMemory, {"read": lambda it: it.read(1 << 63, 8)}),
}


#: Those that users hold; an object closes its programs.
OF_USERS = [thing for thing in CLOSED if thing not in ("program", "memory of the kernel")]


@pytest.mark.parametrize("thing", CLOSED)
def test_every_use_of_it(thing: str) -> None:
    """`StateError`, in words; a `ValueError` as well, as Python's closed files raise."""
    make, uses = CLOSED[thing]
    one = make()
    one.close()
    one.close()
    for use, act in uses.items():
        with pytest.raises(StateError) as caught:
            act(one)
        text = str(caught.value)
        assert "closed" in text and "EBADF" not in text, use
        assert isinstance(caught.value, BpfError) and isinstance(caught.value, ValueError), use
        assert caught.value.errno == errno.EBADF, use


@pytest.mark.parametrize("thing", [*OF_USERS, "program"])
def test_it_is_not_entered_and_shows_that_it_is_closed(thing: str) -> None:
    """`with` refuses it, as for Python's closed files. It can still be printed."""
    obj = CLOSED["object"][0]()
    one = obj.programs["on_xdp"] if thing == "program" else CLOSED[thing][0]()
    with obj, one:
        assert "closed" not in repr(one)
    with pytest.raises(StateError, match="closed"), one:
        pass
    assert "closed" in repr(one)


def test_links_that_were_closed_together() -> None:
    """A name that is not there is a KeyError in words, before and after."""
    with pybpf.open(DATA / "attach_by_hand.bpf.o") as obj:
        obj.load()
        links = LinkSet()
        links["on_xdp"] = obj.programs["on_xdp"].attach_xdp("lo")
        with pytest.raises(KeyError, match="no link 'on_xpd'; is it 'on_xdp'"):
            links["on_xpd"]
        links.close()
        with pytest.raises(KeyError, match="no link 'on_xdp'; there are none"):
            links["on_xdp"]


def test_a_program_that_cannot_replace_another() -> None:
    """The error names the link and says what to do."""
    with iterator() as link, CLOSED["object"][0]() as obj:
        with pytest.raises(BpfError, match=r"iter.*attach the new one") as caught:
            link.update(obj.programs["on_xdp"])
        assert caught.value.errno in (errno.EINVAL, errno.EOPNOTSUPP)


def test_a_walk_that_goes_on() -> None:
    """A walk of a closed map ends at the next step: its descriptor may be another's by now."""
    starts: list[Callable[[Map], Any]] = [
        lambda one: one.batches(8),
        lambda one: iter(one.items(8)),
        lambda one: one.drain(8),
        lambda one: one.raw.batches(8),
        lambda one: one._keys_one_by_one(),
        lambda one: one._items_one_by_one(),
    ]
    for start in starts:
        one = new_map(T.BPF_MAP_TYPE_HASH)
        one.update({key: bytes(8) for key in range(64)})
        walk = start(one)
        next(walk)
        one.close()
        with new_map(T.BPF_MAP_TYPE_HASH) as other, pytest.raises(StateError, match="'mine'"):
            other.update({key: bytes(8) for key in range(64)})
            list(walk)


def test_waiting_in_asyncio() -> None:
    """A ring that is closed while a task waits: the task gets the error, the loop forgets it."""

    async def wait(ring: pybpf.RingBuffer) -> None:
        number = ring.fileno()
        task = asyncio.ensure_future(anext(aiter(ring.batches(0.05))))
        await asyncio.sleep(0.01)
        ring.close()
        with pytest.raises(StateError, match="it is closed"):
            await task
        assert not asyncio.get_running_loop().remove_reader(number)

    with new_map(T.BPF_MAP_TYPE_RINGBUF) as one, pybpf.RingBuffer(one) as ring:
        asyncio.run(wait(ring))


def test_rings_of_which_one_is_closed() -> None:
    """Waiting for several does not call a closed one readable."""
    with new_map(T.BPF_MAP_TYPE_RINGBUF) as one, pybpf.RingBuffer(one) as ring:
        rings = RingBuffers([ring])
        assert rings.wait(0) == []
        ring.close()
        for use in (rings.wait, rings.read):
            with pytest.raises(StateError, match="'mine': it is closed"):
                use(0)


@pytest.mark.parametrize("thing", ["ring", "perf buffer", "user ring", "link"])
def test_selectors_forget_it(thing: str) -> None:
    """A selector finds the entry of a closed file by the `ValueError` of its fileno."""
    one = CLOSED[thing][0]()
    with selectors.PollSelector() as selector:
        selector.register(one, selectors.EVENT_READ)
        one.close()
        assert selector.unregister(one).fileobj is one


def test_a_ring_that_is_closed_while_it_is_read() -> None:
    """What was taken cannot be given back any more, and that is said."""

    def one_by_one(ring: pybpf.RingBuffer) -> None:
        for _ in ring.records(0):
            ring.close()

    def in_place(ring: pybpf.RingBuffer) -> None:
        with ring.chunk() as chunk:
            assert chunk is not None
            ring.close()

    uses: list[Callable[[pybpf.RingBuffer], object]] = [
        one_by_one,
        in_place,
        lambda ring: ring.consume(lambda view: ring.close()),
    ]
    for use in uses:
        with new_map(T.BPF_MAP_TYPE_RINGBUF) as one, Producer.output(one, 8) as producer:
            producer.run(2)
            ring = pybpf.RingBuffer(one)
            with pytest.raises(StateError, match="'mine': it is closed"):
                use(ring)


def test_a_record_is_finished_once() -> None:
    with new_map(T.BPF_MAP_TYPE_USER_RINGBUF) as one, pybpf.UserRingBuffer(one) as ring:
        record = ring.reserve(8)
        late = ring.reserve(8)
        record.submit()
        for again in (record.submit, record.discard):
            with pytest.raises(StateError, match="submitted or discarded already"):
                again()
        ring.close()
        with pytest.raises(StateError, match="it is closed"):
            late.submit()


def test_what_a_perf_buffer_kept() -> None:
    """Records that were read and not handed out go with the buffer."""
    with new_map(T.BPF_MAP_TYPE_PERF_EVENT_ARRAY) as one:
        buffer = pybpf.PerfBuffer(one)
        buffer._left = [(0, [b"record"])]
        buffer.close()
        with pytest.raises(StateError, match="closed"):
            buffer.read(0)


def test_a_closed_program_is_the_one_to_blame(tmp_path: Path) -> None:
    """Not the place that it was to be attached to."""
    program = CLOSED["program"][0]()
    program.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for attach in (
            lambda: program.attach_socket(sock),
            lambda: program.attach_cgroup(tmp_path),
            lambda: program.attach_xdp("lo"),
        ):
            with pytest.raises(StateError, match=r"'on_xdp' is closed") as caught:
                attach()
            assert "cgroup2" not in str(caught.value)


def test_an_object_that_was_never_loaded() -> None:
    """Its maps and variables say closed, not that it has to be loaded."""
    obj = pybpf.open(DATA / "map_events.bpf.o")
    obj.close()
    uses: list[Callable[[], object]] = [
        lambda: obj.globals.step,
        lambda: setattr(obj.globals, "step", 1),
        lambda: obj.maps[".bss"][0],
        lambda: len(obj.maps[".bss"]),
        lambda: obj.programs["offer"].fd,
    ]
    for use in uses:
        with pytest.raises(StateError, match="closed; open it again"):
            use()


def test_a_key_in_a_map_without_keys() -> None:
    """It is the TypeError of any other use of a key there, never False."""
    with new_map(T.BPF_MAP_TYPE_QUEUE) as queue, new_map(T.BPF_MAP_TYPE_RINGBUF) as ring:
        queue.push(1)
        uses: list[Callable[[], object]] = [
            lambda: 1 in queue,
            lambda: 1 in queue.raw,
            lambda: (1, 1) in queue.items(),
            lambda: 1 in ring,
            lambda: queue[1],
            lambda: queue.pop(1),
            lambda: queue.pop(1, None),
            lambda: queue.pop(b""),
        ]
        for use in uses:
            with pytest.raises(TypeError, match="has no keys"):
                use()
        assert queue.pop(default=None) is not None
    with Map.create_new(T.BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 4) as bloom:
        bloom.push(1)
        assert 1 in bloom and "text" not in bloom
    with new_map(T.BPF_MAP_TYPE_HASH) as hashed:
        assert "text" not in hashed and (1 << 40) not in hashed
