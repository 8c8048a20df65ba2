"""Put records together: one `Session` per call of an entry function. Pure.

Records of one session come in order. Different sessions are interleaved.
A session is complete when its `End` arrives. If that is lost, the collected records
are dropped when the same task's next session starts, or when there are more sessions than
the kernel has room for and the task is gone. So nothing grows forever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ...dataclass import dataclass
from ...namedtuple import NamedTuple
from .events import Arg, Args, Branch, Branches, Call, Context, End, Event, Hit, Return, Stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NULL", "Collector", "ErrorFilter", "Session"]

# Of sessions without arguments or contexts.
_NOTHING: Mapping[int, Any] = MappingProxyType({})

#: Stands for a NULL pointer among error numbers.
NULL = 0


class Session(NamedTuple):
    """Hold what happened inside one call of an entry function.

    :param end: the task, the times, and the chain to report
    :param stack: kernel stack of the chain, innermost first; () if not requested
    :param trace: calls, returns and probes in order, as far as they arrived
    :param args: arguments by the number of the call, as far as they arrived
    :param user_stack: stack of the calling program, innermost first
    :param contexts: contexts of the probes that fired, by their place in the trace
    :param branches: the last ones before the failure, newest first
    """

    end: End
    stack: tuple[int, ...] = ()
    trace: tuple[Call | Return | Hit, ...] = ()
    args: Mapping[int, tuple[Arg, ...]] = _NOTHING
    user_stack: tuple[int, ...] = ()
    contexts: Mapping[int, bytes] = _NOTHING
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorFilter:
    """Choose sessions by the errors in their chain. The BPF program applies it.

    :param allow: error numbers, of which one must occur; `NULL` stands for a null
        pointer; None allows everything
    :param deny: error numbers that must not occur
    """

    allow: frozenset[int] | None = None
    deny: frozenset[int] = frozenset()


class _Open:
    # What has arrived of a session.
    __slots__ = ("args", "branches", "contexts", "stack", "trace", "user_stack")

    def __init__(self) -> None:
        self.trace: list[Call | Return | Hit] = []
        self.args: dict[int, tuple[Arg, ...]] = {}
        self.contexts: dict[int, bytes] = {}
        self.branches: tuple[Branch, ...] = ()
        self.stack: tuple[int, ...] = ()
        self.user_stack: tuple[int, ...] = ()


class Collector:
    """Take events one by one, and return the sessions they complete.

    :param most: sessions that the kernel's maps have room for. If records of more are kept, some
        have lost their ends
    :param lives: tells whether the task with a key may still be in its session
    """

    def __init__(self, most: int = 4096, lives: Callable[[int], bool] = lambda key: True) -> None:
        self._most = self._limit = most
        self._lives = lives
        self._open: dict[int, _Open] = {}
        # The task's session. An older session of the same task has lost its end.
        self._current: dict[int, int] = {}
        # Sessions whose records were dropped. Their ends may still come: the reader lags.
        self._dropped: dict[int, None] = {}

    @property
    def open(self) -> int:
        """Count the sessions that records are kept for."""
        return len(self._open)

    def feed(self, event: Event) -> Session | None:
        """Take one event. Return its session if that is complete and should be shown.

        An interim end returns the session so far.
        """
        number, key = event.session, event.key
        previous = self._current.get(key)
        if previous is not None and previous != number:
            self._open.pop(previous, None)
        if isinstance(event, End) and not event.interim:
            self._current.pop(key, None)
            kept = self._open.pop(number, None)
            if number in self._dropped:
                del self._dropped[number]
                event = event._replace(dropped=max(event.records, event.dropped))
            return None if event.discard else _session(event, kept or _Open())
        self._current[key] = number
        kept = self._open.get(number)
        if kept is None:
            if len(self._open) >= self._limit:
                self._forget_the_dead(but=key)
            kept = self._open[number] = _Open()
        if isinstance(event, Stack):
            if event.user:
                kept.user_stack = event.addrs
            else:
                kept.stack = event.addrs
        elif isinstance(event, End):
            done = _session(event, kept)
            kept.stack = ()
            return done
        elif isinstance(event, Branches):
            kept.branches = event.branches
        elif isinstance(event, Context):
            kept.contexts[event.seq] = event.data
        elif isinstance(event, Args):
            kept.args[event.seq] = event.values
        else:
            kept.trace.append(event)
        return None

    def _forget_the_dead(self, *, but: int) -> None:
        for key, number in [*self._current.items()]:
            if key != but and not self._lives(key):
                del self._current[key]
                if self._open.pop(number, None) is not None:
                    self._dropped[number] = None
        while len(self._dropped) > 8 * self._most:
            del self._dropped[next(iter(self._dropped))]
        # Each sweep asks about all tasks, so the next one waits until there are twice as many.
        self._limit = max(self._most, 2 * len(self._open))


def _session(end: End, kept: _Open) -> Session:
    return Session(
        end,
        kept.stack,
        tuple(kept.trace),
        kept.args,
        kept.user_stack,
        kept.contexts,
        kept.branches,
    )
