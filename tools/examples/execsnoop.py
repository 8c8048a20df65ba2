#!/usr/bin/env python3
"""Which programs are started, and by whom, with asyncio: ``execsnoop.py [SECONDS]``."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pybpf
from pybpf.tools.entry import script
from pybpf.wording import plain


async def main(seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        with obj.attach(), contextlib.suppress(TimeoutError):
            async with (
                pybpf.RingBuffer(obj.maps["events"], "struct event") as ring,
                asyncio.timeout(seconds),
            ):
                print(f"{'PID':>7} {'PARENT':>7} COMM", flush=True)
                async for batch in ring:
                    for event in batch:
                        print(f"{event.pid:>7} {event.parent:>7} {plain(event.comm)}", flush=True)


if __name__ == "__main__":
    script(lambda seconds: asyncio.run(main(seconds)), __doc__, float, last=3600)
