"""Sessions as text, in retsnoop's layout. Pure.

Column widths are those of the session's longest cells, so a session is laid
out when it is complete. Widths count characters; the marks and arrows used
here take one cell each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from ...dataclass import dataclass
from ..entry import plain
from ..screen import many
from .events import Call, Return
from .functions import Function, format_result
from .sessions import Session
from .stacks import Row

__all__ = ["Style", "header", "session_text", "stack_lines", "trace_lines", "warning"]

CALL, RETURN, LEAF, GAP = "→", "←", "↔", "‼"
NO_FRAME, STITCHED = "!", "⌇"
INDENT = 4
MAX_LEVELS = 20
UNFINISHED = "..."


@dataclass(frozen=True, slots=True)
class Style:
    """How frames of the kernel stack are shown.

    :param addresses: put the address in front
    :param decimal: offsets as ``+123`` instead of ``+0x7b``
    """

    addresses: bool = False
    decimal: bool = False


def _clock(ns: int) -> str:
    # Microseconds by hand: a float of nanoseconds since 1970 has not enough digits.
    return f"{time.strftime('%H:%M:%S', time.localtime(ns // 10**9))}.{ns // 1000 % 10**6:06}"


def header(session: Session, epoch: int) -> str:
    """Times, task and command names of a session.

    :param epoch: ns between 1970 and the start of CLOCK_MONOTONIC
    """
    end = session.end
    span = f"{_clock(end.start + epoch)} -> {_clock(end.end + epoch)}"
    return plain(f"{span} TID/PID {end.tid}/{end.tgid} ({end.comm}/{end.leader_comm}):")


def _columns(cells: Iterable[str], least: int = 0) -> int:
    return max([least, *map(len, cells)])


# -- the stack --------------------------------------------------------------


def _symbol(row: Row, style: Style) -> str:
    place = row.place
    name, offset = row.function.name if row.function else "", ""
    if place is not None:
        if place.name:
            distance = place.addr - place.start
            offset = f"+{distance}" if style.decimal else f"+{distance:#x}"
            name = place.name
        else:
            name = f"{place.addr:#x}"
    module = place.module if place else row.function.module if row.function else ""
    text = plain(f"{name}{offset}" + (f" [{module}]" if module else ""))
    if not style.addresses:
        return text
    if place is None:
        return f"{'':17} {text}"
    return f"{'~' if place.filtered else ' '}{place.addr:016x} {text}"


def stack_lines(rows: Sequence[Row], style: Style) -> Iterator[str]:
    """The stack, outermost frame first."""
    cells = []
    for row in rows:
        mark = duration = result = ""
        if row.frame is not None and row.function is not None:
            mark = (
                f"{NO_FRAME if row.place is None else ' '}{STITCHED if row.frame.stitched else ' '}"
            )
            if row.frame.done:
                duration = f"{row.frame.duration // 1000}us"
                result = format_result(row.function, row.frame.result)
            else:
                duration, result = UNFINISHED, f"[{UNFINISHED}]"
        cells.append((mark, duration, result, _symbol(row, style)))
    wide_d = _columns((c[1] for c in cells), 5)
    wide_r = _columns(c[2] for c in cells)
    wide_s = _columns(c[3] for c in cells)
    for mark, duration, result, symbol in cells:
        # The last column is the source line; without debug info it is empty.
        yield f"{mark:2} {duration:>{wide_d}} {result:<{wide_r}}  {symbol:<{wide_s}}  "


# -- the trace --------------------------------------------------------------

_HEADINGS = ("FUNCTION CALLS", "RESULT", "DURATION")


def _trace_rows(
    trace: Sequence[Call | Return], total: int, functions: Sequence[Function]
) -> Iterator[tuple[str, str, str]]:
    expected = at = 0
    while at < len(trace):
        event = trace[at]
        if event.seq > expected:
            yield _gap(event.seq - expected, event.depth)
        following = trace[at + 1] if at + 1 < len(trace) else None
        pad = " " * (INDENT * min(event.depth, MAX_LEVELS))
        function = functions[event.func]
        label = plain(function.label)
        if isinstance(event, Return):
            yield _returned(event, f"{pad}{RETURN} {label}", function)
        elif (
            isinstance(following, Return)
            and following.seq == event.seq + 1
            and (following.func, following.depth) == (event.func, event.depth)
        ):
            yield _returned(following, f"{pad}{LEAF} {label}", function)
            at += 1
        else:
            yield f"{pad}{CALL} {label}", "", ""
        expected = trace[at].seq + 1
        at += 1
    if total > expected:
        yield _gap(total - expected, 0)


def _returned(event: Return, name: str, function: Function) -> tuple[str, str, str]:
    duration = f"{event.duration / 1000:.3f}us"
    return name, format_result(function, event.result), duration


def _gap(missing: int, depth: int) -> tuple[str, str, str]:
    pad = " " * (INDENT * min(depth, MAX_LEVELS))
    return f"{pad}{GAP} missing {many(missing, 'record')} {GAP}", UNFINISHED, UNFINISHED


def trace_lines(
    trace: Sequence[Call | Return], total: int, functions: Sequence[Function]
) -> Iterator[str]:
    """Calls and returns in order.

    :param total: how many records there were, lost ones included
    """
    rows = list(_trace_rows(trace, total, functions))
    widths = [_columns((row[i] for row in rows), len(_HEADINGS[i])) for i in range(3)]
    rules = tuple("-" * width for width in widths)
    for name, result, duration in (_HEADINGS, rules, *rows):
        yield f"{name:<{widths[0]}}   {result:<{widths[1]}}  {duration:>{widths[2]}}"


# -- the whole --------------------------------------------------------------


def warning(dropped: int) -> str:
    """What is said below a session that lost records."""
    return (
        f"WARNING! Sample data incomplete! {many(dropped, 'record')} dropped. "
        "Consider increasing -C bpf.ringbuf-size."
    )


def session_text(
    session: Session,
    functions: Sequence[Function],
    *,
    epoch: int,
    trace: bool,
    rows: Sequence[Row] | None,
    style: Style,
) -> str:
    """One block.

    :param epoch: ns between 1970 and the start of CLOCK_MONOTONIC
    :param trace: show the calls
    :param rows: the stack to show, or None
    :returns: text that ends with the two empty lines between blocks
    """
    lines = [header(session, epoch)]
    if trace:
        lines += ["", *trace_lines(session.trace, session.end.records, functions)]
    if rows is not None:
        lines += ["", *stack_lines(rows, style)]
    if session.end.dropped:
        lines.append(warning(session.end.dropped))
    return "\n".join([*lines, "", "", ""])
