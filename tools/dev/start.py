"""How the starters in tools/ run a tool of the checkout, with the checkout's environment."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

__all__ = ["start", "use_venv"]

ROOT = Path(__file__).resolve().parents[2]


def use_venv(root: Path = ROOT) -> None:
    """Start again with the Python of the checkout's .venv if this one lacks capstone.

    Does nothing where there is no .venv that this user may run: many commands need no capstone.
    """
    venv = root / ".venv"
    if importlib.util.find_spec("capstone") is not None or Path(sys.prefix) == venv:
        return
    python = venv / "bin" / "python"
    if os.access(python, os.X_OK):
        os.execv(python, [str(python), *sys.orig_argv[1:]])


def start(name: str, module: str) -> NoReturn:
    """Run the tool whose `main` is in a module, and end the process with its status.

    :param name: what its messages call it
    """
    use_venv()
    from pybpf.tools.entry import run

    def main() -> int:
        status: int = import_module(module).main()  # here: importing is long enough to interrupt
        return status

    run(name, main)
