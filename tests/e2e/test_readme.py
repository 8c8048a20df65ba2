"""README is true: its library examples run and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.features import Feature

ROOT = Path(__file__).resolve().parents[2]


def blocks(language: str) -> list[str]:
    """Fenced code blocks of README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.mark.first_on("latest")
@pytest.mark.needs(Feature.FENTRY)
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_example_runs(number: int) -> None:
    """Each Python block of README, run as a program from the checkout's root."""
    block = blocks("python")[number]
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if "as by_slots" in block:
        assert "standard fexit [2, 3, 0, 0, 0, 0] 5" in done.stdout
        assert "exit_slots [2, 3, 0, 0, 0, 0] 5" in done.stdout
        assert "exit_helpers [2, 3, 0, 0, 0, 0] 5" in done.stdout
        assert "entry_slots [2, 3, 0, 0, 0, 0] 0" in done.stdout
    if "fentry_args.bpf.o" in block and "vfs_*" in block:
        assert "2 [2, 3, 0, 0, 0, 0] 0" in done.stdout
        assert "10 [2, 3, 0, 0, 0, 0] 5" in done.stdout
        assert re.search(r"on_exit_ret \(fexit.multi\): \d+ functions?, ", done.stdout)
    if "attach_uprobe(" in block:
        assert re.search(r"^runs \{0: 0, 1: 0, 2: [1-9]", done.stdout, re.M)
        assert re.search(r'^1 p1 \{"seq": 1, .*"comm": "p1"\}$', done.stdout, re.M)
