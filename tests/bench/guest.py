"""Run a benchmark's part in a guest whose clock counts instructions, and get its figures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "figures"]

ROOT = Path(__file__).resolve().parents[2]


def figures(
    row: str, module: str, *arguments: str, timeout: int, extra: str = ""
) -> list[dict[str, Any]]:
    """Run ``python3 -m tests.bench.MODULE`` and return the JSON objects that it printed.

    :param row: kernel row of the guest
    :param timeout: seconds for the guest
    :param extra: what the guest has besides (``vagrant/vm --with``)
    :raises RuntimeError: with the end of its output if it failed
    """
    command = [str(ROOT / "vagrant/vm"), "--quiet", "--kernel", row, "--icount"]
    command += ["--with", extra] if extra else []
    command += ["--timeout", str(timeout), "--", "python3", "-m", f"tests.bench.{module}"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode:
        said = "\n".join([line for line in lines if not line.startswith("{")][-20:])
        raise RuntimeError(f"row {row}: status {done.returncode}: {said}")
    return [json.loads(line) for line in lines if line.startswith("{")]
