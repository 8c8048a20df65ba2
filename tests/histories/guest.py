"""Play short histories in a guest, and print a line of JSON for each, after RS (0x1e).

python3 -m tests.histories.guest STEPS SEED...
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.histories import World
from tests.support.kernellog import KernelLog
from tests.support.knowncalls import CALLS, calls
from tests.support.mechanisms import supported
from tests.support.scenario import STANDARD, Pool, failing, world
from tests.support.witness import Witness

__all__ = ["known_calls"]

#: Functions in one set. A detach takes 130 to 160 ms a clone on 6.x, unless waits are skipped.
SIZES = {"tracing_multi": 8, "trampoline": 3, "kprobe_multi": 8, "kprobe": 3, "auto": 6}
CROWDED = 5


@contextmanager
def known_calls() -> Iterator[tuple[Pool, World]]:
    """Hold a few functions under kprobes, whose calls are also known without them."""
    witness = Witness(CALLS)
    sizes = {name: SIZES[name] for name in (*supported(), "auto")}
    if "trampoline" in sizes:
        sizes[STANDARD] = SIZES["trampoline"]
    try:
        with witness.watch_by_kprobes(witness.functions):
            pool = Pool(witness, witness.functions, calls, CALLS)
            yield pool, world(pool, sizes, CROWDED)
    finally:
        witness.close()


def main(count: int, seeds: list[int]) -> None:
    """Play the histories of these seeds, `count` steps each."""
    log = KernelLog()
    with known_calls() as (pool, about):
        for seed in seeds:
            began = time.monotonic()
            problem = failing(pool, seed, count, about)
            if said := log.complaints():
                problem = "\n".join(filter(None, [problem, "the kernel's log:", *said[:40]]))
            took = round(time.monotonic() - began, 2)
            line = json.dumps({"seed": seed, "problem": problem, "seconds": took})
            print(f"\n\x1e{line}", flush=True)
    log.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
