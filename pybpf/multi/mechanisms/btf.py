"""The common part of tracing_multi and trampoline, which name functions by BTF id."""

from __future__ import annotations

from ..._uapi.enums import ProgType
from ...trampoline.model import Return
from ...wording import many
from .. import rewrite
from ..plan import Side
from ..reasons import NO_SLEEP, Reason
from ..traits import Hook
from ..variant import Lowering
from .base import Mechanism, Refusal, Request, returns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..target import Target
    from ..template import Template
    from ..variant import Variant

__all__ = ["ByTrampoline"]

_BY_ADDRESS = (
    "kprobe_multi or kprobe can trace it if the program reads neither arguments nor return value"
)
_FEWER = "attach to one function, or use a mechanism that loads the program once"


class ByTrampoline(Mechanism):
    """Run a program from the function's trampoline."""

    prog_type = ProgType.BPF_PROG_TYPE_TRACING
    needs_btf = True
    can_sleep = True

    def problem(self, request: Request, target: Target) -> Refusal | None:
        """Check the kernel's rules for trampolines, and what a trampoline can hold."""
        model, facts = target.model, request.facts
        if not target.unique:
            return Refusal(Reason.AMBIGUOUS, "the kernel would take the first", _BY_ADDRESS)
        if target.btf_id is None or model is None:
            return Refusal(Reason.NO_BTF, "", _BY_ADDRESS)
        if model.obstacle is not None:
            detail = f"{many(model.params, 'parameter')}, {many(model.slots, 'slot')}"
            return Refusal(model.obstacle, detail)
        if model.slots > facts.max_slots:
            detail = many(model.slots, "slot")
            detail += f", but this kernel's trampolines save {facts.max_slots}"
            return Refusal(Reason.TOO_MANY_SLOTS, detail)
        if request.exits and model.returns is Return.WIDE:
            return Refusal(Reason.RETURNS_STRUCT, f"returns {many(model.ret_size, 'byte')}")
        if request.template.sleepable and target.may_sleep is False:
            return Refusal(Reason.NOT_SLEEPABLE, *NO_SLEEP)
        if self.per_function and request.unguardable:
            return Refusal(Reason.NO_GUARD, request.unguardable, _FEWER)
        need = 2 if request.template.hook is Hook.SESSION else 1
        if target.occupied + need > facts.max_programs:
            detail = f"{target.occupied} of {facts.max_programs}"
            return Refusal(Reason.TRAMPOLINE_FULL, detail)
        return None

    def variant(self, request: Request, side: Side, template: Template, target: Target) -> Variant:
        """Return the program unchanged if it reads no context slot, otherwise with a frame."""
        traits = template.traits
        if not traits.accesses:
            return template.variant(Lowering.NATIVE, lambda: template.code)
        return self.frame(template, shown=returns(side, target) or not traits.reads_ret)

    @staticmethod
    def frame(template: Template, *, shown: bool) -> Variant:
        """Return the program called with its own frame.

        :param shown: the frame has the return value
        """
        return template.variant(
            Lowering.FRAME,
            lambda: rewrite.frame(
                template.code, template.traits, returns=shown, static=template.static
            ),
            shown,
        )
