#!/usr/bin/env python3
"""How much each process asks malloc() of the C library for: ``mallocs.py [SECONDS]``."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pybpf
from pybpf.tools.entry import script
from pybpf.wording import plain


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="surrogateescape").strip()
    except OSError:
        return "(ended)"


def main(seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        with obj.attach():
            print("counting", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(seconds)
        print(f"{'PID':>7} {'COMM':<16} {'CALLS':>10} {'BYTES':>14}")
        uses = sorted(obj.maps["uses"].items(), key=lambda pair: -pair[1].bytes)
        for pid, use in uses:
            print(f"{pid:>7} {plain(name_of(pid)):<16} {use.calls:>10} {use.bytes:>14}")


if __name__ == "__main__":
    script(main, __doc__, float, last=3600)
