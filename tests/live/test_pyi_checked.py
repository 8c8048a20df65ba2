"""`pybpf obj pyi`: a type checker takes the stub, and finds wrong names and values with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.tools import bpfobj

# It needs mypy, which guests do not have, and takes too long for tests/unit.
pytestmark = [pytest.mark.rows("host"), pytest.mark.unprivileged]

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"

# mypy prints the type at each reveal_type(), and must reject each line marked "# wrong".
PROGRAM = """\
from typing import TYPE_CHECKING, cast
import pybpf
if TYPE_CHECKING:
    from kinds import Object
    from events import Object as Events

def use(source: pybpf.Object) -> None:
    obj = cast("Object", source)
    value = obj.maps["hash"][(1, 2, 3)]
    reveal_type(value.packets)
    reveal_type(value.name)
    reveal_type(obj.maps["lru_hash"][1])
    for key, one in obj.maps["hash"].items():
        print(key.port, one.delta)
    obj.maps["hsah"]  # wrong
    obj.programs["no such"]  # wrong
    value.packet  # wrong
    events = cast("Events", source)
    reveal_type(events.globals.limits.low)
    events.globals.limits = {"low": 1}
    events.globals.step = "one"  # wrong
    events.globals.missing  # wrong
"""


def test_mypy_reads_it(tmp_path: Path) -> None:
    """mypy --strict takes the stubs, knows the types and finds wrong names and values."""
    for name, file in (("kinds", "map_kinds"), ("events", "map_events")):
        out = str(tmp_path / f"{name}.pyi")
        assert bpfobj.main(["pyi", str(DATA / f"{file}.bpf.o"), "-o", out]) == 0
    for path in DATA.glob("*.bpf.o"):  # those that are refused leave no stub
        bpfobj.main(["pyi", str(path), "-o", str(tmp_path / f"{path.name.partition('.')[0]}.pyi")])
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache")]
        + ["--no-error-summary", str(program), *map(str, tmp_path.glob("*.pyi"))],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.splitlines()
    shown = [line.split('"')[1] for line in said if "Revealed type" in line]
    assert [one.rpartition(".")[2] for one in shown] == ["int", "CharArray", "int", "int"]
    lines = PROGRAM.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    # pybpf itself is checked with its own configuration, by `make lint`.
    errors = [line for line in said if ": error:" in line and not line.startswith(str(ROOT))]
    assert all(line.startswith("program.py:") for line in errors), done.stdout
    assert {int(line.split(":")[1]) for line in errors} == wrong, done.stdout + done.stderr
