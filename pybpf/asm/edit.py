"""Edit an instruction stream: replace or insert instructions, and keep every jump right.

Relative distances in BPF are counted in slots from the next slot. So changing
the length of anything moves every jump, subprogram call and function reference
across it, and also the instruction offsets in func_info and line_info. The
editor first lays out the new stream (old slot -> new slot), then copies every
untouched instruction with its new distance. A jump to a replaced
instruction goes to the first instruction of its replacement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..dataclass import dataclass
from . import insn as asm
from . import opcodes as op
from .insn import Insn

__all__ = ["Code", "edit", "function_starts", "lead", "prepend"]


@dataclass(frozen=True, slots=True)
class Code:
    """Hold a program's instructions with what .BTF.ext says about them.

    :param insns: one `Insn` per 8-byte slot; subprograms follow the main one
    :param func_info: (slot, BTF id of the FUNC) of each function, ascending
    :param line_info: (slot, file_name_off, line_off, line_col), ascending
    """

    insns: tuple[Insn, ...]
    func_info: tuple[tuple[int, int], ...] = ()
    line_info: tuple[tuple[int, int, int, int], ...] = ()


# Opcodes of whatever can point at another instruction.
_POINTING = frozenset(
    code for code in range(256) if code == op.LDIMM64 or code & op.CLASS_MASK in (op.JMP, op.JMP32)
) - {op.JMP | op.EXIT}


def _second_halves(insns: Sequence[Insn]) -> set[int]:
    # Second slots of 64-bit immediates.
    halves: set[int] = set()
    for slot in [i for i, insn in enumerate(insns) if insn.code == op.LDIMM64]:
        if slot not in halves:
            halves.add(slot + 1)
    return halves


def _relative(insn: Insn) -> int | None:
    # Distance in slots, for anything that points at another instruction.
    if insn.is_subprog_call or (insn.is_ld_imm64 and insn.src == asm.PSEUDO_FUNC):
        return insn.imm
    return insn.jump_delta


def _with_relative(insn: Insn, delta: int) -> Insn:
    if insn.is_subprog_call or insn.is_ld_imm64:
        return Insn(insn.code, insn.dst, insn.src, insn.off, delta)
    if not -0x8000 <= delta <= 0x7FFF and insn.with_jump_delta(0).imm == insn.imm:
        raise ValueError(f"a jump of {delta} slots does not fit in 16 bits")
    return insn.with_jump_delta(delta)


def function_starts(insns: Sequence[Insn]) -> list[int]:
    """Find the first slots of the main program and of all called or referenced functions."""
    starts = {0}
    for slot, insn in enumerate(insns):
        if insn.is_subprog_call or (insn.is_ld_imm64 and insn.src == asm.PSEUDO_FUNC):
            starts.add(slot + 1 + insn.imm)
    return sorted(starts)


def edit(code: Code, replacements: Mapping[int, Sequence[Insn]]) -> tuple[Code, list[int]]:
    """Replace some instructions by sequences.

    :param replacements: old slot -> instructions. A jump inside a sequence must stay
        inside it or go to the slot right after it. The slot of a 64-bit immediate stands for both.
    :returns: the new code, and the new slot of each old one (one more entry for the end)
    :raises ValueError: if a jump no longer fits in 16 bits
    """
    insns = code.insns
    halves = _second_halves(insns)
    places: list[int] = []
    out: list[Insn] = []
    done = 0  # slots that are laid out
    for slot in sorted(replacements):
        if slot >= len(insns) or slot in halves:
            continue
        places += range(len(out), len(out) + slot - done)
        out += insns[done:slot]
        places.append(len(out))
        out += replacements[slot]
        done = slot + 1
        if done in halves:
            places.append(len(out))
            done += 1
    places += range(len(out), len(out) + len(insns) - done + 1)
    out += insns[done:]

    for slot in [i for i, insn in enumerate(insns) if insn.code in _POINTING]:
        insn = insns[slot]
        if slot in replacements or slot in halves or (delta := _relative(insn)) is None:
            continue
        now = places[slot + 1 + delta] - places[slot] - 1
        if now != delta:
            out[places[slot]] = _with_relative(insn, now)

    funcs = tuple((places[slot], type_id) for slot, type_id in code.func_info)
    lines: list[tuple[int, int, int, int]] = []
    for slot, file_off, line_off, col in code.line_info:
        if lines and lines[-1][0] == places[slot]:
            lines.pop()  # its instruction was removed, so the later line is right
        if places[slot] < len(out):
            lines.append((places[slot], file_off, line_off, col))
    return Code(tuple(out), funcs, tuple(lines)), places


def prepend(code: Code, insns: Sequence[Insn], func_id: int | None) -> Code:
    """Add a new main function. The old one becomes its subprogram.

    :param func_id: BTF FUNC of the new function, None when there is no func_info
    """
    out = _shifted(code, insns)
    if func_id is not None and code.func_info:
        return Code(out.insns, ((0, func_id), *out.func_info), out.line_info)
    return out


def lead(code: Code, insns: Sequence[Insn]) -> Code:
    """Insert instructions at the start of the main function.

    Jumps back to its former first instruction do not run them again.
    """
    out = _shifted(code, insns)
    funcs = tuple((slot if slot > len(insns) else 0, type_id) for slot, type_id in out.func_info)
    return Code(out.insns, funcs, out.line_info)


def _shifted(code: Code, insns: Sequence[Insn]) -> Code:
    # Puts instructions before all functions, under the first source line.
    shift = len(insns)
    funcs = tuple((slot + shift, type_id) for slot, type_id in code.func_info)
    lines = tuple((slot + shift, file, line, col) for slot, file, line, col in code.line_info)
    if code.line_info:
        lines = ((0, *code.line_info[0][1:]), *lines)
    return Code((*insns, *code.insns), funcs, lines)
