"""A caller's order of mechanisms, and functions whose prototype is not known."""

from __future__ import annotations

import pytest

from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code
from pybpf.errors import PlanError
from pybpf.features import Feature, FeatureSet
from pybpf.kernel.host import Facts
from pybpf.multi.mechanisms import KPROBE, KPROBE_MULTI, TRACING_MULTI, TRAMPOLINE
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import Plan, PlanFacts
from pybpf.multi.planner import make_plan
from pybpf.multi.reasons import Reason
from pybpf.multi.resolve import plan
from pybpf.multi.rewrite import PT_REGS_ARGS, PT_REGS_RET
from pybpf.multi.select import select
from pybpf.multi.target import Target
from pybpf.multi.template import Template
from pybpf.multi.traits import Hook
from pybpf.trampoline.model import Model, Return
from tests.support.savedfacts import saved_facts

F = Feature
FACTS = PlanFacts.of(
    FeatureSet(
        {F.FENTRY, F.FEXIT, F.KPROBE, F.ATTACH_COOKIE, F.KPROBE_MULTI, F.FSESSION, F.TRACING_MULTI}
    )
)
KNOWN = Target("known", "", 0x1000, 1, Model(2, Return.INT, 4, signed=True, params=2))
NO_BTF = Target("no_btf.isra.0", "", 0x2000)
TWICE = Target("twice", "", 0x3000, None, None, unique=False)
VARIADIC = Target(
    "variadic",
    "",
    0x4000,
    4,
    Model(1, Return.INT, 4, signed=True, params=1, obstacle=Reason.VARIADIC),
)


def load(slot: int) -> asm.Insn:
    return asm.load(op.DW, 0, 1, 8 * slot)


def template(*insns: asm.Insn, hook: Hook = Hook.ENTRY) -> Template:
    return Template("p", Code((*insns, asm.exit_())), hook)


def planned(program: Template, *targets: Target, **how: object) -> Plan:
    return make_plan(program, targets, FACTS, AttachOptions(**how))  # type: ignore[arg-type]


NOTHING = template(asm.mov(0, 0))


@pytest.mark.parametrize(
    ("order", "by"),
    [
        (["kprobe", "tracing_multi"], {KPROBE: {"known", "no_btf.isra.0"}}),
        (["tracing_multi", "kprobe"], {TRACING_MULTI: {"known"}, KPROBE: {"no_btf.isra.0"}}),
        ([TRAMPOLINE, KPROBE_MULTI], {TRAMPOLINE: {"known"}, KPROBE_MULTI: {"no_btf.isra.0"}}),
        (("kprobe_multi",), {KPROBE_MULTI: {"known", "no_btf.isra.0"}}),
    ],
)
def test_each_function_gets_the_first_that_can(order: object, by: dict[object, set[str]]) -> None:
    """Whatever it costs: a list is an order, not a choice by price."""
    plan = planned(NOTHING, KNOWN, NO_BTF, mechanism=order)
    assert {g.mechanism: {t.name for t in g.targets} for g in plan.groups} == by
    assert not plan.skipped


def test_a_list_leaves_out_the_rest() -> None:
    """A mechanism that is not listed is not used; the first one's reason is given."""
    plan = planned(NOTHING, KNOWN, NO_BTF, mechanism=["trampoline", "tracing_multi"])
    assert [(s.name, s.reason) for s in plan.skipped] == [("no_btf.isra.0", Reason.NO_BTF)]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"mechanism": []}, "the list is empty"),
        ({"mechanism": ["kprobe", "auto"]}, "'auto'"),
        ({"mechanism": ["pigeon"]}, "'pigeon'"),
        ({"unknown": "guess"}, "must be 'registers'"),
    ],
)
def test_nonsense(how: dict[str, object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        AttachOptions(**how)  # type: ignore[arg-type]


def test_registers_of_unknown_functions() -> None:
    """Refused unless asked for; then every argument register is what it is."""
    program = template(load(5))
    assert {s.name for s in planned(program, NO_BTF, TWICE).skipped} == {NO_BTF.name, TWICE.name}
    plan = planned(program, NO_BTF, TWICE, unknown="registers")
    assert not plan.skipped
    (group,) = plan.groups
    assert group.mechanism in (KPROBE, KPROBE_MULTI)
    assert group.parts[0].variant.code.insns[0].off == PT_REGS_ARGS[5]


def test_the_return_register_of_unknown_functions() -> None:
    plan = planned(template(load(6), hook=Hook.EXIT), NO_BTF, unknown="registers")
    ((part,),) = [group.parts for group in plan.groups]
    assert part.variant.code.insns[0].off == PT_REGS_RET


def test_a_known_function_keeps_its_own() -> None:
    """Slots past a known function's own read 0, registers or not."""
    plan = planned(template(load(5)), KNOWN, mechanism="kprobe", unknown="registers")
    assert plan.groups[0].parts[0].variant.code.insns[0] == asm.mov(0, 0)


def test_further_arguments_of_variadic_functions() -> None:
    """What the prototype does not tell of a variadic function is in registers too."""
    plan = planned(template(load(5)), VARIADIC, mechanism="kprobe", unknown="registers")
    assert plan.groups[0].parts[0].variant.code.insns[0].off == PT_REGS_ARGS[5]


def test_selected_functions_are_planned_as_they_are() -> None:
    """What `select` found goes into a plan in columns: the same plan as one by one."""
    facts = Facts.from_json(saved_facts())
    program = template(load(0), load(6), hook=Hook.EXIT)
    found = select(facts, ["vfs_*", "*.isra.*", "do_*"], deny=["do_exit"]).candidates
    assert len(found) > 3
    for mechanism in ("auto", ["trampoline", "kprobe"]):
        whole = plan(program, found, facts, mechanism, unknown="registers")
        assert whole == plan(program, list(found), facts, mechanism, unknown="registers")
        assert len(whole.targets) + len(whole.skipped) == len(found)
