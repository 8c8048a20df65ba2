"""trampoline: a clone of the program and a link for each function (fentry, fexit, fsession)."""

from __future__ import annotations

from collections.abc import Iterator

from ..._uapi.enums import AttachType
from ...features import Feature
from .. import rewrite
from ..plan import Side
from ..traits import Hook
from ..variant import Lowering
from .base import returns, slots
from .btf import ByTrampoline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...links import Link
    from ..plan import Part
    from ..target import Target
    from ..template import Template
    from ..variant import Variant
    from .base import Doors, Job, Request

__all__ = ["TRAMPOLINE"]

_ATTACH_TYPES = {
    Side.ENTRY: AttachType.BPF_TRACE_FENTRY,
    Side.EXIT: AttachType.BPF_TRACE_FEXIT,
    Side.SESSION: AttachType.BPF_TRACE_FSESSION,
}


class _Trampoline(ByTrampoline):
    value = "trampoline"
    rank = 1
    feature = Feature.FENTRY
    session = Feature.FSESSION
    per_function = True
    lowerings = frozenset({Lowering.DIRECT, Lowering.FRAME})

    def variant(self, request: Request, side: Side, template: Template, target: Target) -> Variant:
        if not template.traits.accesses or request.lowering is Lowering.FRAME:
            return super().variant(request, side, template, target)
        return self._direct(template, side, target)

    @staticmethod
    def _direct(
        template: Template, side: Side, target: Target, *, scalars: bool = False
    ) -> Variant:
        count, shown = slots(target), returns(side, target)
        return template.edited(
            Lowering.DIRECT,
            lambda: rewrite.direct(
                template.code, template.traits, slots=count, returns=shown, scalars=scalars
            ),
            count,
            shown,
            scalars=scalars,
        )

    def attach_type(self, side: Side) -> int:
        return _ATTACH_TYPES[side]

    def variants(self, template: Template, part: Part, target: Target) -> Iterator[Variant]:
        yield part.variant
        if part.variant.lowering is not Lowering.DIRECT or target.model is None:
            return
        if template.hook is Hook.SESSION and part.side is not Side.SESSION:
            template = template.half(part.side is Side.EXIT)
        whole = template.guarded if part.variant.guarded else lambda variant: variant
        # The program calculates with an argument that is a pointer in this function.
        yield whole(self._direct(template, part.side, target, scalars=True))
        # 6.x does not allow loads of an argument that points to a pointer, an enum or a function
        # ("is not a struct"), but the helper returns it.
        yield whole(self.frame(template, shown=returns(part.side, target)))

    def link(self, doors: Doors, job: Job) -> Link:
        (target,) = job.targets
        return doors.attach_tracing(
            job.program,
            _ATTACH_TYPES[job.side],
            cookie=job.cookies[0] if job.cookies else 0,
            what=f"{job.side.value} of {target.label}",
        )


TRAMPOLINE = _Trampoline()
