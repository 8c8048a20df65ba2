"""The counts of one function: calls, errors, latency as a log2 histogram. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ... import errnos
from ...dataclass import dataclass

__all__ = ["NOTHING", "SLOTS", "Counts", "error_name", "slot_bounds"]

#: Slots of the histogram, as in funcwatch.bpf.c. Slot n counts [2**n, 2**(n + 1)) ns.
SLOTS = 40

_NO_ERRORS: Mapping[int, int] = MappingProxyType({})


def slot_bounds(slot: int) -> tuple[int, int]:
    """Return the range of a slot in ns: from the first number to less than the second.

    The last slot also counts all longer latencies.
    """
    return (1 << slot if slot else 0, 1 << slot + 1)


def error_name(number: int) -> str:
    """Name an error, e.g. ``ENOENT``. An error without a name is a number.

    :param number: positive errno
    """
    return errnos.name_of(number) or str(number)


@dataclass(frozen=True, slots=True)
class Counts:
    """Hold the counts of a function over some time.

    :param calls: calls begun
    :param timed: calls whose latency is known: those that returned
    :param errors: calls that returned an error
    :param total_ns: sum of the latencies
    :param max_ns: longest latency, 0 if `timed` is 0
    :param slots: number of latencies in each slot
    :param by_errno: errors by positive errno; fewer than `errors` if the kernel's map is full
    """

    calls: int = 0
    timed: int = 0
    errors: int = 0
    total_ns: int = 0
    max_ns: int = 0
    slots: tuple[int, ...] = (0,) * SLOTS
    by_errno: Mapping[int, int] = _NO_ERRORS

    def __add__(self, other: Counts) -> Counts:
        by_errno = self.by_errno
        if other.by_errno:
            by_errno = {
                number: by_errno.get(number, 0) + other.by_errno.get(number, 0)
                for number in sorted({*by_errno, *other.by_errno})
            }
        return Counts(
            self.calls + other.calls,
            self.timed + other.timed,
            self.errors + other.errors,
            self.total_ns + other.total_ns,
            max(self.max_ns, other.max_ns),
            tuple([a + b for a, b in zip(self.slots, other.slots, strict=True)]),
            by_errno,
        )

    def since(self, before: Counts) -> Counts:
        """Subtract what was counted `before`. `max_ns` stays as it is."""
        return Counts(
            self.calls - before.calls,
            self.timed - before.timed,
            self.errors - before.errors,
            self.total_ns - before.total_ns,
            self.max_ns,
            tuple([a - b for a, b in zip(self.slots, before.slots, strict=True)]),
            {
                number: new
                for number, count in self.by_errno.items()
                if (new := count - before.by_errno.get(number, 0))
            },
        )

    def longest(self, known: Iterable[int], most: int) -> int:
        """Return the longest latency in ns, as the histogram allows.

        :param known: latencies that may be the longest, the likeliest first. Each may be one of a
            call that is not counted here, or lack one that is
        :param most: no latency is longer
        :returns: the first of `known` that is in the last slot that has a call, else the most that
            it can be
        """
        slot = max((slot for slot, count in enumerate(self.slots) if count), default=None)
        if slot is None:
            return 0
        low, high = slot_bounds(slot)
        if slot == SLOTS - 1:
            high = max(high, most + 1)
        for latency in known:
            if low <= latency < high:
                return latency
        return max(low, min(high - 1, most))

    def percentile(self, share: float) -> int | None:
        """Return the latency in ns that this share of calls did not exceed, None if none is known.

        Exact to the slot. Calls are assumed to be spread evenly inside it.

        :param share: above 0, at most 1
        """
        rank = share * sum(self.slots)
        below = 0
        for slot, count in enumerate(self.slots):
            if count and below + count >= rank:
                low, high = slot_bounds(slot)
                if slot == SLOTS - 1:
                    high = max(high, self.max_ns)
                value = low + int((high - low) * (rank - below) / count)
                return min(value, self.max_ns) if self.max_ns >= low else value
            below += count
        return None

    @property
    def known_max_ns(self) -> int | None:
        """Return the longest latency, None if none is known.

        A call that returns while the maps are read may be in `timed` and not in a slot yet. The
        next reading has it.
        """
        return self.max_ns if any(self.slots) else None

    @property
    def named_errors(self) -> dict[str, int]:
        """List errors by name, the most frequent first."""
        by = sorted(self.by_errno.items(), key=lambda item: (-item[1], item[0]))
        return {error_name(number): count for number, count in by}


#: A function that was not called.
NOTHING = Counts()


def added(some: Iterable[Sequence[int]]) -> list[int]:
    """Add up what the CPUs counted, column by column."""
    return list(map(sum, zip(*some, strict=True)))
