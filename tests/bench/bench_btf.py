"""Reading a kernel's BTF against bpftool: ``python -m tests.bench.bench_btf``.

bpftool has no command that only indexes BTF, so the peer is the whole process of
``bpftool btf dump file F format raw``; the same dump by tools/btf.py stands beside it.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pybpf.btf import Btf, BtfKind
from tests.bench.bench_start import cpu

ROOT = Path(__file__).parents[2]
BLOB = ROOT / "tests/data/vmlinux-6.12.107-cloud-amd64.btf.gz"
ROUNDS = 15
# Goals of the steps that have one, in milliseconds.
GOALS = {"index": 20.0, "index + FUNC list": 60.0}
# Goal of vmlinux.h, of bpftool's CPU time for it.
GOAL_C = 10.0


def _best(step: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Least time of some runs, in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def _run(*command: str) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def main() -> list[str]:
    """Rows of the report."""
    data = gzip.decompress(BLOB.read_bytes())
    steps: dict[str, Callable[[], object]] = {
        "index": lambda: Btf(data).nr_types,
        "index + FUNC list": lambda: list(Btf(data).funcs()),
        "index + one struct by name": lambda: Btf(data).find("task_struct", BtfKind.STRUCT),
        "index + one function by name": lambda: Btf(data).find("vfs_read", BtfKind.FUNC),
        "index + all names": lambda: len(Btf(data).names()),
        "every type decoded": lambda: Btf(data).validate(),
    }
    btf = Btf(data)
    functions = sum(1 for _ in btf.funcs())
    rows = [f"BTF of Debian's 6.12 kernel: {btf.nr_types:,} types, {functions:,} functions"]
    with tempfile.NamedTemporaryFile(suffix=".btf") as file:
        file.write(data)
        file.flush()
        peer = None
        if shutil.which("bpftool"):
            peer = _best(lambda: _run("bpftool", "btf", "dump", "file", file.name))
            rows.append(f"  {'bpftool, raw dump, whole process':34} {peer:8.1f} ms")
        else:
            rows.append("  bpftool is not installed: no ratios")
        # By turns: a slow moment of the machine then falls on one round of each.
        best = dict.fromkeys(steps, float("inf"))
        for _ in range(ROUNDS):
            for name, step in steps.items():
                best[name] = min(best[name], _best(step, 1))
        rows += [_row(name, took, peer) for name, took in best.items()]
        tool = str(ROOT / "tools/btf.py")
        dumped = _best(lambda: _run(sys.executable, tool, "dump", file.name), 3)
        rows.append(_row("tools/btf.py, raw dump", dumped, peer))
        if peer:
            rows.append(_declarations(file.name))
    return rows


def _declarations(file: str) -> str:
    """vmlinux.h: CPU time of both whole processes."""
    python = [sys.executable, "-m", "pybpf", "btf", "dump", file, "--format", "c"]
    bpftool = [shutil.which("bpftool") or "bpftool", "btf", "dump", "file", file, "format", "c"]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        ours = theirs = float("inf")
        for _ in range(5):
            ours = min(ours, cpu(python, environment))
            theirs = min(theirs, cpu(bpftool, environment))
    verdict = "ok" if ours <= GOAL_C * theirs else "MISSED"
    return (
        f"  {'vmlinux.h, CPU of the process':34} {ours:8.1f} ms  {ours / theirs:6.2f} of bpftool"
        f"  (goal: {GOAL_C:g}, {verdict})"
    )


def _row(name: str, took: float, peer: float | None) -> str:
    ratio = f"  {took / peer:6.2f} of bpftool" if peer else ""
    goal = f"  (goal: under {GOALS[name]:.0f} ms)" if name in GOALS else ""
    return f"  {name:34} {took:8.1f} ms{ratio}{goal}"


if __name__ == "__main__":
    print("\n".join(main()))
