"""Arenas: memory that programs and this process share, with variables in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.errors import BpfError

pytestmark = pytest.mark.first_on("host", "latest")

DATA = Path(__file__).parents[1] / "data"


def loaded(name: str) -> pybpf.Object:
    obj = pybpf.open(DATA / name)
    try:
        obj.load()
    except BpfError as error:
        obj.close()
        if "BPF_MAP_CREATE" in str(error):
            pytest.skip(f"this kernel has no arenas (6.9): {error}")
        raise
    return obj


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with loaded("obj_arena.bpf.o") as one:
        yield one


def test_variables(obj: pybpf.Object) -> None:
    """They start as the object says, and programs and this process see each other's changes."""
    assert (obj.globals.first, obj.globals.second) == (1, 2)
    obj.globals.first = 41
    obj.programs["use"].test_run()
    assert obj.globals.second == 42
    assert obj.globals[".addr_space.1"].second == 42
    assert len(obj.maps["arena"].memory()) == 10 * 4096


def test_variables_before_loading() -> None:
    with pybpf.open(DATA / "obj_arena.bpf.o") as obj:
        obj.globals.first = 7
        assert obj.maps["arena"].initial == bytes([7, 0, 0, 0, 2, 0, 0, 0])


def test_an_address_of_its_own() -> None:
    """With map_extra both sides have the arena at one address, so that they share pointers."""
    with loaded("obj_arena_fixed.bpf.o") as obj:
        obj.programs["use"].test_run()
        assert (obj.globals.pair.left, obj.globals.pair.right) == (20, 22)
        assert obj.globals.where == 1 << 44
        with (
            pybpf.open(DATA / "obj_arena_fixed.bpf.o") as second,
            pytest.raises(BpfError, match=r"at 0x100000000000.*something else there"),
        ):
            second.load()
        view = obj.maps["arena"].memory()
    assert view[0] == 20  # mapped as long as somebody looks at it
    view.release()
    with loaded("obj_arena_fixed.bpf.o"):
        pass


def test_the_end_of_python_leaves_it_mapped() -> None:
    """Exit handlers that run late, and threads, may still look at an arena."""
    with loaded("obj_arena_fixed.bpf.o"):
        pass  # or skip
    code = f"""
import atexit
atexit.register(lambda: print(view[0]))
import pybpf
obj = pybpf.open({str(DATA / "obj_arena_fixed.bpf.o")!r})
obj.load()
view = obj.maps["arena"].memory()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"20\n", done.stderr.decode()


def test_variables_that_do_not_fit() -> None:
    with pybpf.open(DATA / "obj_arena.bpf.o") as obj:
        obj.maps["arena"].max_entries = 1
        obj.maps["arena"].initial = bytearray(b"x" * 5000)
        with pytest.raises(BpfError, match=r"4096 bytes|arena"):
            obj.load()
