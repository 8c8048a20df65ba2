#!/usr/bin/env python3
"""Where the CPUs spend their time, as folded stacks for flame graphs: ``profile.py [SECONDS]``."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import pybpf
from pybpf.symbols import Symbols, fold
from pybpf.tools.entry import script


def main(seconds: float) -> None:
    with pybpf.open(Path(__file__).with_suffix(".bpf.o")) as obj:
        obj.load()
        with obj.programs["on_sample"].attach_perf_event("cpu-clock", 99):
            print("sampling", file=sys.stderr, flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(seconds)
        symbols, stacks = Symbols(obj.facts), obj.maps["stacks"]

        def names(key: Any) -> list[str]:
            # Innermost first; a stack id below 0 means that there was none.
            kernel = stacks.lookup(key.kernel, ()) if key.kernel >= 0 else ()
            user = stacks.lookup(key.user, ()) if key.user >= 0 else ()
            found = [symbols.kernel(address) for address in kernel]
            return [*found, *(symbols.user(key.pid, address) for address in user)] or ["[none]"]

        print("\n".join(fold((names(key), n) for key, n in obj.maps["counts"].items())))


if __name__ == "__main__":
    script(main, __doc__, float, last=3600)
