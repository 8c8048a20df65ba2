"""The eight laws of planning, and the reasons people are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pybpf
from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code
from pybpf.asm.insn import Insn
from pybpf.errors import PlanError
from pybpf.features import Answer, Feature, FeatureSet, Support
from pybpf.kernel.speed import slowness
from pybpf.multi.mechanisms import KPROBE, KPROBE_MULTI, MECHANISMS, TRACING_MULTI, TRAMPOLINE
from pybpf.multi.plan import Plan, PlanFacts, Side
from pybpf.multi.planner import answers
from pybpf.multi.reasons import Reason
from pybpf.multi.resolve import plan
from pybpf.multi.target import Target
from pybpf.multi.template import Template
from pybpf.multi.traits import CtxHelper, Hook
from pybpf.multi.variant import Lowering
from pybpf.trampoline.model import Model, Return
from tests.support.examples import examples

F = Feature
BASE = {F.FENTRY, F.FEXIT, F.KPROBE, F.ATTACH_COOKIE, F.FUNC_ARG_HELPERS}
K6_1 = PlanFacts.of(FeatureSet(BASE), max_slots=6)
K6_12 = PlanFacts.of(FeatureSet(BASE | {F.KPROBE_MULTI, F.KPROBE_SESSION}))
K7_3 = PlanFacts.of(
    FeatureSet(BASE | {F.KPROBE_MULTI, F.KPROBE_SESSION, F.FSESSION, F.TRACING_MULTI})
)
KERNELS = [K6_1, K6_12, K7_3]

EXIT = asm.exit_()


def load(slot: int) -> Insn:
    return asm.load(op.DW, 0, 1, 8 * slot)


def template(*insns: Insn, hook: Hook = Hook.ENTRY, **more: object) -> Template:
    return Template("p", Code((*insns, EXIT)), hook, **more)  # type: ignore[arg-type]


SESSION = template(
    Insn(op.JMP | op.CALL, 0, 2, 0, 7), hook=Hook.SESSION, kfuncs={0: "bpf_session_is_return"}
)
COOKIE_SESSION = template(
    Insn(op.JMP | op.CALL, 0, 2, 0, 7), hook=Hook.SESSION, kfuncs={0: "bpf_session_cookie"}
)
PROGRAMS = [
    template(asm.mov(0, 0)),
    template(load(0)),
    template(load(5)),
    template(asm.mov(0, 0), hook=Hook.EXIT),
    template(load(6), hook=Hook.EXIT),
    template(load(2), load(6), hook=Hook.EXIT),
    template(asm.call(CtxHelper.get_func_arg_cnt)),
    template(load(1), sleepable=True),
    SESSION,
    COOKIE_SESSION,
]


def model(slots: int = 2, returns: Return = Return.INT, **more: object) -> Model:
    return Model(slots, returns, 0 if returns is Return.VOID else 4, True, slots, **more)  # type: ignore[arg-type]


models = st.one_of(
    st.none(),
    st.builds(
        Model,
        slots=st.integers(0, 12),
        returns=st.sampled_from(list(Return)),
        ret_size=st.just(4),
        signed=st.booleans(),
        params=st.integers(0, 12),
        structs=st.booleans(),
        obstacle=st.sampled_from([None, None, None, Reason.VARIADIC, Reason.BIG_STRUCT]),
    ),
)
targets = st.builds(
    Target,
    name=st.sampled_from([f"f{i}" for i in range(30)] + ["do_exit", "__rcu_read_lock"]),
    module=st.sampled_from(["", "", "mod"]),
    address=st.one_of(st.just(0), st.integers(1, 40).map(lambda n: 0x1000 * n)),
    btf_id=st.one_of(st.none(), st.integers(1, 1000)),
    model=models,
    unique=st.booleans(),
    kprobe=st.booleans(),
    occupied=st.sampled_from([0, 0, 1, 35, 36, 38]),
)
requests = st.tuples(
    st.sampled_from(PROGRAMS),
    st.lists(targets, max_size=25),
    st.sampled_from(KERNELS),
    st.sampled_from(["auto", *(m.value for m in MECHANISMS)]),
    st.sampled_from([None, "overhead"]),
)


def made(request: tuple[Template, list[Target], PlanFacts, str, str | None]) -> Plan:
    program, wanted, facts, mechanism, prefer = request
    return plan(program, wanted, facts, mechanism, prefer=prefer)


@settings(deadline=None)
@given(requests)
def test_law_1_every_target_once(request: tuple) -> None:  # type: ignore[type-arg]
    """Each target is in one group or skipped with a reason: none lost, none twice."""
    out = made(request)
    asked = sorted((t.module, t.name) for t in request[1])
    got = [(t.module, t.name) for t in out.targets] + [(s.module, s.name) for s in out.skipped]
    assert sorted(got) == asked
    assert all(isinstance(s.reason, Reason) for s in out.skipped)


@settings(deadline=None)
@given(requests)
def test_law_2_groups_are_homogeneous(request: tuple) -> None:  # type: ignore[type-arg]
    """One module per trampoline group; no two groups of a mechanism and BTF share images."""
    out = made(request)
    keys = [
        (g.mechanism, g.module, tuple((p.side, p.variant.digest) for p in g.parts))
        for g in out.groups
    ]
    assert len(set(keys)) == len(keys)
    for group in out.groups:
        assert group.targets
        if group.mechanism in (TRACING_MULTI, TRAMPOLINE):
            assert {t.module for t in group.targets} == {group.module}


@settings(deadline=None)
@given(requests, st.randoms())
def test_law_3_order_does_not_matter(request: tuple, random: object) -> None:  # type: ignore[type-arg]
    program, wanted, facts, mechanism, prefer = request
    shuffled = list(wanted)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = plan(program, shuffled, facts, mechanism, prefer=prefer)
    first = made(request)
    # Targets that compare equal in all that names them may stand for each other.
    assert again.cost == first.cost
    assert [(g.mechanism, g.parts) for g in again.groups] == [
        (g.mechanism, g.parts) for g in first.groups
    ]
    assert sorted(map(str, again.skipped)) == sorted(map(str, first.skipped))


@settings(deadline=None)
@given(requests, st.sampled_from([F.KPROBE_MULTI, F.TRACING_MULTI, F.FSESSION, F.FENTRY]))
def test_law_4_losing_a_feature_drops_nobody(request: tuple, lost: Feature) -> None:  # type: ignore[type-arg]
    """Without a feature targets move or are skipped by name; and no new one appears."""
    program, wanted, facts, mechanism, prefer = request
    less = replace(facts, features=FeatureSet(set(facts.features) - {lost}))
    out = plan(program, wanted, less, mechanism, prefer=prefer)
    assert len(out.targets) + len(out.skipped) == len(wanted)
    assert {t.label for t in out.targets} <= {t.label for t in wanted}


@settings(deadline=None)
@given(requests)
def test_law_5_one_address_once(request: tuple) -> None:  # type: ignore[type-arg]
    """Two ids of one address in a tracing_multi link crash 7.3 when it closes."""
    out = made(request)
    addresses = [t.address for t in out.targets if t.address]
    assert len(set(addresses)) == len(addresses)
    for group in out.groups:
        if group.mechanism in (TRACING_MULTI, TRAMPOLINE):
            assert all(t.unique for t in group.targets)


@settings(deadline=None)
@given(requests)
def test_law_6_deny_lists_are_ours(request: tuple) -> None:  # type: ignore[type-arg]
    """6.1 accepts fentry on __rcu_read_lock and hangs: we refuse, whatever the kernel says."""
    out = made(request)
    names = {t.name for t in out.targets}
    assert "__rcu_read_lock" not in names
    if request[0].hook is not Hook.ENTRY:
        assert "do_exit" not in names


@settings(deadline=None)
@given(requests)
def test_law_7_full_trampolines_spill(request: tuple) -> None:  # type: ignore[type-arg]
    """Nothing is put on a trampoline that is full; a session takes two places."""
    facts = request[2]
    need = 2 if request[0].hook is Hook.SESSION else 1
    for group in made(request).groups:
        if group.mechanism in (TRACING_MULTI, TRAMPOLINE):
            assert all(t.occupied + need <= facts.max_programs for t in group.targets)


@settings(deadline=None, max_examples=examples(200))
@given(requests, targets)
def test_law_8_cost_is_monotone(request: tuple, more: Target) -> None:  # type: ignore[type-arg]
    """One function more is never predicted to be cheaper (attach and detach together)."""
    program, wanted, facts, mechanism, prefer = request
    before = plan(program, wanted, facts, mechanism, prefer=prefer)
    # A function of its own: not one that takes the place of another of the same address.
    new = replace(more, name="new", address=0x99000)
    after = plan(program, [*wanted, new], facts, mechanism, prefer=prefer)
    total_before = before.cost.attach_s + before.cost.detach_s
    assert after.cost.attach_s + after.cost.detach_s >= total_before - 1e-9


def one(program: Template, target: Target, facts: PlanFacts, mechanism: str = "auto") -> Plan:
    return plan(program, [target], facts, mechanism)


T = Target("vfs_read", "", 0x1000, 10, model(4))


def test_single_kprobes_grow_dearer() -> None:
    """The 2000th takes 12 ms longer than the first; a kprobe at both sides does so once."""

    def last(count: int, sides: int) -> float:
        def cost(n: int) -> float:
            price = KPROBE.price(K6_1.costs).predict(n, sides=sides, entry=True, exit_=False)
            return 1000 * price.attach_s

        return cost(count) - cost(count - 1)

    for sides in (1, 2):
        assert last(2000, sides) - last(2, sides) == pytest.approx(12, abs=0.1)


def test_cheapest_mechanism_wins() -> None:
    """2000 entry functions: kprobe.multi where there is one, clones on 6.1."""
    many = [replace(T, name=f"f{i}", address=0x1000 * (i + 1)) for i in range(2000)]
    program = PROGRAMS[1]
    assert {g.mechanism for g in plan(program, many, K6_12).groups} == {KPROBE_MULTI}
    assert {g.mechanism for g in plan(program, many[:50], K7_3).groups} == {TRACING_MULTI}
    assert {g.mechanism for g in plan(program, many, K6_1).groups} == {KPROBE}
    fast = plan(program, many, K6_12, prefer="overhead")
    assert {g.mechanism for g in fast.groups} == {TRAMPOLINE}


def test_arguments_at_exit_need_a_trampoline() -> None:
    """pt_regs at return has rax only: such functions fall to clones, or are told why."""
    program = PROGRAMS[5]
    assert one(program, T, K6_12).groups[0].mechanism is TRAMPOLINE
    skipped = one(program, T, K6_12, "kprobe_multi").skipped[0]
    assert skipped.reason is Reason.NO_EXIT_ARGS
    # A function of two slots has no ctx[2] to lose: 0 is right everywhere.
    small = replace(T, model=model(2))
    assert one(program, small, K6_12, "kprobe_multi").groups


def test_groups_follow_the_bytes_not_the_count() -> None:
    """Slots the program does not read split nothing; the one it reads splits once."""
    functions = [
        replace(T, name=f"f{n}", address=0x1000 * (n + 1), model=model(n)) for n in range(7)
    ]
    groups = plan(template(load(2)), functions, K6_12, "trampoline").groups
    assert sorted(len(g.targets) for g in groups) == [3, 4]  # 0..2 slots: 0; 3..6: a load
    assert len(plan(template(load(2)), functions, K7_3, "tracing_multi").groups) == 1
    exits = plan(template(load(6), hook=Hook.EXIT), functions, K6_12, "trampoline").groups
    assert len(exits) == 7  # the return value sits behind the last slot


def test_a_program_too_long_to_be_rewritten_is_named() -> None:
    """A jump over as much as it can, and in between one instruction that becomes many."""
    code = [
        asm.jmp(op.JEQ, 10, 0, 0x7FFF),
        asm.call(CtxHelper.get_func_arg),
        *[asm.mov(0, 0)] * 0x7FFE,
    ]
    with pytest.raises(PlanError, match=r"'p' is too long to be rewritten: a jump of .* 16 bits"):
        one(template(*code), T, K6_12, "kprobe")


def test_void_functions_have_their_own_frame() -> None:
    functions = [T, replace(T, name="g", address=0x2000, model=model(1, Return.VOID))]
    groups = plan(template(load(6), hook=Hook.EXIT), functions, K7_3, "tracing_multi").groups
    assert len(groups) == 2
    assert {g.lowering for g in groups} == {Lowering.FRAME}
    only_args = plan(template(load(1), hook=Hook.EXIT), functions, K7_3, "tracing_multi").groups
    assert len(only_args) == 1


def test_a_context_that_leaves_its_function_is_no_frame() -> None:
    """Of the mechanisms on 7.3 only tracing_multi makes one: others trace the function."""
    returned = (asm.call_sub(2), asm.mov(0, 0), asm.exit_(), asm.mov_reg(0, 1))
    program = template(asm.load(op.DW, 2, 1, 16), *returned)
    assert one(program, T, K7_3).groups[0].mechanism is not TRACING_MULTI
    (skipped,) = plan(program, [T], K7_3, "tracing_multi").skipped
    assert "one of its functions returns it" in str(skipped)
    unread = template(*returned)
    assert one(unread, T, K7_3, "tracing_multi").groups[0].mechanism is TRACING_MULTI


def test_helpers_only_is_native() -> None:
    program = template(asm.call(CtxHelper.get_func_ip))
    assert one(program, T, K7_3, "tracing_multi").groups[0].lowering is Lowering.NATIVE


def test_session_forms() -> None:
    """Native where there is one, kprobe.session, else a pair; cookies are a clear reason."""
    assert [p.side for p in one(SESSION, T, K7_3, "tracing_multi").groups[0].parts] == [
        Side.SESSION
    ]
    assert [p.side for p in one(SESSION, T, K6_12, "kprobe_multi").groups[0].parts] == [
        Side.SESSION
    ]
    pair = one(SESSION, T, K6_1, "trampoline").groups[0]
    assert [p.side for p in pair.parts] == [Side.ENTRY, Side.EXIT]
    assert pair.parts[0].variant != pair.parts[1].variant
    assert one(COOKIE_SESSION, T, K6_12).groups[0].mechanism is KPROBE_MULTI
    assert one(COOKIE_SESSION, T, K6_1).skipped[0].reason is Reason.NO_SESSION_COOKIE


@pytest.mark.parametrize(
    ("target", "facts", "mechanism", "reason"),
    [
        (replace(T, btf_id=None, model=None), K7_3, "trampoline", Reason.NO_BTF),
        (replace(T, model=model(7)), K6_1, "trampoline", Reason.TOO_MANY_SLOTS),
        (replace(T, model=model(13)), K7_3, "tracing_multi", Reason.TOO_MANY_SLOTS),
        (replace(T, unique=False), K7_3, "tracing_multi", Reason.AMBIGUOUS),
        (replace(T, occupied=36), K7_3, "tracing_multi", Reason.TRAMPOLINE_FULL),
        (replace(T, occupied=38), K6_1, "trampoline", Reason.TRAMPOLINE_FULL),
        (replace(T, name="migrate_disable"), K7_3, "auto", Reason.DENIED),
        (T, K6_1, "kprobe_multi", Reason.NO_MECHANISM),
        (replace(T, kprobe=False), K6_1, "kprobe", Reason.NOT_TRACEABLE),
        (
            replace(T, model=model(obstacle=Reason.RETURNS_STRUCT)),
            K7_3,
            "tracing_multi",
            Reason.RETURNS_STRUCT,
        ),
    ],
)
def test_reasons(target: Target, facts: PlanFacts, mechanism: str, reason: Reason) -> None:
    out = one(PROGRAMS[1], target, facts, mechanism)
    assert not out.groups
    assert out.skipped[0].reason is reason


@pytest.mark.parametrize(("size", "shifted"), [(8, False), (16, False), (17, True), (176, True)])
def test_a_value_returned_in_memory_shifts_the_arguments(size: int, shifted: bool) -> None:
    """The address for it is in the first register: ctx[0] would be that, ctx[1] the first one."""
    big = Model(2, Return.STRUCT, size, False, 2, obstacle=Reason.RETURNS_STRUCT)
    out = one(template(load(0)), replace(T, model=big), K6_12)
    assert [s.reason for s in out.skipped] == [Reason.RETURNS_STRUCT] * shifted
    small = replace(big, ret_size=8)
    both = [replace(T, model=small), replace(T, name="g", address=0x2000, model=big)]
    planned = plan(template(load(0)), both, K6_12)
    assert [t.name for t in planned.targets] == ["vfs_read", "g"][: 2 - shifted]
    returned = one(template(load(6), hook=Hook.EXIT), replace(T, model=big), K6_12)
    assert {g.mechanism for g in returned.groups} == {KPROBE_MULTI}


EPERM = Answer(Support.DENIED, "BPF_PROG_LOAD: EPERM (an LSM or host policy)", 1)
NO = Answer(Support.UNSUPPORTED, "BPF_LINK_CREATE: EOPNOTSUPP", 95)


def kernel(release: str, **answers: Answer) -> PlanFacts:
    """A kernel that refuses some features, and has the others of `BASE`."""
    known = FeatureSet(BASE - {F[name] for name in answers})
    return PlanFacts.of(
        FeatureSet({**known, **{F[name]: answer for name, answer in answers.items()}}),
        release=release,
    )


@pytest.mark.parametrize(
    ("facts", "reason", "says"),
    [
        (
            kernel("6.18.1", TRACING_MULTI=NO, FENTRY=EPERM, KPROBE_MULTI=NO, KPROBE=NO),
            Reason.NOT_PERMITTED,
            "not permitted here: fentry: BPF_PROG_LOAD: EPERM (an LSM or host policy)",
        ),
        (
            kernel("6.18.1", TRACING_MULTI=NO, FENTRY=NO, KPROBE_MULTI=NO, KPROBE=EPERM),
            Reason.NOT_PERMITTED,
            "not permitted here: kprobe: ",
        ),
        (
            kernel("6.18.1", TRACING_MULTI=NO, FENTRY=NO, KPROBE_MULTI=NO, KPROBE=NO),
            Reason.NO_MECHANISM,
            "the kernel has no fentry (6.18.1 is new enough (5.5), perhaps built without CONFIG_",
        ),
        (
            kernel("4.9.1", TRACING_MULTI=NO, FENTRY=NO, KPROBE_MULTI=NO, KPROBE=NO),
            Reason.NO_MECHANISM,
            "the kernel has no tracing_multi (7.2 and newer, this is 4.9.1)",
        ),
    ],
)
def test_the_reason_that_matters_most_is_given(facts: PlanFacts, reason: Reason, says: str) -> None:
    """A refusal comes before an option that lacks, and that before "too old"."""
    (skipped,) = one(PROGRAMS[1], T, facts).skipped
    assert skipped.reason is reason
    assert says in skipped.why
    assert "trampolines why vfs_read" in skipped.hint
    text = str(plan(PROGRAMS[1], [T, replace(T, name="vfs_write", address=0x2000)], facts))
    assert says in text  # said once, for both


def test_a_refused_mechanism_is_named_only_if_it_could_trace_the_function() -> None:
    """Kprobes lose the arguments at exit, and clones, which keep them, are refused by a policy."""
    program = template(load(2), load(6), hook=Hook.EXIT)
    facts = kernel("6.18.1", FENTRY=EPERM)
    assert one(program, T, facts).skipped[0].reason is Reason.NOT_PERMITTED
    no_btf = replace(T, btf_id=None)
    assert one(program, no_btf, facts).skipped[0].reason is Reason.NO_EXIT_ARGS
    assert one(program, T, kernel("6.18.1", FENTRY=NO)).skipped[0].reason is Reason.NO_EXIT_ARGS


def test_a_refused_probe_of_cookies_is_not_a_no() -> None:
    program = template(asm.call(CtxHelper.get_attach_cookie))
    facts = kernel("6.18.1", FENTRY=NO, ATTACH_COOKIE=EPERM)
    (skipped,) = one(program, T, facts, "kprobe").skipped
    assert skipped.reason is Reason.NOT_PERMITTED
    assert "EPERM" in skipped.detail


def test_full_trampoline_spills_in_auto() -> None:
    full = replace(T, occupied=38)
    assert one(PROGRAMS[1], full, K6_12).groups[0].mechanism is KPROBE_MULTI
    assert one(PROGRAMS[1], full, K6_1).groups[0].mechanism is KPROBE


def test_plan_is_a_value() -> None:
    a, b = (plan(PROGRAMS[2], [T], K7_3) for _ in range(2))
    assert a == b
    shown = json.loads(a.to_json())
    assert shown["groups"][0]["targets"] == ["vfs_read"]
    assert "p (fentry.multi): 1 function, 1 group" in str(a)


@pytest.mark.parametrize("mechanism", ["kprobe", "kprobe_multi", "trampoline"])
def test_json_tells_the_module_of_each_function(mechanism: str) -> None:
    """Kprobe groups hold functions of several modules: each is named with its own."""
    two = [replace(T, module=module, address=0x1000 + n) for n, module in enumerate(("", "kvm"))]
    shown = json.loads(plan(PROGRAMS[0], two, K6_12, mechanism).to_json())
    pairs = [p for g in shown["groups"] for p in zip(g["targets"], g["labels"], strict=True)]
    assert sorted(pairs) == [("vfs_read", "vfs_read"), ("vfs_read", "vfs_read [kvm]")]


def test_unknown_mechanism_and_preference() -> None:
    with pytest.raises(PlanError, match="one of auto, tracing_multi"):
        plan(PROGRAMS[0], [], K7_3, "magic")
    with pytest.raises(PlanError, match="overhead"):
        plan(PROGRAMS[0], [], K7_3, prefer="speed")


def test_lowering_on_demand() -> None:
    """Clones take the frame when asked; mechanisms without the lowering are not used."""
    reads = template(load(0))
    one = [Target("f", btf_id=1, address=0x1000, model=model(1))]

    def made(lowering: str, mechanism: str = "auto") -> Plan:
        return plan(reads, one, K7_3, mechanism, lowering=lowering)

    (group,) = made("frame", "trampoline").groups
    assert (group.mechanism, group.lowering) == (TRAMPOLINE, Lowering.FRAME)
    assert made("auto", "trampoline").groups[0].lowering is Lowering.DIRECT
    assert made("direct").groups[0].mechanism is TRAMPOLINE
    assert made("frame").groups[0].mechanism is TRACING_MULTI
    assert made("frame", "kprobe").skipped[0].reason is Reason.NO_MECHANISM
    with pytest.raises(PlanError, match="auto, direct, frame"):
        made("regs")


def test_the_public_plan_takes_targets_or_looks_names_up() -> None:
    """`pybpf.trampoline.plan` with plain facts is the pure planner; names need Facts."""
    assert pybpf.trampoline.plan(PROGRAMS[2], [T], K7_3) == plan(PROGRAMS[2], [T], K7_3)
    with pytest.raises(PlanError, match="PlanFacts cannot look up names"):
        pybpf.trampoline.plan(PROGRAMS[2], ["vfs_read"], K7_3)


def test_a_wrong_request_is_told_before_anything_is_looked_up() -> None:
    """attach_multi checks its arguments first: no kernel is asked."""
    source = Path(__file__).parents[1] / "data" / "multi.bpf.o"
    with pybpf.open(source) as obj, pytest.raises(PlanError, match="one of auto"):
        obj.programs["on_entry"].attach_multi("vfs_*", mechanism="magic")


READS_RET_AT_ENTRY = template(
    load(6), Insn(op.JMP | op.CALL, 0, 2, 0, 7), hook=Hook.SESSION, kfuncs={1: SESSION.kfuncs[0]}
)


def test_no_session_shows_a_register_as_the_return_value_at_entry() -> None:
    """0 at entry on every mechanism: kprobe.session cannot, so it is a pair of links there."""
    (group,) = one(READS_RET_AT_ENTRY, T, K6_12, "kprobe_multi").groups
    assert [p.side for p in group.parts] == [Side.ENTRY, Side.EXIT]
    entry, exit_ = (p.variant.code.insns for p in group.parts)
    assert entry[0] == asm.mov(0, 0)
    assert exit_[0] == asm.load(op.DW, 0, 1, 80)
    cookie = replace(READS_RET_AT_ENTRY, kfuncs={1: "bpf_session_cookie"})
    (skipped,) = one(cookie, T, K6_12, "kprobe_multi").skipped
    assert skipped.reason is Reason.NO_SESSION_COOKIE and "at entry, too" in skipped.detail
    assert one(cookie, T, K7_3, "tracing_multi").groups


def test_get_func_ret_at_the_entry_of_a_pair_gives_0() -> None:
    """As a fsession program has it on 7.x, and at exit the value."""
    program = template(
        asm.mov_reg(2, 10),
        asm.alu(op.ADD, 2, -8),
        asm.call(CtxHelper.get_func_ret),
        Insn(op.JMP | op.CALL, 0, 2, 0, 7),
        hook=Hook.SESSION,
        kfuncs={3: "bpf_session_is_return"},
        source={3: "f.c:3: is_return"},
    )
    zero = (asm.store_imm(op.DW, 2, 0, 0), asm.mov(0, 0))
    for facts, mechanism in ((K6_1, "kprobe"), (K6_1, "trampoline"), (K6_12, "kprobe_multi")):
        (group,) = one(program, T, facts, mechanism).groups
        entry, exit_ = (p.variant.code.insns for p in group.parts)
        assert entry[2:4] == zero, mechanism
        assert entry[4] == asm.mov(0, 0) and exit_[-2] == asm.mov(0, 1)
        assert zero[0] not in exit_
    assert program.half(False).source == {4: "f.c:3: is_return"}


def test_slots_that_a_function_does_not_have_are_0_at_exit_too() -> None:
    """ctx[5] of a function of one slot: a session of one kprobe.session gives it."""
    reads = template(load(5), *SESSION.code.insns[:1], hook=Hook.SESSION, kfuncs={1: "x"})
    small = replace(T, model=model(1))
    assert one(reads, small, K6_12, "kprobe_multi").groups
    (skipped,) = one(reads, replace(T, model=model(6)), K6_12, "kprobe_multi").skipped
    assert skipped.reason is Reason.NO_EXIT_ARGS


@pytest.mark.parametrize("known", [True, False])
def test_one_of_several_is_told_by_its_address(known: bool) -> None:
    target = replace(
        T, unique=False, btf_id=10 if known else None, model=T.model if known else None
    )
    for mechanism in ("tracing_multi", "trampoline", "kprobe_multi", "kprobe"):
        (skipped,) = one(PROGRAMS[1], target, K7_3, mechanism).skipped
        assert (skipped.reason, skipped.address) == (Reason.AMBIGUOUS, T.address)
        assert str(skipped).startswith("vfs_read at 0x1000: several functions")


def test_several_with_one_prototype_are_traced_by_address() -> None:
    """Their model is that of each of them. Only kprobe mechanisms take addresses."""
    several = [replace(T, address=T.address + n, unique=False, btf_id=None) for n in (0, 64)]
    for mechanism in ("auto", "kprobe_multi", "kprobe"):
        made = plan(PROGRAMS[1], several, K7_3, mechanism=mechanism)
        assert [t.address for t in made.targets] == [t.address for t in several]
        assert not made.skipped and made.shared == made.targets
        assert {g.mechanism.value for g in made.groups} <= {"kprobe_multi", "kprobe"}
        assert "by address: 2 functions that share their names with others" in str(made)
    for mechanism in ("tracing_multi", "trampoline"):
        made = plan(PROGRAMS[1], several, K7_3, mechanism=mechanism)
        assert {s.reason for s in made.skipped} == {Reason.AMBIGUOUS} and not made.groups
    assert "by address" not in str(plan(PROGRAMS[1], [T], K7_3))


def test_several_without_a_known_prototype_are_refused_or_get_registers() -> None:
    several = [
        replace(T, address=T.address + n, unique=False, btf_id=None, model=None) for n in (0, 64)
    ]
    refused = plan(PROGRAMS[1], several, K7_3, mechanism="kprobe_multi").skipped
    assert [s.reason for s in refused] == [Reason.AMBIGUOUS] * 2
    assert all('unknown="registers"' in s.hint for s in refused)
    made = plan(PROGRAMS[1], several, K7_3, unknown="registers")
    assert len(made.targets) == 2 and not made.skipped


def test_a_function_asked_for_twice_is_no_alias_of_itself() -> None:
    (skipped,) = plan(PROGRAMS[1], [T, replace(T)], K7_3).skipped
    assert "asked for twice" in skipped.detail


@pytest.mark.parametrize("facts", [K6_12, K7_3])
def test_whether_a_sleepable_program_may_run_is_a_question(facts: PlanFacts) -> None:
    """Refused for certain: a reason. Unknown: tried, and the plan says so. Kprobes: never."""
    sleeps = template(load(1), sleepable=True)
    yes, no, unknown = (
        Target(name, "", 0x1000 * n, n, model(), may_sleep=said)
        for n, (name, said) in enumerate([("yes", True), ("no", False), ("unknown", None)], 1)
    )
    out = plan(sleeps, [yes, no, unknown], facts)
    assert {t.name for t in out.targets} == {"yes", "unknown"}
    assert {g.mechanism for g in out.groups} <= {TRACING_MULTI, TRAMPOLINE}
    assert [t.name for t in out.unsure] == ["unknown"]
    assert "not known for this function" in str(out)
    assert json.loads(out.to_json())["unsure"] == ["unknown"]
    (skipped,) = out.skipped
    assert (skipped.name, skipped.reason) == ("no", Reason.NOT_SLEEPABLE)
    assert "the kernel does not let sleepable programs run on this function" in skipped.why
    for mechanism, said in answers(sleeps, no, facts).items():
        assert said is not None
        if mechanism in (TRACING_MULTI, TRAMPOLINE):
            assert said.reason in (Reason.NOT_SLEEPABLE, Reason.NO_MECHANISM)
        else:
            assert f"{mechanism.value} programs cannot sleep" in said.why
    awake = plan(template(load(1)), [yes, no, unknown], facts)
    assert len(awake.targets) == 3 and awake.unsure == () and awake.skipped == ()


@pytest.mark.parametrize(
    ("program", "facts", "mechanism"),
    [
        (template(asm.mov(0, 0)), K7_3, TRACING_MULTI),
        (template(asm.mov(0, 0), hook=Hook.EXIT), K7_3, TRACING_MULTI),
        (SESSION, K7_3, TRACING_MULTI),
        (template(asm.mov(0, 0)), K6_12, KPROBE_MULTI),
        (SESSION, K6_12, KPROBE_MULTI),
        (template(asm.mov(0, 0)), K6_1, KPROBE),
    ],
)
def test_calls_are_weighed_against_what_is_set_up_sooner(
    program: Template, facts: PlanFacts, mechanism: object
) -> None:
    """Thousands of functions get the dearer calls only where that saves far more than they cost.

    By kprobe.multi 5,000 functions of 7.3 are attached sooner than by tracing_multi, which costs
    112 instructions a call, not 254; the clones of 6.x cost minutes.
    """
    many = [Target(f"f{i}", "", 16 * i, i, model(2)) for i in range(1, 5001)]
    out = plan(program, many, facts)
    assert [group.mechanism for group in out.groups] == [mechanism]
    sooner = plan(program, many, facts, "kprobe_multi").cost if facts is K7_3 else out.cost
    assert sooner.attach_s <= out.cost.attach_s
    assert sooner.insns_per_call >= out.cost.insns_per_call


@pytest.mark.parametrize("base", KERNELS)
@pytest.mark.parametrize("mechanism", ["auto", "trampoline"])
def test_predictions_are_of_the_machine(base: PlanFacts, mechanism: str) -> None:
    """A fast machine has the same plan in less time, except for what the kernel waits on 6.x."""
    many = [Target(f"f{i}", "", 16 * i, i, model(2)) for i in range(1, 501)]
    fast = replace(base, costs=replace(base.costs, slowness=0.05))
    slow, quick = (plan(PROGRAMS[1], many, facts, mechanism) for facts in (base, fast))
    assert quick.groups == slow.groups
    assert quick.cost.attach_s == pytest.approx(0.05 * slow.cost.attach_s)
    waits = slow.groups[0].mechanism is TRAMPOLINE and base is not K7_3
    if waits:
        assert 0.7 * slow.cost.detach_s < quick.cost.detach_s < slow.cost.detach_s
    else:
        assert quick.cost.detach_s == pytest.approx(0.05 * slow.cost.detach_s)


def test_slowness_is_measured_once() -> None:
    """All plans of a process are of the same machine, so that they can be compared."""
    slowness.cache_clear()
    first = slowness()
    assert 0.001 < first < 100 and slowness() == first
