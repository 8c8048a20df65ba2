"""Maps that an object pins by name when it is loaded."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pybpf
from pybpf._sys import bpf as sys_bpf
from pybpf._uapi.enums import MapFlag
from pybpf._uapi.enums import MapType as T
from pybpf.errors import BpfError, StateError
from pybpf.obj.reader import read_object
from pybpf.obj.spec import MapSpec

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


def test_a_path_that_the_caller_gives(obj: pybpf.Object, bpffs: Path) -> None:
    """Any map is pinned at a path that is set before loading, and the next load finds it there."""
    path = bpffs / "given"
    obj.maps["by_both"].pin_path = str(path)
    obj.load()
    with opened(bpffs) as again, pybpf.Map.from_pinned(path) as kept:
        assert kept.info().id == obj.maps["by_both"].info().id
        again.maps["by_both"].pin_path = str(path)
        again.load()
        assert again.maps["by_both"].info().id == kept.info().id
        assert again.maps["by_type"].pin_path == str(bpffs / "by_type")
        again.maps["by_both"].unpin()
    assert not path.exists()


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
    """The same holds when a later map fails, in `prepare`."""
    obj.maps["by_both"].max_entries = 0
    with pytest.raises(BpfError, match="by_both"):
        obj.prepare()
    assert not (bpffs / "by_type").exists()


PER_CPU_LRU = MapFlag.BPF_F_NO_COMMON_LRU
LAZY = MapFlag.BPF_F_NO_PREALLOC
# Type -> key size, value size, entries, flags. Entries are odd where the kernel may round them.
KINDS = {
    T.BPF_MAP_TYPE_HASH: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_ARRAY: (4, 4, 5, MapFlag.BPF_F_MMAPABLE),
    T.BPF_MAP_TYPE_PROG_ARRAY: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_PERF_EVENT_ARRAY: (4, 4, 0, 0),
    T.BPF_MAP_TYPE_PERCPU_HASH: (4, 3, 5, LAZY),
    T.BPF_MAP_TYPE_PERCPU_ARRAY: (4, 3, 5, 0),
    T.BPF_MAP_TYPE_STACK_TRACE: (4, 8 * 127, 5, 0),
    T.BPF_MAP_TYPE_CGROUP_ARRAY: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_LRU_HASH: (4, 4, 5, PER_CPU_LRU),
    T.BPF_MAP_TYPE_LRU_PERCPU_HASH: (4, 4, 5, PER_CPU_LRU),
    T.BPF_MAP_TYPE_LPM_TRIE: (8, 4, 5, LAZY),
    T.BPF_MAP_TYPE_ARRAY_OF_MAPS: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_HASH_OF_MAPS: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_DEVMAP: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_SOCKMAP: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_CPUMAP: (4, 4, 1, 0),
    T.BPF_MAP_TYPE_XSKMAP: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_SOCKHASH: (4, 4, 5, 0),
    T.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY: (4, 8, 5, 0),
    T.BPF_MAP_TYPE_QUEUE: (0, 4, 5, 0),
    T.BPF_MAP_TYPE_STACK: (0, 4, 5, 0),
    T.BPF_MAP_TYPE_DEVMAP_HASH: (4, 8, 5, 0),
    T.BPF_MAP_TYPE_RINGBUF: (0, 0, 5000, 0),
    T.BPF_MAP_TYPE_BLOOM_FILTER: (0, 4, 5, 0),
    T.BPF_MAP_TYPE_USER_RINGBUF: (0, 0, 5000, 0),
    T.BPF_MAP_TYPE_ARENA: (0, 0, 5, MapFlag.BPF_F_MMAPABLE),
}
# The rest needs types, which the other tests of pins have.
TYPED = {
    *(T.BPF_MAP_TYPE_CGROUP_STORAGE, T.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, T.BPF_MAP_TYPE_UNSPEC),
    *(T.BPF_MAP_TYPE_SK_STORAGE, T.BPF_MAP_TYPE_STRUCT_OPS, T.BPF_MAP_TYPE_INODE_STORAGE),
    *(T.BPF_MAP_TYPE_TASK_STORAGE, T.BPF_MAP_TYPE_CGRP_STORAGE, T.BPF_MAP_TYPE_INSN_ARRAY),
    T.BPF_MAP_TYPE_RHASH,
}


def test_kinds_are_all_kinds() -> None:
    assert set(KINDS) | TYPED == set(T)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_reused(kind: T, bpffs: Path) -> None:
    """A map that this loader pinned is taken for the same one, whatever the kernel makes of its
    size and flags; one with other parameters is not."""
    key, value, entries, flags = KINDS[kind]
    spec = MapSpec("one", kind, key, value, entries, map_flags=flags)
    outer = kind in (T.BPF_MAP_TYPE_ARRAY_OF_MAPS, T.BPF_MAP_TYPE_HASH_OF_MAPS)
    inner = pybpf.Map.create_new(T.BPF_MAP_TYPE_ARRAY, 4, 4, 1) if outer else None
    made = pybpf.Map(spec)
    try:
        made.create(inner=inner)
    except BpfError as error:
        pytest.skip(f"this kernel makes no such map: {error}")
    finally:
        if inner is not None:
            inner.close()
    with made, pybpf.Map(spec) as again:
        made.pin(bpffs / "one")
        with sys_bpf.obj_get(str(bpffs / "one")) as fd:
            assert again.differences(fd) == []
            again.map_flags ^= MapFlag.BPF_F_RDONLY
            assert any("map_flags" in text for text in again.differences(fd))
        (bpffs / "one").unlink()


def test_a_slot_whose_program_is_not_loaded() -> None:
    """A program array never starts with a hole where the object says a program: the error names
    map, slot and program, and nothing stays loaded."""
    spec = read_object(OBJECT.read_bytes(), OBJECT.name)
    maps = {name: one for name, one in spec.maps.items() if one.type == T.BPF_MAP_TYPE_PROG_ARRAY}
    (name,) = maps
    with pybpf.Object(replace(spec, maps=maps), None, None) as obj:
        for program in obj.programs.values():
            program.autoload = program.name == "tail_a"
        with pytest.raises(StateError, match=rf"map '{name}': program 'tail_b' of slot 6"):
            obj.load()
        assert not obj.programs["tail_a"].loaded
    with pybpf.Object(replace(spec, maps=maps), None, None) as obj:
        for program in obj.programs.values():
            program.autoload = program.name in ("tail_a", "tail_b")
        obj.load()
        assert set(obj.maps[name]) == {1, 6}
