"""Sessions as text, in retsnoop's layout. Pure.

Columns are as wide as the session's longest cells, so a session is laid
out once it is complete. Widths are in characters. The marks and arrows used
here take one cell each.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ...dataclass import dataclass
from ...wording import plain
from ..screen import many
from .debuginfo import Line
from .events import Call, Frame, Hit, Return
from .functions import Function, format_result
from .sessions import Session
from .stacks import Row

__all__ = [
    "NO_PROBES",
    "Arguments",
    "Clock",
    "Layout",
    "Probes",
    "Style",
    "coloured",
    "header",
    "session_text",
    "trace_lines",
    "warning",
]

CALL, RETURN, LEAF, PROBE, GAP = "→", "←", "↔", "◎", "‼"
NO_FRAME, STITCHED = "!", "⌇"
INDENT = 4
MAX_LEVELS = 20
UNFINISHED = "..."
ARGUMENT = "›"


@dataclass(frozen=True, slots=True)
class Style:
    """Say how to show frames of the kernel stack.

    :param addresses: put the address in front
    :param decimal: show offsets as ``+123`` instead of ``+0x7b``
    :param compact: show arguments in the line of the call, not below it
    """

    addresses: bool = False
    decimal: bool = False
    compact: bool = True


#: Returns names and values of a call's arguments, by the numbers of the function and the call.
#: None if they were lost.
Arguments = Callable[[int, int], Sequence[tuple[str, str]] | None]


@dataclass(frozen=True, slots=True)
class Probes:
    """Hold the texts of injected probes.

    :param labels: labels by the number of the probe
    :param contexts: returns names and values of a context, by the probe's number and its place
        in the trace; None if contexts are not captured
    """

    labels: Mapping[int, str]
    contexts: Arguments | None = None


NO_PROBES = Probes({})


class Clock:
    """Format moments as local times. Remembers the last second, which most sessions share.

    :param epoch: ns between 1970 and the start of CLOCK_MONOTONIC
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._second = -1
        self._text = ""

    def __call__(self, ns: int) -> str:
        """Return ``HH:MM:SS.uuuuuu`` for a moment of CLOCK_MONOTONIC."""
        # Microseconds by hand: a float has too few digits for nanoseconds since 1970.
        second, rest = divmod(ns + self._epoch, 10**9)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%H:%M:%S", time.localtime(second))
        return f"{self._text}.{rest // 1000:06}"


def header(session: Session, clock: Clock) -> str:
    """Format times, task and command names of a session."""
    end = session.end
    span = f"{clock(end.start)} -> {clock(end.end)}"
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


def _source(line: Line, name: str) -> str:
    # Compilers add what follows a dot to names of functions that they changed.
    other = line.function not in ("", name.partition(".")[0])
    where = f"{line.file}:{line.line}" if line.line else line.file
    return plain(f"({line.function} @ {where})" if other else f"({where})")


def _below_place(row: Row, style: Style) -> Iterator[tuple[str, str]]:
    # Functions that were inlined: symbol and source, outermost first.
    for line in row.place.lines[1:] if row.place else ():
        indent = f"{'':18}" if style.addresses else ""
        yield plain(f"{indent}. {line.function}"), _source(line, line.function)


def _given(arguments: Arguments | None, func: int, call: int) -> Sequence[tuple[str, str]]:
    if arguments is None:
        return ()
    values = arguments(func, call)
    return [("...", "data missing ...")] if values is None else values


def _in_line(values: Sequence[tuple[str, str]]) -> str:
    return " ".join(_compact(name, value) for name, value in values)


def _compact(name: str, value: str) -> str:
    # "..." stands in for arguments that are not known.
    return f"... {value}" if name == "..." else f"{name}={value}"


def _below(values: Sequence[tuple[str, str]], indent: int) -> Iterator[str]:
    # Each argument on its own line or lines.
    for name, value in values:
        text = f"... {value}" if name == "..." else f"{name} = {value}"
        first, *rest = text.split("\n")
        yield f"{'':{indent}}{ARGUMENT} {first}"
        yield from (f"{'':{indent}}  {line}" for line in rest)


class Layout:
    """Hold the layout of a stack, for any durations and arguments.

    :param rows: outermost first; rows with frames in the order of the session's frames
    """

    def __init__(self, rows: Sequence[Row], style: Style) -> None:
        self._style = style
        cells: list[tuple[str, str, str, str, bool]] = []
        for row in rows:
            place = row.place
            source = _source(place.lines[0], place.name) if place and place.lines else ""
            cells.append((*_result(row), _symbol(row, style), source, row.frame is not None))
            cells += [("", "", *below, False) for below in _below_place(row, style)]
        wide_s, wide_l = _columns(c[2] for c in cells), _columns(c[3] for c in cells)
        self._results = wide_r = _columns(c[1] for c in cells)
        # The last column is the source line. It is empty without debug info.
        self._rows = [
            (f"{mark:2} ", f" {result:<{wide_r}}  {symbol:<{wide_s}}  {source:<{wide_l}}", framed)
            for mark, result, symbol, source, framed in cells
        ]
        self._forms: dict[int, str] = {}

    def text(
        self,
        frames: Sequence[Frame],
        arguments: Arguments | None = None,
        user: Sequence[str] = (),
    ) -> str:
        """Return the stack, without a line end.

        :param frames: frames of the session
        :param user: frames of the calling program, shown above the kernel's
        """
        durations = [f"{f.duration // 1000}us" if f.done else UNFINISHED for f in frames]
        wide = max(5, *map(len, durations)) if durations else 5
        if arguments is None and not user:
            # Of most sessions, only the durations are new.
            form = self._forms.get(wide)
            if form is None:
                form = self._forms[wide] = self._form(wide)
            return form % tuple(durations)
        return "\n".join(self._lines(frames, durations, wide, arguments, user))

    def _form(self, wide: int) -> str:
        # The stack with a conversion for each duration.
        lines = []
        for mark, rest, framed in self._rows:
            plain_rest = rest.replace("%", "%%")
            lines.append(f"{mark}{f'%{wide}s' if framed else ' ' * wide}{plain_rest}")
        return "\n".join(lines)

    def _lines(
        self,
        frames: Sequence[Frame],
        durations: Sequence[str],
        wide: int,
        arguments: Arguments | None,
        user: Sequence[str],
    ) -> Iterator[str]:
        for name in user:
            yield f"{'':{wide + 3 + self._results + 3}}{plain(name)}"
        at = 0
        for mark, rest, framed in self._rows:
            if not framed:
                yield f"{mark}{'':{wide}}{rest}"
                continue
            line = f"{mark}{durations[at]:>{wide}}{rest}"
            given = _given(arguments, frames[at].func, frames[at].call) if arguments else ()
            at += 1
            if self._style.compact:
                yield f"{line}  {_in_line(given)}" if given else line
                continue
            yield line
            yield from _below(given, 3 + wide + 1)


def _result(row: Row) -> tuple[str, str]:
    # The mark and the result of a row.
    if row.frame is None or row.function is None:
        return "", ""
    mark = f"{NO_FRAME if row.place is None else ' '}{STITCHED if row.frame.stitched else ' '}"
    if not row.frame.done:
        return mark, f"[{UNFINISHED}]"
    return mark, format_result(row.function, row.frame.result)


# -- the trace --------------------------------------------------------------

_HEADINGS = ("FUNCTION CALLS", "RESULT", "DURATION")


@dataclass(frozen=True, slots=True)
class _Line:
    # One line of the trace, in columns.
    name: str
    result: str = ""
    duration: str = ""
    given: Sequence[tuple[str, str]] = ()


def _trace_rows(
    trace: Sequence[Call | Return | Hit],
    total: int,
    functions: Sequence[Function],
    arguments: Arguments | None,
    probes: Probes,
) -> Iterator[_Line]:
    expected = at = 0
    while at < len(trace):
        event = trace[at]
        if event.seq > expected:
            yield _gap(event.seq - expected, event.depth)
        following = trace[at + 1] if at + 1 < len(trace) else None
        pad = " " * (INDENT * min(event.depth, MAX_LEVELS))
        if isinstance(event, Hit):
            given = _given(probes.contexts, event.func, event.seq)
            yield _Line(f"{pad}{PROBE} {plain(probes.labels[event.func])}", given=given)
            expected = event.seq + 1
            at += 1
            continue
        function = functions[event.func]
        label = plain(function.label)
        if isinstance(event, Return):
            yield _returned(event, f"{pad}{RETURN} {label}", function)
        else:
            given = _given(arguments, event.func, event.seq)
            if (
                isinstance(following, Return)
                and following.seq == event.seq + 1
                and (following.func, following.depth) == (event.func, event.depth)
            ):
                yield _returned(following, f"{pad}{LEAF} {label}", function, given)
                at += 1
            else:
                yield _Line(f"{pad}{CALL} {label}", given=given)
        expected = trace[at].seq + 1
        at += 1
    if total > expected:
        yield _gap(total - expected, 0)


def _returned(
    event: Return, name: str, function: Function, given: Sequence[tuple[str, str]] = ()
) -> _Line:
    duration = UNFINISHED if event.duration is None else f"{event.duration / 1000:.3f}us"
    return _Line(name, format_result(function, event.result), duration, given)


def _gap(missing: int, depth: int) -> _Line:
    pad = " " * (INDENT * min(depth, MAX_LEVELS))
    return _Line(f"{pad}{GAP} missing {many(missing, 'record')} {GAP}", UNFINISHED, UNFINISHED)


def trace_lines(
    trace: Sequence[Call | Return | Hit],
    total: int,
    functions: Sequence[Function],
    arguments: Arguments | None = None,
    *,
    compact: bool = True,
    probes: Probes = NO_PROBES,
) -> Iterator[str]:
    """Format calls, returns and probes in order.

    :param total: number of records, lost ones included
    :param compact: show arguments in the line of the call
    """
    lines = list(_trace_rows(trace, total, functions, arguments, probes))
    name_w = _columns((line.name for line in lines), len(_HEADINGS[0]))
    result_w = _columns((line.result for line in lines), len(_HEADINGS[1]))
    duration_w = _columns((line.duration for line in lines), len(_HEADINGS[2]))
    context = "  CONTEXT" if arguments is not None and compact else ""
    rule = "  " + "-" * len("CONTEXT") if context else ""
    heading = f"{_HEADINGS[0]:<{name_w}}   {_HEADINGS[1]:<{result_w}}  {_HEADINGS[2]:>{duration_w}}"
    yield heading + context
    yield f"{'-' * name_w}   {'-' * result_w}  {'-' * duration_w}{rule}"
    for line in lines:
        text = f"{line.name:<{name_w}}   {line.result:<{result_w}}  {line.duration:>{duration_w}}"
        if compact:
            yield f"{text}  {_in_line(line.given)}" if line.given else text
            continue
        yield text
        yield from _below(line.given, name_w + 3)


# -- colour ---------------------------------------------------------------

_ERROR = re.compile(r"\[(?:-[A-Z0-9]+|NULL)\]")
_MARKS = re.compile(rf"[{CALL}{RETURN}{LEAF}{PROBE}{GAP}{STITCHED}{ARGUMENT}]|^{NO_FRAME}", re.M)


def coloured(text: str) -> str:
    """Color a block for a terminal: errors red, marks dim, the first line bold."""
    first, newline, rest = text.partition("\n")
    rest = _ERROR.sub(lambda found: f"\x1b[31m{found[0]}\x1b[0m", rest)
    rest = _MARKS.sub(lambda found: f"\x1b[2m{found[0]}\x1b[0m", rest)
    return f"\x1b[1m{first}\x1b[0m{newline}{rest}"


# -- the whole --------------------------------------------------------------


def warning(dropped: int) -> str:
    """Return the warning below a session that lost records."""
    return (
        f"WARNING! Sample data incomplete! {many(dropped, 'record')} dropped. "
        "Consider increasing -C bpf.ringbuf-size."
    )


def session_text(
    session: Session,
    functions: Sequence[Function],
    *,
    clock: Clock,
    trace: bool,
    stack: str | None,
    branches: Iterable[str] | None = None,
    compact: bool = True,
    arguments: Arguments | None = None,
    probes: Probes = NO_PROBES,
) -> str:
    """Format one session as a block.

    :param trace: show the calls
    :param stack: the stack as text, None to leave it out
    :param branches: lines of the last branches, None to leave them out
    :param compact: show arguments in the line of the call
    :param arguments: arguments of the calls, if they were captured
    :returns: text that ends with the two empty lines between blocks
    """
    lines = [header(session, clock)]
    if trace:
        calls = trace_lines(
            session.trace,
            session.end.records,
            functions,
            arguments,
            compact=compact,
            probes=probes,
        )
        lines += ["", *calls]
    if branches is not None:
        lines += ["", *branches]
    if stack is not None:
        lines += ["", stack]
    if session.end.interim:
        lines[0] += " (goes on)"
    if session.end.dropped:
        lines.append(warning(session.end.dropped))
    return "\n".join([*lines, "", "", ""])
