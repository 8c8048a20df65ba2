"""An interval as text: rows of a table, and a histogram. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..screen import Column
from .counts import Counts, slot_bounds
from .functions import Function
from .records import PERCENTILES

__all__ = ["COLUMNS", "Row", "duration", "histogram", "row", "sort_key"]

#: A function and its counts.
Row = tuple[Function, Counts]

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"))


def duration(nanoseconds: int | None) -> str:
    """Format a latency with three digits and a unit, "-" for None."""
    if nanoseconds is None:
        return "-"
    for size, unit in _UNITS:
        if nanoseconds >= size * 0.9995:
            return (
                f"{nanoseconds / size:.3g}{unit}"
                if nanoseconds < 1000 * size
                else (f"{nanoseconds // size}{unit}")
            )
    return f"{nanoseconds}ns"


#: The columns of a table, in order.
COLUMNS = (
    Column("FUNCTION", least=20),
    Column("CALLS", right=True),
    Column("CALLS/S", right=True, drop=2),
    Column("ERRORS", right=True),
    Column("P50", right=True, drop=3),
    Column("P90", right=True, drop=4),
    Column("P99", right=True),
    Column("MAX", right=True, drop=5),
    Column("BY ERROR", least=0, drop=1),
)


def row(function: Function, counts: Counts, seconds: float) -> list[str]:
    """Make the cells of a function's row.

    :param seconds: how long it was counted
    """
    errors = ", ".join(f"{name} {count}" for name, count in counts.named_errors.items())
    return [
        function.label,
        str(counts.calls),
        f"{counts.calls / seconds:.0f}" if seconds > 0 else "-",
        str(counts.errors),
        *(duration(counts.percentile(share)) for share in PERCENTILES.values()),
        duration(counts.known_max_ns),
        errors,
    ]


def sort_key(item: Row) -> tuple[object, ...]:
    """Sort by calls, most called first."""
    function, counts = item
    return (-counts.calls, function.label)


def histogram(counts: Counts, width: int = 40) -> Sequence[str]:
    """Draw a bar chart of the latencies, from the first slot in use to the last.

    :param width: width of the longest bar
    """
    used = [slot for slot, count in enumerate(counts.slots) if count]
    if not used:
        return ["no call has returned yet"]
    most = max(counts.slots)
    lines = []
    for slot in range(used[0], used[-1] + 1):
        low, high = slot_bounds(slot)
        count = counts.slots[slot]
        bar = "#" * -(-count * width // most)
        lines.append(f"{duration(low):>7} - {duration(high):<7} {count:>10} {bar}".rstrip())
    return lines
