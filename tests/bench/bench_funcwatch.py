"""What a call costs while funcwatch counts it: ``python -m tests.bench funcwatch``.

Instructions that one system call takes more than without a tracer, both sides together, beside
bpftrace's count() (calls alone) and a hist() of the time between entry and return. The guest's
clock counts instructions, so the figures are exact whatever else the machine does.

KERNEL=6.1|6.12|latest has one row only.
"""

from __future__ import annotations

import os

from tests.bench.bench_multi import TIMEOUT, peer
from tests.bench.guest import figures

__all__ = ["main"]


def measure(row: str, program: str) -> dict[str, int]:
    """Run one guest; instructions by what ran."""
    found = figures(row, "funcwatch_guest", program, timeout=TIMEOUT, extra="bpftrace")
    return {one["what"]: one["insns"] for one in found}


def main() -> list[str]:
    """The rows of the report."""
    rows = [os.environ["KERNEL"]] if os.environ.get("KERNEL") else ["6.1", "6.12", "latest"]
    program = peer()
    by_row = {row: measure(row, program) for row in rows}
    out = [f"{'instructions a call':<34}" + "".join(f"{row:>9}" for row in rows)]
    for what in dict.fromkeys(name for found in by_row.values() for name in found):
        out.append(f"{what:<34}" + "".join(f"{by_row[row].get(what, '-'):>9}" for row in rows))
    return out
