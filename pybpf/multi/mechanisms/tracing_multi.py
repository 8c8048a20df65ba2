"""tracing_multi: one program and one link for the trampolines of many functions (7.2)."""

from __future__ import annotations

from collections.abc import Mapping

from ..._uapi.enums import AttachType
from ...errors import BpfError
from ...features import Feature
from ...wording import many
from ..columns import Targets
from ..plan import Side
from ..variant import Lowering
from .btf import ByTrampoline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...links import Link
    from .base import Doors, Job

__all__ = ["TRACING_MULTI"]

_ATTACH_TYPES = {
    Side.ENTRY: AttachType.BPF_TRACE_FENTRY_MULTI,
    Side.EXIT: AttachType.BPF_TRACE_FEXIT_MULTI,
    Side.SESSION: AttachType.BPF_TRACE_FSESSION_MULTI,
}


class _TracingMulti(ByTrampoline):
    value = "tracing_multi"
    rank = 0
    feature = Feature.TRACING_MULTI
    session = Feature.TRACING_MULTI
    shared = True
    lowerings = frozenset({Lowering.FRAME})

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

    def places(self, link: Link) -> Mapping[int, int]:
        """Return what the kernel found. It looks up BTF ids itself, and reports them from 7.3
        on."""
        try:
            info = link.info()
        except BpfError:
            return {}  # not reported does not mean wrong
        return dict(zip(info.ids, info.addrs, strict=False))


TRACING_MULTI = _TracingMulti()
