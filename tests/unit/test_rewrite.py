"""The lowerings compute what the multi context promises, on any function model.

Programs (random ones and hand-written ones) run in an interpreter twice: as
written, on the pinned context (six zero-extended argument slots, then the
return value), and lowered, on the layout the kernel really gives. The results
must be equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code, edit
from pybpf.asm.insn import Insn
from pybpf.multi import rewrite
from pybpf.multi.traits import CtxHelper, Hook, analyse
from tests.support.bpfvm import M64, Vm
from tests.support.examples import examples
from tests.support.tracedcalls import Call, helpers, promised, registers, words


def run(insns: Sequence[Insn], context: bytes, call: Call, *, kprobe: bool = False) -> int:
    vm = Vm(insns)
    ctx = vm.map(context)
    vm.helpers = helpers(call, ctx, not kprobe)
    return vm.run(ctx)


def run_trampoline(insns: Sequence[Insn], call: Call) -> int:
    """On a trampoline's context: own slots, then the return value if there is one."""
    return run(insns, words(*call.args, *([] if call.ret is None else [call.ret])), call)


def check(insns: list[Insn], call: Call, hook: Hook = Hook.EXIT) -> None:
    expected = run(insns, promised(call), call)
    code = Code(tuple(insns))
    traits = analyse(code, hook)
    returns = call.ret is not None
    shape = {"slots": call.slots, "returns": returns}
    direct, _ = edit(code, rewrite.direct(code, traits, **shape))
    assert run_trampoline(direct.insns, call) == expected
    scalar, _ = edit(code, rewrite.direct(code, traits, **shape, scalars=True))
    assert run_trampoline(scalar.insns, call) == expected
    framed = rewrite.frame(code, traits, returns=returns)
    assert run_trampoline(framed.insns, call) == expected
    if call.slots <= 6:
        regs, _ = edit(code, rewrite.regs(code, traits, **shape))
        assert run(regs.insns, registers(call), call, kprobe=True) == expected


u64 = st.integers(0, M64)
calls = st.builds(Call, st.lists(u64, max_size=8).map(tuple), st.one_of(st.none(), u64))


@st.composite
def loads(draw: st.DrawFn, base: int) -> list[Insn]:
    """One load of any width from any slot, mixed into r0."""
    size = draw(st.sampled_from([op.B, op.H, op.W, op.DW]))
    width = op.SIZE_BYTES[size]
    off = 8 * draw(st.integers(0, 6)) + width * draw(st.integers(0, 8 // width - 1))
    mode = op.MEMSX if width < 8 and draw(st.booleans()) else op.MEM
    to = draw(st.sampled_from([2, 3, base]))
    keep = [asm.mov_reg(4, base)] if to == base else []
    back = [asm.mov_reg(base, 4)] if to == base else []
    return [
        *keep,
        Insn(op.LDX | size | mode, to, base, off),
        asm.alu(op.MUL, 0, 31),
        asm.alu_reg(op.ADD, 0, to),
        *back,
    ]


@st.composite
def helper_calls(draw: st.DrawFn, ctx_at: int) -> list[Insn]:
    """A context helper; the context is spilled at fp+ctx_at, r0 kept at fp-8."""
    which = draw(st.sampled_from(["ip", "cookie", "arg", "arg_var", "ret", "cnt", "clock"]))
    out: list[Insn] = [asm.store(op.DW, 10, -8, 0), asm.load(op.DW, 1, 10, ctx_at)]
    out.append(asm.store_imm(op.DW, 10, -16, 5))
    if which == "arg":
        out += [asm.mov(2, draw(st.integers(0, 9))), asm.mov_reg(3, 10), asm.alu(op.ADD, 3, -16)]
        out.append(asm.call(CtxHelper.get_func_arg))
    elif which == "arg_var":
        # the index depends on data, so no pass can know it
        out += [asm.load(op.B, 2, 1, 0), asm.alu(op.AND, 2, 7)]
        out += [asm.mov_reg(3, 10), asm.alu(op.ADD, 3, -16), asm.call(CtxHelper.get_func_arg)]
    elif which == "ret":
        out += [asm.mov_reg(2, 10), asm.alu(op.ADD, 2, -16), asm.call(CtxHelper.get_func_ret)]
    else:
        ids = {"ip": 173, "cookie": 174, "cnt": 185, "clock": 5}
        out.append(asm.call(ids[which]))
    out += [
        asm.load(op.DW, 2, 10, -8),
        asm.alu(op.MUL, 2, 131),
        asm.alu_reg(op.ADD, 0, 2),
        asm.load(op.DW, 2, 10, -16),
        asm.alu_reg(op.ADD, 0, 2),
    ]
    return out


@st.composite
def programs(draw: st.DrawFn, void: bool) -> list[Insn]:
    """Straight parts, a skipped branch, a spill, and a subprogram that gets the context."""
    out = [asm.mov_reg(6, 1), asm.store(op.DW, 10, -24, 1), asm.mov(0, 1)]

    def part() -> list[Insn]:
        kind = draw(st.integers(0, 3))
        if kind == 0:
            return draw(loads(6))
        if kind == 1:
            return [asm.load(op.DW, 7, 10, -24), *draw(loads(7))]
        if kind == 2:
            piece = draw(helper_calls(-24))
            if void and any(i.is_call and i.imm == CtxHelper.get_func_ret for i in piece):
                return draw(loads(6))  # what a void function's rax holds is not specified
            return piece
        body = draw(loads(6))
        jump = draw(st.sampled_from([op.JEQ, op.JSGT, op.JLT, op.JSET]))
        return [asm.jmp(jump, 0, draw(st.integers(-3, 3)), len(body)), *body]

    for _ in range(draw(st.integers(1, 5))):
        out += part()
    if not draw(st.booleans()):
        return [*out, asm.exit_()]
    # r0 = r0 * 7 + sub(ctx)
    tail = [
        asm.mov_reg(8, 0),
        asm.mov_reg(1, 6),
        asm.call_sub(4),
        asm.alu(op.MUL, 8, 7),
        asm.alu_reg(op.ADD, 0, 8),
        asm.alu(op.ADD, 0, 3),
        asm.exit_(),
    ]
    sub = [asm.mov_reg(7, 1), asm.mov(0, 2), *draw(loads(7)), *draw(loads(1))]
    return [*out, *tail, *sub, asm.exit_()]


@settings(max_examples=examples(250), deadline=None)
@given(st.data())
def test_every_lowering_computes_the_same(data: st.DataObject) -> None:
    """Random programs on random calls: direct, direct with scalars, frame, regs."""
    call = data.draw(calls)
    check(data.draw(programs(call.ret is None)), call)


@pytest.mark.parametrize("slots", range(9))
@pytest.mark.parametrize("void", [False, True])
def test_slots_past_the_functions_own_are_zero(slots: int, void: bool) -> None:
    """Each of ctx[0..6] alone, on functions of 0..8 slots, with and without a return."""
    call = Call(tuple(0x1111 * (i + 1) for i in range(slots)), None if void else 0x7777)
    for index in range(7):
        check([asm.load(op.DW, 0, 1, 8 * index), asm.exit_()], call)


# r2 = fp - 8, where 0 is, or what the clock gave: `p = lookup(...) ?: &zero`
EITHER = [
    asm.mov_reg(6, 1),
    asm.store_imm(op.DW, 10, -8, 0),
    asm.call(5),
    asm.mov_reg(2, 0),
    asm.jmp(op.JNE, 0, 77, 2),
    asm.mov_reg(2, 10),
    asm.alu(op.ADD, 2, -8),
]
# r2 = fp - 8, kept in a structure on the stack, a part of which a helper gets before
KEPT = [
    asm.mov_reg(6, 1),
    asm.mov_reg(2, 10),
    asm.alu(op.ADD, 2, -8),
    asm.store(op.DW, 10, -16, 2),
    asm.mov_reg(1, 10),
    asm.alu(op.ADD, 1, -24),
    asm.call(5),
    asm.store_imm(op.DW, 10, -8, 0),
    asm.load(op.DW, 2, 10, -16),
]


@pytest.mark.parametrize("pointer", [EITHER, KEPT])
@pytest.mark.parametrize(
    "store",
    [
        asm.store_imm(op.DW, 2, 0, 1),
        asm.store_imm(op.B, 2, 7, 1),
        Insn(op.STX | op.DW | op.ATOMIC, 2, 2, 0, op.ADD),
    ],
)
def test_a_number_written_through_a_pointer_decides_no_branch(
    pointer: list[Insn], store: Insn
) -> None:
    """The pointer is to the stack on one path only, or it was in memory that a helper got."""
    body = [
        *pointer,
        store,
        asm.load(op.DW, 3, 10, -8),
        asm.mov(0, 0),
        asm.jmp(op.JEQ, 3, 0, 1),
        asm.load(op.DW, 0, 6, 48),
        asm.exit_(),
    ]
    check(body, Call((1, 2, 3), 0x7777))


def test_only_the_lower_half_of_an_argument_index_counts() -> None:
    """bpf_get_func_arg takes a u32; without 32-bit arithmetic clang leaves the upper half dirty."""
    body = [
        asm.mov_reg(6, 1),
        asm.load(op.DW, 2, 1, 0),
        asm.store_imm(op.DW, 10, -8, 5),
        asm.mov_reg(3, 10),
        asm.alu(op.ADD, 3, -8),
        asm.call(CtxHelper.get_func_arg),
        asm.load(op.DW, 0, 10, -8),
        asm.exit_(),
    ]
    for index in range(4):
        check(body, Call((index | 1 << 40, 22, 33), 0x7777))


def test_frame_puts_the_return_value_first() -> None:
    """ctx[6] is at offset 0 of the frame and ctx[i] at 8 + 8 * i, whatever the function."""
    code = Code((asm.load(op.DW, 2, 1, 0), asm.load(op.DW, 0, 1, 48), asm.exit_()))
    out = rewrite.frame(code, analyse(code, Hook.EXIT)).insns
    body = out[-3:]
    assert body == (asm.load(op.DW, 2, 1, 8), asm.load(op.DW, 0, 1, 0), asm.exit_())


def test_frame_reads_only_what_the_program_reads() -> None:
    """One slot at entry: one helper call, two stack slots at most."""
    code = Code((asm.load(op.DW, 0, 1, 16), asm.exit_()))
    out = rewrite.frame(code, analyse(code, Hook.ENTRY)).insns
    assert [i.imm for i in out if i.is_call and i.src == 0] == [CtxHelper.get_func_arg]
    assert sum(1 for i in out if i.cls == op.ST) == 1


@pytest.mark.parametrize("wanted", [(0, 1, 2, 3), (1, 2, 4, 5), (0, 1, 2, 3, 4, 5), (0, 3, 5)])
@pytest.mark.parametrize("slots", range(8))
def test_frame_stops_filling_where_the_function_has_no_more(
    wanted: tuple[int, ...], slots: int
) -> None:
    """Half way, and never so early that a slot is missing."""
    body = [asm.mov(0, 0)]
    for at, slot in enumerate(wanted):
        body += [asm.load(op.DW, 2, 1, 8 * slot), asm.alu(op.LSH, 2, at), asm.alu_reg(op.XOR, 0, 2)]
    body.append(asm.exit_())
    args = tuple(0x1111 * (i + 1) for i in range(slots))
    check(body, Call(args, 0x7777), Hook.ENTRY)
    code = Code(tuple(body))
    framed = rewrite.frame(code, analyse(code, Hook.ENTRY)).insns
    asked = []
    vm = Vm(list(framed))
    ctx = vm.map(b"".join(v.to_bytes(8, "little") for v in (*args, 0)))
    table = helpers(Call(args, 0x7777), ctx)
    get_arg = table[CtxHelper.get_func_arg]

    def counted(vm: Vm, ctx: int, slot: int, *rest: int) -> int:
        asked.append(slot)
        return get_arg(vm, ctx, slot, *rest)

    vm.helpers = table | {CtxHelper.get_func_arg: counted}
    vm.run(ctx)
    half = len(wanted) // 2
    stops = half >= 2 and wanted[half - 1] >= slots
    assert asked == list(wanted[:half] if stops else wanted)


def test_frame_saves_the_context_only_for_a_second_call() -> None:
    """r6 costs a push and a pop."""
    one = Code((asm.load(op.DW, 0, 1, 16), asm.exit_()))
    assert not any(i.dst == op.R6 for i in rewrite.frame(one, analyse(one, Hook.ENTRY)).insns)
    two = Code((asm.load(op.DW, 2, 1, 16), asm.load(op.DW, 0, 1, 48), asm.exit_()))
    assert any(i.dst == op.R6 for i in rewrite.frame(two, analyse(two, Hook.EXIT)).insns)


def test_helper_only_program_is_left_alone() -> None:
    """`native`: a program that uses helpers only is the same in a frame."""
    code = Code((asm.call(CtxHelper.get_func_ip), asm.exit_()))
    assert rewrite.frame(code, analyse(code, Hook.ENTRY)) is code


def test_direct_changes_nothing_where_layouts_agree() -> None:
    """Own argument slots stay the very instructions clang made."""
    code = Code((asm.load(op.DW, 2, 1, 8), asm.load(op.W, 0, 1, 0), asm.exit_()))
    assert not rewrite.direct(code, analyse(code, Hook.ENTRY), slots=2, returns=True)


def test_debug_info_moves_along() -> None:
    """func_info and line_info name the same instructions after a rewrite."""
    insns = (
        asm.mov_reg(6, 1),
        asm.call(CtxHelper.get_func_ip),  # grows by one in a frame
        asm.load(op.DW, 0, 6, 48),
        asm.mov_reg(1, 6),
        asm.call_sub(1),
        asm.exit_(),
        asm.load(op.DW, 0, 1, 0),
        asm.exit_(),
    )
    lines = ((0, 1, 10, 0), (2, 1, 20, 0), (4, 1, 30, 0), (6, 1, 40, 0))
    code = Code(insns, ((0, 100), (6, 101)), lines)
    traits = analyse(code, Hook.EXIT)
    assert traits.ctx_functions == {6}
    out = rewrite.frame(code, traits, static=lambda i: i + 1000)
    ids = [type_id for _, type_id in out.func_info]
    assert ids == [100, 1100, 1101]  # new main, body, subprogram with the frame
    starts = [slot for slot, _ in out.func_info]
    assert starts[0] == 0
    assert out.insns[starts[1]] == asm.mov_reg(6, 1)
    assert out.insns[starts[2]] == asm.load(op.DW, 0, 1, 8)
    at = {line: slot for slot, _, line, _ in out.line_info}
    assert out.insns[at[20]] == asm.load(op.DW, 0, 6, 0)
    assert out.insns[at[30]].is_subprog_call
    assert at[40] == starts[2]
    assert [slot for slot, *_ in out.line_info] == sorted({slot for slot, *_ in out.line_info})


def test_session_pair() -> None:
    """bpf_session_is_return becomes the constant of each half."""
    kfunc = Insn(op.JMP | op.CALL, 0, 2, 0, 1234)
    code = Code((kfunc, asm.jmp(op.JEQ, 0, 0, 1), asm.load(op.DW, 0, 1, 0), asm.exit_()))
    for side in (False, True):
        out, left = rewrite.fold_session(code, {0: "bpf_session_is_return"}, is_return=side)
        assert out.insns[0] == asm.mov(0, int(side))
        assert not left
