"""Iterators over a part of what there is, as arguments say."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

import pybpf
from pybpf.features import Feature

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
def test_parameters_that_exclude_each_other() -> None:
    """Two parameters, an unknown order and a process that is none are refused by name."""
    with pybpf.open(DATA / "iter_task.bpf.o") as obj:
        obj.load()
        program = obj.programs["tasks"]
        with pytest.raises(ValueError, match="give one of map, cgroup, pid and tid"):
            program.attach_iter(pid=1, tid=1)
        with pytest.raises(ValueError, match="order 'down': one of"):
            program.attach_iter(cgroup="/sys/fs/cgroup", order="down")
