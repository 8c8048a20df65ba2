"""Every map type round-trips on the running kernel, and batches equal single reads."""

from __future__ import annotations

import errno
import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from pybpf._sys import bpf
from pybpf._sys import prog as sys_prog
from pybpf._uapi.enums import MapType as T
from pybpf._uapi.enums import ProgType
from pybpf.asm import encode
from pybpf.asm.insn import exit_, mov
from pybpf.btf import Btf, Int, Member, Struct
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import BpfError
from pybpf.maps import Map, PerCpu, possible_cpus
from pybpf.obj.spec import MapSpec

NO_PREALLOC = 1
RDONLY = 1 << 3
MMAPABLE = 1 << 10


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


HASHES = [
    (T.BPF_MAP_TYPE_HASH, 0),
    (T.BPF_MAP_TYPE_HASH, NO_PREALLOC),
    (T.BPF_MAP_TYPE_LRU_HASH, 0),
]
PERCPU_HASHES = [(T.BPF_MAP_TYPE_PERCPU_HASH, 0), (T.BPF_MAP_TYPE_LRU_PERCPU_HASH, 0)]


@pytest.mark.parametrize(("kind", "flags"), HASHES)
def test_hash_is_a_mapping(kind: T, flags: int) -> None:
    """A hash map behaves like a dict, through single calls and batches."""
    with Map.create_new(kind, 4, 8, 2000, map_flags=flags) as m:
        assert len(m) == 0 and m.to_dict() == {} and list(m) == []
        m[u32(1)] = u64(10)
        assert m[u32(1)] == u64(10) and u32(1) in m and u32(2) not in m
        assert m.get(u32(2)) is None and m.lookup(u32(1)) == u64(10)
        with pytest.raises(KeyError):
            m[u32(2)]
        with pytest.raises(KeyError):
            del m[u32(2)]
        model = {u32(i): u64(i * i) for i in range(1000)}
        m.update(model)
        assert len(m) == 1000
        assert m.to_dict() == dict(m.items()) == dict(m) == model
        assert sorted(m.keys()) == sorted(model) and sorted(m.values()) == sorted(model.values())
        assert dict(m.items(batch=7)) == model and dict(m.items(batch=10**12)) == model
        assert m.pop(u32(3)) == u64(9) and u32(3) not in m
        assert m.pop(u32(3), None) is None
        with pytest.raises(KeyError):
            m.pop(u32(3))
        assert m.setdefault(u32(4), u64(0)) == u64(16)
        assert m.setdefault(u32(3), u64(7)) == u64(7)
        del m[u32(3)]
        assert m.delete([u32(i) for i in range(100)], missing_ok=True) == 99
        with pytest.raises(KeyError):
            m.delete([u32(200), u32(1), u32(201)])
        assert u32(200) not in m and u32(201) in m
        assert dict(m.drain(batch=64)) == {
            k: v
            for k, v in model.items()
            if k > u32(0) and struct.unpack("=I", k)[0] >= 100 and k != u32(200)
        }
        assert len(m) == 0
        m.update(model)
        m.clear()
        assert list(m.items()) == []


@pytest.mark.parametrize(("kind", "flags"), PERCPU_HASHES)
@pytest.mark.parametrize("size", [4, 8, 12])
def test_percpu_hash(kind: T, flags: int, size: int) -> None:
    """One item per possible CPU, whatever the padding, also through batches."""
    cpus = possible_cpus()
    with Map.create_new(kind, 4, size, 100, map_flags=flags) as m:
        own = [bytes([cpu + 1]) * size for cpu in range(cpus)]
        m[u32(1)] = own
        m[u32(2)] = b"\7" * size
        assert m[u32(1)] == own and len(m[u32(1)]) == cpus
        assert m[u32(2)] == [b"\7" * size] * cpus
        assert m.to_dict() == {u32(1): own, u32(2): [b"\7" * size] * cpus}
        m.update({u32(i): PerCpu([bytes([i]) * size] * cpus) for i in range(10, 60)})
        assert len(m) == 52 and m[u32(33)] == [bytes([33]) * size] * cpus
        with pytest.raises(ValueError, match="possible CPUs"):
            m[u32(1)] = [b"\0" * size] * (cpus + 1)


def test_array() -> None:
    with Map.create_new(T.BPF_MAP_TYPE_ARRAY, 4, 8, 100) as m:
        assert len(m) == 100 and list(m) == list(range(100))
        m[5] = u64(7)
        m.update((i, u64(i)) for i in range(50, 100))
        assert m[5] == u64(7) and m[99] == u64(99) and m[0] == u64(0)
        assert m.to_dict(batch=9) == {i: m[i] for i in range(100)}
        assert 99 in m and 100 not in m
        with pytest.raises(KeyError):
            m[100]
        with pytest.raises(BpfError, match="not below max_entries, 100"):
            m[100] = u64(1)
        with pytest.raises(BpfError, match="cannot be deleted"):
            del m[5]
        with pytest.raises(BpfError):
            m.clear()


def test_percpu_array() -> None:
    cpus = possible_cpus()
    with Map.create_new(T.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 3) as m:
        m[1] = [u64(cpu) for cpu in range(cpus)]
        assert m[1] == [u64(cpu) for cpu in range(cpus)] and m[0] == [u64(0)] * cpus
        assert m.to_dict() == {i: m[i] for i in range(3)}


@pytest.mark.parametrize(("kind", "order"), [(T.BPF_MAP_TYPE_QUEUE, 1), (T.BPF_MAP_TYPE_STACK, -1)])
def test_queue_and_stack(kind: T, order: int) -> None:
    with Map.create_new(kind, 0, 8, 3) as m:
        for i in range(3):
            m.push(u64(i))
        with pytest.raises(BpfError) as full:
            m.push(u64(3))
        assert full.value.errno == errno.E2BIG
        m.push(u64(3), flags=2)  # BPF_EXIST: the oldest goes
        expected = [u64(i) for i in (1, 2, 3)][::order]
        assert m.peek() == expected[0]
        assert [m.pop() for _ in range(3)] == expected
        assert m.pop(default=None) is None
        with pytest.raises(IndexError, match="empty"):
            m.pop()
        with pytest.raises(IndexError):
            m.peek()
        m.push(u64(9))
        m.clear()
        assert m.pop(default=None) is None
        with pytest.raises(BpfError):
            len(m)


def test_bloom_filter() -> None:
    """A member is always found; of a thousand strangers hardly any is."""
    with Map.create_new(T.BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 1000, map_extra=5) as m:
        m.push(u64(5))
        assert u64(5) in m
        assert sum(u64(i) in m for i in range(1000, 2000)) < 10


def test_lpm_trie() -> None:
    with Map.create_new(T.BPF_MAP_TYPE_LPM_TRIE, 8, 4, 10, map_flags=NO_PREALLOC) as m:
        m[(8, b"\x0a\0\0\0")] = u32(1)
        m[(16, b"\x0a\1\0\0")] = u32(2)
        assert m[(32, b"\x0a\1\2\3")] == u32(2) and m[(32, b"\x0a\2\2\3")] == u32(1)
        assert (32, b"\x0b\0\0\0") not in m
        assert m.to_dict() == {(8, b"\x0a\0\0\0"): u32(1), (16, b"\x0a\1\0\0"): u32(2)}
        assert dict(m.items(batch=1)) == m.to_dict()
        del m[(8, b"\x0a\0\0\0")]
        assert len(m) == 1
        m.clear()
        assert len(m) == 0


def test_a_wrong_key_among_many() -> None:
    """The kernel stops at a prefix that is too long. That key is named, not the first one."""
    with Map.create_new(T.BPF_MAP_TYPE_LPM_TRIE, 8, 4, 10, map_flags=NO_PREALLOC) as m:
        keys = [struct.pack("=I4B", 24, 10, number, 0, 0) for number in range(4)]
        m.raw.update((key, u32(1)) for key in keys)
        wrong = struct.pack("=I4B", 99, 10, 9, 0, 0)
        with pytest.raises(BpfError) as caught:
            m.raw.delete([*keys[:2], wrong, *keys[2:]])
        assert caught.value.errno == errno.EINVAL
        assert sorted(m.raw) == keys[2:]
        assert m.raw.delete(keys, missing_ok=True) == 2


def trivial_program() -> Any:
    return sys_prog.prog_load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, encode([mov(0, 0), exit_()]))


def test_prog_array() -> None:
    """Programs are written as themselves and read back as ids."""
    with (
        Map.create_new(T.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4) as m,
        trivial_program() as program,
    ):
        number = bpf.prog_info(program.fileno()).id
        m[1] = program
        m[3] = program.fileno()
        assert m[1] == number and 1 in m and 0 not in m
        assert m.to_dict() == {1: number, 3: number} and list(m) == [1, 3] and len(m) == 2
        del m[1]
        assert list(m) == [3]
        m.clear()
        assert len(m) == 0


@pytest.mark.parametrize("kind", [T.BPF_MAP_TYPE_ARRAY_OF_MAPS, T.BPF_MAP_TYPE_HASH_OF_MAPS])
def test_map_of_maps(kind: T) -> None:
    """The blueprint's inner map is the pattern; written as maps, read as ids."""
    inner = MapSpec("inner", T.BPF_MAP_TYPE_HASH, 4, 8, 16)
    outer = Map(MapSpec("outer", kind, 4, 4, 8, inner=inner))
    outer.create()
    with outer, outer.new_inner(name="first") as first, outer.new_inner() as second:
        outer[2] = first
        outer[5] = second
        ids = {2: first.info().id, 5: second.info().id}
        key = struct.Struct("=I").unpack if kind == T.BPF_MAP_TYPE_HASH_OF_MAPS else lambda k: (k,)
        assert {key(k)[0]: v for k, v in outer.items()} == ids
        assert first.info().name == "first"
        with Map.from_id(outer[5 if kind == T.BPF_MAP_TYPE_ARRAY_OF_MAPS else u32(5)]) as found:
            found[u32(1)] = u64(1)
        assert second[u32(1)] == u64(1)
        with Map.create_new(T.BPF_MAP_TYPE_HASH, 8, 8, 16) as other, pytest.raises(BpfError):
            outer[3] = other  # not of the pattern's shape


def test_perf_event_array_takes_one_entry_per_cpu() -> None:
    """max_entries 0 becomes the number of possible CPUs, as libbpf does."""
    with Map.create_new(T.BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 0) as m:
        assert m.max_entries == m.info().max_entries == possible_cpus()


def test_stack_trace_map_is_empty_until_a_program_fills_it() -> None:
    with Map.create_new(T.BPF_MAP_TYPE_STACK_TRACE, 4, 127 * 8, 64) as m:
        assert 3 not in m and m.to_dict() == {}
        with pytest.raises(KeyError):
            m[3]
        with pytest.raises(KeyError):
            del m[3]


def test_cgroup_storage_is_created_and_walked() -> None:
    """The deprecated cgroup storage maps work raw; they are empty without a program."""
    for kind in (T.BPF_MAP_TYPE_CGROUP_STORAGE, T.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE):
        with Map.create_new(kind, 16, 8, 0) as m:
            assert list(m.raw) == []


def typed_btf() -> tuple[Btf, dict[str, int]]:
    """``struct pair { int a; unsigned b; }`` and its members' types."""
    build = BtfBuilder()
    ids = {
        "int": build.add(Int("int", 4, 32, 0, 1)),
        "unsigned": build.add(Int("unsigned int", 4, 32, 0, 0)),
        "u64": build.add(Int("unsigned long long", 8, 64, 0, 0)),
    }
    members = (Member("a", ids["int"], 0, 0), Member("b", ids["unsigned"], 32, 0))
    ids["pair"] = build.add(Struct("pair", 8, members))
    return Btf(build.build()), ids


def test_typed_keys_and_values() -> None:
    """BTF types make ints and records of keys and values; raw stays bytes."""
    btf, ids = typed_btf()
    spec = MapSpec(
        "typed",
        T.BPF_MAP_TYPE_HASH,
        4,
        8,
        100,
        key_type_id=ids["int"],
        value_type_id=ids["pair"],
    )
    m = Map(spec, btf)
    with bpf.btf_load(btf.raw) as fd, m:
        m.create(btf_fd=fd.fileno())
        assert m.btf_refused == 0
        m[-1] = (-2, 3)
        assert (m[-1].a, m[-1].b) == (-2, 3)
        m[5] = {"a": 1, "b": 2}
        m[6] = m[5]
        assert m[6] == m[5] and m[6].a == 1
        assert sorted(m) == [-1, 5, 6]
        assert m.raw[struct.pack("=i", -1)] == struct.pack("=iI", -2, 3)
        assert m[u32(5)] == m[5]  # bytes are always taken
        m.update({i: (i, i) for i in range(10, 60)})
        assert {k: v.a for k, v in m.items() if k >= 10} == {i: i for i in range(10, 60)}
        with pytest.raises(ValueError):
            m[1 << 31]
        assert "x" not in m


def test_task_storage_by_pidfd() -> None:
    """A local storage map's key is a file descriptor: of a process here."""
    btf, ids = typed_btf()
    spec = MapSpec(
        "storage",
        T.BPF_MAP_TYPE_TASK_STORAGE,
        4,
        8,
        0,
        map_flags=NO_PREALLOC,
        key_type_id=ids["int"],
        value_type_id=ids["u64"],
    )
    m = Map(spec, btf)
    pidfd = os.pidfd_open(os.getpid())
    try:
        with bpf.btf_load(btf.raw) as fd, m:
            m.create(btf_fd=fd.fileno())
            assert pidfd not in m
            m[pidfd] = 77
            assert m[pidfd] == 77
            del m[pidfd]
            assert m.lookup(pidfd) is None
    finally:
        os.close(pidfd)


def test_refused_btf_is_left_out() -> None:
    """If the kernel refuses a map's BTF, the map is created without it, and says so."""
    btf, ids = typed_btf()
    spec = MapSpec(
        "odd", T.BPF_MAP_TYPE_HASH, 8, 8, 4, key_type_id=ids["int"], value_type_id=ids["u64"]
    )
    with bpf.btf_load(btf.raw) as fd, Map(spec, btf) as m:
        m.create(btf_fd=fd.fileno())
        assert m.btf_refused == errno.EINVAL
        m[bytes(8)] = 5
        assert m[bytes(8)] == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((T.BPF_MAP_TYPE_HASH, 4, 8, 0), "max_entries is 0"),
        ((T.BPF_MAP_TYPE_HASH, 0, 8, 1), "key_size is 0"),
        ((T.BPF_MAP_TYPE_ARRAY, 8, 8, 1), "the key of an array is 4 bytes"),
        ((T.BPF_MAP_TYPE_RINGBUF, 0, 0, 0), "size in bytes and is 0"),
        ((T.BPF_MAP_TYPE_LPM_TRIE, 8, 8, 1), "BPF_F_NO_PREALLOC"),
        ((T.BPF_MAP_TYPE_QUEUE, 4, 8, 1), "key_size must be 0"),
        ((T.BPF_MAP_TYPE_STACK_TRACE, 4, 12, 1), "not a multiple of 8"),
        ((T.BPF_MAP_TYPE_PROG_ARRAY, 4, 8, 1), "4-byte fd"),
        ((T.BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1), "inner map"),
        ((T.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 32769, 1), "limit of 32768"),
    ],
)
def test_refusal_names_the_culprit(arguments: tuple[int, int, int, int], words: str) -> None:
    """The kernel really refuses what the hint explains, and the message names the map."""
    with pytest.raises(BpfError) as refused:
        Map.create_new(*arguments, name="odd")
    assert words in str(refused.value) and "'odd'" in str(refused.value)


def test_full_map_says_so() -> None:
    """E2BIG in the middle of a batch: what came before it is written."""
    with Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 10) as m:
        with pytest.raises(BpfError, match="the map is full: max_entries is 10"):
            m.update({u32(i): u64(i) for i in range(20)})
        assert len(m) == 10
        with pytest.raises(BpfError, match="full"):
            m[u32(100)] = u64(1)


def test_flags_of_single_operations() -> None:
    with Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 10) as m:
        with pytest.raises(KeyError):
            m.put(u32(1), u64(1), flags=2)
        m.put(u32(1), u64(1), flags=1)
        with pytest.raises(BpfError) as exists:
            m.put(u32(1), u64(2), flags=1)
        assert exists.value.errno == errno.EEXIST
        m.put(u32(1), u64(3), flags=2)
        assert m[u32(1)] == u64(3)


def test_per_key_walk_equals_batch_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no batches the walk goes key by key, to the same result."""
    with Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 500) as m:
        model = {u32(i): u64(i) for i in range(300)}
        m.update(model)
        single = [(bytes(keys), bytes(values)) for keys, values, _ in m._singles(100, delete=False)]
        assert b"".join(v for _, v in single) == b"".join(
            model[bytes(k[at : at + 4])] for k, _ in single for at in range(0, len(k), 4)
        )
        for key in m._keys_one_by_one():
            del m[key]
        assert len(m) == 0


def test_threads_share_a_map() -> None:
    """Operations of several threads on one Map object never mix up keys and values."""
    wrong: list[int] = []
    with Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 64) as m:

        def work(number: int) -> None:
            for i in range(3000):
                m[u32(number)] = u64(number << 32 | i)
                if m[u32(number)] != u64(number << 32 | i):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_mmap_and_freeze() -> None:
    """memory() is the map itself; a frozen map can be read and no longer written."""
    with Map.create_new(T.BPF_MAP_TYPE_ARRAY, 4, 12, 1000, map_flags=MMAPABLE) as m:
        with m.memory() as memory:
            memory[16:28] = b"x" * 12
        assert m[1] == b"x" * 12
        m[2] = b"y" * 12
        with m.memory() as memory:
            assert bytes(memory[32:44]) == b"y" * 12
        m.freeze()
        with pytest.raises(BpfError, match="frozen"):
            m[1] = bytes(12)
        with m.memory() as memory:
            assert memory.readonly and bytes(memory[32:44]) == b"y" * 12
    with (
        Map.create_new(T.BPF_MAP_TYPE_ARRAY, 4, 8, 1) as plain,
        pytest.raises(BpfError, match="BPF_F_MMAPABLE"),
    ):
        plain.memory()


def test_read_only_for_user_space() -> None:
    with (
        Map.create_new(T.BPF_MAP_TYPE_ARRAY, 4, 8, 1, map_flags=RDONLY) as m,
        pytest.raises(BpfError, match="flags"),
    ):
        m[0] = u64(1)


@pytest.mark.parametrize("data", ["rodata", "data", "bss"])
def test_data_section_starts_with_its_contents(data: str) -> None:
    """The initial bytes, edited before creation, are there; .rodata is frozen, the others not."""
    spec = MapSpec(
        "." + data,
        T.BPF_MAP_TYPE_ARRAY,
        4,
        16,
        1,
        map_flags=MMAPABLE | (1 << 7 if data == "rodata" else 0),
        initial=None if data == "bss" else bytes(range(16)),
        data=data,
    )
    m = Map(spec)
    assert m.initial is not None
    m.initial[3] = 99
    with m:
        m.create(name="x.data")
        expected = bytearray(16) if data == "bss" else bytearray(range(16))
        expected[3] = 99
        assert m[0] == bytes(expected)
        if data == "rodata":
            with pytest.raises(BpfError, match="frozen"):
                m[0] = bytes(16)
        else:
            m[0] = bytes(16)


def test_pinning(bpffs: Path) -> None:
    """A pinned map outlives its fd and is found by path, with its contents."""
    path = bpffs / "kept"
    with Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 10, name="kept") as m:
        m[u32(1)] = u64(2)
        m.pin(path)
        number = m.info().id
    with Map.from_pinned(path) as again:
        assert (again.info().id, again.name, again.type) == (number, "kept", T.BPF_MAP_TYPE_HASH)
        assert again[u32(1)] == u64(2)
        same = Map(MapSpec("kept", T.BPF_MAP_TYPE_HASH, 4, 8, 10))
        assert same.differences(again.fd) == []
        same.max_entries = 11
        assert same.differences(again.fd) == ["max_entries is 10, not 11"]
        again.unpin()
        assert not path.exists()
        with pytest.raises(BpfError, match="not pinned"):
            again.unpin()


def test_ring_size_is_rounded_when_compared() -> None:
    """A ring of 5000 bytes is created with 8192 and equals its own blueprint."""
    spec = MapSpec("ring", T.BPF_MAP_TYPE_RINGBUF, 0, 0, 5000)
    with Map(spec) as m:
        m.create()
        assert m.max_entries == 8192
        assert Map(spec).differences(m.fd) == []


def test_reuse_fd_takes_over_the_parameters() -> None:
    with Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 10, name="first") as m:
        other = Map(MapSpec("second", T.BPF_MAP_TYPE_ARRAY, 4, 4, 1))
        other.reuse_fd(m.fd)
        with other:
            assert (other.type, other.value_size, other.max_entries) == (m.type, 8, 10)
            other[u32(1)] = u64(1)
            assert m[u32(1)] == u64(1)
            assert other.fileno() != m.fileno()
            with pytest.raises(BpfError, match="already exists"):
                other.reuse_fd(m.fd)


def test_life_of_a_map() -> None:
    """Parameters can be set before creation, not after; a closed map says that it is closed."""
    m = Map(MapSpec("m", T.BPF_MAP_TYPE_HASH, 4, 8, 10))
    with pytest.raises(BpfError, match="not created yet"):
        m[u32(1)]
    m.max_entries = 20
    m.create(name="odd name!")
    assert m.info().max_entries == 20 and m.info().name == "odd_name_"
    with pytest.raises(AttributeError, match="max_entries can no longer be changed"):
        m.max_entries = 30
    with pytest.raises(BpfError, match="already exists"):
        m.create()
    raw = m.raw
    m[u32(1)] = u64(1)
    assert raw[u32(1)] == u64(1)
    m.close()
    m.close()
    for broken in (m, raw):
        with pytest.raises(BpfError, match="closed"):
            broken[u32(1)]
    assert m.closed and not m.created


def test_a_map_is_a_handle() -> None:
    """Always true, equal to itself only, hashable: an empty map is still a map."""
    with (
        Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 4) as one,
        Map.create_new(T.BPF_MAP_TYPE_HASH, 4, 8, 4) as two,
    ):
        assert one and one != two and len({one, two, one}) == 2
        assert "hash" in repr(one)


def test_legacy_definitions_run() -> None:
    """Maps in sections maps, maps/NAME and NAME/maps are those that the program uses."""
    import pybpf

    with pybpf.open(
        Path(__file__).parents[1] / "data" / "obj_legacy_forms.bpf.o", legacy_maps=True
    ) as obj:
        obj.load()
        for name, value in (("second", 1), ("third", 2), ("fourth", 3)):
            obj.maps[name].raw[bytes(4)] = value.to_bytes(8, "little")
        obj.programs["use"].test_run(bytes(64))
        assert obj.globals.total == 5 + 1 + 20 + 300
        assert obj.maps["first"].raw[bytes(4)] == (1).to_bytes(8, "little")
