"""Run Debian's bpftrace to count the calls of this process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["KINDS", "Bpftrace", "named"]

KINDS = ("fentry", "fexit", "kprobe", "kretprobe")
_PREFIX = "phase-"
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_prctl = ctypes.CDLL(None).prctl


def named(name: str, run: Callable[[], None]) -> None:
    """Call `run` under another process name (``comm``), at most 9 characters."""
    usual = ctypes.create_string_buffer(16)
    _prctl(_PR_GET_NAME, usual, 0, 0, 0)  # opening /proc/self/comm would be counted
    _prctl(_PR_SET_NAME, f"{_PREFIX}{name}".encode(), 0, 0, 0)
    run()
    _prctl(_PR_SET_NAME, usual, 0, 0, 0)


class Bpftrace:
    """Run a bpftrace that counts calls of this process by its name, by kind of probe.

    The process's name tells it the begin and end of a phase, see `named`.
    """

    def __init__(self, names: Sequence[str], directory: Path) -> None:
        self.output = directory / "output"
        script = directory / "count.bt"
        lines = ['interval:s:1 { printf("ready\\n"); }']  # printed when everything is attached
        for kind in KINDS:
            prefix = f"{kind}:vmlinux:" if kind.startswith("f") else f"{kind}:"
            lines.append(",\n".join(prefix + name for name in names))
            lines.append(f"/ pid == {os.getpid()} / {{ @{kind}[comm, func] = count(); }}")
        script.write_text("\n".join(lines) + "\n")
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                ["bpftrace", "-f", "json", "-B", "line", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        while b"ready" not in self.output.read_bytes():
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)

    def finish(self) -> dict[str, dict[str, dict[str, int]]]:
        """Stop it and return phase -> kind of probe -> calls by function."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait()
        assert status == 0, self.output.read_text()
        found: dict[str, dict[str, dict[str, int]]] = {}
        for line in self.output.read_text().splitlines():
            if not line.strip():
                continue
            said = json.loads(line)
            assert said["type"] in ("attached_probes", "printf", "map"), line
            if said["type"] != "map":
                continue
            ((name, counts),) = said["data"].items()
            for key, count in counts.items():
                phase, _, function = key.partition(",")
                if phase.startswith(_PREFIX):
                    found.setdefault(phase.removeprefix(_PREFIX), {}).setdefault(name[1:], {})[
                        function
                    ] = count
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
