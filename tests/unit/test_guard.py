"""The recursion guard: what it computes, who gets it, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code, edit, function_starts, lead
from pybpf.asm.insn import Insn
from pybpf.multi import guard, rewrite
from pybpf.multi.callees import calls_traceable, leaf_functions
from pybpf.multi.guard import FLAGS, MISSES, SLOT_SIZE, filled, guarded, mask_of, obstacle
from pybpf.multi.mechanisms import KPROBE_MULTI, MECHANISMS, TRACING_MULTI, TRAMPOLINE
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import Plan, PlanFacts
from pybpf.multi.planner import make_plan
from pybpf.multi.reasons import Reason
from pybpf.multi.target import Target
from pybpf.multi.template import Template
from pybpf.multi.traits import CtxHelper, Hook, analyse
from pybpf.multi.variant import Lowering
from tests.support.bpfvm import Vm
from tests.support.examples import examples
from tests.support.tracedcalls import helpers, promised
from tests.unit import test_rewrite as lowerings
from tests.unit.test_planner import K6_12, K7_3, KERNELS, load, model, template

CPUS = 5  # possible; three bits
KTIME = 5  # bpf_ktime_get_ns: may run traced functions
LOOKUP = 1
PID_TGID = 14
TARGETS = [Target(f"f{n}", "", 0x1000 * (n + 1), n + 1, model(n % 3)) for n in range(6)]


def plan(
    program: Template,
    targets: Sequence[Target],
    facts: PlanFacts,
    mechanism: str = "auto",
    *,
    lowering: str = "auto",
    guarded: bool = False,
) -> Plan:
    options = AttachOptions(mechanism=mechanism, lowering=lowering)
    return make_plan(program, targets, facts, options, guarded=guarded)


class Machine:
    """A guarded program on a CPU: its flags and misses as memory."""

    def __init__(self, insns: Sequence[Insn], cpu: int = 3) -> None:
        self.vm = Vm([])
        mask = mask_of(CPUS)
        self.flags = self.vm.map(bytes(SLOT_SIZE * (mask + 1)))
        self.misses = self.vm.map(bytes(SLOT_SIZE * (mask + 1)))
        # Addresses stand for descriptors: the interpreter loads them as they are.
        maps = {FLAGS: self.flags, MISSES: self.misses}
        self.vm.insns = [filled(insn, maps, mask) for insn in insns]
        self.cpu = cpu
        self.vm.helpers = {guard._GET_SMP_PROCESSOR_ID: lambda *_: self.cpu}

    def flag(self, cpu: int | None = None) -> int:
        return self.vm.read(self.flags + SLOT_SIZE * (self.cpu if cpu is None else cpu), 4)

    def missed(self) -> int:
        return self.vm.read(self.misses + SLOT_SIZE * self.cpu, 8)


def all_registers() -> list[Insn]:
    """Uses every callee-saved register."""
    return [asm.mov(reg, reg) for reg in (op.R6, op.R7, op.R8, op.R9)]


FORMS = {
    "a register is free": [asm.mov(op.R6, 1)],
    "none is free": all_registers(),
    "it tail-calls": [
        asm.mov_reg(op.R6, op.R1),
        asm.call(CtxHelper.tail_call),
        asm.mov_reg(op.R1, op.R6),
    ],
}


def body(form: str) -> Code:
    """Calls helper 5 with the flag to be seen, then gives ctx[0] + 1."""
    insns = [
        *FORMS[form],
        asm.store(op.DW, op.R10, -8, op.R1),
        asm.call(KTIME),
        asm.load(op.DW, op.R1, op.R10, -8),
        asm.load(op.DW, op.R0, op.R1, 0),
        asm.alu(op.ADD, op.R0, 1),
        asm.exit_(),
    ]
    return Code(tuple(insns))


def machine(form: str) -> tuple[Machine, int]:
    made = Machine(guarded(body(form)).insns)
    made.vm.helpers[CtxHelper.tail_call] = lambda *_: 0  # there is no such program
    ctx = made.vm.map((41).to_bytes(8, "little"))
    return made, ctx


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cpu", range(CPUS))
def test_the_body_runs_under_the_flag_of_its_cpu(form: str, cpu: int) -> None:
    """Taken while it runs, released afterwards, on this CPU alone; result and context kept."""
    made, ctx = machine(form)
    made.cpu = cpu
    seen: list[list[int]] = []
    made.vm.helpers[KTIME] = lambda *_: seen.append([made.flag(c) for c in range(8)]) or 0  # type: ignore[func-returns-value]
    for _ in range(2):
        assert made.vm.run(ctx) == 42
    assert seen == 2 * [[int(c == cpu) for c in range(8)]]
    assert made.flag() == 0 and made.missed() == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_second_copy_runs_nothing_and_counts(form: str) -> None:
    """Inside a helper call of the first: returns 0 at once; the flag stays the first one's."""
    made, ctx = machine(form)
    nested: list[int] = []

    def helper(*_: int) -> int:
        before = made.vm.executed
        for _ in range(3):
            nested.append(made.vm.run(ctx))
            assert made.vm.executed - before < 20
            before = made.vm.executed
        assert made.flag() == 1
        return 0

    made.vm.helpers[KTIME] = helper
    assert made.vm.run(ctx) == 42
    assert nested == [0, 0, 0] and made.missed() == 3
    assert made.flag() == 0


def test_an_interrupt_between_load_and_store_leaves_the_flag_free() -> None:
    """If another copy runs completely there, both run, and the flag is free afterwards."""
    made, ctx = machine("a register is free")
    made.vm.helpers[KTIME] = lambda *_: 0
    before: list[int] = []
    real = made.vm.read

    def read(address: int, size: int) -> int:
        value = real(address, size)
        if address == made.flags + SLOT_SIZE * made.cpu and not before:
            before.append(value)
            assert made.vm.run(ctx) == 42
        return value

    made.vm.read = read  # type: ignore[method-assign]
    assert made.vm.run(ctx) == 42
    made.vm.read = real  # type: ignore[method-assign]
    assert before == [0] and made.flag() == 0 and made.missed() == 0


@pytest.mark.parametrize(("cpus", "mask"), [(1, 0), (2, 1), (3, 3), (4, 3), (5, 7), (64, 63)])
def test_mask(cpus: int, mask: int) -> None:
    assert mask_of(cpus) == mask


def test_a_wrong_number_of_cpus_stays_inside_the_map() -> None:
    """A CPU that should not exist shares another's flag; nothing is read outside."""
    made, ctx = machine("none is free")
    made.cpu = 8 + 3
    made.vm.helpers[KTIME] = lambda *_: 0
    assert made.vm.run(ctx) == 42
    assert made.flag(3) == 0


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_a_guarded_program_computes_the_same(data: st.DataObject) -> None:
    """Random programs on random calls: every lowering, with the guard around it."""
    call = data.draw(lowerings.calls)
    insns = data.draw(lowerings.programs(call.ret is None))
    code = Code(tuple(insns))
    traits = analyse(code, Hook.EXIT)
    returns = call.ret is not None
    expected = lowerings.run(insns, promised(call), call)
    slots = [*call.args, *([call.ret] if call.ret is not None else [])]
    for lowered in (
        edit(code, rewrite.direct(code, traits, slots=call.slots, returns=returns))[0],
        rewrite.frame(code, traits, returns=returns),
    ):
        made = Machine(guarded(lowered).insns)
        ctx = made.vm.map(b"".join(v.to_bytes(8, "little") for v in slots))
        made.vm.helpers |= helpers(call, ctx)
        assert made.vm.run(ctx) == expected
        assert made.flag() == 0 and made.missed() == 0


def test_it_takes_no_stack_and_no_call_unless_a_tail_call_is_made() -> None:
    """So whatever fits the verifier without the guard fits with it."""
    for form in ("a register is free", "none is free"):
        code = body(form)
        out = guarded(code)
        assert guard._stack(out.insns) == guard._stack(code.insns)
        assert function_starts(out.insns) == function_starts(code.insns)
    wrapped = guarded(body("it tail-calls"))
    main, sub = function_starts(wrapped.insns)
    assert guard._stack(wrapped.insns[main:sub]) == 0


def test_debug_info_moves_along() -> None:
    """The main function keeps its start; a wrapped one becomes a static subprogram."""
    funcs, lines = ((0, 100), (6, 101)), ((0, 1, 10, 0), (2, 1, 20, 0), (6, 1, 30, 0))
    insns = (
        asm.mov_reg(6, 1),
        asm.call(KTIME),
        asm.mov(0, 0),
        asm.mov_reg(1, 6),
        asm.call_sub(1),
        asm.exit_(),
        asm.mov(0, 0),
        asm.exit_(),
    )
    out = guarded(Code(insns, funcs, lines), lambda i: i + 1000)
    assert [i for _, i in out.func_info] == [100, 101]
    assert [slot for slot, _ in out.func_info] == function_starts(out.insns)
    assert [row[2] for row in out.line_info] == [10, 10, 20, 30]
    assert out.line_info[0][0] == 0
    assert out.insns[out.line_info[2][0]] == insns[2]
    tail = (asm.call(CtxHelper.tail_call), *insns[1:])
    out = guarded(Code(tail, funcs, lines), lambda i: i + 1000)
    assert [i for _, i in out.func_info] == [100, 1100, 101]
    assert [slot for slot, _ in out.func_info] == function_starts(out.insns)


def test_lead_is_not_run_again_by_a_loop() -> None:
    """A jump back to the first instruction lands behind what was put in front."""
    loop = (asm.alu(op.ADD, 1, -1), asm.jmp(op.JNE, 1, 0, -2), asm.mov(0, 7), asm.exit_())
    out = lead(Code(loop), [asm.alu(op.ADD, 6, 1)])
    vm = Vm(list(out.insns))
    assert vm.run(3) == 7
    assert vm.executed == 1 + 2 * 3 + 2


# -- what a program's calls may reach


def of(*insns: Insn, arrays: Sequence[int] = ()) -> Template:
    return template(*insns, arrays=frozenset(arrays))


def lookup(number: int) -> list[Insn]:
    return [*asm.map_fd(op.R1, number), asm.call(LOOKUP)]


@pytest.mark.parametrize(
    ("program", "traceable", "leaves"),
    [
        (of(asm.mov(0, 0)), False, set()),
        (of(asm.call(CtxHelper.get_func_ip)), False, set()),
        (of(asm.call(8)), False, set()),
        (of(asm.call(PID_TGID)), False, {"bpf_get_current_pid_tgid"}),
        (of(asm.call(KTIME)), True, set()),
        (of(asm.mov(1, 0), asm.call(130)), True, set()),
        (of(asm.call(CtxHelper.get_stack)), True, set()),
        (of(asm.call(CtxHelper.tail_call)), True, set()),
        (of(*lookup(2)), True, set()),
        (of(*lookup(2), arrays=[2]), False, set()),
        (of(*lookup(2), arrays=[1]), True, set()),
        # Not proved to be the array: spilled, or one of two arrays.
        (of(*asm.map_fd(6, 2), asm.mov_reg(1, 6), asm.call(LOOKUP), arrays=[2]), False, set()),
        (
            of(
                asm.load(op.DW, 2, 1, 0),
                *asm.map_fd(1, 2),
                asm.jmp(op.JEQ, 2, 0, 2),
                *asm.map_fd(1, 3),
                asm.call(LOOKUP),
                arrays=[2, 3],
            ),
            True,
            set(),
        ),
        (of(asm.mov(1, 0), Insn(op.JMP | op.CALL, 0, 2, 0, 77)), True, set()),
        (
            template(
                asm.mov(1, 0),
                Insn(op.JMP | op.CALL, 0, 2, 0, 77),
                kfunc_names={1: "bpf_rdonly_cast"},
            ),
            False,
            set(),
        ),
        # What is never reached does not count, as for the verifier.
        (of(asm.mov(0, 1), asm.jmp(op.JEQ, 0, 1, 1), asm.call(KTIME)), False, set()),
    ],
)
def test_calls(program: Template, traceable: bool, leaves: set[str]) -> None:
    assert calls_traceable(program.traits) is traceable
    assert leaf_functions(program.traits) == leaves


def test_a_lookup_seen_with_two_arrays_is_a_call() -> None:
    """Through a subprogram called with each: the verifier writes such a look-up out for neither."""
    code = [
        *asm.map_fd(1, 2),
        asm.call_sub(4),
        *asm.map_fd(1, 3),
        asm.call_sub(1),
        asm.exit_(),
        asm.call(LOOKUP),
        asm.exit_(),
    ]
    program = Template("p", Code(tuple(code)), Hook.ENTRY, arrays=frozenset({2, 3}))
    assert calls_traceable(program.traits)


# -- who gets it

CALLS = template(load(0), asm.mov_reg(0, 1), asm.call(KTIME), asm.mov(0, 0))
QUIET = template(load(0), asm.call(8), asm.mov(0, 0))
LEAF = template(load(0), asm.call(PID_TGID), asm.mov(0, 0))
SESSION = replace(CALLS, hook=Hook.SESSION)


def clones(program: Template, targets: Sequence[Target], **how: object) -> Plan:
    return plan(program, targets, K6_12, "trampoline", **how)  # type: ignore[arg-type]


def test_clones_that_call_share_a_guard() -> None:
    """A single one too: it may be attached function by function, and beside others."""
    for targets, words in ((TARGETS, "6 programs"), (TARGETS[:1], "1 program")):
        out = clones(CALLS, targets)
        assert out.guarded and all(p.variant.guarded for g in out.groups for p in g.parts)
        assert f"{words} with one recursion guard" in str(out)
        assert '"guarded": true' in out.to_json()
    quiet = clones(QUIET, TARGETS)
    assert not quiet.guarded and "guard:" not in str(quiet)
    assert out.cost.insns_per_call == quiet.cost.insns_per_call + K6_12.costs.guard_insns
    assert K6_12.costs.guard_insns > 0


def test_clones_that_call_nothing_are_the_very_bytes_they_were() -> None:
    """Neither instructions nor predicted cost change."""
    out = clones(QUIET, TARGETS)
    assert not out.guarded
    for group in out.groups:
        (part,) = group.parts
        slots = group.targets[0].model.slots  # type: ignore[union-attr]
        bare, _ = edit(
            QUIET.code, rewrite.direct(QUIET.code, QUIET.traits, slots=slots, returns=False)
        )
        assert part.variant.code == bare
    assert out.cost.insns_per_call == clones(QUIET, TARGETS[:1]).cost.insns_per_call


def test_a_leaf_helper_needs_it_only_where_it_is_traced_itself() -> None:
    traced = Target("bpf_get_current_pid_tgid", "", 0x9000, 99, model())
    assert not clones(LEAF, TARGETS).guarded
    assert clones(LEAF, [*TARGETS, traced]).guarded


@pytest.mark.parametrize("lowering", ["auto", "direct", "frame"])
def test_the_guard_goes_around_the_whole_program(lowering: str) -> None:
    """One flag test, however the context accesses were lowered; every exit releases."""
    out = clones(CALLS, TARGETS, lowering=lowering)
    assert out.guarded
    for group in out.groups:
        insns = group.parts[0].variant.code.insns
        assert sum(1 for i in insns if i == guard._MASK) == 1


@pytest.mark.parametrize("facts", KERNELS)
@pytest.mark.parametrize("mechanism", ["auto", *(m.value for m in MECHANISMS)])
@pytest.mark.parametrize("program", [CALLS, SESSION])
def test_whatever_the_kernel_tells_apart_is_guarded(
    facts: PlanFacts, mechanism: str, program: Template
) -> None:
    """Clones, and more than one tracing program. All kprobe programs have one flag together."""
    out = plan(program, TARGETS, facts, mechanism)
    tracing = [g for g in out.groups if g.mechanism in (TRACING_MULTI, TRAMPOLINE)]
    clones_too = any(g.mechanism is TRAMPOLINE for g in tracing)
    assert out.guarded is (clones_too or sum(g.programs for g in tracing) > 1)


def test_one_shared_program_needs_none_and_one_a_module_does() -> None:
    inside = plan(CALLS, TARGETS, K7_3, "tracing_multi")
    assert [g.programs for g in inside.groups] == [1] and not inside.guarded
    module = replace(TARGETS[0], module="m", address=0xF000)
    assert plan(CALLS, [*TARGETS, module], K7_3, "tracing_multi").guarded


def test_what_is_added_to_a_guarded_link_takes_its_guard() -> None:
    """Functions that spill to kprobes, and those planned again: for them alone none is needed."""
    assert not plan(CALLS, TARGETS, K6_12, "kprobe_multi").guarded
    assert plan(CALLS, TARGETS, K6_12, "kprobe_multi", guarded=True).guarded
    assert not plan(QUIET, TARGETS, K6_12, "kprobe_multi", guarded=True).guarded
    assert not plan(CALLS, [], K6_12, "kprobe_multi", guarded=True).guarded


def test_what_cannot_have_it_is_attached_once_or_told_why() -> None:
    """bpf_throw leaves without the exit; a tail call with all of the stack has no room."""
    throws = replace(CALLS, kfunc_names={9: "bpf_throw"})
    deep = template(asm.store_imm(op.DW, 10, -512, 0), asm.call(CtxHelper.tail_call), asm.mov(0, 0))
    for program, word in ((throws, "bpf_throw"), (deep, "stack")):
        one = clones(program, TARGETS[:1])
        assert one.targets and not one.guarded  # the kernel's own flag does
        out = clones(program, TARGETS)
        assert not out.targets and {s.reason for s in out.skipped} == {Reason.NO_GUARD}
        assert word in out.skipped[0].detail
        elsewhere = plan(program, TARGETS, K6_12)
        assert {g.mechanism for g in elsewhere.groups} == {KPROBE_MULTI}
    assert plan(throws, TARGETS, K7_3, "tracing_multi").targets


def test_obstacle_counts_all_functions() -> None:
    """Stack of a chain of calls, in the 32-byte steps of 6.x."""

    def of_size(size: int) -> Code:
        return Code(
            (
                asm.store_imm(op.DW, 10, -size, 0),
                asm.call(CtxHelper.tail_call),
                asm.call_sub(1),
                asm.exit_(),
                asm.mov_reg(2, 10),
                asm.alu(op.ADD, 2, -32),
                asm.exit_(),
            )
        )

    assert obstacle(of_size(448), (), "bpf_throw") == ""
    assert "stack" in obstacle(of_size(456), (), "bpf_throw")


def test_other_forms_of_a_lowering_stay_distinct() -> None:
    """Guarded images differ where the bare ones did: groups do not merge."""
    bare = CALLS.variant(Lowering.DIRECT, lambda: CALLS.code, 0)
    out = clones(CALLS, TARGETS)
    digests = [g.parts[0].variant.digest for g in out.groups]
    assert len(set(digests)) == len(digests) and bare.digest not in digests
    assert {g.lowering for g in out.groups} == {Lowering.DIRECT}
