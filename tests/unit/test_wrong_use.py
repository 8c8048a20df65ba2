"""Objects, maps and programs that are used before they are loaded, or after they are closed."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import pybpf
from pybpf._uapi.enums import MapType
from pybpf.errors import BpfError, StateError

DATA = Path(__file__).parents[1] / "data"
EVENTS = DATA / "map_events.bpf.o"

USES: dict[str, Callable[[pybpf.Object], object]] = {
    "test_run": lambda obj: obj.programs["offer"].test_run(bytes(64)),
    "info": lambda obj: obj.programs["offer"].info(),
    "pin": lambda obj: obj.programs["offer"].pin("/sys/fs/bpf/x"),
    "fileno": lambda obj: obj.programs["offer"].fileno(),
    "attach": lambda obj: obj.attach(),
    "value": lambda obj: obj.maps[".bss"][0],
    "items": lambda obj: list(obj.maps["events"].items()),
    "length": lambda obj: len(obj.maps["events"]),
    "map info": lambda obj: obj.maps["events"].info(),
    "memory": lambda obj: obj.maps["events"].memory(),
    "ring": lambda obj: pybpf.RingBuffer(obj.maps["events"]),
}


@pytest.mark.parametrize("use", USES)
def test_before_loading(use: str) -> None:
    """One kind of error, in words: what it is, and that it has to be loaded."""
    with pybpf.open(EVENTS) as obj, pytest.raises(StateError) as caught:
        USES[use](obj)
    text = str(caught.value)
    assert "load" in text and "EBADF" not in text
    assert caught.value.errno == errno.EBADF
    assert any(name in text for name in ("'offer'", "'events'", "'.bss'", "map_events.bpf.o"))


@pytest.mark.parametrize("use", ["attach", "value", "items", "map info"])
def test_after_closing(use: str) -> None:
    obj = pybpf.open(EVENTS)
    obj.close()
    with pytest.raises(StateError):
        USES[use](obj)
    with pytest.raises(StateError, match="closed; open it again"):
        obj.load()


def test_a_load_that_failed_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load says why the object is closed."""
    obj = pybpf.open(EVENTS)

    def refuse(*args: object) -> None:
        raise BpfError(errno.EPERM, "BPF_MAP_CREATE")

    monkeypatch.setattr(obj.binding, "_create_maps", refuse)
    monkeypatch.setattr(obj.binding, "_load_btf", lambda: None)
    with pytest.raises(BpfError, match="BPF_MAP_CREATE: EPERM"):
        obj.load()
    for again in (obj.load, obj.prepare, obj.programs["offer"].load):
        with pytest.raises(StateError, match="because loading it failed; open it again"):
            again()
    obj.close()
    with pytest.raises(StateError, match="because loading it failed; open it again"):
        obj.load()


def test_multi_programs_are_loaded_later() -> None:
    says = r"'on_entry' is not loaded: .* attach_multi"
    with pybpf.open(DATA / "multi.bpf.o") as obj, pytest.raises(StateError, match=says):
        obj.programs["on_entry"].test_run()


def test_it_survives_a_pickle() -> None:
    error = StateError("map 'x'", "it is closed; open it again")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("reader", [pybpf.RingBuffer, pybpf.PerfBuffer, pybpf.UserRingBuffer])
@pytest.mark.parametrize("given", ["events", 7, None])
def test_a_ring_is_a_map(reader: type, given: object) -> None:
    """A name is not a map: the error says what to give."""
    with pytest.raises(TypeError, match=rf"{reader.__name__}: a map expected, not .*obj.maps"):
        reader(given)


def test_the_reader_of_another_map_is_named() -> None:
    with pybpf.open(EVENTS) as obj:
        assert obj.maps["events"].type == MapType.BPF_MAP_TYPE_RINGBUF
        with pytest.raises(BpfError, match=r"use pybpf\.RingBuffer"):
            pybpf.PerfBuffer(obj.maps["events"])
