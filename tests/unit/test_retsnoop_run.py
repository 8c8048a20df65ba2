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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.errors import BpfError, ObjectFormatError, PlanError, RelocationError
from pybpf.multi.missed import Missed
from pybpf.tools.retsnoop import attach
from pybpf.tools.retsnoop import run as module
from pybpf.tools.retsnoop.functions import Flag, Function
from pybpf.tools.retsnoop.options import Mechanism, parse

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = Function(0, "f", flags=Flag.ENTRY | Flag.SIGNEXT, addr=0x1000, btf_id=1)


class Pretended:
    """Programs, maps and links of a kernel that takes everything; what is attached is counted."""

    def __init__(self, patch: pytest.MonkeyPatch, plan: attach.Plan | None = None) -> None:
        self.attached = 0
        self.said: list[str] = []
        self.globals = SimpleNamespace(ready=0, dropped_sessions=0, incomplete_sessions=0)
        self.maps: dict[str, Any] = defaultdict(lambda: defaultdict(int))
        self.plan = plan or attach.Plan(((Mechanism.MULTI, (FUNCTION,)),))
        patch.setattr(module._Run, "select", lambda run: None)
        patch.setattr(module._Run, "plan", lambda run, selection: self._plan(run))
        patch.setattr(module._Run, "load", lambda run, obj, plan: None)
        patch.setattr(module._Run, "attach", lambda run, obj, attacher, plan: self._attach())
        self.missed = Missed()
        patch.setattr(module, "Attacher", lambda obj, progress, lost, losses: self)
        ring = SimpleNamespace(RingBuffer=lambda *args: self, open=lambda *args, **more: self)
        patch.setattr(module, "pybpf", ring)

    def _plan(self, run: module._Run) -> attach.Plan:
        run.functions = [FUNCTION]
        return self.plan

    def _attach(self) -> None:
        self.attached = 1

    def close(self, progress: object = None) -> None:
        if self.attached:
            self.said.append("detached")
        self.attached = 0

    def read(self, timeout: float) -> list[object]:
        time.sleep(timeout / 10)
        return []

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
    assert (err, kernel.said) == ("", ["detached"])


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
    plan = attach.Plan(((Mechanism.MULTI, (FUNCTION,)),))
    monkeypatch.setattr(module, "make_functions", lambda candidates, btf: [FUNCTION])
    monkeypatch.setattr(module.attach, "make_plan", lambda *args: plan)
    selection = SimpleNamespace(candidates=(), skipped=[None] * skipped)
    for options in ([], ["-v"]):
        run = module._Run(parse(["-e", "f", *options]), SimpleNamespace(btf=None))  # type: ignore[arg-type]
        run.plan(selection)  # type: ignore[arg-type]
    out, err = capfd.readouterr()
    assert says in err
    assert "Found 1 attachable function in total.\n" in out
    assert says.partition(" that")[0] + " in total.\n" in out


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
    def show(timeout):
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


# -- descriptors


@pytest.mark.parametrize(
    ("mechanism", "count"),
    [(Mechanism.MULTI, 2), (Mechanism.SINGLE, 4 * 3000), (Mechanism.TRAMPOLINE, 2 * 3000)],
)
def test_room_for_every_link(
    monkeypatch: pytest.MonkeyPatch, mechanism: Mechanism, count: int
) -> None:
    """A kprobe is a link and a perf event, a clone a link, both at entry and at exit."""
    asked: list[int] = []
    functions = tuple(Function(i, f"f{i}", flags=Flag.ENTRY) for i in range(3000))
    kernel = Pretended(monkeypatch, attach.Plan(((mechanism, functions),)))
    monkeypatch.setattr(module, "make_room", lambda many, doing: asked.append(many))
    kernel.globals.ready = 1
    assert go("--", "true") == 0
    assert asked == [count]


def test_no_room(
    kernel: Pretended, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A hard limit that is too low is told before anything is attached."""

    def refuse(many: int, doing: str) -> None:
        raise BpfError(errno.EMFILE, doing, "the hard limit is 1")

    monkeypatch.setattr(module, "make_room", refuse)
    assert go() == 1
    err = capfd.readouterr().err
    assert err.startswith("retsnoop: attach to 1 function: EMFILE") and "hard limit" in err
    assert not kernel.said
