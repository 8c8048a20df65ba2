"""Print sessions as text or JSON.

Thousands of sessions fail in the same way. So what depends only on the kernel stack and
the functions is computed once and remembered.
"""

from __future__ import annotations

import os
import sys
import time

from ...symbols import Symbols as Names
from . import jsonlines, render, stacks
from .args import arguments_text
from .functions import Function
from .lbr import branch_lines, jumps
from .probes import context_text
from .sessions import Session
from .stacks import Row
from .userstack import UNKNOWN, user_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...btf import Btf
    from .args import Parameter
    from .debuginfo import Line
    from .lbr import Jump
    from .options import Options
    from .probes import Probe
    from .render import Arguments
    from .stacks import Place, Symbols
    from .traceout import TraceFile

__all__ = ["Shower"]

# Most stacks and layouts that are remembered. With more, all are forgotten and collected again.
_REMEMBERED = 4096


class Shower:
    """Print sessions on standard output.

    :param options: what to show, and how
    :param functions: functions by number
    :param symbols: names the addresses of kernel stacks
    :param parameters: parameters of each function, if arguments are captured
    :param probes: the injected probes
    :param btf: BTF of the kernel itself, for contexts of probes
    :param file: also gets the calls
    :param lines: gives the source lines of an instruction, outermost function first
    :ivar shown: number of sessions so far, each counted once
    """

    def __init__(
        self,
        options: Options,
        functions: Sequence[Function],
        symbols: Symbols,
        parameters: Sequence[Sequence[Parameter]] = (),
        probes: Sequence[Probe] = (),
        btf: Btf | None = None,
        file: TraceFile | None = None,
        lines: Callable[[int], tuple[Line, ...]] | None = None,
    ) -> None:
        self._options = options
        self._parameters = parameters
        self._probes = {probe.number: probe for probe in probes}
        self._labels = {probe.number: probe.label for probe in probes}
        self._btf = btf
        self._file = file
        self._lines = lines
        self._names = Names()
        self._functions = functions
        self._symbols = symbols
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._clock = render.Clock(self._epoch)
        settings = options.settings
        self._style = render.Style(
            settings.emit_addrs, settings.dec_offs, settings.fmt_mode == "compact"
        )
        self._known: dict[object, list[tuple[Place | None, int]]] = {}
        self._layouts: dict[object, render.Layout] = {}
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.shown = 0

    def __call__(self, session: Session) -> None:
        """Print one session. `flush` sends it to the reader."""
        self.shown += not session.end.interim
        probes = self._hits(session)
        arguments = self._arguments(session)
        if self._file is not None and not session.end.interim:
            self._file.write(session, self._functions, arguments=arguments, labels=self._labels)
        if self._options.json:
            value = jsonlines.session(
                session,
                self._functions,
                epoch=self._epoch,
                trace=self._options.trace,
                rows=self._rows(session) if self._options.stacks else None,
                arguments=arguments,
                probes=probes,
                user=self._user(session),
                branches=self._jumps(session)[0] if self._options.lbr else None,
            )
            sys.stdout.write(jsonlines.line(value))
            return
        stack = None
        if self._options.stacks:
            stack = self._layout(session).text(
                session.end.frames, arguments, self._user(session) or ()
            )
        text = render.session_text(
            session,
            self._functions,
            clock=self._clock,
            trace=self._options.trace,
            stack=stack,
            branches=branch_lines(*self._jumps(session)) if self._options.lbr else None,
            compact=self._style.compact,
            arguments=arguments,
            probes=probes,
        )
        sys.stdout.write(render.coloured(text) if self._colour else text)

    def _arguments(self, session: Session) -> Arguments | None:
        if not self._parameters:
            return None
        settings = self._options.settings
        lines = settings.fmt_mode == "verbose" and not self._options.json

        def of(func: int, call: int) -> list[tuple[str, str]] | None:
            values = session.args.get(call)
            if values is None:
                return None
            return arguments_text(self._parameters[func], values, settings, lines=lines)

        return of

    def _hits(self, session: Session) -> render.Probes:
        if not self._probes:
            return render.NO_PROBES

        def context(probe: int, seq: int) -> list[tuple[str, str]] | None:
            raw = session.contexts.get(seq)
            return None if raw is None else context_text(self._probes[probe], raw, self._btf)

        return render.Probes(self._labels, context if self._options.capture_args else None)

    def _user(self, session: Session) -> list[str] | None:
        if not self._options.user_stacks:
            return None
        names = [user_frame(self._names, session.end.tgid, at) for at in session.user_stack]
        return names[::-1] or [f"{UNKNOWN} (no stack of the program)"]

    def _jumps(self, session: Session) -> tuple[list[Jump], bool]:
        options, frames = self._options, session.end.frames
        return jumps(
            session.branches,
            self._symbols,
            touching=self._functions[frames[-1].func].addr if frames else 0,
            whole=options.full_lbr or options.settings.unfiltered,
            most=options.settings.lbr_max_count,
        )

    def flush(self) -> None:
        """Send what was printed to the reader."""
        sys.stdout.flush()

    def _layout(self, session: Session) -> render.Layout:
        frames = session.end.frames
        chain = tuple([(f.func, f.result, f.done, f.stitched) for f in frames])
        key = (session.stack, chain)
        found = self._layouts.get(key)
        if found is None:
            found = render.Layout(self._rows(session), self._style)
            if len(self._layouts) >= _REMEMBERED:
                self._layouts.clear()
            self._layouts[key] = found
        return found

    def _rows(self, session: Session) -> list[Row]:
        frames = session.end.frames
        key = (session.stack, tuple([frame.func for frame in frames]))
        known = self._known.get(key)
        if known is None:
            places = stacks.clean(stacks.resolve(session.stack, self._symbols))
            if not self._options.settings.unfiltered:
                places = [p for p in places if not p.filtered]
            if self._lines is not None:
                places = stacks.with_lines(places, self._lines)
            rows = list(stacks.merge(places[::-1], frames, self._functions))
            at = {id(frame): number for number, frame in enumerate(frames)}
            known = [(row.place, at[id(row.frame)] if row.frame else -1) for row in rows]
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = known
        return [
            Row(place, frames[at], self._functions[frames[at].func]) if at >= 0 else Row(place)
            for place, at in known
        ]
