"""``python3 tools/retsnoop`` from a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

_TOOLS = Path(__file__).resolve().parent.parent
# Python put this directory in front; its modules must not hide others.
sys.path[:1] = [str(_TOOLS.parent), str(_TOOLS)]

from toolmain import run  # noqa: E402


def _main() -> int:
    from retsnoop.cli import main  # here, for it takes long enough to be interrupted

    return main()


run("retsnoop", _main)
