#!/usr/bin/env python3
"""An audit of programs about to be run, by an LSM hook: ``lsmaudit.py [SECONDS]``.

The kernel must have BPF among its LSMs: ``lsm=...,bpf`` on its command line.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pybpf
from pybpf.tools.entry import script
from pybpf.wording import plain


def main(seconds: float) -> None:
    if "bpf" not in Path("/sys/kernel/security/lsm").read_text().split(","):
        sys.exit("BPF is not among this kernel's LSMs: add it to lsm= on its command line")
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        with obj.attach(), pybpf.RingBuffer(obj.maps["events"], "struct event") as ring:
            print(f"{'PID':>7} {'UID':>6} PROGRAM", flush=True)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                for event in ring.read(timeout=left):
                    print(f"{event.pid:>7} {event.uid:>6} {plain(event.path)}", flush=True)


if __name__ == "__main__":
    script(main, __doc__, float, last=3600)
