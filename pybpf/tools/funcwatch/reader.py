"""Read the programs' counts once per interval.

Theory of operation. The kernel's counters only grow, so an interval is the difference of two
readings. Only an interval's longest latency is no difference. So each CPU keeps it for the
current epoch and for the one before. The epoch is advanced just before a reading, and then the
finished interval is no longer written. Calls that return just then may be counted in one interval
and have their latency in the epoch of the other. The histogram shows that, and says how long the
longest can have been, see `Counts.longest`. The longest of all is kept as well, and is exact. If it
grew, it is the interval's.

A reading first looks at the numbers of calls and returns of all functions, a slice of memory
each. It decodes only the entries of functions that were called since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ...dataclass import dataclass, field, replace
from .counts import NOTHING, SLOTS, Counts, added

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Object

__all__ = ["Lost", "Reader", "decode", "longest_in"]

_CALLS, _TIMED, _MAX, _EPOCH, _SLOTS = 0, 1, 4, 5, 9  # places in `struct stat`, in 8-byte words
WORDS = _SLOTS + SLOTS
_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class Lost:
    """Hold numbers of events that could not be counted fully.

    :param errors: calls whose errno had no room in the map of errors
    :param unpaired: returns whose call is unknown
    :param tasks: calls with no room for their start time
    """

    errors: int = 0
    unpaired: int = 0
    tasks: int = 0


def decode(cpus: Sequence[Sequence[int]], by_errno: Mapping[int, int]) -> Counts:
    """Add up the counts of all CPUs for a function.

    :param cpus: ``struct stat`` of each CPU as 8-byte words
    :param by_errno: its errors on all CPUs
    """
    longest = max((words[_MAX] for words in cpus), default=0)
    sums = added(cpus)
    calls, timed, errors, total_ns = sums[:_MAX]
    return Counts(calls, timed, errors, total_ns, longest, tuple(sums[_SLOTS:]), by_errno)


def longest_in(cpus: Sequence[Sequence[int]], epoch: int) -> int:
    """Return the longest latency of an epoch in ns, 0 if no CPU has one."""
    at = _EPOCH + epoch % _EPOCHS * 2
    return max((words[at + 1] for words in cpus if words[at] == epoch), default=0)


@dataclass(slots=True)
class _Seen:
    # Calls and returns of a function at the last reading, its counts, and the longest latency of
    # all intervals.
    calls: int = 0
    timed: int = 0
    counts: Counts = field(default=NOTHING)
    longest: int = 0


class Reader:
    """Read the maps of a loaded funcwatch.bpf.o."""

    def __init__(self, obj: Object) -> None:
        self._globals = obj.globals
        self._stats = obj.maps["stats"].raw
        self._errors = obj.maps["errors"].raw
        self._epoch = int(obj.globals.epoch)
        self._seen: defaultdict[int, _Seen] = defaultdict(_Seen)

    @property
    def lost(self) -> Lost:
        """Return what was lost so far."""
        own = self._globals
        return Lost(own.errors_lost, own.unpaired, own.tasks_lost)

    def total(self, number: int) -> Counts:
        """Return a function's counts until the last reading."""
        return self._seen[number].counts if number in self._seen else NOTHING

    def read(self) -> dict[int, Counts]:
        """Return each called function's counts since the last reading, by number."""
        ended, self._epoch = self._epoch, self._epoch + 1
        self._globals.epoch = self._epoch
        by_errno = self._by_errno()
        out: dict[int, Counts] = {}
        for keys, values, count in self._stats.batches():
            words = values.cast("B").cast("Q")
            numbers = keys.cast("B").cast("I")
            cpus = len(words) // count // WORDS
            calls, timed = (words[at::WORDS].tolist() for at in (_CALLS, _TIMED))
            for place in range(count):
                at = place * cpus
                now = (sum(calls[at : at + cpus]), sum(timed[at : at + cpus]))
                if not now[0]:
                    continue
                number = numbers[place]
                seen = self._seen[number]
                if now == (seen.calls, seen.timed):
                    continue
                rows = [
                    words[row * WORDS : (row + 1) * WORDS].tolist() for row in range(at, at + cpus)
                ]
                counts = decode(rows, by_errno.get(number, {}))
                interval = counts.since(seen.counts)
                known = [longest_in(rows, ended)]
                if counts.max_ns > seen.longest:
                    known.insert(0, counts.max_ns)
                longest = interval.longest(known, counts.max_ns)
                seen.longest = max(seen.longest, longest)
                out[number] = replace(interval, max_ns=longest)
                seen.calls, seen.timed = now
                seen.counts = counts
        return out

    def clear(self) -> None:
        """Forget all counts, in the kernel too. No program may count meanwhile."""
        for number in self._seen:
            key = number.to_bytes(4, "little")
            self._stats[key] = bytes(len(self._stats[key]))
        self._seen.clear()

    def _by_errno(self) -> dict[int, dict[int, int]]:
        # Function -> errno -> how often, sorted by errno.
        found: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for keys, values, count in self._errors.batches():
            words = values.cast("B").cast("Q")
            halves = keys.cast("B").cast("I")
            cpus = len(words) // count
            for place in range(count):
                total = sum(words[place * cpus : (place + 1) * cpus])
                found[halves[2 * place]][halves[2 * place + 1]] = total
        return {function: dict(sorted(errors.items())) for function, errors in found.items()}
