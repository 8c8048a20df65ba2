"""One Vagrant machine, from `vagrant up` to `vagrant destroy`, and what happened to it.

Vagrant waits for as long as it is told for a guest that will never answer. So while it brings the
machine up, and while tests run, we watch the guest itself. Its console shows a
panic, libvirt shows when the emulator is gone, and a console that stays empty means that the
processor does not run. Each of these ends the wait at once, with one sentence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from .._vm import cache, qemu
from .._vm.cli import show_console, unpack

__all__ = ["Failure", "Machine", "Setting"]

CHECKOUT = Path(__file__).resolve().parents[2]
DIED, TIMED_OUT = qemu.DIED, qemu.TIMED_OUT
#: A script of the run: QEMU in one thread, as in vagrant/vm. libvirt has no option for that.
EMULATOR = Path("/run/pybpf/qemu")
POLL = 2.0  # seconds between looks at the guest
UP_LIMIT = {
    "tcg": 1500.0,
    "kvm": 600.0,
}  # seconds for `vagrant up`; 110 are usual without KVM
SILENCE = {"tcg": 300.0, "kvm": 60.0}  # seconds that a started guest may stay silent
DESTROY_LIMIT = 120.0
FETCH_LIMIT = 300.0
GRACE = 60.0  # seconds between the tests' own time limit and ours
KILLED = 128 + 9
LOST = 255  # exit status of ssh itself
DOMAIN = "pybpf_default"  # the name that Vagrantfile gives it in libvirt
IN_GUEST = "/src"
OUT = "/out"
NO_ROOT = re.compile(rb"Gave up waiting for root file system|ALERT!.*does not exist")
COLOUR = re.compile(r"\x1b\[[0-9;]*[mK]")
PROGRESS = re.compile(r"==> \w+:|    \w+:|Progress: ")


class Failure(Exception):
    """Report that the machine failed. The text is one sentence, `status` is the run's."""

    def __init__(self, text: str, status: int = DIED, *, console: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.console = console  # the guest's last lines are worth showing


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """Hold what a run needs to know. It goes as JSON to the process inside the namespaces."""

    row: str
    release: str  # `uname -r` must print this
    accel: str  # "tcg" or "kvm"
    boot: str  # "direct" or "grub"
    out: str  # directory for results
    timeout: float  # seconds the tests may take
    tests: tuple[str, ...]  # arguments of pytest

    def to_json(self) -> str:
        """Return it as JSON, for the command line of the inner process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["tests"] = tuple(fields["tests"])
        return cls(**fields)


def note(text: str) -> None:
    """Print one line for the person at the terminal."""
    print(f"e2e: {text}", file=sys.stderr, flush=True)


class Machine:
    """Handle the machine of one run.

    :param state: the run's own directory, for everything that vagrant and ssh keep
    """

    def __init__(self, setting: Setting, state: Path) -> None:
        self.setting = setting
        self.state = state
        self.console = Path("/var/log/libvirt/qemu/pybpf.log")
        self.log = Path(setting.out) / "vagrant.log"
        self.config = state / "ssh-config"
        self.environment: dict[str, str] = {
            **os.environ,
            "HOME": str(state),
            "TMPDIR": str(state),
            "VAGRANT_HOME": str(state / "vagrant.d"),
            "VAGRANT_CWD": str(CHECKOUT / "vagrant"),
            "VAGRANT_DOTFILE_PATH": str(state / "dot-vagrant"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "LIBVIRT_DEFAULT_URI": "qemu:///system",
            "PYBPF_CACHE": str(cache.root()),
            "BOX": "local",
            "KERNEL": setting.row,
            "PYBPF_BOOT": setting.boot,
            "PYBPF_ACCEL": setting.accel,
            "PYBPF_OWN_LIBVIRT": "1",
            "PYBPF_CONSOLE": str(self.console),
            "LC_ALL": "C.UTF-8",
        }
        if setting.accel == "tcg":
            self.environment["PYBPF_EMULATOR"] = str(EMULATOR)

    # -- looking at the guest

    def said(self) -> bytes:
        """Return all that the guest's console showed."""
        try:
            return self.console.read_bytes()
        except OSError:
            return b""

    def trouble(self, state: str, since: float) -> Failure | None:
        """Return why there is no point in waiting longer, None if there is.

        :param state: libvirt's word for the domain, once it has been running
        :param since: monotonic time when it was first seen running
        """
        said = self.said()
        if qemu.DEATH.search(said):
            return Failure("the guest died: its kernel panicked", console=True)
        if NO_ROOT.search(said):
            text = "the guest found no root file system: run vagrant/build-box --update"
            return Failure(text, console=True)
        if state != "running":
            text = f"the guest died: libvirt says that it is {state or 'gone'}"
            return Failure(text, console=True)
        accel, silent = self.setting.accel, time.monotonic() - since
        if not said.strip() and silent > SILENCE[accel]:
            hint = "; PYBPF_ACCEL=tcg emulates instead" if accel == "kvm" else ""
            text = f"the guest said nothing in {silent:.0f} s: {accel.upper()} hangs{hint}"
            return Failure(text)
        return None

    def _domain_state(self) -> str:
        """Return libvirt's word for the domain's state. Empty if there is no such domain."""
        done = subprocess.run(
            ["virsh", "-q", "domstate", DOMAIN],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        limit: float,
        what: str,
        *,
        watch: bool = True,
        removes: bool = False,
    ) -> int:
        """Wait for a process and return its status. Failure if the guest is lost or time is up.

        :param watch: there is, or will be, a guest to watch
        :param removes: the process removes the domain itself when it gives up
        """
        began = time.monotonic()
        since: float | None = None  # when the domain was first seen running
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL)
                now = time.monotonic()
                if now - began > limit:
                    raise Failure(f"{what} took more than {limit:.0f} s", TIMED_OUT, console=True)
                if not watch:
                    continue
                state = self._domain_state()
                if since is not None and not state and removes:
                    continue  # it will report why
                if since is None and state == "running":
                    since = now
                if since is not None and (why := self.trouble(state, since)):
                    raise why
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    # -- steps

    def vagrant(self, *arguments: str, limit: float, watch: bool = False) -> None:
        """Run vagrant. Its output goes to vagrant.log."""
        with open(self.log, "ab") as log:
            start = log.tell()
            process = subprocess.Popen(
                ["vagrant", *arguments, "--no-tty"],
                env=self.environment,
                cwd=CHECKOUT / "vagrant",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            what = f"vagrant {arguments[0]}"
            status = self._wait(process, limit, what, watch=watch, removes=True)
        if status:
            text = self.log.read_bytes()[start:].decode(errors="replace")
            hint = ""
            if watch and self.setting.accel == "kvm":
                hint = " (KVM was asked for; PYBPF_ACCEL=tcg emulates)"
            raise Failure(f"{what} failed: {complaint(text)}{hint}", console=watch)

    def up(self) -> None:
        """Bring the machine up, provision it, and check that it runs the row's kernel."""
        self.vagrant("up", "--provider=libvirt", limit=UP_LIMIT[self.setting.accel], watch=True)
        config = subprocess.run(
            ["vagrant", "ssh-config"],
            env=self.environment,
            cwd=CHECKOUT / "vagrant",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if config.returncode:
            raise Failure(f"vagrant ssh-config failed: {complaint(config.stderr.decode())}")
        self.config.write_bytes(config.stdout)
        done = subprocess.run(
            self.ssh("uname -r"), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        running = done.stdout.decode().strip()
        if running != self.setting.release:
            raise Failure(
                f"the machine runs kernel {running or done.stderr.decode().strip()!r}, "
                f"not {self.setting.release}"
            )

    def ssh(self, script: str) -> list[str]:
        """Return the command that runs a shell script in the machine, as root."""
        options = ["-T", "-F", str(self.config)]
        for option in ("LogLevel=ERROR", "ServerAliveInterval=15", "ServerAliveCountMax=8"):
            options += ["-o", option]
        return ["ssh", *options, "default", f"sudo sh -c {shlex.quote(script)}"]

    def test(self) -> int:
        """Run the tests and return pytest's status."""
        limit = self.setting.timeout
        command = ["python3", "-m", "pytest", f"--junitxml={OUT}/junit.xml", "-o"]
        command += [f"junit_suite_name={self.setting.row}", "-p", "no:cacheprovider"]
        command += [f"--kernel={self.setting.row}", *self.setting.tests]
        environment = {
            "OUT": OUT,
            "PYBPF_VM_KERNEL": self.setting.row,
            "LC_ALL": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "HOME": "/root",
        }
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        script = (
            f"rm -rf {OUT} && mkdir {OUT} && cd {IN_GUEST} && ulimit -n 65536 && "
            f"exec env {words} timeout --kill-after=20 {limit:.0f} {shlex.join(command)}"
        )
        began = time.monotonic()
        process = subprocess.Popen(self.ssh(script), stdin=subprocess.DEVNULL)
        ended = False
        try:
            status = self._wait(process, limit + GRACE, "the test run")
            ended = status not in (LOST, KILLED, TIMED_OUT)
        finally:
            if not ended:
                print(flush=True)  # pytest was in the middle of a line
        if status == KILLED and time.monotonic() - began > limit:
            status = TIMED_OUT  # timeout(1) had to kill it
        if status == LOST:
            raise self.trouble(self._domain_state(), time.monotonic()) or Failure(
                "the connection to the guest was lost", console=True
            )
        if status == TIMED_OUT:
            note(f"row {self.setting.row}: time limit ({limit:g} s)")
        return status

    def fetch(self) -> None:
        """Bring $OUT back: junit.xml, and all other files that the tests left there."""
        with open(self.state / "out.tar.gz", "w+b") as archive:
            process = subprocess.Popen(
                self.ssh(f"tar -C {OUT} -czf - ."), stdin=subprocess.DEVNULL, stdout=archive
            )
            if self._wait(process, FETCH_LIMIT, "fetching the results"):
                raise Failure("the results could not be fetched from the guest")
            archive.seek(0)
            unpack(archive.read(), Path(self.setting.out))

    def destroy(self) -> None:
        """Remove the machine and its disks."""
        self.vagrant("destroy", "-f", limit=DESTROY_LIMIT)

    def run(self) -> int:
        """Do all steps and return the exit status. Errors go to standard error."""
        row = self.setting.row
        began = time.monotonic()
        status = 0
        try:
            self.up()
            up = time.monotonic()
            status = self.test()
            tested = time.monotonic()
            self.fetch()
            junit = Path(self.setting.out) / "junit.xml"
            if not junit.is_file() and not status:
                raise Failure("the tests left no junit.xml")
            note(
                f"row {row} ({self.setting.release}, {self.setting.accel}): status {status}, "
                f"{up - began:.0f} s to bring it up, {tested - up:.0f} s of tests"
            )
        except Failure as failure:
            status = self._failed(failure)
        finally:
            if self.said():
                (Path(self.setting.out) / "console.log").write_bytes(self.said())
            if warned := qemu.complaints(self.said()):
                note(f"row {row}: the kernel complained:")
                for line in warned[:10]:
                    print(f"  | ! {line}", file=sys.stderr)
            try:
                self.destroy()
            except Failure as failure:
                status = status or self._failed(failure)
        return status

    def _failed(self, failure: Failure) -> int:
        note(f"row {self.setting.row}: {failure}")
        if failure.console and self.said().strip():
            show_console(self.said())
        return failure.status


def complaint(said: str) -> str:
    """Find the error in vagrant's output, on one line, without progress and Ruby traces."""
    lines = [line.rstrip() for line in COLOUR.sub("", said).splitlines()]
    progress = [line for line in lines if PROGRESS.match(line)]
    words = []
    for line in lines:
        if PROGRESS.match(line) or re.match(r"\s+from /|Bringing machine ", line):
            continue
        words += re.sub(r"^\S+\.rb:\d+:in `\S+': ", "", line).split()
    text = " ".join(words)[:800]
    if "wait_for timeout" in text:  # 300 times two seconds; no setting changes that
        text = "the guest asked for no address in ten minutes, see console.log"
    if "SSH command responded with a non-zero exit status" in text and progress:
        text = PROGRESS.sub("", progress[-1]).strip()  # the last line of provisioning
    return text or "it said nothing"
