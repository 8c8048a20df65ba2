#!/usr/bin/env python3
"""Keeps a cgroup from sending to a port: ``egress.py CGROUP PORT [SECONDS]``."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pybpf
from pybpf.tools.entry import script


def main(cgroup: str, port: int, seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.globals.port = socket.htons(port)
        obj.load()
        with obj.programs["filter"].attach_cgroup(cgroup):
            print(f"dropping what {cgroup} sends to port {port}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(seconds)
        print(f"{obj.globals.dropped} dropped, {obj.globals.passed} passed")


if __name__ == "__main__":
    script(main, __doc__, str, int, float, last=3600)
