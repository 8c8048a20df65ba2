"""funcwatch's live table: what is on the screen, what keys do, and that a terminal survives it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.tools.funcwatch.counts import SLOTS, Counts
from pybpf.tools.funcwatch.functions import Function
from pybpf.tools.funcwatch.table import Key, Table

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["vfs_read", "do_open", "ext4_write"]


def counts(calls: int, slot: int, errors: int = 0) -> Counts:
    slots = [0] * SLOTS
    slots[slot] = calls
    return Counts(calls, calls, errors, calls << slot, (2 << slot) - 1, tuple(slots))


def table() -> Table:
    """vfs_read is called most, do_open fails most, ext4_write takes longest."""
    made = Table()
    functions = [Function(n, name, "") for n, name in enumerate(NAMES)]
    rows = [counts(100, 10), counts(20, 12, 9), counts(3, 25)]
    made.update(list(zip(functions, rows, strict=True)), 2.0)
    return made


def shown(made: Table, width: int = 100, height: int = 20) -> list[str]:
    """Names in the order of the table."""
    words = [line.text.split() for line in made.lines(width, height)]
    return [own[0] for own in words if own and own[0] in NAMES and len(own) > 3]


def test_the_first_screen() -> None:
    """Totals and the interval; the most called first; a line of help."""
    lines = [line.text for line in table().lines(100, 20)]
    assert lines[0] == "123 calls of 3 functions in 2 s, 62/s now"
    assert " ".join(lines[1].split()) == "Function Calls /Second Errors 50% 90% 99% Max Time"
    assert lines[2].split()[:4] == ["vfs_read", "100", "50", "0"]
    assert lines[-1].startswith("q end  h histogram")


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        ("c", "ext4_write"),  # it was sorted so already: turned round
        ("cc", "vfs_read"),
        ("e", "do_open"),
        ("p", "ext4_write"),
        ("m", "ext4_write"),
        ("5", "ext4_write"),
        ("9", "ext4_write"),
        ("t", "ext4_write"),
        ("s", "vfs_read"),
        ("f", "do_open"),
        ("ff", "vfs_read"),
    ],
)
def test_a_key_for_each_column(keys: str, first: str) -> None:
    made = table()
    for key in keys:
        assert made.press(key)
    assert shown(made)[0] == first


def test_the_histogram_of_the_chosen_function() -> None:
    """Of the whole run; the chosen one stays chosen whatever is sorted."""
    made = table()
    made.press(Key.DOWN)
    made.press(Key.DOWN)
    made.press("h")
    made.press("m")
    lines = made.lines(100, 20)
    bold = [line.text for line in lines if line.style == "1"]
    assert bold[1] == "do_open"
    (bar,) = [line.text for line in lines if "#" in line.text]
    assert bar.split()[:4] == ["4.1us", "-", "8.19us", "20"]
    (row,) = [line.text for line in lines if line.style == "7"]
    assert row.startswith("do_open")
    made.press(Key.ENTER)
    assert not [line for line in made.lines(100, 20) if "#" in line.text]


def test_an_interval_without_calls() -> None:
    """Totals stay, what is of the interval is gone."""
    made = table()
    made.update([], 1.0)
    assert [line.text for line in made.lines(100, 20)][2].split()[:3] == ["vfs_read", "100", "0"]
    assert not made.press("q")


def test_a_name_cannot_steer_the_terminal() -> None:
    made = Table()
    made.update([(Function(0, "a\x1b[2J", ""), counts(1, 1))], 1.0)
    made.note = "b\x1b[2J"
    assert all(line.text.isprintable() for line in made.lines(80, 10))


@given(
    st.integers(1, 200),
    st.integers(0, 60),
    st.integers(0, 50),
    st.lists(st.sampled_from(["h", "c", "f", Key.DOWN, Key.UP, Key.PAGE_DOWN, "x"]), max_size=30),
)
def test_it_fits_any_terminal(width: int, height: int, functions: int, keys: list[str]) -> None:
    """And the chosen function is in sight wherever there is room for a row."""
    made = Table()
    some = [(Function(n, f"function_{n}", ""), counts(n + 1, n % SLOTS)) for n in range(functions)]
    made.update(some, 1.0)
    for key in keys:
        made.press(key)
    lines = made.lines(width, height)
    assert len(lines) <= height and all(len(line.text) <= width for line in lines)
    if functions and height >= 30 and width >= 4:
        assert len([line for line in lines if line.style == "7"]) == 1


LIVE = """
import sys
from pybpf.tools.funcwatch.live import LiveOutput
from pybpf.tools.funcwatch.output import Report
from tests.unit.test_funcwatch_table import Function, counts
ended = []
out = LiveOutput(sys.stdout, 0, lambda: ended.append(1))
rows = [(Function(0, "vfs_read", ""), counts(100, 10))]
out.begin()
try:
    while not ended:
        import select
        out.interval(Report(rows, 0, 1.0))  # which looks at the keys, too
        if not ended:
            select.select([out.input], [], [])
finally:
    out.leave()
out.total(Report(rows, 0, 1.0))
"""


def test_on_a_terminal() -> None:
    """It draws, h shows the histogram, q ends it; the terminal is as it was, the totals remain."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], cwd=ROOT, stdin=theirs, stdout=theirs, env=environment
    )

    data = b""

    def read_until(text: bytes) -> bytes:
        # What came up to this text; what came after it is left for the next.
        nonlocal data
        while text not in data:
            assert select.select([ours], [], [], 60)[0], data
            data += os.read(ours, 4096)
        before, _, data = data.partition(text)
        return before

    try:
        assert b"\x1b[?1049h" in read_until(b"q end")  # the second screen
        os.write(ours, b"h")
        read_until(b"#")
        os.write(ours, b"q")
        rest = read_until(b"Total of 1.0 s")
        assert b"\x1b[?1049l" in rest
        read_until(b"vfs_read")
        assert process.wait() == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(ours)
        os.close(theirs)
