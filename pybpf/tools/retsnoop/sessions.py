"""Records put together: one `Session` per call of an entry function. Pure.

Records of one session come in order, those of different sessions interleaved.
A session is complete with its `End`; if that is lost, what was collected is
dropped when the same task's next session starts, so nothing grows for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dataclass import dataclass, field
from .events import Arg, Args, Branch, Branches, Call, Context, End, Event, Hit, Return, Stack

__all__ = ["NULL", "Collector", "ErrorFilter", "Session"]

#: Stands for a NULL pointer among error numbers.
NULL = 0


@dataclass(frozen=True, slots=True)
class Session:
    """What happened inside one call of an entry function.

    :param end: who, when, and the chain to report
    :param stack: kernel stack of the chain, innermost first; () if not asked for
    :param trace: calls, returns and probes in order, as far as they arrived
    :param args: arguments by the number of the call, as far as they arrived
    :param user_stack: stack of the program that called, innermost first
    :param contexts: of the probes that fired, by their place in the trace
    :param branches: the last ones before the failure, newest first
    """

    end: End
    stack: tuple[int, ...] = ()
    trace: tuple[Call | Return | Hit, ...] = ()
    args: Mapping[int, tuple[Arg, ...]] = field(default_factory=dict)
    user_stack: tuple[int, ...] = ()
    contexts: Mapping[int, bytes] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorFilter:
    """Which sessions are shown, by the errors in their chain; the BPF program looks at them.

    :param allow: error numbers of which one must occur, `NULL` for a null
        pointer; None lets everything pass
    :param deny: error numbers of which none may occur
    """

    allow: frozenset[int] | None = None
    deny: frozenset[int] = frozenset()


class _Open:
    # What arrived of a session so far.
    __slots__ = ("args", "branches", "contexts", "stack", "trace", "user_stack")

    def __init__(self) -> None:
        self.trace: list[Call | Return | Hit] = []
        self.args: dict[int, tuple[Arg, ...]] = {}
        self.contexts: dict[int, bytes] = {}
        self.branches: tuple[Branch, ...] = ()
        self.stack: tuple[int, ...] = ()
        self.user_stack: tuple[int, ...] = ()


class Collector:
    """Takes events one by one and gives back the sessions they complete."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        # The task's session; an older one of the same task has lost its end.
        self._current: dict[int, int] = {}

    @property
    def open(self) -> int:
        """Sessions that records are kept for."""
        return len(self._open)

    def feed(self, event: Event) -> Session | None:
        """Take one event; gives a session if it was that session's last and is to be shown.

        An interim end gives the session as far as it has come.
        """
        previous = self._current.get(event.key)
        if previous is not None and previous != event.session:
            self._open.pop(previous, None)
        if isinstance(event, End) and not event.interim:
            self._current.pop(event.key, None)
            kept = self._open.pop(event.session, None)
            return None if event.discard else _session(event, kept or _Open())
        self._current[event.key] = event.session
        kept = self._open.get(event.session)
        if kept is None:
            kept = self._open[event.session] = _Open()
        if isinstance(event, End):
            done = _session(event, kept)
            kept.stack = ()
            return done
        if isinstance(event, Stack):
            if event.user:
                kept.user_stack = event.addrs
            else:
                kept.stack = event.addrs
        elif isinstance(event, Branches):
            kept.branches = event.branches
        elif isinstance(event, Context):
            kept.contexts[event.seq] = event.data
        elif isinstance(event, Args):
            kept.args[event.seq] = event.values
        else:
            kept.trace.append(event)
        return None


def _session(end: End, kept: _Open) -> Session:
    return Session(end, kept.stack, tuple(kept.trace), kept.args, kept.user_stack, kept.contexts)
