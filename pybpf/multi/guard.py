"""The recursion guard: many loaded copies of one program recurse no more than one would.

Theory of operation. If a program's own helper call runs the program again, the
kernel stops that: each loaded program has a flag per CPU, ``prog->active``.
A multi program that is loaded once per function (clones), or once per module or
side, has as many flags. So its copies run inside one another's helper calls and
the work grows exponentially. On Debian's 6.12 one map update with clones on the
12 functions behind it ran them 471,114 times, and with 14 the machine was dead.

So copies whose calls can reach traced functions (`callees`) get their own
flag, one for all of them and for each CPU. It is taken before the body and released
after it. A copy that finds the flag taken counts a miss and returns 0, as the
kernel does. All such programs of an object share the flag, whichever links
they have. Functions may be attached to one by one, and an entry and an exit
program that share a ring buffer would wait for its lock inside one another (the
exit of _raw_spin_lock_irqsave runs with the lock held; 6.x do not notice). The
kernel has the same rule for kprobes, which all share one flag.

The guard puts this before the program::

    r9 = r1                               the context
    call bpf_get_smp_processor_id         denied to all tracing (`denylist`)
    r0 &= CPUs                            a mask, so that the verifier knows its bounds
    r0 <<= 6                              a cache line for each CPU
    r1 = &flags ll
    r1 += r0
    r2 = *(u32 *)(r1 + 0x0)
    if r2 == 0 goto free
    r1 = &misses ll
    r1 += r0
    r2 = 0x1
    lock *(u64 *)(r1 + 0x0) += r2
    r0 = 0x0
    exit
  free:
    *(u32 *)(r1 + 0x0) = 0x1
    r2 = r9
    r9 = r1                               the flag's address, until the exit
    r1 = r2

and before each exit of the main function ``*(u32 *)(r9 + 0x0) = 0x0``. Here r9
stands for any callee-saved register that the main function does not use. If it
uses them all, the address is computed again at the exit. Both forms use no
stack, make no deeper calls and do not change the context's type. So whatever the
verifier accepts without the guard it also accepts with it. Subprograms and callbacks
return to the main function and need nothing.

Plain loads and stores are enough. Programs run with migration disabled, so the CPU
stays the same. An interrupt between the load and the store runs complete
programs, which leave the flag as they found it. If a task is preempted there
and another gets in between, both run, and the first to end clears the flag
of the other. That is one nested run more, not a flag that stays taken. Misses are
counted atomically.

There is a cost besides time. While a copy runs, or sleeps, or is preempted, the
others miss the calls of interrupts and of other tasks on that CPU, as they
would if they were one program. All of that is in the counts of misses, one for
each link.

Measured with a clock that counts instructions (`tests.bench multi`), a run
costs 21 more on 6.1 and 19 on 6.12 and 7.3; 28 and 24 if no register is free.

Two kinds of program cannot have that form. After bpf_tail_call from the main function
nothing of it runs any more. So the whole program becomes a static
subprogram of a new main function, to which the callee returns. That takes 32
bytes of stack. And bpf_throw leaves every function at once: see `obstacle`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

from ..asm import insn as asm
from ..asm import opcodes as op
from ..asm.edit import Code, edit, function_starts, lead, prepend
from ..asm.insn import Insn
from .traits import CtxHelper

__all__ = ["FLAGS", "MISSES", "SLOT_SIZE", "filled", "guarded", "mask_of", "obstacle"]

#: Numbers of the guard's maps until it is loaded. No map of an object has a negative number.
FLAGS, MISSES = -1, -2
#: Bytes of each CPU in both maps: a cache line. A flag is ``__u32``, a count ``__u64``.
SLOT_SIZE = 64
_SHIFT = 6
_MAX_STACK = 512  # bytes of a call chain, MAX_BPF_STACK
_FRAME = 32  # least bytes that 6.x counts for a function
_GET_SMP_PROCESSOR_ID = 8
_SAVED = (op.R9, op.R8, op.R7, op.R6)
# ``r0 &= CPUs``, to be filled in. The offset is reserved here, so no program has this.
_MASK = Insn(op.ALU64 | op.AND | op.K, op.R0, 0, -1, 0)


def mask_of(cpus: int) -> int:
    """Return the mask for a CPU number: one less than a power of two.

    :param cpus: the highest possible CPU's number plus one
    """
    return int((1 << max(cpus - 1, 0).bit_length()) - 1)


def filled(insn: Insn, maps: Mapping[int, int], mask: int) -> Insn:
    """Return an instruction of the guard with its values filled in. Others stay the same.

    :param maps: descriptors of `FLAGS` and `MISSES`
    :param mask: `mask_of` the machine's CPUs
    """
    if insn == _MASK:
        return asm.alu(op.AND, op.R0, mask)
    if insn.is_ld_imm64 and insn.src == asm.PSEUDO_MAP_VALUE and insn.imm in maps:
        return Insn(insn.code, insn.dst, insn.src, insn.off, maps[insn.imm])
    return insn


def _slot(number: int) -> list[Insn]:
    # r1 = the running CPU's slot of a map, r0 = its offset.
    return [
        asm.call(_GET_SMP_PROCESSOR_ID),
        _MASK,
        asm.alu(op.LSH, op.R0, _SHIFT),
        *asm.ld_imm64(op.R1, number & 0xFFFFFFFF, asm.PSEUDO_MAP_VALUE),
        asm.alu_reg(op.ADD, op.R1, op.R0),
    ]


def _enter(context: int) -> list[Insn]:
    # Take the flag, or count a miss and leave. Afterwards r1 = its address.
    miss = [
        *asm.ld_imm64(op.R1, MISSES & 0xFFFFFFFF, asm.PSEUDO_MAP_VALUE),
        asm.alu_reg(op.ADD, op.R1, op.R0),
        asm.mov(op.R2, 1),
        Insn(op.STX | op.DW | op.ATOMIC, op.R1, op.R2, 0, op.ADD),
        asm.mov(op.R0, 0),
        asm.exit_(),
    ]
    return [
        asm.mov_reg(context, op.R1),
        *_slot(FLAGS),
        asm.load(op.W, op.R2, op.R1, 0),
        asm.jmp(op.JEQ, op.R2, 0, len(miss)),
        *miss,
        asm.store_imm(op.W, op.R1, 0, 1),
    ]


def _leave() -> list[Insn]:
    # Compute the flag's address again and release it. Only r0 is still needed.
    return [
        asm.mov_reg(op.R6, op.R0),
        *_slot(FLAGS),
        asm.store_imm(op.W, op.R1, 0, 0),
        asm.mov_reg(op.R0, op.R6),
    ]


def _main_end(code: Code) -> int:
    # The slot after the main function. Subprograms follow it.
    starts = function_starts(code.insns)
    return starts[1] if len(starts) > 1 else len(code.insns)


def _tail_calls(main: Sequence[Insn]) -> bool:
    return any(i.is_call and i.src == 0 and i.imm == CtxHelper.tail_call for i in main)


def _free(main: Sequence[Insn]) -> int | None:
    # A callee-saved register that a function does not use.
    used = {i.dst for i in main} | {i.src for i in main}
    return next((reg for reg in _SAVED if reg not in used), None)


def guarded(code: Code, static: Callable[[int], int] = lambda type_id: type_id) -> Code:
    """Return the same program with the guard around it.

    :param code: the result of a lowering
    :param static: BTF id of a FUNC -> id of its twin with static linkage
    """
    main = code.insns[: _main_end(code)]
    if _tail_calls(main):
        return _wrapped(code, static)
    exits = [slot for slot, insn in enumerate(main) if insn.is_exit]
    holder = _free(main)
    if holder is None:
        front = [*_enter(op.R6), asm.mov_reg(op.R1, op.R6)]
        back = _leave()
    else:
        front = [*_enter(holder), *_swap(holder)]
        back = [asm.store_imm(op.W, holder, 0, 0)]
    return lead(edit(code, {slot: [*back, asm.exit_()] for slot in exits})[0], front)


def _swap(holder: int) -> list[Insn]:
    # Put the context back into r1, and the flag's address where the context was.
    return [
        asm.mov_reg(op.R2, holder),
        asm.mov_reg(holder, op.R1),
        asm.mov_reg(op.R1, op.R2),
    ]


def _wrapped(code: Code, static: Callable[[int], int]) -> Code:
    # Makes the program a static subprogram of a new main function.
    main_id = code.func_info[0][1] if code.func_info else None
    funcs = tuple((slot, type_id if slot else static(type_id)) for slot, type_id in code.func_info)
    front = [
        *_enter(op.R6),
        *_swap(op.R6),
        asm.call_sub(2),
        asm.store_imm(op.W, op.R6, 0, 0),
        asm.exit_(),
    ]
    return prepend(Code(code.insns, funcs, code.line_info), front, main_id)


def _stack(insns: Sequence[Insn]) -> int:
    # Bytes of stack that a function may use: no less than the verifier finds.
    lowest = 0
    for insn in insns:
        base = {op.ST: insn.dst, op.STX: insn.dst, op.LDX: insn.src}.get(insn.cls)
        if base == op.R10:
            lowest = min(lowest, insn.off)
        elif insn.code == op.ALU64 | op.ADD | op.K and -_MAX_STACK <= insn.imm < 0:
            lowest = min(lowest, insn.imm)
    return -lowest


def obstacle(code: Code, kfuncs: Collection[str], throw: str) -> str:
    """Return why a program cannot have the guard, "" if it can.

    :param kfuncs: names of the kfuncs it calls
    :param throw: the kfunc that ends a program at any depth
    """
    if throw in kfuncs:
        return f"{throw} would leave its recursion guard set"
    if _tail_calls(code.insns[: _main_end(code)]):
        ends = [*function_starts(code.insns), len(code.insns)]
        # The sum over all functions, which is no less than the deepest chain of calls.
        total = _FRAME
        for start, end in pairwise(ends):
            total += -(-_stack(code.insns[start:end]) // _FRAME) * _FRAME
        if total > _MAX_STACK:
            return "its tail call and its stack leave no room for its recursion guard"
    return ""
