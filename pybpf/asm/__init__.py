"""BPF instructions as values: opcodes, `Insn`, decode and encode. Pure."""

from __future__ import annotations

from .insn import Insn, decode, encode

__all__ = ["Insn", "decode", "encode"]
