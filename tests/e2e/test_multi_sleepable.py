"""Sleepable multi programs: the plan knows beforehand where the kernel lets them run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf._uapi.defines import BPF_F_SLEEPABLE
from pybpf.btf import BtfKind
from pybpf.features import Feature
from pybpf.multi.reasons import Reason
from tests.support.require import facts

ROOT = Path(__file__).resolve().parents[2]
OBJECT = ROOT / "tests/data/multi_sleepable.bpf.o"
GLOB = "__x64_sys_getp*"
MECHANISMS = [
    pytest.param("trampoline", marks=pytest.mark.needs(Feature.FENTRY)),
    pytest.param("tracing_multi", marks=pytest.mark.needs(Feature.TRACING_MULTI)),
]


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT, facts=facts()) as opened:
        yield opened


def accepted(obj: pybpf.Object, names: list[str]) -> set[str]:
    """Ground truth: the functions that a standard fentry.s program loads for."""
    program = obj.programs["standard"]
    assert program.flags & BPF_F_SLEEPABLE
    good = set()
    for name in names:
        try:
            program.clone(name).close()
        except pybpf.VerifierError as error:
            assert f"{name} is not sleepable" in error.log
        else:
            good.add(name)
    return good


def family(obj: pybpf.Object) -> list[str]:
    names = [n for n, module in obj.facts.ftrace if n.startswith(GLOB[:-1]) and not module]
    btf = obj.facts.btf.vmlinux()
    assert "__x64_sys_getpgid" in names
    # 6.1 describes some twice, with two prototypes: those have no BTF of their own.
    return [n for n in names if len(btf.find_all(n, BtfKind.FUNC)) == 1]


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(("program", "counter"), [("on_entry", "entries"), ("on_exit", "exits")])
def test_the_plan_says_what_the_kernel_would(
    obj: pybpf.Object, mechanism: str, program: str, counter: str
) -> None:
    """In the plan exactly the functions the kernel accepts; the others have their reason.

    On 6.1 and 6.12 no stub of a system call takes a sleepable program, on 7.3 all do.
    """
    multi = obj.programs[program]
    good = accepted(obj, family(obj))
    plan = pybpf.trampoline.plan(multi, GLOB, obj.facts, mechanism)
    assert {t.name for t in plan.targets} == good
    assert plan.unsure == ()
    reasons = {s.name: s.reason for s in plan.skipped}
    for name in set(family(obj)) - good:
        assert reasons.pop(name) is Reason.NOT_SLEEPABLE
    assert set(reasons.values()) <= {Reason.NO_BTF}
    if good:
        with multi.attach_multi(GLOB, mechanism=mechanism) as link:
            assert link.plan == plan and {t.name for t in link.targets} == good
            before = getattr(obj.globals, counter)
            os.getpgid(0)
            assert getattr(obj.globals, counter) > before
        return
    with pytest.raises(pybpf.PlanError, match="nothing to attach to") as caught:
        multi.attach_multi(GLOB, mechanism=mechanism)
    assert caught.value.skipped == plan.skipped


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_one_that_may_and_others_that_may_not(obj: pybpf.Object, mechanism: str) -> None:
    """bpf_fentry_test1 is registered as sleepable on 6.2 and newer; vfs_read never is."""
    asked = ["bpf_fentry_test1", "vfs_read", "__rcu_read_lock"]
    good = accepted(obj, asked[:2])
    assert "vfs_read" not in good
    try:
        with obj.programs["on_entry"].attach_multi(asked, mechanism=mechanism) as link:
            attached, skipped = {t.name for t in link.targets}, link.skipped
    except pybpf.PlanError as error:
        attached, skipped = set(), error.skipped
    assert attached == good
    reasons = {s.name: s.reason for s in skipped}
    assert reasons["vfs_read"] is Reason.NOT_SLEEPABLE
    assert reasons["__rcu_read_lock"] is Reason.DENIED


@pytest.mark.needs(Feature.FENTRY)
@pytest.mark.parametrize("mechanism", ["auto", "trampoline"])
def test_where_nothing_was_asked_the_kernel_decides(
    obj: pybpf.Object, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    """Unknown is not no: functions are tried, and those refused are skipped with a reason."""
    monkeypatch.setattr("pybpf.multi.resolve.MOST", 0)
    asked = ["bpf_fentry_test1", "vfs_read", "__x64_sys_getpgid"]
    program = obj.programs["on_entry"]
    plan = pybpf.trampoline.plan(program, asked, obj.facts, mechanism)
    assert {t.name for t in plan.unsure} == set(asked)
    good = accepted(obj, asked)
    try:
        with program.attach_multi(asked, mechanism=mechanism) as link:
            attached, skipped = {t.name for t in link.targets}, link.skipped
            assert link.refused == skipped
    except pybpf.PlanError as error:
        attached, skipped = set(), error.skipped
    assert attached == good
    assert {s.name for s in skipped} == set(asked) - good
    for one in skipped:
        assert "not let sleepable programs run" in one.why


@pytest.mark.long
def test_the_tools_say_so_too() -> None:
    """`trampolines.py plan` and `why` for the object's program."""

    def tool(*words: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "tools/trampolines.py", *words, "--object", str(OBJECT)]
            + ["--program", "on_entry", "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.stderr
        shown: dict[str, object] = json.loads(done.stdout)
        return shown

    with pybpf.open(OBJECT, facts=facts()) as obj:
        good = accepted(obj, ["vfs_read", "__x64_sys_getpgid"])
    shown = tool("plan", GLOB)
    planned = {t for g in shown["groups"] for t in g["targets"]}  # type: ignore[attr-defined]
    assert ("__x64_sys_getpgid" in planned) == ("__x64_sys_getpgid" in good)
    rows = tool("why", "vfs_read", "__x64_sys_getpgid")["functions"]
    for row in rows:  # type: ignore[attr-defined]
        (ways,) = row["hooks"].values()
        able = {m for m, said in ways.items() if said == "yes"}
        assert ("trampoline" in able) == (row["function"] in good)
        assert not able & {"kprobe", "kprobe_multi"}
        assert "cannot sleep" in ways["kprobe"]
