"""What can be changed between opening and loading an object, and what that does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import pybpf
from pybpf._uapi.enums import MapType
from pybpf.errors import StateError
from pybpf.maps import Map

DATA = Path(__file__).parents[1] / "data"
PACKET = bytes(64)


def test_programs_that_are_not_loaded() -> None:
    """With autoload off a program is left out, and says so when it is used."""
    with pybpf.open(DATA / "map_events.bpf.o") as obj:
        obj.programs["touch"].autoload = False
        obj.load()
        assert [p.name for p in obj.programs.values() if p.loaded] == ["offer", "touch_other"]
        with pytest.raises(pybpf.BpfError, match="'touch' is not loaded: its autoload is off"):
            obj.programs["touch"].test_run(PACKET)
        obj.programs["touch"].load()  # later, by itself
        assert obj.programs["touch"].test_run(PACKET).retval == 1


def test_maps_that_are_not_created() -> None:
    """With autocreate off a map is left out; only programs that reach it are refused."""
    with pybpf.open(DATA / "map_events.bpf.o") as obj:
        obj.maps["events"].autocreate = False
        obj.programs["offer"].autoload = False
        obj.load()
        assert not obj.maps["events"].created
        assert obj.programs["touch_other"].test_run(PACKET).retval == 6
        with pytest.raises(pybpf.VerifierError, match="map 'events'"):
            obj.programs["offer"].load()
        with pytest.raises(AttributeError, match="exists"):
            obj.maps[".bss"].autocreate = False


def test_maps_with_other_sizes_and_contents() -> None:
    """Sizes, initial data and flags that are set before loading are the kernel's afterwards."""
    with pybpf.open(DATA / "map_events.bpf.o") as obj:
        obj.maps["events"].max_entries = 1 << 16
        obj.globals.step = 5
        obj.load()
        assert obj.maps["events"].info().max_entries == 1 << 16
        obj.programs["offer"].test_run(PACKET)
        with pybpf.RingBuffer(obj.maps["events"], "struct event") as ring:
            assert [event.delta for event in ring.read(0)] == [5]


def test_a_map_of_somebody_else() -> None:
    """A map that is replaced by a descriptor is the one that the programs use."""
    ring_type = MapType.BPF_MAP_TYPE_RINGBUF
    with (
        Map.create_new(ring_type, 0, 0, 4096, name="theirs") as theirs,
        pybpf.open(DATA / "map_events.bpf.o") as obj,
    ):
        obj.maps["events"].reuse_fd(theirs.fd)
        obj.load()
        obj.programs["offer"].test_run(PACKET)
        with pybpf.RingBuffer(theirs) as ring:
            assert len(ring.read(0)) == 1


def test_preparing_and_closing() -> None:
    """`prepare` creates maps and loads no program; closing may be repeated and ends everything."""
    obj = pybpf.open(DATA / "map_events.bpf.o")
    obj.prepare()
    obj.prepare()
    assert obj.maps["events"].created
    assert not any(program.loaded for program in obj.programs.values())
    obj.load()
    assert all(program.loaded for program in obj.programs.values())
    obj.close()
    obj.close()
    assert obj.maps["events"].closed
    uses = (
        obj.load,
        obj.attach,
        lambda: obj.globals.seq,
        obj.maps["events"].info,
        lambda: obj.programs["offer"].test_run(PACKET),
    )
    for use in uses:
        with pytest.raises(StateError, match=r"open .*again"):
            use()


def test_logged_steps(caplog: pytest.LogCaptureFixture) -> None:
    """The standard logging has what was skipped, relocated, made, loaded and attached."""
    caplog.set_level(logging.DEBUG, "pybpf")
    with pybpf.open(DATA / "core_lines.bpf.o") as obj:
        obj.programs["on_fentry"].autoload = False  # a policy may forbid it
        obj.load()
    with pybpf.open(DATA / "attach_by_hand.bpf.o") as obj:
        obj.load()
        obj.programs["on_xdp"].attach_xdp("lo").close()
    said: dict[str, str] = {}
    for record in caplog.records:
        said[record.name] = said.get(record.name, "") + record.getMessage() + "\n"
    assert "core_lines.bpf.o: section '.llvm_addrsig' skipped" in said["pybpf.obj"]
    assert " -> 0x" in said["pybpf.core"] and "struct task_struct" in said["pybpf.core"]
    assert "created 'runs': array, 6 entries" in said["pybpf.maps"]
    assert "loading 'on_xdp': " in said["pybpf.programs"]
    assert "opened xdp on lo" in said["pybpf.links"]


def test_the_log_of_a_program_that_is_accepted() -> None:
    """With log_level the verifier's words are kept. Without it there are none."""
    with pybpf.open(DATA / "map_events.bpf.o") as obj:
        obj.programs["offer"].log_level = 2
        obj.load()
        assert "processed" in obj.programs["offer"].log and "exit" in obj.programs["offer"].log
        assert obj.programs["touch"].log == ""
