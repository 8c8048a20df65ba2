"""`Variant`: one rewritten instruction stream of a multi program.

The machine code that the kernel makes for attached programs is an *image*
(`pybpf.trampoline`). A *variant* is what this package makes of a program before it is loaded.
"""

from __future__ import annotations

from enum import Enum

from ..asm import encode
from ..asm.edit import Code
from ..dataclass import dataclass, field

# `hashlib` loads OpenSSL: 3 ms and 3 MB. Python has this one of its own, too.
try:
    from _sha256 import sha256  # type: ignore[import-not-found]
except ImportError:  # Python 3.12 has it under another name
    from hashlib import sha256

__all__ = ["Lowering", "Variant"]


class Lowering(Enum):
    """Say how context accesses were rewritten for the mechanism; see `rewrite`."""

    NATIVE = "native"
    DIRECT = "direct"
    FRAME = "frame"
    REGS = "regs"


@dataclass(frozen=True, slots=True)
class Variant:
    """Hold one rewritten instruction stream. Equal bytes are equal variants."""

    lowering: Lowering
    code: Code = field(repr=False)
    digest: str
    #: The verifier treats the values of direct accesses as numbers, never as pointers.
    scalars: bool = False
    #: It uses the recursion guard that all programs of a link share.
    guarded: bool = False

    @classmethod
    def of(
        cls, lowering: Lowering, code: Code, *, scalars: bool = False, guarded: bool = False
    ) -> Variant:
        digest = sha256(encode(code.insns)).hexdigest()[:16]
        return cls(lowering, code, digest, scalars, guarded)
