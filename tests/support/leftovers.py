"""What the kernel and the process table hold, to compare before and after a tool has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from pybpf._sys import bpf as sys_bpf

__all__ = ["Held", "held", "left_over", "processes_of"]

#: Kind of a thing (program, image, file) and its number or name.
Held = frozenset[tuple[str, str]]

#: Not dispatchers: the kernel makes one for XDP at its first use, and keeps it.
_IMAGES = b"bpf_trampoline_"
#: Files with a line for each probe. The second is where perf shows kprobes without a name.
_TRACING = (
    "/sys/kernel/tracing/kprobe_events",
    "/sys/kernel/tracing/uprobe_events",
    "/sys/kernel/debug/kprobes/list",
    "/sys/kernel/tracing/enabled_functions",
)
_PINS = Path("/sys/fs/bpf")


def _images() -> set[tuple[str, str]]:
    with open("/proc/kallsyms", "rb") as file:
        lines = [line for line in file if line.endswith(b"\t[bpf]\n")]
    names = [line.split()[2] for line in lines]
    return {("image", name.decode()) for name in names if name.startswith(_IMAGES)}


def held() -> Held:
    """Return all BPF objects, images, probes and pins that there are now."""
    found = {(kind, str(n)) for kind in ("prog", "map", "link") for n in sys_bpf.ids(kind)}
    found |= _images()
    for name in _TRACING:
        # Addresses and counters of a line change, so only its first word is compared.
        words = [line.split() for line in Path(name).read_text().splitlines()]
        found |= {(name.rpartition("/")[2], " ".join(w[:1])) for w in words if w}
    found |= {("pin", str(path)) for path in _PINS.rglob("*")}
    return frozenset(found)


def processes_of(session: int) -> list[str]:
    """Return the processes of a session that still run, as ``PID NAME``."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{name}/stat").read_text()
        except OSError:
            continue  # it has just ended
        comm, _, rest = stat.partition("(")[2].rpartition(") ")
        state, _, _, owner = rest.split()[:4]
        if int(owner) == session and state not in "ZX":
            found.append(f"{name} {comm}")
    return found


def left_over(before: Held, more: Callable[[], list[str]], patience: float = 60) -> list[str]:
    """Return what is there that was not there before, and still is after `patience` seconds.

    :param more: gives what else must not be there, such as processes
    """
    end = time.monotonic() + patience
    while True:
        left = [" ".join(one) for one in sorted(held() - before)] + more()
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)
