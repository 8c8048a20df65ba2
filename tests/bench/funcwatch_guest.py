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
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pybpf.features import Feature
from tests.support.require import probes

BATCHES, CALLS = 20, 1000
FUNCTION, NUMBER = "__x64_sys_getpgid", 121
PROGRAM = "/tmp/multi_peer"
NEEDS = {
    "tracing_multi": Feature.TRACING_MULTI,
    "trampoline": Feature.FENTRY,
    "kprobe_multi": Feature.KPROBE_MULTI,
    "kprobe": Feature.KPROBE,
}
_TIMED = "{ @start[tid] = nsecs; } %s /@start[tid]/ { @ = hist(nsecs - @start[tid]); }"
SCRIPTS = {
    "bpftrace fentry count()": f"fentry:vmlinux:{FUNCTION} {{ @ = count(); }}",
    "bpftrace kprobe count()": f"kprobe:{FUNCTION} {{ @ = count(); }}",
    "bpftrace fentry+fexit hist()": f"fentry:vmlinux:{FUNCTION} "
    + _TIMED % f"fexit:vmlinux:{FUNCTION}",
    "bpftrace kprobe+kretprobe hist()": f"kprobe:{FUNCTION} " + _TIMED % f"kretprobe:{FUNCTION}",
}


def each_call() -> float:
    """Least instructions of one system call, of BATCHES batches."""
    command = [PROGRAM, "calls", str(BATCHES), str(CALLS), str(NUMBER)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    (least,) = struct.unpack("<Q", done.stdout)
    return float(least) / CALLS


@contextmanager
def running(command: Sequence[str], ready: str) -> Iterator[None]:
    """Run a tracer while it traces; it says so in a line that begins with `ready`."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith(ready):
                break
        else:
            raise RuntimeError("".join(said))
        yield
        process.send_signal(signal.SIGINT)
        process.stdout.read()


def main(peer: str) -> None:
    Path(PROGRAM).write_bytes(zlib.decompress(base64.b64decode(peer)))
    os.chmod(PROGRAM, 0o755)
    bare = each_call()

    def say(what: str) -> None:
        print(json.dumps({"what": what, "insns": round(each_call() - bare)}), flush=True)

    own = [sys.executable, "-m", "pybpf", "funcwatch", FUNCTION, "--interval", "1000"]
    for mechanism, feature in NEEDS.items():
        if probes().supports(feature):
            with running([*own, "--mechanism", mechanism], "Watching "):
                say(f"funcwatch {mechanism}")
    for what, script in SCRIPTS.items():
        ready = 'interval:s:1 { printf("ready\\n"); } '
        with running(["bpftrace", "-B", "line", "-e", ready + script], "ready"):
            say(what)


if __name__ == "__main__":
    main(*sys.argv[1:])
