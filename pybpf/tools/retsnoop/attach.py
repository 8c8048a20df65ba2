"""Attach one program to the selected functions, with `pybpf.multi`.

The library plans, attaches, splits refused batches and detaches. This module adds
what only retsnoop knows: which mechanisms its letters mean, what a cookie contains,
and that kprobe.session can skip the exit of an uninteresting call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress

from ...dataclass import dataclass
from ...multi.plan import Group, Plan, Side
from ...multi.reasons import Skipped
from ...multi.resolve import plan as plan_multi
from .functions import Function, key_of, make_functions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Facts, MultiLink, Program
    from ...multi.mechanisms import Mechanism
    from ...multi.options import Progress
    from ...multi.select import Selection
    from ...multi.target import Target

__all__ = [
    "UNKNOWN",
    "Tracing",
    "attach",
    "can_skip_exits",
    "make_tracing",
    "mechanisms_text",
    "name_of",
]

#: Functions without BTF are traced too. The type of their return value is guessed.
UNKNOWN = "registers"

# The names that retsnoop's users know.
_NAMES = {
    "tracing_multi": "fentry.multi",
    "trampoline": "fentry",
    "kprobe_multi": "kprobe.multi",
    "kprobe": "kprobe",
}


@dataclass(frozen=True, slots=True)
class Tracing:
    """Hold what will be traced, and how.

    :param plan: the library's plan
    :param functions: functions of the plan, by number
    :param skipped: requested functions that selecting or planning left out
    """

    plan: Plan
    functions: list[Function]
    skipped: tuple[Skipped, ...] = ()

    @property
    def text(self) -> str:
        """Name the mechanisms, e.g. ``kprobe.multi (12)``."""
        return mechanisms_text(self.plan.groups)


def name_of(mechanism: Mechanism) -> str:
    """Return the name of a mechanism that retsnoop's users know."""
    return _NAMES.get(mechanism.value, mechanism.value)


def mechanisms_text(groups: Iterable[Group]) -> str:
    """List mechanisms and their numbers of functions: ``kprobe.multi (12), kprobe (1)``."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts[group.mechanism.value] += len(group.targets)
    return ", ".join(f"{_NAMES.get(name, name)} ({count})" for name, count in counts.items())


def make_tracing(
    program: Program, selection: Selection, facts: Facts, mechanisms: Sequence[str]
) -> Tracing:
    """Plan a program on the selected functions. Nothing is attached.

    :param program: a program of retsnoop.bpf.o, opened
    :param mechanisms: mechanisms in order of preference
    :raises PlanError: as `pybpf.trampoline.plan`
    """
    candidates = selection.candidates
    plan = plan_multi(program, candidates, facts, mechanisms, unknown=UNKNOWN)
    columns = candidates.columns  # objects of thousands would take longer than all the rest here
    keys = list(zip(columns.modules, columns.names, columns.addresses, strict=True))
    place = dict(zip(keys, range(len(keys)), strict=True))
    targets = plan.targets
    order = [place.get(key_of(target), 0) for target in targets]
    if order != sorted(order):  # several groups, or modules that are not in address order
        targets = tuple([targets[i] for i in sorted(range(len(order)), key=order.__getitem__)])
    functions = make_functions(targets, set(compress(keys, columns.entry)))
    return Tracing(plan, functions, (*selection.skipped, *plan.skipped))


def can_skip_exits(plan: Plan) -> bool:
    """Let the program return 1 at entry, so that it does not run at that call's exit.

    Only kprobe.session allows this. On trampolines the kernel refuses programs that do not
    return 0.
    """
    parts = [part for group in plan.groups for part in group.parts]
    return all(p.side is Side.SESSION for p in parts) and all(
        group.mechanism.value == "kprobe_multi" for group in plan.groups
    )


def attach(program: Program, tracing: Tracing, progress: Progress) -> MultiLink:
    """Attach to every function of a plan that the kernel accepts.

    :raises PlanError: nothing could be attached
    """
    cookies = {key_of(f): f.cookie for f in tracing.functions}
    # A module that was loaded again meanwhile has other addresses.
    named = {(f.module, f.name): f.cookie for f in tracing.functions}

    def cookie(target: Target) -> int:
        found = cookies.get(key_of(target))
        return named[target.module, target.name] if found is None else found

    return program.attach_multi(
        tracing.plan,
        cookies=cookie,
        progress=progress,
        planned=lambda plan: None,  # the caller already announces slow work
    )
