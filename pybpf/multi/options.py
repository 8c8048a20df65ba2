"""The choices of a caller about planning and attaching, checked once, when they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..dataclass import dataclass
from ..errors import PlanError
from .mechanisms import MECHANISMS, Mechanism
from .variant import Lowering

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cookies import Cookies
    from .plan import Plan

__all__ = ["AUTO", "HORIZON", "AttachOptions", "Mechanisms", "Progress"]

#: Called with (done, total). While attaching, it counts programs on functions, so a session made
#: of a pair counts twice. While detaching, it counts functions of links.
Progress = Callable[[int, int], None]

#: "auto", one mechanism, or several. Each function gets the first of several that can run on it.
Mechanisms = str | Mechanism | Sequence[str | Mechanism]
#: Default for the seconds that a program stays attached, for plans with rates.
HORIZON = 3600.0

# The lowerings that a caller may request.
_LOWERINGS = (Lowering.DIRECT, Lowering.FRAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions:
    """Choose how to plan and attach a multi program.

    :param mechanism: "auto", the mechanism to use, or a sequence in order of preference: each
        function gets the first that can run the program on it
    :param prefer: "overhead": the lowest cost per call first, whatever it costs to attach
    :param lowering: "auto"; or "direct" or "frame" for programs that read context slots. Only
        mechanisms that have it are then used
    :param cookies: values for bpf_get_attach_cookie, see `pybpf.multi.cookies`
    :param progress: called with (programs attached, programs in total)
    :param planned: called with the plan before anything is attached
    :param unknown: "registers": if a function's prototype is not known (no BTF, or one name for
        several), the program sees the argument registers and the return register as they are,
        by a kprobe mechanism. Without it, such a function is skipped if the program reads these
    :param rates: calls per second by name, or by ``name [module]``. Functions that are called
        often are then planned for few instructions per call, see `pybpf.multi.rates`
    :param horizon: with rates: seconds that the program will stay attached
    :raises PlanError: if the mechanism, the preference, the lowering or `unknown` is not known
    """

    mechanism: Mechanisms = "auto"
    prefer: str | None = None
    lowering: str | Lowering = "auto"
    cookies: Cookies | None = None
    progress: Progress | None = None
    planned: Callable[[Plan], None] | None = None
    unknown: str | None = None
    rates: Mapping[str, float] | None = None
    horizon: float = HORIZON

    def __post_init__(self) -> None:
        if self.unknown not in (None, "registers"):
            raise PlanError(f"unknown={self.unknown!r}: must be 'registers'")
        if self.prefer not in (None, "overhead"):
            raise PlanError(f"prefer={self.prefer!r}: must be 'overhead'")
        if self.rates is not None and self.prefer is not None:
            raise PlanError("rates say what to prefer; leave prefer out")
        _ = self.mechanisms, self.shape

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """Return the mechanisms to choose from: all for "auto"."""
        if self.mechanism == "auto":
            return MECHANISMS
        if not self.ordered:
            assert isinstance(self.mechanism, (str, Mechanism))
            return (_named(self.mechanism),)
        assert not isinstance(self.mechanism, (str, Mechanism))
        listed = tuple(_named(one) for one in self.mechanism)
        if not listed:
            raise PlanError("mechanism: the list is empty")
        return tuple(dict.fromkeys(listed))

    @property
    def ordered(self) -> bool:
        """Return True if the caller gave an order of preference, so that costs do not decide."""
        return not isinstance(self.mechanism, (str, Mechanism))

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


def _named(asked: str | Mechanism) -> Mechanism:
    for one in MECHANISMS:
        if asked in (one, one.value):
            return one
    if isinstance(asked, Mechanism):
        return asked  # the caller's own mechanism
    names = ", ".join(one.value for one in MECHANISMS)
    raise PlanError(f"mechanism {asked!r}: must be one of auto, {names}")


#: Leave everything to the planner.
AUTO = AttachOptions()
