"""Draw histograms by powers of two as text."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["log2_histogram", "log2_slots"]

_WIDTH = 40  # columns of the longest bar


def log2_slots(values: Iterable[int]) -> list[int]:
    """Count values by power of two: slot 0 has 0 and 1, slot n has the numbers of n + 1 bits.

    What a BPF program counts with ``slots[log2(value)]++`` has the same form.
    """
    slots = [0] * 64
    for value in values:
        slots[max(value.bit_length() - 1, 0)] += 1
    return slots


def log2_histogram(slots: Sequence[int], unit: str = "value") -> str:
    """Draw a histogram with a line for each power of two, up to the last one that has counts.

    :param slots: counts; slot n counts values from 2**n to 2**(n + 1) - 1, slot 0 counts 0 and 1
    :param unit: name of the values, for the heading
    :returns: text without a final line end, "" if there are no counts
    """
    last = max((n for n, count in enumerate(slots) if count), default=-1)
    if last < 0:
        return ""
    most = max(slots)
    lines = [f"{unit:>21} : {'count':<8} distribution"]
    for number in range(last + 1):
        low = 1 << number if number else 0
        high = (1 << number + 1) - 1
        bar = "*" * (_WIDTH * slots[number] // most)
        lines.append(f"{low:>9} -> {high:<9} : {slots[number]:<8} |{bar:<{_WIDTH}}|")
    return "\n".join(lines)
