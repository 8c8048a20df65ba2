"""Sessions as a file in the Trace Event Format, which Perfetto and Chrome's about:tracing show.

A call is a complete event (``X``) with its result and arguments. A probe is an instant event
(``i``). Metadata events (``M``) name processes and threads. Times are of CLOCK_MONOTONIC, in
microseconds, as in perf and ftrace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...jsontext import dumps
from .events import Call, End, Hit, Return
from .functions import Function, outcome_of
from .render import Arguments
from .sessions import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TextIO

__all__ = ["TraceFile", "events_of"]

_CATEGORY = "kernel"


def _us(ns: int) -> float:
    return ns / 1000


def _common(end: End, name: str, phase: str, time: int) -> dict[str, Any]:
    return {
        "name": name,
        "cat": _CATEGORY,
        "ph": phase,
        "ts": _us(time),
        "pid": end.tgid,
        "tid": end.tid,
    }


def events_of(
    session: Session,
    functions: Sequence[Function],
    *,
    arguments: Arguments | None = None,
    labels: Mapping[int, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Make the events of one session.

    :param arguments: arguments of the calls, if they were captured
    :param labels: labels of the probes, by number
    """
    end = session.end
    open_: list[Call] = []
    latest = end.start  # of the moments that are known

    def finished(call: Call, duration: int, result: str | None) -> dict[str, Any]:
        event = _common(end, functions[call.func].label, "X", call.time)
        args: dict[str, Any] = {"session": end.session}
        if result is None:
            args["finished"] = False
        else:
            args["result"] = result
        given = arguments(call.func, call.seq) if arguments is not None else None
        if given is not None:
            args["arguments"] = dict(given)
        return event | {"dur": _us(duration), "args": args}

    for event in session.trace:
        latest = max(latest, _moment(event, open_, latest))
        if isinstance(event, Hit):
            label = (labels or {}).get(event.func, str(event.func))
            yield _common(end, label, "i", event.time) | {"s": "t", "args": {}}
            continue
        # A call whose return was lost ends when a call around it returns, or the next one begins.
        depth = event.depth + isinstance(event, Return)
        while open_ and open_[-1].depth >= depth:
            lost = open_.pop()
            yield finished(lost, max(0, latest - lost.time), None)
        if isinstance(event, Call):
            open_.append(event)
        elif open_ and (open_[-1].depth, open_[-1].func) == (event.depth, event.func):
            function = functions[event.func]
            result = outcome_of(function, event.result).text
            call = open_.pop()
            # Of a call too deep to be kept, the duration is not known: at least that of its calls.
            least = max(0, latest - call.time)
            yield finished(call, least if event.duration is None else event.duration, result)
    while open_:
        call = open_.pop()
        yield finished(call, max(0, end.end - call.time), None)


def _moment(event: Call | Return | Hit, open_: Sequence[Call], latest: int) -> int:
    # When it happened. A return has no time of its own: that of its call tells.
    if not isinstance(event, Return):
        return event.time
    for call in reversed(open_):
        if (call.depth, call.func) == (event.depth, event.func):
            return latest if event.duration is None else call.time + event.duration
    return latest


class TraceFile:
    """Write sessions to a file. Closing completes the file.

    :param file: open for writing
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._first = True
        self._named: set[tuple[int, int]] = set()
        file.write('{"displayTimeUnit":"ns","traceEvents":[')

    def write(
        self,
        session: Session,
        functions: Sequence[Function],
        *,
        arguments: Arguments | None = None,
        labels: Mapping[int, str] | None = None,
    ) -> None:
        """Add the events of a session; see `events_of`."""
        end = session.end
        if (end.tgid, end.tid) not in self._named:
            self._named.add((end.tgid, end.tid))
            for name, text in (("process_name", end.leader_comm), ("thread_name", end.comm)):
                ids = {"pid": end.tgid, "tid": end.tid}
                self._event({"name": name, "ph": "M", **ids, "args": {"name": text}})
        for event in events_of(session, functions, arguments=arguments, labels=labels):
            self._event(event)

    def _event(self, event: dict[str, Any]) -> None:
        self._file.write("\n" if self._first else ",\n")
        self._first = False
        self._file.write(dumps(event, compact=True))

    def close(self) -> None:
        """End the file."""
        if not self._file.closed:
            self._file.write("\n]}\n")
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
