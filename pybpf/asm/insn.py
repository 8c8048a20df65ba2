"""One BPF instruction slot as a value, and streams of them as bytes.

A stream is a sequence of 8-byte slots (``struct bpf_insn``, UAPI
include/uapi/linux/bpf.h): code u8, dst 4 bits, src 4 bits, off s16, imm s32,
little-endian. A 64-bit immediate load takes two slots and stays two `Insn`
here, the second with code 0. So an index into the list is the index that the
verifier and .BTF.ext use, and jump offsets need no translation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from .._uapi import defines as uapi
from ..dataclass import dataclass
from ..wording import many
from . import opcodes as op

__all__ = [
    "INSN_SIZE",
    "Insn",
    "alu",
    "alu_reg",
    "call",
    "call_sub",
    "decode",
    "encode",
    "exit_",
    "func_ref",
    "ja",
    "jmp",
    "jmp_reg",
    "ld_imm64",
    "load",
    "map_fd",
    "map_value",
    "mov",
    "mov_reg",
    "store",
    "store_imm",
]

INSN_SIZE = 8  # bytes of one slot
_SLOT = struct.Struct("<BBhi")

# src_reg kinds, UAPI bpf.h BPF_PSEUDO_*
PSEUDO_CALL = uapi.BPF_PSEUDO_CALL
PSEUDO_KFUNC_CALL = uapi.BPF_PSEUDO_KFUNC_CALL
PSEUDO_MAP_FD = uapi.BPF_PSEUDO_MAP_FD
PSEUDO_MAP_VALUE = uapi.BPF_PSEUDO_MAP_VALUE
PSEUDO_FUNC = uapi.BPF_PSEUDO_FUNC


@dataclass(frozen=True, slots=True)
class Insn:
    """``struct bpf_insn``: one 8-byte slot.

    :param code: opcode, ``__u8``
    :param dst: destination register, 0..15
    :param src: source register or pseudo kind, 0..15
    :param off: ``__s16``
    :param imm: ``__s32``
    """

    code: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0

    def __post_init__(self) -> None:
        if not (
            0 <= self.code <= 0xFF
            and 0 <= self.dst <= 15
            and 0 <= self.src <= 15
            and -0x8000 <= self.off <= 0x7FFF
            and -0x80000000 <= self.imm <= 0x7FFFFFFF
        ):
            raise ValueError(f"field out of range: {self!r}")

    @property
    def cls(self) -> int:
        """Return the instruction class, e.g. ``opcodes.LDX``."""
        return self.code & op.CLASS_MASK

    @property
    def is_jump_class(self) -> bool:
        return self.code & op.CLASS_MASK in (op.JMP, op.JMP32)

    @property
    def is_ld_imm64(self) -> bool:
        return self.code == op.LDIMM64

    @property
    def is_call(self) -> bool:
        """Return True for a helper, kfunc or subprogram call."""
        return self.code == op.JMP | op.CALL

    @property
    def is_subprog_call(self) -> bool:
        """Return True for a call to a function of the same program (BPF_PSEUDO_CALL)."""
        return self.code == op.JMP | op.CALL and self.src == PSEUDO_CALL

    @property
    def is_exit(self) -> bool:
        return self.code == op.JMP | op.EXIT

    @property
    def jump_delta(self) -> int | None:
        """Return the slots from the next slot to the jump's target. None if this is not a jump."""
        if not self.is_jump_class:
            return None
        operation = self.code & op.OP_MASK
        if operation in (op.CALL, op.EXIT):
            return None
        if operation == op.JA and self.cls == op.JMP32:
            return self.imm
        return self.off

    def with_jump_delta(self, delta: int) -> Insn:
        """Return the same jump with another distance, in slots."""
        if self.code & op.OP_MASK == op.JA and self.cls == op.JMP32:
            return Insn(self.code, self.dst, self.src, self.off, delta)
        return Insn(self.code, self.dst, self.src, delta, self.imm)


def decode(data: bytes | bytearray | memoryview) -> list[Insn]:
    """Decode the instructions of a stream.

    :param data: whole slots, length in bytes a multiple of 8
    :raises ValueError: if the length is not a multiple of 8
    """
    if len(data) % INSN_SIZE:
        given = many(len(data), "byte")
        raise ValueError(f"{given} given, not a whole number of 8-byte instructions")
    return [
        Insn(code, regs & 0xF, regs >> 4, off, imm)
        for code, regs, off, imm in _SLOT.iter_unpack(data)
    ]


def encode(insns: Iterable[Insn]) -> bytes:
    """Encode instructions, 8 bytes each."""
    return b"".join(_SLOT.pack(i.code, i.src << 4 | i.dst, i.off, i.imm) for i in insns)


def _s32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 0x100000000 if value & 0x80000000 else value


def mov(dst: int, imm: int) -> Insn:
    """``dst = imm`` (sign-extended to 64 bits)."""
    return Insn(op.ALU64 | op.MOV | op.K, dst, 0, 0, imm)


def mov_reg(dst: int, src: int) -> Insn:
    """``dst = src``."""
    return Insn(op.ALU64 | op.MOV | op.X, dst, src)


def alu(operation: int, dst: int, imm: int) -> Insn:
    """``dst OP= imm``, 64 bits wide."""
    return Insn(op.ALU64 | operation | op.K, dst, 0, 0, imm)


def alu_reg(operation: int, dst: int, src: int) -> Insn:
    """``dst OP= src``, 64 bits wide."""
    return Insn(op.ALU64 | operation | op.X, dst, src)


def load(size: int, dst: int, src: int, off: int) -> Insn:
    """``dst = *(size *)(src + off)``; `size` is one of opcodes.B, H, W, DW."""
    return Insn(op.LDX | size | op.MEM, dst, src, off)


def store(size: int, dst: int, off: int, src: int) -> Insn:
    """``*(size *)(dst + off) = src``."""
    return Insn(op.STX | size | op.MEM, dst, src, off)


def store_imm(size: int, dst: int, off: int, imm: int) -> Insn:
    """``*(size *)(dst + off) = imm``."""
    return Insn(op.ST | size | op.MEM, dst, 0, off, imm)


def ja(delta: int) -> Insn:
    """Jump always, `delta` slots past the next slot."""
    return Insn(op.JMP | op.JA, 0, 0, delta)


def jmp(operation: int, dst: int, imm: int, delta: int) -> Insn:
    """``if dst OP imm goto +delta``."""
    return Insn(op.JMP | operation | op.K, dst, 0, delta, imm)


def jmp_reg(operation: int, dst: int, src: int, delta: int) -> Insn:
    """``if dst OP src goto +delta``."""
    return Insn(op.JMP | operation | op.X, dst, src, delta)


def call(helper: int) -> Insn:
    """Call a helper by its id (``enum bpf_func_id``)."""
    return Insn(op.JMP | op.CALL, 0, 0, 0, helper)


def call_sub(delta: int) -> Insn:
    """Call a function of this program, `delta` slots past the next slot."""
    return Insn(op.JMP | op.CALL, 0, PSEUDO_CALL, 0, delta)


def exit_() -> Insn:
    """Return r0."""
    return Insn(op.JMP | op.EXIT)


def ld_imm64(dst: int, value: int, src: int = 0) -> list[Insn]:
    """``dst = value ll``: two slots; `src` is a pseudo kind (BPF_PSEUDO_*)."""
    return [
        Insn(op.LDIMM64, dst, src, 0, _s32(value)),
        Insn(0, 0, 0, 0, _s32(value >> 32)),
    ]


def map_fd(dst: int, fd: int) -> list[Insn]:
    """``dst = map``: two slots."""
    return ld_imm64(dst, fd, PSEUDO_MAP_FD)


def map_value(dst: int, fd: int, offset: int) -> list[Insn]:
    """``dst = &map[0] + offset`` (bytes): two slots."""
    return ld_imm64(dst, fd | offset << 32, PSEUDO_MAP_VALUE)


def func_ref(dst: int, delta: int) -> list[Insn]:
    """``dst = &subprogram``, `delta` slots past the first slot's next: two slots."""
    first, second = ld_imm64(dst, delta & 0xFFFFFFFF, PSEUDO_FUNC)
    return [first, second]
