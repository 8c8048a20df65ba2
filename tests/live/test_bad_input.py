"""Wrong input of every area: one error that names the thing and the next step."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import pybpf
from pybpf._uapi.defines import BPF_F_SLEEPABLE
from pybpf._uapi.enums import MapType, ProgType
from pybpf.maps import Map
from pybpf.obj.maptypes import KEYLESS

DATA = Path(__file__).parents[1] / "data"
CGROUPS = "/sys/fs/cgroup"


def by_hand(name: str, attach: Callable[[pybpf.Program], object]) -> Callable[[Path], None]:
    """Attach a loaded program of attach_by_hand.bpf.o."""

    def act(folder: Path) -> None:
        with pybpf.open(DATA / "attach_by_hand.bpf.o") as obj:
            obj.load()
            attach(obj.programs[name])

    return act


def config(text: str) -> Callable[[Path], None]:
    """Load obj_kconfig.bpf.o for a kernel with this configuration."""

    def act(folder: Path) -> None:
        file = folder / "config"
        file.write_text(text)
        with pybpf.open(DATA / "obj_kconfig.bpf.o", kconfig=file) as obj:
            obj.load()

    return act


def sized(name: str, entries: int) -> Callable[[Path], None]:
    """Load map_kinds.bpf.o with a map of this size."""

    def act(folder: Path) -> None:
        with pybpf.open(DATA / "map_kinds.bpf.o") as obj:
            obj.maps[name].max_entries = entries
            obj.load()

    return act


def target(name: str) -> Callable[[Path], None]:
    """Load a fentry program for a kernel function."""

    def act(folder: Path) -> None:
        with pybpf.open(DATA / "fentry_args.bpf.o") as obj:
            program = obj.programs["entry1"]
            program.attach_to = name
            program.load()

    return act


def rejected(folder: Path) -> None:
    with pybpf.open(DATA / "obj_subprogs.bpf.o") as obj:
        obj.programs["callbacks"].load()


def loaded(act: Callable[[pybpf.Object], object]) -> Callable[[Path], None]:
    """Use the loaded map_events.bpf.o."""

    def do(folder: Path) -> None:
        with pybpf.open(DATA / "map_events.bpf.o") as obj:
            obj.load()
            act(obj)

    return do


def created(kind: MapType, act: Callable[[Map], object]) -> Callable[[Path], None]:
    """Use a new map of this type."""

    def do(folder: Path) -> None:
        sized = (0, 4) if kind in KEYLESS else (4, 4)
        with Map.create_new(kind, *sized, 8, name="mine") as one:
            act(one)

    return do


def unknown_map(folder: Path) -> None:
    with pybpf.open(DATA / "map_events.bpf.o") as obj:
        obj.maps["evnts"]


def unknown_variable(folder: Path) -> None:
    with pybpf.open(DATA / "map_events.bpf.o") as obj:
        obj.globals.stepp = 1


def no_object(folder: Path) -> None:
    file = folder / "note.txt"
    file.write_text("hello" * 50)
    pybpf.open(file)


# What is done, and what the error has to say: the thing, and what to do or what there is.
WRONG: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "symbol": (
        by_hand("on_uprobe", lambda p: p.attach_uprobe("libc.so.6", "mallok")),
        ["'mallok'", "libc.so.6'", "near: ", "malloc"],
    ),
    "library": (
        by_hand("on_uprobe", lambda p: p.attach_uprobe("libc.so.7", "malloc")),
        ["library 'libc.so.7'", "near: libc.so.6"],
    ),
    "cgroup": (
        by_hand("on_egress", lambda p: p.attach_cgroup(f"{CGROUPS}/no such one")),
        [f"cgroup '{CGROUPS}/no such one'", CGROUPS],
    ),
    "folder of a cgroup": (
        by_hand("on_egress", lambda p: p.attach_cgroup("/no/such/one")),
        ["cgroup '/no/such/one'", "there is no folder '/no/such'"],
    ),
    "interface": (
        by_hand("on_xdp", lambda p: p.attach_xdp("lo1")),
        ["network interface with name 'lo1'", "there are: lo"],
    ),
    "network namespace": (
        by_hand("on_lookup", lambda p: p.attach_netns("/proc/self/ns/nett")),
        ["network namespace '/proc/self/ns/nett'", "near: net"],
    ),
    "module": (
        target("no_such_module:vfs_read"),
        ["module 'no_such_module'", "modprobe no_such_module"],
    ),
    "kernel function": (target("vfs_reed"), ["kernel function 'vfs_reed'", "near: vfs_read"]),
    "option that is not set": (
        config("CONFIG_BPF=y\n"),
        ["'CONFIG_", "not set", "kconfig={NAME: VALUE}"],
    ),
    "option of another type": (
        config('CONFIG_BPF="text"\n'),
        ["'CONFIG_BPF'", "'\"text\"'", "kconfig={NAME: VALUE}"],
    ),
    "map too large": (
        sized("hash", (1 << 32) - 1),
        ["map 'hash'", "4294967295 entries", "set a smaller max_entries"],
    ),
    "map without a size": (sized("hash", 0), ["map 'hash'", "max_entries is 0: set it"]),
    "rejected program": (
        rejected,
        ["program 'callbacks'", "obj_subprogs.bpf.c:67", "not static", "log in .log"],
    ),
    "map name": (unknown_map, ["no map 'evnts'", "'events'"]),
    "variable name": (unknown_variable, ["stepp", "'step'"]),
    "packet of a test run": (
        loaded(lambda obj: obj.programs["offer"].test_run()),
        ["program 'offer'", "give data, at least 14 bytes"],
    ),
    "packet that is text": (
        loaded(lambda obj: obj.programs["offer"].test_run("x")),  # type: ignore[arg-type]
        ["data of a test run", "bytes expected, not str"],
    ),
    "type of records": (
        loaded(lambda obj: pybpf.RingBuffer(obj.maps["events"], "struct evnt")),
        ["no type 'struct evnt'", "'struct event'"],
    ),
    "type that clang left out": (
        loaded(lambda obj: pybpf.RingBuffer(obj.maps["events"], "struct record")),
        ["no type 'struct record'", "const struct record *unused_record;"],
    ),
    "form of a type": (
        loaded(lambda obj: pybpf.RingBuffer(obj.maps["events"], "strct event")),
        ["'strct event'", "give struct NAME"],
    ),
    "ring that is another map": (
        loaded(lambda obj: pybpf.PerfBuffer(obj.maps["events"])),
        ["map 'events'", "PERF_EVENT_ARRAY", "use pybpf.RingBuffer"],
    ),
    "entries of a ring": (
        loaded(lambda obj: list(obj.maps["events"].items())),
        ["map 'events'", "has no keys", "pybpf.RingBuffer"],
    ),
    "entries of a queue": (
        created(MapType.BPF_MAP_TYPE_QUEUE, lambda one: list(one.items())),
        ["map 'mine'", "a queue has no keys", "push(), pop() and peek()"],
    ),
    "key of a stack": (
        created(MapType.BPF_MAP_TYPE_STACK, lambda one: one[0]),
        ["key 0", "a stack has no keys", "push(), pop() and peek()"],
    ),
    "raw key of a stack": (
        created(MapType.BPF_MAP_TYPE_STACK, lambda one: one.raw[b"x"]),
        ["key b'x'", "a stack has no keys"],
    ),
    "length of a bloom filter": (
        created(MapType.BPF_MAP_TYPE_BLOOM_FILTER, len),
        ["map 'mine'", "a bloom filter has no keys", "`value in map`"],
    ),
    "push to a hash": (
        created(MapType.BPF_MAP_TYPE_HASH, lambda one: one.push(1)),
        ["map 'mine'", "push() is only for queues"],
    ),
    "peek into an array": (
        created(MapType.BPF_MAP_TYPE_ARRAY, lambda one: one.peek()),
        ["map 'mine'", "peek() is only for queues"],
    ),
    "number of another descriptor": (
        created(MapType.BPF_MAP_TYPE_PROG_ARRAY, lambda one: one.__setitem__(0, 12345)),
        ["map 'mine'", "no such descriptor", "a program or its descriptor"],
    ),
    "map instead of a program": (
        created(MapType.BPF_MAP_TYPE_PROG_ARRAY, lambda one: one.__setitem__(0, one)),
        ["map 'mine'", "the value is a program of the type"],
    ),
    "object file": (no_object, ["note.txt", "ELF"]),
}


@pytest.mark.parametrize("area", WRONG)
def test_one_error(area: str, tmp_path: Path) -> None:
    """The error is pybpf's own or Python's for wrong names, with all that helps, in few lines."""
    act, says = WRONG[area]
    with pytest.raises((pybpf.BpfError, ValueError, KeyError, AttributeError, TypeError)) as caught:
        act(tmp_path)
    text = str(caught.value)
    assert all(part in text for part in says), text
    assert len(text.splitlines()) <= 12


def test_a_wrong_pinned_map(bpffs: Path) -> None:
    """A map that is pinned under the name and is another: its path, what differs, what to do."""
    with Map.create_new(MapType.BPF_MAP_TYPE_HASH, 8, 8, 77, name="by_type") as other:
        other.pin(bpffs / "by_type")
        with pybpf.open(DATA / "obj_maps.bpf.o") as obj:
            obj.pin_root = str(bpffs)
            with pytest.raises(pybpf.BpfError) as caught:
                obj.prepare()
    text = str(caught.value)
    assert "map 'by_type'" in text and f"{bpffs}/by_type" in text
    assert "max_entries is 77" in text or "key_size is 8" in text
    assert "remove it" in text or "pin_root" in text


def test_a_socket_that_is_none() -> None:
    """What is attached to a socket needs one; a number is a TypeError that says so."""
    with pybpf.open(DATA / "map_events.bpf.o") as obj, socket.socket() as sock:
        obj.load()
        with pytest.raises(TypeError, match="socket filter: a socket expected, not int"):
            obj.programs["offer"].attach_socket(sock.fileno())  # type: ignore[arg-type]


def test_the_source_of_a_rejected_program() -> None:
    """The error has file and line of the refused instruction, also where the kernel has not."""
    with (
        pybpf.open(DATA / "obj_subprogs.bpf.o") as obj,
        pytest.raises(pybpf.VerifierError) as caught,
    ):
        obj.programs["callbacks"].load()
    assert caught.value.source == "obj_subprogs.bpf.c:67"


def test_a_name_that_the_kernel_does_not_allow() -> None:
    """clang allows ``$`` in names. The kernel's name of the program has "_" there, as for maps."""
    data = (DATA / "map_events.bpf.o").read_bytes().replace(b"\0offer\0", b"\0of$er\0")
    with pybpf.open(data) as obj:
        obj.load()
        program = obj.programs["of$er"]
        assert program.info().name == "of_er"
        program.test_run(bytes(64))
        assert obj.globals.seq == 1


def test_an_inner_map_of_another_kind() -> None:
    """Says what the value must be."""
    one = Map.create_new(MapType.BPF_MAP_TYPE_ARRAY, 4, 4, 2)
    other = Map.create_new(MapType.BPF_MAP_TYPE_HASH, 8, 8, 2)
    with one, other:
        outer = Map.create_new(MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 2, inner=one)
        with outer, pytest.raises(pybpf.BpfError, match="a map of the type, sizes and flags"):
            outer[0] = other


def test_a_context_that_is_too_short() -> None:
    """A program that is only run may read what it is given: the error says to give more."""
    with pybpf.open(DATA / "attach_net.bpf.o") as obj:
        program = obj.programs["whole"]
        program.type, program.flags = ProgType.BPF_PROG_TYPE_SYSCALL, BPF_F_SLEEPABLE
        program.expected_attach_type = 0
        program.load()
        with pytest.raises(pybpf.BpfError, match="than the 2 bytes given: give ctx"):
            program.test_run(ctx=b"xx")
