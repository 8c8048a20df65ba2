"""A mechanism is one object: planner and engine take one that they have never seen."""

from __future__ import annotations

import ast
import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pybpf.multi
from pybpf import links
from pybpf.asm import insn as asm
from pybpf.asm.edit import Code
from pybpf.errors import BpfError, VerifierError
from pybpf.features import Feature
from pybpf.multi import engine
from pybpf.multi.cost import CostModel, Price
from pybpf.multi.mechanisms import MECHANISMS, TRAMPOLINE, Doors, Job, Mechanism, Refusal, Request
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import Part, Side
from pybpf.multi.planner import make_plan
from pybpf.multi.reasons import Reason
from pybpf.multi.target import Target
from pybpf.multi.template import Template
from pybpf.multi.variant import Lowering, Variant
from tests.support.sources import parsed
from tests.unit.test_attach_engine import Kernel, kernel
from tests.unit.test_planner import BASE, K6_1, K6_12, PROGRAMS, SESSION, model

__all__ = ["kernel"]  # a fixture
TARGETS = [Target(f"f{n}", "mod" * (n % 2), 0x1000 * (n + 1), n + 1, model(2)) for n in range(6)]
TARGETS[0] = replace(TARGETS[0], occupied=1)
ENTRY = PROGRAMS[1]


class Pigeon(Mechanism):
    """Made up: nothing of pybpf knows it."""

    value = "pigeon"
    rank = 9
    feature = Feature.KPROBE
    prog_type = 77

    def __init__(self, **about: object) -> None:
        self.jobs: list[Job] = []
        for name, value in about.items():
            setattr(self, name, value)

    def problem(self, request: Request, target: Target) -> Refusal | None:
        return Refusal(Reason.NOT_TRACEABLE, "too far") if target.occupied else None

    def variant(self, request: Request, side: Side, template: Template, target: Target) -> Variant:
        return template.variant(Lowering.NATIVE, lambda: template.code)

    def variants(self, template: Template, part: Part, target: Target) -> Iterator[Variant]:
        yield part.variant
        longer = Code((asm.mov(0, 0), *template.code.insns))
        yield template.variant(Lowering.FRAME, lambda: longer, "again", scalars=True)

    def price(self, costs: CostModel) -> Price:
        return Price(1000, 0, 0, 1, 1, "made up")

    def attach_type(self, side: Side) -> int:
        return 42

    def link(self, doors: Doors, job: Job) -> links.Link:
        self.jobs.append(job)
        if any(t.name == "f3" for t in job.targets):
            raise BpfError(errno.EINVAL, "f3 has flown")
        (one,) = Kernels
        what = f"pigeon {job.side.value} of {','.join(t.name for t in job.targets)}"
        one.happen(f"link {what}")
        return links.Link(one.descriptor(what), what)


Kernels: list[Kernel] = []


@pytest.fixture(autouse=True)
def _one_kernel(kernel: Kernel) -> Iterator[None]:
    Kernels[:] = [kernel]
    yield
    Kernels.clear()


@pytest.mark.parametrize("hook", [ENTRY, SESSION])
@pytest.mark.parametrize(
    "about",
    [
        {},
        {"shared": True},
        {"per_function": True, "needs_btf": True},
        {"shared": True, "needs_btf": True},
    ],
)
def test_one_object_is_enough(kernel: Kernel, about: dict[str, object], hook: Template) -> None:
    """Planned by its own rules and price, loaded and linked as it says, refusals and all."""
    pigeon = Pigeon(**about)
    options = AttachOptions(mechanism=pigeon, cookies=None)
    plan = make_plan(hook, TARGETS, K6_1, options)
    assert {g.mechanism for g in plan.groups} == {pigeon}
    modules = {g.module for g in plan.groups}
    assert modules == ({"", "mod"} if about.get("needs_btf") else {""})
    assert [(s.name, s.reason, s.detail) for s in plan.skipped] == [
        ("f0", Reason.NOT_TRACEABLE, "too far")
    ]
    sides = 2 if hook is SESSION else 1
    assert plan.cost.attach_s == pytest.approx(5 * sides)
    assert "pigeon" in str(plan) and '"pigeon"' in plan.to_json()
    link = engine.attach(kernel, hook, plan, K6_1, options, lambda target: target.address)
    with link:
        rest = ["f1", "f2", "f4", "f5"]
        assert sorted(t.name for t in link.targets) == rest
        assert kernel.attached("entry") == rest
        assert kernel.attached("exit") == (rest if hook is SESSION else [])
        assert [(s.name, s.reason) for s in link.refused] == [("f3", Reason.KERNEL_REFUSED)]
        for job in pigeon.jobs:
            assert job.cookies == [t.address for t in job.targets]
            if not about.get("shared"):
                assert len(job.targets) == 1
    loads = [e for e in kernel.events if e.startswith("load")]
    if about.get("per_function"):
        assert "load 2" in loads  # for the function itself
    else:
        assert set(loads) == {"load 0"}
    assert kernel.left() == [] and kernel.leaked == []


def test_what_else_to_load_is_its_own_business(kernel: Kernel) -> None:
    """The verifier refuses the planned program: the next that the mechanism has is tried."""
    pigeon = Pigeon(per_function=True)
    options = AttachOptions(mechanism=pigeon)
    plan = make_plan(ENTRY, TARGETS[1:3], K6_1, options)
    wrong = VerifierError(errno.EACCES, "p", "0: ...\nR1 bad\n", "R1 bad")
    kernel.refuse = lambda what: (
        wrong if what == "load 2" and kernel.events.count(what) == 1 else None
    )
    with engine.attach(kernel, ENTRY, plan, K6_1, options) as link:
        assert {g.parts[0].variant.scalars for g in link.groups} == {True}
        assert len(link.changed) == 2  # the second function is not tried in vain


def test_it_competes_with_the_others() -> None:
    """Nothing in the planner decides for a mechanism by its name."""
    for facts in (K6_1, K6_12):
        for one in MECHANISMS:
            plan = make_plan(PROGRAMS[0], TARGETS, facts, AttachOptions(mechanism=one))
            same = make_plan(PROGRAMS[0], TARGETS, facts, AttachOptions(mechanism=one.value))
            assert plan == same
    assert Feature.KPROBE in BASE and TRAMPOLINE in MECHANISMS


@pytest.mark.parametrize("name", ["planner", "engine", "link", "classes", "resolve", "programs"])
def test_no_branch_on_a_mechanism(name: str) -> None:
    """The code that plans and attaches names none of them."""
    nodes = list(ast.walk(parsed(Path(pybpf.multi.__file__).with_name(f"{name}.py"))))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    values = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert not names & {"TRACING_MULTI", "TRAMPOLINE", "KPROBE_MULTI", "KPROBE"}
    assert not values & {m.value for m in MECHANISMS}
