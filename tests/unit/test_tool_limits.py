"""Tools under limits: few descriptors, little memory, and outputs that fail.

Each command that works without privileges runs as a process of its own. Either it does its work, or
it ends with a true status and one clear line.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pybpf.btf.encode import BtfBuilder
from pybpf.btf.types import Func, FuncProto, Int
from pybpf.tools.table import TOOLS
from tests.support.savedfacts import saved_facts

ROOT = Path(__file__).resolve().parents[2]
OBJECT = "tests/data/obj_maps.bpf.o"
BTF = "tests/data/core_target.bpf.o"
DESCRIPTORS, MEMORY = 64, 200 << 20

COMMANDS = [
    ["--help"],
    *([tool.name, "--help"] for tool in TOOLS),
    ["obj", "inspect", OBJECT],
    ["obj", "relocate", OBJECT, "--btf", BTF, "--json"],
    ["btf", "dump", BTF, "--format", "c"],
    ["btf", "find", "*", BTF, "--json"],
    ["trampolines", "plan", "fexit.multi/vfs_*", "--facts", "FACTS", "-v"],
    ["trampolines", "why", "vfs_read", "--facts", "FACTS"],
    ["features", "--facts", "FACTS", "--json"],
    ["completion", "bash"],
    ["man", "obj"],
]
IDS = [" ".join(command[:2]) for command in COMMANDS]


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> str:
    builder = BtfBuilder()
    proto = builder.add(FuncProto(builder.add(Int("int", 4, 32)), ()))
    for name in ("vfs_read", "vfs_write", "vfs_unlink", "vfs_rmdir"):
        builder.add(Func(name, proto, 0))
    path = tmp_path_factory.mktemp("limits") / "facts"
    path.write_text(json.dumps(saved_facts(raw_btf=builder.build())))
    return str(path)


def _limited(memory: int, then: Callable[[], object] = lambda: None) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    then()


def run(
    command: list[str],
    facts: str,
    *,
    stdout: int = subprocess.PIPE,
    memory: int = MEMORY,
    then: Callable[[], object] = lambda: None,
) -> subprocess.CompletedProcess[str]:
    words = [facts if word == "FACTS" else word for word in command]
    return subprocess.run(
        [sys.executable, "-m", "pybpf", *words],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(_limited, memory, then),
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_few_descriptors_and_little_memory(command: list[str], facts: str) -> None:
    """64 descriptors and 200 MB of addresses are enough for all of them."""
    done = run(command, facts)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("command", COMMANDS[::2], ids=IDS[::2])
def test_a_full_disk(command: list[str], facts: str) -> None:
    """The status is 1, and one line says why."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = run(command, facts, stdout=full)
    finally:
        os.close(full)
    assert done.returncode == 1
    assert done.stderr.endswith(": standard output: No space left on device\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS[::4], ids=IDS[::4])
def test_a_closed_output(command: list[str], facts: str) -> None:
    """No file that is opened later gets its number."""
    done = run(command, facts, stdout=subprocess.DEVNULL, then=lambda: os.close(1))
    assert done.returncode == 1
    assert done.stderr.endswith(": standard output: Bad file descriptor\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS[2::4], ids=IDS[2::4])
def test_a_reader_that_went_away(command: list[str], facts: str) -> None:
    """Silence and 141, as a shell gives for SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(command, facts, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_too_little_memory(tmp_path: Path) -> None:
    """One line instead of a traceback."""
    big = tmp_path / "big.btf"
    with big.open("wb") as file:
        file.truncate(1 << 30)
    done = run(["btf", "dump", str(big)], "")
    assert done.returncode == 1
    assert done.stderr == "pybpf: not enough memory\n"
