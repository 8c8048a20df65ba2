#!/usr/bin/env python3
"""Which IPv4 connections are opened, and by whom: ``tcpconnect.py [SECONDS]``."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pybpf
from pybpf.tools.entry import script
from pybpf.wording import plain


def main(seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        with obj.attach(), pybpf.RingBuffer(obj.maps["events"], "struct event") as ring:
            print(f"{'PID':>7} {'COMM':<16} TO", flush=True)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                for event in ring.read(timeout=left):
                    address = socket.inet_ntoa(event.address)
                    place = f"{address}:{socket.ntohs(event.port)}"
                    print(f"{event.pid:>7} {plain(event.comm):<16} {place}", flush=True)


if __name__ == "__main__":
    script(main, __doc__, float, last=3600)
