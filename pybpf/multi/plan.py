"""What the planner is asked and what it answers, as values.

A `Template` is a program before it is fitted to functions, a `Target` one of them, `PlanFacts`
what the kernel offers. A `Plan` is groups of targets that share images, those skipped, and the
predicted cost. All of it is plain data: comparable, printable, made without a kernel.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

from ..asm import encode
from ..asm.edit import Code
from ..features import Feature, FeatureSet
from ..kernel.functions import KernelFunction
from . import rewrite
from .cost import OWN_OPS, SHARED_OPS, Cost, CostModel, Mechanism
from .reasons import Reason, Skipped
from .traits import CtxHelper, Hook, Traits, analyse

__all__ = [
    "Group",
    "GroupKey",
    "Image",
    "Lowering",
    "Part",
    "Plan",
    "PlanFacts",
    "Side",
    "Target",
    "Template",
    "group_key",
    "in_groups",
]

_MAX_PROGRAMS = 38  # BPF_MAX_TRAMP_LINKS on x86-64, 6.x; 36 where fsession exists


class Lowering(Enum):
    """How context accesses became what the mechanism offers; see `rewrite`."""

    NATIVE = "native"
    DIRECT = "direct"
    FRAME = "frame"
    REGS = "regs"


class Side(Enum):
    """Where one loaded program of a group runs."""

    ENTRY = "entry"
    EXIT = "exit"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Target(KernelFunction):
    """One kernel function, and what attaching to it needs to know besides.

    :param unique: no other function of this module has its name
    :param kprobe: not on the kprobe blacklist
    :param occupied: programs its trampoline holds already
    :param may_sleep: the kernel lets sleepable programs run on it; None if that is not known
    """

    unique: bool = True
    kprobe: bool = True
    occupied: int = 0
    may_sleep: bool | None = None


@dataclass(frozen=True)
class Template:
    """A multi program before it is fitted to functions.

    :param code: linked instructions with func_info and line_info
    :param kfuncs: slot of a kfunc call -> kfunc name
    :param source: slot -> ``file:line: text`` for messages
    :param static: BTF id of a FUNC -> id of its twin with static linkage
    """

    name: str
    code: Code
    hook: Hook
    sleepable: bool = False
    kfuncs: Mapping[int, str] = field(default_factory=dict)
    source: Mapping[int, str] = field(default_factory=dict)
    static: Callable[[int], int] = field(default=lambda type_id: type_id, compare=False)
    #: Call number that stands for a session kfunc in `code` -> its name.
    session_calls: Mapping[int, str] = field(default_factory=dict)
    #: Slot of any kfunc's call -> arguments it takes.
    kfunc_args: Mapping[int, int] = field(default_factory=dict)

    # Images made of it so far, by what they were made for.
    _images: dict[tuple[object, ...], Image] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _halves: dict[bool, Template] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def image(
        self, lowering: Lowering, make: Callable[[], Code], *key: object, scalars: bool = False
    ) -> Image:
        """The image of a lowering, made once.

        :param make: rewrites the code
        :param key: what the rewritten code depends on
        """
        full = (lowering.value, scalars, *key)
        image = self._images.get(full)
        if image is None:
            image = self._images[full] = Image.of(lowering, make(), scalars=scalars)
        return image

    def half(self, is_return: bool) -> Template:
        """The entry or exit half of a session program, made once.

        bpf_session_is_return is folded, and at entry bpf_get_func_ret gives 0, as it does in a
        fsession program.
        """
        if is_return not in self._halves:
            self._halves[is_return] = self._half(is_return)
        return self._halves[is_return]

    def _half(self, is_return: bool) -> Template:
        folded = self._folded(is_return)
        if is_return or CtxHelper.get_func_ret not in folded.traits.helpers:
            return folded
        code, places = rewrite.without_return(folded.code, folded.traits)
        return replace(
            folded,
            code=code,
            kfuncs={places[slot]: name for slot, name in folded.kfuncs.items()},
            source={places[slot]: text for slot, text in folded.source.items()},
            kfunc_args={places[slot]: count for slot, count in folded.kfunc_args.items()},
        )

    @cached_property
    def reads_ret_at_entry(self) -> bool:
        """The entry side of a session looks at the return value, which is 0 there."""
        return self._folded(False).traits.needs_ret

    def _folded(self, is_return: bool) -> Template:
        code, kfuncs = rewrite.fold_session(self.code, self.kfuncs, is_return=is_return)
        args = {s: n for s, n in self.kfunc_args.items() if s not in self.kfuncs or s in kfuncs}
        return replace(self, code=code, hook=Hook.SESSION, kfuncs=kfuncs, kfunc_args=args)

    @cached_property
    def traits(self) -> Traits:
        """:raises PlanError: if the use of the context cannot be proved"""
        return analyse(
            self.code,
            self.hook,
            program=self.name,
            sleepable=self.sleepable,
            source=self.source,
            kfuncs=self.kfuncs,
            kfunc_args=self.kfunc_args,
        )


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What the planner knows of a kernel.

    :param features: answers of the probes
    :param max_programs: programs one trampoline holds (kernel-wide constant)
    :param max_slots: argument slots its trampolines save: 6, or 12 where stack
        arguments are copied
    :param costs: prices of the mechanisms
    """

    features: FeatureSet
    max_programs: int
    max_slots: int
    costs: CostModel

    @classmethod
    def of(cls, features: FeatureSet, *, max_slots: int = 12) -> PlanFacts:
        """Defaults that follow from the features."""
        has_session = features.supports(Feature.FSESSION)
        shared = features.supports(Feature.TRACING_MULTI)
        return cls(
            features,
            max_programs=36 if has_session else _MAX_PROGRAMS,
            max_slots=max_slots,
            costs=SHARED_OPS if shared else OWN_OPS,
        )


@dataclass(frozen=True, slots=True)
class Image:
    """One rewritten instruction stream; equal bytes are equal images."""

    lowering: Lowering
    code: Code = field(repr=False)
    digest: str
    #: Direct accesses whose values the verifier takes for numbers, never for pointers.
    scalars: bool = False

    @classmethod
    def of(cls, lowering: Lowering, code: Code, *, scalars: bool = False) -> Image:
        digest = hashlib.sha256(encode(code.insns)).hexdigest()[:16]
        return cls(lowering, code, digest, scalars)


@dataclass(frozen=True, slots=True)
class Part:
    """One program of a group: where it runs and its image."""

    side: Side
    image: Image


@dataclass(frozen=True, slots=True)
class Group:
    """Targets that share mechanism, BTF object and images.

    No other group has all of these: two pairs may have one image in common, not both.

    :param targets: by address
    :param parts: one, or an entry and an exit part where a session is made of a pair
    """

    mechanism: Mechanism
    module: str
    parts: tuple[Part, ...]
    targets: tuple[Target, ...]

    @property
    def lowering(self) -> Lowering:
        return self.parts[0].image.lowering

    @property
    def kind(self) -> str:
        """``entry``, ``exit``, ``session`` or ``entry+exit``."""
        return "+".join(part.side.value for part in self.parts)

    @property
    def key(self) -> GroupKey:
        """The group's place among the groups of a plan; no two groups have the same."""
        return group_key(self.mechanism, self.module, self.parts)

    def same_way(self, other: Group) -> bool:
        """True if both run the same images by the same mechanism, whatever the targets."""
        return self.key == other.key


#: Rank of the mechanism, BTF object, sides and images.
GroupKey = tuple[int, str, tuple[tuple[str, str], ...]]
_RANKS = {mechanism: rank for rank, mechanism in enumerate(Mechanism)}


def group_key(mechanism: Mechanism, module: str, parts: Iterable[Part]) -> GroupKey:
    """See `Group.key`."""
    images = tuple([(part.side.value, part.image.digest) for part in parts])
    return (_RANKS[mechanism], module, images)


def in_groups(
    ways: Iterable[tuple[Mechanism, str, tuple[Part, ...], Target]],
) -> tuple[Group, ...]:
    """Groups of functions, in the order of a plan.

    :param ways: of each function: mechanism, module, parts, and the function itself
    """
    found: dict[GroupKey, tuple[Mechanism, str, tuple[Part, ...], list[Target]]] = {}
    for mechanism, module, parts, target in ways:
        key = group_key(mechanism, module, parts)
        found.setdefault(key, (mechanism, module, parts, []))[3].append(target)
    return tuple(
        Group(mechanism, module, parts, tuple(sorted(targets, key=lambda t: t.address)))
        for _, (mechanism, module, parts, targets) in sorted(found.items())
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Groups, what was skipped, and what it will cost. A value: comparable, printable."""

    program: str
    hook: Hook
    groups: tuple[Group, ...]
    skipped: tuple[Skipped, ...]
    cost: Cost
    sleepable: bool = False

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every function that will be attached to."""
        return tuple(t for group in self.groups for t in group.targets)

    @property
    def unsure(self) -> tuple[Target, ...]:
        """Functions of which only the kernel can say whether they take a sleepable program.

        Attaching tries them; those it refuses are then in `MultiLink.refused`.
        """
        return tuple(t for t in self.targets if t.may_sleep is None) if self.sleepable else ()

    @property
    def reasons(self) -> Counter[Reason]:
        """How many functions were skipped for each reason."""
        return Counter(s.reason for s in self.skipped)

    def to_json(self) -> str:
        """JSON text: program, hook, groups with their targets, skipped, unsure, cost.

        A group's ``labels`` are its ``targets`` with their modules: kprobe groups have no
        ``module`` of their own.
        """
        return json.dumps(
            {
                "program": self.program,
                "hook": self.hook.value,
                "groups": [
                    {
                        "mechanism": group.mechanism.value,
                        "lowering": group.lowering.value,
                        "kind": group.kind,
                        "module": group.module,
                        "images": {p.side.value: p.image.digest for p in group.parts},
                        "insns": {p.side.value: len(p.image.code.insns) for p in group.parts},
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
        count = len(self.targets)
        what = f"{self.program} ({self.hook.value}.multi{'.s' if self.sleepable else ''})"
        groups = len(self.groups)
        yield f"{what}: {_many(count, 'function')}, {_many(groups, 'group')}"
        for group in self.groups:
            where = f" in {group.module}" if group.module else ""
            yield (
                f"  {group.mechanism.value:<14} {group.lowering.value:<7} {group.kind:<11}"
                f"{len(group.targets):>6}{where}  image "
                + "+".join(part.image.digest for part in group.parts)
            )
        yield (
            f"  predicted: attach {self.cost.attach_s:.2f} s, detach {self.cost.detach_s:.2f} s, "
            f"{self.cost.insns_per_call} instructions per call"
        )
        if unsure := len(self.unsure):
            of = "this function" if unsure == 1 else f"{unsure} functions"
            yield f"  not known of {of}: whether the kernel lets a sleepable program run there"
        if self.skipped:
            yield f"  skipped: {len(self.skipped)}"
            for reason, number in sorted(self.reasons.items(), key=lambda i: (-i[1], i[0].value)):
                yield f"    {number:>6}  {reason.text}"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
