"""``python3 tools/retsnoop`` from a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

_TOOLS = Path(__file__).resolve().parent.parent
# Python put this directory in front; its modules must not hide others.
sys.path[:1] = [str(_TOOLS.parent), str(_TOOLS)]

from toolmain import run  # noqa: E402

from retsnoop.cli import main  # noqa: E402

run("retsnoop", main)
