"""Play many short random histories of tracers: `python3 -m tests.histories --histories 300`.

Each history has its own seed, and the rows share the seeds equally: `--seed K --histories N` says
all. Guests play some dozens each (tests/histories/guest.py), with a clock that skips waits. A
history that fails is printed as small as it could be made. With --notes FILE, what passed is
written down as it comes, and is not played again: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import rows
from tests.support.histories import Notes

EVENT = "\x1e"
AT_ONCE = 50  # histories of one guest


def _play(row: str, steps: int, seeds: list[int]) -> Iterator[tuple[int, str, float]]:
    """Start one guest. Yield (seed, problem, seconds) as histories end."""
    words = [str(steps), *map(str, seeds)]
    vm = [rows.ROOT / "vagrant/vm", "--icount", "-q", "--timeout", "7200", "--kernel", row, "--"]
    left = list(seeds)
    said: list[str] = []
    with subprocess.Popen(
        [*vm, "python3", "-m", "tests.histories.guest", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as guest:
        assert guest.stdout is not None
        for line in guest.stdout:
            if line.startswith(EVENT):
                one = json.loads(line[1:])
                left.remove(one["seed"])
                yield one["seed"], one["problem"], one["seconds"]
            elif line.strip():
                said.append(line.rstrip())
    if left:  # the others are played by the next guest
        yield (
            left[0],
            "\n".join([f"its guest ended with status {guest.returncode}", *said[-40:]]),
            0,
        )
    elif guest.returncode or any("| ! " in line for line in said):
        yield seeds[-1], "\n".join(["afterwards:", *said[-40:]]), 0


def _row(row: str, args: argparse.Namespace, notes: Notes, seeds: list[int]) -> int:
    failed, took = 0, 0.0
    wanted = [seed for seed in seeds if not notes.passed(row, seed, args.steps)]
    left = list(wanted)
    while left:
        for seed, problem, seconds in _play(row, args.steps, left[:AT_ONCE]):
            left = [other for other in left if other != seed]
            took += seconds
            notes.add(row, seed, args.steps, problem, seconds)
            if problem:
                failed += 1
                print(f"FAILED row {row} {problem}", flush=True)
    print(
        f"row {row}: {len(wanted)} histories of {args.steps} steps, {failed} failed, "
        f"{len(seeds) - len(wanted)} passed before, {took:.0f} s in the guests' time",
        flush=True,
    )
    return failed


def main() -> int:
    """Play histories and return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.histories", description=__doc__)
    parser.add_argument("--kernel", choices=[*rows.names(), "all"], default="all")
    parser.add_argument("--histories", type=int, default=300, metavar="N", help="on all rows")
    parser.add_argument("--seed", type=int, default=1, metavar="K", help="of the first history")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of each history")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="what passed, to resume a run")
    args = parser.parse_args()
    notes = Notes(args.notes)
    chosen = rows.names() if args.kernel == "all" else [args.kernel]
    seeds = range(args.seed, args.seed + args.histories)
    failed = sum(
        _row(row, args, notes, list(seeds[at :: len(chosen)])) for at, row in enumerate(chosen)
    )
    print(f"{args.histories} histories, {failed} failed, seeds {seeds[0]} to {seeds[-1]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
