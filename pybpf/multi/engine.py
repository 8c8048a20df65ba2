"""Running a plan: load the images, make the links, undo everything on failure.

Theory of operation. A group becomes one loaded program and one link where the
mechanism takes many functions (tracing_multi, kprobe.multi), and a program and
a link per function where it does not (clones; single kprobes share a program).
A many-function link is all or nothing in the kernel and does not say who was
to blame, so a refused batch is split in halves until the guilty are alone;
they are reported as refused and the rest stays attached. A function whose
trampoline turns out to be full is planned again without trampolines. Exit
programs are attached before entry programs and detached after them, so that no
entry is seen without its exit. A function refused at one side of such a pair
keeps nothing at the other.

Everything made is pushed on one stack; an error or an interrupt closes it in
reverse order. An interrupt is held back from the moment a link is asked for
until it is on the stack (`held`), and while an unfinished attach is undone, so
that no link is ever nobody's. Detaching thousands of clones takes minutes on
6.x kernels, in the kernel: `MultiLink.detach` reports progress after each link
and may be interrupted and called again.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from .. import links
from .._sys import link as sys_link
from .._sys.fd import make_room
from .._sys.interrupts import held
from .._uapi.enums import AttachType, ProgType
from ..asm.edit import Code
from ..errors import BpfError, DeniedByPolicy, VerifierError
from . import rewrite
from .cost import Mechanism
from .plan import Group, Lowering, Part, Plan, PlanFacts, Side, Target, Template
from .planner import plan
from .reasons import Reason, Skipped
from .refusals import HOPELESS as _HOPELESS
from .refusals import NO_ROOM as _NO_ROOM
from .traits import Hook

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from .._sys.fd import Fd

__all__ = ["MultiLink", "Progress", "Source", "attach"]

#: Called with (done, in all): programs on functions while attaching, a session made of a pair
#: counts twice; functions of links while detaching.
Progress = Callable[[int, int], None]
#: Seconds, predicted for an emulated machine, from which people are told beforehand.
SLOW_S = 5.0

_TRACING = {
    Side.ENTRY: (AttachType.BPF_TRACE_FENTRY, AttachType.BPF_TRACE_FENTRY_MULTI),
    Side.EXIT: (AttachType.BPF_TRACE_FEXIT, AttachType.BPF_TRACE_FEXIT_MULTI),
    Side.SESSION: (AttachType.BPF_TRACE_FSESSION, AttachType.BPF_TRACE_FSESSION_MULTI),
}


class Source(Protocol):
    """What the engine asks of the object that owns the program."""

    def load_image(
        self,
        template: Template,
        code: Code,
        *,
        prog_type: int,
        attach_type: int,
        btf_id: int,
        module: str,
    ) -> Fd:
        """Load one image; map and BTF references filled in."""


_ENOTSUPP = 524  # kernel-internal
_SLOTS_WITHOUT_STACK = 6


def _warn(text: str) -> None:
    import logging  # seldom wanted

    logging.getLogger("pybpf").warning("%s", text)


def _takes(targets: Sequence[Target], seconds: float) -> str:
    return f"{len(targets)} functions will take about {seconds:.0f} s (less where KVM is used)"


def _key(target: Target) -> tuple[str, str, int]:
    return (target.module, target.name, target.address)


@dataclass(slots=True)
class _Made:
    # One link, or the fd of a perf event link, and how many functions it holds.
    link: links.Link
    targets: tuple[Target, ...]


class MultiLink:
    """A multi program attached to many functions; owns all its links.

    :ivar plan: what was planned
    :ivar targets: functions it is attached to
    :ivar skipped: functions left out, with reasons: planned and refused by the kernel
    :ivar spilled: functions whose trampoline was full, attached by another mechanism
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.skipped: tuple[Skipped, ...] = plan.skipped
        self.spilled: tuple[Target, ...] = ()
        self._made: list[_Made] = []

    @property
    def targets(self) -> tuple[Target, ...]:
        """Functions it is attached to now, each once."""
        seen = {_key(t): t for made in self._made for t in made.targets}
        return tuple(seen.values())

    @property
    def links(self) -> tuple[links.Link, ...]:
        """The kernel's links, in the order they were made."""
        return tuple(made.link for made in self._made)

    def detach(self, progress: Progress | None = None) -> None:
        """Detach from everything, last attached first.

        On 6.x kernels a function that this was the only program of takes 130-160 ms: where
        that comes to more than 5 s and nobody shows progress, the logger ``pybpf`` warns. An
        interrupt leaves the rest attached; call again to go on.

        :param progress: called with (functions detached, functions in all) after each link
        """
        total = sum(len(made.targets) for made in self._made)
        done = 0
        if progress is None and total:
            all_of_them = sum(len(group.parts) * len(group.targets) for group in self.plan.groups)
            seconds = self.plan.cost.detach_s * min(1, total / max(all_of_them, 1))
            if seconds > SLOW_S:
                _warn(f"{self.plan.program}: detaching from {_takes(self.targets, seconds)}")
        while self._made:
            with held():
                made = self._made[-1]
                made.link.close()
                self._made.pop()
            done += len(made.targets)
            if progress is not None:
                progress(done, total)

    def close(self) -> None:
        """`detach` without progress. May be called again."""
        self.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __len__(self) -> int:
        return len(self.targets)

    def __bool__(self) -> bool:
        """It is attached to something."""
        return any(made.targets for made in self._made)

    def __repr__(self) -> str:
        return (
            f"<MultiLink {self.plan.program}: {len(self.targets)} functions by "
            f"{len(self._made)} links, {len(self.skipped)} skipped>"
        )


Cookies = Callable[[Target], int]


class _Form(Enum):
    # Which code of a clone is tried.
    PLANNED = "planned"
    SCALARS = "scalars"
    FRAME = "frame"


class _Engine:
    def __init__(
        self,
        source: Source,
        template: Template,
        link: MultiLink,
        cookies: Cookies | None,
        progress: Progress | None,
    ) -> None:
        self.source = source
        self.template = template
        self.link = link
        self.cookies = cookies
        self.progress = progress
        self.refused: dict[tuple[str, str, int], tuple[Target, BpfError]] = {}
        self.done = 0
        self.total = 0
        self._program: Fd | None = None
        self._as_scalars: set[str] = set()  # digests of images only loadable that way

    def cookie(self, target: Target) -> int:
        return self.cookies(target) if self.cookies is not None else 0

    def refuse(self, target: Target, error: BpfError) -> None:
        if error.errno in _NO_ROOM:
            raise error
        self.refused.setdefault(_key(target), (target, error))

    def step(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def run(self, groups: Sequence[Group]) -> None:
        if held := sum(_descriptors(group) for group in groups):
            make_room(held, f"attach to {sum(len(g.targets) for g in groups)} functions")
        self.total += sum(len(g.targets) * len(g.parts) for g in groups)
        for group in groups:
            first = len(self.link._made)
            targets = group.targets
            while targets:
                self.sides(group, targets)
                targets = self.drop_halves(group, first)
                self.total += len(targets) * len(group.parts)

    def sides(self, group: Group, targets: tuple[Target, ...]) -> None:
        for part in reversed(group.parts):  # exit before entry
            left = self.accepted(targets)
            if len(left) < len(targets):
                self.step(len(targets) - len(left))
            if group.mechanism is Mechanism.TRAMPOLINE:
                self.clones(group, part, left)
            elif group.mechanism is Mechanism.KPROBE:
                self.kprobes(group, part, left)
            else:
                self.batch(group, part, left)

    def accepted(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        if not self.refused:
            return targets
        return tuple(t for t in targets if _key(t) not in self.refused)

    def drop_halves(self, group: Group, first: int) -> tuple[Target, ...]:
        """A function refused at one side of a pair keeps nothing at the other.

        Where a link holds many functions, all of the group's are closed: made again by
        itself, the exit link would come after the entry link.

        :param first: number of the first link of the group
        :returns: functions to attach to again
        """
        made = self.link._made[first:]
        halves = [one for one in made if len(self.accepted(one.targets)) < len(one.targets)]
        if not halves:
            return ()
        shared = group.mechanism in (Mechanism.TRACING_MULTI, Mechanism.KPROBE_MULTI)
        for one in reversed(made if shared else halves):
            with held():
                one.link.close()
                self.link._made.remove(one)
        return self.accepted(group.targets) if shared else ()

    # -- tracing_multi and kprobe.multi: one program, one link, split when refused

    def batch(self, group: Group, part: Part, targets: Sequence[Target]) -> None:
        if not targets:
            return
        if group.mechanism is Mechanism.TRACING_MULTI:
            prog_type, attach_type = ProgType.BPF_PROG_TYPE_TRACING, _TRACING[part.side][1]
        else:
            prog_type = ProgType.BPF_PROG_TYPE_KPROBE
            session = part.side is Side.SESSION
            attach_type = (
                AttachType.BPF_TRACE_KPROBE_SESSION
                if session
                else AttachType.BPF_TRACE_KPROBE_MULTI
            )
        program = self.load(part, prog_type=prog_type, attach_type=attach_type, module=group.module)
        pending = [targets]
        while pending:
            some = pending.pop()
            try:
                with held():
                    link = self.many(group, part, program, attach_type, some)
                    self.link._made.append(_Made(link, tuple(some)))
            except BpfError as error:
                if isinstance(error, DeniedByPolicy) or error.errno in _HOPELESS | _NO_ROOM:
                    raise
                if len(some) == 1:
                    self.refuse(some[0], error)
                    self.step(1)
                    continue
                middle = len(some) // 2
                pending += [some[middle:], some[:middle]]
            else:
                self.step(len(some))
        self.unload()

    def load(self, part: Part, *, prog_type: int, attach_type: int, module: str) -> Fd:
        # A program that several functions share. Not in a `with`: an interrupt between its
        # body and its end would pass the end over.
        with held():
            self._program = self.source.load_image(
                self.template,
                part.image.code,
                prog_type=prog_type,
                attach_type=attach_type,
                btf_id=0,
                module=module,
            )
            return self._program

    def unload(self) -> None:
        with held():
            program, self._program = self._program, None
            if program is not None:
                program.close()  # the links hold it

    def many(
        self,
        group: Group,
        part: Part,
        program: Fd,
        attach_type: int,
        targets: Sequence[Target],
    ) -> links.Link:
        what = f"{part.side.value} of {len(targets)} functions"
        if group.mechanism is Mechanism.TRACING_MULTI:
            ids = [t.btf_id or 0 for t in targets]
            cookies = [self.cookie(t) for t in targets] if self.cookies is not None else None
            fd = sys_link.link_create_tracing_multi(
                program.fileno(), attach_type, ids, cookies=cookies
            )
            return links.Link(fd, f"tracing_multi {what}")
        # In any order: the kernel sorts them, and cookies along.
        return links.attach_kprobe_multi(
            program,
            addrs=array("Q", [t.address for t in targets]),
            cookies=[self.cookie(t) for t in targets] if self.cookies is not None else None,
            retprobe=part.side is Side.EXIT,
            session=part.side is Side.SESSION,
        )

    # -- clones: one program and one link per function

    def clones(self, group: Group, part: Part, targets: Sequence[Target]) -> None:
        attach_type = _TRACING[part.side][0]
        for target in targets:
            try:
                with held(), self.clone(part, target, attach_type) as program:
                    link = links.attach_tracing(
                        program,
                        attach_type,
                        cookie=self.cookie(target),
                        what=f"{part.side.value} of {target.label}",
                    )
                    self.link._made.append(_Made(link, (target,)))
            except DeniedByPolicy:
                raise
            except BpfError as error:
                self.refuse(target, error)
            self.step(1)

    def clone(self, part: Part, target: Target, attach_type: int) -> Fd:
        first: VerifierError | None = None
        for form, code in self._forms(part, target):
            try:
                fd = self._load_clone(code, target, attach_type)
            except VerifierError as error:
                first = first or error
                continue
            if form is _Form.SCALARS:
                self._as_scalars.add(part.image.digest)
            return fd
        assert first is not None
        raise first

    def _forms(self, part: Part, target: Target) -> Iterator[tuple[_Form, Code]]:
        # What to load, and what to load instead if the verifier refuses it.
        image, model = part.image, target.model
        direct = image.lowering is Lowering.DIRECT
        if not (direct and image.digest in self._as_scalars):
            yield _Form.PLANNED, image.code
        if not direct or model is None:
            return
        # The program calculates with an argument that is a pointer for this function.
        template = self._template_of(part)
        returns = part.side is not Side.ENTRY and not model.is_void
        yield (
            _Form.SCALARS,
            rewrite.direct(
                template.code, template.traits, slots=model.slots, returns=returns, scalars=True
            ),
        )
        # No load of an argument that points to a pointer, an enum or a function is allowed on
        # 6.x ("is not a struct"), but the helper gives it.
        yield (
            _Form.FRAME,
            rewrite.frame(template.code, template.traits, returns=returns, static=template.static),
        )

    def _template_of(self, part: Part) -> Template:
        if self.template.hook is Hook.SESSION and part.side is not Side.SESSION:
            return self.template.half(part.side is Side.EXIT)
        return self.template

    def _load_clone(self, code: Code, target: Target, attach_type: int) -> Fd:
        return self.source.load_image(
            self.template,
            code,
            prog_type=ProgType.BPF_PROG_TYPE_TRACING,
            attach_type=attach_type,
            btf_id=target.btf_id or 0,
            module=target.module,
        )

    # -- single kprobes: one program, one perf event per function

    def kprobes(self, group: Group, part: Part, targets: Sequence[Target]) -> None:
        if not targets:
            return
        kprobe = ProgType.BPF_PROG_TYPE_KPROBE
        program = self.load(part, prog_type=kprobe, attach_type=0, module="")
        for target in targets:
            try:
                with held():
                    link = links.attach_kprobe(
                        program,
                        "" if target.address else target.name,
                        address=target.address,
                        retprobe=part.side is Side.EXIT,
                        cookie=self.cookie(target),
                    )
                    self.link._made.append(_Made(link, (target,)))
            except DeniedByPolicy:
                raise
            except BpfError as error:
                self.refuse(target, error)
            self.step(1)
        self.unload()

    def undo(self) -> None:
        with held():  # until everything is undone; then the interrupt, if another came
            self.link.detach()
            self.unload()


def _descriptors(group: Group) -> int:
    # Open files that its links hold: a single kprobe is a perf event and a link.
    each = {Mechanism.TRAMPOLINE: 1, Mechanism.KPROBE: 2}.get(group.mechanism, 0)
    return len(group.parts) * (each * len(group.targets) or 1)


def _no_place(error: BpfError) -> bool:
    # The trampoline is full or saves too few slots; E2BIG of the verifier is about the program.
    return error.errno in (errno.E2BIG, _ENOTSUPP) and not isinstance(error, VerifierError)


def _said(target: Target, error: BpfError) -> Skipped:
    code = errno.errorcode.get(error.errno or 0, "ENOTSUPP" if error.errno == _ENOTSUPP else "")
    detail = code
    if isinstance(error, VerifierError) and error.summary:
        detail += f": {error.summary.strip().splitlines()[-1].strip()}"
    reason = Reason.KERNEL_REFUSED
    if _no_place(error):
        reason = Reason.TRAMPOLINE_FULL if error.errno == errno.E2BIG else Reason.TOO_MANY_SLOTS
    return Skipped(target.name, target.module, reason, detail)


def attach(
    source: Source,
    template: Template,
    targets: Iterable[Target],
    facts: PlanFacts,
    *,
    mechanism: str | Mechanism = "auto",
    prefer: str | None = None,
    lowering: str | Lowering = "auto",
    cookies: Cookies | None = None,
    progress: Progress | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> MultiLink:
    """Plan and attach; what the kernel refuses one by one is skipped, not fatal.

    :param mechanism: as `plan`, and so `prefer` and `lowering`
    :param cookies: target -> ``__u64`` for bpf_get_attach_cookie
    :param progress: called with (programs attached, programs in all)
    :param planned: called with the plan before anything is attached; without it the logger
        ``pybpf`` warns if that will take more than 5 s
    :raises PlanError: the program cannot be a multi program, or nothing can be attached
    :raises VerifierError: the verifier refused a group's image, or every function's clone
    :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
    :raises BpfError: EMFILE if the links would be more than the process may have open; a soft
        limit (RLIMIT_NOFILE) that is too low is raised first
    """

    def planner(targets: Iterable[Target], facts: PlanFacts) -> Plan:
        return plan(template, targets, facts, mechanism, prefer=prefer, lowering=lowering)

    made = planner(targets, facts)
    if planned is not None:
        planned(made)
    elif made.cost.attach_s > SLOW_S:
        _warn(f"{made.program}: attaching to {_takes(made.targets, made.cost.attach_s)}")
    link = MultiLink(made)
    engine = _Engine(source, template, link, cookies, progress)
    try:
        try:
            return _run(engine, made, facts, planner)
        except BaseException:
            engine.undo()
            raise
    except BaseException:
        engine.undo()  # an interrupt may come before the first has begun to hold them back
        raise


def _run(
    engine: _Engine,
    made: Plan,
    facts: PlanFacts,
    planner: Callable[[Iterable[Target], PlanFacts], Plan],
) -> MultiLink:
    link = engine.link
    engine.run(made.groups)
    # Full trampolines (E2BIG) and kernels without stack arguments (ENOTSUPP) are known
    # only now: plan those functions again.
    full = [t for t, e in engine.refused.values() if _no_place(e)]
    if full:
        again = [
            replace(t, occupied=facts.max_programs)
            if engine.refused[_key(t)][1].errno == errno.E2BIG
            else t
            for t in full
        ]
        spill = planner(
            again,
            replace(facts, max_slots=min(facts.max_slots, _SLOTS_WITHOUT_STACK))
            if any(engine.refused[_key(t)][1].errno == _ENOTSUPP for t in full)
            else facts,
        )
        for target in full:
            del engine.refused[_key(target)]
        engine.run(spill.groups)
        link.spilled = engine.accepted(spill.targets)
        link.skipped = (*link.skipped, *spill.skipped)
    errors = [error for _, error in engine.refused.values()]
    if errors and not link and all(isinstance(e, VerifierError) for e in errors):
        raise errors[0]  # the program's own fault: whoever asked needs the log
    refused = [_said(target, error) for target, error in engine.refused.values()]
    link.skipped = (*link.skipped, *refused)
    return link
