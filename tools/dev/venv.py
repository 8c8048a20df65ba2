"""Make or refresh `.venv` with what pyproject.toml names: `python3 tools/dev/venv.py`.

Standard library only. It prints nothing and takes no time if the environment has what
pyproject.toml asks for. It never removes an environment that works.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "requirements"]

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = CHECKOUT / ".venv"


def requirements() -> list[str]:
    """List dependencies with every extra, and every dependency group: what a checkout needs."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    groups: dict[str, list[str]] = project.get("dependency-groups", {})
    extras: dict[str, list[str]] = project["project"].get("optional-dependencies", {})
    more = [*extras.values(), *groups.values()]
    return [*project["project"]["dependencies"], *(r for group in more for r in group)]


def works(python: Path) -> bool:
    """Return True if this environment's Python starts and has pip."""
    if not python.exists():
        return False
    command = [str(python), "-c", "import sys, pip; sys.exit(sys.version_info < (3, 11))"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def base_pythons() -> list[str]:
    """List interpreters to make the environment from: the running one, then Debian's own."""
    found = [sys.executable, "/usr/bin/python3"]
    return [p for p in dict.fromkeys(found) if p and os.access(p, os.X_OK)]


def create() -> None:
    """Make a new environment with the first Python that can."""
    for base in base_pythons():
        command = [base, "-m", "venv", "--clear", str(VENV)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and works(VENV / "bin/python"):
            return
        print(f"venv: {base}: {(done.stderr or done.stdout).strip()}", file=sys.stderr)
    raise SystemExit("venv: no Python 3.11 with venv here: run vagrant/host.sh python")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or refresh `.venv`. Return 0 if it is as it should be."""
    if list(sys.argv[1:] if arguments is None else arguments):
        print("usage: python3 tools/dev/venv.py", file=sys.stderr)
        return 2
    wanted = requirements()
    python = VENV / "bin/python"
    stamp = VENV / ".pybpf-stamp"
    inputs = json.dumps([wanted, str(CHECKOUT)])
    digest = hashlib.sha256(inputs.encode()).hexdigest()
    if stamp.exists() and stamp.read_text().strip() == digest and python.exists():
        return 0
    if not works(python):
        print("venv: creating .venv", file=sys.stderr)
        create()
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "-q", *wanted], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        return 1
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(site) / "pybpf-checkout.pth").write_text(f"{CHECKOUT}\n")
    stamp.write_text(digest + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
