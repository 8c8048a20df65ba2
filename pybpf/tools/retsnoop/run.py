"""One run: select, load, attach, receive, detach.

Signals end the selection, which only reads. From then on they set a flag that the
loops look at, so that an interrupt never leaves half of something behind: attaching
stops at the next function and is undone, receiving ends, detaching goes on to its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TextIO

import pybpf

from ...errors import ObjectFormatError, PlanError, RelocationError
from ...kernel import kallsyms
from ...links import make_room
from ...multi.missed import losses_on
from ...multi.select import Selection, select
from ..entry import plain
from ..progress import Waiting
from ..screen import many
from . import attach, jsonlines, render, stacks
from .attach import Attacher, Plan, Progress
from .command import NOT_FOUND, Command, find
from .events import decode
from .functions import Flag, Function, make_functions
from .options import Mechanism, Options
from .sessions import Collector, Session, errors_of
from .symbols import KernelSymbols

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Object

__all__ = ["run"]

OBJECT = Path(__file__).with_name("retsnoop.bpf.o")
_POLL = 0.1  # seconds between looks at signals and the command
_SLOW = 5.0  # seconds: what takes longer is announced
_STALL = 1.0  # seconds of attaching or detaching before progress is shown
_ALLOW, _DENY = 1, 0
_SHOWN = 5


class _Stopped(Exception):
    """A signal came before everything was attached."""


class _Failed(Exception):
    """The run cannot go on; the text says why."""


class _Progress:
    """A line on stderr that tells how far slow work has come."""

    def __init__(self, doing: str, out: TextIO) -> None:
        self._doing = doing
        self._out = out
        self._tty = out.isatty()
        self._start = self._last = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._start < _STALL or now - self._last < (0.2 if self._tty else 5.0):
            return
        self._last, self._shown = now, True
        end = "" if self._tty else "\n"
        start = "\r" if self._tty else ""
        with contextlib.suppress(OSError):  # nobody watches: the work goes on
            print(f"{start}{self._doing} {done}/{total}...", end=end, file=self._out, flush=True)

    def done(self) -> None:
        if self._shown and self._tty:
            with contextlib.suppress(OSError):
                print(file=self._out, flush=True)


class _Run:
    def __init__(self, options: Options, facts: pybpf.Facts) -> None:
        self.options = options
        self.facts = facts
        self.functions: list[Function] = []
        self.stop = 0  # number of the signal that came
        self.selecting = False  # only reading: a signal need not wait for a loop
        self.command: Command | None = None
        self.sessions = 0
        self.collector = Collector()
        self.epoch = time.time_ns() - time.monotonic_ns()
        self.symbols = KernelSymbols(lambda: self.facts.kallsyms)
        # With --json stdout belongs to the records.
        self.info = sys.stderr if options.json else sys.stdout

    # -- words

    def say(self, text: str, level: int = 0) -> None:
        if self.options.verbose >= level:
            print(plain(text, lines=True), file=self.info)

    def warn(self, text: str) -> None:
        with contextlib.suppress(OSError):
            print(plain(text, lines=True), file=sys.stderr, flush=True)

    # -- selection

    def select(self) -> Selection:
        options = self.options
        selection = select(
            self.facts,
            options.allow,
            entry=[*options.entry, *options.soft_entry],
            deny=options.deny,
            at_exit=True,
        )
        needed = set(options.entry)
        lost = [u for u in selection.unmatched if u.pattern in needed]
        if lost:
            raise _Failed("\n".join(f"entry glob {u}" for u in lost))
        for unmatched in selection.unmatched:
            self.say(f"Glob {unmatched}.", 1)
        if not any(c.entry for c in selection.candidates):
            raise _Failed("no entry function can be traced")
        for skipped in selection.skipped:
            why = str(skipped).removeprefix(f"{skipped.label}: ")
            self.say(f"Function '{skipped.label}' is skipped: {why}", 1)
        for label in selection.excluded:
            self.say(f"Function '{label}' is denied.", 2)
        return selection

    def plan(self, selection: Selection) -> Plan:
        functions = make_functions(selection.candidates, self.facts.btf)
        plan = attach.make_plan(functions, self.options.mechanism, self.facts)
        for refused in plan.refused:
            self.say(f"Function '{refused.function.label}' is skipped: {refused.why}", 1)
        left = {r.function.id for r in plan.refused}
        if not any(f.flags & Flag.ENTRY for f in functions if f.id not in left):
            why = plan.refused[0]
            raise _Failed(f"no entry function is left: '{why.function.label}': {why.why}")
        self.functions = functions
        skipped = len(selection.skipped) + len(plan.refused)
        self.say(f"Found {many(plan.functions, 'attachable function')} in total.", 1)
        self.say(f"Skipped {many(skipped, 'function')} in total.", 1)
        for function in functions:
            if function.flags & Flag.ENTRY and function.id not in left:
                self.say(f"Function '{function.label}' is marked as an entry point.", 1)
        if skipped and not self.options.verbose:
            self.warn(f"Skipped {many(skipped, 'function')} that cannot be traced; -v tells why.")
        self._warn_no_fail(functions)
        return plan

    def _warn_no_fail(self, functions: Sequence[Function]) -> None:
        if self.options.success:
            return
        alone = len(functions) == 1
        names = [
            f"'{f.label}'"
            for f in functions
            if f.flags & Flag.ENTRY and not f.can_fail and (alone or not f.flags & Flag.VOID)
        ]
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            which = "entry function" if len(names) == 1 else "entry functions"
            self.warn(
                f"WARNING: {which} that cannot fail, shown with -S only: "
                f"{', '.join(names[:_SHOWN])}{more}"
            )

    def lost(self, modules: Iterable[str]) -> set[str]:
        """Modules that are no longer the ones that functions were selected in."""
        return self.facts.loaded.lost(modules)

    def list_functions(self, functions: Sequence[Function], *, dry_run: bool) -> None:
        how = "Attached (dry run)" if dry_run else "Attached"
        for number, function in enumerate(functions, 1):
            detail = ""
            if self.options.verbose > 1:
                flags = "|".join(flag.name or "" for flag in Flag if flag & function.flags)
                btf = "none" if function.btf_id is None else function.btf_id
                detail = f" (addr {function.addr:#x}, btf id {btf}, flags {flags or '0'})"
            self.say(f"{how} to function #{number} '{function.label}'{detail}.", 1)

    # -- loading and attaching

    def load(self, obj: Object, plan: Plan) -> None:
        options = self.options
        variables = obj.globals
        variables.self_tgid = os.getpid()
        variables.emit_success = options.success
        variables.emit_stacks = options.stacks
        variables.emit_trace = options.trace
        variables.min_duration = options.min_duration
        variables.filter_pids = bool(options.allow_pids or options.deny_pids)
        variables.allow_pids = bool(options.allow_pids)
        variables.filter_comms = bool(options.allow_comms or options.deny_comms)
        variables.allow_comms = bool(options.allow_comms)
        # Denied ones are written last, so that they win.
        pids = dict.fromkeys(options.allow_pids, _ALLOW) | dict.fromkeys(options.deny_pids, _DENY)
        comms = {
            _comm(name): verdict
            for names, verdict in ((options.allow_comms, _ALLOW), (options.deny_comms, _DENY))
            for name in names
        }
        maps = obj.maps
        maps["funcs"].max_entries = len(self.functions)
        maps["sessions"].max_entries = options.settings.sessions_size
        maps["events"].max_entries = options.settings.ringbuf_size
        maps["pids"].max_entries = max(1, len(pids))
        maps["comms"].max_entries = max(1, len(comms))
        for name in attach.programs_of(plan):
            obj.programs[name].autoload = True
        obj.load()
        maps["funcs"].update({f.id: int(f.flags) for f in self.functions})
        maps["pids"].update(pids)
        maps["comms"].update(comms)

    def attach(self, obj: Object, attacher: Attacher, plan: Plan) -> None:
        cost = attach.estimate(plan, self.facts)
        if cost.attach_s + cost.detach_s > _SLOW:
            self.warn(
                f"Attaching to {many(plan.functions, 'function')} by {plan.text} may take about "
                f"{cost.attach_s:.0f} s, detaching {cost.detach_s:.0f} s."
            )
        started = time.monotonic()
        attacher.attach_task_exit()
        attached = attacher.attach(plan)
        took = int((time.monotonic() - started) * 1000)
        have = {f.id for f in attached}
        for function in self.functions:
            if function.id not in have:
                # Its exit may be attached without its entry.
                obj.maps["funcs"][function.id] = int(function.flags | Flag.IGNORE)
        for refused in attacher.refused:
            self.say(f"Function '{refused.function.label}' is skipped: {refused.why}", 1)
        if attacher.refused and not self.options.verbose:
            self.warn(
                f"The kernel refused {len(attacher.refused)} of "
                f"{many(plan.functions, 'function')}; "
                "-v tells why."
            )
        if not any(f.flags & Flag.ENTRY for f in attached):
            why = attacher.refused[0] if attacher.refused else None
            text = f": '{why.function.label}': {why.why}" if why else ""
            raise _Failed(f"no entry function could be attached to{text}")
        self.list_functions(attached, dry_run=False)
        self.say(f"Successfully attached to {many(len(attached), 'function')} in {took} ms.", 1)
        if self.options.json:
            refused_all = [*plan.refused, *attacher.refused]
            self.emit_json(jsonlines.attached(plan.text, attached, refused_all, dry_run=False))

    # -- receiving

    def emit_json(self, value: dict[str, object]) -> None:
        sys.stdout.write(jsonlines.line(value))
        sys.stdout.flush()

    def show(self, session: Session) -> None:
        if not self.options.errors.passes(errors_of(session.end, self.functions)):
            return
        self.sessions += 1
        rows = None
        if self.options.stacks:
            places = stacks.clean(stacks.resolve(session.stack, self.symbols))
            if not self.options.settings.unfiltered:
                places = [p for p in places if not p.filtered]
            rows = list(stacks.merge(places[::-1], session.end.frames, self.functions))
        trace = self.options.trace
        if self.options.json:
            self.emit_json(
                jsonlines.session(session, self.functions, epoch=self.epoch, trace=trace, rows=rows)
            )
            return
        settings = self.options.settings
        sys.stdout.write(
            render.session_text(
                session,
                self.functions,
                epoch=self.epoch,
                trace=trace,
                rows=rows,
                style=render.Style(settings.emit_addrs, settings.dec_offs),
            )
        )
        sys.stdout.flush()

    def receive(self, obj: Object) -> None:
        """Show sessions until a signal comes or the command ends."""
        command, dropped = self.command, 0
        with pybpf.RingBuffer(obj.maps["events"], decode) as ring:
            while True:
                over = bool(self.stop) or (command is not None and command.poll() is not None)
                events = ring.read(timeout=0 if over else _POLL)
                for event in events:
                    session = self.collector.feed(event)
                    if session is not None:
                        self.show(session)
                now = obj.globals.dropped_sessions
                if now != dropped:
                    self.warn(f"WARNING: {many(now - dropped, 'sample')} dropped.")
                    dropped = now
                if over and (self.stop or not events):
                    return

    # -- the end

    def detach(self, obj: Object, attacher: Attacher) -> None:
        if self.stop:
            self.say("")
        self.say("Detaching...")
        self.info.flush()
        started = time.monotonic()
        self.close(obj, attacher)
        took = int((time.monotonic() - started) * 1000)
        lost, partial = obj.globals.dropped_sessions, obj.globals.incomplete_sessions
        self.say(f"DONE in {took} ms.")
        missed = attacher.missed
        if missed.count or not missed.known:
            self.say(f"{'MISSED CALLS:':<20}{missed}")
        if lost or partial:
            self.warn("WARNING! Some samples are missing or incomplete:")
            self.warn(f"{'DROPPED SAMPLES:':<20}{lost}")
            self.warn(f"{'INCOMPLETE SAMPLES:':<20}{partial}")
            self.warn("A larger -C bpf.ringbuf-size or -C bpf.sessions-size may help.")
        if self.options.json:
            self.emit_json(
                jsonlines.summary(
                    sessions=self.sessions, dropped=lost, incomplete=partial, missed=missed
                )
            )

    def close(self, obj: Object, attacher: Attacher) -> None:
        """Detach what is attached; without a word if that is quick."""
        obj.globals.ready = 0
        progress = _Progress("Detaching", sys.stderr)
        attacher.close(progress)
        progress.done()

    def end_command(self) -> None:
        if self.command is not None:
            self.command.close()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.stop = number
        if self.selecting:
            raise _Stopped

    def go_on(self) -> None:
        """Nothing; `_Stopped` if a signal came."""
        if self.stop:
            raise _Stopped

    def attach_progress(self, inner: _Progress) -> Progress:
        def progress(done: int, total: int) -> None:
            inner(done, total)
            self.go_on()

        return progress

    def execute(self) -> int:
        """The whole run, from the selection on under our own handlers of signals."""
        handlers = {n: signal.signal(n, self.on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._execute()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _execute(self) -> int:
        options = self.options
        path = ""
        if options.command:
            found = find(options.command[0])
            if found is None:
                self.warn(f"retsnoop: {options.command[0]}: command not found")
                return NOT_FOUND
            path = found
        self.selecting = True
        with Waiting("selecting functions", sys.stderr):
            selection = self.select()
        plan = self.plan(selection)
        self.go_on()  # it may have come where exceptions are swallowed
        self.selecting = False
        if options.dry_run:
            functions = [f for _, group in plan.groups for f in group]
            self.list_functions(functions, dry_run=True)
            self.say(f"Dry run: would attach to {many(plan.functions, 'function')} by {plan.text}.")
            if options.json:
                self.emit_json(jsonlines.attached(plan.text, functions, plan.refused, dry_run=True))
            return 0
        if any(mechanism is Mechanism.TRAMPOLINE for mechanism, _ in plan.groups):
            # The images made by attaching are not in the table read for selecting.
            self.symbols = KernelSymbols(lambda: kallsyms.read(before=self.facts.kallsyms))
        make_room(attach.descriptors(plan), f"attach to {many(plan.functions, 'function')}")
        return self._traced(plan, path)

    def _traced(self, plan: Plan, path: str) -> int:
        options = self.options
        with ExitStack() as stack:
            # Last of all: on an error everything is detached first, however long that takes.
            stack.callback(self.end_command)
            obj = stack.enter_context(pybpf.open(OBJECT, facts=self.facts))
            self.load(obj, plan)
            progress = _Progress("Attaching", sys.stderr)
            attacher = Attacher(
                obj, self.attach_progress(progress), self.lost, losses_on(self.facts)
            )
            stack.callback(self.close, obj, attacher)
            self.attach(obj, attacher, plan)
            progress.done()
            self.go_on()
            # Whoever waits for the line may act on it: from then on everything is seen. A
            # command of ours has not started yet, and starts with nothing seen before it.
            obj.globals.ready = 0 if options.command else 1
            self.say("Receiving data...")
            self.info.flush()
            if options.command:
                sys.stdout.flush()
                self.command = Command(path, options.command)
            obj.globals.ready = 1
            if self.command is not None:
                self.command.start()
            self.receive(obj)
            self.detach(obj, attacher)
            if self.command is None:
                return 0
            if self.stop:
                self.command.signal(self.stop)
            return self.command.wait()


def _comm(name: str) -> bytes:
    """A command name as the kernel keeps it: 15 bytes and NULs."""
    return name.encode("utf-8", "surrogateescape")[:15].ljust(16, b"\0")


def run(options: Options, facts: pybpf.Facts | None = None) -> int:
    """Do what the options say.

    :param facts: what is known of the running kernel already
    :returns: exit status: 0, 1 if it failed, that of the command, or 128 and the number of a
        signal that came before everything was attached
    """
    runner = _Run(options, facts or pybpf.Facts())
    try:
        return runner.execute()
    except (_Failed, OSError, ObjectFormatError, PlanError, RelocationError) as error:
        if not (runner.stop and isinstance(error, OSError) and error.errno == errno.EINTR):
            runner.warn(f"retsnoop: {error}")
            return 1
    except _Stopped:
        pass
    done = "nothing was attached" if runner.selecting else "everything is detached again"
    runner.warn(f"retsnoop: interrupted; {done}")
    return 128 + runner.stop
