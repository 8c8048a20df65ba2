"""Putting the entry and exit programs on functions, by three mechanisms.

kprobe.multi takes all functions in one link, all or nothing and without saying
which one was bad, so a refused batch is halved until the bad ones are alone.
The other two make a link per function. Exit programs come first, so that no
call is seen whose return is not; a function whose exit is refused gets no
entry. One refused function is a line in a report, never the end of a run. So is
one whose module was unloaded or loaded anew since it was selected: a link that
was made meanwhile is closed at once, as it may be on another function.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ...dataclass import dataclass
from ...errors import BpfError, DeniedByPolicy, UnsupportedFeature, VerifierError
from ...features import Feature
from ...multi.cost import OWN_OPS, SHARED_OPS, Cost
from ...multi.missed import Losses, Missed
from ...multi.reasons import HOPELESS, NO_ROOM
from .functions import Function
from .options import Mechanism

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Link, Object

__all__ = [
    "Attacher",
    "Plan",
    "Progress",
    "Refused",
    "bisect",
    "descriptors",
    "estimate",
    "make_plan",
    "programs_of",
]

# Without trampolines that copy stack arguments (6.1) this is what they take.
_REGISTER_SLOTS = 6

# mechanism -> names of its (entry, exit) programs in retsnoop.bpf.c
_PROGRAMS = {
    Mechanism.MULTI: ("multi_entry", "multi_exit"),
    Mechanism.SINGLE: ("single_entry", "single_exit"),
    Mechanism.TRAMPOLINE: ("clone_entry", "clone_exit"),
}
_PRICED = {
    Mechanism.MULTI: "kprobe_multi",
    Mechanism.SINGLE: "kprobe",
    Mechanism.TRAMPOLINE: "trampoline",
}

#: Called with (links or functions done, in all).
Progress = Callable[[int, int], None]


class Supports(Protocol):
    """Answers of feature probes; `pybpf.Facts` has them."""

    def supports(self, feature: Feature) -> bool: ...


@dataclass(frozen=True, slots=True)
class Refused:
    """A function that is left out.

    :param function: which
    :param why: one line
    """

    function: Function
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Which mechanism is used for which functions."""

    groups: tuple[tuple[Mechanism, tuple[Function, ...]], ...]
    refused: tuple[Refused, ...] = ()

    @property
    def functions(self) -> int:
        """Functions that are to be attached to."""
        return sum(len(functions) for _, functions in self.groups)

    @property
    def text(self) -> str:
        """The mechanisms, e.g. ``kprobe.multi (12)``."""
        return ", ".join(f"{m.value} ({len(functions)})" for m, functions in self.groups)


def make_plan(functions: Sequence[Function], wanted: Mechanism, facts: Supports) -> Plan:
    """Choose mechanisms.

    ``AUTO`` takes kprobe.multi where the kernel has it, else trampolines, and single
    kprobes for functions no trampoline can carry; ``MULTI`` falls back to single kprobes.
    """
    if wanted in (Mechanism.AUTO, Mechanism.MULTI) and facts.supports(Feature.KPROBE_MULTI):
        return _grouped([(Mechanism.MULTI, functions)], [])
    clones: list[Function] = []
    singles: list[Function] = []
    refused: list[Refused] = []
    for function in functions:
        why = _no_trampoline(function, facts)
        if wanted in (Mechanism.AUTO, Mechanism.TRAMPOLINE) and not why:
            clones.append(function)
        elif wanted is Mechanism.TRAMPOLINE:
            refused.append(Refused(function, why))
        elif function.kprobe:
            singles.append(function)
        else:
            refused.append(Refused(function, "on the kernel's list of functions without kprobes"))
    return _grouped([(Mechanism.TRAMPOLINE, clones), (Mechanism.SINGLE, singles)], refused)


def _grouped(
    groups: Iterable[tuple[Mechanism, Sequence[Function]]], refused: Sequence[Refused]
) -> Plan:
    return Plan(tuple((m, tuple(fs)) for m, fs in groups if fs), tuple(refused))


def _no_trampoline(function: Function, facts: Supports) -> str:
    """Why a function cannot have a fentry and fexit pair, "" if it can."""
    if function.btf_id is None or function.obstacle:
        return function.obstacle or "BTF does not describe it"
    many = function.slots is not None and function.slots > _REGISTER_SLOTS
    if many and not facts.supports(Feature.KPROBE_MULTI):
        # The kernels without kprobe.multi that we know cannot copy stack arguments either.
        return f"its arguments take {function.slots} slots, trampolines here {_REGISTER_SLOTS}"
    return ""


def estimate(plan: Plan, facts: Supports) -> Cost:
    """Predicted cost of attaching and detaching everything, entry and exit."""
    shared = facts.supports(Feature.TRACING_MULTI)
    model = SHARED_OPS if shared else OWN_OPS
    total = Cost()
    for mechanism, functions in plan.groups:
        total += model.prices[_PRICED[mechanism]].predict(
            len(functions), sides=2, entry=True, exit_=True
        )
    return total


def descriptors(plan: Plan) -> int:
    """Open files that its links hold, of entry and exit: a single kprobe is a perf event too."""
    each = {Mechanism.TRAMPOLINE: 1, Mechanism.SINGLE: 2}
    return sum(2 * (each.get(m, 0) * len(functions) or 1) for m, functions in plan.groups)


def programs_of(plan: Plan) -> list[str]:
    """Programs of retsnoop.bpf.c to load once; clones are loaded for each function."""
    return [
        name
        for mechanism, _ in plan.groups
        if mechanism is not Mechanism.TRAMPOLINE
        for name in _PROGRAMS[mechanism]
    ]


def bisect(
    functions: Sequence[Function],
    attach: Callable[[Sequence[Function]], None],
    refuse: Callable[[Function, BpfError], None],
) -> None:
    """Attach as many functions as the kernel takes, in as few batches as it allows.

    :param attach: attaches a batch, or raises `BpfError` having attached nothing
    :param refuse: told the functions that are refused alone
    :raises BpfError: for errors that are not about single functions
    """
    todo = [functions] if functions else []
    while todo:
        batch = todo.pop()
        try:
            attach(batch)
        except BpfError as error:
            if _is_hopeless(error):
                raise
            if len(batch) == 1:
                refuse(batch[0], error)
            else:
                half = len(batch) // 2
                todo += [batch[half:], batch[:half]]


def _is_hopeless(error: BpfError) -> bool:
    """True if the error is about this kernel or process, not about a function."""
    if isinstance(error, VerifierError):
        return False  # EACCES, of the function's types
    typed = isinstance(error, (DeniedByPolicy, UnsupportedFeature))
    return typed or error.errno in HOPELESS | NO_ROOM


class Gone(BpfError):
    """The module of a function went, or was loaded anew, since the function was selected."""

    def __init__(self, modules: Iterable[str]) -> None:
        super().__init__(errno.ENOENT, f"module {' and '.join(sorted(modules))}")

    def __str__(self) -> str:
        return f"{self.doing} was unloaded, or loaded anew, since its functions were selected"


class Attacher:
    """Attaches a plan; owns the links.

    :param obj: the loaded retsnoop.bpf.o
    :param progress: told (programs attached, programs in all)
    :param lost: tells which modules are no longer the ones that functions were selected in
    :param losses: counts what the links miss
    :ivar refused: functions the kernel refused
    """

    def __init__(
        self,
        obj: Object,
        progress: Progress | None = None,
        lost: Callable[[Iterable[str]], set[str]] = lambda modules: set(),
        losses: Losses | None = None,
    ) -> None:
        self._losses = losses or Losses(lambda: False)
        self._obj = obj
        self._lost = lost
        self._progress = progress or (lambda done, total: None)
        self._links: list[Link] = []
        self._done = self._total = 0
        self.refused: list[Refused] = []

    @property
    def links(self) -> int:
        """Number of links that are open."""
        return len(self._links)

    @property
    def missed(self) -> Missed:
        """Calls that the programs missed; `close` leaves it readable.

        A clone that ran inside others, deeper than is allowed, counts under ``guard``.
        """
        nested = int(self._obj.globals.missed_runs)
        return self._losses.now(self._links) + Missed(guard=nested)

    def attach(self, plan: Plan) -> list[Function]:
        """Attach the exits, then the entries.

        :returns: functions that have both
        :raises BpfError: if nothing can be attached at all; `close` what there is
        """
        self._done, self._total = 0, 2 * plan.functions
        groups = [(m, self._side(m, functions, at_exit=True)) for m, functions in plan.groups]
        attached: list[Function] = []
        for mechanism, functions in groups:
            attached += self._side(mechanism, functions, at_exit=False)
        return sorted(attached, key=lambda f: f.id)

    def attach_task_exit(self) -> None:
        """Attach what ends the sessions of tasks that exit."""
        program = self._obj.programs["task_exit"]
        self._links.append(program.attach_raw_tp("sched_process_exit"))

    def _side(
        self, mechanism: Mechanism, functions: Sequence[Function], *, at_exit: bool
    ) -> list[Function]:
        """Attach one side of one group; gives the functions that took it."""
        accepted: list[Function] = []

        def refuse(function: Function, error: BpfError) -> None:
            side = "exit" if at_exit else "entry"
            said = "" if isinstance(error, Gone) else f"the kernel refused its {side}: "
            self.refused.append(Refused(function, f"{said}{error}"))
            self._count(1)

        def one_link(batch: Sequence[Function]) -> None:
            self._links.append(self._right(batch, lambda: self._multi(batch, at_exit=at_exit)))
            accepted.extend(batch)
            self._count(len(batch))

        def links(batch: Sequence[Function]) -> None:
            make = self._single if mechanism is Mechanism.SINGLE else self._clone
            self._links.append(self._right(batch, lambda: make(batch[0], at_exit=at_exit)))
            accepted.append(batch[0])
            self._count(1)

        if mechanism is Mechanism.MULTI:
            bisect(functions, one_link, refuse)
        else:
            for function in functions:
                bisect([function], links, refuse)
        return accepted

    def _count(self, functions: int) -> None:
        self._done += functions
        self._progress(self._done, self._total)

    def _right(self, functions: Sequence[Function], make: Callable[[], Link]) -> Link:
        """Make a link that is on its functions and on no others.

        :raises Gone: the module of one went or was loaded anew
        """
        modules = {f.module for f in functions} - {""}

        def look() -> None:
            if lost := self._lost(modules) if modules else set():
                raise Gone(lost)

        look()
        try:
            link = make()
        except BpfError:
            look()  # whatever was said of it
            raise
        try:
            look()
        except BaseException:
            link.close()
            raise
        return link

    def _multi(self, batch: Sequence[Function], *, at_exit: bool) -> Link:
        program = self._obj.programs[_PROGRAMS[Mechanism.MULTI][at_exit]]
        return program.attach_kprobe_multi(
            addrs=[f.addr for f in batch], cookies=[f.id for f in batch], retprobe=at_exit
        )

    def _single(self, function: Function, *, at_exit: bool) -> Link:
        program = self._obj.programs[_PROGRAMS[Mechanism.SINGLE][at_exit]]
        return program.attach_kprobe(address=function.addr, retprobe=at_exit, cookie=function.id)

    def _clone(self, function: Function, *, at_exit: bool) -> Link:
        from ...kernel.lookup import BtfTarget

        assert function.btf_id is not None
        template = self._obj.programs[_PROGRAMS[Mechanism.TRAMPOLINE][at_exit]]
        # The link keeps the program; its descriptor is not needed any more.
        with template.clone(
            function.name, target=BtfTarget(function.btf_id, function.module)
        ) as clone:
            return clone.attach_tracing(cookie=function.id)

    def close(self, progress: Progress | None = None) -> None:
        """Detach everything, last attached first; may be called again after an interrupt."""
        total = len(self._links)
        while self._links:
            self._losses.close(self._links[-1])
            self._links.pop()
            if progress is not None:
                progress(total - len(self._links), total)
