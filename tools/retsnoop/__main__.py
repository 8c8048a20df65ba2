"""``python3 tools/retsnoop`` from a checkout."""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parents[2])]

from tools.dev.start import start  # noqa: E402  (the path is set above)

start("retsnoop", "pybpf.tools.retsnoop.cli")
