"""An interval as records for other programs. Pure."""

from __future__ import annotations

from typing import Any

from .counts import Counts
from .functions import Function

__all__ = ["PERCENTILES", "record"]

#: Name of a field -> share of calls that took no longer.
PERCENTILES = {"p50_ns": 0.5, "p90_ns": 0.9, "p99_ns": 0.99}


def record(function: Function, counts: Counts, *, time: float, final: bool) -> dict[str, Any]:
    """Make one line of ``--json``.

    Percentiles and maximum are None if no call of the interval returned.

    :param time: end of the interval, seconds since 1970
    :param final: the counts are of the whole run
    """
    out: dict[str, Any] = {
        "time": round(time, 3),
        "function": function.name,
        "module": function.module,
        "calls": counts.calls,
        "errors": counts.named_errors,
    }
    out |= {name: counts.percentile(share) for name, share in PERCENTILES.items()}
    out["max_ns"] = counts.known_max_ns
    if final:
        out["final"] = True
    return out
