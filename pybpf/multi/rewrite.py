"""The lowerings: turn a multi program's context accesses into what a mechanism offers.

Every lowering takes a program whose accesses `traits.analyse` has proved and
returns new instructions. It never looks at the kernel. Slots after the function's
own and the return value of a void function become the constant 0.

`direct` keeps the kernel's own trampoline context: arguments at ``8 * i`` and
the return value after the last slot. Example: fexit.multi on a function of two slots::

    before                              after
    r1 = *(u64 *)(r6 + 0x8)   ctx[1]    r1 = *(u64 *)(r6 + 0x8)
    r2 = *(u64 *)(r6 + 0x10)  ctx[2]    r2 = 0x0
    r0 = *(u64 *)(r6 + 0x30)  ctx[6]    r0 = *(u64 *)(r6 + 0x10)

`frame` works on any function with one variant. A new main function builds
``[ret][arg0][arg1]...`` on its stack, with the return value first, so that no argument
moves when a function has more of them. The body runs as a static subprogram
with r1 = frame. The real context is 8 bytes below, for the helpers that
need it::

    before                              after
                                        r6 = r1
                                        *(u64 *)(r10 - 0x20) = r1     the context
                                        *(u64 *)(r10 - 0x18) = 0x0    ret
                                        *(u64 *)(r10 - 0x10) = 0x0    arg0
                                        r2 = 0x0, r3 = r10 - 0x10
                                        call bpf_get_func_arg
                                        r1 = r6, r2 = r10 - 0x18
                                        call bpf_get_func_ret
                                        r1 = r10 - 0x18
                                        call body
                                        exit
    r7 = *(u64 *)(r1 + 0x0)   ctx[0]    r7 = *(u64 *)(r1 + 0x8)
    r8 = *(u64 *)(r1 + 0x30)  ctx[6]    r8 = *(u64 *)(r1 + 0x0)
    call bpf_get_func_ip                r1 = *(u64 *)(r1 - 0x8)
                                        call bpf_get_func_ip

`regs` is for kprobe programs, whose context is ``struct pt_regs``. Each load
goes to the register's place. bpf_get_func_arg/ret/arg_cnt, which the
kernel does not give to kprobes, are written out::

    r1 = *(u64 *)(r6 + 0x8)   ctx[1]    r1 = *(u64 *)(r6 + 0x68)      rsi
    call bpf_get_func_ret               r1 = *(u64 *)(r1 + 0x50)      rax
                                        *(u64 *)(r2 + 0x0) = r1
                                        r0 = 0x0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..asm import insn as asm
from ..asm import opcodes as op
from ..asm.edit import Code, edit, prepend
from ..asm.insn import Insn
from .traits import RET_SLOT, Access, CtxCall, CtxHelper, Traits

__all__ = [
    "PT_REGS_ARGS",
    "PT_REGS_RET",
    "Edits",
    "direct",
    "fold_session",
    "frame",
    "regs",
    "without_return",
]

# Byte offsets in x86-64 ``struct pt_regs``, arch/x86/include/uapi/asm/ptrace.h
PT_REGS_ARGS = (112, 104, 96, 88, 72, 64)  # rdi rsi rdx rcx r8 r9
PT_REGS_RET = 80  # rax

#: What replaces which instructions, by slot; see `pybpf.asm.edit.edit`.
Edits = dict[int, Sequence[Insn]]

_EINVAL = -22
_CTX_OFF = -8  # offset of the real context from the frame
_RET_OFF = 0


def _arg_off(slot: int) -> int:
    return 8 + 8 * slot


def _zero(insn: Insn) -> list[Insn]:
    return [asm.mov(insn.dst, 0)]


def _moved(insn: Insn, off: int) -> list[Insn]:
    return [Insn(insn.code, insn.dst, insn.src, off, insn.imm)]


def _as_scalar(insn: Insn, access: Access, off: int) -> list[Insn]:
    # A whole-slot load whose result the verifier treats as a number. Negating a pointer
    # twice restores its bits and leaves a scalar (NEG on a pointer is allowed with
    # CAP_PERFMON). Newer kernels require whole-slot loads of pointers.
    dst = insn.dst
    out = [asm.load(op.DW, dst, insn.src, off)]
    out += [Insn(op.ALU64 | op.NEG, dst), Insn(op.ALU64 | op.NEG, dst)]
    signed = insn.code & op.MODE_MASK == op.MEMSX
    bits = 8 * access.size
    if access.inner or access.size < 8:
        out.append(asm.alu(op.LSH, dst, 64 - bits - 8 * access.inner))
        out.append(asm.alu(op.ARSH if signed else op.RSH, dst, 64 - bits))
    return [i for i in out if not (i.code == op.ALU64 | op.LSH and i.imm == 0)]


def direct(
    code: Code, traits: Traits, *, slots: int, returns: bool, scalars: bool = False
) -> Edits:
    """Return the edits for a fentry/fexit/fsession clone of one function model.

    :param slots: argument slots of the function
    :param returns: False for a void function
    :param scalars: load pointers as numbers (two more instructions each); needed when the
        program calculates with an argument that is a pointer in BTF
    """
    new: Edits = {}
    for access in traits.accesses:
        insn = code.insns[access.insn]
        if access.slot == RET_SLOT:
            off = 8 * slots + access.inner if returns else None
        else:
            off = 8 * access.slot + access.inner if access.slot < slots else None
        if off is None:
            new[access.insn] = _zero(insn)
        elif scalars:
            new[access.insn] = _as_scalar(insn, access, off - access.inner)
        elif off != insn.off:
            new[access.insn] = _moved(insn, off)
    return new


def frame(
    code: Code, traits: Traits, *, returns: bool = True, static: Callable[[int], int] = lambda i: i
) -> Code:
    """Rewrite it for any function: the body sees a frame that a new main function builds.

    :param returns: False leaves the return value 0 (void functions)
    :param static: BTF id of a FUNC -> id of its twin with static linkage, so that the
        verifier checks the body with the frame that it is really called with
    """
    if not traits.accesses:
        return code  # it only uses helpers, so the real context will do
    new: dict[int, Sequence[Insn]] = {}
    for access in traits.accesses:
        insn = code.insns[access.insn]
        off = _RET_OFF if access.slot == RET_SLOT else _arg_off(access.slot)
        new[access.insn] = _moved(insn, off + access.inner)
    keep_ctx = any(call.takes_ctx for call in traits.calls)
    for call in traits.calls:
        if call.takes_ctx:
            new[call.insn] = [
                asm.load(op.DW, op.R1, op.R1, _CTX_OFF),
                code.insns[call.insn],
            ]
    body, places = edit(code, new)
    moved = {0, *(places[start] for start in traits.ctx_functions)}
    funcs = tuple((slot, static(i) if slot in moved else i) for slot, i in body.func_info)
    body = Code(body.insns, funcs, body.line_info)

    last = max((_arg_off(slot) for slot in traits.slots), default=_RET_OFF)
    base = -(last + 8)
    wanted = sorted(traits.slots)
    fills_ret = traits.reads_ret and returns
    # Every helper call but the first needs the context again.
    kept = len(wanted) + fills_ret > 1
    main = [asm.mov_reg(op.R6, op.R1)] if kept else []
    if keep_ctx:
        main.append(asm.store(op.DW, op.R10, base + _CTX_OFF, op.R1))
    offsets = [base + _arg_off(slot) for slot in wanted]
    if traits.reads_ret:
        offsets.insert(0, base + _RET_OFF)
    main += [asm.store_imm(op.DW, op.R10, off, 0) for off in offsets]
    fills = [_fill(slot, base, again=at > 0) for at, slot in enumerate(wanted)]
    half = len(fills) // 2
    if half >= 2:
        # Half way, a slot that the function does not have ends it: later ones do not exist either.
        # Most functions have few arguments. A check after each slot would cost the others more.
        rest = sum(len(fill) for fill in fills[half:])
        fills[half - 1].append(asm.jmp(op.JNE, op.R0, 0, rest))
    for fill in fills:
        main += fill
    if fills_ret:
        main += [asm.mov_reg(op.R1, op.R6)] if wanted else []
        main += [
            asm.mov_reg(op.R2, op.R10),
            asm.alu(op.ADD, op.R2, base + _RET_OFF),
            asm.call(CtxHelper.get_func_ret),
        ]
    main += [
        asm.mov_reg(op.R1, op.R10),
        asm.alu(op.ADD, op.R1, base),
        asm.call_sub(1),
        asm.exit_(),
    ]
    main_id = code.func_info[0][1] if code.func_info else None
    return prepend(body, main, main_id)


def _fill(slot: int, base: int, *, again: bool) -> list[Insn]:
    # bpf_get_func_arg of one slot to its place in the frame. `again`: r1 no longer has the context.
    return [
        *([asm.mov_reg(op.R1, op.R6)] if again else []),
        asm.mov(op.R2, slot),
        asm.mov_reg(op.R3, op.R10),
        asm.alu(op.ADD, op.R3, base + _arg_off(slot)),
        asm.call(CtxHelper.get_func_arg),
    ]


def _fetch(off: int, to: int) -> list[Insn]:
    # *(u64 *)to = *(u64 *)(r1 + off); r0 = 0
    return [
        asm.load(op.DW, op.R1, op.R1, off),
        asm.store(op.DW, to, 0, op.R1),
        asm.mov(op.R0, 0),
    ]


def _get_func_arg(call: CtxCall, slots: int) -> list[Insn]:
    count = min(slots, len(PT_REGS_ARGS))
    if call.arg is not None:
        if call.arg >= count:
            return [asm.mov(op.R0, _EINVAL)]
        return _fetch(PT_REGS_ARGS[call.arg], op.R3)
    out: list[Insn] = []
    rest = 5 * count  # slots of the whole chain, without the final r0 = -EINVAL
    for index in range(count):
        rest -= 5
        # The index is a __u32.
        out.append(Insn(op.JMP32 | op.JNE | op.K, op.R2, 0, 4, index))
        out += _fetch(PT_REGS_ARGS[index], op.R3)
        out.append(asm.ja(rest + 1))
    return [*out, asm.mov(op.R0, _EINVAL)]


def regs(code: Code, traits: Traits, *, slots: int, returns: bool) -> Edits:
    """Return the edits for a kprobe, kprobe.multi or kprobe.session program.

    :param slots: argument slots of the function; only the first six are in registers
    :param returns: False for a void function
    """
    new: Edits = {}
    for access in traits.accesses:
        insn = code.insns[access.insn]
        if access.slot == RET_SLOT:
            off = PT_REGS_RET if returns else None
        else:
            off = PT_REGS_ARGS[access.slot] if access.slot < slots else None
        new[access.insn] = _zero(insn) if off is None else _moved(insn, off + access.inner)
    for call in traits.calls:
        if call.helper == CtxHelper.get_func_arg:
            new[call.insn] = _get_func_arg(call, slots)
        elif call.helper == CtxHelper.get_func_ret:
            new[call.insn] = _fetch(PT_REGS_RET, op.R2)
        elif call.helper == CtxHelper.get_func_arg_cnt:
            new[call.insn] = [asm.mov(op.R0, slots)]
    return new


def without_return(code: Code, traits: Traits) -> tuple[Code, Sequence[int]]:
    """Rewrite it for the entry half of a pair, where bpf_get_func_ret gives 0.

    :returns: the code, and the new slot of each old one
    """
    zero = [asm.store_imm(op.DW, op.R2, 0, 0), asm.mov(op.R0, 0)]
    return edit(code, {c.insn: zero for c in traits.calls if c.helper == CtxHelper.get_func_ret})


def fold_session(
    code: Code, kfuncs: Mapping[int, str], *, is_return: bool
) -> tuple[Code, dict[int, str]]:
    """Replace bpf_session_is_return by a constant, for one half of an entry/exit pair.

    :param kfuncs: slot of a kfunc call -> its name
    :returns: the code, in which no instruction has moved, and the remaining kfunc calls
    """
    new = {
        slot: [asm.mov(op.R0, int(is_return))]
        for slot, name in kfuncs.items()
        if name == "bpf_session_is_return"
    }
    out, _ = edit(code, new)
    return out, {slot: name for slot, name in kfuncs.items() if slot not in new}
