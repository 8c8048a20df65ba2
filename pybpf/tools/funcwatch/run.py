"""One run: select, attach, read once per interval, print, end at once.

A signal ends the selection, which only reads. During attaching a signal stops it at the next
function, and undoes what is attached. Later a signal ends the wait for the next interval.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select as os_select
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pybpf

from ...errors import ObjectFormatError, PlanError, RelocationError
from ...kernel import run_statistics
from ...kernel.tasks import process_of
from ...multi.link import SLOW_S, say_takes
from ...multi.options import HORIZON
from ...wording import plain
from ..command import NOT_FOUND, Command, find
from ..entry import explain
from ..progress import Counting, Waiting
from ..screen import many
from .attach import Watcher
from .counts import Counts
from .filters import comm_bytes, find_cgroup
from .follow import Change, Follower, Globs, read_globs
from .functions import Functions
from .metrics import Moment, NeedsExtra, Sink, Start
from .options import Options
from .otlp import Otlp
from .output import JsonOutput, Output, Report, TextOutput
from .overhead import Meter, excess
from .prometheus import Prometheus
from .reader import Reader
from .text import Row, sort_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from ... import Object
    from ...multi.plan import Plan
    from ...multi.select import Selection

__all__ = ["run"]

OBJECT = Path(__file__).with_name("funcwatch.bpf.o")
_COMMAND_POLL = 0.05  # seconds between checks of the command
_TASKS = 8192  # most tasks inside watched functions at one time
_SHOWN = 20  # functions in a table
_ROOM = 512  # most functions that modules and a file of globs may add


class _Stopped(Exception):
    """Report a signal that came before everything was attached."""


class _Failed(Exception):
    """Report why the run cannot go on."""


class _Signals:
    """Wait for SIGINT, SIGTERM and, if requested, SIGHUP."""

    def __init__(self, *, hangup: bool) -> None:
        self.number = 0  # of the signal that came
        self.hangup = False  # SIGHUP came
        self.raises = False  # nothing to undo, so a signal need not wait
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        some = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hangup else ()))
        self._former = {number: signal.signal(number, self._on) for number in some}

    def _on(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.hangup = True
        else:
            self.number = number
        with contextlib.suppress(BlockingIOError):
            os.write(self._writing, b"x")
        if self.raises and self.number:
            raise _Stopped

    def end(self) -> None:
        """End as if SIGINT had come."""
        self._on(signal.SIGINT, None)

    def check(self) -> None:
        """Raise `_Stopped` if a signal came."""
        if self.number:
            raise _Stopped

    def wait(self, seconds: float, keys: int | None) -> bool:
        """Wait this long, or until a signal or a key comes. Return True for a key.

        :param keys: descriptor that keys come from
        """
        some = [self._reading] if keys is None else [self._reading, keys]
        ready = os_select.select(some, [], [], seconds)[0]
        if self._reading in ready:
            os.read(self._reading, 4096)
        return keys in ready

    def close(self) -> None:
        """Restore the former handlers."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        os.close(self._reading)
        os.close(self._writing)


class _Run:
    def __init__(self, options: Options, facts: pybpf.Facts, signals: _Signals) -> None:
        self.options = options
        self.facts = facts
        self.signals = signals
        self.command: Command | None = None
        self.follower: Follower | None = None
        self.sinks: list[Sink] = []
        self.meter = Meter(os.cpu_count() or 1)
        self.read_at = time.monotonic()  # the run times
        self.let_go = 0  # functions
        self.start = Start(time.time_ns(), time.monotonic_ns())  # of counting
        self.counted = False  # at the end, so that the command is waited for
        top = options.top if options.top is not None else 0 if options.json else _SHOWN
        self.output = self.make_output(top)

    def say(self, text: str) -> None:
        """Print a line on standard error. Standard output is only for the counts."""
        if self.output.note(plain(text)):
            return
        with contextlib.suppress(OSError):
            print(plain(text, lines=True), file=sys.stderr, flush=True)

    def make_output(self, top: int) -> Output:
        """Choose JSON Lines, a live table if there is a terminal with keys, or lines.

        If we run a command, the terminal is the command's.
        """
        if self.options.json:
            return JsonOutput(sys.stdout, top)
        if (
            not self.options.command
            and sys.stdout.isatty()
            and sys.stdin is not None
            and sys.stdin.isatty()
        ):
            import curses  # 10 ms

            from .live import LiveOutput

            with contextlib.suppress(curses.error):  # the terminal is unknown or dumb
                return LiveOutput(
                    sys.stdout, 0 if self.options.top is None else top, self.signals.end
                )
        return TextOutput(sys.stdout, top)

    # -- which functions, which calls

    def globs(self) -> Globs:
        """Return the requested functions, from the command line and the file.

        :raises OSError: the file cannot be read
        """
        own = Globs(self.options.globs, self.options.deny)
        if not self.options.file:
            return own
        return own + read_globs(Path(self.options.file).read_text("utf-8", "surrogateescape"))

    def select(self, globs: Globs) -> Selection:
        selection = globs.select(self.facts)
        why = [*map(str, selection.skipped[:1]), *(f"glob {one}" for one in selection.unmatched)]
        # If there is nothing to watch, the last reason is in the error, and nowhere else.
        told = len(selection.unmatched) - (not selection.candidates)
        for one in selection.unmatched[: max(0, told)]:
            self.say(f"Glob {one}.")
        if not selection.candidates:
            raise _Failed(": ".join(["no function can be watched", *why[-1:]]))
        return selection

    def filter(self, obj: Object) -> None:
        """Set whose calls are counted.

        :raises _Failed: the process or cgroup does not exist
        """
        options, variables = self.options, obj.globals
        for pid in options.pids:
            process = process_of(pid)
            if process is None:
                raise _Failed(f"there is no process {pid}")
            if process != pid:
                raise _Failed(f"{pid} is a thread of process {process}; give -p {process}")
        variables.self_tgid = os.getpid()
        variables.filter_pids = bool(options.pids)
        variables.filter_comms = bool(options.comms)
        if options.cgroup:
            try:
                cgroup = find_cgroup(options.cgroup)
            except (OSError, ValueError) as error:
                raise _Failed(f"--cgroup: {explain(error, options.cgroup)}") from None
            variables.cgroup_id, variables.cgroup_level = cgroup.id, cgroup.level
        obj.maps["pids"].max_entries = max(1, len(options.pids))
        obj.maps["comms"].max_entries = max(1, len(options.comms))

    def load(self, obj: Object, room: int) -> None:
        self.filter(obj)
        obj.maps["stats"].max_entries = obj.maps["active"].max_entries = room
        obj.maps["tasks"].max_entries = _TASKS
        obj.load()
        obj.maps["pids"].update(dict.fromkeys(self.options.pids, 1))
        obj.maps["comms"].update({comm_bytes(name): 1 for name in self.options.comms})

    # -- attaching

    def planned(self, plan: Plan) -> None:
        if plan.cost.attach_s > SLOW_S:
            self.say(f"Attaching to {say_takes(plan.count, plan.cost.attach_s)}.")

    def measure(self, watcher: Watcher, reader: Reader, selection: Selection) -> dict[str, float]:
        """Measure the calls per second of each called function, by label."""
        assert self.options.measure is not None
        seconds = self.options.measure
        self.say(f"Counting calls for {seconds:g} s.")
        measured = 0.0

        def wait() -> None:
            nonlocal measured
            start = time.monotonic()
            self.signals.wait(seconds, None)
            measured = time.monotonic() - start

        def progress(_done: int, _total: int) -> None:
            self.signals.check()

        watcher.count_calls(selection.candidates, wait, progress)
        self.signals.check()
        counted = reader.read()
        reader.clear()
        functions = watcher.functions
        return {functions[n].label: counts.calls / measured for n, counts in counted.items()}

    def attach(self, watcher: Watcher, reader: Reader, selection: Selection) -> str:
        """Attach, and return the line that says so."""
        options = self.options
        rates = None
        if options.measure is not None:
            rates = self.measure(watcher, reader, selection)
        counting = Counting("Attaching", sys.stderr)

        def progress(done: int, total: int) -> None:
            counting(done, total)
            self.signals.check()

        started = time.monotonic()
        try:
            watcher.attach(
                selection.candidates,
                options.mechanism,
                progress=progress,
                planned=self.planned,
                rates=rates,
                horizon=options.duration or HORIZON,
            )
        finally:
            counting.done()
        took = int((time.monotonic() - started) * 1000)
        skipped = [*selection.skipped, *watcher.skipped]
        if self.options.verbose:
            for one in skipped:
                self.say(f"Skipped: {one}.")
        elif skipped:
            self.say(f"Skipped {many(len(skipped), 'function')}; -v tells why.")
        by = ", ".join(f"{count} by {name}" for name, count in watcher.mechanisms().items())
        count = sum(watcher.mechanisms().values())
        return f"Watching {many(count, 'function')} ({by}), attached in {took} ms."

    # -- metrics

    def open_sinks(self, stack: ExitStack) -> None:
        """Open the outputs of metrics. This comes before attaching, because it may fail."""
        options = self.options
        try:
            if options.prometheus is not None:
                page = Prometheus(options.prometheus)
                self.sinks.append(page)
                stack.callback(page.close)
                self.say(f"Metrics at {page.address}")
            if options.otlp:
                push = Otlp(options.otlp, self.say)
                self.sinks.append(push)
                stack.callback(push.close)
        except NeedsExtra as error:
            raise _Failed(str(error)) from None
        except OSError as error:
            raise _Failed(f"--prometheus {options.prometheus}: {error.strerror}") from None

    def publish(self, watcher: Watcher, reader: Reader, functions: Functions) -> None:
        """Hand the totals to the outputs of metrics."""
        if not self.sinks:
            return
        rows = [(f, counts) for f in functions if (counts := reader.total(f.number)).calls]
        now_ns = time.time_ns()
        moment = Moment(
            rows,
            self.start.before(now_ns, time.monotonic_ns()),
            now_ns,
            sum(watcher.mechanisms().values()),
            watcher.missed.count,
            reader.lost.unpaired,
        )
        for sink in self.sinks:
            sink.publish(moment)

    # -- the loop

    def over(self, deadline: float) -> bool:
        """Wait until then. Return True if a signal came or the command has ended."""
        while True:
            if self.signals.hangup:
                self.signals.hangup = False
                self.read_again()
            if self.signals.number or (self.command and self.command.poll() is not None):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self.command:
                left = min(left, _COMMAND_POLL)
            if self.signals.wait(left, self.output.input):
                self.output.keys()

    def limit(self, watcher: Watcher, counted: Mapping[int, Counts], functions: Functions) -> None:
        """Release the hottest functions if the programs take too much CPU time."""
        limit, now = self.options.max_overhead, time.monotonic()
        if limit is None:
            return
        took, self.read_at = now - self.read_at, now
        share = self.meter.share(watcher.run_times, now)
        if share is None:
            return
        rates = {n: counts.calls / took for n, counts in counted.items() if n in watcher.watched}
        gone = excess(rates, share, limit)
        if gone:
            self.let_go += len(gone)
            self.say(
                f"The programs took {share:.2%} of CPU time, {limit:.2%} is allowed: "
                f"let go of {many(len(gone), 'function')}."
            )
            for number in gone:
                self.say(f"  {functions[number].label}: {rates[number]:.0f} calls/s")
            watcher.let_go(gone)
            self.meter.begin()
            if self.follower is not None:
                self.follower.banned.update(gone)

    # -- what changes

    def follow(self) -> None:
        """Attach to functions of new modules, and report modules that went away."""
        follower = self.follower
        if follower is None or not follower.modules_changed:
            return
        for module, numbers in follower.gone().items():
            follower.watcher.let_go(numbers)
            self.say(f"Module {module} is gone, with {many(len(numbers), 'function')}.")
        self.tell("A module came or went", follower.follow(remove=False))

    def read_again(self) -> None:
        """Read the file of globs again. If that fails, nothing changes."""
        follower = self.follower
        if follower is None:
            return
        before = follower.globs
        try:
            follower.globs = self.globs()
            follower.banned.clear()
            _ = follower.modules_changed
            self.tell(f"{self.options.file} was read again", follower.follow(remove=True), True)
        except (OSError, ValueError, PlanError) as error:
            follower.globs = before
            self.say(f"{explain(error, self.options.file)}; nothing was changed.")

    def tell(self, what: str, change: Change, always: bool = False) -> None:
        """Report a change, if there was one."""
        if not (always or change.added or change.removed or change.left):
            return
        left = f", {change.left} cannot be watched: {change.why}" if change.left else ""
        self.say(f"{what}: {many(change.added, 'function')} more, {change.removed} fewer{left}.")

    def watch(self, watcher: Watcher, reader: Reader, functions: Functions) -> float:
        """Print interval after interval, and return the seconds that were counted."""
        interval, duration = self.options.interval, self.options.duration
        start = before = time.monotonic()
        end = start + duration if duration is not None else float("inf")
        due = start + interval
        while True:
            over = self.over(min(due, end))
            now = time.monotonic()
            over = over or now >= end
            counted = reader.read()
            self.publish(watcher, reader, functions)
            self.limit(watcher, counted, functions)
            self.follow()
            rows = [(functions[number], counts) for number, counts in counted.items()]
            rows.sort(key=sort_key)
            if not over or self.options.json:
                self.output.interval(Report(rows, time.time(), now - before))
            if over:
                return now - start
            before = now
            while due <= now:  # missed intervals are not repeated
                due += interval

    # -- the end

    def finish(self, watcher: Watcher, reader: Reader, functions: Functions, took: float) -> None:
        rows: list[Row] = [
            (f, reader.total(f.number)) for f in functions if f.number in watcher.attached
        ]
        rows.sort(key=sort_key)
        self.output.total(Report(rows, time.time(), took))
        self.say(f"Missed calls: {watcher.missed}.")
        lost = reader.lost
        if self.let_go:
            self.say(f"Let go of {many(self.let_go, 'function')} to stay cheap.")
        for count, noun, what in (
            (lost.unpaired, "return", "whose call is unknown: no latency"),
            (lost.tasks, "call", "of too many tasks at once: no latency"),
            (lost.errors, "error", "beyond the room for kinds of errors: counted, not named"),
        ):
            if count:
                self.say(f"{many(count, noun)} {what}.")

    def detach(self, watcher: Watcher) -> None:
        for link in watcher.detach():
            self.say(
                f"Process {link.closing} detaches {many(len(link.targets), 'function')}: "
                f"about {link.plan.cost.detach_s:.0f} s, in which they count nothing."
            )

    def execute(self) -> int:
        options, path = self.options, ""
        if options.command:
            found = find(options.command[0])
            if found is None:
                self.say(f"funcwatch: {options.command[0]}: command not found")
                return NOT_FOUND
            path = found
        self.signals.raises = True
        with Waiting("selecting functions", sys.stderr):
            globs = self.globs()
            selection = self.select(globs)
        self.signals.check()  # it may have come where exceptions are ignored
        self.signals.raises = False
        functions = Functions(selection.candidates)
        with ExitStack() as stack:
            stack.callback(self.end_command)
            self.open_sinks(stack)
            obj = stack.enter_context(pybpf.open(OBJECT, facts=self.facts))
            if options.max_overhead is not None:
                stack.enter_context(run_statistics())
            room = len(functions) + _ROOM
            self.load(obj, room)
            watcher = Watcher(obj, functions)
            stack.callback(self.detach, watcher)
            reader = Reader(obj)
            attached = self.attach(watcher, reader, selection)
            self.signals.check()
            self.follower = Follower(watcher, self.facts.current(), globs, options.mechanism, room)
            if path:
                sys.stdout.flush()
                self.command = Command(path, options.command, "funcwatch", aside=options.json)
            self.start = Start(time.time_ns(), time.monotonic_ns())
            obj.globals.enabled = 1
            # A reader of this line may act on it, because every call is counted from now on.
            self.say(attached)
            if self.command is not None:
                self.command.start()
            stack.callback(self.output.leave)
            self.output.begin()
            took = self.watch(watcher, reader, functions)
            self.counted = True
            self.finish(watcher, reader, functions, took)
        if self.command is None:
            return 0
        if self.signals.number:
            self.command.signal(self.signals.number)
        return self.command.wait()

    def end_command(self) -> None:
        """End the command if this run fails."""
        if self.command is not None and not self.counted:
            self.command.close()


def _seen(stream: TextIO | None) -> bool:
    # Its other end is a terminal.
    return stream is not None and stream.isatty()


def run(options: Options, facts: pybpf.Facts | None = None) -> int:
    """Run as the options say.

    :param facts: what is already known of the running kernel
    :returns: exit status: 0, 1 if it failed, the command's status, or 128 plus the number of a
        signal that came before everything was attached
    """
    signals = _Signals(hangup=bool(options.file))
    runner = _Run(options, facts or pybpf.Facts(), signals)
    try:
        return runner.execute()
    except (_Failed, OSError, ObjectFormatError, PlanError, RelocationError) as error:
        if not (signals.number and isinstance(error, OSError) and error.errno == errno.EINTR):
            runner.say(f"funcwatch: {explain(error)}")
            return 1
    except _Stopped:
        pass
    finally:
        signals.close()
    runner.say("funcwatch: interrupted before it counted anything")
    return 128 + signals.number
