#!/usr/bin/env python3
"""Hits of a static probe with its arguments: ``usdt.py BINARY PROVIDER NAME [SECONDS]``."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import pybpf


def main(binary: str, provider: str, name: str, seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        link = obj.programs["on_probe"].attach_usdt(binary, provider, name)
        with link, pybpf.RingBuffer(obj.maps["events"], "struct event") as ring:
            print(f"{len(link)} places", flush=True)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                for event in ring.read(timeout=left):
                    shown = ", ".join(str(arg) for arg in event.args[: event.count])
                    print(f"{event.pid:>7} {provider}:{name}({shown})", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        binary, provider, name = sys.argv[1:4]
        main(binary, provider, name, float(sys.argv[4]) if sys.argv[4:] else 3600)
