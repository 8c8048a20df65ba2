"""What retsnoop prints in each mode and format: compared with the golden texts of the row.

What was printed goes to $OUT/golden/ROW/retsnoop-CASE.txt. Where the text changed because it was
meant to, take the new ones with --update-golden and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybpf.features import Feature
from pybpf.tools.retsnoop import run
from pybpf.tools.retsnoop.events import Event, decode
from tests.support import rows
from tests.support.golden_files import check
from tests.support.golden_snoop import CASES, NAME, WORKLOAD, Case, normalise, path_of, steady
from tests.support.snoop import Snoop, runner

pytestmark = [
    pytest.mark.rows(*rows.names()),  # no other kernel has golden texts
    pytest.mark.needs(Feature.FENTRY, Feature.KPROBE),
    pytest.mark.first_on("6.12"),
]


@pytest.fixture
def snoop(capfd: pytest.CaptureFixture[str]) -> Snoop:
    return runner(capfd)


def keep(row: str, case: Case, text: str) -> None:
    """Leave the text for the person who started the run."""
    if out := os.environ.get("OUT"):
        path = Path(out, "golden", row, path_of(row, case).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_text(
    case: Case,
    kernel_row: str,
    snoop: Snoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    """One file that is missing and one that is there, on a kernel, byte by byte."""

    def decoded(record: bytes | memoryview) -> Event:
        return steady(decode(record))

    monkeypatch.setattr(run, "decode", decoded)
    file = tmp_path / "trace.json"
    options = [*case.options, "-n", NAME, *(["--trace-out", str(file)] if case.file else [])]
    done = snoop(*options, command=WORKLOAD)
    assert done.returncode == 0
    said = file.read_text() if case.file else done.stdout
    found = normalise(f"{said}-- standard error:\n{done.stderr}")
    keep(kernel_row, case, found)
    if pytestconfig.getoption("update_golden"):
        return
    check(
        path_of(kernel_row, case),
        found,
        f"kernel {kernel_row}",
        f"pytest tests/e2e/test_retsnoop_golden.py --kernel={kernel_row} --update-golden",
        "Check that every changed line is meant, then take the new text with",
    )
