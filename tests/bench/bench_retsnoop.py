"""What a traced call costs under retsnoop: ``python -m tests.bench retsnoop``.

Each kernel row gets one guest whose clock counts instructions (``vagrant/vm --icount``). A figure
is the least of 10 batches of 500 system calls, less the same without a tracer. No session is
shown: what showing costs is not in it. bpftrace, which counts the same function, stands beside.

KERNEL=6.1|6.12|latest has one row only.
"""

from __future__ import annotations

import os

from .bench_multi import peer
from .guest import figures

__all__ = ["main"]

ROWS = ("6.1", "6.12", "latest")
#: Instructions at most, on the newest kernel, outside a session.
GOAL = 650
TIMEOUT = 1800  # seconds of one guest, on a loaded machine


def main() -> list[str]:
    """Measure the rows; the report."""
    program = peer()
    wanted = os.environ.get("KERNEL", "")
    out = []
    for row in [wanted] if wanted in ROWS else ROWS:
        out.append(f"retsnoop on {row}: instructions of a call more than without a tracer")
        for one in figures(row, "retsnoop_guest", program, timeout=TIMEOUT, extra="bpftrace"):
            text = f"  {one['what']:<20} {one['way']:<10} {one['insns']:>7}"
            if row == "latest" and one["what"] == "outside a session":
                text += f"   goal <= {GOAL} {'ok' if int(str(one['insns'])) <= GOAL else 'MISSED'}"
            out.append(text)
    return out
