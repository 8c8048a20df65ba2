#!/usr/bin/env python3
"""``python3 tools/build.py`` from a checkout; the tool itself is pybpf/tools/build.py."""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parents[1])]

from tools.dev.start import start  # noqa: E402  (the path is set above)

start("build.py", "pybpf.tools.build")
