"""Sessions and the rest of the output as JSON values, one per line. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...jsontext import dumps
from ...multi.missed import Missed
from ...multi.reasons import Skipped
from .events import Call, Hit, Return
from .functions import Flag, Function, outcome_of
from .load import Counts
from .render import NO_PROBES, Probes
from .sessions import Session
from .stacks import Place, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .lbr import Jump
    from .render import Arguments

__all__ = ["attached", "line", "session", "summary"]


def line(value: Mapping[str, Any]) -> str:
    """Make one line of JSON Lines, with its newline."""
    return dumps(value, compact=True) + "\n"


def _result(function: Function, raw: int) -> dict[str, Any]:
    text, value, number = outcome_of(function, raw)
    out: dict[str, Any] = {"text": text}
    if value is not None:
        out["value"] = value
    if number is not None:
        out["errno"] = number
    return out


def _call(
    event: Call | Return | Hit,
    functions: Sequence[Function],
    arguments: Arguments | None,
    probes: Probes,
) -> dict[str, Any]:
    if isinstance(event, Hit):
        hit: dict[str, Any] = {
            "seq": event.seq,
            "event": "probe",
            "probe": probes.labels[event.func],
            "depth": event.depth,
        }
        if probes.contexts is not None:
            hit |= _arguments(probes.contexts, event.func, event.seq)
        return hit
    function = functions[event.func]
    out: dict[str, Any] = {
        "seq": event.seq,
        "event": "call" if isinstance(event, Call) else "return",
        "function": function.name,
        "module": function.module,
        "depth": event.depth,
    }
    if isinstance(event, Return):
        out["duration_ns"] = event.duration
        out["result"] = _result(function, event.result)
    elif arguments is not None:
        out |= _arguments(arguments, event.func, event.seq)
    return out


def _arguments(arguments: Arguments, func: int, call: int) -> dict[str, Any]:
    values = arguments(func, call)
    return {"args": None if values is None else dict(values)}


def _place(place: Place) -> dict[str, Any]:
    out: dict[str, Any] = {"addr": f"{place.addr:#x}"}
    if place.name:
        out |= {"symbol": place.name, "offset": place.addr - place.start, "module": place.module}
    if place.lines:
        out["source"] = [
            {"function": x.function, "file": x.file, "line": x.line} for x in place.lines
        ]
    return out


def _row(row: Row, arguments: Arguments | None) -> dict[str, Any]:
    out: dict[str, Any] = {"place": _place(row.place) if row.place else None}
    if row.frame is not None and row.function is not None:
        out |= {
            "function": row.function.name,
            "module": row.function.module,
            "done": row.frame.done,
            "stitched": row.frame.stitched,
        }
        if row.frame.done:
            out |= {
                "duration_ns": row.frame.duration,
                "result": _result(row.function, row.frame.result),
            }
        if arguments is not None:
            out |= _arguments(arguments, row.frame.func, row.frame.call)
    return out


def session(
    item: Session,
    functions: Sequence[Function],
    *,
    epoch: int,
    trace: bool,
    rows: Sequence[Row] | None,
    arguments: Arguments | None = None,
    probes: Probes = NO_PROBES,
    user: Sequence[str] | None = None,
    branches: Sequence[Jump] | None = None,
) -> dict[str, Any]:
    """Make the value of one session.

    Times are ns since 1970. ``stack`` is outermost first. Its rows without
    ``function`` are frames of functions that are not traced. ``args`` are the arguments of a
    call as text, null if the record was lost.
    """
    end = item.end
    out: dict[str, Any] = {
        "type": "session",
        "start_ns": end.start + epoch,
        "end_ns": end.end + epoch,
        "tid": end.tid,
        "pid": end.tgid,
        "comm": end.comm,
        "leader_comm": end.leader_comm,
        "failed": end.failed,
        "finished": not (end.unfinished or end.interim),
        "dropped": end.dropped,
        "missed": end.missed,
        "deep": end.deep,
    }
    if end.interim:
        out["interim"] = True
    if branches is not None:
        out["branches"] = [{"from": _place(one), "to": _place(two)} for one, two in branches]
    if user is not None:
        out["user_stack"] = list(user)
    if rows is not None:
        out["stack"] = [_row(row, arguments) for row in rows]
    if trace:
        out["trace"] = [_call(event, functions, arguments, probes) for event in item.trace]
    return out


def attached(
    mechanisms: str, functions: Sequence[Function], skipped: Sequence[Skipped], *, dry_run: bool
) -> dict[str, Any]:
    """Make the value that lists attached and skipped functions."""
    return {
        "type": "attached",
        "dry_run": dry_run,
        "mechanism": mechanisms,
        "functions": [
            {
                "name": f.name,
                "module": f.module,
                "addr": f"{f.addr:#x}",
                "btf_id": f.btf_id,
                "entry": f.is_entry,
                "flags": [flag.name for flag in Flag if flag & f.flags],
            }
            for f in functions
        ],
        "skipped": [
            {"name": s.name, "module": s.module, "reason": s.reason.value, "why": s.why}
            for s in skipped
        ],
    }


def summary(counts: Counts, *, shown: int, missed: Missed) -> dict[str, Any]:
    """Make the value of the last line: what was shown and what was not.

    ``started`` is the sum of ``sessions`` (shown), ``filtered``, ``unshown``, ``lost`` and
    ``unfinished``. ``dropped`` is the sum of ``lost`` and ``no_room``; the latter counts calls that
    could not open a session. ``missed`` counts calls that the programs missed, and
    ``missed_unknown`` counts links for which the kernel does not say.
    """
    return {
        "type": "end",
        "sessions": shown,
        "started": counts.started,
        "filtered": counts.filtered,
        "unshown": counts.sent - shown,
        "lost": counts.lost,
        "unfinished": counts.open,
        "no_room": counts.no_room,
        "dropped": counts.dropped,
        "incomplete": counts.incomplete,
        "deep_calls": counts.deep,
        "missed": missed.count,
        "missed_unknown": missed.unknown_links,
    }
