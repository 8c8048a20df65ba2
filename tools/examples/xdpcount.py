#!/usr/bin/env python3
"""IPv4 packets that come in, by protocol: ``xdpcount.py INTERFACE [SECONDS]``."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pybpf
from pybpf.tools.entry import script

NAMES = {1: "icmp", 6: "tcp", 17: "udp"}


def main(interface: str, seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        with obj.programs["count"].attach_xdp(interface):
            print(f"counting on {interface}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(seconds)
        for protocol, counts in obj.maps["packets"].items():
            if counts.sum():
                print(f"{NAMES.get(protocol, protocol):>8} {counts.sum()}")


if __name__ == "__main__":
    script(main, __doc__, str, float, last=3600)
