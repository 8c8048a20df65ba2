"""One run: select, load, attach, receive, detach.

A signal ends the selection at once, because it only reads. Afterwards a signal sets a flag
that the loops check, so an interrupt never leaves anything half done: attaching stops at the
next function and is undone, receiving ends, and detaching continues to its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from types import FrameType

import pybpf

from ...errors import BpfError, ObjectFormatError, PlanError, RelocationError
from ...features import Feature
from ...kernel import kallsyms
from ...kernel.tasks import may_live, process_of
from ...links.branches import recorded_branches
from ...multi.select import Selection, select
from ...wording import plain
from ..command import NOT_FOUND, Command, find
from ..progress import Counting, Waiting
from ..screen import many
from . import attach, jsonlines, load, sources, words
from .args import parameters_of
from .attach import Tracing
from .debuginfo import NoDebugInfo
from .events import decode
from .functions import Flag, Function, key_of
from .options import Options
from .probes import PROGRAMS, attach_probe
from .probing import probes_of
from .sessions import Collector
from .show import Shower
from .symbols import KernelSymbols, end_of
from .traceout import TraceFile
from .usage import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import MultiLink, Object, Program
    from ...multi.options import Progress
    from .args import Parameter
    from .debuginfo import DebugInfo
    from .load import Counts
    from .probes import Probe

__all__ = ["run"]

OBJECT = f"{os.path.dirname(__file__)}/retsnoop.bpf.o"
_POLL = 0.1  # seconds between checks of signals and the command
_SLOW = 5.0  # seconds: slower work is announced
_SLICE = 64  # records per read, so that signals are checked between reads
_LINGER = 0.3  # seconds after a signal in which waiting records are still shown
_SHOWN = 5
_PLACED = 64  # most entry functions whose code is looked up; others are assumed to be running


def _may_be_in_a_call(key: int) -> bool:
    # The keys of idle tasks are below 0. They do not end.
    return key < 0 or may_live(key)


class _Stopped(Exception):
    """Report a signal that came before everything was attached."""


class _Failed(Exception):
    """Report why the run cannot go on."""


class _Attached:
    """Hold what is attached. Detaching continues where an interrupt left it."""

    def __init__(self, link: MultiLink, others: ExitStack) -> None:
        self.link = link
        self._others = others

    def detach(self, progress: Progress) -> None:
        # Clones on 6.x take minutes. The program checks `ready`, which is cleared before.
        self.link.detach(progress, wait=False)
        self._others.close()


class _Run:
    def __init__(self, options: Options, facts: pybpf.Facts | None) -> None:
        self.options = options
        self.alone = facts is None  # nobody else uses the facts
        self.facts = facts or pybpf.Facts()
        self.mechanisms = options.mechanism.value
        self.stop = 0  # number of the signal that came
        self.selecting = False  # this only reads, so a signal need not wait for a loop
        self.command: Command | None = None
        self.debug_info: DebugInfo | None = None
        self.parameters: list[tuple[Parameter, ...]] = []
        self.probes: list[Probe] = []
        # With --json, standard output is only for the records.
        self.info = sys.stderr if options.json else sys.stdout

    def program(self, obj: Object) -> Program:
        """Return the program that is attached to the functions."""
        return obj.programs["calls_with_args" if self.options.capture_args else "calls"]

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
            [*options.allow, *options.soft_allow],
            entry=[*options.entry, *options.soft_entry],
            deny=options.deny,
            at_exit=True,
        )
        needed = set(options.entry)
        lost = [u for u in selection.unmatched if u.pattern in needed]
        if lost:
            raise _Failed("\n".join(f"entry glob {u}" for u in lost))
        typed = set(options.allow)
        for unmatched in selection.unmatched:
            if unmatched.pattern in typed:
                self.warn(f"WARNING: glob {unmatched}")
            else:
                self.say(f"Glob {unmatched}.", 1)
        if not any(selection.candidates.columns.entry):
            raise _Failed("no entry function can be traced")
        for label in selection.excluded:
            self.say(f"Function '{label}' is denied.", 2)
        return selection

    def plan(self, obj: Object, selection: Selection) -> Tracing:
        tracing = attach.make_tracing(self.program(obj), selection, self.facts, self.mechanisms)
        skipped = len(tracing.skipped)
        for one in tracing.skipped:
            self.say(f"Function '{one.label}' is skipped: {one.why}", 1)
        functions = tracing.functions
        entries = [f for f in functions if f.is_entry]
        if not entries:
            asked = {(c.module, c.name) for c in selection.candidates if c.entry}
            why = next((s for s in tracing.skipped if (s.module, s.name) in asked), None)
            raise _Failed("no entry function is left" + (f": {why}" if why else ""))
        self.say(f"Found {many(len(functions), 'attachable function')} in total.", 1)
        self.say(f"Skipped {many(skipped, 'function')} in total.", 1)
        if self.options.verbose:  # there may be thousands
            for function in entries:
                self.say(f"Function '{function.label}' is marked as an entry point.", 1)
        if skipped and not self.options.verbose:
            self.warn(f"Skipped {many(skipped, 'function')} that cannot be traced; -v tells why.")
        self._warn_no_fail(functions)
        return tracing

    def _warn_no_fail(self, functions: Sequence[Function]) -> None:
        if self.options.success:
            return
        alone = len(functions) == 1
        names = [
            f"'{f.label}'"
            for f in functions
            if f.is_entry and not f.can_fail and (alone or not f.is_void)
        ]
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            which = "entry function" if len(names) == 1 else "entry functions"
            self.warn(
                f"WARNING: {which} that cannot fail, shown with -S only: "
                f"{', '.join(names[:_SHOWN])}{more}"
            )

    def list_functions(self, functions: Sequence[Function], *, dry_run: bool) -> None:
        if not self.options.verbose:
            return
        how = "Attached (dry run)" if dry_run else "Attached"
        for number, function in enumerate(functions, 1):
            detail = ""
            if self.options.verbose > 1:
                flags = "|".join(flag.name or "" for flag in Flag if flag & function.flags)
                btf = "none" if function.btf_id is None else function.btf_id
                detail = f" (addr {function.addr:#x}, btf id {btf}, flags {flags or '0'})"
            self.say(f"{how} to function #{number} '{function.label}'{detail}.", 1)

    def why(self, obj: Object) -> int:
        """Print how functions would be traced, or why not."""
        options = self.options
        selection = select(self.facts, options.why, deny=options.deny, at_exit=True)
        tracing = attach.make_tracing(self.program(obj), selection, self.facts, self.mechanisms)
        by = {
            key_of(target): attach.name_of(group.mechanism)
            for group in tracing.plan.groups
            for target in group.targets
        }
        told = {key_of(f): f"{f.label}: traced by {by[key_of(f)]}" for f in tracing.functions}
        if options.json:
            self.emit_json(
                jsonlines.attached(tracing.text, tracing.functions, tracing.skipped, dry_run=True)
            )
        else:
            for line in (*told.values(), *map(str, tracing.skipped)):
                self.say(line)
            for label in selection.excluded:
                self.say(f"{label}: left out by -d")
        for unmatched in selection.unmatched:
            self.warn(str(unmatched))
        return 0 if told else 1

    # -- loading and attaching

    def load(self, obj: Object, tracing: Tracing) -> None:
        if self.options.capture_args:
            btf = self.facts.btf
            self.parameters = [
                parameters_of(f, btf.get(f.module), self.options.settings)
                for f in tracing.functions
            ]
        self.probes = self.find_probes()
        for name in {PROGRAMS[probe.kind] for probe in self.probes}:
            obj.programs[name].autoload = True
        load.configure(obj, self.options, tracing, self.parameters)
        obj.load()
        load.fill(obj, self.options, self.parameters, self.places(tracing.functions))

    def places(self, functions: Sequence[Function]) -> dict[int, tuple[int, int]]:
        """Return where the code of each entry function is, by number."""
        entries = list(islice((f for f in functions if f.is_entry and f.addr), _PLACED))
        if not entries or self.facts.kallsyms.hidden:
            return {}
        ends = ((f, end_of(f.addr, self.facts.kallsyms)) for f in entries)
        return {f.id: (f.addr, end) for f, end in ends if end}

    def find_probes(self) -> list[Probe]:
        """Return the probes of ``-J``, each with the fields of its context."""
        if not self.options.probes:
            return []
        try:
            found = probes_of(self.options.probes, self.facts)
        except UsageError as error:
            raise _Failed(str(error)) from None
        if any(probe.kind == "rawtp" for probe in found):
            self.facts.probes.require(Feature.RAW_TP_COOKIE)  # it tells the probes apart
        return found

    def attach(
        self, obj: Object, tracing: Tracing, stack: ExitStack
    ) -> tuple[_Attached, list[Function]]:
        """Attach. Closing the stack detaches.

        :returns: what is attached, and the functions it is attached to
        """
        program, count = self.program(obj), many(len(tracing.functions), "function")
        cost = tracing.plan.cost
        if cost.attach_s + cost.detach_s > _SLOW:
            self.warn(
                f"Attaching to {count} by {tracing.text} may take about "
                f"{cost.attach_s:.0f} s, detaching {cost.detach_s:.0f} s."
            )
        started = time.monotonic()
        others = stack.enter_context(ExitStack())
        others.enter_context(obj.programs["task_exit"].attach_raw_tp("sched_process_exit"))
        progress = Counting("Attaching", sys.stderr)
        link = attach.attach(program, tracing, self.attach_progress(progress))
        attached = _Attached(link, others)
        stack.callback(self.detach_all, obj, attached)
        for probe in self.probes:
            others.enter_context(attach_probe(obj, probe))
            self.say(f"Injected probe #{probe.number} '{probe.label}'.", 1)
        progress.done()
        took = int((time.monotonic() - started) * 1000)
        functions = tracing.functions
        if len(link.targets) < len(functions):
            have = {key_of(t) for t in link.targets}
            names = {key[:2] for key in have}  # modules loaded again have moved
            functions = [
                f for f in functions if key_of(f) in have or (f.module and key_of(f)[:2] in names)
            ]
        for refused in link.refused:
            self.say(f"Function '{refused.label}' is skipped: {refused.why}", 1)
        if link.refused and not self.options.verbose:
            self.warn(f"The kernel refused {len(link.refused)} of {count}; -v tells why.")
        if not any(f.is_entry for f in functions):
            why = f": {link.refused[0]}" if link.refused else ""
            raise _Failed(f"no entry function could be attached to{why}")
        self.list_functions(functions, dry_run=False)
        self.say(f"Successfully attached to {many(len(functions), 'function')} in {took} ms.", 1)
        if self.options.json:
            by = attach.mechanisms_text(link.groups)
            skipped = (*tracing.skipped, *link.refused)
            self.emit_json(jsonlines.attached(by, functions, skipped, dry_run=False))
        return attached, functions

    # -- receiving

    def emit_json(self, value: dict[str, object]) -> None:
        sys.stdout.write(jsonlines.line(value))
        sys.stdout.flush()

    def receive(self, obj: Object, shower: Shower) -> None:
        """Show sessions until a signal comes, the command ends or enough were shown."""
        options, command, dropped = self.options, self.command, 0
        collector = Collector(load.sessions_room(options.settings.sessions_size), _may_be_in_a_call)
        until = time.monotonic() + options.duration if options.duration else None
        last: float | None = None  # when to stop showing, after a signal
        with pybpf.RingBuffer(obj.maps["events"], decode) as ring:
            while True:
                ended = command is not None and command.poll() is not None
                late = until is not None and time.monotonic() >= until
                over = bool(self.stop) or ended or late
                events = ring.read(timeout=0 if over else _POLL, max_records=_SLICE)
                for event in events:
                    session = collector.feed(event)
                    if session is not None:
                        shower(session)
                        if options.max_sessions and shower.shown >= options.max_sessions:
                            shower.flush()
                            return
                shower.flush()
                now = obj.globals.no_room + obj.globals.ends[1]
                if now != dropped:
                    self.warn(f"WARNING: {many(now - dropped, 'sample')} dropped.")
                    dropped = now
                if self.stop and last is None:
                    last = time.monotonic() + _LINGER
                if over and (not events or (last is not None and time.monotonic() > last)):
                    return

    # -- the end

    def detach(self, obj: Object, attached: _Attached, shower: Shower) -> None:
        if self.stop:
            self.say("")
        self.say("Detaching...")
        self.info.flush()
        started = time.monotonic()
        self.detach_all(obj, attached)
        took = int((time.monotonic() - started) * 1000)
        counts = load.counts_of(obj)
        self.say(f"DONE in {took} ms.")
        if attached.link.closing:
            self.warn(
                f"Process {attached.link.closing} goes on detaching; nothing is traced any more."
            )
        self.info.flush()
        missed = attached.link.missed
        if missed.count or not missed.known:
            self.warn(f"{'MISSED CALLS:':<20}{missed}")
        self.sum_up(counts, shower.shown)
        if self.options.json:
            self.emit_json(jsonlines.summary(counts, shown=shower.shown, missed=missed))

    def sum_up(self, counts: Counts, shown: int) -> None:
        """Print what happened to the sessions."""
        self.warn(words.sessions(counts, shown))
        if counts.dropped or counts.incomplete:
            self.warn("WARNING! Some samples are missing or incomplete:")
            self.warn(f"{'DROPPED SAMPLES:':<20}{counts.dropped}")
            self.warn(f"{'INCOMPLETE SAMPLES:':<20}{counts.incomplete}")
            self.warn("A larger -C bpf.ringbuf-size or -C bpf.sessions-size may help.")

    def detach_all(self, obj: Object, attached: _Attached) -> None:
        """Detach everything. Say nothing if that is quick."""
        obj.globals.ready = 0
        progress = Counting("Detaching", sys.stderr)
        attached.detach(progress)
        progress.done()

    def end_command(self) -> None:
        if self.command is not None:
            self.command.close()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.stop = number
        if self.selecting:
            raise _Stopped

    def go_on(self) -> None:
        """Raise `_Stopped` if a signal came."""
        if self.stop:
            raise _Stopped

    def attach_progress(self, inner: Counting) -> Progress:
        def progress(done: int, total: int) -> None:
            inner(done, total)
            self.go_on()

        return progress

    def execute(self) -> int:
        """Do the whole run. From the selection on, signals have our own handlers."""
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
        with ExitStack() as stack:
            # After an error everything is detached before this, however long it takes.
            stack.callback(self.end_command)
            self.selecting = True
            self.find_threads()
            self.open_branches(stack)
            obj = stack.enter_context(pybpf.open(OBJECT, facts=self.facts))
            with Waiting("selecting functions", sys.stderr):
                self.find_lines()
                if options.why:
                    return self.why(obj)
                selection = self.select()
                tracing = self.plan(obj, selection)
            self.go_on()  # it may have come where exceptions are ignored
            self.selecting = False
            if options.dry_run:
                self.dry_run(obj, tracing)
                return 0
            return self._traced(obj, tracing, path, stack)

    def find_lines(self) -> None:
        """Open the debug information, and know functions by the files they are written in."""
        try:
            self.debug_info = sources.open_debug_info(self.options, self.facts, self.say)
        except NoDebugInfo as error:
            raise _Failed(f"no source lines: {error}") from None
        sources.by_name(self.options, self.debug_info, self.facts, self.say)

    def find_threads(self) -> None:
        """Warn about ids that belong to threads, or to nothing. Return those of threads."""
        options = self.options
        for number in (*options.allow_pids, *options.deny_pids):
            process = process_of(number)
            if process is None:
                self.warn(f"No process has the id {number} now.")
            elif process != number:
                options.threads.add(number)
                self.warn(f"{number} is a thread of process {process}: only that thread is meant.")

    def open_branches(self, stack: ExitStack) -> None:
        """Make the hardware record branches until the end. If it cannot, say so and go on."""
        if not self.options.lbr:
            return
        try:
            stack.enter_context(recorded_branches(self.facts.online_cpus, self.options.lbr))
        except BpfError as error:
            self.warn(f"No last branches (-B): {error}: this machine does not record them.")
            self.options.lbr = 0

    def dry_run(self, obj: Object, tracing: Tracing) -> None:
        functions = tracing.functions
        self.load(obj, tracing)
        loaded = self.program(obj).check_multi(tracing.plan)
        self.say(f"The verifier accepts {many(loaded, 'program')}.", 1)
        self.list_functions(functions, dry_run=True)
        count = many(len(functions), "function")
        self.say(f"Dry run: would attach to {count} by {tracing.text}.")
        if self.options.json:
            self.emit_json(
                jsonlines.attached(tracing.text, functions, tracing.skipped, dry_run=True)
            )

    def symbols_of_stacks(self, tracing: Tracing) -> KernelSymbols:
        """Name whatever can be in a stack. Call it once everything is attached.

        The table that was read for selecting lacks trampolines and clones made by attaching.
        """
        if any(g.mechanism.needs_btf for g in tracing.plan.groups):
            return KernelSymbols(lambda: kallsyms.read(before=self.facts.kallsyms))
        return KernelSymbols(lambda: self.facts.kallsyms)

    def _traced(self, obj: Object, tracing: Tracing, path: str, stack: ExitStack) -> int:
        options = self.options
        file = None
        if options.trace_out:
            # Open it first: a path that cannot be written should not end a long run.
            out = open(options.trace_out, "w", encoding="utf-8")  # noqa: SIM115
            file = stack.enter_context(TraceFile(out))
        self.load(obj, tracing)
        attached, _ = self.attach(obj, tracing, stack)
        self.go_on()
        btf = self.facts.btf.get("") if self.probes else None
        if self.alone and not self.parameters:
            obj.trim()  # arguments and contexts need types; stacks and calls do not
        symbols = self.symbols_of_stacks(tracing)
        shower = Shower(
            options,
            tracing.functions,
            symbols,
            self.parameters,
            self.probes,
            btf,
            file,
            sources.lines_of(options, self.debug_info),
        )
        # A reader of this line may act on it, because everything is seen from now on.
        # Our own command has not started yet, so nothing is seen before it.
        obj.globals.ready = 0 if options.command else 1
        self.say("Receiving data...")
        self.info.flush()
        if options.command:
            sys.stdout.flush()
            self.command = Command(path, options.command, "retsnoop", aside=options.json)
        obj.globals.ready = 1
        if self.command is not None:
            self.command.start()
        self.receive(obj, shower)
        self.detach(obj, attached, shower)
        if self.command is None:
            return 0
        if self.stop:
            self.command.signal(self.stop)
        return self.command.wait()


def run(options: Options, facts: pybpf.Facts | None = None) -> int:
    """Run as the options say.

    :param facts: what is already known of the running kernel
    :returns: exit status: 0, 1 if it failed, the command's status, or 128 plus the number of a
        signal that came before everything was attached
    """
    runner = _Run(options, facts)
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
