"""The planner's question and its answer, as values.

`PlanFacts` is what the kernel offers. A `Template` and `Target` values complete the question.
A `Plan` has groups of targets that share variants, the skipped functions, and the predicted cost.
All of it is plain data: comparable, printable, made without a kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from weakref import ref

from ..dataclass import dataclass, field, replace
from ..features import Feature, FeatureSet
from ..jsontext import dumps
from ..wording import many
from .cost import OWN_OPS, SHARED_OPS, Cost, CostModel
from .reasons import OF_THE_KERNEL, Reason, Skipped
from .target import Target
from .traits import Hook
from .variant import Lowering, Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .mechanisms import Mechanism
    from .options import AttachOptions
    from .template import Template

__all__ = [
    "Group",
    "GroupKey",
    "Origin",
    "Part",
    "Plan",
    "PlanFacts",
    "Side",
    "group_key",
    "in_groups",
]

_MAX_PROGRAMS = 38  # BPF_MAX_TRAMP_LINKS on x86-64, 6.x; 36 where fsession exists


class Side(Enum):
    """Say where one loaded program of a group runs."""

    ENTRY = "entry"
    EXIT = "exit"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """Hold what the planner knows about a kernel.

    :param features: answers of the probes
    :param max_programs: programs one trampoline holds (kernel-wide constant)
    :param max_slots: argument slots its trampolines save: 6, or 12 if stack
        arguments are copied
    :param costs: prices of the mechanisms
    :param release: ``uname -r``, "" if it is not known; for messages, never for decisions
    """

    features: FeatureSet
    max_programs: int
    max_slots: int
    costs: CostModel
    release: str = ""

    @classmethod
    def of(
        cls,
        features: FeatureSet,
        *,
        max_slots: int = 12,
        slowness: float = 1.0,
        release: str = "",
    ) -> PlanFacts:
        """Derive the defaults from the features.

        :param slowness: of the machine, see `CostModel.slowness`
        """
        has_session = features.supports(Feature.FSESSION)
        shared = features.supports(Feature.TRACING_MULTI)
        return cls(
            features,
            max_programs=36 if has_session else _MAX_PROGRAMS,
            max_slots=max_slots,
            costs=replace(SHARED_OPS if shared else OWN_OPS, slowness=slowness),
            release=release,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Describe one program of a group: where it runs and its variant."""

    side: Side
    variant: Variant


@dataclass(frozen=True, slots=True)
class Group:
    """Hold targets that share mechanism, BTF object and variants.

    No other group has all of these in common. Two groups of pairs may share one variant, not both.

    :param targets: sorted by address
    :param parts: one part, or an entry and an exit part if a session is made of a pair
    """

    mechanism: Mechanism
    module: str
    parts: tuple[Part, ...]
    targets: Sequence[Target]

    @property
    def lowering(self) -> Lowering:
        return self.parts[0].variant.lowering

    @property
    def programs(self) -> int:
        """Count the programs loaded for it: one per side, and for clones one per function."""
        each = len(self.targets) if self.mechanism.per_function else 1
        return len(self.parts) * each

    @property
    def kind(self) -> str:
        """Return ``entry``, ``exit``, ``session`` or ``entry+exit``."""
        return "+".join(part.side.value for part in self.parts)

    @property
    def key(self) -> GroupKey:
        """Return the group's place among the groups of a plan. No two groups have the same."""
        return group_key(self.mechanism, self.module, self.parts)

    def same_way(self, other: Group) -> bool:
        """Return True if both run the same variants by the same mechanism, on any targets."""
        return self.key == other.key


#: Rank and name of the mechanism, BTF object, sides and variants.
GroupKey = tuple[int, str, str, tuple[tuple[str, str], ...]]


def group_key(mechanism: Mechanism, module: str, parts: Iterable[Part]) -> GroupKey:
    """Make the key of a group; see `Group.key`."""
    variants = tuple([(part.side.value, part.variant.digest) for part in parts])
    return (mechanism.rank, mechanism.value, module, variants)


def in_groups(
    ways: Iterable[tuple[Mechanism, str, tuple[Part, ...], Target]],
) -> tuple[Group, ...]:
    """Form groups of functions, in the order of a plan.

    :param ways: for each function: mechanism, module, parts, and the function itself
    """
    found: dict[GroupKey, tuple[Mechanism, str, tuple[Part, ...], list[Target]]] = {}
    for mechanism, module, parts, target in ways:
        key = group_key(mechanism, module, parts)
        found.setdefault(key, (mechanism, module, parts, []))[3].append(target)
    return tuple(
        Group(mechanism, module, parts, tuple(sorted(targets, key=lambda t: t.address)))
        for _, (mechanism, module, parts, targets) in sorted(found.items())
    )


class Origin:
    """Hold what a plan was made from, so that it can be carried out as it is.

    The program and the kernel's tables are not kept alive by it.

    :param template: the program
    :param moment: facts in which the functions were looked up
    :param facts: what the planner knew
    :param options: how to plan
    """

    __slots__ = ("_moment", "_template", "facts", "options")

    def __init__(
        self, template: Template, moment: object, facts: PlanFacts, options: AttachOptions
    ) -> None:
        self._template = ref(template)
        self._moment = ref(moment)
        self.facts = facts
        self.options = options

    def is_of(self, template: Template, moment: object) -> bool:
        """Tell whether nothing has changed: neither the program nor the kernel's functions."""
        return self._template() is template and self._moment() is moment


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold groups, skipped functions and the predicted cost. Values can be compared and printed.

    :ivar origin: what it was made from; None if it was made from targets alone
    """

    program: str
    hook: Hook
    groups: tuple[Group, ...]
    skipped: tuple[Skipped, ...]
    cost: Cost
    sleepable: bool = False
    origin: Origin | None = field(default=None, repr=False, compare=False)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Return every function that will be attached to."""
        return tuple(t for group in self.groups for t in group.targets)

    @property
    def count(self) -> int:
        """Count the functions that will be attached to."""
        return sum(len(group.targets) for group in self.groups)

    @property
    def guarded(self) -> bool:
        """Tell whether its programs share a recursion guard."""
        return any(part.variant.guarded for group in self.groups for part in group.parts)

    @property
    def unsure(self) -> tuple[Target, ...]:
        """Return functions where only the kernel can tell whether a sleepable program may run.

        Attaching tries them. Those it refuses are then in `MultiLink.refused`.
        """
        return tuple(t for t in self.targets if t.may_sleep is None) if self.sleepable else ()

    @property
    def unplaced(self) -> tuple[Target, ...]:
        """Return functions that are known from BTF alone, because the kernel hides its lists.

        Their addresses, and whether ftrace can trace them, are not known before the attach.
        """
        return tuple(t for t in self.targets if not t.address)

    @property
    def shared(self) -> tuple[Target, ...]:
        """Return functions that share their names with others: they are attached to by address."""
        return tuple(t for t in self.targets if not t.unique)

    @property
    def reasons(self) -> Counter[Reason]:
        """Count the functions that were skipped for each reason."""
        return Counter(s.reason for s in self.skipped)

    def to_json(self) -> str:
        """Return JSON text: program, hook, groups, skipped, unsure, unplaced, cost.

        ``guarded``: the programs share a recursion guard. A group's ``labels`` are its
        ``targets`` with their modules, because kprobe groups have no ``module``.
        """
        return dumps(
            {
                "program": self.program,
                "hook": self.hook.value,
                "guarded": self.guarded,
                "groups": [
                    {
                        "mechanism": group.mechanism.value,
                        "lowering": group.lowering.value,
                        "kind": group.kind,
                        "module": group.module,
                        "images": {p.side.value: p.variant.digest for p in group.parts},
                        "insns": {p.side.value: len(p.variant.code.insns) for p in group.parts},
                        "targets": [t.name for t in group.targets],
                        "labels": [t.label for t in group.targets],
                    }
                    for group in self.groups
                ],
                "skipped": [
                    {
                        "name": s.name,
                        "module": s.module,
                        "reason": s.reason.value,
                        "detail": s.detail,
                        "hint": s.hint,
                    }
                    for s in self.skipped
                ],
                "unsure": [t.label for t in self.unsure],
                "unplaced": [t.label for t in self.unplaced],
                "cost": {
                    "attach_s": round(self.cost.attach_s, 3),
                    "detach_s": round(self.cost.detach_s, 3),
                    "insns_per_call": self.cost.insns_per_call,
                },
            }
        )

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        count = sum(len(group.targets) for group in self.groups)
        what = f"{self.program} ({self.hook.value}.multi{'.s' if self.sleepable else ''})"
        groups = len(self.groups)
        yield f"{what}: {many(count, 'function')}, {many(groups, 'group')}"
        for group in self.groups:
            where = f" in {group.module}" if group.module else ""
            yield (
                f"  {group.mechanism.value:<14} {group.lowering.value:<7} {group.kind:<11}"
                f"{len(group.targets):>6}{where}  image "
                + "+".join(part.variant.digest for part in group.parts)
            )
        if self.guarded:
            programs = many(sum(group.programs for group in self.groups), "program")
            yield f"  guarded: {programs} with one recursion guard, as their calls may be traced"
        yield (
            f"  predicted: attach {self.cost.attach_s:.2f} s, detach {self.cost.detach_s:.2f} s, "
            f"{many(self.cost.insns_per_call, 'instruction')} per call"
        )
        if shared := len(self.shared):
            yield f"  by address: {many(shared, 'function')} that share their names with others"
        if unplaced := len(self.unplaced):
            of = "this function" if unplaced == 1 else f"{unplaced} functions"
            yield f"  not known for {of}: the address, and whether it can be traced"
        if unsure := len(self.unsure):
            of = "this function" if unsure == 1 else f"{unsure} functions"
            yield f"  not known for {of}: whether the kernel lets a sleepable program run there"
        if self.skipped:
            yield f"  skipped: {len(self.skipped)}"
            for reason, number in sorted(self.reasons.items(), key=lambda i: (-i[1], i[0].value)):
                details = {s.detail for s in self.skipped if s.reason is reason}
                # What lies in the kernel or in this process's rights is the same for all.
                said = f": {details.pop()}" if reason in OF_THE_KERNEL and len(details) == 1 else ""
                yield f"    {number:>6}  {reason.text}{said}"
