"""The data-flow pass: what it proves, and what it refuses with instruction and line."""

from __future__ import annotations

from typing import Any

import pytest

from pybpf._uapi.helper_args import HELPER_ARGS
from pybpf._uapi.helpers import Helper
from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code
from pybpf.asm.insn import Insn
from pybpf.errors import PlanError
from pybpf.multi.traits import (
    Access,
    CtxHelper,
    Hook,
    Traits,
    analyse,
)


def of(*insns: Insn, hook: Hook = Hook.EXIT, **more: Any) -> Traits:
    return analyse(Code(tuple(insns)), hook, program="p", source={0: "f.c:10: body"}, **more)


def load(off: int, base: int = 1, size: int = op.DW, to: int = 0) -> Insn:
    return asm.load(size, to, base, off)


RET = asm.exit_()
ZERO = asm.mov(0, 0)


def test_slots_and_return() -> None:
    traits = of(load(0, to=2), load(40, to=2), load(48), RET)
    assert traits.slots == {0, 5}
    assert traits.reads_ret
    assert traits.needs_args
    assert traits.needs_ret


def test_narrow_loads_keep_their_place_in_the_slot() -> None:
    """What clang makes of (int)ctx[6] and of a u16 taken from the middle of a slot."""
    traits = of(load(48, size=op.W, to=2), load(12, size=op.H), RET)
    assert traits.accesses == (Access(0, 6, 0, 4), Access(1, 1, 4, 2))


def test_moves_and_spills_are_followed() -> None:
    traits = of(
        asm.mov_reg(6, 1),
        asm.store(op.DW, 10, -8, 6),
        asm.call(5),
        load(-8, base=10, to=7),
        load(8, base=7, to=2),
        load(16, base=6),
        RET,
    )
    assert traits.slots == {1, 2}


def test_spill_through_computed_stack_address() -> None:
    """fp copied and moved by a constant is still the stack."""
    traits = of(
        asm.mov_reg(2, 10),
        asm.alu(op.ADD, 2, -16),
        asm.store(op.DW, 2, 8, 1),
        load(-8, base=10, to=3),
        load(24, base=3),
        RET,
    )
    assert traits.slots == {3}


def test_subprogram_with_the_context() -> None:
    traits = of(asm.call_sub(1), RET, load(8), RET)
    assert traits.slots == {1}
    assert traits.ctx_functions == {2}


def test_subprogram_returning_the_context() -> None:
    """A pointer that travels out of a subprogram in r0 is still followed."""
    traits = of(asm.call_sub(2), load(16, base=0), RET, asm.mov_reg(0, 1), RET)
    assert traits.slots == {2}


def test_context_in_a_struct_on_the_callers_stack() -> None:
    """A callback reads the context from a struct whose address it gets (bpf_loop)."""
    body = [
        asm.store(op.DW, 10, -16, 1),
        asm.mov(1, 3),
        *asm.func_ref(2, 6),
        asm.mov_reg(3, 10),
        asm.alu(op.ADD, 3, -24),
        asm.mov(4, 0),
        asm.call(181),
        ZERO,
        RET,
    ]
    callback = [load(8, base=2, to=3), load(32, base=3, to=2), ZERO, RET]
    first = len(body)
    body[2:4] = asm.func_ref(2, first - 3)
    traits = of(*body, *callback)
    assert traits.slots == {4}


def test_constant_helper_arguments() -> None:
    def arg(*index: Insn) -> Traits:
        return of(*index, asm.mov_reg(3, 10), asm.alu(op.ADD, 3, -8), asm.call(183), RET)

    assert arg(asm.mov(2, 7)).max_arg == 7
    assert arg(asm.mov(2, 7)).calls[0].arg == 7
    assert arg(load(0, to=2)).max_arg is None
    assert of(asm.call(CtxHelper.get_func_ip), RET).max_arg == -1


def test_a_loop_converges() -> None:
    """The context in r6 survives a loop that changes everything else."""
    traits = of(
        asm.mov_reg(6, 1),
        asm.mov(7, 0),
        load(8, base=6, to=2),
        asm.alu(op.ADD, 7, 1),
        asm.jmp(op.JLT, 7, 10, -3),
        ZERO,
        RET,
    )
    assert traits.slots == {1}


def test_dead_mixture_is_no_error() -> None:
    """A register that holds the context on one path only may be dead."""
    traits = of(
        asm.mov_reg(6, 1),
        asm.jmp(op.JEQ, 10, 0, 1),
        asm.mov(1, 0),
        load(0, base=6),
        RET,
    )
    assert traits.slots == {0}


def test_non_context_helpers_ignore_a_stale_context_register() -> None:
    traits = of(asm.call(5), RET)
    assert not traits.calls


@pytest.mark.parametrize(
    ("insns", "message"),
    [
        ([asm.alu(op.ADD, 1, 8), load(0), RET], "instruction 1: .*arithmetic on the context"),
        ([load(0, to=2), asm.store(op.DW, 2, 0, 1), ZERO, RET], "instruction 1: .*stores the con"),
        ([asm.store(op.DW, 1, 0, 10), ZERO, RET], "writes to the context"),
        ([load(56), RET], "ends at ctx.6."),
        ([load(-8), RET], "no 8 bytes at offset -8"),
        ([load(4), RET], "no 8 bytes at offset 4"),
        (
            [asm.jmp(op.JEQ, 10, 0, 1), asm.mov(1, 0), load(0), RET],
            "on one path and something else on another",
        ),
        (
            [
                load(0, to=2),
                asm.mov_reg(3, 10),
                asm.alu_reg(op.ADD, 3, 2),
                asm.store(op.DW, 3, 0, 1),
                ZERO,
                RET,
            ],
            "stores the context pointer away",
        ),
        (
            [
                asm.store(op.DW, 10, -8, 1),
                load(0, to=2),
                asm.mov_reg(3, 10),
                asm.alu_reg(op.ADD, 3, 2),
                load(0, base=3, to=4),
                load(0, base=4),
                RET,
            ],
            "varying place",
        ),
        ([asm.mov_reg(3, 1), asm.mov(2, 8), asm.mov_reg(1, 10), asm.call(113), RET], "memory"),
        ([asm.call_sub(50), RET], "calls out of the program"),
        ([asm.ja(50), RET], "jumps out of the program"),
        ([ZERO], "falls off"),
    ],
)
def test_refused(insns: list[Insn], message: str) -> None:
    """One PlanError that names what is wrong."""
    with pytest.raises(PlanError, match=message):
        of(*insns)


def test_errors_name_the_source_line() -> None:
    with pytest.raises(PlanError, match=r"'p': instruction 0: .*f\.c:10: body"):
        of(load(56), RET)


@pytest.mark.parametrize("insn", [load(48), asm.call(CtxHelper.get_func_ret)])
def test_no_return_value_at_entry(insn: Insn) -> None:
    with pytest.raises(PlanError, match="return value"):
        of(insn, RET, hook=Hook.ENTRY)


def test_same_load_reached_with_and_without_the_context() -> None:
    """A subprogram used for the context and for other memory cannot be rewritten."""
    with pytest.raises(PlanError, match="one call path"):
        of(
            asm.mov_reg(6, 1),
            asm.call_sub(5),
            asm.store_imm(op.DW, 10, -8, 1),
            asm.mov_reg(1, 10),
            asm.alu(op.ADD, 1, -8),
            asm.call_sub(1),
            RET,
            load(0),
            RET,
        )


def test_decided_branches_are_followed_one_way() -> None:
    """What a folded bpf_session_is_return leaves unreachable is not read."""

    def half(value: int) -> Traits:
        return of(
            asm.mov(0, value),
            Insn(op.ALU | op.AND | op.K, 0, 0, 0, 1),
            asm.jmp(op.JEQ, 0, 0, 2),
            load(48, to=2),
            asm.ja(1),
            load(0, to=2),
            ZERO,
            RET,
            hook=Hook.SESSION,
        )

    assert (half(0).slots, half(0).reads_ret) == ({0}, False)
    assert (half(1).slots, half(1).reads_ret) == (set(), True)


@pytest.mark.parametrize(
    ("left", "jump", "right", "taken"),
    [
        (-1, op.JSLT, 0, True),
        (-1, op.JLT, 0, False),
        (5, op.JSGE, -3, True),
        (5, op.JGE, -3, False),
        (6, op.JSET, 2, True),
        (4, op.JNE, 4, False),
    ],
)
def test_known_comparisons(left: int, jump: int, right: int, taken: bool) -> None:
    traits = of(
        asm.mov(2, left), asm.jmp(jump, 2, right, 1), load(0, to=3), load(8, to=3), ZERO, RET
    )
    assert (0 not in traits.slots) == taken


def test_session_calls_are_known_by_name() -> None:
    """A call that only stands for a kfunc until the mechanism is chosen still takes ctx."""
    code = Code((asm.call(2002000000), RET))
    traits = analyse(code, Hook.SESSION, kfuncs={0: "bpf_session_is_return"})
    assert traits.kfuncs == {"bpf_session_is_return"}
    assert traits.calls[0].takes_ctx


def test_every_helper_has_its_number_of_arguments() -> None:
    """Those the other tests rely on, and that none is missing."""
    assert len(HELPER_ARGS) == max(Helper) + 1
    H = Helper
    known = {
        H.BPF_FUNC_get_current_pid_tgid: 0,
        H.BPF_FUNC_map_update_elem: 4,
        H.BPF_FUNC_perf_event_output: 5,
        H.BPF_FUNC_ringbuf_output: 4,
        H.BPF_FUNC_get_func_arg: 3,
        H.BPF_FUNC_loop: 4,
        H.BPF_FUNC_cgrp_storage_get: 4,
        H.BPF_FUNC_cgrp_storage_delete: 2,
    }
    assert {helper: HELPER_ARGS[helper] for helper in known} == known


@pytest.mark.parametrize(
    ("helper", "reg"), [(130, 2), (2, 2), (2, 3), (25, 4), (25, 2), (6, 1), (184, 2), (181, 1)]
)
@pytest.mark.parametrize("add", [0, 8])
def test_the_context_as_a_helpers_memory(helper: int, reg: int, add: int) -> None:
    """ringbuf_output(&rb, ctx, ...): a frame would be taken for it, with another layout."""
    moved = [asm.alu(op.ADD, reg, add)] if add else []
    with pytest.raises(PlanError, match=r"passes .*(cannot take it|arithmetic)"):
        of(
            asm.mov_reg(6, 1),
            asm.mov(1, 0) if helper not in (25, 184) else asm.mov_reg(1, 6),
            asm.mov_reg(reg, 6),
            *moved,
            asm.call(helper),
            RET,
        )


def test_leftovers_in_registers_are_no_arguments() -> None:
    """r2 and r3 still hold the context; the helper takes one argument, the kfunc none."""
    left = [asm.mov_reg(2, 1), asm.mov_reg(3, 1)]
    kfunc = Insn(op.JMP | op.CALL, 0, 2, 0, 77)
    assert not of(*left, asm.mov(1, 0), asm.call(109), RET).calls
    assert not of(*left, kfunc, RET, kfunc_args={2: 0}).calls
    with pytest.raises(PlanError, match="passes the context to a kfunc"):
        of(*left, kfunc, RET, kfunc_args={2: 1})
    with pytest.raises(PlanError, match="passes the context to a kfunc"):
        of(*left, kfunc, RET)  # not known: all five


def test_a_session_kfunc_without_arguments_takes_no_context() -> None:
    """bpf_session_is_return(void) of 6.10, r1 being the context on one path only."""
    kfunc = Insn(op.JMP | op.CALL, 0, 2, 0, 77)
    code = [
        asm.mov_reg(6, 1),
        load(0, base=6, to=7),
        asm.jmp(op.JEQ, 7, 0, 1),
        asm.call(5),
        kfunc,
        RET,
    ]
    names = {4: "bpf_session_is_return"}
    traits = of(*code, hook=Hook.SESSION, kfuncs=names, kfunc_args={4: 0})
    assert [call.takes_ctx for call in traits.calls] == [False]
    with pytest.raises(PlanError, match="passes to bpf_session_is_return a value"):
        of(*code, hook=Hook.SESSION, kfuncs=names, kfunc_args={4: 1})


@pytest.mark.parametrize(
    ("copy", "slots"),
    [
        (Insn(op.ALU | op.MOV | op.X, 7, 0), {1}),  # w7 = w0
        (Insn(op.ALU64 | op.MOV | op.X, 7, 0), {1}),
        (Insn(op.ALU64 | op.MOV | op.X, 7, 0, 8), {1}),  # r7 = (s8)r0
        (asm.load(op.DW, 7, 10, -8), {0, 1}),  # not known
    ],
)
def test_a_narrow_copy_of_a_known_number_is_known(copy: Insn, slots: set[int]) -> None:
    code = [
        asm.mov(0, 1),
        copy,
        asm.jmp(op.JEQ, 7, 1, 1),
        load(0, to=2),
        load(8, to=2),
        RET,
    ]
    assert of(*code).slots == slots


def test_a_sign_extended_copy() -> None:
    copy = Insn(op.ALU64 | op.MOV | op.X, 7, 0, 8)
    code = [asm.mov(0, 0xFF), copy, asm.jmp(op.JEQ, 7, -1, 1), load(0, to=2), load(8), RET]
    assert of(*code).slots == {1}


def test_an_arena_cast_is_no_sign_extension() -> None:
    """r7 = addr_space_cast(r0, 0, 1): off 1, and nothing known of the result."""
    cast = Insn(op.ALU64 | op.MOV | op.X, 7, 0, 1, 1)
    code = [asm.mov(0, 1), cast, asm.jmp(op.JEQ, 7, -1, 1), load(0, to=2), load(8, to=2), RET]
    assert of(*code).slots == {0, 1}


def test_load_acquire_is_a_load() -> None:
    """What it loads is not known, whatever its register held; of the context it is refused."""
    acquire = Insn(op.STX | op.ATOMIC | op.DW, 3, 10, -8, 0x100)
    code = [
        asm.mov_reg(6, 1),
        asm.store_imm(op.DW, 10, -8, 1),
        asm.mov(3, 0),
        acquire,
        asm.jmp(op.JEQ, 3, 0, 1),
        load(48, base=6),
        RET,
    ]
    assert of(*code).reads_ret
    stale = [asm.mov_reg(3, 1), acquire, RET]
    assert not of(*stale).accesses
    with pytest.raises(PlanError, match="loads atomically from the context"):
        of(Insn(op.STX | op.ATOMIC | op.DW, 3, 1, 8, 0x100), RET)
    with pytest.raises(PlanError, match="stores the context pointer away"):
        of(asm.mov(2, 0), Insn(op.STX | op.ATOMIC | op.DW, 2, 1, 0, 0x110), RET)


def test_a_callback_that_is_one_of_two() -> None:
    """`bpf_loop(n, x ? one : two, &data, 0)`: both are looked at."""
    body = [
        asm.store(op.DW, 10, -8, 1),
        load(0, to=5),
        *asm.func_ref(2, 11),
        asm.jmp(op.JEQ, 5, 0, 2),
        *asm.func_ref(2, 13),
        asm.mov(1, 1),
        asm.mov_reg(3, 10),
        asm.alu(op.ADD, 3, -8),
        asm.mov(4, 0),
        asm.call(181),
        ZERO,
        RET,
    ]
    callbacks = [
        *[load(0, base=2, to=3), load(8, base=3, to=3), ZERO, RET, RET],
        *[load(0, base=2, to=3), load(48, base=3, to=3), ZERO, RET],
    ]
    traits = of(*body, *callbacks)
    assert (traits.slots, traits.reads_ret) == ({0, 1}, True)
    body[5:7] = [load(8, to=2), asm.mov(0, 0)]
    with pytest.raises(PlanError, match="bpf_loop calls back a function that is only known at run"):
        of(*body, *callbacks)


@pytest.mark.parametrize("code", [op.JMP | op.JA | op.X, op.JMP | op.CALL | op.X])
def test_jumps_through_a_register_are_refused(code: int) -> None:
    """gotox goes to a table of places, which would have to move with the code."""
    with pytest.raises(PlanError, match="goes to a place that is only known at run time"):
        of(Insn(code, 2), load(0), RET)


@pytest.mark.parametrize(("imm", "to"), [(0xE1, 3), (0xF1, 0)])
def test_the_context_fetched_by_an_exchange(imm: int, to: int) -> None:
    """To the verifier, xchg and cmpxchg give the pointer that was there, and leave a number."""
    exchange = [
        asm.store(op.DW, 10, -8, 1),
        asm.mov(3, 0),
        ZERO,
        Insn(op.STX | op.ATOMIC | op.DW, 10, 3, -8, imm),
    ]
    assert of(*exchange, load(8, base=to), RET).slots == {1}
    assert not of(*exchange, load(-8, base=10, to=2), load(8, base=2), RET).slots


def test_a_pointer_to_one_of_two_places() -> None:
    """What is stored through it may be in either, so neither surely holds the context."""
    choice = [
        asm.store(op.DW, 10, -8, 1),
        load(0, to=3),
        asm.mov_reg(2, 10),
        asm.alu(op.ADD, 2, -16),
        asm.jmp(op.JEQ, 3, 0, 1),
        asm.alu(op.ADD, 2, 8),
    ]
    of(*choice, load(0, base=2, to=3), load(-8, base=10, to=3), load(8, base=3), RET)
    with pytest.raises(PlanError, match="one path and something else on another"):
        of(*choice, load(0, base=2, to=3), load(8, base=3), RET)
    with pytest.raises(PlanError, match="one path and something else on another"):
        of(*choice, asm.store_imm(op.DW, 2, 0, 0), load(-8, base=10, to=3), load(8, base=3), RET)


def test_a_slice_of_a_dynptr_may_be_its_buffer() -> None:
    """bpf_dynptr_slice_rdwr returns the buffer on the stack if the data is not in one piece."""
    kfunc = Insn(op.JMP | op.CALL, 0, 2, 0, 77)
    code = [
        asm.mov_reg(6, 1),
        asm.mov_reg(1, 10),
        asm.mov_reg(3, 10),
        asm.alu(op.ADD, 3, -8),
        kfunc,
        asm.store_imm(op.DW, 10, -8, 0),
        asm.store_imm(op.DW, 0, 0, 1),
        load(-8, base=10, to=2),
        asm.jmp(op.JEQ, 2, 0, 1),
        load(48, base=6),
        RET,
    ]
    known = {"kfunc_args": {4: 4}, "kfunc_names": {4: "bpf_dynptr_slice_rdwr"}}
    assert of(*code, **known).reads_ret


def test_a_subprogram_that_leaves_its_own_address_behind() -> None:
    """The verifier refuses that. Here it is no pointer any more."""
    leave = [asm.store(op.DW, 1, 0, 10), ZERO, RET]
    arg = [asm.mov_reg(1, 10), asm.alu(op.ADD, 1, -8)]
    of(*arg, asm.call_sub(3), load(-8, base=10, to=2), load(0, base=2), RET, *leave)


@pytest.mark.parametrize("insn", [asm.mov(12, 0), asm.mov_reg(2, 11), load(0, base=15)])
def test_registers_that_do_not_exist(insn: Insn) -> None:
    with pytest.raises(PlanError, match=r"instruction 0: .*register r1\d does not exist"):
        of(insn, ZERO, RET)


@pytest.mark.parametrize(
    ("body", "escapes"),
    [
        pytest.param([asm.mov_reg(0, 1)], True, id="returned"),
        pytest.param([asm.store(op.DW, 2, 0, 1), ZERO], True, id="stored for the caller"),
        pytest.param([asm.store(op.DW, 10, -8, 1), load(0)], False, id="kept"),
    ],
)
def test_a_context_that_leaves_its_function(body: list[Insn], escapes: bool) -> None:
    """The verifier refuses both if it is a frame on the stack."""
    main = [asm.mov_reg(2, 10), asm.alu(op.ADD, 2, -8), load(8, to=6), asm.call_sub(2), ZERO, RET]
    assert of(*main, *body, RET).escapes is escapes
