"""Print instructions as text, in the form that ``llvm-objdump --mcpu=v4`` prints BPF.

Pure. `line` renders one instruction, `listing` a stream with slot numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import opcodes as op
from .insn import Insn

__all__ = ["line", "listing"]

_ALU_OPS = {
    op.ADD: "+=",
    op.SUB: "-=",
    op.MUL: "*=",
    op.DIV: "/=",
    op.OR: "|=",
    op.AND: "&=",
    op.LSH: "<<=",
    op.RSH: ">>=",
    op.MOD: "%=",
    op.XOR: "^=",
    op.MOV: "=",
    op.ARSH: "s>>=",
}
_JUMP_OPS = {
    op.JEQ: "==",
    op.JGT: ">",
    op.JGE: ">=",
    op.JSET: "&",
    op.JNE: "!=",
    op.JSGT: "s>",
    op.JSGE: "s>=",
    op.JLT: "<",
    op.JLE: "<=",
    op.JSLT: "s<",
    op.JSLE: "s<=",
}
_SIZES = {op.B: "u8", op.H: "u16", op.W: "u32", op.DW: "u64"}
_LOAD_ACQUIRE, _STORE_RELEASE = 0x100, 0x110
_ATOMIC_OPS = {0x00: "+=", 0x40: "|=", 0x50: "&=", 0xA0: "^="}
_FETCH_NAMES = {0x01: "add", 0x41: "or", 0x51: "and", 0xA1: "xor"}


def _memory(size: int, reg: int, off: int, signed: bool = False) -> str:
    kind = _SIZES[size]
    if signed:
        kind = "s" + kind[1:]
    sign = "-" if off < 0 else "+"
    return f"*({kind} *)(r{reg} {sign} {abs(off):#x})"


def _arith(insn: Insn) -> str:
    r = "r" if insn.cls == op.ALU64 else "w"
    operation = insn.code & op.OP_MASK
    dst = f"{r}{insn.dst}"
    if operation == op.NEG:
        return f"{dst} = -{dst}"
    if operation == op.END:
        if insn.cls == op.ALU64:
            return f"r{insn.dst} = bswap{insn.imm} r{insn.dst}"
        order = "be" if insn.code & op.X else "le"
        return f"r{insn.dst} = {order}{insn.imm} r{insn.dst}"
    source = f"{r}{insn.src}" if insn.code & op.X else f"{insn.imm:#x}"
    symbol = _ALU_OPS.get(operation)
    if symbol is None:
        return _unknown(insn)
    if operation == op.MOV and insn.code & op.X and insn.off in (8, 16, 32):
        return f"{dst} = (s{insn.off}){source}"
    if operation in (op.DIV, op.MOD) and insn.off == 1:
        symbol = "s" + symbol
    return f"{dst} {symbol} {source}"


def _jump(insn: Insn) -> str:
    operation = insn.code & op.OP_MASK
    if operation == op.EXIT:
        return "exit"
    if operation == op.CALL:
        if insn.src == 1:
            return f"call {insn.imm:+#x}"
        if insn.src == 2:
            return f"call kfunc#{insn.imm}"
        return f"call {insn.imm:#x}"
    if operation == op.JA:
        kind = "gotol" if insn.cls == op.JMP32 else "goto"
        return f"{kind} {insn.jump_delta:+#x}"
    if operation == op.JCOND:
        return f"may_goto {insn.off:+#x}"
    symbol = _JUMP_OPS.get(operation)
    if symbol is None:
        return _unknown(insn)
    r = "r" if insn.cls == op.JMP else "w"
    source = f"{r}{insn.src}" if insn.code & op.X else f"{insn.imm:#x}"
    return f"if {r}{insn.dst} {symbol} {source} goto {insn.off:+#x}"


def _atomic(insn: Insn) -> str:
    size = insn.code & op.SIZE_MASK
    r = "r" if size == op.DW else "w"
    if size not in (op.W, op.DW) and insn.imm not in (_LOAD_ACQUIRE, _STORE_RELEASE):
        return _unknown(insn)
    place = _memory(size, insn.dst, insn.off)
    plain = _ATOMIC_OPS.get(insn.imm)
    if plain is not None:
        return f"lock {place} {plain} {r}{insn.src}"
    width = "_64" if size == op.DW else "32_32"
    spot = f"r{insn.dst} {'-' if insn.off < 0 else '+'} {abs(insn.off):#x}"
    name = _FETCH_NAMES.get(insn.imm)
    if name is not None:
        kind = f"({_SIZES[size]} *)({spot})"
        return f"{r}{insn.src} = atomic_fetch_{name}({kind}, {r}{insn.src})"
    if insn.imm == 0xE1:
        return f"{r}{insn.src} = xchg{width}({spot}, {r}{insn.src})"
    if insn.imm == 0xF1:
        return f"{r}0 = cmpxchg{width}({spot}, {r}0, {r}{insn.src})"
    if insn.imm == _LOAD_ACQUIRE:
        return f"{r}{insn.dst} = load_acquire({_memory(size, insn.src, insn.off)[1:]})"
    if insn.imm == _STORE_RELEASE:
        return f"store_release({_memory(size, insn.dst, insn.off)[1:]}, {r}{insn.src})"
    return _unknown(insn)


def _unknown(insn: Insn) -> str:
    return f"<unknown code {insn.code:#04x}>"


def line(insn: Insn, following: Insn | None = None) -> str:
    """Return one instruction as text.

    :param following: the next slot, needed to show the upper half of a 64-bit immediate
    """
    cls = insn.cls
    if cls in (op.ALU, op.ALU64):
        return _arith(insn)
    if cls in (op.JMP, op.JMP32):
        return _jump(insn)
    mode = insn.code & op.MODE_MASK
    size = insn.code & op.SIZE_MASK
    if cls == op.LDX and mode in (op.MEM, op.MEMSX):
        r = "w" if size != op.DW and mode == op.MEM else "r"
        return f"{r}{insn.dst} = {_memory(size, insn.src, insn.off, mode == op.MEMSX)}"
    if cls == op.STX and mode == op.MEM:
        r = "r" if size == op.DW else "w"
        return f"{_memory(size, insn.dst, insn.off)} = {r}{insn.src}"
    if cls == op.STX and mode == op.ATOMIC:
        return _atomic(insn)
    if cls == op.ST and mode == op.MEM:
        return f"{_memory(size, insn.dst, insn.off)} = {insn.imm:#x}"
    if insn.code == op.LDIMM64:
        high = following.imm if following is not None else 0
        value = (insn.imm & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32
        kind = {1: "map_fd ", 2: "map_value ", 3: "btf_id ", 4: "func ", 5: "map_idx "}
        return f"r{insn.dst} = {kind.get(insn.src, '')}{value:#x} ll"
    return _unknown(insn)


def listing(
    insns: Sequence[Insn], note: Callable[[int], str | None] | None = None
) -> Iterator[str]:
    """Yield ``SLOT: text`` lines. `note(slot)` may add a comment to a line."""
    skip = False
    for slot, insn in enumerate(insns):
        if skip:
            skip = False
            continue
        following = insns[slot + 1] if slot + 1 < len(insns) else None
        skip = insn.is_ld_imm64
        comment = note(slot) if note else None
        text = f"{slot:5}: {line(insn, following)}"
        yield f"{text:<48}; {comment}" if comment else text
