"""Start tools, and end them or starve them at a moment that chance gives.

A `Case` is a tool, what ends it, what it lacks, and when. `draw` makes cases from a seed, and
`wrong_ends` says what is not true about how one ended. Both are pure. `Running` is the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.leftovers import processes_of

__all__ = ["ENDINGS", "LIMITS", "TOOLS", "Case", "End", "Running", "Tool", "draw", "wrong_ends"]

ROOT = Path(__file__).resolve().parents[2]
#: Says that Python is up, which takes a while and is not ours, then runs the tool.
_START = "import os; from pybpf.tools.main import run; os.close({fd}); run()"
_SCRIPT = (
    "import os, runpy, sys; os.close({fd}); "
    "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
_PATIENCE = 120.0  # seconds that a tool may take to end, in an emulated guest

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL")
READER, TERMINAL, NONE = "reader", "terminal", "none"
#: What ends a tool: a signal, its reader goes away, its terminal is closed.
ENDINGS = (*SIGNALS, READER, TERMINAL)
#: What a tool lacks: descriptors, room for its output, address space.
LIMITS = ("files", "disk", "memory")
_FILES, _MEMORY = 64, 200 << 20
#: Tools run beside each other, and take so much longer.
_CROWD = 1.7


@dataclass(frozen=True)
class Tool:
    """Say how a tool is started.

    :param words: arguments of `pybpf`, or an example and its arguments
    :param lasts: seconds it takes in a guest, about
    :param json: each line of its output, or all of it, is JSON
    """

    words: str
    lasts: float
    json: bool = False

    @property
    def example(self) -> bool:
        return self.words.startswith("tools/")


TOOLS = (
    Tool("features --json", 2, json=True),
    Tool("obj load tests/data/fentry_args.bpf.o", 2),
    Tool("obj load --json tests/data/multi.bpf.o", 2, json=True),
    Tool("obj list programs --json", 2, json=True),
    Tool("trampolines list --json", 3, json=True),
    Tool("trampolines verify --json", 3, json=True),
    Tool("trampolines plan fentry.multi/vfs_* --json", 3, json=True),
    Tool("retsnoop --json -e do_sys_openat2 -a do_filp_open -- cat /no/such/file", 4, json=True),
    Tool("retsnoop --json -F -e do_sys_openat2 -- cat /no/such/file", 4, json=True),
    Tool("retsnoop -e vfs_mkdir -a vfs_mk* -n sh -- sleep 1", 5),
    Tool("funcwatch --json --duration 1 vfs_rea*", 5, json=True),
    Tool("funcwatch --mechanism trampoline --duration 1 vfs_rename vfs_mkdir", 4),
    Tool("funcwatch --mechanism kprobe --duration 1 vfs_r*", 4),
    Tool("funcwatch vfs_rename -- sleep 1", 4),
    Tool("tools/examples/latency.py vfs_mk* 1", 4),
    Tool("tools/examples/opensnoop.py 1", 3),
    Tool("tools/examples/execsnoop.py 1", 3),
    Tool("tools/examples/mallocs.py 1", 3),
    Tool("tools/examples/profile.py 1", 3),
    Tool("tools/examples/xdpcount.py lo 1", 3),
    Tool("tools/examples/egress.py /sys/fs/cgroup 7 1", 3),
)


@dataclass(frozen=True)
class Case:
    """Hold one tool, what happens to it, and when.

    :param moment: share of the time that the tool takes
    """

    tool: Tool
    ending: str = NONE
    limit: str = ""
    moment: float = 0.0

    def __str__(self) -> str:
        lack = f", {self.limit} limited" if self.limit else ""
        return f"{self.tool.words}: {self.ending} at {self.moment * self.tool.lasts:.2f} s{lack}"


def draw(seed: int, count: int) -> list[Case]:
    """Draw cases. Each tool, ending and limit comes up in turn; pairs and moments are random."""
    chance = random.Random(seed)

    def turns(of: Sequence[object]) -> list[int]:
        out: list[int] = []
        while len(out) < count:
            out += chance.sample(range(len(of)), len(of))
        return out[:count]

    # A limit without an ending, an ending without a limit, and some of both.
    what = [(e, "") for e in ENDINGS] * 2 + [(NONE, limit) for limit in LIMITS]
    what += [(chance.choice(SIGNALS), limit) for limit in LIMITS[:2]]
    return [
        Case(TOOLS[tool], *what[some], moment=round(chance.random() * _CROWD, 4))
        for tool, some in zip(turns(TOOLS), turns(what), strict=True)
    ]


@dataclass(frozen=True)
class End:
    """Say how a tool ended.

    :param status: as `os.waitstatus_to_exitcode` has it, below 0 for a signal
    :param acted: what ends it happened while it ran
    :param seconds: from what ended it to its end
    """

    status: int
    out: str
    err: str
    acted: bool
    seconds: float = 0.0


_TRACES = ("Traceback", "Exception ignored", "Fatal Python error", "Error in sys.", '  File "')


def _statuses(case: Case, acted: bool) -> set[int]:
    # Those that would be true.
    found = {0}
    if "-- cat" in case.tool.words:
        found = {1}  # that of cat
    if case.limit:
        found.add(1)
    if not acted or case.ending == NONE:
        return found
    if case.ending in SIGNALS:
        number = int(signal.Signals[case.ending])
        own = {-number}
        if case.ending in ("SIGINT", "SIGTERM"):
            own.add(128 + number)
        return found | own
    if case.ending == READER:
        return found | {128 + signal.SIGPIPE}
    # Output fails if the signal comes late.
    return found | {-signal.SIGHUP, 1}


def _complete(tool: Tool, out: str) -> bool:
    # Whether JSON output has no end missing.
    if not tool.json:
        return True
    try:
        json.loads(out)
    except ValueError:
        try:
            lines = [json.loads(line) for line in out.splitlines()]
        except ValueError:
            return False
        # The last line of retsnoop, and of funcwatch.
        return bool(lines) and (lines[-1].get("type") == "end" or "final" in lines[-1])
    return True


def wrong_ends(case: Case, end: End) -> list[str]:
    """Return what is not right about how a tool ended, [] if all is."""
    wrong = []
    may_be = _statuses(case, end.acted)
    if end.status not in may_be:
        wrong.append(f"status {end.status}, not one of {sorted(may_be)}")
    # Python itself says so if a script is interrupted while it imports what it needs.
    importing = case.tool.example and end.status == -signal.SIGINT and ", in main\n" not in end.err
    if not importing:
        wrong += [f"a traceback: {trace!r}" for trace in _TRACES if trace in end.err][:1]
    if end.status == 1 and case.limit and "-- cat" not in case.tool.words:
        said = [line for line in end.err.splitlines() if line.strip()]
        if not said:
            wrong.append("status 1 without a word")
    if end.status == 0 and case.limit == "disk":
        wrong.append("status 0, but there was no room for its output")
    kept = case.ending not in (READER, TERMINAL) and case.limit != "disk"
    if end.status == 0 and kept and not _complete(case.tool, end.out):
        wrong.append("status 0, but its JSON is not complete")
    if end.seconds > _PATIENCE:
        wrong.append(f"ended only after {end.seconds:.0f} s")
    return wrong


class Running:
    """Hold one tool while it runs. Call `tick` until it returns True, then `end`.

    :param full: file on a file system that has no room left
    """

    def __init__(self, case: Case, full: str) -> None:
        self.case = case
        self._acted_at = 0.0
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  both until `end`
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._reader = self._terminal = -1
        out: int = self._out.fileno()
        theirs: list[int] = []
        if case.ending == READER:
            self._reader, out = os.pipe()
            theirs.append(out)
        elif case.limit == "disk":
            out = os.open(full, os.O_WRONLY | os.O_APPEND)
            theirs.append(out)
        slave = -1
        if case.ending == TERMINAL:
            self._terminal, slave = os.openpty()
            theirs.append(slave)
        self._up, up = os.pipe()
        theirs.append(up)
        code = (_SCRIPT if case.tool.example else _START).format(fd=up)

        def limits() -> None:
            os.setsid()
            if slave >= 0:
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            if case.limit == "files":
                resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
            if case.limit == "memory":
                resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))

        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *case.tool.words.split()],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=slave if slave >= 0 else subprocess.DEVNULL,
            stdout=slave if slave >= 0 else out,
            stderr=slave if slave >= 0 else self._err,
            pass_fds=[up],
            preexec_fn=limits,  # noqa: PLW1509  no threads here
        )
        for number in theirs:
            os.close(number)
        self._began: float | None = None
        self._ended_at = 0.0
        self._said = b""
        self._last = time.monotonic() + _PATIENCE
        os.set_blocking(self._up, False)

    @property
    def session(self) -> int:
        return self._process.pid

    def _drain(self) -> None:
        for number in (self._reader, self._terminal):
            if number >= 0:
                os.set_blocking(number, False)
                with contextlib.suppress(OSError):
                    self._said += os.read(number, 1 << 16)

    def _is_up(self) -> bool:
        try:
            return os.read(self._up, 1) == b""
        except BlockingIOError:
            return False

    def tick(self) -> bool:
        """Do what is due. Return True if the tool has ended."""
        self._drain()
        now = time.monotonic()
        if self._process.poll() is not None:
            self._ended_at = now
            return True
        if self._began is None:
            if self._is_up():
                self._began = now
            elif now > self._last:
                self._process.kill()
            return False
        case = self.case
        if not self._acted_at and case.ending != NONE:
            if now >= self._began + case.moment * case.tool.lasts:
                self._acted_at = now
                self._act(case.ending)
        elif now > (self._acted_at or self._began) + 2 * _PATIENCE:
            self._process.kill()
        return False

    def _act(self, ending: str) -> None:
        if ending == READER:
            os.close(self._reader)
            self._reader = -1
        elif ending == TERMINAL:
            os.close(self._terminal)
            self._terminal = -1
        else:
            self._process.send_signal(signal.Signals[ending])

    def end(self) -> End:
        """Say how it ended, and forget it."""
        status = self._process.wait()
        took = self._ended_at - self._acted_at if self._acted_at else 0.0
        self._drain()
        for number in (self._reader, self._terminal, self._up):
            if number >= 0:
                os.close(number)
        texts = []
        for file in (self._out, self._err):
            with file:
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        out, err = texts
        said = self._said.decode(errors="replace")
        if self.case.ending == TERMINAL:
            err = said
        return End(status, out or said, err, bool(self._acted_at), took)

    def others(self) -> list[str]:
        """Return processes of it that still run."""
        return [f"process {one} of {self.case}" for one in processes_of(self.session)]
