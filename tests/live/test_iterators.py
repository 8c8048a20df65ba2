"""Iterators over a part of what there is, as arguments say."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

import pybpf
from pybpf._sys.prog import prog_load
from pybpf._uapi.enums import AttachType, MapType, ProgType
from pybpf.asm import encode
from pybpf.asm.insn import exit_, mov
from pybpf.btf import BtfKind
from pybpf.features import Feature
from pybpf.kernel import btf as kernel_btf
from pybpf.links import attach_iter
from pybpf.maps import Map

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.needs(Feature.ITER)
@pytest.mark.parametrize("by", ["pid", "tid"])
def test_tasks_of_one_process(by: str) -> None:
    """With pid= the link lists the threads of this process only, with tid= one thread."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pybpf.open(DATA / "iter_task.bpf.o") as obj:
            obj.load()
            program = obj.programs["tasks"]
            mine = os.getpid()
            with (
                program.attach_iter(pid=mine)
                if by == "pid"
                else program.attach_iter(tid=thread.native_id) as link
            ):
                seen = set(struct.iter_unpack("<ii", link.read()))
        every = {(int(tid), mine) for tid in os.listdir("/proc/self/task")}
        assert seen == (every if by == "pid" else {(thread.native_id, mine)})
    finally:
        stop.set()
        thread.join()


@pytest.mark.needs(Feature.ITER)
@pytest.mark.parametrize("by", ["pid", "tid"])
def test_zero_is_the_caller(by: str) -> None:
    """For the kernel 0 is no limit. pid=0 and tid=0 walk the caller, not everything."""
    with pybpf.open(DATA / "iter_task.bpf.o") as obj:
        obj.load()
        with obj.programs["tasks"].attach_iter(**{by: 0}) as link:
            seen = set(struct.iter_unpack("<ii", link.read()))
    assert {tgid for _, tgid in seen} == {os.getpid()}
    assert (threading.get_native_id(), os.getpid()) in seen


@pytest.mark.needs(Feature.ITER)
def test_a_long_walk_without_output() -> None:
    """The kernel pauses after a million objects and says EAGAIN. The walk goes on."""
    vmlinux = kernel_btf.vmlinux()
    place = vmlinux.find("bpf_iter_bpf_map_elem", BtfKind.FUNC)
    assert place is not None
    with (
        Map.create_new(MapType.BPF_MAP_TYPE_ARRAY, 4, 1, 1_000_100) as big,
        prog_load(
            ProgType.BPF_PROG_TYPE_TRACING,
            encode([mov(0, 0), exit_()]),
            expected_attach_type=AttachType.BPF_TRACE_ITER,
            attach_btf_id=place,
        ) as quiet,
        attach_iter(quiet, map=big) as link,
    ):
        assert link.read() == b""
        with link.open() as file:
            assert file.read(1) == b""


@pytest.mark.needs(Feature.ITER)
def test_parameters_that_exclude_each_other() -> None:
    """Two parameters, an unknown order and a process that is none are refused by name."""
    with pybpf.open(DATA / "iter_task.bpf.o") as obj:
        obj.load()
        program = obj.programs["tasks"]
        with pytest.raises(ValueError, match="give one of map, cgroup, pid and tid"):
            program.attach_iter(pid=1, tid=1)
        with pytest.raises(ValueError, match="order 'down': one of"):
            program.attach_iter(cgroup="/sys/fs/cgroup", order="down")
