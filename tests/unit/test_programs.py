"""Programs of an object, without a kernel: how they are run and attached, and what errors say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pybpf
from pybpf import programs
from pybpf._sys.fd import Fd

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def kinds() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "attach_kinds.bpf.o") as obj:
        for program in obj.programs.values():
            program._fd = Fd(os.open(os.devnull, os.O_RDONLY), "program")
        yield obj


def test_test_run_takes_three_arguments_by_position(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data, ctx, repeat: the documented signature."""
    seen: dict[str, Any] = {}

    def run(fd: Fd, **how: Any) -> SimpleNamespace:
        seen.update(how)
        return SimpleNamespace(retval=0, duration=0, data_out=b"", ctx_out=b"")

    monkeypatch.setattr(programs.sys_bpf, "prog_test_run", run)
    kinds.programs["on_tp"].test_run(b"data", b"ctx", 7)
    assert (seen["data_in"], seen["ctx_in"], seen["repeat"]) == (b"data", b"ctx", 7)
