"""`trampolines.py plan` predicts what attaching does. `why` explains what it would not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf.features import Feature
from tests.support.require import facts

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.needs(Feature.FENTRY), pytest.mark.first_on("6.12")]


def tool(*args: str, status: int = 0, user: int | None = None) -> Any:
    done = subprocess.run(
        [sys.executable, "tools/trampolines.py", *args, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def without_times(plan: dict[str, Any]) -> dict[str, Any]:
    """All but the predicted seconds: each process measures how fast the machine is."""
    return {**plan, "cost": {"insns_per_call": plan["cost"]["insns_per_call"]}}


def test_plan_is_what_attach_does() -> None:
    """Same groups, mechanisms, images and functions, with the program of an object."""
    source = "tests/data/multi.bpf.o"
    shown = tool("plan", "--object", source, "--program", "on_exit_ret", "fexit.multi/vfs_f*")
    with (
        pybpf.open(ROOT / source, facts=facts()) as obj,
        obj.programs["on_exit_ret"].attach_multi("vfs_f*") as link,
    ):
        done = json.loads(link.plan.to_json())
        assert {t.name for t in link.targets} == {t for g in shown["groups"] for t in g["targets"]}
    assert shown["groups"] == done["groups"]
    assert without_times(shown)["cost"] == without_times(done)["cost"]


def test_plan_of_a_section_reads_everything() -> None:
    """Without an object: a program of six slots and the return value."""
    shown = tool("plan", "fexit.multi/bpf_fentry_test?", "--mechanism", "trampoline")
    assert {g["mechanism"] for g in shown["groups"]} == {"trampoline"}
    assert sum(len(g["targets"]) for g in shown["groups"]) >= 8


def test_plan_for_saved_facts(tmp_path: Path) -> None:
    """Facts of this kernel, saved: the same plan, as on another machine."""
    path = tmp_path / "facts.json"
    subprocess.run(
        [sys.executable, "tools/features.py", "--save", str(path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    # There by somebody who may do nothing here.
    for folder in (path.parent, *path.parent.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    path.chmod(0o644)
    there = tool("plan", "fentry.multi/vfs_f*", "--facts", str(path), user=65534)
    assert without_times(there) == without_times(tool("plan", "fentry.multi/vfs_f*"))


def test_why() -> None:
    """Possible, denied, never returning and misspelt functions each have their own answer."""
    rows = tool("why", "bpf_fentry_test1", "do_exit", "__rcu_read_lock", "vfs_reed", status=1)
    by_name = {row["function"]: row for row in rows["functions"]}
    assert by_name["bpf_fentry_test1"]["hooks"]["fentry.multi"]["trampoline"] == "yes"
    assert "never returns" in by_name["do_exit"]["hooks"]["fexit.multi"]["trampoline"]
    assert not by_name["__rcu_read_lock"]["found"]
    assert "vfs_read" in by_name["vfs_reed"]["text"]


def test_why_shows_who_is_attached() -> None:
    with (
        pybpf.open(ROOT / "tests/data/fentry_args.bpf.o", facts=facts()) as obj,
        obj.programs["entry3"].clone() as program,
        program.attach_tracing(),
    ):
        (row,) = tool("why", "bpf_fentry_test3")["functions"]
        assert [a["program"] for a in row["attached"]] == [program.info().id]
        assert row["occupied"] == 1


def test_a_request_that_nothing_fits() -> None:
    """One line on stderr, status 1; wrong usage is tested without a kernel."""
    said = tool("plan", "fentry.multi/no_such_function_at_all_*", status=1)
    assert said.count("\n") == 1 and "no_such_function_at_all_*" in said
