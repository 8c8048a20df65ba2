"""What a call costs while funcwatch counts it: ``python -m tests.bench funcwatch``.

Instructions that one system call takes more than without a tracer, both sides together, beside
bpftrace's count() (calls alone) and a hist() of the time between entry and return. The guest's
clock counts instructions, so the figures are exact whatever else the machine does.

Then a workload whose 20 hottest of 2,000 functions have 90 % of the calls: instructions per call
as the plan predicts them and as they are, if all functions are attached by kprobe.multi, and if
the plan knows the rates that funcwatch --measure found. A plan predicts what the mechanism takes
with a program that hardly does anything, and what is measured includes funcwatch's own work.

KERNEL=6.1|6.12|latest has one row only.
"""

from __future__ import annotations

import os
from typing import Any

from tests.bench.bench_multi import TIMEOUT, judged, peer
from tests.bench.guest import figures

__all__ = ["main"]

RATIO = 0.6  # by rates over all kprobe.multi, on 6.12


def each(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What one call costs, by tracer and row."""
    by_row = {
        row: {f["what"]: f["insns"] for f in some if "what" in f} for row, some in found.items()
    }
    out = [f"{'instructions a call':<34}" + "".join(f"{row:>9}" for row in by_row)]
    for what in dict.fromkeys(name for some in by_row.values() for name in some):
        out.append(f"{what:<34}" + "".join(f"{some.get(what, '-'):>9}" for some in by_row.values()))
    return out


def skewed(row: str, found: list[dict[str, Any]]) -> list[str]:
    """The plan's predictions beside what was measured, and how much the rates save."""
    plans = [one for one in found if "plan" in one]
    if not plans:
        return []
    out = [
        f"{row}: instructions a call, {plans[0]['hot']:.0%} of them of 20 of "
        f"{plans[0]['functions']} functions",
        f"  {'plan':<20} {'predicted':>9} {'measured':>9}",
    ]
    for one in plans:
        figures = f"{one['predicted']:>9.0f} {one['measured']:>9.0f}"
        out.append(f"  {one['plan']:<20} {figures}   {one['by']}")
    base, rated = plans
    ratios = [rated[what] / base[what] for what in ("predicted", "measured")]
    text = f"  {'ratio':<20} {ratios[0]:>8.2f}x {ratios[1]:>8.2f}x"
    if row == "6.12":
        text = judged(f"{text}   goal <= {RATIO:g}x", ratios[1] <= RATIO)
    return [*out, text]


def main() -> list[str]:
    """The rows of the report."""
    rows = [os.environ["KERNEL"]] if os.environ.get("KERNEL") else ["6.1", "6.12", "latest"]
    program = peer()
    found = {
        row: figures(row, "funcwatch_guest", program, timeout=TIMEOUT, extra="bpftrace")
        for row in rows
    }
    out = each(found)
    for row, some in found.items():
        out += skewed(row, some)
    return out
