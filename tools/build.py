#!/usr/bin/env python3
"""``python3 tools/build.py`` from a checkout; the tool itself is pybpf/tools/build.py."""

import os
import sys

sys.path[:1] = [os.path.dirname(os.path.dirname(os.path.realpath(__file__)))]

from tools.dev.start import start  # noqa: E402  (the path is set above)

start("build.py", "pybpf.tools.build")
