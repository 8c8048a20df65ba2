"""The example unit of funcwatch under a real systemd: minutes, so `make vagrant-test` only."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

from tests.support.rows import ROOT


def test_the_unit_in_a_machine(tmp_path: Path) -> None:
    """It ran there, and passed."""
    command = [ROOT / "vagrant/e2e", "6.12", "--out", tmp_path, "--", "tests/vagrant/unit.py"]
    assert subprocess.run(command, check=False).returncode == 0
    (suite,) = ElementTree.parse(tmp_path / "6.12/junit.xml").iter("testsuite")
    assert (suite.get("tests"), suite.get("skipped")) == ("1", "0")
