"""Static programs in sections of their own, which libbpf refuses, are loaded and run."""

from __future__ import annotations

from pathlib import Path

import pybpf

DATA = Path(__file__).parents[1] / "data"


def test_tail_calls_reach_them() -> None:
    """A program array holds both from the start; the second one's section is of no known kind."""
    with pybpf.open(DATA / "obj_static.bpf.o") as obj:
        obj.programs["second_program"].type = obj.programs["visible"].type
        obj.load()
        assert obj.programs["visible"].test_run(bytes(64)).retval == 7
        assert list(obj.globals.runs) == [1, 1]
