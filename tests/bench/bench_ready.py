"""Whole runs, from start to attached: ``python -m tests.bench ready``.

Guests whose clock counts instructions, one nanosecond each. What attaching takes is set against
the kernel's own part of it: the calls of bpf(2), and reading its lists of symbols, of traceable
functions and of those that kprobes refuse. What is read in other ways counts as ours.
KERNEL=6.12|latest has one row only.
"""

from __future__ import annotations

import os
from typing import Any

from .guest import figures

__all__ = ["main"]

TIMEOUT = 3600  # seconds of one guest, on a loaded machine
#: What each row attaches: a glob or a name, and the mechanism.
WORK = {
    "6.12": ("vfs_read:kprobe_multi", "s*:kprobe_multi", "*:kprobe_multi"),
    "latest": (
        "vfs_read:kprobe_multi",
        "s*:kprobe_multi",
        "*:kprobe_multi",
        "s*:tracing_multi",
        "*:tracing_multi",
    ),
}
ONE = 600  # million instructions of a whole process that attaches to one function

Row = dict[str, Any]


def best(rows: list[Row], what: str, **like: str) -> float:
    """Least of a figure among the rows that are like this."""
    return float(min(r[what] for r in rows if like.items() <= r.items()))


def attached(kernel: str, rows: list[Row]) -> list[str]:
    """Our part of attaching, against the kernel's."""
    title = f"from start to attached on {kernel}, M insns"
    out = [
        f"{title:<42} {'whole':>6} {'ours':>6} {'lists':>6} {'bpf(2)':>7}  ours to both, to bpf(2)"
    ]
    for work in WORK[kernel]:
        asked, mechanism = work.rsplit(":", 1)
        like = {"asked": asked, "mechanism": mechanism}
        whole = best(rows, "whole", row="attach", **like) / 1e6
        ours, kernels, lists = (
            best(rows, what, row="attach", **like) / 1e6 for what in ("ours", "kernel", "lists")
        )
        count = int(best(rows, "functions", row="attach", **like))
        text = (
            f"{f'{asked} by {mechanism} ({count})':<42} {whole:>6.0f} {ours:>6.0f} {lists:>6.0f} "
        )
        text += f"{kernels:>7.0f}  {ours / (kernels + lists):>6.2f}x {ours / kernels:>8.2f}x"
        if count == 1:
            text += f"   goal <= {ONE} {'ok' if whole <= ONE else 'MISSED'}"
        out.append(text)
    return out


def main() -> list[str]:
    """Rows of the report."""
    only = os.environ.get("KERNEL", "")
    out = []
    for kernel in [only] if only in WORK else WORK:
        out += attached(
            kernel, figures(kernel, "ready_guest", "runs", *WORK[kernel], timeout=TIMEOUT)
        )
    return out


if __name__ == "__main__":
    print("\n".join(main()))
