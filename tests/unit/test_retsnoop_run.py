"""How a run of retsnoop ends when something goes wrong, with a pretended kernel."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.errors import BpfError, ObjectFormatError, PlanError, RelocationError
from pybpf.links import branches
from pybpf.multi.cost import Cost
from pybpf.multi.mechanisms import KPROBE_MULTI
from pybpf.multi.missed import Missed
from pybpf.multi.plan import Group, Plan
from pybpf.multi.reasons import Reason, Skipped
from pybpf.multi.select import Selection
from pybpf.multi.target import Target
from pybpf.multi.traits import Hook
from pybpf.multi.unmatched import Unmatched
from pybpf.tools.retsnoop import attach, words
from pybpf.tools.retsnoop import run as module
from pybpf.tools.retsnoop.attach import Tracing
from pybpf.tools.retsnoop.events import End, Frame
from pybpf.tools.retsnoop.functions import Flag, Function
from pybpf.tools.retsnoop.load import Counts
from pybpf.tools.retsnoop.options import parse

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = Function(0, "f", flags=Flag.ENTRY | Flag.SIGNEXT, addr=0x1000, btf_id=1)
PLAN = Plan(
    "calls",
    Hook.SESSION,
    (Group(KPROBE_MULTI, "", (), (Target("f", "", 0x1000, 1),)),),
    (),
    Cost(),
)
TRACING = Tracing(PLAN, [FUNCTION])


class Pretended:
    """Programs, maps and links of a kernel that takes everything; what is attached is counted."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.attached = 0
        self.said: list[str] = []
        self.globals = SimpleNamespace(ready=0, no_room=0, ends=[0] * 6)
        self.maps: dict[str, Any] = defaultdict(lambda: defaultdict(int))
        self.counts = Counts()
        self.link = SimpleNamespace(missed=Missed(), closing=0)
        self.records: list[object] = []
        patch.setattr(module._Run, "select", lambda run: None)
        patch.setattr(module._Run, "plan", lambda run, obj, selection: TRACING)
        patch.setattr(module._Run, "load", lambda run, obj, tracing: None)

        def attach(run: module._Run, *args: Any) -> tuple[Any, list[Function]]:
            return self.attach(run, *args)  # a bound method would not get the run

        patch.setattr(module._Run, "attach", attach)
        patch.setattr(module.load, "counts_of", lambda obj: self.counts)
        self.programs = {"calls": SimpleNamespace(check_multi=lambda plan: 1)}
        ring = SimpleNamespace(RingBuffer=lambda *args: self, open=lambda *args, **more: self)
        patch.setattr(module, "pybpf", ring)

    def attach(
        self, run: module._Run, obj: Any, tracing: Tracing, stack: ExitStack
    ) -> tuple[Any, list[Function]]:
        self.attached = 1
        attached: Any = SimpleNamespace(detach=self.close, link=self.link)
        stack.callback(run.detach_all, obj, attached)
        return attached, [FUNCTION]

    def close(self, progress: object = None) -> None:
        if self.attached:
            self.said.append("detached")
        self.attached = 0

    def read(self, timeout: float, max_records: int) -> list[object]:
        time.sleep(timeout / 10)
        out, self.records = self.records[:max_records], self.records[max_records:]
        return out

    def __enter__(self) -> Pretended:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    yield Pretended(monkeypatch)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def go(*arguments: str) -> int:
    return module.run(parse(["-e", "f", *arguments]), SimpleNamespace())  # type: ignore[arg-type]


def test_a_run_to_its_end(kernel: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    """The words around detaching, and the command's status."""
    assert go("--", "sh", "-c", "exit 7") == 7
    out, err = capfd.readouterr()
    assert out.startswith("Receiving data...\nDetaching...\nDONE in ")
    assert (err, kernel.said) == ("0 sessions: 0 shown.\n", ["detached"])


def test_detaching_elsewhere_is_told(kernel: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    """What takes long is left to another process, and people are told which."""
    kernel.link.closing = 4321
    assert go("--", "true") == 0
    assert "Process 4321 goes on detaching; nothing is traced any more.\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("skipped", "says"),
    [(1, "Skipped 1 function that cannot"), (2, "Skipped 2 functions that cannot")],
)
def test_one_is_singular(
    skipped: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Counts and their nouns agree."""
    tracing = Tracing(PLAN, [FUNCTION], (Skipped("g", "", Reason.NO_BTF),) * skipped)
    monkeypatch.setattr(attach, "make_tracing", lambda *args: tracing)
    for options in ([], ["-v"]):
        run = module._Run(parse(["-e", "f", *options]), SimpleNamespace(btf=None))  # type: ignore[arg-type]
        run.plan(SimpleNamespace(programs={"calls": None}), None)  # type: ignore[arg-type]
    out, err = capfd.readouterr()
    assert says in err
    assert "Found 1 attachable function in total.\n" in out
    assert says.partition(" that")[0] + " in total.\n" in out


@pytest.mark.parametrize(
    ("counts", "shown", "text"),
    [
        (Counts(), 0, "0 sessions: 0 shown."),
        (Counts(started=1, sent=1), 1, "1 session: 1 shown."),
        (
            Counts(9, 4, lost=1, success=1, duration=1, error=1, retval=1),
            3,
            "9 sessions: 3 shown, 4 filtered (1 succeeded, 1 too short, 1 with other errors, "
            "1 with other return values), 1 not shown any more, 1 dropped.",
        ),
        (
            Counts(2, open=2, no_room=1, deep=1),
            0,
            "2 sessions: 0 shown, 2 not finished. 1 more session had no room. "
            "1 call nested too deep to be kept.",
        ),
    ],
)
def test_the_sum(counts: Counts, shown: int, text: str) -> None:
    """The note at the end names every way a session can end, and its numbers add up."""
    assert words.sessions(counts, shown) == text
    assert counts.started == counts.sent + counts.filtered + counts.lost + counts.open


# -- the end comes when it is asked for


def ends(count: int) -> list[object]:
    frame = Frame(0, True, 1000, -2)
    return [
        End(i, 1, True, False, False, 0, 1, 1, 1, 0, 0, 0, 0, "c", "c", (frame,))
        for i in range(count)
    ]


def test_enough_sessions(kernel: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    """--max-sessions ends the run with exactly so many shown; the others are counted."""
    kernel.records, kernel.counts = ends(500), Counts(started=500, sent=500)
    assert go("--max-sessions", "70", "-T") == 0
    out, err = capfd.readouterr()
    assert out.count("TID/PID") == 70
    assert err == "500 sessions: 70 shown, 430 not shown any more.\n"


def test_enough_time(kernel: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    """--duration ends the run, and what came until then is shown."""
    kernel.records, kernel.counts = ends(3), Counts(started=3, sent=3)
    assert go("--duration", "0.1", "-T") == 0
    assert capfd.readouterr().err == "3 sessions: 3 shown.\n"


def test_an_interrupt_ends_a_flood(
    kernel: Pretended, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """However much waits to be shown, a signal ends the run soon; the rest is counted."""
    monkeypatch.setattr(module, "_LINGER", 0)
    kernel.records, kernel.counts = ends(100_000), Counts(started=100_000, sent=100_000)
    whole = kernel.read

    def read(timeout: float, max_records: int) -> list[object]:
        if len(kernel.records) == 100_000:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(timeout, max_records)

    monkeypatch.setattr(kernel, "read", read)
    assert go("-T") == 0
    out, err = capfd.readouterr()
    shown = out.count("TID/PID")
    assert 0 < shown < 1000
    assert err == f"100000 sessions: {shown} shown, {100_000 - shown} not shown any more.\n"


def test_a_dry_run_of_one(kernel: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    assert go("--dry-run") == 0
    assert capfd.readouterr().out == "Dry run: would attach to 1 function by kprobe.multi (1).\n"


# -- output that nobody reads

# Sessions come when the command has left its process id.
SNOOP = """
import os, sys
import pytest
from tests.unit.test_retsnoop_run import Pretended, go
from pybpf.tools.entry import run
mark, *command = sys.argv[1:]
with pytest.MonkeyPatch.context() as patch:
    kernel = Pretended(patch)
    def show(timeout, max_records):
        if os.path.exists(mark) and os.path.getsize(mark):
            print("a session", flush=True)
        return []
    kernel.read = show
    kernel.close = lambda progress=None: print("detached", file=sys.stderr)
    run("retsnoop", lambda: go("--", *command))
"""


def snoop(mark: Path, script: str) -> int:
    """A run into `head -2` and the process id of its command."""
    words = [sys.executable, "-c", SNOOP, mark, "sh", "-c", script]
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -2', "bash", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 141
    assert done.stdout == "Receiving data...\na session\n"
    assert done.stderr == "detached\n"
    return int(mark.read_text())


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`| head`: all is detached at once, without a word, and the command is told to end."""
    mark = tmp_path / "pid"
    pid = snoop(mark, f"echo $$ > {mark}; exec sleep 60 >/dev/null 2>&1")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_command_that_will_not_end(tmp_path: Path) -> None:
    """One that ignores the signal is left behind, not waited for."""
    mark = tmp_path / "pid"
    pid = snoop(mark, f"trap '' TERM; echo $$ > {mark}; exec sleep 60 >/dev/null 2>&1")
    os.kill(pid, signal.SIGKILL)


# -- errors


@pytest.mark.parametrize(
    "error",
    [
        RelocationError("no such type", program="p"),
        ObjectFormatError("too short", file="vmlinux"),
        PlanError("no such thing"),
        PermissionError(errno.EACCES, "Permission denied", "/proc/kallsyms"),
        BpfError(errno.EPERM, "doing"),
    ],
)
@pytest.mark.parametrize("phase", ["select", "plan", "load", "attach", "receive"])
def test_errors_are_one_line(
    kernel: Pretended,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    phase: str,
    error: Exception,
) -> None:
    """What the library's functions may raise, wherever: one line, status 1, nothing attached."""

    def fail(*_args: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(module._Run, phase, fail)
    assert go() == 1
    assert capfd.readouterr().err == f"retsnoop: {error}\n"
    assert not kernel.attached


def test_branches_of_cpus_that_are_online(
    kernel: Pretended, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """-B asks the CPUs that are online; others refuse, and would switch it off for all."""
    asked = []

    def opened(cpu: int, kinds: int) -> ExitStack:
        if cpu == 1:
            raise BpfError(errno.ENODEV, "perf_event_open")
        asked.append(cpu)
        return ExitStack()

    monkeypatch.setattr(branches, "open_branches", opened)
    options = parse(["-e", "f", "-B", "--max-sessions", "1"])
    facts = SimpleNamespace(online_cpus=(0, 2), possible_cpus=(0, 1, 2))
    kernel.records = ends(1)
    assert module.run(options, facts) == 0  # type: ignore[arg-type]
    assert asked == [0, 2] and options.lbr
    assert "No last branches" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("select", "nothing was attached"),
        ("plan", "nothing was attached"),
        ("load", "everything is detached again"),
        ("attach", "everything is detached again"),
    ],
)
def test_a_signal_before_data_is_received(
    kernel: Pretended,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    phase: str,
    words: str,
    number: signal.Signals,
) -> None:
    """One line, and the status that shells have for the signal; nothing stays attached."""
    whole: Callable[..., Any] = getattr(module._Run, phase)

    def interrupted(*args: object) -> object:
        os.kill(os.getpid(), number)
        return whole(*args)

    monkeypatch.setattr(module._Run, phase, interrupted)
    assert go() == 128 + number
    out, err = capfd.readouterr()
    assert err == f"retsnoop: interrupted; {words}\n"
    assert not kernel.attached
    assert "Receiving" not in out


def test_an_interrupted_system_call_is_an_interrupt(
    kernel: Pretended, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The kernel's EINTR is not told as a failure of its own."""

    def interrupted(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise BpfError(errno.EINTR, "BPF_LINK_CREATE")

    monkeypatch.setattr(module._Run, "attach", interrupted)
    assert go() == 130
    assert capfd.readouterr().err == "retsnoop: interrupted; everything is detached again\n"


def test_globs_that_match_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The user hears of a typed one: after -e it ends the run, after -a it is a warning. Globs of a
    case and of source paths need not match."""
    lost = [Unmatched(name, "no such function") for name in ("typed", "bpf_check*", "by_path")]
    columns = SimpleNamespace(entry=[True])
    found = Selection(SimpleNamespace(columns=columns), unmatched=tuple(lost))  # type: ignore[arg-type]
    asked: list[list[str]] = []

    def select(facts: Any, allow: list[str], *, entry: list[str], **more: Any) -> Selection:
        asked.extend([allow, entry])
        return found

    monkeypatch.setattr(module, "select", select)
    options = parse(["-c", "bpf", "-a", "typed"])
    options.soft_allow.append("by_path")
    module._Run(options, SimpleNamespace()).select()  # type: ignore[arg-type]
    assert {"typed", "bpf_check*", "by_path"} <= set(asked[0]) and "*_sys_bpf" in asked[1]
    said = "WARNING: glob 'typed' matches no function that can be traced (no such function)\n"
    assert capfd.readouterr() == ("", said)
    with pytest.raises(module._Failed, match="entry glob 'typed' matches no function"):
        module._Run(parse(["-e", "typed"]), SimpleNamespace()).select()  # type: ignore[arg-type]
