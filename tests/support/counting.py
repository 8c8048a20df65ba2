"""A program of any type that counts its runs and returns a number, assembled here."""

from __future__ import annotations

from pybpf.asm import encode
from pybpf.asm import opcodes as op
from pybpf.asm.insn import alu, exit_, load, map_value, mov, store
from pybpf.maps import Map

__all__ = ["counted", "counting"]


def counting(runs: Map, result: int) -> bytes:
    """Add 1 to the first u64 of an array, then return `result`. Runs at once may be lost."""
    return encode(
        [
            *map_value(6, runs.fileno(), 0),
            load(op.DW, 1, 6, 0),
            alu(op.ADD, 1, 1),
            store(op.DW, 6, 0, 1),
            mov(0, result),
            exit_(),
        ]
    )


def counted(runs: Map) -> int:
    """How often it ran."""
    return int.from_bytes(runs.raw[bytes(4)], "little")
