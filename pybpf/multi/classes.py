"""List what a plan attaches, in the form that `pybpf.trampoline.classes` counts."""

from __future__ import annotations

from ..trampoline.classes import Attachment, Kind
from .plan import Plan, Side

__all__ = ["planned"]

_OF_SIDE = {Side.ENTRY: Kind.FENTRY, Side.EXIT: Kind.FEXIT, Side.SESSION: Kind.FSESSION}


def planned(plan: Plan, program: str = "") -> list[Attachment]:
    """List what a plan attaches by trampoline, in the engine's order: exit before entry.

    kprobe groups have no trampolines and add nothing.

    :param program: a name instead of the plan's, for two programs that share one
    """
    out: list[Attachment] = []
    for group in plan.groups:
        if group.mechanism.needs_btf:
            for part in reversed(group.parts):
                name = program or plan.program
                out.append(Attachment(name, _OF_SIDE[part.side], tuple(group.targets)))
    return out
