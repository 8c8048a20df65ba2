"""What programs print with bpf_printk arrives, for every reader."""

from __future__ import annotations

import os
from pathlib import Path

import pybpf
from pybpf.kernel import TracePipe
from pybpf.kernel.ftrace import tracefs

DATA = Path(__file__).parents[1] / "data"


def test_texts_arrive_at_every_reader() -> None:
    """Two readers get each text once, with this thread's id; closing removes the instances."""
    before = set(os.listdir(f"{tracefs()}/instances"))
    with pybpf.open(DATA / "printk.bpf.o") as obj, TracePipe() as first, TracePipe() as second:
        obj.load()
        assert first.read(0) == []
        for _ in range(3):
            obj.programs["say"].test_run(bytes(64))
        for pipe in (first, second):
            lines = []
            while len(lines) < 3 and (more := pipe.read(30)):
                lines += [line for line in more if line.pid == os.getpid()]
            assert [line.text for line in lines] == [f"run {n} of pybpf" for n in (1, 2, 3)]
            assert lines[0].time <= lines[2].time
    assert set(os.listdir(f"{tracefs()}/instances")) == before
