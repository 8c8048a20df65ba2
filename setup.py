"""Write man pages and shell completion from the tools' own parsers, whenever a wheel is built.

They are not committed, so they cannot be stale. Everything else is in pyproject.toml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from pybpf.tools import completion, manpages  # noqa: E402  (the path is set above)
from pybpf.tools.main import all_pages  # noqa: E402

os.chdir(ROOT)
PAGES = Path("build/pages")
PAGES.mkdir(parents=True, exist_ok=True)
root = all_pages()
files = {"share/bash-completion/completions": {root.name: completion.bash(root)}}
files["share/man/man1"] = manpages.files(root)
data = []
for folder, texts in files.items():
    for name, text in texts.items():
        (PAGES / name).write_text(text)
        data.append((folder, [str(PAGES / name)]))
setup(data_files=data)
