"""Helpers of small tracers: histograms by powers of two, names of user addresses, folded stacks."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf import symbols as library
from pybpf.histogram import log2_histogram, log2_slots
from pybpf.links.binary import find_place
from pybpf.symbols import Mapping, Place, Symbols, fold, parse_maps
from pybpf.tools.retsnoop.userstack import user_frame


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


def test_maps() -> None:
    """Parts with code; a JIT's have no name."""
    text = (
        "55e0-55f0 r--p 00000000 08:01 1 /usr/bin/cat\n"
        "55f0-5600 r-xp 00002000 08:01 1 /usr/bin/with a blank\n"
        "7ff0-7ff1 r-xp 00000000 00:00 0\n"
    )
    path, file = "/usr/bin/with a blank", "08:01 1"
    assert parse_maps(text) == [
        Mapping(0x55F0, 0x5600, 0x2000, path, file),
        Mapping(0x7FF0, 0x7FF1, 0, "", "00:00 0"),
    ]


def test_functions_of_this_process() -> None:
    """The dynamic linker's answer for an address, and ours for its name."""
    symbols = Symbols()
    for name in ("getppid", "qsort"):
        address = ctypes.cast(getattr(ctypes.CDLL("libc.so.6"), name), ctypes.c_void_p).value
        assert symbols.user(os.getpid(), (address or 0) + 1) == name
    assert symbols.user(os.getpid(), 0x10) == "[unknown]"
    assert symbols.user(1 << 22, 0x10) == "[unknown]"  # no such process
    (vdso,) = [x for x in parse_maps(Path("/proc/self/maps").read_text()) if x.path == "[vdso]"]
    assert symbols.user(os.getpid(), vdso.start + 5) == "[vdso]"
    assert symbols.place(os.getpid(), vdso.start + 5) == Place("[vdso]", 5)


def test_lines_of_retsnoop() -> None:
    """A return address is shown with the distance of the instruction behind the call."""
    symbols, pid = Symbols(), os.getpid()
    address = ctypes.cast(ctypes.CDLL("libc.so.6").getppid, ctypes.c_void_p).value or 0
    place = symbols.place(pid, address + 3)
    assert place is not None and (place.function, place.distance) == ("getppid", 3)
    assert user_frame(symbols, pid, address + 4) == f"getppid+0x4 ({place.path})"
    nameless = next(
        x for x in parse_maps(Path("/proc/self/maps").read_text()) if x.path == "[vdso]"
    )
    assert user_frame(symbols, pid, nameless.start + 5) == "0x5 ([vdso])"
    assert user_frame(symbols, pid, 0x1000) == "0x1000 [unknown]"


def test_a_process_that_has_ended() -> None:
    """What was read while it lived is known, and nothing else."""
    symbols = Symbols()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        while not Path(f"/proc/{process.pid}/maps").read_text():
            pass
        first = parse_maps(Path(f"/proc/{process.pid}/maps").read_text())[0]
        place = symbols.place(process.pid, first.start + 1)
        assert place is not None and place.path == first.path
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert symbols.place(process.pid, first.start + 1) == place  # nobody waited for it yet
    assert symbols.place(process.pid, first.start + 1) == place
    assert Symbols().place(process.pid, first.start + 1) is None


def test_another_program_at_the_same_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """After exec, and when a process id comes again, addresses are those of the new program."""
    monkeypatch.setattr(library, "_FRESH", 0)
    script = "import os; input(); os.execv('/bin/sleep', ['sleep', '60'])"
    symbols = Symbols()
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:

        def code_of(program: str) -> int:
            while True:
                for part in parse_maps(Path(f"/proc/{process.pid}/maps").read_text()):
                    if os.path.basename(part.path).startswith(program):
                        return part.start
                time.sleep(0.01)

        try:
            before = code_of("python")
            assert symbols.place(process.pid, before) is not None
            everything = Mapping(0, 1 << 63, 0, "/of/the/first/program")
            symbols._processes[process.pid].parts = [everything]
            assert symbols.place(process.pid, 1) == Place(everything.path, 1)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            place = symbols.place(process.pid, code_of("sleep"))
            assert place is not None and os.path.basename(place.path) == "sleep"
        finally:
            process.kill()


def test_code_of_a_jit_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address in no file, or in nothing at all, does not make each question read all maps."""
    symbols, reads = Symbols(), []
    real = library._read_maps
    monkeypatch.setattr(library, "_read_maps", lambda pid: reads.append(pid) or real(pid))
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 4096, private, mmap.PROT_READ | mmap.PROT_EXEC | mmap.PROT_WRITE) as jit:
        address = ctypes.addressof(ctypes.c_char.from_buffer(jit))
        for _ in range(5):
            assert symbols.user(os.getpid(), address) == "[unknown]"
            assert symbols.user(os.getpid(), 0x10) == "[unknown]"
        assert len(reads) < 4  # this process's own memory may grow once or twice


def test_a_library_in_place_of_other_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen though the size of the memory is as before."""
    monkeypatch.setattr(library, "_STALE", 0)
    symbols, pid = Symbols(), os.getpid()
    here = parse_maps(Path("/proc/self/maps").read_text())
    code = next(part for part in here if "libc" in part.path)
    symbols.place(pid, code.start)
    process = symbols._processes[pid]
    process.parts = [part for part in process.parts if part.path != code.path]
    found = symbols.place(pid, code.start)
    assert found is not None and found.path == code.path


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer that runs for months sees any number of processes and files."""
    monkeypatch.setattr(library, "_PROCESSES", 2)
    monkeypatch.setattr(library, "_FILES", 1)
    symbols = Symbols()
    with ExitStack() as stack:
        for _ in range(4):
            process = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(process.kill)
            for part in parse_maps(Path(f"/proc/{process.pid}/maps").read_text()):
                symbols.user(process.pid, part.start)
        assert len(symbols._processes) == 2
        assert len(symbols._files) == 1


def test_two_files_of_one_path(tmp_path: Path) -> None:
    """A library that was replaced while it is mapped keeps its names, and so does the new one.
    Two containers with a file each at one path are the same to us."""
    path = tmp_path / "lib.so"
    symbols = Symbols()
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


def test_fold() -> None:
    stacks = {("g", "f", "main"): 2, ("h;x", "main"): 5}
    assert fold(stacks) == ["main;h:x 5", "main;f;g 2"]
    assert fold([(["f"], 1), (["f"], 2)]) == ["f 3"]
