"""Start QEMU, stream what the command prints, and find out how the guest ended.

There are two serial ports. The kernel's console goes to a file that is shown only if the guest
dies. The other port carries the command's output byte for byte, then a marker with a random token,
the status and the archive of `$OUT`. The time limit runs on the host's clock from the command's
start. At its end the guest is told, stops the command and still sends its files. A guest that does
not answer is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import re
import resource
import secrets
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from . import cache
from .cache import VmError
from .kernels import Kernel

__all__ = [
    "DIED",
    "TIMED_OUT",
    "Guest",
    "Result",
    "complaints",
    "kvm_works",
    "qemu_command",
]

_LIBC = ctypes.CDLL(None)

TIMED_OUT = 124
DIED = 125
OLDEST_QEMU = 8
BOOT_LIMIT = 240.0  # seconds; 4-10 is usual without KVM, and several times that on a busy machine
GRACE = 45.0  # seconds between "time is up" and the whole archive
DEATH = re.compile(rb"Kernel panic - not syncing|PANIC: double fault|KVM internal error")
UNSTARTED = "the guest did not start the command"
COMPLAINT = re.compile(
    rb"WARNING: |BUG: |Oops|general protection fault|INFO: task .* blocked|\bstalls?\b"
)
COMMAND_LINE = (
    "console=ttyS0 loglevel=5 panic=-1 oops=panic nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
)


def qemu_command() -> str:
    """Return the emulator's path. VmError if there is none, or if it would corrupt guests."""
    path = shutil.which("qemu-system-x86_64")
    if not path:
        raise VmError("qemu-system-x86_64 is missing: run vagrant/host.sh vm")
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)", text)
    if not found or int(found[1]) < OLDEST_QEMU:
        said = text.splitlines()[0] if text else "no version"
        raise VmError(
            f"{path} is too old ({said}): QEMU 7 corrupts the memory of 6.12 guests, "
            f"{OLDEST_QEMU} or newer is needed; run vagrant/host.sh vm"
        )
    return path


def kvm_works(qemu: str, kernel: Kernel, limit: float = 6.0) -> bool:
    """Return True only if this kernel has booted under KVM since the host's last boot.

    A /dev/kvm that opens proves nothing. It may abort, or hang at the first instruction that it
    cannot run.
    """
    choice = os.environ.get("PYBPF_KVM")
    if choice in ("0", "no"):
        return False
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache.root() / "kvm" / cache.digest(boot, qemu, str(kernel.vmlinuz), str(os.getuid()))
    with contextlib.suppress(OSError):
        return answer.read_text() == "yes\n"
    command = [qemu, "-accel", "kvm", "-cpu", "host", "-m", "512", "-smp", "1", *BARE]
    command += ["-serial", "stdio", "-kernel", str(kernel.vmlinuz)]
    command += ["-append", "console=ttyS0 panic=-1 root=/dev/none"]
    seen, end = b"", time.monotonic() + limit
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        while (left := end - time.monotonic()) > 0 and b"Unable to mount root fs" not in seen:
            if not select.select([process.stdout], [], [], left)[0]:
                break
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                break
            seen += data
        process.kill()
    works = b"Unable to mount root fs" in seen
    cache.write_atomic(answer, b"yes\n" if works else b"no\n")
    return works


BARE = (
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-monitor",
    "none",
    "-nic",
    "none",
    "-no-reboot",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """Say how a run ended."""

    status: int  # the command's status, or TIMED_OUT, or DIED
    started: bool  # the command was started
    why: str  # empty if the command ended by itself
    archive: bytes  # tar.gz of $OUT, empty if none
    console: bytes  # the kernel's whole console output
    boot_seconds: float
    seconds: float
    cpu_seconds: float = 0.0  # CPU time of the emulator, all its threads


class Guest:
    """Run one command in one guest."""

    def __init__(
        self,
        qemu: str,
        kernel: Kernel,
        initrd: Path,
        *,
        accel: str,
        icount: bool,
        memory: str = "2G",
    ) -> None:
        self.token = secrets.token_hex(8)
        if icount:
            machine = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max"]
        elif accel == "kvm":
            machine = ["-accel", "kvm", "-cpu", "host"]
        else:
            # One thread for both CPUs. No CPU runs code that another has just patched (an int3
            # that is no longer there is an oops), and there is less to lock.
            machine = ["-accel", "tcg,thread=single", "-cpu", "max"]
        self.console = initrd.parent / "console"
        self.command = [qemu, *machine, "-smp", "2", "-m", memory, *BARE]
        self.command += ["-serial", f"file:{self.console}"]
        self.command += ["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"]
        self.command += ["-kernel", str(kernel.vmlinuz), "-initrd", str(initrd)]
        self.command += ["-append", f"{COMMAND_LINE} vm.token={self.token}"]

    def run(self, timeout: float, sink: Callable[[bytes], object]) -> Result:
        """Run to the end. `sink` gets the command's output as it comes."""
        began = time.monotonic()
        self.console.write_bytes(b"")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = used.ru_utime + used.ru_stime
        with open(self.console.with_name("qemu-errors"), "w+b") as errors:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # we handle Ctrl-C
                preexec_fn=_die_with_parent,  # noqa: PLW1509  no threads here
            )
            try:
                result = self._watch(process, began, timeout, sink)
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        with contextlib.suppress(OSError):
                            pipe.close()
            errors.seek(0)
            said = errors.read()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return dataclasses.replace(
            result,
            console=self.console.read_bytes() + said,
            cpu_seconds=used.ru_utime + used.ru_stime - spent,
        )

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        began: float,
        timeout: float,
        sink: Callable[[bytes], object],
    ) -> Result:
        assert process.stdin and process.stdout
        marker = b"\0" + self.token.encode() + b" "
        held = b""  # output not yet passed to sink: it may be the start of the marker
        tail: list[bytes] | None = None  # what follows the marker, once it was seen
        want = have = status = 0
        started = told = False
        boot, end, why = 0.0, began + BOOT_LIMIT, UNSTARTED
        output = process.stdout.fileno()
        while True:
            now = time.monotonic()
            if not started and f" {self.token}".encode() in self.console.read_bytes():
                started, boot = True, now - began
                end, why = now + timeout, ""
            if not why.startswith("the kernel") and DEATH.search(self.console.read_bytes()):
                end, why = min(end, now + 5), "the kernel panicked"
            if now >= end:
                if not started or told or why:
                    break
                told, end = True, now + GRACE
                with contextlib.suppress(OSError):
                    process.stdin.write(b"time is up\n")
                    process.stdin.flush()
            if not select.select([output], [], [], min(end - now, 0.2))[0]:
                continue
            data = os.read(output, 1 << 16)
            if not data:
                break
            if tail is None:
                held += data
                at = held.find(marker)
                if at < 0:
                    keep = _overlap(held, marker)
                    sink(held[: len(held) - keep])
                    held = held[len(held) - keep :]
                    continue
                line, newline, rest = held[at + len(marker) :].partition(b"\n")
                if not newline:
                    continue
                sink(held[:at])
                status, want = (int(n) for n in line.split())
                tail, data = [], rest
                end = max(end, time.monotonic() + GRACE)
            tail.append(data)
            have += len(data)
            if have >= want:
                break
            end = max(end, time.monotonic() + GRACE)  # it is still sending
        took = time.monotonic() - began
        if tail is not None and have >= want:
            why = "time limit" if status == TIMED_OUT and told else ""
            return Result(status, True, why, b"".join(tail)[:want], b"", boot, took)
        if tail is None and held:
            sink(held)
        console = self.console.read_bytes()  # the loop may have ended before it saw the end of it
        started = started or f" {self.token}".encode() in console
        if DEATH.search(console):
            why = "the kernel panicked"
        elif started and why == UNSTARTED:
            why = ""
        if told and not why:
            return Result(
                TIMED_OUT, True, "time limit; the guest did not answer", b"", b"", boot, took
            )
        return Result(DIED, started, why or "the guest ended early", b"", b"", boot, took)


def complaints(console: bytes) -> list[str]:
    """Find console lines in which the kernel warns of its own faults."""
    lines = console.decode(errors="replace").replace("\r", "").split("\n")
    return [line.strip() for line in lines if COMPLAINT.search(line.encode())]


def _die_with_parent() -> None:
    """Have this new process killed when `vagrant/vm` dies, so that no guest is left over."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _overlap(data: bytes, marker: bytes) -> int:
    """Return the length of the longest end of `data` that could be the start of `marker`."""
    for size in range(min(len(marker) - 1, len(data)), 0, -1):
        if data.endswith(marker[:size]):
            return size
    return 0
