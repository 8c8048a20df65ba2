"""What retsnoop costs: ``python -m tests.bench retsnoop``.

Each kernel row gets one guest whose clock counts instructions (``vagrant/vm --icount``).

- A traced call: the least of 10 batches of 500 system calls, less the same without a tracer. No
  session is shown. bpftrace, which counts the same function, stands beside.
- A session shown as text: CPU time of a burst of 20,000 failing calls, divided. None may be lost.
- A run: start to attached, end to detached, and peak memory, beside bpftrace on the same glob.

KERNEL=6.1|6.12|latest has one row only.
"""

from __future__ import annotations

import os
from typing import Any

from .bench_multi import peer
from .guest import figures

__all__ = ["main"]

ROWS = ("6.1", "6.12", "latest")
#: Most instructions. Sessions: what the original takes on 6.12, of two functions that succeed.
GOALS = {
    "outside a session": 650,
    "session of one": 9_303,
    "two that fail": 15_384,
    "session shown": 200_000,
}
MEMORY = 60_000  # kB at the peak, with 3,400 functions
TIMEOUT = 3600  # seconds of one guest, on a loaded machine


def verdict(value: float, goal: float | None) -> str:
    if goal is None:
        return ""
    return f"   goal <= {goal:g} {'ok' if value <= goal else 'MISSED'}"


def calls(found: list[dict[str, Any]]) -> list[str]:
    """Rows about single calls and sessions."""
    out = []
    for one in found:
        text = f"  {one['what']:<20} {one['way']:<10} {one['insns']:>7}"
        out.append(text + verdict(one["insns"], GOALS.get(one["what"])))
    return out


def runs(found: list[dict[str, Any]]) -> list[str]:
    """Rows about whole runs: the better of two each."""
    out = [f"  {'M insns':<20} {'':<12} {'attach':>7} {'detach':>7} {'peak kB':>8}"]
    for what, way in dict.fromkeys((one["what"], one["way"]) for one in found):
        same = [one for one in found if (one["what"], one["way"]) == (what, way)]
        attach, detach, peak = (min(one[k] for one in same) for k in ("attach", "detach", "peak"))
        text = f"  {what:<20} {way:<12} {attach / 1e6:>7.0f} {detach / 1e6:>7.0f} {peak:>8}"
        ours = what == "s*" and way == "retsnoop -M"
        out.append(text + verdict(peak, MEMORY if ours else None))
    return out


def main() -> list[str]:
    """Measure the rows; the report."""
    program = peer()
    wanted = os.environ.get("KERNEL", "")
    out = []
    for row in [wanted] if wanted in ROWS else ROWS:
        out.append(f"retsnoop on {row}: instructions of a call more than without a tracer")
        found = figures(row, "retsnoop_guest", program, timeout=TIMEOUT, extra="bpftrace")
        out += calls([one for one in found if "insns" in one])
        out += runs([one for one in found if "attach" in one])
    return out
