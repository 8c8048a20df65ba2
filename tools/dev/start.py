"""Run a tool of the checkout with the checkout's environment, for the starters in tools/."""

from __future__ import annotations

import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["start", "use_venv"]

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def use_venv(root: str = ROOT) -> None:
    """Start again with the Python of the checkout's .venv if this one lacks capstone.

    Does nothing without a .venv that this user may run, because many commands need no capstone.
    """
    venv = os.path.join(root, ".venv")
    if sys.prefix == venv:
        return
    from importlib.util import find_spec  # 2 ms

    python = os.path.join(venv, "bin", "python")
    if find_spec("capstone") is None and os.access(python, os.X_OK):
        os.execv(python, [python, *sys.orig_argv[1:]])


def start(name: str, module: str) -> NoReturn:
    """Run the tool whose `main` is in a module, and end the process with its status.

    :param name: its name in messages
    """
    use_venv()
    from pybpf.tools.entry import run

    def main() -> int:
        status: int = import_module(module).main()  # here: the import may be interrupted
        return status

    run(name, main)
