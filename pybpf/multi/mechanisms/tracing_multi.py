"""tracing_multi: one program and one link for the trampolines of many functions (7.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import sub

from ..._uapi.enums import AttachType
from ...errors import BpfError
from ...features import Feature
from ...kernel.functions import SITE_OFFSETS
from ...wording import many
from ..columns import Targets
from ..plan import Side
from ..reasons import Reason
from ..variant import Lowering
from .base import Refusal
from .btf import ByTrampoline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...links import Link
    from ..target import Target
    from .base import Doors, Job, Request

__all__ = ["TRACING_MULTI"]

_ATTACH_TYPES = {
    Side.ENTRY: AttachType.BPF_TRACE_FENTRY_MULTI,
    Side.EXIT: AttachType.BPF_TRACE_FEXIT_MULTI,
    Side.SESSION: AttachType.BPF_TRACE_FSESSION_MULTI,
}


_ESCAPES = (
    "by tracing_multi the context is on the program's stack, and one of its functions returns it "
    "or stores it on its caller's stack"
)


class _TracingMulti(ByTrampoline):
    value = "tracing_multi"
    rank = 0
    feature = Feature.TRACING_MULTI
    session = Feature.TRACING_MULTI
    shared = True
    lowerings = frozenset({Lowering.FRAME})

    def unsupported(self, request: Request) -> Refusal | None:
        refusal = super().unsupported(request)
        traits = request.template.traits
        if refusal is None and traits.escapes and traits.accesses:
            # The verifier: "cannot return stack pointer to the caller".
            return Refusal(Reason.NO_MECHANISM, _ESCAPES)
        return refusal

    def attach_type(self, side: Side) -> int:
        return _ATTACH_TYPES[side]

    def link(self, doors: Doors, job: Job) -> Link:
        return doors.attach_tracing_multi(
            job.program,
            _ATTACH_TYPES[job.side],
            Targets.of(job.targets).btf_ids,
            cookies=job.cookies,
            what=f"tracing_multi {job.side.value} of {many(len(job.targets), 'function')}",
        )

    def strays(self, link: Link, targets: Sequence[Target]) -> Mapping[int, int]:
        # The kernel looks up BTF ids itself. From 7.3 on it reports ids and what it found.
        try:
            info = link.info()
        except BpfError:
            return {}  # not reported does not mean wrong
        where = dict(zip(info.ids, info.addrs, strict=False))
        rows = Targets.of(targets)
        ids, addresses = rows.btf_ids, rows.addresses
        # Nearly always all are right, which takes few steps to see.
        beyond = list(map(sub, map(where.get, ids, addresses), addresses))
        if SITE_OFFSETS.issuperset(beyond):
            return {}
        wrong = [i for i, far in enumerate(beyond) if far not in SITE_OFFSETS]
        # An address of 0 is hidden from us.
        return {at: where[ids[at]] for at in wrong if addresses[at] and where[ids[at]]}


TRACING_MULTI = _TracingMulti()
