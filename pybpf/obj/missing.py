"""Say what a linked program needs and the kernel lacks, by source line.

Each such instruction was made a call of a helper that does not exist. That is fine if it is never
reached, because the program first checks whether the thing exists. If it is reached, the verifier
refuses it. This module makes the messages, before and after loading.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right

from ..btf.core import POISON_IMM
from ..dataclass import dataclass
from ..errors import ObjectFormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from ..btf import Btf
    from .linker import LinkedProgram
    from .spec import ObjectSpec

__all__ = ["Missing", "explain", "missing", "source_line"]

_LINE = struct.Struct("<IIII")
# The verifier's words for a call of a helper that does not exist, with the instruction before.
_REFUSED = re.compile(r"^(\d+): \(85\) call unknown#(\d+)", re.M)


@dataclass(frozen=True, slots=True)
class Missing:
    """Describe one thing that the kernel lacks.

    :param insn: index of the instruction, in 8-byte slots
    :param what: ``struct inode.i_atime.tv_sec``, ``kfunc 'bpf_x'``, ``map 'm'``
    :param instead: what the kernel has instead, "" if nothing is known
    :param source: ``file.c:12: text of the line``, "" without line information
    """

    insn: int
    what: str
    instead: str = ""
    source: str = ""

    def __str__(self) -> str:
        said = f"{self.what}: {self.instead}" if self.instead else f"{self.what} is not there"
        place = f" at {self.source}" if self.source else ""
        return f"instruction {self.insn}: {said}{place}"


def source_line(line_info: bytes, btf: Btf | None, insn: int) -> str:
    """Find the source line of an instruction: ``file.c:12: text``. "" if it is not known.

    :param line_info: ``struct bpf_line_info`` records, ascending
    :param btf: the object's BTF, which has the texts
    """
    return _Lines(line_info, btf).at(insn)


class _Lines:
    # The source lines of one program. The records are split once.

    def __init__(self, line_info: bytes, btf: Btf | None) -> None:
        self._btf = btf
        self._rows = list(_LINE.iter_unpack(line_info))
        self._starts = [row[0] for row in self._rows]

    def at(self, insn: int) -> str:
        at = bisect_right(self._starts, insn) - 1
        if self._btf is None or at < 0:
            return ""
        _, file, text, place = self._rows[at]
        try:
            name, line = self._btf.string(file), self._btf.string(text).strip()
        except ObjectFormatError:
            return ""
        where = f"{name.rpartition('/')[2]}:{place >> 10}"
        return f"{where}: {line}" if line else where


def missing(
    program: LinkedProgram, spec: ObjectSpec, only: Collection[int] | None = None
) -> list[Missing]:
    """List what a program lacks on the kernel it was linked for, by instruction.

    :param only: instructions to look at, None for all
    """
    source = _Lines(program.line_info, spec.btf).at
    found = [
        Missing(one.offset // 8, one.access, one.reason, source(one.offset // 8))
        for one in program.core
        if one.poisoned and (only is None or one.offset // 8 in only)
    ]
    if program.unresolved:
        for insn in range(len(program.insns) // 8):
            code, _, _, number = struct.unpack_from("<BBhi", program.insns, 8 * insn)
            what = program.unresolved.get(number) if code == 0x85 else None
            again = found and found[-1].insn == insn - 1 and found[-1].what == what
            if what is not None and not again:  # a 64-bit load has two such slots
                found.append(Missing(insn, what, "", source(insn)))
    return sorted(found, key=lambda one: one.insn)


def explain(program: LinkedProgram, spec: ObjectSpec, log: str) -> Missing | None:
    """Find the missing thing that the verifier refused. None if it refused something else.

    :param log: the verifier's log
    """
    refused = _REFUSED.findall(log)
    if not refused:
        return None
    insn, number = map(int, refused[-1])
    if number != POISON_IMM and number not in program.unresolved:
        return None
    near = (insn, insn - 1)
    known = [one for one in missing(program, spec, near) if one.insn in near]
    return known[-1] if known else None
