"""The common part of kprobe_multi and kprobe: functions by address, arguments in registers."""

from __future__ import annotations

from ..._uapi.enums import ProgType
from ...features import Feature
from ...trampoline.model import REGISTER_SLOTS
from ...wording import many
from .. import rewrite
from ..plan import Side
from ..reasons import Reason
from ..traits import CtxHelper
from ..variant import Lowering
from .base import Mechanism, Refusal, Request, lacking, returns, slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...trampoline.model import Model
    from ..target import Target
    from ..template import Template
    from ..traits import Traits
    from ..variant import Variant

__all__ = ["ByRegisters"]


_RAW = 'unknown="registers" passes the registers as they are'


class ByRegisters(Mechanism):
    """Run a program from a kprobe, with ``struct pt_regs``."""

    prog_type = ProgType.BPF_PROG_TYPE_KPROBE
    shares_flag = True

    def problem(self, request: Request, target: Target) -> Refusal | None:
        """Check what no kprobe can do."""
        if not target.unique and not target.address:
            return Refusal(Reason.AMBIGUOUS, "", "give the address")
        helpers = request.template.traits.helpers
        cookies = request.facts.features.supports(Feature.ATTACH_COOKIE)
        if CtxHelper.get_attach_cookie in helpers and not cookies:
            return lacking(request.facts, Feature.ATTACH_COOKIE)
        return None

    def side_problem(
        self, request: Request, side: Side, template: Template, target: Target
    ) -> Refusal | None:
        """Check for values that are not in registers."""
        model, traits = target.prototype, template.traits
        counts = traits.needs_args or CtxHelper.get_func_arg_cnt in traits.helpers
        if model is None:
            # Neither its number of slots nor whether it is void is known.
            if (counts or traits.needs_ret) and not request.unknown:
                reason = Reason.NO_BTF if target.unique else Reason.AMBIGUOUS
                return Refusal(reason, "the program reads arguments or the return value", _RAW)
            return None
        if model.returns_in_memory and traits.needs_args:
            # The first argument register has the address for it, and every argument is in the next.
            return Refusal(Reason.RETURNS_STRUCT, f"returns {many(model.ret_size, 'byte')}")
        if _reads_own_args(traits, model) and (
            side is Side.EXIT
            or (side is Side.SESSION and _reads_own_args(request.template.half(True).traits, model))
        ):
            hint = "use fentry/fexit clones, which keep them"
            return Refusal(Reason.NO_EXIT_ARGS, "kprobes do not keep argument registers", hint)
        if model.structs and traits.needs_args:
            return Refusal(Reason.TOO_MANY_SLOTS, "a struct passed by value may be on the stack")
        top = traits.max_arg
        if model.slots > REGISTER_SLOTS and (top is None or top >= REGISTER_SLOTS):
            return Refusal(Reason.TOO_MANY_SLOTS, "arguments on the stack are not in pt_regs")
        return None

    def variant(self, request: Request, side: Side, template: Template, target: Target) -> Variant:
        """Turn slots and helpers into loads from registers."""
        count, shown = slots(target), returns(side, target)
        if request.unknown and target.prototype is None:
            count, shown = REGISTER_SLOTS, side is not Side.ENTRY
        elif request.unknown and target.model and target.model.obstacle is Reason.VARIADIC:
            count = REGISTER_SLOTS
        return template.edited(
            Lowering.REGS,
            lambda: rewrite.regs(template.code, template.traits, slots=count, returns=shown),
            count,
            shown,
        )


def _reads_own_args(traits: Traits, model: Model) -> bool:
    if any(slot < model.slots for slot in traits.slots):
        return True
    return any(
        call.helper == CtxHelper.get_func_arg and (call.arg is None or call.arg < model.slots)
        for call in traits.calls
    )
