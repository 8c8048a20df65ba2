"""In the guest: what a call costs under funcwatch and under bpftrace, as lines of JSON.

    python3 -m tests.bench.funcwatch_guest PEER

PEER is multi_peer.c, compiled, zlib and base64.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pybpf
from pybpf.features import Feature
from pybpf.multi.cost import MS_PER_INSN
from pybpf.multi.options import HORIZON
from pybpf.multi.plan import Plan
from pybpf.multi.rates import Rates, total_s
from pybpf.multi.resolve import plan, plan_facts
from pybpf.multi.select import select
from pybpf.tools.funcwatch.attach import program_for
from tests.support.mechanisms import supported
from tests.support.require import facts, probes

BATCHES, CALLS = 20, 1000
FUNCTION, NUMBER = "__x64_sys_getpgid", 121
PROGRAM = "/tmp/multi_peer"
OBJECT = Path(pybpf.__file__).parent / "tools/funcwatch/funcwatch.bpf.o"
OWN = (sys.executable, "-m", "pybpf", "funcwatch", "--interval", "1000")
_TIMED = "{ @start[tid] = nsecs; } %s /@start[tid]/ { @ = hist(nsecs - @start[tid]); }"
SCRIPTS = {
    "bpftrace fentry count()": f"fentry:vmlinux:{FUNCTION} {{ @ = count(); }}",
    "bpftrace kprobe count()": f"kprobe:{FUNCTION} {{ @ = count(); }}",
    "bpftrace fentry+fexit hist()": f"fentry:vmlinux:{FUNCTION} "
    + _TIMED % f"fexit:vmlinux:{FUNCTION}",
    "bpftrace kprobe+kretprobe hist()": f"kprobe:{FUNCTION} " + _TIMED % f"kretprobe:{FUNCTION}",
}

#: System calls that fail or end at once with the peer's arguments, and the kernel's names of them.
#: The first `HOT` that can be traced are called `OFTEN` times in a batch, the others once.
SYSTEM_CALLS = {
    "getpgid": 121, "getsid": 124, "lseek": 8, "fcntl": 72, "umask": 95, "getpriority": 140,
    "sched_getparam": 143, "sched_getscheduler": 145, "sched_get_priority_max": 146,
    "sched_get_priority_min": 147, "getgroups": 115, "getresuid": 118, "getresgid": 120,
    "gettimeofday": 96, "clock_getres": 229, "clock_gettime": 228, "flock": 73, "fsync": 74,
    "ioctl": 16, "personality": 135, "access": 21, "bind": 49, "capget": 125, "chdir": 80,
    "chmod": 90, "connect": 42, "epoll_create": 213, "fdatasync": 75, "fstatfs": 138,
    "getdents64": 217, "getitimer": 36, "getpeername": 52, "getrusage": 98, "getsockname": 51,
    "getsockopt": 55, "getxattr": 191, "inotify_rm_watch": 255, "ioprio_get": 252, "listen": 50,
    "madvise": 28, "mincore": 27, "mkdir": 83, "mq_unlink": 241, "msgctl": 71, "msync": 26,
    "nanosleep": 35, "newfstat": 5, "newlstat": 6, "newstat": 4, "newuname": 63, "pread64": 17,
    "prlimit64": 302, "readahead": 187, "readlink": 89, "recvfrom": 45, "removexattr": 197,
    "rmdir": 84, "rt_sigaction": 13, "rt_sigpending": 127, "rt_sigprocmask": 14,
    "sched_getaffinity": 204, "sched_rr_get_interval": 148, "semctl": 66, "sendto": 44,
    "setpriority": 141, "setsockopt": 54, "shmctl": 31, "shutdown": 48, "statfs": 137,
    "sysinfo": 99, "timer_delete": 226, "timerfd_settime": 286, "times": 100, "truncate": 76,
    "unlink": 87, "utimes": 235,
}  # fmt: skip
HOT, OFTEN = 20, 26
FUNCTIONS = 2000
#: Those that the workload never calls.
IDLE = ("ext4_*", "jbd2_*", "tcp_*", "udp*", "ip6*", "ipv6_*", "inet6_*", "pci_*", "acpi_*")


def least_of(*arguments: object) -> int:
    """What the peer says of a number of batches: instructions of the least."""
    command = [PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    (least,) = struct.unpack("<Q", done.stdout)
    return int(least)


def say(**figures: object) -> None:
    print(json.dumps(figures), flush=True)


@contextmanager
def running(command: Sequence[str], ready: str, out: IO[str] | None = None) -> Iterator[str]:
    """Run a tracer while it traces; it says so in a line that begins with `ready`.

    :param out: for its standard output, if that is not where the line comes
    """
    streams = (subprocess.PIPE, subprocess.STDOUT) if out is None else (out, subprocess.PIPE)
    with subprocess.Popen(command, stdout=streams[0], stderr=streams[1], text=True) as process:
        lines = process.stdout or process.stderr
        assert lines is not None
        said = []
        for line in lines:
            said.append(line)
            if line.startswith(ready):
                break
        else:
            raise RuntimeError("".join(said))
        yield line
        process.send_signal(signal.SIGINT)
        lines.read()


def each_tracer() -> None:
    """What one call of one function costs."""

    def each_call() -> float:
        return least_of("calls", BATCHES, CALLS, NUMBER) / CALLS

    bare = each_call()
    tracers = {
        f"funcwatch {mechanism}": ([*OWN, FUNCTION, "--mechanism", mechanism], "Watching ")
        for mechanism in supported()
    }
    for what, script in SCRIPTS.items():
        ready = 'interval:s:1 { printf("ready\\n"); } '
        tracers[what] = (["bpftrace", "-B", "line", "-e", ready + script], "ready")
    for what, (command, ready) in tracers.items():
        with running(command, ready):
            say(what=what, insns=round(each_call() - bare))


class Skewed:
    """A workload in which few of many functions have most of the calls."""

    def __init__(self) -> None:
        called = self._some([f"__x64_sys_{name}" for name in SYSTEM_CALLS])
        idle = [name for name in self._some(IDLE) if name not in called]
        self.called = [name for name in SYSTEM_CALLS if f"__x64_sys_{name}" in called]
        self.names = [*called, *idle][:FUNCTIONS]
        assert len(self.called) > 2 * HOT and len(self.names) == FUNCTIONS
        self.calls = HOT * OFTEN + len(self.called) - HOT  # of a batch
        self._numbers = [SYSTEM_CALLS[name] for name in self.called]
        self.bare = self.batch()
        seconds = self.bare / 1e9
        self.rates = {
            f"__x64_sys_{name}": (OFTEN if at < HOT else 1) / seconds
            for at, name in enumerate(self.called)
        }

    def _some(self, globs: Sequence[str]) -> list[str]:
        # What both mechanisms can trace.
        found = select(facts(), globs, at_exit=True).candidates
        return [one.name for one in found if one.btf_id is not None and one.unique and one.kprobe]

    def batch(self, batches: int = 5 * BATCHES) -> int:
        return least_of("mix", batches, OFTEN, HOT, *self._numbers)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Do it without end."""
        command = [PROGRAM, "mix", str(10**12), str(OFTEN), str(HOT), *map(str, self._numbers)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.kill()

    def predicted(self, made: Plan) -> float:
        """Instructions per call that a plan predicts for this workload."""
        kernel = plan_facts(facts())
        seconds = total_s(made, kernel, Rates(self.rates, HORIZON))
        seconds -= made.cost.attach_s + made.cost.detach_s
        insns = seconds / (MS_PER_INSN / 1e3 * kernel.costs.slowness)
        return insns / HORIZON / sum(self.rates.values())

    def measured(self, *options: str) -> dict[str, object]:
        """Run funcwatch, and return what it attached, what a call costs and who was called."""
        with tempfile.NamedTemporaryFile("w") as globs, tempfile.TemporaryFile("w+") as out:
            globs.write("\n".join(self.names))
            globs.flush()
            tool = running([*OWN, "--json", "-f", globs.name, *options], "Watching ", out)
            with ExitStack() as stack:
                with self.busy():
                    line = stack.enter_context(tool)
                least = self.batch()
            out.seek(0)
            records = map(json.loads, out)
            called = sorted((r["calls"] for r in records if r.get("final")), reverse=True)
        return {
            "by": line.partition("(")[2].partition(")")[0],
            "measured": (least - self.bare) / self.calls,
            "hot": sum(called[:HOT]) / sum(called),
            "functions": len(called),
        }


def skewed() -> None:
    """What calls cost if few functions are called often: by kprobe.multi alone, and by rates."""
    if not probes().supports(Feature.KPROBE_MULTI):
        return
    work = Skewed()
    with pybpf.open(OBJECT, facts=facts()) as obj:
        for mechanism, rates, options in (
            ("kprobe_multi", None, ("--mechanism", "kprobe_multi")),
            ("auto", work.rates, ("--measure", "1")),
        ):
            name, mechanism = program_for(mechanism, facts(), mixed=rates is not None)
            made = plan(
                obj.programs[name],
                work.names,
                facts(),
                mechanism,
                unknown="registers",
                rates=rates,
            )
            say(
                plan="all kprobe.multi" if rates is None else "by rates",
                predicted=work.predicted(made),
                **work.measured(*options),
            )


def main(peer: str) -> None:
    Path(PROGRAM).write_bytes(zlib.decompress(base64.b64decode(peer)))
    os.chmod(PROGRAM, 0o755)
    each_tracer()
    skewed()


if __name__ == "__main__":
    main(*sys.argv[1:])
