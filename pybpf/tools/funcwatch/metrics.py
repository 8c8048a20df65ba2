"""Metrics for any system: names, buckets, the values of one moment. Pure.

Metrics are totals since the start, never of an interval. Their readers compute rates, and lose
nothing if a reading fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...dataclass import dataclass
from .counts import Counts, error_name, slot_bounds
from .text import Row

__all__ = [
    "BOUNDS",
    "CALLS",
    "DURATION",
    "ERRORS",
    "MISSED",
    "UNPAIRED",
    "WATCHED",
    "Moment",
    "Name",
    "NeedsExtra",
    "Sink",
    "Start",
    "errors_of",
    "in_buckets",
]

_NS = 1_000_000_000
# Slots with their own bucket. Up to 256 ns and from 34 s on there is one for all.
_FIRST, _LAST = 7, 34

#: Upper bounds of the buckets in seconds. One more bucket has all longer times.
BOUNDS = tuple(slot_bounds(slot)[1] / _NS for slot in range(_FIRST, _LAST + 1))


@dataclass(frozen=True, slots=True)
class Name:
    """Describe a metric, with its name in Prometheus.

    :param unit: "" for a count
    """

    name: str
    help: str
    unit: str = ""

    @property
    def dotted(self) -> str:
        """Return the name in OpenTelemetry: ``kernel.function.calls``."""
        return self.name.replace("_", ".")


CALLS = Name("kernel_function_calls", "Calls of a kernel function")
ERRORS = Name("kernel_function_errors", "Calls of a kernel function that returned an error")
DURATION = Name("kernel_function_duration", "Time that calls of a kernel function took", "seconds")
WATCHED = Name("funcwatch_functions", "Kernel functions that are watched")
MISSED = Name("funcwatch_missed_calls", "Calls that the kernel counted as missed by the program")
UNPAIRED = Name("funcwatch_unpaired_returns", "Returns whose call is unknown")


@dataclass(slots=True)
class Start:
    """Hold when counting began. The wall clock may be set while it goes on.

    :param wall_ns: ns since 1970
    :param monotonic_ns: the same moment on a clock that nobody sets
    """

    wall_ns: int
    monotonic_ns: int

    def before(self, wall_ns: int, monotonic_ns: int) -> int:
        """Return the start, in ns since 1970, as a moment before now.

        It stays the same, because readers take another start for another count. It moves only
        if the clock was set to a time before it.

        :param wall_ns: now
        :param monotonic_ns: now
        """
        if wall_ns < self.wall_ns:
            self.wall_ns = wall_ns - (monotonic_ns - self.monotonic_ns)
        return self.wall_ns


@dataclass(frozen=True, slots=True)
class Moment:
    """Hold the totals of one moment.

    :param rows: functions that were called, with their counts
    :param start_ns: when counting began, ns since 1970
    :param time_ns: when this was read, ns since 1970
    :param watched: number of watched functions
    :param missed: number of calls known to be missed
    :param unpaired: number of returns without a call
    """

    rows: Sequence[Row]
    start_ns: int
    time_ns: int
    watched: int
    missed: int
    unpaired: int


class Sink(Protocol):
    """Stand for what receives moments."""

    def publish(self, moment: Moment) -> None:
        """Take the totals at the end of an interval, without waiting."""

    def close(self) -> None:
        """Send the last totals if that is quick, and end."""


class NeedsExtra(Exception):
    """Report a missing library. The text says which one, and how to get it."""

    def __init__(self, option: str, library: str) -> None:
        super().__init__(
            f"{option} needs {library}: pip install 'pybpf[metrics]', or Debian's package"
        )


def errors_of(counts: Counts) -> dict[str, int]:
    """Count errors by name. "other" are those whose kind had no room in the kernel's map."""
    named = {error_name(number): count for number, count in sorted(counts.by_errno.items())}
    other = counts.errors - sum(named.values())
    return named | {"other": other} if other > 0 else named


def in_buckets(counts: Counts) -> list[int]:
    """Count calls in each bucket of `BOUNDS`, and in the last one, which has no bound."""
    slots = counts.slots
    return [
        sum(slots[: _FIRST + 1]),
        *slots[_FIRST + 1 : _LAST + 1],
        sum(slots[_LAST + 1 :]),
    ]
