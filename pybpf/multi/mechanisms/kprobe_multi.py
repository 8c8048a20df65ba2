"""kprobe_multi: one program and one link for many functions, by address (needs FPROBE)."""

from __future__ import annotations

from array import array

from ..._uapi.enums import AttachType
from ...features import Feature
from ..columns import Targets
from ..plan import Side
from ..reasons import Reason
from .base import Refusal
from .regs import ByRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...links import Link
    from ..target import Target
    from ..template import Template
    from .base import Doors, Job, Request

__all__ = ["KPROBE_MULTI"]


class _KprobeMulti(ByRegisters):
    value = "kprobe_multi"
    rank = 2
    feature = Feature.KPROBE_MULTI
    session = Feature.KPROBE_SESSION
    shared = True
    checks_place = True

    def stray(self, template: Template) -> str:
        # At entry its return value is whatever is in the register. All other sessions read 0.
        return ", as it reads the return value at entry, too" if template.reads_ret_at_entry else ""

    def problem(self, request: Request, target: Target) -> Refusal | None:
        if not target.address:
            return Refusal(Reason.NO_MECHANISM, "its address is not known")
        return super().problem(request, target)

    def attach_type(self, side: Side) -> int:
        if side is Side.SESSION:
            return AttachType.BPF_TRACE_KPROBE_SESSION
        return AttachType.BPF_TRACE_KPROBE_MULTI

    def link(self, doors: Doors, job: Job) -> Link:
        # The order does not matter: the kernel sorts the addresses together with the cookies.
        made: Link = doors.attach_kprobe_multi(
            job.program,
            addrs=array("Q", Targets.of(job.targets).addresses),
            cookies=job.cookies,
            retprobe=job.side is Side.EXIT,
            session=job.side is Side.SESSION,
        )
        return made


KPROBE_MULTI = _KprobeMulti()
