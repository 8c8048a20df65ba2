"""Fuzz the parsers: `python3 -m tests.fuzz --seconds 600 --seed 1`.

Prints how many inputs each target got, and each finding. A finding's input is kept in
``tests/fuzz/corpus/TARGET``; `make unit` runs all of these again.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Finding, _limit, fuzz, outcome

CORPUS = Path(__file__).resolve().parent / "corpus"


def _keep(finding: Finding) -> Path:
    folder = CORPUS / finding.target
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(finding.data).hexdigest()[:8]
    path = folder / f"{finding.key}-{digest}"
    path.write_bytes(finding.data)
    return path


def _run(names: list[str], args: argparse.Namespace) -> int:
    total = wrong = 0
    known: set[tuple[str, str]] = set()
    end = time.monotonic() + args.seconds
    for at, name in enumerate(names):
        start = time.monotonic()
        until = start + max(end - start, 0) / (len(names) - at)
        ran = 0
        for one in fuzz(TARGETS[name], args.seed, first=args.first, count=args.inputs, until=until):
            if isinstance(one, int):
                ran = one
            elif (name, one.key) not in known:
                known.add((name, one.key))
                wrong += 1
                where = _keep(one) if not args.dry_run else one.key
                print(f"FOUND {name} #{one.number}: {where} ({len(one.data)} bytes)\n{one.text}")
        total += ran
        took = time.monotonic() - start
        print(f"{name:12} seed {args.seed}  {ran:8} inputs in {took:6.1f} s", flush=True)
    print(f"{total} inputs, {wrong} findings, seed {args.seed}")
    return 1 if wrong else 0


def _replay(names: list[str]) -> int:
    _limit()
    count = wrong = 0
    for name in names:
        for path in sorted((CORPUS / name).glob("*")):
            count += 1
            found = outcome(TARGETS[name], path.read_bytes())
            if found is not None:
                wrong += 1
                print(f"FOUND {name}: {path}: {found[0]}\n{found[1]}")
    print(f"{count} inputs, {wrong} findings")
    return 1 if wrong else 0


def main() -> int:
    """Run the command line and return its exit status: 1 if something was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=1 << 40, help="most inputs of a target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--replay", action="store_true", help="run the kept corpus only")
    parser.add_argument("--dry-run", action="store_true", help="do not keep findings")
    args = parser.parse_args()
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]!r}")
    names = args.targets or list(TARGETS)
    return _replay(names) if args.replay else _run(names, args)


if __name__ == "__main__":
    sys.exit(main())
