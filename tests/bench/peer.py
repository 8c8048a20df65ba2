"""The C side of a benchmark: compiled by gcc when first needed, called through ctypes.

Both sides run in one process on the same kernel objects, round by round in
turns, and the best round of each counts: absolute times on a shared machine
move by a factor of two within a minute, ratios of minima do not.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["best", "build", "line", "timed"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pybpf" / "bench"


def build(source: Path, *libraries: str) -> ctypes.CDLL:
    """Compile a C file to a shared library, once per content.

    :raises subprocess.CalledProcessError: gcc refuses; its text is on stderr
    """
    key = hashlib.sha256(source.read_bytes() + repr(libraries).encode()).hexdigest()[:16]
    target = CACHE / f"{source.stem}-{key}.so"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}")
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", draft, source]
            + [f"-l{name}" for name in libraries],
            check=True,
        )
        draft.rename(target)
    return ctypes.CDLL(str(target))


def timed(work: Callable[[], int]) -> float:
    """ns per item of one round; `work` returns the number of items."""
    start = time.perf_counter_ns()
    items = work()
    return (time.perf_counter_ns() - start) / items


def best(sides: dict[str, Callable[[], float]], rounds: int = 7) -> dict[str, float]:
    """The least ns per item of each side, over rounds in turns."""
    least = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, side in sides.items():
            least[name] = min(least[name], side())
    return least


def line(what: str, ours: float, theirs: float, goal: float | None = None) -> str:
    """One row of the report; times in ns, ratio of minima, the goal if there is one."""
    ratio = ours / theirs
    text = f"{what:<44} {ours:>9.1f} {theirs:>9.1f} {ratio:>7.2f}x"
    if goal is not None:
        text += f"   goal <= {goal:g}x {'ok' if ratio <= goal else 'MISSED'}"
    return text
