"""What a plan attaches, as `pybpf.trampoline.classes` counts it."""

from __future__ import annotations

from ..trampoline.classes import Attachment, Kind
from .plan import Plan, Side

__all__ = ["planned"]

_OF_SIDE = {Side.ENTRY: Kind.FENTRY, Side.EXIT: Kind.FEXIT, Side.SESSION: Kind.FSESSION}


def planned(plan: Plan, program: str = "") -> list[Attachment]:
    """What a plan attaches by trampoline, in the order the engine does it: exit before entry.

    kprobe groups have no trampolines and give nothing.

    :param program: a name other than the plan's, for two programs that share one
    """
    out: list[Attachment] = []
    for group in plan.groups:
        if group.mechanism.needs_btf:
            for part in reversed(group.parts):
                name = program or plan.program
                out.append(Attachment(name, _OF_SIDE[part.side], tuple(group.targets)))
    return out
