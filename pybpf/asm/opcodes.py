"""Opcode fields of the BPF instruction set.

Source: Documentation/bpf/standardization/instruction-set.rst and
include/uapi/linux/bpf_common.h, bpf.h (Linux 7.3). An opcode byte is
CLASS (3 bits) | SOURCE (1 bit) | OPERATION (4 bits) for arithmetic and jumps,
CLASS (3 bits) | SIZE (2 bits) | MODE (3 bits) for loads and stores.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADD",
    "ALU",
    "ALU64",
    "AND",
    "ARSH",
    "ATOMIC",
    "CALL",
    "CLASS_MASK",
    "DIV",
    "DW",
    "END",
    "EXIT",
    "IMM",
    "JA",
    "JCOND",
    "JEQ",
    "JGE",
    "JGT",
    "JLE",
    "JLT",
    "JMP",
    "JMP32",
    "JNE",
    "JSET",
    "JSGE",
    "JSGT",
    "JSLE",
    "JSLT",
    "LD",
    "LDIMM64",
    "LDX",
    "LSH",
    "MEM",
    "MEMSX",
    "MOD",
    "MODE_MASK",
    "MOV",
    "MUL",
    "NEG",
    "OP_MASK",
    "OR",
    "R0",
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "R6",
    "R7",
    "R8",
    "R9",
    "R10",
    "RSH",
    "SIZE_BYTES",
    "SIZE_MASK",
    "ST",
    "STX",
    "SUB",
    "XOR",
    "B",
    "H",
    "K",
    "W",
    "X",
]

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)

CLASS_MASK: Final = 0x07
LD: Final = 0x00
LDX: Final = 0x01
ST: Final = 0x02
STX: Final = 0x03
ALU: Final = 0x04
JMP: Final = 0x05
JMP32: Final = 0x06
ALU64: Final = 0x07

K: Final = 0x00
X: Final = 0x08

OP_MASK: Final = 0xF0
ADD: Final = 0x00
SUB: Final = 0x10
MUL: Final = 0x20
DIV: Final = 0x30
OR: Final = 0x40
AND: Final = 0x50
LSH: Final = 0x60
RSH: Final = 0x70
NEG: Final = 0x80
MOD: Final = 0x90
XOR: Final = 0xA0
MOV: Final = 0xB0
ARSH: Final = 0xC0
END: Final = 0xD0

JA: Final = 0x00
JEQ: Final = 0x10
JGT: Final = 0x20
JGE: Final = 0x30
JSET: Final = 0x40
JNE: Final = 0x50
JSGT: Final = 0x60
JSGE: Final = 0x70
CALL: Final = 0x80
EXIT: Final = 0x90
JLT: Final = 0xA0
JLE: Final = 0xB0
JSLT: Final = 0xC0
JSLE: Final = 0xD0
JCOND: Final = 0xE0

SIZE_MASK: Final = 0x18
W: Final = 0x00
H: Final = 0x08
B: Final = 0x10
DW: Final = 0x18
# size field -> access width in bytes
SIZE_BYTES: Final = {W: 4, H: 2, B: 1, DW: 8}

MODE_MASK: Final = 0xE0
IMM: Final = 0x00
MEM: Final = 0x60
MEMSX: Final = 0x80
ATOMIC: Final = 0xC0

LDIMM64: Final = LD | DW | IMM
