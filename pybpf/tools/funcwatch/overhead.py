"""``--max-overhead``: choose functions to release, so that the programs stay cheap. Pure.

The kernel says how long each program ran, but not on which function. All functions run the same
program, so each function's cost is estimated by its share of the calls. The hottest functions go
first, because then the fewest are lost.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dataclass import dataclass, field

__all__ = ["HOT", "Meter", "excess"]

# The goal, as a share of the limit. Below 1, so that functions do not go one by one.
_AIM = 0.8
# Functions with fewer calls per second are never the cause: at 10 us each, 100 are 0.1 % of a CPU.
# Rare calls look slow if caches are cold, or a virtual machine does not run meanwhile.
HOT = 100


def excess(rates: Mapping[int, float], share: float, limit: float) -> list[int]:
    """Choose the functions to release, hottest first. [] if the programs are cheap enough.

    Functions with fewer than `HOT` calls per second stay.

    :param rates: calls per second of each function in the last interval, by number
    :param share: share of all CPU time that the programs took in it
    :param limit: share that they may take
    """
    if share <= limit:
        return []
    total = left = sum(rates.values())
    gone = []
    for number, rate in sorted(rates.items(), key=lambda item: (-item[1], item[0])):
        if rate < HOT or share * left <= _AIM * limit * total:
            break
        left -= rate
        gone.append(number)
    return gone


@dataclass(slots=True)
class Meter:
    """Turn readings of run times into a share of CPU time.

    :param cpus: number of online CPUs
    """

    cpus: int
    _before: dict[int, int] = field(default_factory=dict)
    _at: float = 0.0
    _last: float | None = None

    def share(self, run_times: Mapping[int, int], now: float) -> float | None:
        """Return the share since the last reading or the one before, whichever is less.

        None until both exist. If a virtual machine does not run for some milliseconds, the kernel
        adds them to the program's time. Taking the lower share avoids a wrong release.

        :param run_times: ns by program id; a new program counts from 0
        :param now: seconds of a monotonic clock
        """
        ran = sum(ns - self._before.get(program, 0) for program, ns in run_times.items())
        first, seconds = not self._at, now - self._at
        self._before, self._at = dict(run_times), now
        if first or seconds <= 0:
            return None
        last, self._last = self._last, ran / (seconds * 1e9 * self.cpus)
        return None if last is None else min(last, self._last)

    def begin(self) -> None:
        """Forget the readings before a change."""
        self._last = None
