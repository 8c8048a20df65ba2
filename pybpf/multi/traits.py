"""Prove what a multi program does with its context, with a data-flow pass.

Theory of operation. The context of a multi program is an array of 8-byte slots
that exists in no register or memory of the kernel as the program sees it. So
every access must be found and rewritten. An access that is missed silently reads a
wrong value. The pass therefore follows, along every path, which
registers and which 8-byte stack slots hold the context pointer. A value is one
of these: the context; a pointer into a known frame of the BPF stack, with a known
offset or not; one of several such pointers or something else; a known constant; unknown
(None), which is no pointer into the stack; or `Lost`, which means that it may
or may not be derived from the context. Where paths join, equal values stay, and the
context joined with anything else is `Lost`. A store through one of several pointers leaves
both what was there and what is stored. A subprogram or callback is analysed
once for each distinct state it is called with, including the callers' frames,
because it may read what they spilled. A load, store or context helper through
a `Lost` value is refused, and the error names the instruction and what lost the
proof. Passing the context as any other argument of a helper or kfunc is also refused,
because it would take a frame for memory. If two known numbers decide a branch, it is followed
in one direction only, as in the verifier. So the two halves of a session, in which
bpf_session_is_return is a constant, each see only their own reads. The result is a complete
list of accesses.

The verifier has the same knowledge and would refuse most of what is `Lost`
anyway. Being stricter than the verifier is safe, being laxer is not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence

from .._uapi.helper_args import HELPER_ARGS
from ..asm import insn as asm
from ..asm import opcodes as op
from ..asm.edit import Code, function_starts
from ..asm.insn import Insn
from ..asm.text import line as insn_text
from ..dataclass import dataclass, field
from ..errors import PlanError
from ..wording import many
from .flow import (
    CTX,
    Either,
    Func,
    Lost,
    MapAddress,
    Stack,
    State,
    Value,
    as_pointer,
    either,
    join,
    join_states,
    moved,
    overwrite,
    places_in,
    put,
    tainted,
    within,
)

__all__ = [
    "RET_SLOT",
    "SLOTS",
    "Access",
    "CtxCall",
    "CtxHelper",
    "Hook",
    "Traits",
    "analyse",
]

SLOTS = 6  # argument slots a context has; more through bpf_get_func_arg
RET_SLOT = 6  # ctx[6]: the return value, exit side only


class Hook(enum.Enum):
    """Say when a multi program runs."""

    ENTRY = "fentry"
    EXIT = "fexit"
    SESSION = "fsession"


class CtxHelper(enum.IntEnum):
    """Helpers whose first argument is the context (UAPI ``enum bpf_func_id``)."""

    tail_call = 12
    perf_event_output = 25
    get_stackid = 27
    override_return = 58
    get_stack = 67
    read_branch_records = 119
    get_func_ip = 173
    get_attach_cookie = 174
    get_func_arg = 183
    get_func_ret = 184
    get_func_arg_cnt = 185


# helper id -> register in which its callback gets the caller's context argument,
# and the register of the helper call that holds this argument
_CALLBACKS = {
    164: (4, 3),  # for_each_map_elem(map, cb, ctx, flags): cb(map, key, value, ctx)
    180: (3, 4),  # find_vma(task, addr, cb, ctx, flags): cb(task, vma, ctx)
    181: (2, 3),  # loop(n, cb, ctx, flags): cb(index, ctx)
    209: (2, 3),  # user_ringbuf_drain(map, cb, ctx, flags): cb(dynptr, ctx)
}

# kfunc -> register of the buffer that it may return
_RETURNS_BUFFER = {"bpf_dynptr_slice": 3, "bpf_dynptr_slice_rdwr": 3}

_LOOKUP = 1  # bpf_map_lookup_elem
_M64 = (1 << 64) - 1
_LOAD_ACQUIRE, _STORE_RELEASE = 0x100, 0x110  # imm of an atomic instruction, 6.15
_CMPXCHG = 0xF1  # imm of the atomic instruction that loads into r0

# Arithmetic on two known numbers: (a, b, width in bits)
_FOLD: Mapping[int, Callable[[int, int, int], int]] = {
    op.ADD: lambda a, b, bits: a + b,
    op.SUB: lambda a, b, bits: a - b,
    op.AND: lambda a, b, bits: a & b,
    op.OR: lambda a, b, bits: a | b,
    op.XOR: lambda a, b, bits: a ^ b,
    op.LSH: lambda a, b, bits: a << (b & (bits - 1)),
    op.RSH: lambda a, b, bits: a >> (b & (bits - 1)),
}
# Comparisons of two known numbers: (a, b, sign bit); a ^ sign orders signed numbers
_COMPARE: Mapping[int, Callable[[int, int, int], bool]] = {
    op.JEQ: lambda a, b, sign: a == b,
    op.JNE: lambda a, b, sign: a != b,
    op.JGT: lambda a, b, sign: a > b,
    op.JGE: lambda a, b, sign: a >= b,
    op.JLT: lambda a, b, sign: a < b,
    op.JLE: lambda a, b, sign: a <= b,
    op.JSET: lambda a, b, sign: bool(a & b),
    op.JSGT: lambda a, b, sign: a ^ sign > b ^ sign,
    op.JSGE: lambda a, b, sign: a ^ sign >= b ^ sign,
    op.JSLT: lambda a, b, sign: a ^ sign < b ^ sign,
    op.JSLE: lambda a, b, sign: a ^ sign <= b ^ sign,
}
# Jump and call to the address in a register: gotox (7.0) and callx, which no kernel takes.
_COMPUTED = frozenset({op.JMP | op.JA | op.X, op.JMP | op.CALL | op.X})
# probe_read, probe_read_str and their _user and _kernel forms: source in r3
_MEMORY_READERS = {4, 45, 112, 113, 114, 115}


@dataclass(frozen=True, slots=True)
class Access:
    """Describe one proven load from the context.

    :param insn: instruction index, in slots
    :param slot: context slot, 0..5 an argument, 6 the return value
    :param inner: byte offset inside the slot
    :param size: width in bytes: 1, 2, 4 or 8
    """

    insn: int
    slot: int
    inner: int
    size: int


@dataclass(frozen=True, slots=True)
class CtxCall:
    """Describe one call that passes the context.

    :param insn: instruction index, in slots
    :param helper: helper id, or -1 for a kfunc
    :param arg: for bpf_get_func_arg the constant argument index, None if it varies
    :param kfunc: name of the kfunc, "" for a helper
    :param takes_ctx: False for a kfunc that was called without the context
    """

    insn: int
    helper: int
    arg: int | None = None
    kfunc: str = ""
    takes_ctx: bool = True


@dataclass(frozen=True, slots=True)
class Traits:
    """Hold what a program needs from the place it is attached to.

    :param slots: argument slots read through the context, 0..5
    :param reads_ret: reads ``ctx[6]``
    :param accesses: every load from the context, by instruction
    :param calls: every call that passes the context, by instruction
    :param helpers: ids of `calls`
    :param ctx_functions: first slots of the subprograms that receive the context
    :param called: ids of all helpers it calls, without look-ups in array maps
    :param called_kfuncs: names of all kfuncs it calls, "" for one whose name is not known
    :param escapes: a subprogram returns the context, or stores it on its caller's stack. The
        verifier refuses that if the context is itself on the stack.
    """

    hook: Hook
    sleepable: bool
    slots: frozenset[int]
    reads_ret: bool
    accesses: tuple[Access, ...]
    calls: tuple[CtxCall, ...]
    helpers: frozenset[int]
    kfuncs: frozenset[str]
    ctx_functions: frozenset[int]
    called: frozenset[int] = frozenset()
    called_kfuncs: frozenset[str] = frozenset()
    escapes: bool = False

    @property
    def needs_args(self) -> bool:
        """Return True if it reads an argument, by slot or by helper."""
        return bool(self.slots) or CtxHelper.get_func_arg in self.helpers

    @property
    def needs_ret(self) -> bool:
        """Return True if it reads the return value, by slot or by helper."""
        return self.reads_ret or CtxHelper.get_func_ret in self.helpers

    @property
    def max_arg(self) -> int | None:
        """Return the highest argument slot it reads, -1 for none, None if an index varies."""
        wanted = [*self.slots]
        for call in self.calls:
            if call.helper == CtxHelper.get_func_arg:
                if call.arg is None:
                    return None
                wanted.append(call.arg)
        return max(wanted, default=-1)


def _helper_args(helper: int) -> int:
    # Registers after the arguments hold old values.
    return HELPER_ARGS[helper] if 0 < helper < len(HELPER_ARGS) else 5


def _helper_name(helper: int) -> str:
    from .._uapi.helpers import Helper  # lazy: a large import that only errors need

    known = helper in Helper._value2member_map_
    return f"bpf_{Helper(helper).name.removeprefix('BPF_FUNC_')}" if known else f"helper {helper}"


def _joins(insns: Sequence[Insn]) -> set[int]:
    # Instructions that jumps go to.
    return {
        slot + 1 + delta
        for slot, insn in enumerate(insns)
        if (delta := insn.jump_delta) is not None
    }


@dataclass(slots=True)
class _Facts:
    accesses: dict[int, Access] = field(default_factory=dict)
    calls: dict[int, CtxCall] = field(default_factory=dict)
    ctx_functions: set[int] = field(default_factory=set)
    # instructions whose base register was seen to hold something other than the context
    other: set[int] = field(default_factory=set)
    called: set[int] = field(default_factory=set)
    called_kfuncs: set[str] = field(default_factory=set)
    lookups: dict[int, int] = field(default_factory=dict)  # instruction -> number of the array
    escapes: bool = False


class _Pass:
    def __init__(
        self,
        code: Code,
        hook: Hook,
        program: str,
        source: Mapping[int, str],
        kfuncs: Mapping[int, str],
        kfunc_args: Mapping[int, int],
        kfunc_names: Mapping[int, str],
        arrays: Collection[int],
    ) -> None:
        self.code = code
        self.insns = code.insns
        self.hook = hook
        self.program = program
        self.source = source
        self.kfuncs = kfuncs
        self.kfunc_args = kfunc_args
        self.kfunc_names = kfunc_names
        self.arrays = arrays
        self.starts = function_starts(code.insns)
        self.joins = _joins(code.insns)
        self.facts = _Facts()
        self.done: dict[tuple[object, ...], State | None] = {}

    def fail(self, slot: int, what: str) -> PlanError:
        following = self.insns[slot + 1] if slot + 1 < len(self.insns) else None
        text = insn_text(self.insns[slot], following)
        where = max((s for s in self.source if s <= slot), default=None)
        line = f" ({self.source[where]})" if where is not None else ""
        return PlanError(f"program {self.program!r}: instruction {slot}: {text}{line}: {what}")

    def lost(self, slot: int, value: Lost, use: str) -> PlanError:
        return self.fail(
            slot, f"{use} a value that cannot be proved: {value.why} (instruction {value.at})"
        )

    # -- one function in one calling state; returns the state at its exits, None if it has none

    def function(self, start: int, entry: State) -> State | None:
        key = (start, *entry.key())
        if key in self.done:
            return self.done[key]
        self.done[key] = None  # recursion: the verifier refuses it
        states: dict[int, State] = {start: entry}
        work = [start]
        result: State | None = None
        while work:
            slot = work.pop()
            state = states[slot].copy()
            # Only one way leads to an instruction that no jump goes to: its state is not kept.
            while True:
                if slot >= len(self.insns):
                    raise PlanError(f"program {self.program!r}: falls off its end")
                if self.insns[slot].is_exit:
                    if result is None:
                        result = state
                    else:
                        join_states(result, state, slot)
                    targets = []
                    break
                targets = self.step(slot, state)
                if len(targets) != 1 or targets[0] in self.joins:
                    break
                (slot,) = targets
            for target in targets:
                if target not in states:
                    states[target] = state.copy()
                    work.append(target)
                elif join_states(states[target], state, target):
                    work.append(target)
        self.done[key] = result
        return result

    def step(self, slot: int, state: State) -> list[int]:
        insn = self.insns[slot]
        cls = insn.cls
        if insn.is_ld_imm64:
            state.regs[insn.dst] = self.immediate(slot, insn)
            return [slot + 2]
        if cls in (op.ALU, op.ALU64):
            self.alu(slot, insn, state)
        elif cls == op.LDX:
            self.load(slot, insn, state)
        elif cls in (op.ST, op.STX):
            self.store(slot, insn, state)
        elif cls == op.LD:
            state.regs[0] = None  # LD_ABS, LD_IND: legacy packet loads
        elif insn.is_call:
            self.call(slot, insn, state)
        else:
            delta = insn.jump_delta
            if delta is None or insn.code in _COMPUTED:
                raise self.fail(slot, "goes to a place that is only known at run time")
            target = slot + 1 + delta
            if not 0 <= target <= len(self.insns):
                raise self.fail(slot, "jumps out of the program")
            taken = self.decided(insn, state)
            if taken is None:
                return [slot + 1, target]
            return [target] if taken else [slot + 1]
        return [slot + 1]

    def decided(self, insn: Insn, state: State) -> bool | None:
        # The direction of a jump if both sides are known numbers, as in the verifier.
        operation = insn.code & op.OP_MASK
        if operation == op.JA:
            return True
        left = state.regs[insn.dst]
        right: Value = state.regs[insn.src] if insn.code & op.X else insn.imm & _M64
        if not isinstance(left, int) or not isinstance(right, int):
            return None
        compare = _COMPARE.get(operation)
        bits = 64 if insn.cls == op.JMP else 32
        mask = (1 << bits) - 1
        return compare(left & mask, right & mask, 1 << (bits - 1)) if compare else None

    def immediate(self, slot: int, insn: Insn) -> Value:
        if insn.src == asm.PSEUDO_FUNC:
            return Func(frozenset({slot + 1 + insn.imm}))
        if insn.src == asm.PSEUDO_MAP_FD:
            return MapAddress(insn.imm)
        if insn.src:
            return None
        high = self.insns[slot + 1].imm if slot + 1 < len(self.insns) else 0
        return (insn.imm & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32

    def alu(self, slot: int, insn: Insn, state: State) -> None:
        regs = state.regs
        operation = insn.code & op.OP_MASK
        wide = insn.cls == op.ALU64
        source: Value = regs[insn.src] if insn.code & op.X else insn.imm & _M64
        if operation == op.MOV:
            plain = not (insn.code & op.X and insn.off)
            if isinstance(source, int) and (plain or insn.off in (8, 16, 32)):
                if not plain:  # movsx of the lowest 8, 16 or 32 bits
                    sign = 1 << (insn.off - 1)
                    source = ((source & (2 * sign - 1)) ^ sign) - sign
                regs[insn.dst] = source & (_M64 if wide else 0xFFFFFFFF)
            else:
                # A truncated pointer is a number. An arena's cast (off 1) gives an unknown value.
                regs[insn.dst] = source if wide and plain else None
            return
        value = regs[insn.dst]
        regs[insn.dst] = None
        if isinstance(value, int) and isinstance(source, int):
            bits = 64 if wide else 32
            mask = (1 << bits) - 1
            fold = _FOLD.get(operation)
            if fold is not None:
                regs[insn.dst] = fold(value & mask, source & mask, bits) & mask
            return
        if not wide:
            return
        if tainted(value) or (insn.code & op.X and tainted(source)):
            regs[insn.dst] = Lost("arithmetic on the context pointer", slot)
        elif operation in (op.ADD, op.SUB) and places_in(value):
            if isinstance(source, int):
                signed = source - (1 << 64) if source >> 63 else source
                regs[insn.dst] = moved(value, signed if operation == op.ADD else -signed)
            else:
                regs[insn.dst] = moved(value, None)
        elif operation == op.ADD:
            regs[insn.dst] = moved(source, None)

    # -- memory

    def load(self, slot: int, insn: Insn, state: State) -> None:
        base = state.regs[insn.src]
        size = op.SIZE_BYTES[insn.code & op.SIZE_MASK]
        if isinstance(base, Lost):
            raise self.lost(slot, base, "loads through")
        if base is CTX:
            self.access(slot, insn, size)
            state.regs[insn.dst] = None
            return
        self.facts.other.add(slot)
        state.regs[insn.dst] = self.loaded(slot, state, base, insn.off) if size == 8 else None

    def loaded(self, slot: int, state: State, base: Value, off: int) -> Value:
        # The 8 bytes at an offset from a value that is not the context.
        values: list[Value] = [None] if isinstance(base, Either) else []
        for place in places_in(base):
            frame = state.frames[place.depth]
            if place.off is not None:
                values.append(frame.get(place.off + off))
                continue
            values += [None, *(v for v in frame.values() if places_in(v))]
            if any(tainted(v) for v in frame.values()):
                return Lost("it comes from a varying place on a stack that holds it", slot)
        if not values:
            return None
        value = values[0]
        for more in values[1:]:
            value = join(value, more, slot)
        return value

    def access(self, slot: int, insn: Insn, size: int) -> None:
        index, inner = divmod(insn.off, 8)
        if index < 0 or inner + size > 8:
            raise self.fail(slot, f"the context has no {many(size, 'byte')} at offset {insn.off}")
        if index > RET_SLOT:
            raise self.fail(
                slot,
                f"the context of a multi program ends at ctx[{RET_SLOT}]: "
                "use bpf_get_func_arg(ctx, n, &value) for arguments past the sixth slot",
            )
        if index == RET_SLOT and self.hook is Hook.ENTRY:
            raise self.fail(
                slot, "ctx[6] is the return value, which an fentry.multi program runs before"
            )
        self.facts.accesses[slot] = Access(slot, index, inner, size)

    def store(self, slot: int, insn: Insn, state: State) -> None:
        atomic = insn.cls == op.STX and insn.code & op.MODE_MASK == op.ATOMIC
        if atomic and insn.imm == _LOAD_ACQUIRE:
            base = state.regs[insn.src]
            if base is CTX:
                raise self.fail(slot, "loads atomically from the context, which is not memory")
            self.load(slot, insn, state)
            return
        atomic = atomic and insn.imm != _STORE_RELEASE
        base = state.regs[insn.dst]
        if base is CTX:
            raise self.fail(slot, "writes to the context, which is read-only")
        if isinstance(base, Lost):
            raise self.lost(slot, base, "stores through")
        value: Value = None if insn.cls == op.ST or atomic else state.regs[insn.src]
        if insn.cls == op.ST:
            value = insn.imm & _M64
        size = op.SIZE_BYTES[insn.code & op.SIZE_MASK]
        if atomic:
            value = None
            if insn.imm & 1:  # BPF_FETCH
                old = self.loaded(slot, state, base, insn.off)
                state.regs[0 if insn.imm == _CMPXCHG else insn.src] = as_pointer(old)
        if tainted(value) and size == 8 and not (isinstance(base, Stack) and base.off is not None):
            raise self.fail(slot, "stores the context pointer away, where it cannot be followed")
        if size < 8:
            value = None
        if not isinstance(base, Stack) or base.off is None:
            for place in places_in(base):
                where = None if place.off is None else place.off + insn.off
                overwrite(state.frames[place.depth], slot, where, size, value)
            return
        frame = state.frames[base.depth]
        where = base.off + insn.off
        for off in [o for o in frame if o < where + size and where < o + 8]:
            del frame[off]
        if value is not None:
            frame[where] = value
        self.facts.escapes |= tainted(value) and base.depth < len(state.frames) - 1

    # -- calls

    def call(self, slot: int, insn: Insn, state: State) -> None:
        if insn.src == asm.PSEUDO_CALL:
            self.subprogram(slot, slot + 1 + insn.imm, state, state.regs[1:6])
            return
        given: Value = None
        if insn.src == asm.PSEUDO_KFUNC_CALL or slot in self.kfuncs or slot in self.kfunc_args:
            self.kfunc(slot, state)
            if (buffer := _RETURNS_BUFFER.get(self.kfunc_names.get(slot, ""))) is not None:
                given = either(places_in(state.regs[buffer]))
        else:
            self.helper(slot, insn.imm, state)
        # Memory that was passed to the call may have been written. A pointer that was written over
        # is a number to the verifier, so what is used as a pointer afterwards was not.
        for value in state.regs[1:6]:
            for place in places_in(value):
                frame = state.frames[place.depth]
                for off, old in list(frame.items()):
                    put(frame, off, as_pointer(old))
        state.regs[0:6] = [given, None, None, None, None, None]

    def helper(self, slot: int, helper: int, state: State) -> None:
        regs = state.regs
        if helper != _LOOKUP or not self.written_out(slot, regs[1]):
            self.facts.called.add(helper)
        if helper in _CALLBACKS:
            reg, source = _CALLBACKS[helper]
            self.handed(slot, helper, state, 1, source - 1)
            self.handed(slot, helper, state, source + 1, _helper_args(helper))
            callback = regs[source - 1]
            if not isinstance(callback, Func):
                what = "calls back a function that is only known at run time"
                raise self.fail(slot, f"{_helper_name(helper)} {what}")
            args: list[Value] = [None] * 5
            args[reg - 1] = regs[source]
            # It runs any number of times, and each run sees what the previous one left.
            before = None
            while before != state.key():
                before = state.key()
                for start in sorted(callback.starts):
                    inner = state.copy()
                    self.subprogram(slot, start, inner, args)
                    inner.regs = list(regs)
                    join_states(state, inner, slot)
            return
        if helper in _MEMORY_READERS and tainted(regs[3]):
            raise self.fail(slot, "reads the context's memory, which is laid out by the mechanism")
        if helper not in CtxHelper._value2member_map_:
            self.handed(slot, helper, state, 1, _helper_args(helper))
            return
        self.handed(slot, helper, state, 2, _helper_args(helper))
        if isinstance(regs[1], Lost):
            raise self.lost(slot, regs[1], f"passes to bpf_{CtxHelper(helper).name}")
        if regs[1] is not CTX:
            self.facts.other.add(slot)
            return
        if helper == CtxHelper.get_func_ret and self.hook is Hook.ENTRY:
            raise self.fail(
                slot, "bpf_get_func_ret needs a return value, which fentry.multi runs before"
            )
        arg = None
        if helper == CtxHelper.get_func_arg and isinstance(regs[2], int):
            arg = regs[2] & 0xFFFFFFFF
            known = self.facts.calls.get(slot)
            if known is not None and known.arg != arg:
                arg = None
        self.facts.calls[slot] = CtxCall(slot, helper, arg)

    def written_out(self, slot: int, value: Value) -> bool:
        # True if every path to this look-up uses the same array.
        if not isinstance(value, MapAddress) or value.number not in self.arrays:
            return False
        return self.facts.lookups.setdefault(slot, value.number) == value.number

    def handed(self, slot: int, callee: str | int, state: State, first: int, last: int) -> None:
        # Arguments that must not be the context. The verifier checks that for the real context, but
        # it would accept a frame on the stack as memory.
        for value in state.regs[first : last + 1]:
            if tainted(value):
                callee = callee if isinstance(callee, str) else _helper_name(callee)
            if isinstance(value, Lost):
                raise self.lost(slot, value, f"passes to {callee}")
            if value is CTX:
                raise self.fail(slot, f"passes the context to {callee}, which cannot take it")

    def kfunc(self, slot: int, state: State) -> None:
        name = self.kfuncs.get(slot, "")
        count = self.kfunc_args.get(slot, 5)
        self.facts.called_kfuncs.add(name or self.kfunc_names.get(slot, ""))
        if not name:
            self.handed(slot, "a kfunc", state, 1, count)
            return
        self.handed(slot, name, state, 2, count)
        if count and isinstance(state.regs[1], Lost):
            raise self.lost(slot, state.regs[1], f"passes to {name}")
        takes_ctx = count > 0 and state.regs[1] is CTX
        self.facts.calls[slot] = CtxCall(slot, -1, kfunc=name, takes_ctx=takes_ctx)

    def subprogram(self, slot: int, start: int, state: State, args: list[Value]) -> None:
        if not 0 <= start < len(self.insns):
            raise self.fail(slot, "calls out of the program")
        if len(state.frames) >= 8:
            raise self.fail(slot, "calls nest deeper than 8 functions")
        if any(v is CTX for v in args):
            self.facts.ctx_functions.add(start)
        regs: list[Value] = [None, *args, None, None, None, None, None]
        regs[10] = Stack(len(state.frames), 0)
        frames = [dict(f) for f in state.frames]
        result = self.function(start, State(regs, [*frames, {}]))
        saved = state.regs[6:10]
        if result is None:
            state.regs[0:6] = [None] * 6
            return
        depth = len(state.frames)
        self.facts.escapes |= tainted(result.regs[0])
        for mine, theirs in zip(state.frames, result.frames[:depth], strict=True):
            mine.clear()
            for off, value in theirs.items():
                mine[off] = value
                put(mine, off, within(value, depth))
        state.regs[0:6] = [within(result.regs[0], depth), None, None, None, None, None]
        state.regs[6:10] = saved


def analyse(
    code: Code,
    hook: Hook,
    *,
    program: str = "",
    sleepable: bool = False,
    source: Mapping[int, str] | None = None,
    kfuncs: Mapping[int, str] | None = None,
    kfunc_args: Mapping[int, int] | None = None,
    kfunc_names: Mapping[int, str] | None = None,
    arrays: Collection[int] = (),
) -> Traits:
    """Prove what a multi program reads from its context.

    :param code: the linked program, subprograms appended
    :param source: slot -> ``file:line: text`` for messages
    :param kfuncs: slot of a call of a session kfunc -> name
    :param kfunc_args: slot of any kfunc's call -> number of its arguments; 5 if not known
    :param kfunc_names: slot of any kfunc's call -> name
    :param arrays: numbers of the maps whose look-ups the verifier inlines
    :raises PlanError: naming instruction and source line, if the use of the context
        cannot be proved, or reads what a multi context does not have
    """
    work = _Pass(
        code, hook, program, source or {}, kfuncs or {}, kfunc_args or {}, kfunc_names or {}, arrays
    )
    for slot, insn in enumerate(code.insns):
        if insn.dst > op.R10 or insn.src > op.R10:
            raise work.fail(slot, f"register r{max(insn.dst, insn.src)} does not exist")
    regs: list[Value] = [None] * 11
    regs[1] = CTX
    regs[10] = Stack(0, 0)
    work.function(0, State(regs, [{}]))
    facts = work.facts
    for slot in facts.other:
        if slot in facts.accesses or slot in facts.calls:
            raise work.fail(slot, "uses the context on one call path and something else on another")
    accesses = tuple(facts.accesses[s] for s in sorted(facts.accesses))
    calls = tuple(facts.calls[s] for s in sorted(facts.calls))
    return Traits(
        hook=hook,
        sleepable=sleepable,
        slots=frozenset(a.slot for a in accesses if a.slot != RET_SLOT),
        reads_ret=any(a.slot == RET_SLOT for a in accesses),
        accesses=accesses,
        calls=calls,
        helpers=frozenset(c.helper for c in calls if c.helper >= 0),
        kfuncs=frozenset(c.kfunc for c in calls if c.kfunc),
        ctx_functions=frozenset(facts.ctx_functions),
        called=frozenset(facts.called),
        called_kfuncs=frozenset(facts.called_kfuncs),
        escapes=facts.escapes,
    )
