"""All benchmarks, or those named: ``python -m tests.bench [maps] [ringbuf] ...``.

Each ``bench_NAME.py`` has a ``main()`` that returns or prints the rows of its report.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """Run them one after the other; 0, or 1 if one failed, 2 for an unknown name."""
    here = Path(__file__).parent
    known = sorted(path.stem.removeprefix("bench_") for path in here.glob("bench_*.py"))
    unknown = set(names) - set(known)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    load = os.getloadavg()[0]
    print(f"best of several rounds; goals are ratios of minima (load before: {load:.1f})")
    failed = False
    for name in names or known:
        print()
        try:
            rows = importlib.import_module(f"tests.bench.bench_{name}").main()
        except Exception as err:
            print(f"bench_{name}: {type(err).__name__}: {err}")
            failed = True
        else:
            print("\n".join(rows or []), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
