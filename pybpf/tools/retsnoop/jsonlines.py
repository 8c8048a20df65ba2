"""Sessions and what else is to be told as JSON values, one per line. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ... import errnos
from ...multi.missed import Missed
from .attach import Refused
from .events import Call, Return
from .functions import Flag, Function, format_result, value_of
from .sessions import Session
from .stacks import Place, Row

__all__ = ["attached", "line", "session", "summary"]


def line(value: Mapping[str, Any]) -> str:
    """One line of JSON Lines, newline included."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _result(function: Function, raw: int) -> dict[str, Any]:
    value = value_of(function, raw)
    out: dict[str, Any] = {"text": format_result(function, raw)[1:-1]}
    if not function.flags & Flag.VOID:
        out["value"] = value
    if function.can_fail and errnos.is_error(value):
        out["errno"] = -value
    return out


def _call(event: Call | Return, functions: Sequence[Function]) -> dict[str, Any]:
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
    return out


def _place(place: Place) -> dict[str, Any]:
    out: dict[str, Any] = {"addr": f"{place.addr:#x}"}
    if place.name:
        out |= {"symbol": place.name, "offset": place.addr - place.start, "module": place.module}
    return out


def _row(row: Row) -> dict[str, Any]:
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
    return out


def session(
    item: Session,
    functions: Sequence[Function],
    *,
    epoch: int,
    trace: bool,
    rows: Sequence[Row] | None,
) -> dict[str, Any]:
    """One session.

    Times are ns since 1970; ``stack`` is outermost first, its rows without
    ``function`` are frames of functions that are not traced.
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
        "finished": not end.unfinished,
        "dropped": end.dropped,
        "missed": end.missed,
    }
    if rows is not None:
        out["stack"] = [_row(row) for row in rows]
    if trace:
        out["trace"] = [_call(event, functions) for event in item.trace]
    return out


def attached(
    mechanisms: str, functions: Sequence[Function], refused: Sequence[Refused], *, dry_run: bool
) -> dict[str, Any]:
    """What is attached to, and what is not."""
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
                "entry": bool(f.flags & Flag.ENTRY),
                "flags": [flag.name for flag in Flag if flag & f.flags],
            }
            for f in functions
        ],
        "skipped": [
            {"name": r.function.name, "module": r.function.module, "why": r.why} for r in refused
        ],
    }


def summary(*, sessions: int, dropped: int, incomplete: int, missed: Missed) -> dict[str, Any]:
    """The last line: what was shown and what was lost.

    ``missed``: calls that the programs missed, and ``missed_unknown`` links of which the kernel
    does not tell.
    """
    return {
        "type": "end",
        "sessions": sessions,
        "dropped": dropped,
        "incomplete": incomplete,
        "missed": missed.count,
        "missed_unknown": missed.unknown_links,
    }
