"""Maps that an object pins by name when it is loaded."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pybpf
from pybpf.errors import BpfError
from pybpf.obj.reader import read_object

OBJECT = Path(__file__).parents[1] / "data" / "obj_maps.bpf.o"


@pytest.fixture
def obj(bpffs: Path) -> Iterator[pybpf.Object]:
    with opened(bpffs) as one:
        yield one


def opened(bpffs: Path) -> pybpf.Object:
    """Two maps of the object, the first of them pinned by name, and two programs."""
    spec = read_object(OBJECT.read_bytes(), OBJECT.name)
    maps = {name: spec.maps[name] for name in ("by_type", "by_both")}
    obj = pybpf.Object(replace(spec, maps=maps), None, None)
    obj.pin_root = str(bpffs)
    for program in obj.programs.values():
        program.autoload = program.name in ("tail_a", "tail_b")
    return obj


def test_a_failed_load_leaves_no_pin(obj: pybpf.Object, bpffs: Path) -> None:
    """What this load pinned is unpinned when a program fails; loading again later works."""
    obj.programs["tail_b"].type = 0
    with pytest.raises(BpfError, match="missing program type"):
        obj.load()
    assert not (bpffs / "by_type").exists()
    with opened(bpffs) as again:
        again.load()
        assert (bpffs / "by_type").exists()


def test_a_failed_load_leaves_the_pins_of_others(obj: pybpf.Object, bpffs: Path) -> None:
    """A map that was found pinned stays so, with its contents."""
    with opened(bpffs) as first:
        first.load()
        number = first.maps["by_type"].info().id
    obj.programs["tail_b"].type = 0
    with pytest.raises(BpfError, match="missing program type"):
        obj.load()
    with pybpf.Map.from_pinned(bpffs / "by_type") as kept:
        assert kept.info().id == number


def test_a_failed_load_leaves_what_was_prepared_before(obj: pybpf.Object, bpffs: Path) -> None:
    """Maps made by an earlier call that succeeded are not this load's."""
    obj.prepare()
    obj.programs["tail_b"].type = 0
    with pytest.raises(BpfError, match="missing program type"):
        obj.load()
    assert (bpffs / "by_type").exists()


def test_two_loads_at_once_share_the_map(
    obj: pybpf.Object, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process pins its map between our look and our pin: both use that one."""
    pin = pybpf.Map.pin
    with opened(bpffs) as other:

        def late(self: pybpf.Map, path: str) -> None:
            monkeypatch.setattr(pybpf.Map, "pin", pin)
            other.load()
            self.pin(path)

        monkeypatch.setattr(pybpf.Map, "pin", late)
        obj.load()
        assert obj.maps["by_type"].info().id == other.maps["by_type"].info().id
        assert not obj.maps["by_type"].closed


def test_a_pin_that_never_is_a_map_ends(
    obj: pybpf.Object, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody pins and unpins all the time: an error after a few attempts, and nothing left."""
    asked = []

    def refuse(self: pybpf.Map, path: str) -> None:
        asked.append(path)
        raise BpfError(errno.EEXIST, "BPF_OBJ_PIN")

    monkeypatch.setattr(pybpf.Map, "pin", refuse)
    with pytest.raises(BpfError, match="EEXIST"):
        obj.load()
    assert 1 < len(asked) < 10
    assert not (bpffs / "by_type").exists()


def test_maps_that_cannot_be_made_leave_no_pin(obj: pybpf.Object, bpffs: Path) -> None:
    """The same when a later map fails, in `prepare`."""
    obj.maps["by_both"].max_entries = 0
    with pytest.raises(BpfError, match="by_both"):
        obj.prepare()
    assert not (bpffs / "by_type").exists()
