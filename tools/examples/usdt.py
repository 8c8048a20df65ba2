#!/usr/bin/env python3
"""Hits of a static probe with its arguments: ``usdt.py BINARY PROVIDER NAME [SECONDS]``."""

from __future__ import annotations

import time
from pathlib import Path

import pybpf
from pybpf.tools.entry import script
from pybpf.wording import many


def main(binary: str, provider: str, name: str, seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        link = obj.programs["on_probe"].attach_usdt(binary, provider, name)
        with link, pybpf.RingBuffer(obj.maps["events"], "struct event") as ring:
            print(many(len(link), "place"), flush=True)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                for event in ring.read(timeout=left):
                    shown = ", ".join(str(arg) for arg in event.args[: event.count])
                    print(f"{event.pid:>7} {provider}:{name}({shown})", flush=True)


if __name__ == "__main__":
    script(main, __doc__, str, str, str, float, last=3600)
