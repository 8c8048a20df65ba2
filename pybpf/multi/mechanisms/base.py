"""The interface of a mechanism, and the questions it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ...dataclass import dataclass
from ...features import Feature, Support, shortfall
from ..plan import Part, Side
from ..reasons import Reason, Skipped
from ..traits import Hook
from ..variant import Lowering, Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...links import HasFd, Link
    from ..cost import CostModel, Price
    from ..plan import PlanFacts
    from ..target import Target
    from ..template import Template

__all__ = ["Doors", "Job", "Mechanism", "Refusal", "Request", "lacking"]

_SESSION_COOKIE = "bpf_session_cookie"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Say why a mechanism cannot run a program on a function. See `Skipped` for the fields."""

    reason: Reason
    detail: str = ""
    hint: str = ""

    def of(self, target: Target) -> Skipped:
        """Return the function as skipped. If others share its name, the address tells it apart."""
        address = 0 if target.unique else target.address
        return Skipped(target.name, target.module, self.reason, self.detail, self.hint, address)


@dataclass(frozen=True, slots=True)
class Request:
    """Describe what to plan, apart from the functions.

    :param lowering: the requested lowering, None for the best of each mechanism
    :param unguardable: why several loaded copies of the program cannot share the recursion guard
        that they need, "" if they can or need none
    :param unknown: if the prototype is not known, pass registers as they are
    """

    template: Template
    facts: PlanFacts
    lowering: Lowering | None = None
    unguardable: str = ""
    unknown: bool = False

    @property
    def exits(self) -> bool:
        """Return True if a program runs at the exit of functions."""
        return self.template.hook is not Hook.ENTRY


@dataclass(frozen=True, slots=True)
class Job:
    """Describe a link to make.

    :param program: the loaded program
    :param side: where it runs
    :param targets: one function, or many if the mechanism's links are shared
    :param cookies: ``__u64`` of each, None if no cookies were requested
    """

    program: HasFd
    side: Side
    targets: Sequence[Target]
    cookies: Sequence[int] | None = None


class Doors(Protocol):
    """Describe what makes links: the package `pybpf.links`."""

    def attach_tracing(
        self, program: HasFd, attach_type: int, *, cookie: int, what: str
    ) -> Link: ...

    def attach_tracing_multi(
        self,
        program: HasFd,
        attach_type: int,
        ids: Sequence[int],
        *,
        cookies: Sequence[int] | None,
        what: str,
    ) -> Link: ...

    def attach_kprobe(
        self, program: HasFd, function: str, *, address: int, retprobe: bool, cookie: int
    ) -> Link: ...

    # Only keyword arguments. The real function may accept more than is used here.
    attach_kprobe_multi: Any


class Mechanism(ABC):
    """Describe one way to run a program on functions. There is one object of each class.

    :cvar value: its name, for people and JSON
    :cvar rank: its place among the groups of a plan
    :cvar feature: what the kernel must have
    :cvar session: what the kernel must have to run both sides of a session as one program; None
        if this mechanism always makes a session of two programs
    :cvar prog_type: ``enum bpf_prog_type`` of its programs
    :cvar needs_btf: functions are named by BTF id: a program belongs to one BTF object, and runs
        from the function's trampoline
    :cvar shared: one link holds many functions, all or nothing
    :cvar per_function: a program is loaded for each function
    :cvar files: open files that the link of one function holds (of many, if shared)
    :cvar lowerings: those that a caller may ask for
    :cvar can_sleep: its programs may sleep
    :cvar checks_place: the kernel refuses its link on any place that ftrace does not list
    :cvar shares_flag: the kernel has one flag against recursion for all programs of this kind
    """

    value: str
    rank: int
    feature: Feature
    session: Feature | None = None
    prog_type: int
    needs_btf = False
    shared = False
    per_function = False
    files = 1
    lowerings: frozenset[Lowering] = frozenset()
    can_sleep = False
    checks_place = False
    shares_flag = False

    def __repr__(self) -> str:
        return f"<mechanism {self.value}>"

    # -- planning

    def unsupported(self, request: Request) -> Refusal | None:
        """Return why it cannot run the program on any function of this kernel."""
        if request.template.sleepable and not self.can_sleep:
            return Refusal(Reason.NOT_SLEEPABLE, f"{self.value} programs cannot sleep")
        if not request.facts.features.supports(self.feature):
            return lacking(request.facts, self.feature)
        if request.lowering is not None and request.lowering not in self.lowerings:
            detail = f"{self.value} has no {request.lowering.value} lowering"
            return Refusal(Reason.NO_MECHANISM, detail)
        return None

    def stray(self, template: Template) -> str:
        """Return why a session made by the kernel does not suit this program, "" if it does."""
        return ""

    def sides(self, request: Request) -> tuple[tuple[Side, Template], ...] | Refusal:
        """Return the programs it loads for the program's hook."""
        template = request.template
        if template.hook is Hook.ENTRY:
            return ((Side.ENTRY, template),)
        if template.hook is Hook.EXIT:
            return ((Side.EXIT, template),)
        native = self.session is not None and request.facts.features.supports(self.session)
        stray = self.stray(template)
        if native and not stray:
            return ((Side.SESSION, template),)
        if _SESSION_COOKIE in template.traits.kfuncs:
            return Refusal(
                Reason.NO_SESSION_COOKIE,
                f"{self.value} makes a session from two programs here{stray}",
                "session cookies need kprobe.session (6.10) or fsession (7.0)",
            )
        return ((Side.ENTRY, template.half(False)), (Side.EXIT, template.half(True)))

    def answer(self, request: Request, target: Target) -> tuple[Part, ...] | Refusal:
        """Return the parts of the function's group, or why this mechanism cannot run the
        program."""
        sides = self.sides(request)
        if isinstance(sides, Refusal):
            return sides
        problem = self.problem(request, target)
        if problem is not None:
            return problem
        parts = []
        for side, template in sides:
            problem = self.side_problem(request, side, template, target)
            if problem is not None:
                return problem
            parts.append(Part(side, self.variant(request, side, template, target)))
        return tuple(parts)

    @abstractmethod
    def problem(self, request: Request, target: Target) -> Refusal | None:
        """Return why it cannot run the program on this function, None if it can.

        Functions with equal models are asked about only once. So the answer may depend on the model
        and only on these: module, unique, kprobe, occupied, may_sleep, and whether address and
        BTF id are known.
        """

    def side_problem(
        self, request: Request, side: Side, template: Template, target: Target
    ) -> Refusal | None:
        """Return why it cannot run the program at one side, None if it can."""
        return None

    @abstractmethod
    def variant(self, request: Request, side: Side, template: Template, target: Target) -> Variant:
        """Return the program of one side, rewritten for this function."""

    def price(self, costs: CostModel) -> Price:
        """Return what it costs on a kind of kernel."""
        return costs.prices[self.value]

    # -- attaching

    @abstractmethod
    def attach_type(self, side: Side) -> int:
        """Return the ``expected_attach_type`` of a program at this side."""

    def variants(self, template: Template, part: Part, target: Target) -> Iterator[Variant]:
        """Yield what to load for a function, then what to load instead if the verifier refuses
        it."""
        yield part.variant

    @abstractmethod
    def link(self, doors: Doors, job: Job) -> Link:
        """Make the link.

        :raises BpfError: the kernel refuses
        """

    def strays(self, link: Link, targets: Sequence[Target]) -> Mapping[int, int]:
        """Return what a link is on by mistake, as far as the kernel tells.

        :param targets: the functions the link was made for
        :returns: position of a target -> address of the function that was taken for it
        """
        return {}


def returns(side: Side, target: Target) -> bool:
    """Return True if there is a return value to read. The entry half of a session has none yet."""
    return side is not Side.ENTRY and (target.model is None or not target.model.is_void)


def slots(target: Target) -> int:
    """Return the argument slots of a function, 0 if BTF does not tell."""
    return target.model.slots if target.model is not None else 0


def lacking(facts: PlanFacts, feature: Feature) -> Refusal:
    """Say why a feature cannot be used: a policy or missing rights refused it, or it is not there.

    :param feature: one that the kernel was not found to support
    """
    answer = facts.features.get(feature)
    if answer is not None and answer.support is Support.DENIED:
        return Refusal(Reason.NOT_PERMITTED, f"{feature.value}: {answer.why}")
    said = shortfall(feature, answer, facts.release)
    return Refusal(Reason.NO_MECHANISM, f"the kernel has no {feature.value} ({said})")
