"""A BPF interpreter: it finds out what a stream computes, without a kernel.

It runs the instructions that the lowerings emit and that clang makes of tracing programs:
64- and 32-bit arithmetic, byte order, jumps, loads and stores of every width, atomic
addition, helper, subprogram and callback calls. Memory is a set of regions at made-up addresses.
An access outside every region is an error, as it would be for the verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.insn import Insn

M64 = (1 << 64) - 1
M32 = (1 << 32) - 1
STACK_SIZE = 512
_MAPS = (asm.PSEUDO_MAP_FD, asm.PSEUDO_MAP_VALUE)

Helper = Callable[["Vm", int, int, int, int, int], int]


class VmFault(Exception):
    """Report that the program did what the verifier would not allow."""


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class Vm:
    """Simulate one machine with memory regions and helpers. `run` may be called again."""

    def __init__(
        self,
        insns: Sequence[Insn],
        helpers: dict[int, Helper] | None = None,
        kfuncs: dict[int, Helper] | None = None,
        *,
        budget: int = 20_000,
    ) -> None:
        self.insns = insns
        self.helpers = helpers or {}
        self.kfuncs = kfuncs or {}
        self.budget = budget
        self.regions: dict[int, bytearray] = {}
        self.maps: dict[int, int] = {}  # number of a map -> what stands for it, or its contents
        self._next = 0x1000_0000
        self.executed = 0

    def map(self, data: bytes | bytearray) -> int:
        """Put bytes into memory and return their address."""
        address = self._next
        self.regions[address] = bytearray(data)
        self._next += (len(data) + 0x10FFF) & ~0xFFFF
        return address

    def _find(self, address: int, size: int) -> tuple[bytearray, int]:
        for base, region in self.regions.items():
            if base <= address and address + size <= base + len(region):
                return region, address - base
        raise VmFault(f"{size} bytes at {address:#x} are not memory")

    def read(self, address: int, size: int) -> int:
        region, off = self._find(address, size)
        return int.from_bytes(region[off : off + size], "little")

    def write(self, address: int, size: int, value: int) -> None:
        region, off = self._find(address, size)
        region[off : off + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def run(self, ctx: int) -> int:
        """Run from the first instruction with r1 = ctx and return r0."""
        return self.call(0, [ctx, 0, 0, 0, 0], [0, 0, 0, 0])

    def call(self, start: int, args: Sequence[int], saved: Sequence[int]) -> int:
        stack = self.map(bytes(STACK_SIZE))
        regs = [0, *args, *saved, stack + STACK_SIZE]
        slot = start
        try:
            while True:
                self.executed += 1
                if self.executed > self.budget:
                    raise VmFault("runs too long")
                if not 0 <= slot < len(self.insns):
                    raise VmFault(f"leaves the program at {slot}")
                insn = self.insns[slot]
                if insn.is_exit:
                    return regs[0]
                slot = self._step(slot, insn, regs)
        finally:
            del self.regions[stack]

    def _step(self, slot: int, insn: Insn, regs: list[int]) -> int:
        cls = insn.cls
        if insn.is_ld_imm64 and insn.src in _MAPS and insn.imm in self.maps:
            inside = self.insns[slot + 1].imm if insn.src == asm.PSEUDO_MAP_VALUE else 0
            regs[insn.dst] = self.maps[insn.imm] + inside
            return slot + 2
        if insn.is_ld_imm64:
            low, high = insn.imm & M32, self.insns[slot + 1].imm & M32
            regs[insn.dst] = (
                slot + 1 + insn.imm if insn.src == asm.PSEUDO_FUNC else low | high << 32
            )
            return slot + 2
        if cls in (op.ALU, op.ALU64):
            regs[insn.dst] = self._alu(insn, regs)
        elif cls == op.LDX:
            size = op.SIZE_BYTES[insn.code & op.SIZE_MASK]
            value = self.read(regs[insn.src] + insn.off, size)
            if insn.code & op.MODE_MASK == op.MEMSX:
                value = signed(value, 8 * size) & M64
            regs[insn.dst] = value
        elif cls in (op.ST, op.STX):
            size = op.SIZE_BYTES[insn.code & op.SIZE_MASK]
            if insn.code & op.MODE_MASK == op.ATOMIC and insn.imm == op.ADD:
                where = regs[insn.dst] + insn.off
                self.write(where, size, self.read(where, size) + regs[insn.src])
                return slot + 1
            if insn.code & op.MODE_MASK != op.MEM:
                raise VmFault("of atomics only the addition is modelled")
            value = regs[insn.src] if cls == op.STX else insn.imm
            self.write(regs[insn.dst] + insn.off, size, value)
        elif insn.is_call:
            self._call(slot, insn, regs)
        else:
            return self._jump(slot, insn, regs)
        return slot + 1

    def _alu(self, insn: Insn, regs: list[int]) -> int:
        if insn.code & op.OP_MASK == op.END:
            return self._swapped(insn, regs[insn.dst])
        bits = 64 if insn.cls == op.ALU64 else 32
        mask = (1 << bits) - 1
        a = regs[insn.dst] & mask
        b = (regs[insn.src] if insn.code & op.X else insn.imm) & mask
        match insn.code & op.OP_MASK:
            case op.MOV:
                out = signed(b, insn.off) if insn.off else b
            case op.ADD:
                out = a + b
            case op.SUB:
                out = a - b
            case op.MUL:
                out = a * b
            case op.DIV:
                out = a // b if b else 0
            case op.MOD:
                out = a % b if b else a
            case op.OR:
                out = a | b
            case op.AND:
                out = a & b
            case op.XOR:
                out = a ^ b
            case op.LSH:
                out = a << (b & (bits - 1))
            case op.RSH:
                out = a >> (b & (bits - 1))
            case op.ARSH:
                out = signed(a, bits) >> (b & (bits - 1))
            case op.NEG:
                out = -a
            case other:
                raise VmFault(f"arithmetic {other:#x} is not modelled")
        return out & mask

    @staticmethod
    def _swapped(insn: Insn, value: int) -> int:
        # htole, htobe (ALU) or bswap (ALU64) of the lowest 16, 32 or 64 bits.
        low = (value & ((1 << insn.imm) - 1)).to_bytes(insn.imm // 8, "little")
        swaps = insn.cls == op.ALU64 or insn.code & op.X
        return int.from_bytes(low, "big" if swaps else "little")

    def _jump(self, slot: int, insn: Insn, regs: list[int]) -> int:
        delta = insn.jump_delta
        assert delta is not None
        bits = 64 if insn.cls == op.JMP else 32
        mask = (1 << bits) - 1
        a = regs[insn.dst] & mask
        b = (regs[insn.src] if insn.code & op.X else insn.imm) & mask
        sa, sb = signed(a, bits), signed(b, bits)
        taken = {
            op.JA: True,
            op.JEQ: a == b,
            op.JNE: a != b,
            op.JGT: a > b,
            op.JGE: a >= b,
            op.JLT: a < b,
            op.JLE: a <= b,
            op.JSET: bool(a & b),
            op.JSGT: sa > sb,
            op.JSGE: sa >= sb,
            op.JSLT: sa < sb,
            op.JSLE: sa <= sb,
        }[insn.code & op.OP_MASK]
        return slot + 1 + delta if taken else slot + 1

    def _call(self, slot: int, insn: Insn, regs: list[int]) -> None:
        if insn.src == asm.PSEUDO_CALL:
            regs[0] = self.call(slot + 1 + insn.imm, regs[1:6], regs[6:10])
        else:
            table = self.kfuncs if insn.src == 2 else self.helpers
            helper = table.get(insn.imm)
            if helper is None:
                raise VmFault(f"no helper {insn.imm}")
            regs[0] = helper(self, *regs[1:6]) & M64
        regs[1:6] = [0xDEAD_0001, 0xDEAD_0002, 0xDEAD_0003, 0xDEAD_0004, 0xDEAD_0005]
