"""How slow this machine is, against the one on which the planner's prices were measured."""

from __future__ import annotations

import time
from functools import cache

__all__ = ["slowness"]

_STEPS = 2000
_ROUNDS = 2
# What `_work` takes on the machine of the prices, a QEMU guest without KVM. Python takes 22 times
# as long there as on its host, where this took 0.12 ms (29 November 2026).
_REFERENCE_MS = 22 * 0.12


def _work() -> float:
    # Milliseconds of a fixed piece of work. The kernel's own is not known to scale in another way.
    start = time.perf_counter_ns()
    table = {}
    for step in range(_STEPS):
        table[step & 63] = step ^ 5
    return (time.perf_counter_ns() - start) / 1e6


@cache
def slowness() -> float:
    """Measure how long CPU work takes here: 1.0 on the reference machine, 0.05 without emulation.

    It is measured once in a process, so that plans made in it can be compared. It takes 0.4 ms,
    8 ms on an emulated machine.
    """
    return float(f"{min(_work() for _ in range(_ROUNDS)) / _REFERENCE_MS:.2g}")
