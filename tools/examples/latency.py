#!/usr/bin/env python3
"""How long calls of up to 300 kernel functions take: ``latency.py GLOB [SECONDS]``."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pybpf
from pybpf.histogram import log2_histogram
from pybpf.tools.entry import script
from pybpf.wording import many

MOST = 300


def main(glob: str, seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        numbers: dict[str, int] = {}

        def cookie(target: pybpf.trampoline.Target) -> int:
            return numbers.setdefault(target.label, len(numbers) + 1)

        leave = obj.programs["on_exit"].attach_multi(glob, cookies=cookie)
        names = [target.name for target in leave.targets][:MOST]
        with leave, obj.programs["on_entry"].attach_multi(names, cookies=cookie) as enter:
            print(
                f"{many(len(enter.targets), 'function')}, {len(leave.skipped)} skipped", flush=True
            )
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(seconds)
        print(many(obj.globals.calls, "call"))
        print(log2_histogram(obj.globals.slots, "ns"))


if __name__ == "__main__":
    script(main, __doc__, str, float, last=3600)
