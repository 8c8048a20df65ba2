"""``python3 tools/funcwatch`` from a checkout."""

import os
import sys

sys.path[:1] = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))]

from tools.dev.start import start  # noqa: E402  (the path is set above)

start("funcwatch", "pybpf.tools.funcwatch.cli")
