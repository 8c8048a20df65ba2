"""What every mechanism says of itself, and what it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ...dataclass import dataclass
from ...features import Feature
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

__all__ = ["Doors", "Job", "Mechanism", "Refusal", "Request"]

_SESSION_COOKIE = "bpf_session_cookie"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a mechanism cannot carry a program on a function; see `Skipped` for the fields."""

    reason: Reason
    detail: str = ""
    hint: str = ""

    def of(self, target: Target) -> Skipped:
        """The function as skipped. One of several of its name is told by its address."""
        address = 0 if target.unique else target.address
        return Skipped(target.name, target.module, self.reason, self.detail, self.hint, address)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be planned, apart from the functions.

    :param lowering: the one that was asked for, None for the best of each mechanism
    :param unguardable: why several loaded copies of the program cannot share a recursion guard
        that they need, "" if they can or need none
    """

    template: Template
    facts: PlanFacts
    lowering: Lowering | None = None
    unguardable: str = ""

    @property
    def exits(self) -> bool:
        """A program runs at the exit of functions."""
        return self.template.hook is not Hook.ENTRY


@dataclass(frozen=True, slots=True)
class Job:
    """A link to make.

    :param program: the loaded program
    :param side: where it runs
    :param targets: one function, or many where the mechanism's links are shared
    :param cookies: ``__u64`` of each, None if nobody asked for cookies
    """

    program: HasFd
    side: Side
    targets: Sequence[Target]
    cookies: Sequence[int] | None = None


class Doors(Protocol):
    """What makes links: the package `pybpf.links`."""

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

    # Keyword arguments only; a door may take more than is used here.
    attach_kprobe_multi: Any


class Mechanism(ABC):
    """One way to run a program on functions. There is one object of each class.

    :cvar value: its name, as people and JSON have it
    :cvar rank: its place among the groups of a plan
    :cvar feature: what the kernel must have
    :cvar session: what it must have to run both sides of a session as one program; None if this
        mechanism always makes a session of two
    :cvar prog_type: ``enum bpf_prog_type`` of its programs
    :cvar needs_btf: functions are named by BTF id: a program belongs to one BTF object, and runs
        from the function's trampoline
    :cvar shared: one link holds many functions, all or nothing
    :cvar per_function: a program is loaded for each function
    :cvar files: open files that the link of one function holds (of many, where shared)
    :cvar lowerings: those that a caller may ask for
    :cvar can_sleep: its programs may sleep
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
    shares_flag = False

    def __repr__(self) -> str:
        return f"<mechanism {self.value}>"

    # -- planning

    def unsupported(self, request: Request) -> Refusal | None:
        """Why it cannot carry the program on any function of this kernel."""
        if request.template.sleepable and not self.can_sleep:
            return Refusal(Reason.NOT_SLEEPABLE, f"{self.value} programs cannot sleep")
        if not request.facts.features.supports(self.feature):
            since = f" ({self.feature.since} and newer)" if self.feature.since else ""
            return Refusal(Reason.NO_MECHANISM, f"it has no {self.feature.value}{since}")
        if request.lowering is not None and request.lowering not in self.lowerings:
            detail = f"{self.value} has no {request.lowering.value} lowering"
            return Refusal(Reason.NO_MECHANISM, detail)
        return None

    def stray(self, template: Template) -> str:
        """Why a session that the kernel makes would not do for this program, "" if it would."""
        return ""

    def sides(self, request: Request) -> tuple[tuple[Side, Template], ...] | Refusal:
        """The programs it loads for the program's hook."""
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
                f"{self.value} makes a session of two programs here{stray}",
                "session cookies need kprobe.session (6.10) or fsession (7.0)",
            )
        return ((Side.ENTRY, template.half(False)), (Side.EXIT, template.half(True)))

    def answer(self, request: Request, target: Target) -> tuple[Part, ...] | Refusal:
        """The parts of the function's group, or why this mechanism cannot carry the program."""
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
        """Why it cannot carry the program on this function, None if it can.

        Functions with equal models are asked about once, so the answer may depend on the model
        and on these only: module, unique, kprobe, occupied, may_sleep, and whether address and
        BTF id are known.
        """

    def side_problem(
        self, request: Request, side: Side, template: Template, target: Target
    ) -> Refusal | None:
        """Why it cannot at one side."""
        return None

    @abstractmethod
    def variant(self, request: Request, side: Side, template: Template, target: Target) -> Variant:
        """The program of one side, rewritten for this function."""

    def price(self, costs: CostModel) -> Price:
        """What it costs on a kind of kernel."""
        return costs.prices[self.value]

    # -- attaching

    @abstractmethod
    def attach_type(self, side: Side) -> int:
        """``expected_attach_type`` of a program at this side."""

    def variants(self, template: Template, part: Part, target: Target) -> Iterator[Variant]:
        """What to load for a function, and what to load instead if the verifier refuses it."""
        yield part.variant

    @abstractmethod
    def link(self, doors: Doors, job: Job) -> Link:
        """Attach.

        :raises BpfError: the kernel refuses
        """

    def places(self, link: Link) -> Mapping[int, int]:
        """Where a link of this mechanism is, as far as the kernel tells: BTF id -> address."""
        return {}


def returns(side: Side, target: Target) -> bool:
    """There is a return value to read. The entry half of a session has none yet."""
    return side is not Side.ENTRY and (target.model is None or not target.model.is_void)


def slots(target: Target) -> int:
    """Argument slots of a function, 0 if BTF does not tell."""
    return target.model.slots if target.model is not None else 0
