"""The pages under docs/ are true: each Python example runs as it is printed there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.features import Feature

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [
    pytest.param(page.name, number, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for number in range(page.read_text().count("\n```python\n"))
]
# What an example must print, by page and number.
SAYS = {
    ("losses.md", 0): r"lost: (\d+|unknown|at least \d+)",
    ("multi-programs.md", 0): r"on_exit_ret \(fexit\.multi\): \d+ functions?, ",
    ("multi-programs.md", 1): r"do_exit noreturn\nno_such_fn not-found\n",
    ("multi-programs.md", 2): r"101 \[1, 0, 0, 0, 0, 0\] 2\n102 \[2, 3, 0, 0, 0, 0\] 5\n",
    ("tracing-24-7.md", 0): r"2 functions traced, 1 skipped\nno_such_fn: .*\nlost: ",
}


def test_every_example_has_its_words() -> None:
    """No example is added without saying what it prints."""
    assert {(page, number) for page, number in (p.values for p in EXAMPLES)} == SAYS.keys()


@pytest.mark.first_on("latest")
@pytest.mark.needs(Feature.FENTRY)
@pytest.mark.parametrize(("page", "number"), EXAMPLES)
def test_example_runs(page: str, number: int) -> None:
    """Each Python block of a page, run as a program from the checkout's root."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", blocks[number]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[page, number], done.stdout), done.stdout
