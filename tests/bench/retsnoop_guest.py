"""In the guest: what retsnoop costs: of a traced call, of a session, of a run; beside bpftrace.

    python3 -m tests.bench.retsnoop_guest PEER [costs|burst|runs ...]

PEER is the C program of bench_multi, zlib and base64. Each figure goes to the host as a line of
JSON at once. See `tests.bench.bench_retsnoop`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
PEER = "/tmp/multi_peer"
TOOL = (sys.executable, str(ROOT / "tools" / "retsnoop"))
BATCHES, CALLS = 10, 500
BURST = 20000  # sessions
OPEN = ("-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "path_openat")
FAILING = """\
import os, sys
open("/proc/self/comm", "w").write("burst")
for _ in range(int(sys.argv[1])):
    try: os.open("/no/such/file", 0)
    except OSError: pass
"""
BEGIN = 'BEGIN { printf("ready\\n"); } '
GETPGID, MMAP = 121, 9
#: What is measured: name, system call, and how retsnoop is asked to trace it. No session is shown.
#: Those of two functions fail, so their stack is taken; they are too short to be sent.
CASES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("outside a session", GETPGID, ("-e", "__x64_sys_rmdir", "-a", "__x64_sys_getpgid")),
    ("session of one", GETPGID, ("-e", "__x64_sys_getpgid")),
    ("two that fail", MMAP, ("-e", "__x64_sys_mmap", "-a", "ksys_mmap_pgoff", "-L", "9999")),
    ("filtered by comm", GETPGID, ("-e", "__x64_sys_getpgid", "-n", "nobody")),
)
WAYS = ((), ("-F",))


def say(**figures: object) -> None:
    print(json.dumps(figures), flush=True)


def calls(number: int) -> float:
    """Least ns (instructions, under icount) of one system call."""
    command = [PEER, "calls", str(BATCHES), str(CALLS), str(number)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    (least,) = struct.unpack("<Q", done.stdout)
    return float(least) / CALLS


@contextlib.contextmanager
def tracer(words: Sequence[str], ready: str) -> Iterator[subprocess.Popen[str]]:
    """A tracer that has attached; it ends with the block."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as tool:
        assert tool.stdout is not None
        for line in tool.stdout:
            if line.startswith(ready):
                break
        else:
            raise RuntimeError(f"{words}: ended with status {tool.wait()}")
        yield tool
        tool.send_signal(signal.SIGINT)
        tool.stdout.read()


def costs() -> None:
    """What one call costs under retsnoop, and what bpftrace's counting of the same call does."""
    bare = {number: calls(number) for number in (GETPGID, MMAP)}
    for way in WAYS:
        for what, number, options in CASES:
            with tracer([*TOOL, *way, *options], "Receiving"):
                say(what=what, way=" ".join(way), insns=round(calls(number) - bare[number]))
    if not shutil.which("bpftrace"):
        return
    for probe in ("kprobe", "kretprobe", "fentry", "fexit"):
        script = f"{BEGIN}{probe}:__x64_sys_getpgid {{ @ = count(); }}"
        with tracer(["bpftrace", "-e", script], "ready"):
            say(what="bpftrace counts", way=probe, insns=round(calls(GETPGID) - bare[GETPGID]))


def burst() -> None:
    """CPU time that showing takes, per session: of many failed calls less that of one."""
    cpu = {}
    for count in (1, BURST):
        words = [*TOOL, *OPEN, "-n", "burst", "--max-sessions", str(count)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as tool:
            assert tool.stdout is not None
            while not tool.stdout.readline().startswith(b"Receiving"):
                pass
            fail = subprocess.Popen([sys.executable, "-c", FAILING, str(count)])
            shown = tool.stdout.read().count(b"TID/PID")
            fail.wait()
            _, status, used = os.wait4(tool.pid, 0)
            tool.returncode = status
        if shown != count or status:
            raise RuntimeError(f"{shown} of {count} sessions shown, status {status}")
        cpu[count] = used.ru_utime + used.ru_stime
    each = (cpu[BURST] - cpu[1]) / (BURST - 1)
    say(what="session shown", way="text", insns=round(each * 1e9))


def runs() -> None:
    """Start to attached, end to detached, and peak memory, beside bpftrace by kprobes."""
    for glob in ("vfs_*", "s*"):
        script = f"{BEGIN}kprobe:{glob} {{ @ = count(); }}"
        for way, words, ready in (
            ("retsnoop", [*TOOL, "-e", glob, "-n", "nobody"], "Receiving"),
            ("retsnoop -M", [*TOOL, "-M", "-e", glob, "-n", "nobody"], "Receiving"),
            ("bpftrace", ["bpftrace", "-e", script], "ready"),
        ):
            if not shutil.which(words[0]):
                continue
            for _ in range(2):
                started = time.perf_counter_ns()
                with tracer(words, ready) as tool:
                    attached = time.perf_counter_ns()
                    time.sleep(0.5)  # until it waits for data, which takes memory, too
                    status = Path(f"/proc/{tool.pid}/status").read_text()
                    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
                    ending = time.perf_counter_ns()
                ended = time.perf_counter_ns()
                say(
                    what=glob,
                    way=way,
                    attach=attached - started,
                    detach=ended - ending,
                    peak=int(peak),
                )


PARTS = {"costs": costs, "burst": burst, "runs": runs}


def main(arguments: Sequence[str]) -> int:
    peer, *parts = arguments
    Path(PEER).write_bytes(zlib.decompress(base64.b64decode(peer)))
    os.chmod(PEER, 0o755)
    for name in parts or PARTS:
        PARTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
