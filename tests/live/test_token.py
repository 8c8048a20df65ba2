"""Load objects in a user namespace, with rights that a bpf file system delegates to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf.features import Feature
from tests.support import rows

pytestmark = [
    pytest.mark.rows("host", "6.12", "latest"),
    pytest.mark.first_on("host", "latest"),
    pytest.mark.needs("token"),
]

EVERYTHING = "delegate_cmds=any,delegate_maps=any,delegate_progs=any,delegate_attachs=any"

# Says what came of it as JSON.
SCRIPT = """
import json, os, sys
import pybpf
def attempt(file, program, **options):
    try:
        with pybpf.open(file, **options) as obj:
            obj.load()
            ran = obj.programs[program].test_run(bytes(64)).retval if program else None
            inner = [m.new_inner().created for m in obj.maps.values() if m.spec.inner is not None]
            return {"ran": ran, "btf": obj.btf_error is None, "inner": inner}
    except pybpf.BpfError as error:
        return {"error": type(error).__name__, "errno": error.errno, "text": str(error)}
print(json.dumps([attempt(*one[:2], **one[2]) for one in json.loads(sys.argv[1])]))
"""
MULTI = """
import pybpf
with (
    pybpf.open("tests/data/fentry_args.bpf.o") as standard,
    pybpf.open("tests/data/multi.bpf.o") as multi,
):
    standard.load()
    multi.load()
    with (
        standard.programs["exit2"].attach(),
        multi.programs["on_exit"].attach_multi(["bpf_fentry_test2"]) as link,
    ):
        standard.programs["exit2"].test_run()
        seen, slots = standard.maps["seen"][10], multi.maps["exit_slots"][0]
        print([seen.ret, slots.ret, list(slots.args)[:3], len(link.skipped)])
"""


def run_inside(
    folder: Path | str, options: str, *command: str, path: str = "", status: int = 0
) -> str:
    """What Python says in the namespace."""
    environment = {**os.environ, "LIBBPF_BPF_TOKEN_PATH": path} if path else dict(os.environ)
    start = [sys.executable, "-m", "tests.support.delegated", str(folder), options]
    done = subprocess.run(
        [*start, sys.executable, "-c", *command],
        cwd=rows.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def inside(
    folder: Path | str, options: str, *loads: tuple[str, str, dict[str, Any]], path: str = ""
) -> list[dict[str, Any]]:
    """What comes of loading these objects there and running a program of each."""
    said: list[dict[str, Any]] = json.loads(
        run_inside(folder, options, SCRIPT, json.dumps(loads), path=path)
    )
    return said


EVENTS = ("tests/data/map_events.bpf.o", "offer")


def test_with_and_without(tmp_path: Path) -> None:
    """With the token everything of an object is made, its BTF and inner maps, too; without it
    nothing is."""
    here = {"bpf_token_path": str(tmp_path)}
    program, maps, without = inside(
        tmp_path,
        EVERYTHING,
        (*EVENTS, here),
        ("tests/data/map_kinds.bpf.o", "", here),
        (*EVENTS, {"bpf_token_path": ""}),
    )
    assert program == {"ran": 0, "btf": True, "inner": []}
    assert maps["btf"] is True and maps["inner"] and all(maps["inner"])
    assert without["error"] == "DeniedByPolicy"


def test_where_the_path_comes_from(tmp_path: Path) -> None:
    """From the environment as for libbpf; else from the usual place, which may also give none."""
    (from_environment,) = inside(tmp_path, EVERYTHING, (*EVENTS, {}), path=str(tmp_path))
    assert from_environment["btf"] is True
    (usual,) = inside("/sys/fs/bpf", EVERYTHING, (*EVENTS, {}))
    assert usual["btf"] is True
    (nothing,) = inside("/sys/fs/bpf", "", (*EVENTS, {}))
    assert nothing["error"] == "DeniedByPolicy"


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    """No such folder, another file system, nothing delegated, only some rights delegated."""
    here = {"bpf_token_path": str(tmp_path)}
    missing, other = inside(
        tmp_path,
        EVERYTHING,
        (*EVENTS, {"bpf_token_path": f"{tmp_path}/no"}),
        (*EVENTS, {"bpf_token_path": "/proc"}),
    )
    assert f"BPF token of '{tmp_path}/no': ENOENT: No such file" in missing["text"]
    assert "not the root of a bpf file system" in other["text"]
    (empty,) = inside(tmp_path, "", (*EVENTS, here))
    assert "it delegates nothing" in empty["text"]
    (maps,) = inside(tmp_path, "delegate_cmds=map_create,delegate_maps=any", (*EVENTS, here))
    assert maps["error"] == "DeniedByPolicy" and "delegate_cmds=btf_load" in maps["text"]
    (programs,) = inside(
        tmp_path, "delegate_cmds=map_create:btf_load:prog_load,delegate_maps=any", (*EVENTS, here)
    )
    assert "BPF_PROG_LOAD 'offer'" in programs["text"] and "delegate_progs=" in programs["text"]


def test_outside_of_containers(tmp_path: Path) -> None:
    """The first user namespace has no tokens. A path that was given has to work, others do not."""
    with pybpf.open(EVENTS[0], bpf_token_path="/sys/fs/bpf") as obj:
        with pytest.raises(pybpf.BpfError, match="the first user namespace") as info:
            obj.load()
        assert EVENTS[0] in str(info.value)
    with (
        pybpf.open(EVENTS[0], bpf_token_path="a\0b") as obj,
        pytest.raises(pybpf.BpfError, match="where a bpf file system is mounted"),
    ):
        obj.load()
    with pybpf.open(EVENTS[0]) as obj:
        obj.load()
        assert obj.binding.token_fd == 0


@pytest.mark.needs(Feature.FENTRY)
@pytest.mark.parametrize("where", ["environment", "usual"])
def test_tools(where: str, tmp_path: Path) -> None:
    """A tool that plans before it loads anything traces, too."""
    folder = str(tmp_path) if where == "environment" else "/sys/fs/bpf"
    command = ["retsnoop", "-e", "do_sys_openat2", "--", "cat", "/no/such/file"]
    code = "import sys; from pybpf.tools.main import main; sys.exit(main(sys.argv[1:]))"
    said = run_inside(
        folder, EVERYTHING, code, *command, path=folder if where == "environment" else "", status=1
    )
    assert "[-ENOENT]  do_sys_openat2" in said


@pytest.mark.needs(Feature.FENTRY, Feature.TRACING_TEST_RUN)
def test_multi_programs(tmp_path: Path) -> None:
    """A multi program and a standard one are attached to one function, and both are right."""
    said = run_inside(tmp_path, EVERYTHING, MULTI, path=str(tmp_path))
    assert json.loads(said) == [5, 5, [2, 3, 0], 0]
