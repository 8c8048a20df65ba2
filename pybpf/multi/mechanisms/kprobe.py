"""kprobe: one program for all functions, with a perf event and a link for each function."""

from __future__ import annotations

from ...features import Feature
from ..plan import Side
from ..reasons import Reason
from .base import Refusal
from .regs import ByRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...links import Link
    from ..target import Target
    from .base import Doors, Job, Request

__all__ = ["KPROBE"]


class _Kprobe(ByRegisters):
    value = "kprobe"
    rank = 3
    feature = Feature.KPROBE
    files = 2

    def problem(self, request: Request, target: Target) -> Refusal | None:
        if not target.kprobe:
            return Refusal(Reason.NOT_TRACEABLE, "on the kprobe blacklist")
        return super().problem(request, target)

    def attach_type(self, side: Side) -> int:
        return 0

    def link(self, doors: Doors, job: Job) -> Link:
        (target,) = job.targets
        return doors.attach_kprobe(
            job.program,
            "" if target.address else target.name,
            address=target.address,
            retprobe=job.side is Side.EXIT,
            cookie=job.cookies[0] if job.cookies else 0,
        )


KPROBE = _Kprobe()
