"""The data-flow pass misses no access: random programs run, and every step is compared with it.

The programs move the context, numbers and pointers into the stack between registers, stack slots,
subprograms and callbacks. Most are refused, because at random the context is soon lost. Of the
others, each load and each context helper that runs with the context must be in the traits, and
none that runs without it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress

from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code
from pybpf.asm.insn import Insn
from pybpf.errors import PlanError
from pybpf.multi.traits import CtxHelper, Hook, Traits, analyse
from tests.support.bpfvm import Vm, VmFault
from tests.support.examples import examples

LOOKUP, RANDOM, LOOP = 1, 7, 181
REGS = (6, 7, 8, 9)
SLOTS = (-8, -16, -24, -32, -40)
CTX_SIZE = 56
# seeds that once found a pointer into the stack whose stores were missed
SEEDS = (675, 1116, 3876, 8221)


class Wrong(Exception):
    """An instruction that used the context without the traits saying so, or the reverse."""


class Watched(Vm):
    """Compares each step with the traits. Callees start with no leftovers in registers."""

    def __init__(self, insns: Sequence[Insn], traits: Traits, choose: random.Random) -> None:
        super().__init__(insns, budget=600)
        self.proven = {a.insn for a in traits.accesses} | {c.insn for c in traits.calls}
        self.ctx = self.map(bytes(CTX_SIZE))
        value = self.map(bytes(64))

        def loop(vm: Vm, count: int, callback: int, data: int, *_: int) -> int:
            for index in range(count):
                vm.call(callback, [index, data, 0, 0, 0], [0] * 4)
            return count

        self.helpers = {
            LOOKUP: lambda vm, *_: choose.choice([0, value]),
            RANDOM: lambda vm, *_: choose.randint(0, 1),
            LOOP: loop,
            CtxHelper.get_func_ip: lambda vm, *_: 5,
        }

    def call(self, start: int, args: Sequence[int], saved: Sequence[int]) -> int:
        return super().call(start, args, [0] * 4)

    def _step(self, slot: int, insn: Insn, regs: list[int]) -> int:
        used = None
        if insn.cls == op.LDX:
            used = self.ctx <= regs[insn.src] + insn.off < self.ctx + CTX_SIZE
        elif insn.is_call and insn.src == 0 and insn.imm == CtxHelper.get_func_ip:
            used = regs[1] == self.ctx
        if used is not None and used != (slot in self.proven):
            raise Wrong(f"instruction {slot}: the context is {'' if used else 'not '}used")
        return super()._step(slot, insn, regs)


# A function is a list of these: an instruction; a place to jump to; a jump to it (register,
# operation, number, place); a call of the first or second function after this one, or its address.
Item = Insn | tuple[str, int] | tuple[str, int, int, int, int]


def piece(choose: random.Random) -> list[Item]:
    """One thing that clang may do with a context or a pointer, with random operands."""
    a, b, c = (choose.choice(REGS) for _ in range(3))
    at, off = choose.choice(SLOTS), choose.choice([0, 0, 8, -8])
    bit = choose.randint(0, 1)
    kinds: list[list[Item]] = [
        [asm.mov_reg(a, b)],
        [asm.mov_reg(a, 10), asm.alu(op.ADD, a, at)],
        [asm.store(op.DW, 10, at, a)],
        [asm.store(op.DW, 10, at, a)],
        [asm.load(op.DW, a, 10, at)],
        [asm.load(op.DW, a, 10, at)],
        [asm.store(op.DW, b, off, a)],
        [asm.store_imm(op.DW, b, off, bit)],
        [asm.load(op.DW, a, b, choose.choice([0, 0, 8, 16, 48]))],
        [asm.load(op.DW, a, b, choose.choice([0, 0, 8, 16, 48]))],
        [asm.mov(a, bit)],
        [asm.mov_reg(1, b), asm.call(CtxHelper.get_func_ip)],
        [
            *[asm.mov_reg(1, b), asm.mov_reg(2, 10), asm.alu(op.ADD, 2, at)],
            *[asm.call(LOOKUP), asm.mov_reg(a, 0)],
        ],
        [
            *[asm.mov_reg(1, a), asm.mov_reg(2, b), asm.mov_reg(3, c)],
            *[("call", bit), asm.mov_reg(choose.choice([0, a]), 0)],
        ],
        [
            *[asm.mov(1, choose.randint(0, 2)), ("func", bit)],
            *[asm.mov_reg(3, a), asm.mov(4, 0), asm.call(LOOP)],
        ],
        [Insn(op.STX | op.DW | op.ATOMIC, b, a, 0, op.ADD)],
    ]
    return choose.choice(kinds)


def function(choose: random.Random, args: Sequence[int]) -> list[Item]:
    """A body with jumps, most of them forward, on known numbers and on others."""
    out: list[Item] = [
        asm.mov(reg, choose.randint(0, 3))
        if choose.random() < 0.4
        else asm.mov_reg(reg, choose.choice(args))
        for reg in REGS
    ]
    out.append(asm.mov_reg(choose.choice(REGS), args[0]))
    out += [asm.store_imm(op.DW, 10, at, choose.randint(0, 1)) for at in SLOTS]
    parts = [piece(choose) for _ in range(choose.randint(4, 22))]
    jumps: dict[int, list[Item]] = {}
    for _ in range(choose.randint(1, 7)):
        where = choose.randrange(len(parts))
        to = choose.randrange(0 if choose.random() < 0.15 else where, len(parts) + 1)
        reg = choose.choice((0, *REGS))
        some = jumps.setdefault(where, [])
        some += [] if reg else [asm.call(RANDOM)]
        some.append(("jump", reg, choose.choice([op.JEQ, op.JNE]), choose.randint(0, 1), to))
    for number, part in enumerate(parts):
        out += [("label", number), *jumps.get(number, ()), *part]
    return [*out, ("label", len(parts)), asm.mov_reg(0, choose.choice(REGS)), asm.exit_()]


def assembled(functions: Sequence[list[Item]]) -> list[Insn]:
    """Instructions of all functions, with distances worked out."""
    starts: list[int] = []
    labels: list[dict[int, int]] = []
    end = 0
    for items in functions:
        starts.append(end)
        labels.append({})
        for item in items:
            if isinstance(item, Insn):
                end += 1
            elif item[0] == "label":
                labels[-1][item[1]] = end
            else:
                end += 2 if item[0] == "func" else 1
    out: list[Insn] = []
    for number, items in enumerate(functions):
        for item in items:
            here = len(out) + 1
            if isinstance(item, Insn):
                out.append(item)
            elif len(item) == 5:
                _, reg, operation, value, to = item
                out.append(asm.jmp(operation, reg, value, labels[number][to] - here))
            elif item[0] != "label":
                callee = min(number + 1 + item[1], len(functions) - 1)
                delta = starts[callee] - here
                nested = callee > number
                if item[0] == "call":
                    out.append(asm.call_sub(delta) if nested else asm.mov(0, 0))
                else:
                    out += asm.func_ref(2, delta) if nested else asm.ld_imm64(2, 0)
    return out


def check(seed: int) -> bool:
    """Compare one program with its traits, four times. False if it is refused."""
    choose = random.Random(seed)
    insns = assembled([function(choose, args) for args in ((1,), (1, 2, 3), (1, 2, 3))])
    try:
        traits = analyse(Code(tuple(insns)), Hook.EXIT)
    except PlanError:
        return False
    for _ in range(4):
        vm = Watched(insns, traits, choose)
        with suppress(VmFault):  # what the verifier would refuse; it was right so far
            vm.run(vm.ctx)
    return True


def test_no_access_is_missed() -> None:
    """And enough programs are not refused."""
    seeds = (*SEEDS, *range(examples(900)))
    assert sum(map(check, seeds)) > len(seeds) // 10
