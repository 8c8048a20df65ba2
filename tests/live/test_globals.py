"""Global variables before and after loading, and typed events that they steer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.globals import variable
from tests.support.require import facts

OBJECT = Path(__file__).parents[1] / "data" / "map_events.bpf.o"
RESIZE = Path(__file__).parents[1] / "data" / "obj_resize.bpf.o"
PACKET = bytes(64)


@pytest.fixture
def events() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT, facts=facts()) as obj:
        yield obj


def offer(obj: pybpf.Object, times: int = 1) -> int:
    return obj.programs["offer"].test_run(PACKET, repeat=times).retval


def test_constants_are_set_before_loading(events: pybpf.Object) -> None:
    """What Python assigns to .rodata and .data before load() is what the program computes with."""
    names = events.globals
    names.step = -7
    names.limits = {"low": 3, "high": 5}
    names.label = "x"
    names.custom = 100
    events.load()
    with pybpf.RingBuffer(events.maps["events"], "struct event") as rb:
        offer(events, 10)
        records = rb.read(0)
    assert [(r.seq, r.delta, r.comm) for r in records] == [
        (3, -21, "x3"),
        (4, -28, "x4"),
        (5, -35, "x5"),
    ]
    assert names.seq == 10 and names.skipped == 7
    assert names.seen == (3, 5)
    assert names.table == (100, 100, 0, 100)


def test_constants_cannot_be_changed_after_loading(events: pybpf.Object) -> None:
    events.load()
    assert events.globals.step == -1
    with pytest.raises(AttributeError, match=r"'step' is in \.rodata.*before load"):
        events.globals.step = 2
    assert events.globals.step == -1


def test_variables_of_a_frozen_map(events: pybpf.Object) -> None:
    """They can be read. An assignment says why it is refused."""
    events.load()
    events.globals.seq = 4
    events.maps[".bss"].freeze()
    for name, value in (("seq", 5), ("table", [1, 2, 3, 4])):
        with pytest.raises(AttributeError, match=rf"'{name}' is in \.bss, whose map is frozen"):
            setattr(events.globals, name, value)
    assert events.globals.seq == 4


def test_variables_are_live(events: pybpf.Object) -> None:
    """Assignments are seen by the next run and the program's stores by the next read."""
    names = events.globals
    events.load()
    offer(events, 3)
    assert names.seq == 3
    names.seq = 1 << 40
    names.custom = 0
    offer(events)
    assert names.seq == (1 << 40) + 1
    names.seen = (0, 9)
    assert events.maps[".data"].raw[bytes(4)][4:12] == variable(names, "seen").raw


def test_section_without_shared_memory(events: pybpf.Object) -> None:
    """A map that cannot be mapped is read and written by system calls, to the same effect."""
    events.load()
    names = events.globals
    with pytest.raises(pybpf.BpfError, match="MMAPABLE"):
        events.maps[".bss.one"].memory()
    assert names["touch.twin"] == 0
    names["touch.twin"] = 41
    assert events.programs["touch"].test_run(PACKET).retval == 42
    assert names[".bss.one"]["touch.twin"] == 42
    assert names["touch_other.twin"] == 5


def test_losses_are_counted(events: pybpf.Object) -> None:
    """The convention: the program counts what the ring refuses, the reader shows it as `lost`."""
    events.load()
    names = events.globals
    with pybpf.RingBuffer(events.maps["events"], "struct event", lost=lambda: names.dropped) as rb:
        offer(events, 1000)
        got = len(rb.read(0))
        assert rb.lost is not None and rb.lost > 0
        assert got + rb.lost == names.seq == 1000


def test_counter_is_never_torn(events: pybpf.Object) -> None:
    """Reads of a 64-bit counter that a program changes meanwhile only ever go up."""
    events.load()
    names = events.globals
    names.seq = (1 << 32) - 20_000
    names.custom = 0
    before = names.seq
    thread = threading.Thread(target=offer, args=(events, 40_000))
    thread.start()
    while thread.is_alive():
        now = names.seq
        assert before <= now <= (1 << 32) + 20_000
        before = now
    thread.join()
    assert names.seq == (1 << 32) + 20_000


def test_closed_object_says_so(events: pybpf.Object) -> None:
    events.load()
    events.close()
    with pytest.raises(pybpf.BpfError, match="closed"):
        _ = events.globals.seq


def test_a_reopened_section_is_a_record_of_its_variables(events: pybpf.Object) -> None:
    """By id, each section is typed by variable, as the object's globals are; bytes by .raw."""
    events.globals.label = "x"
    events.load()
    offer(events, 3)
    for section in (".data", ".bss", ".rodata"):
        held, names = events.maps[section], events.globals[section]
        with pybpf.Map.from_id(held.info().id) as again:
            value = again[0]
            assert again.raw[bytes(4)] == held.raw[bytes(4)]
        assert set(value.to_dict()) >= set(names)
        for name in names:
            if name.isidentifier():
                assert getattr(value, name) == names[name]


def test_a_reopened_section_is_written_as_a_record(events: pybpf.Object) -> None:
    events.load()
    with pybpf.Map.from_id(events.maps[".bss"].info().id) as again:
        again[0] = {**again[0].to_dict(), "seq": 41}
    assert events.globals.seq == 41


def test_arrays_get_their_length_before_loading() -> None:
    """A program reaches all elements of a section made longer, which keeps its BTF types."""
    with pybpf.open(RESIZE, facts=facts()) as obj:
        obj.maps[".data.cells"].value_size = 40 * 16
        obj.maps[".rodata.weights"].value_size = 40 * 4
        obj.maps[".bss.names"].value_size = 8 + 40
        obj.globals.length = 40
        obj.globals.weights = range(40)
        obj.load()
        assert obj.programs["fill"].test_run(PACKET).retval == 3
        assert [(one.hits, one.weight) for one in obj.globals.cells] == [
            (1 + 5 * (number == 0), number) for number in range(40)
        ]
        assert obj.globals.total == sum(range(40))
        assert obj.globals.names == bytes(ord("a") + number for number in range(40))
        for name in (".data.cells", ".rodata.weights", ".bss.names"):
            assert not obj.maps[name].btf_refused and obj.maps[name].info().btf_value_type_id
        with pybpf.Map.from_id(obj.maps[".data.cells"].info().id) as same:
            assert len(same[0].cells) == 40
        with pytest.raises(AttributeError, match="can no longer be changed"):
            obj.maps[".data.cells"].value_size = 16
