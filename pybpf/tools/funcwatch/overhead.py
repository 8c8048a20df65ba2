"""``--max-overhead``: which functions to let go of so that the programs stay cheap. Pure.

The kernel says how long each program ran, not on which function. All functions run the same
program, so what one costs is taken to be its share of the calls. The hottest go first: the
fewest functions are lost that way.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dataclass import dataclass, field

__all__ = ["HOT", "Meter", "excess"]

# Where it aims, as a share of the limit: so that it need not let go of functions one by one.
_AIM = 0.8
# Calls a second from which a function can be what costs: at 10 us a call that is 0.1 % of a CPU.
# What seldom runs seems dear when caches are cold or a virtual machine is not run meanwhile.
HOT = 100


def excess(rates: Mapping[int, float], share: float, limit: float) -> list[int]:
    """Choose the functions to let go of, the hottest first; [] if the programs are cheap enough.

    Functions of less than `HOT` calls a second stay.

    :param rates: calls a second of each function in the last interval, by number
    :param share: of the time of all CPUs that the programs ran in it
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

    :param cpus: CPUs that are online
    """

    cpus: int
    _before: dict[int, int] = field(default_factory=dict)
    _at: float = 0.0
    _last: float | None = None

    def share(self, run_times: Mapping[int, int], now: float) -> float | None:
        """Return the share since the last reading or the one before, whichever is less.

        None until there are both. A virtual machine that is not run for some milliseconds takes
        them for the program's, which should cost no function.

        :param run_times: ns by program id; a program that was not there before counts from 0
        :param now: seconds of a clock that only goes forward
        """
        ran = sum(ns - self._before.get(program, 0) for program, ns in run_times.items())
        first, seconds = not self._at, now - self._at
        self._before, self._at = dict(run_times), now
        if first or seconds <= 0:
            return None
        last, self._last = self._last, ran / (seconds * 1e9 * self.cpus)
        return None if last is None else min(last, self._last)

    def begin(self) -> None:
        """Forget shares that were read before something changed."""
        self._last = None
