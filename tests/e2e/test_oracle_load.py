"""Load the programs of packaged objects, each by itself: the kernel's answers are libbpf's.

The objects are not ours: tests/support/objects.py downloads them. tests/data/oracle has what
libbpf got from Debian's 6.12 kernel for each of their 444 programs. On the other rows Debian's
bpftool is asked in the same guest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import rows
from tests.support.objects import Unavailable, must_have, packaged

pytestmark = [pytest.mark.rows("host"), pytest.mark.long]  # it starts the guests

ROOT = rows.ROOT
ORACLE = ROOT / "tests/data/oracle/relocated-6.12.txt"
RECORDED = "6.12"
TIME_LIMIT = 2400  # seconds for all programs in an emulated guest

# Runs in the guest. bpftool loads an object as a whole, so it gives one answer for each.
SCRIPT = r"""
import json, os, pathlib, shutil, subprocess, sys
from pybpf.tools import bpfobj
out = {}
for path in sorted(pathlib.Path(os.environ["IN"]).glob("*.bpf.o")):
    report = bpfobj.load(str(path))["programs"]
    row = out[path.name.partition(".")[0]] = {"programs": report, "bpftool": None}
    if sys.argv[1:] and not all(program["ok"] for program in report.values()):
        pins = "/sys/fs/bpf/oracle"
        done = subprocess.run(
            ["bpftool", "prog", "loadall", str(path), pins], capture_output=True, check=False
        )
        row["bpftool"] = done.returncode == 0
        shutil.rmtree(pins, ignore_errors=True)
pathlib.Path(os.environ["OUT"], "loaded.json").write_text(json.dumps(out))
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every packaged object that the oracle knows."""
    try:
        found = packaged()
    except Unavailable as error:
        if must_have():
            pytest.fail(str(error))
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("objects")
    for sha256 in recorded():
        if sha256 in found:
            shutil.copy(found[sha256].path, folder / f"{sha256}.bpf.o")
    return folder


def recorded() -> dict[str, dict[str, int]]:
    """What libbpf got for each program, by object: 0, or the errno."""
    programs: dict[str, dict[str, int]] = {}
    for line in ORACLE.read_text().splitlines():
        if not line.startswith("#"):
            sha256, name, errno, _, _ = line.split()
            programs.setdefault(sha256, {})[name] = int(errno)
    return programs


def load_all(row: str, objects: Path, out: Path, *extra: str) -> dict[str, Any]:
    """What each object's programs got in a guest."""
    done = subprocess.run(
        [
            *(str(ROOT / "vagrant/vm"), "--kernel", row, "--timeout", str(TIME_LIMIT)),
            *("--in", str(objects), "--out", str(out)),
            *(word for name in extra for word in ("--with", name)),
            *("--", "python3", "-c", SCRIPT, *extra),
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    report: dict[str, Any] = json.loads((out / "loaded.json").read_text())
    return report


@pytest.mark.time_limit(TIME_LIMIT + 300)
def test_the_verdicts_are_libbpfs(objects: Path, tmp_path: Path) -> None:
    """On 6.12 each program loads, or is refused, as it was with libbpf, with the same errno."""
    loaded = load_all(RECORDED, objects, tmp_path / "out")
    different = [
        f"{sha256[:8]} {name}: errno {got['errno']}, libbpf {errno}: {got['reason']}"
        for sha256, programs in recorded().items()
        if sha256 in loaded
        for name, errno in programs.items()
        if (got := loaded[sha256]["programs"][name])["errno"] != errno
    ]
    assert not different, "\n".join(different)
    assert len(loaded) > len(recorded()) // 2


@pytest.mark.time_limit(TIME_LIMIT + 300)
@pytest.mark.parametrize("row", [row for row in rows.names() if row != RECORDED])
def test_bpftool_fails_too(objects: Path, tmp_path: Path, row: str) -> None:
    """On other kernels an object with a refused program is one that bpftool cannot load."""
    loaded = load_all(row, objects, tmp_path / "out", "bpftool")
    ours_only = [
        f"{sha256[:8]} {name}: {program['reason']}"
        for sha256, one in loaded.items()
        if one["bpftool"]
        for name, program in one["programs"].items()
        if not program["ok"]
    ]
    assert not ours_only, "\n".join(ours_only)
    assert len(loaded) > len(recorded()) // 2
