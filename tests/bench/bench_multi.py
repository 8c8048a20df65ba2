"""Attaching to many functions, and what a traced call then costs: ``python -m tests.bench multi``.

Each kernel row gets one guest, whose clock counts instructions (``vagrant/vm --icount``: one
nanosecond each) and jumps over idle waits. So counts are exact, the waits of a detach on 6.x
take no time here but are in the figures, and a loaded machine changes nothing.

Time: `Program.attach_multi` and `MultiLink.detach` against multi_peer.c, which makes the same
system calls on the same functions with the same instructions; by turns in one guest, the best of
each. pybpf is given functions that were looked up before, as the C program is. What looking
them up by name costs is a row of its own, without a goal; the kernel's tables have then been read.

Instructions: what one call of a function costs more with a program on it: the least of 20
batches of 1000 system calls, less the same without the program.

KERNEL=6.1|6.12|latest (or ``--kernel``) has one row only, GUESTS=1 one guest at a time.
"""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .guest import figures

__all__ = ["main"]

PEER = Path(__file__).with_name("multi_peer.c")
CFLAGS = ("-O2", "-Wall", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-s")
TIMEOUT = 3600  # seconds of one guest, on a loaded machine
RATIO = 1.2  # pybpf over C, from 200 functions on
GROWTH = 1.3  # pybpf's time for each function more, over that from 1000 to 2000
FASTER = 20  # auto over clones on 6.12
PER_SLOT = 12
OVER_EMPTY = 12

#: What each row measures; see tests.bench.multi_guest. Single kprobes and 6.x clones stop at
#: 200 functions: 28 s of guest time to detach those on 6.12, and ten times that for 2000.
WORK = {
    "6.1": (
        "insns",
        "memory:trampoline:50",
        "memory:kprobe:50",
        "trampoline:50,200:1",
        "kprobe:50,200:1",
    ),
    "6.12": (
        "insns",
        "memory:kprobe_multi:2000",
        "memory:trampoline:50",
        "kprobe_multi:50,200,2000:3",
        "kprobe_multi:1000,5000,10000:2",
        "trampoline:50,200:1",
        "kprobe:50,200:1",
        "auto:200",
    ),
    "latest": (
        "insns",
        "memory:tracing_multi:2000",
        "memory:kprobe_multi:2000",
        "memory:trampoline:200",
        "tracing_multi:50,200,2000:3",
        "tracing_multi:1000,5000,10000:2",
        "kprobe_multi:50,200,2000:3",
        "kprobe_multi:1000,5000,10000:2",
        "trampoline:50,200,2000:1",
        "kprobe:50,200:1",
    ),
}

#: Instructions of a frame by hand on a function of one slot, entry and exit, as first measured.
FRAME = {"6.1": (151, 222), "6.12": (159, 236), "latest": (143, 219)}

Row = dict[str, Any]


def peer() -> str:
    """The C program as one argument: static, so that it needs nothing of the guest."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "peer")
        subprocess.run(["gcc", *CFLAGS, "-o", target, PEER], check=True)
        return base64.b64encode(zlib.compress(target.read_bytes(), 9)).decode()


def judged(text: str, ok: bool | None) -> str:
    """A row and whether its goal was reached."""
    return text if ok is None else f"{text} {'ok' if ok else 'MISSED'}"


def _best(rounds: Sequence[Sequence[int]]) -> tuple[float, float]:
    # Of attach and detach each, in ms.
    return min(r[0] for r in rounds) / 1e6, min(r[1] for r in rounds) / 1e6


def times(found: Sequence[Row]) -> list[str]:
    """Attach + detach against C."""
    out = [
        f"{'attach + detach, ms':<24} {'N':>6} {'pybpf':>17} {'C':>17} {'ratio':>6}"
        f"   {'by name':>9}"
    ]
    for one in sorted(
        (f for f in found if f["row"] == "time"), key=lambda f: (f["mechanism"], f["count"])
    ):
        ours, theirs = _best(one["ours"]), _best(one["theirs"])
        ratio = sum(ours) / sum(theirs)
        goal = one["count"] >= 200
        text = (
            f"{one['mechanism']:<24} {one['count']:>6} {ours[0]:>8.1f}+{ours[1]:<8.1f} "
            f"{theirs[0]:>8.1f}+{theirs[1]:<8.1f} {ratio:>5.2f}x"
        )
        named = sum(_best(one["named"])) if one["named"] else 0.0
        text += f" {named:>9.1f}" if named else " " * 10
        if goal:
            text += f"   goal <= {RATIO:g}x"
        out.append(judged(text, ratio <= RATIO if goal else None))
    return out


def growth(found: Sequence[Row]) -> list[str]:
    """What attaching each further function takes as their number grows, between neighbouring
    numbers: of the kernel, which is what C takes, and of pybpf outside bpf(2), which must not
    grow."""
    out = []
    by_mechanism: dict[str, dict[int, Row]] = {}
    for one in found:
        if one["row"] == "time":
            by_mechanism.setdefault(one["mechanism"], {})[one["count"]] = one
    for mechanism, rows in by_mechanism.items():
        counts = sorted(n for n in rows if rows[n].get("own"))
        if len(counts) < 3:
            continue
        kernel = [_best(rows[n]["theirs"])[0] for n in counts]
        ours = [min(rows[n]["own"]) / 1e6 for n in counts]
        steps = list(itertools.pairwise(counts))
        each = [
            [
                1e3 * (more - less) / (b - a)
                for (less, more), (a, b) in zip(pairs, steps, strict=True)
            ]
            for pairs in (list(itertools.pairwise(ours)), list(itertools.pairwise(kernel)))
        ]
        said = ", ".join(
            f"to {n}: {own:.1f} + {its:.1f}" for n, own, its in zip(counts[1:], *each, strict=True)
        )
        most = max(each[0]) / each[0][0]
        text = (
            f"{mechanism}: us to attach one more, pybpf + kernel, {said}; pybpf's most over first "
        )
        out.append(judged(f"{text}{most:.2f}x   goal <= {GROWTH:g}x", most <= GROWTH))
    return out


def auto(found: Sequence[Row]) -> list[str]:
    """What "auto" took, against clones."""
    out = []
    for one in found:
        if one["row"] != "auto":
            continue
        ours, clones = sum(_best(one["ours"])), sum(one["clones"]) / 1e6
        ratio = clones / ours
        text = (
            f"auto ({', '.join(one['mechanisms'])}), N = {one['count']}: {ours:.0f} ms, "
            f"clones {clones:.0f} ms: {ratio:.0f} times faster   goal >= {FASTER}"
        )
        out.append(judged(text, ratio >= FASTER))
    return out


def memory(found: Sequence[Row]) -> list[str]:
    """Bytes per function."""
    out = []
    for one in found:
        if one["row"] == "memory":
            n = one["count"]
            out.append(
                f"memory of {one['mechanism']}, bytes per function (N = {n}): MemFree "
                f"{one['free'] / n:.0f}, of it slab {one['slab'] / n:.0f}, "
                f"vmalloc {one['vmalloc'] / n:.0f}; this process {one['own'] / n:.0f}"
            )
    return out


def insns(kernel: str, found: Sequence[Row]) -> list[str]:
    """Instructions per call and what they are compared with."""
    have = {(f["what"], f["function"]): f["insns"] for f in found if f["row"] == "insns"}
    one, six = "__x64_sys_getpgid", "ksys_mmap_pgoff"
    out = []

    def row(what: str, function: str, peer: str, over: int = 0) -> None:
        ours, theirs = have.get((what, function)), have.get((peer, function))
        if ours is None or theirs is None:
            return
        sign = f" + {over}" if over else ""
        text = f"{what + ' on ' + function:<46} {ours:>5} {theirs:>5}   goal <= {peer}{sign}"
        out.append(judged(text, ours <= theirs + over))

    def further(side: str, kind: str) -> None:
        few, many = have.get((f"{side}_1 {kind}", one)), have.get((f"{side}_6 {kind}", one))
        if few is None or many is None:
            return
        each = (many - few) / 5
        text = f"{f'{side} {kind}, each slot more on {one}':<46} {each:>5.1f}"
        out.append(judged(f"{text}         goal <= {PER_SLOT}", each <= PER_SLOT))

    for side in ("entry", "exit"):
        for slots, function in ((1, one), (6, six)):
            name = f"{side}_{slots}"
            row(f"{name} direct", function, f"{name} by hand")
            row(f"{name} frame", function, f"{name} frame by hand")
            row(f"{name} tracing_multi", function, f"{name} frame by hand")
        most = FRAME[kernel][side == "exit"]
        ours = have.get((f"{side}_1 frame", one))
        if ours is not None:
            text = (
                f"{f'{side}_1 frame on {one}':<46} {ours:>5} {most:>5}   goal <= as first measured"
            )
            out.append(judged(text, ours <= most))
        further(side, "frame")
        further(side, "tracing_multi")
    for name, function in (("entry_0", one), ("entry_1", one), ("entry_6", one)):
        row(f"{name} regs", function, "kprobe.multi empty", OVER_EMPTY)
    row("exit_ret regs", one, "kretprobe.multi empty", OVER_EMPTY)
    return [f"{'instructions per call':<46} {'pybpf':>5} {'peer':>5}", *out]


def report(row: str, found: Sequence[Row]) -> list[str]:
    """Everything of one kernel row."""
    out = [f"multi attachments on {row}"]
    for part in (times, auto, growth, memory):
        out += [f"  {line}" for line in part(found)]
    return out + [f"  {line}" for line in insns(row, found)]


def main(kernel: str = "") -> list[str]:
    """Rows of the report."""
    kernel = kernel or os.environ.get("KERNEL", "all")
    rows = [kernel] if kernel in WORK else list(WORK)
    program = peer()
    with ThreadPoolExecutor(int(os.environ.get("GUESTS", "2"))) as pool:
        found = list(
            pool.map(
                lambda row: figures(row, "multi_guest", program, *WORK[row], timeout=TIMEOUT), rows
            )
        )
    return [line for row, some in zip(rows, found, strict=True) for line in report(row, some)]


if __name__ == "__main__":
    print("\n".join(main(sys.argv[-1] if len(sys.argv) > 1 else "")))
