"""Thousands of functions, named straight from available_filter_functions, good and bad alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pybpf.features import Feature

pytestmark = pytest.mark.long

MEGABYTE = 1 << 20
MOST = 300 * MEGABYTE  # resident, of the process that attaches

# In a process of its own, so that its memory is that of one user's tool. Every n-th line of
# ftrace's list, as it stands, is a name; nothing else is known of it. One of them is KNOWN,
# which is then called a hundred times.
KNOWN = "__x64_sys_getpgid"
SCRIPT = """
import json, os, resource, sys, time
from collections import Counter
import pybpf
from pybpf.kernel.ftrace import tracefs

program, mechanism, count, prefer, known = sys.argv[1:]
count = int(count)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # what users have
with open(tracefs() + "/available_filter_functions") as file:
    lines = file.read().splitlines()
asked = [lines[i * len(lines) // count] for i in range(count)]
if known not in asked:
    asked[-1] = known
start = time.monotonic()
with pybpf.open("tests/data/witness.bpf.o") as obj:
    obj.globals.my_tgid = os.getpid()
    obj.load()
    opened = time.monotonic()
    link = obj.programs[program].attach_multi(
        asked, mechanism=mechanism, prefer=prefer or None, cookies=1
    )
    attached = time.monotonic()
    if program == "entry_counts":
        obj.globals.watching = 1
        for _ in range(100):
            os.getpgid(0)
        os.stat("/"), open("/proc/self/stat").read()
        obj.globals.watching = 0
    calls = obj.globals.calls
    kinds = Counter(g.mechanism.value for g in link.plan.groups for _ in g.targets)
    on = [t.label for t in link.targets]
    off = {s.label: s.reason.value for s in link.skipped}
    begin = time.monotonic()
    link.detach()
    end = time.monotonic()
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(json.dumps({
    "asked": asked, "on": on, "off": off, "calls": calls, "mechanisms": kinds,
    "attach": attached - opened, "detach": end - begin, "resident": peak * 1024,
}))
"""


def attached(program: str, mechanism: str, count: int, prefer: str = "") -> dict[str, Any]:
    """Attach, detach, and check the result for every name."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, program, mechanism, str(count), prefer, KNOWN],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(
        f"{count} functions by {found['mechanisms']}: {len(found['on'])} attached in "
        f"{found['attach']:.1f} s, detached in {found['detach']:.1f} s, "
        f"{found['resident'] / MEGABYTE:.0f} MB"
    )
    return found


def check(found: dict[str, Any], share: float) -> None:
    asked = set(found["asked"])
    on, off = set(found["on"]), found["off"]
    unaccounted = asked - on - off.keys()
    assert not unaccounted, f"neither attached nor skipped: {sorted(unaccounted)[:10]}"
    assert not (on | off.keys()) - asked, "functions nobody asked for"
    assert len(on) >= share * len(asked), f"{len(on)} of {len(asked)}"
    assert found["resident"] < MOST


@pytest.mark.needs(Feature.KPROBE_MULTI)
@pytest.mark.parametrize("count", [2000, 10_000])
def test_thousands(count: int) -> None:
    """At least 95 % attach, the rest has reasons, in less than 300 MB."""
    found = attached("entry_counts", "auto", count)
    check(found, 0.95)
    assert KNOWN in found["on"]
    assert found["calls"] >= 100


@pytest.mark.needs(Feature.TRACING_MULTI)
@pytest.mark.parametrize("program", ["entry_helpers", "exit_slots"])
def test_thousands_by_tracing_multi(program: str) -> None:
    """Arguments and return values of thousands; what tracing_multi cannot carry has a reason."""
    check(attached(program, "tracing_multi", 2000), 0.9)


@pytest.mark.rows("6.1")
@pytest.mark.icount
@pytest.mark.time_limit(7200)
@pytest.mark.needs(Feature.KPROBE, Feature.FENTRY)
@pytest.mark.parametrize(("count", "prefer"), [(2000, ""), (10_000, "overhead")])
def test_thousands_one_by_one(count: int, prefer: str) -> None:
    """A link per function, on the kernel that has no batches.

    "auto" takes single kprobes. Each of those copies ftrace's set of all that there are, in the
    kernel, so its CPU time grows from 9 ms for the first to 21 ms for the 2000th; a clone's is
    7 ms for the first and for the 8000th. So the 10,000 are clones where one can be: 9319, and
    618 kprobes. They take 800 s of the emulator's CPU time, the 2000 kprobes 250 s.
    """
    found = attached("entry_counts", "auto", count, prefer)
    check(found, 0.95)
    assert found["calls"] >= 100
