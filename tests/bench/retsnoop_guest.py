"""In the guest: instructions of one system call while retsnoop, or bpftrace, traces it.

    python3 -m tests.bench.retsnoop_guest PEER

PEER is the C program of bench_multi, zlib and base64. Each figure goes to the host as a line of
JSON at once. See `tests.bench.bench_retsnoop`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
PEER = "/tmp/multi_peer"
BATCHES, CALLS = 10, 500
GETPGID, MMAP = 121, 9
#: What is measured: name, system call, and how retsnoop is asked to trace it. No session is shown.
CASES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("outside a session", GETPGID, ("-e", "__x64_sys_rmdir", "-a", "__x64_sys_getpgid")),
    ("session of one", GETPGID, ("-e", "__x64_sys_getpgid")),
    ("session of two", MMAP, ("-e", "__x64_sys_mmap", "-a", "ksys_mmap_pgoff", "-L", "9999")),
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
def tracer(words: Sequence[str], ready: str) -> Iterator[None]:
    """A tracer that has attached; it ends with the block."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as tool:
        assert tool.stdout is not None
        for line in tool.stdout:
            if line.startswith(ready):
                break
        else:
            raise RuntimeError(f"{words}: ended with status {tool.wait()}")
        yield
        tool.send_signal(signal.SIGINT)
        tool.stdout.read()


def main(arguments: Sequence[str]) -> int:
    Path(PEER).write_bytes(zlib.decompress(base64.b64decode(arguments[0])))
    os.chmod(PEER, 0o755)
    bare = {number: calls(number) for number in (GETPGID, MMAP)}
    for way in WAYS:
        for what, number, options in CASES:
            words = [sys.executable, str(ROOT / "tools" / "retsnoop"), *way, *options]
            with tracer(words, "Receiving"):
                say(what=what, way=" ".join(way), insns=round(calls(number) - bare[number]))
    if shutil.which("bpftrace"):
        for probe in ("kprobe", "kretprobe", "fentry", "fexit"):
            script = f'BEGIN {{ printf("ready\\n"); }} {probe}:__x64_sys_getpgid {{ @ = count(); }}'
            with tracer(["bpftrace", "-e", script], "ready"):
                say(what="bpftrace counts", way=probe, insns=round(calls(GETPGID) - bare[GETPGID]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
