"""`Variant`: one rewritten instruction stream of a multi program.

What the kernel makes of attached programs is an *image* (`pybpf.trampoline`); what this
package makes of a program before it is loaded is a *variant*.
"""

from __future__ import annotations

import hashlib
from enum import Enum

from ..asm import encode
from ..asm.edit import Code
from ..dataclass import dataclass, field

__all__ = ["Lowering", "Variant"]


class Lowering(Enum):
    """How context accesses became what the mechanism offers; see `rewrite`."""

    NATIVE = "native"
    DIRECT = "direct"
    FRAME = "frame"
    REGS = "regs"


@dataclass(frozen=True, slots=True)
class Variant:
    """One rewritten instruction stream; equal bytes are equal variants."""

    lowering: Lowering
    code: Code = field(repr=False)
    digest: str
    #: Direct accesses whose values the verifier takes for numbers, never for pointers.
    scalars: bool = False
    #: It takes the recursion guard that all programs of a link share.
    guarded: bool = False

    @classmethod
    def of(
        cls, lowering: Lowering, code: Code, *, scalars: bool = False, guarded: bool = False
    ) -> Variant:
        digest = hashlib.sha256(encode(code.insns)).hexdigest()[:16]
        return cls(lowering, code, digest, scalars, guarded)
