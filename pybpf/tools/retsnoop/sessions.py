"""Records put together: one `Session` per call of an entry function. Pure.

Records of one session come in order, those of different sessions interleaved.
A session is complete with its `End`; if that is lost, what was collected is
dropped when the same task's next session starts, so nothing grows for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from ... import errnos
from ...dataclass import dataclass
from .events import Call, End, Event, Return, Stack
from .functions import Flag, Function, value_of

__all__ = ["NULL", "Collector", "ErrorFilter", "Session", "errors_of"]

#: Stands for a NULL pointer among error numbers.
NULL = 0


@dataclass(frozen=True, slots=True)
class Session:
    """What happened inside one call of an entry function.

    :param end: who, when, and the chain to report
    :param stack: kernel stack of the chain, innermost first; () if not asked for
    :param trace: calls and returns in order, as far as they arrived
    """

    end: End
    stack: tuple[int, ...] = ()
    trace: tuple[Call | Return, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorFilter:
    """Which sessions are shown, by the errors in their chain.

    :param allow: error numbers of which one must occur, `NULL` for a null
        pointer; None lets everything pass
    :param deny: error numbers of which none may occur
    """

    allow: frozenset[int] | None = None
    deny: frozenset[int] = frozenset()

    def passes(self, errors: frozenset[int]) -> bool:
        """True if a session with these errors is to be shown."""
        if errors & self.deny:
            return False
        return self.allow is None or bool(errors & self.allow)


def errors_of(end: End, functions: Sequence[Function]) -> frozenset[int]:
    """Error numbers (positive, `NULL` for a null pointer) that the chain's functions returned."""
    found = set()
    for frame in end.frames:
        function = functions[frame.func]
        if not frame.done or not function.can_fail:
            continue
        value = value_of(function, frame.result)
        if errnos.is_error(value):
            found.add(-value)
        elif not value and function.flags & Flag.PTR:
            found.add(NULL)
    return frozenset(found)


class Collector:
    """Takes events one by one and gives back the sessions they complete."""

    def __init__(self) -> None:
        self._traces: dict[int, list[Call | Return]] = {}
        self._stacks: dict[int, tuple[int, ...]] = {}
        # The task's session; an older one of the same task has lost its end.
        self._current: dict[int, int] = {}

    @property
    def open(self) -> int:
        """Sessions that records are kept for."""
        return len(self._current)

    def feed(self, event: Event) -> Session | None:
        """Take one event; gives a session if it was that session's last and is to be shown."""
        previous = self._current.get(event.key)
        if previous is not None and previous != event.session:
            self._forget(previous)
        if isinstance(event, End):
            self._current.pop(event.key, None)
            trace = self._traces.pop(event.session, [])
            stack = self._stacks.pop(event.session, ())
            return None if event.discard else Session(event, stack, tuple(trace))
        self._current[event.key] = event.session
        if isinstance(event, Stack):
            self._stacks[event.session] = event.addrs
        else:
            self._traces.setdefault(event.session, []).append(event)
        return None

    def _forget(self, session: int) -> None:
        self._traces.pop(session, None)
        self._stacks.pop(session, None)
