"""The ways to ask the kernel to run a program on a function. Each mechanism is one object.

The planner and the engine know mechanisms only through `base.Mechanism`. To
add one, write its object, list it in `MECHANISMS`, and add its prices (`pybpf.multi.cost`). All
of it is pure: the engine passes in what makes links.
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

#: All known mechanisms, in the order in which a plan lists their groups.
MECHANISMS: tuple[Mechanism, ...] = (TRACING_MULTI, TRAMPOLINE, KPROBE_MULTI, KPROBE)
