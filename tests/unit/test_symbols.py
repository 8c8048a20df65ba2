"""Helpers of small tracers: histograms by powers of two, names of user addresses, folded stacks."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pybpf.histogram import log2_histogram, log2_slots
from pybpf.links.binary import find_place
from pybpf.symbols import Symbols, fold, parse_maps
from pybpf.tools.retsnoop.userstack import Programs


def test_histogram() -> None:
    """A line for each power of two up to the last; the longest bar has 40 stars."""
    text = log2_histogram(log2_slots([0, 1, 1, 5, 6, 7, 4, 4, 4]), "usecs")
    assert text.splitlines() == [
        "                usecs : count    distribution",
        "        0 -> 1         : 3        |********************                    |",
        "        2 -> 3         : 0        |                                        |",
        "        4 -> 7         : 6        |****************************************|",
    ]
    assert log2_histogram([0] * 64) == ""


@given(st.lists(st.integers(0, (1 << 64) - 1)))
def test_every_value_is_in_the_slot_of_its_power(values: list[int]) -> None:
    slots = log2_slots(values)
    assert sum(slots) == len(values)
    for number, count in enumerate(slots):
        low, high = (1 << number if number else 0), (1 << number + 1) - 1
        assert count == sum(low <= value <= high for value in values)


def test_functions_of_this_process() -> None:
    """The dynamic linker's answer for an address, and ours for its name."""
    symbols = Symbols()
    for name in ("getppid", "qsort"):
        address = ctypes.cast(getattr(ctypes.CDLL("libc.so.6"), name), ctypes.c_void_p).value
        assert symbols.user(os.getpid(), (address or 0) + 1) == name
    assert symbols.user(os.getpid(), 0x10) == "[unknown]"
    assert symbols.user(1 << 22, 0x10) == "[unknown]"  # no such process


def test_two_files_of_one_path(tmp_path: Path) -> None:
    """A library that was replaced while it is mapped keeps its names, and so does the new one.
    Two containers with a file each at one path are the same to us."""
    path = tmp_path / "lib.so"
    symbols, programs = Symbols(), Programs()
    with ExitStack() as stack:
        places = {}
        for library, function in (("libc.so.6", "getppid"), ("libm.so.6", "lgamma")):
            found = find_place(library, function)
            shutil.copy(found.path, tmp_path / "new")
            (tmp_path / "new").replace(path)
            with path.open("rb") as file:
                both = mmap.PROT_READ | mmap.PROT_EXEC
                stack.enter_context(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, both))
            (start,) = (
                part.start
                for part in parse_maps(Path("/proc/self/maps").read_text())
                if part.path == str(path)
            )
            places[function] = start + found.offset
            assert symbols.user(os.getpid(), places[function]) == function
        assert symbols.user(os.getpid(), places["getppid"]) == "getppid"
        root = os.geteuid() == 0  # others cannot read a file that was deleted
        for function, place in places.items():
            expected = function if root or function == "lgamma" else "[lib.so]"
            assert Symbols().user(os.getpid(), place) == expected
            if root:
                assert programs.name(os.getpid(), place + 1).startswith(function)


def test_fold() -> None:
    stacks = {("g", "f", "main"): 2, ("h;x", "main"): 5}
    assert fold(stacks) == ["main;h:x 5", "main;f;g 2"]
    assert fold([(["f"], 1), (["f"], 2)]) == ["f 3"]
