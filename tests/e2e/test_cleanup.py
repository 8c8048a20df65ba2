"""Nothing survives a tracer that is killed: the kernel detaches, no image is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf.features import Feature
from pybpf.kernel.kallsyms import read

pytestmark = pytest.mark.first_on("6.12")

ROOT = Path(__file__).resolve().parents[2]

TRACER = """
import sys, time
import pybpf
std = pybpf.open("tests/data/fentry_args.bpf.o")
std.load()
links = std.attach()
multi = pybpf.open("tests/data/multi.bpf.o")
many = multi.programs["on_entry"].attach_multi("bpf_fentry_test?")
print("attached", len(links) + len(many.targets), flush=True)
while True:
    std.programs["entry1"].test_run()
"""


def left_over() -> tuple[int, int]:
    """(links, trampoline images) the kernel has."""
    return len(list(sys_bpf.ids("link"))), len(read().trampolines())


@pytest.mark.needs(Feature.FENTRY)
def test_sigkill_leaves_nothing_behind() -> None:
    """SIGKILL in mid-run of 12 standard programs and a multi program: no link, no trampoline."""
    before = left_over()
    tracer = subprocess.Popen(
        [sys.executable, "-c", TRACER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert tracer.stdout is not None
    with tracer, tracer.stdout:
        line = tracer.stdout.readline()
        assert line.startswith("attached "), line
        assert int(line.split()[1]) >= 20
        during = left_over()
        assert during[0] > before[0]
        assert during[1] > before[1]
        tracer.send_signal(signal.SIGKILL)
        assert tracer.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 60
    # Images go once every task has left them (RCU tasks); one that an earlier test left may
    # go meanwhile.
    after = left_over()
    while (after[0] > before[0] or after[1] > before[1]) and time.monotonic() < deadline:
        time.sleep(0.5)
        after = left_over()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
