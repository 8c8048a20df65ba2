"""Classes as predicted are the classes of the images that the kernel then makes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pybpf
from pybpf._sys import link as sys_link
from pybpf._sys import prog as sys_prog
from pybpf._uapi.enums import AttachType, ProgType
from pybpf.asm import encode
from pybpf.asm import insn as a
from pybpf.features import Feature
from pybpf.kernel.host import Facts
from pybpf.multi.classes import planned
from pybpf.multi.resolve import Resolver
from pybpf.multi.target import Target
from pybpf.trampoline.classes import Attachment, Classes, Kind, classify
from pybpf.trampoline.registry import image_classes
from tests.support.require import facts
from tests.support.trampolines import images

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
TYPES = {
    Kind.FENTRY: AttachType.BPF_TRACE_FENTRY,
    Kind.FEXIT: AttachType.BPF_TRACE_FEXIT,
    Kind.FSESSION: AttachType.BPF_TRACE_FSESSION,
}
E, X, S = Kind.FENTRY, Kind.FEXIT, Kind.FSESSION
# Of one model are 1, 7 and 8. (program, kind, functions), in the order they are attached.
Asked = list[tuple[str, Kind, str]]
ORDERS: list[tuple[Asked, int]] = [  # and how many trampolines would do
    ([("a", E, "178"), ("b", X, "17"), ("c", E, "71"), ("d", X, "817"), ("e", E, "82")], 3),
    ([("b", X, "178"), ("c", E, "1"), ("a", E, "178"), ("c", E, "78")], 2),
]
SESSIONS: list[Asked] = [
    [("a", E, "178"), ("s", S, "17"), ("b", E, "17"), ("x", X, "178"), ("t", S, "7"), ("y", X, "1")]
]


def targets(facts: Facts, digits: str) -> tuple[Target, ...]:
    names = [f"bpf_fentry_test{n}" for n in digits]
    return tuple(Resolver(facts).resolve(names, at_exit=True)[0])


def traced(name: str = "bpf_fentry_test") -> Classes:
    return image_classes(i for i in images() if i.function.startswith(name))


def shape(found: Classes) -> list[tuple[list[str], list[tuple[str, str, str]], str]]:
    return sorted(
        (
            [t.name for t in one.functions],
            [(r.program, r.kind.value, r.phase) for r in one.runs],
            str(one.model),
        )
        for one in found
    )


def predicted_and_made(asked: Asked) -> tuple[Classes, Classes]:
    facts = Facts()
    wanted = [Attachment(name, kind, targets(facts, on)) for name, kind, on in asked]
    with contextlib.ExitStack() as stack:
        for one in wanted:
            for function in one.functions:
                program = stack.enter_context(
                    sys_prog.prog_load(
                        ProgType.BPF_PROG_TYPE_TRACING,
                        encode([a.mov(0, 0), a.exit_()]),
                        license="GPL",
                        name=one.program,
                        expected_attach_type=TYPES[one.kind],
                        attach_btf_id=function.btf_id or 0,
                    )
                )
                stack.enter_context(sys_link.link_create_tracing(program.fileno(), TYPES[one.kind]))
        return classify(wanted), traced()


@pytest.mark.needs(Feature.FENTRY)
@pytest.mark.parametrize(("asked", "trampolines"), ORDERS, ids=["several", "reordered"])
def test_standard_programs(asked: Asked, trampolines: int) -> None:
    """Clones attached one by one: same functions together, same programs in the same order."""
    predicted, made = predicted_and_made(asked)
    assert shape(predicted) == shape(made)
    assert predicted.trampolines == trampolines < predicted.functions


@pytest.mark.needs(Feature.FSESSION)
@pytest.mark.parametrize("asked", SESSIONS)
def test_sessions(asked: Asked) -> None:
    """A session program is in the order of both sides."""
    predicted, made = predicted_and_made(asked)
    assert shape(predicted) == shape(made)


@pytest.mark.needs(Feature.FENTRY)
def test_multi_programs_and_the_tool() -> None:
    """Two overlapping multi programs: what their plans predict, the images and `list` show."""
    with pybpf.open(ROOT / "tests/data/multi.bpf.o", facts=facts()) as obj:
        obj.load()
        on = [f"bpf_fentry_test{n}" for n in (1, 2, 7, 8)]
        with (
            obj.programs["on_entry"].attach_multi(on, mechanism="trampoline") as first,
            obj.programs["on_exit_ret"].attach_multi(on[:3], mechanism="trampoline") as second,
        ):
            predicted = classify([*planned(first.plan), *planned(second.plan)])
            made = traced()
            done = subprocess.run(
                [sys.executable, "tools/trampolines.py", "list", "--classes", "--json"]
                + ["bpf_fentry_test*"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
    together = [[t.name for t in one.functions] for one in predicted]
    assert together == [[on[0], on[2]], [on[1]], [on[3]]]
    # Images of one program for functions of other models have other bytes, so other labels.
    assert sorted(sorted(t.name for t in one.functions) for one in made) == sorted(together)
    shown = json.loads(done.stdout)
    assert (shown["classes"]["trampolines"], shown["classes"]["functions"]) == (3, 4)
    holders = [p["owner"]["processes"] for i in shown["images"] for p in i["programs"]]
    assert len(holders) == 7
    assert all([one["pid"] for one in held] == [os.getpid()] for held in holders)
