"""How the kernel is asked to run a program on a function: each mechanism is one object.

The planner and the engine know mechanisms only by what `base.Mechanism` says of them, so
adding one is one object, listed in `MECHANISMS`, and its prices (`pybpf.multi.cost`). All
of it is pure: what makes links is handed in by the engine.
"""

from __future__ import annotations

from .base import Doors, Job, Mechanism, Refusal, Request
from .kprobe import KPROBE
from .kprobe_multi import KPROBE_MULTI
from .tracing_multi import TRACING_MULTI
from .trampoline import TRAMPOLINE

__all__ = [
    "KPROBE",
    "KPROBE_MULTI",
    "MECHANISMS",
    "TRACING_MULTI",
    "TRAMPOLINE",
    "Doors",
    "Job",
    "Mechanism",
    "Refusal",
    "Request",
]

#: All that are known, in the order in which a plan lists their groups.
MECHANISMS: tuple[Mechanism, ...] = (TRACING_MULTI, TRAMPOLINE, KPROBE_MULTI, KPROBE)
