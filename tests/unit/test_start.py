"""What a tool imports before it has read its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.btf import BtfKind
from pybpf.tools import btf
from pybpf.tools.table import TOOLS

ROOT = Path(__file__).resolve().parents[2]
# Each takes milliseconds that --help need not spend: numbers beside the lazy imports.
HEAVY = {"ctypes", "dataclasses", "inspect", "json", "pathlib", "shutil", "tempfile", "typing"}
# retsnoop's and trampolines' options are checked by modules that know functions and costs.
WORK = {"pybpf._sys", "pybpf.kernel.host", "pybpf.loader", "pybpf.obj", "pybpf._uapi.structs"}


def imported(code: str) -> set[str]:
    text = f"{code}\nimport json, sys as s; s.stderr.write(json.dumps(was))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", text], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names: list[str] = json.loads(done.stderr)
    return set(names)


@pytest.mark.parametrize("tool", [tool.name for tool in TOOLS if tool.name != "build"])
def test_help_imports_little(tool: str) -> None:
    """--help of each tool imports neither what the tool works with nor heavy standard modules."""
    code = (
        "import sys; from pybpf.tools.main import main\n"
        f"try: main([{tool!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "was = sorted(sys.modules)"
    )
    assert imported(code) & (HEAVY | WORK) == set()


def test_help_of_build_imports_no_work() -> None:
    """It runs other programs and writes files; still it reads no object for --help."""
    code = (
        "import sys; from pybpf.tools.main import main\n"
        "try: main(['build', '--help'])\n"
        "except SystemExit: pass\n"
        "was = sorted(sys.modules)"
    )
    assert imported(code) & WORK == set()


def test_import_of_the_package_is_free() -> None:
    """`import pybpf` loads nothing but the package and its helper for lazy names."""
    names = imported("import sys, pybpf; was = sorted(sys.modules)")
    assert names & (HEAVY | WORK | {"re", "enum", "functools", "argparse"}) == set()


@pytest.mark.parametrize(
    ("command", "needless"),
    [
        # It prints from the table of sections, and reads the kernel's BTF, if the object asks.
        ("inspect", {"ctypes", "pybpf.kernel.btf", "pybpf.links.link", "pybpf.maps", "pybpf._sys"}),
        ("load", {"pybpf.links.link", "pybpf.kernel.kallsyms", "pybpf.kernel.probes"}),
        ("load", {"pybpf.usdt", "pybpf._sys.info", "pybpf.kernel.ftrace", "pybpf.features"}),
    ],
)
def test_an_objects_commands_import_what_they_use(command: str, needless: set[str]) -> None:
    """Not the families of links, nor what reads symbols, functions and probes."""
    code = (
        "import sys; from pybpf.tools.main import main\n"
        f"main(['obj', {command!r}, 'tests/data/obj_maps.bpf.o'])\n"
        "was = sorted(sys.modules)"
    )
    assert imported(code) & needless == set()


def test_kinds_of_btf_are_all_kinds() -> None:
    """The tool's choices, written out so that --help need not import BTF, are BtfKind's."""
    assert tuple(kind.name.lower() for kind in BtfKind if kind) == btf.KINDS
