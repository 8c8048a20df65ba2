"""The guests of one pytest session: which tests go to which guest, and their reports.

A guest prints lines that begin with RS (0x1e) and hold one JSON event each; see
tests/support/guest.py. If it dies in a test, that test has failed and the others continue in a new
guest, twice at most.
"""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import json
import os
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.results import Results
from tests.support.rows import ROOT

__all__ = ["EVENT", "Guests", "Key", "Lost", "pack", "unpack"]

EVENT = b"\x1e"
RESTARTS = 2
KEPT_LINES = 60
OUT_OF_TIME = 124  # statuses of vagrant/vm
GUEST_DIED = 125
COMPLAINT = "  | ! "  # what `vagrant/vm` puts before a line in which the kernel reports a fault

Event = dict[str, object]
PASSED_ON = ("PYBPF_SEED", "PYBPF_ENDINGS")  # variables that tests read, also in the guest


@dataclass(frozen=True)
class Key:
    """Say in what guest a test must run.

    :param icount: its clock counts instructions
    :param extras: additional programs (`vagrant/vm --with`)
    :param alone: the file of tests that has the guest for itself
    """

    row: str
    icount: bool = False
    extras: tuple[str, ...] = ()
    alone: str = ""


class Lost(Exception):
    """Report that a test did not report. The text says what happened to its guest."""


def pack(nodeids: list[str]) -> str:
    """Pack test ids into one command line argument."""
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(nodeids).encode(), 9)).decode()


def unpack(text: str) -> list[str]:
    """Unpack what `pack` made."""
    found: list[str] = json.loads(zlib.decompress(base64.urlsafe_b64decode(text)))
    return found


class Guests:
    """Run guests in the background, `jobs` at a time, those with the most work first.

    :param timeout: seconds that one guest may take
    :param vm: the command that starts one; tests pass another
    :param results: directory for the files that they leave in $OUT
    :param options: options of pytest in them
    """

    def __init__(
        self,
        *,
        jobs: int,
        timeout: float,
        vm: Path = ROOT / "vagrant/vm",
        results: Results | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.timeout = timeout
        self.vm = vm
        self.results = results or Results()
        self.options = list(options)
        self.notes: list[str] = []
        self.complaints: dict[str, list[str]] = {}  # of a row's kernel, as `vagrant/vm` reports
        self._runs: dict[Key, Run] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=jobs)
        self._started = False

    def add(self, key: Key, nodeid: str) -> None:
        """Say that a test must run in the guest `key`. Call it before `start`."""
        self._runs.setdefault(key, Run(key, self)).nodeids.append(nodeid)

    def start(self) -> None:
        """Start the guests if needed. Their tests run at the same time as the host's own."""
        if self._started:
            return
        self._started = True
        for run in sorted(self._runs.values(), key=lambda run: -run.work):
            self._pool.submit(run.run)

    def wait(self, key: Key, nodeid: str) -> list[Event]:
        """Return the reports of a test when it has finished.

        :raises Lost: if it never will
        """
        self.start()
        return self._runs[key].wait(nodeid)

    def close(self) -> None:
        """Let guests end if they have reported everything. Stop the others."""
        for run in self._runs.values():
            if not run.complete:
                run.stop()
        self._pool.shutdown(cancel_futures=True)


class Run:
    """Run the tests of one guest."""

    def __init__(self, key: Key, guests: Guests) -> None:
        self.key = key
        self.guests = guests
        self.nodeids: list[str] = []
        self._reports: dict[str, list[Event]] = collections.defaultdict(list)
        self._finished: set[str] = set()
        self._lost: dict[str, str] = {}
        self._running = ""
        self._ended = ""  # not empty: no more reports will come, and why
        self._told = False
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()

    def wait(self, nodeid: str) -> list[Event]:
        with self._changed:
            self._changed.wait_for(
                lambda: nodeid in self._finished or nodeid in self._lost or self._ended
            )
            if nodeid in self._finished:
                return self._reports[nodeid]
            if nodeid in self._lost:
                raise Lost(self._lost[nodeid])
            if self._told:
                raise Lost(
                    f"not run on {self.key.row}: its guest was lost, see the first such failure"
                )
            self._told = True
            raise Lost(self._ended)

    @property
    def work(self) -> int:
        """Guess how long it takes. An end-to-end test counts as much as five others."""
        return sum(5 if "/e2e/" in nodeid else 1 for nodeid in self.nodeids)

    @property
    def complete(self) -> bool:
        """Return True if every test has reported or will never report."""
        with self._changed:
            return bool(self._ended) or len(self._finished) + len(self._lost) == len(self.nodeids)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            process = self._process
        if process and process.poll() is None:
            process.terminate()

    def run(self) -> None:
        """Start guests until every test has reported, or it makes no sense any more."""
        why = "nothing was run"
        try:
            for _ in range(1 + RESTARTS):
                status, why = self._one_guest()
                with self._changed:
                    crashed = bool(self._running) or status == GUEST_DIED
                    if self._running:
                        self._lost[self._running] = why
                        self._running = ""
                        self._changed.notify_all()
                    left = len(self.nodeids) - len(self._finished) - len(self._lost)
                if self._stopped or not left or not crashed or status == OUT_OF_TIME:
                    break
        except Exception as error:  # the session must never wait for ever
            why = f"the runner of row {self.key.row} failed: {error!r}"
        finally:
            with self._changed:
                self._ended = why or f"the guest of row {self.key.row} did not report this test"
                self._changed.notify_all()

    def _one_guest(self) -> tuple[int, str]:
        """Run the remaining tests in one guest. Return its status, and a text for missing tests."""
        left = [n for n in self.nodeids if n not in self._finished and n not in self._lost]
        files = list(dict.fromkeys(n.partition("::")[0] for n in left))
        guests = self.guests
        command = [str(guests.vm), "--kernel", self.key.row, "--timeout", str(guests.timeout)]
        if self.key.icount:
            command.append("--icount")
        for extra in self.key.extras:
            command += ["--with", extra]
        tests = ["tests.support.guest", pack(left), *guests.options, *files]
        passed = [f"{name}={os.environ[name]}" for name in PASSED_ON if name in os.environ]
        began = time.monotonic()
        said: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        with (
            tempfile.TemporaryFile() as errors,
            tempfile.TemporaryDirectory(prefix="pybpf-out-") as out,
        ):
            with self._changed:
                if self._stopped:
                    return 0, "stopped"
                self._process = subprocess.Popen(
                    [*command, "--out", out, "--", "env", *passed, "python3", "-m", *tests],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
            assert self._process.stdout
            with self._process.stdout as lines:
                for line in lines:
                    if line.startswith(EVENT):
                        self._event(json.loads(line[1:]))
                    elif line.strip():
                        said.append(line.decode(errors="replace").rstrip())
            status = self._process.wait()
            errors.seek(0)
            notes_of_vm = errors.read().decode(errors="replace").rstrip()
            guests.results.take(Path(out))
        took = time.monotonic() - began
        lines = notes_of_vm.splitlines()
        guests.notes += [line for line in lines if line.startswith("vm: ") or COMPLAINT in line]
        if found := [line.partition(COMPLAINT)[2] for line in lines if COMPLAINT in line]:
            guests.complaints.setdefault(self.key.row, []).extend(found)
        where = f"while running {self._running}" if self._running else "between tests"
        text = "\n".join(
            [
                f"no report from the guest of row {self.key.row}: it ended with status {status} "
                f"after {took:.0f} s, {where}",
                "--- the guest's last output",
                *said,
                "--- vagrant/vm",
                notes_of_vm,
            ]
        )
        return status, text

    def _event(self, event: Event) -> None:
        with self._changed:
            match event["event"]:
                case "start":
                    self._running = str(event["nodeid"])
                case "finish":
                    self._running = ""
                    self._finished.add(str(event["nodeid"]))
                case "report":
                    report = event["report"]
                    assert isinstance(report, dict)
                    self._reports[str(event["nodeid"])].append(report)
                case "lost":
                    self._lost[str(event["nodeid"])] = str(event["why"])
            self._changed.notify_all()
