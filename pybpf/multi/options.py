"""The choices of a caller about planning and attaching, checked once, when they are made."""

from __future__ import annotations

from collections.abc import Callable

from ..dataclass import dataclass
from ..errors import PlanError
from .mechanisms import MECHANISMS, Mechanism
from .variant import Lowering

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cookies import Cookies
    from .plan import Plan

__all__ = ["AUTO", "AttachOptions", "Progress"]

#: Called with (done, total). While attaching, it counts programs on functions, so a session made
#: of a pair counts twice. While detaching, it counts functions of links.
Progress = Callable[[int, int], None]

# The lowerings that a caller may request.
_LOWERINGS = (Lowering.DIRECT, Lowering.FRAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions:
    """Choose how to plan and attach a multi program.

    :param mechanism: "auto", or the mechanism to use
    :param prefer: "overhead": the lowest cost per call first, whatever it costs to attach
    :param lowering: "auto"; or "direct" or "frame" for programs that read context slots. Only
        mechanisms that have it are then used
    :param cookies: values for bpf_get_attach_cookie, see `pybpf.multi.cookies`
    :param progress: called with (programs attached, programs in total)
    :param planned: called with the plan before anything is attached
    :raises PlanError: if the mechanism, the preference or the lowering is unknown
    """

    mechanism: str | Mechanism = "auto"
    prefer: str | None = None
    lowering: str | Lowering = "auto"
    cookies: Cookies | None = None
    progress: Progress | None = None
    planned: Callable[[Plan], None] | None = None

    def __post_init__(self) -> None:
        if self.prefer not in (None, "overhead"):
            raise PlanError(f"prefer={self.prefer!r}: must be 'overhead'")
        _ = self.mechanisms, self.shape

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """Return the mechanisms to choose from: all for "auto"."""
        if self.mechanism == "auto":
            return MECHANISMS
        if isinstance(self.mechanism, Mechanism):
            return (self.mechanism,)
        for one in MECHANISMS:
            if one.value == self.mechanism:
                return (one,)
        names = ", ".join(one.value for one in MECHANISMS)
        raise PlanError(f"mechanism {self.mechanism!r}: must be one of auto, {names}")

    @property
    def shape(self) -> Lowering | None:
        """Return the lowering to use, None for "auto"."""
        if self.lowering == "auto":
            return None
        for form in _LOWERINGS:
            if self.lowering in (form, form.value):
                return form
        names = ", ".join(form.value for form in _LOWERINGS)
        raise PlanError(f"lowering {self.lowering!r}: must be one of auto, {names}")


#: Leave everything to the planner.
AUTO = AttachOptions()
