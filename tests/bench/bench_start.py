"""Start of the tools: CPU time of whole processes, against the bare interpreter.

``python -m tests.bench start``. Processes take turns and the least of each counts. Byte code is
cached, as where pybpf is installed, in a directory of this run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pybpf.tools.table import TOOLS

ROOT = Path(__file__).resolve().parents[2]
OBJECT = ROOT / "tests/data/obj_maps.bpf.o"
ROUNDS = 9
RUN = "from pybpf.tools.main import run; run()"
# Goals in milliseconds where the bare interpreter takes 12.
GOALS = {"--help": 45, "inspect": 70, "load": 70}
BARE_OF_GOALS = 12


def cpu(command: list[str], environment: dict[str, str]) -> float:
    """CPU time of a process in milliseconds, user and system."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    pid = os.posix_spawn(command[0], command, environment, file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    if status not in (0, 1 << 8):
        raise RuntimeError(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> list[str]:
    """Rows of the report."""
    python = sys.executable
    commands: dict[str, list[str]] = {
        "bare interpreter": [python, "-c", "pass"],
        "import pybpf": [python, "-c", "import pybpf"],
    }
    for tool in TOOLS:
        commands[f"pybpf {tool.name} --help"] = [python, "-c", RUN, tool.name, "--help"]
    for name in ("inspect", "load"):
        commands[f"pybpf obj {name}"] = [python, "-c", RUN, "obj", name, str(OBJECT)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        least = dict.fromkeys(commands, float("inf"))
        for _ in range(ROUNDS):
            for name, command in commands.items():
                least[name] = min(least[name], cpu(command, environment))
    bare = least["bare interpreter"]
    rows = [f"{'CPU ms of a whole process':<34} {'ms':>8}   of the bare interpreter"]
    for name, took in least.items():
        row = f"{name:<34} {took:>8.1f} {took / bare:>7.2f}x"
        goal = GOALS.get(name.split()[-1])
        if goal is not None:
            ratio = goal / BARE_OF_GOALS
            row += f"   goal <= {ratio:.2f}x {'ok' if took / bare <= ratio else 'MISSED'}"
        rows.append(row)
    return rows


if __name__ == "__main__":
    print("\n".join(main()))
