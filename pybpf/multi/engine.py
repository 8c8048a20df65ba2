"""Run a plan: load the variants, make the links, undo everything on failure.

Theory of operation. If the mechanism has links for many functions (tracing_multi,
kprobe.multi), a group becomes one loaded program and one link. Otherwise it becomes a
program and a link per function (clones; single kprobes share a program).
The kernel attaches a link of many functions as a whole or not at all, and does not say which
function it refused. So a refused batch is split in halves until the refused functions are
alone. They are reported as refused and the rest stays attached. A function whose
trampoline turns out to be full is planned again without trampolines. If a function's
module was unloaded or reloaded while attaching, the function is never left to a link made
from old facts (`ground`): it is looked up and planned again. Exit
programs are attached before entry programs and detached after them, so that no
entry is seen without its exit. If a function is refused at one side of such a pair,
nothing stays attached at its other side.

Others may attach to the same functions and detach from them meanwhile. The
kernel makes them wait for each other (a lock per trampoline, one for ftrace's
hashes, and a loop while a live patch changes the function:
``bpf_trampoline_update()`` in kernel/bpf/trampoline.c). If others fill a trampoline
meanwhile, the function is planned again. Nothing else is tried
twice: no other refusal is known to be caused by other tracers alone.

Everything made is pushed on one stack. An error or an interrupt closes it in
reverse order. An interrupt is delayed from the moment a link is requested
until it is on the stack (`held`), and while an unfinished attach is undone. So
every link always has an owner. Detaching thousands of clones takes minutes on
6.x kernels, in the kernel. `MultiLink.detach` reports progress after each link
and may be interrupted and called again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from .. import links
from .._sys.fd import make_room
from .._sys.interrupts import held
from .._uapi.defines import ENOTSUPP
from ..dataclass import replace
from ..errnos import name_of
from ..errors import BpfError, DeniedByPolicy, PlanError, VerifierError
from ..kernel.sleepable import is_sleep_refusal
from ..wording import many
from .columns import Targets
from .ground import ROUNDS, Stale, Stands
from .link import SLOW_S, MultiLink, Piece, say_takes, target_key, warn
from .mechanisms import Job, Mechanism
from .missed import Losses
from .options import AttachOptions, Progress
from .plan import Group, Part, Plan, PlanFacts
from .planner import make_plan
from .reasons import HOPELESS, NO_ROOM, NO_SLEEP, Reason, Skipped
from .target import Target
from .template import Template
from .variant import Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.fd import Fd
    from .programs import MultiPrograms

__all__ = ["attach", "check"]


_SLOTS_WITHOUT_STACK = 6


class _Engine:
    def __init__(
        self,
        source: MultiPrograms,
        template: Template,
        link: MultiLink,
        cookies: Callable[[Target], int] | None,
        progress: Progress | None,
        ground: Stands | None = None,
    ) -> None:
        self.source = source
        self.template = template
        self.link = link
        self.cookies = cookies
        self.progress = progress
        self.ground = ground
        self.refused: dict[tuple[str, str, int], tuple[Target, BpfError]] = {}
        self.done = 0
        self.total = 0
        self._program: Fd | None = None
        # Digests of variants that loaded only as scalars. They are not tried for the next function.
        self._hopeless: set[str] = set()

    def cookie(self, target: Target) -> int:
        return self.cookies(target) if self.cookies is not None else 0

    def refuse(self, target: Target, error: BpfError) -> None:
        if error.errno in NO_ROOM:
            raise error
        self.refused.setdefault(target_key(target), (target, error))

    def keep(
        self, link: links.Link, group: Group, part: Part, targets: Sequence[Target]
    ) -> Sequence[Target]:
        """Keep a new link if it is on its targets, otherwise close it.

        Call it with interrupts held back.

        :returns: the targets; fewer if the link was closed and the others are refused
        """
        try:
            left = self.reached(group.mechanism, link, self.standing(targets))
            if len(left) == len(targets):
                self.link.pieces.append(Piece(link, group.mechanism, group.module, part, targets))
                return targets
        except BaseException:
            link.close()
            raise
        link.close()
        return left

    def standing(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Return the targets whose module has not changed. The others are refused as stale."""
        if self.ground is None:
            return targets
        modules = set(Targets.of(targets).modules)
        modules.discard("")  # the kernel itself never moves
        lost = self.ground.lost(modules) if modules else set()
        if not lost:
            return targets
        return self.without(
            [t for t in targets if t.module in lost],
            lambda target: Stale(target, Reason.MOVED, again=True),
            targets,
        )

    def reached(
        self, mechanism: Mechanism, link: links.Link, targets: Sequence[Target]
    ) -> Sequence[Target]:
        """Return the targets a link is on, if the kernel finds functions itself and says which."""
        strays = mechanism.strays(link, targets)
        if not strays:
            return targets
        taken = {target_key(targets[at]): address for at, address in strays.items()}

        def said(target: Target) -> Stale:
            at = taken[target_key(target)]
            detail = f"the kernel took the one at {at:#x}, it is at {target.address:#x}"
            return Stale(target, Reason.MOVED, detail, again=False)

        return self.without([targets[at] for at in strays], said, targets)

    def without(
        self,
        lost: Sequence[Target],
        why: Callable[[Target], Stale],
        targets: Sequence[Target],
    ) -> Sequence[Target]:
        # Returns the others. The lost targets are refused.
        for target in lost:
            self.refuse(target, why(target))
        self.step(len(lost))
        keys = set(map(target_key, lost))
        return [t for t in targets if target_key(t) not in keys]

    def step(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def run(self, groups: Sequence[Group]) -> None:
        if files := sum(_files(group) for group in groups):
            make_room(files, f"attach to {many(sum(len(g.targets) for g in groups), 'function')}")
        self.total += sum(len(g.targets) * len(g.parts) for g in groups)
        if self.link.guard is None and any(p.variant.guarded for g in groups for p in g.parts):
            with held():
                self.link.guard = self.source.make_guard()
        for group in groups:
            first = len(self.link.pieces)
            targets = group.targets
            while targets:
                self.sides(group, targets)
                targets = self.drop_halves(group, first)
                self.total += len(targets) * len(group.parts)

    def sides(self, group: Group, targets: Sequence[Target]) -> None:
        for part in reversed(group.parts):  # exit before entry
            left = self.accepted(targets)
            if len(left) < len(targets):
                self.step(len(targets) - len(left))
            if group.mechanism.shared:
                self.batch(group, part, left)
            elif group.mechanism.per_function:
                for target in left:
                    self.alone(group, part, target)
            elif left:
                program = self.load(group, part)
                for target in left:
                    self.alone(group, part, target, program)
                self.unload()

    def accepted(self, targets: Sequence[Target]) -> Sequence[Target]:
        if not self.refused:
            return targets
        return tuple(t for t in targets if target_key(t) not in self.refused)

    def drop_halves(self, group: Group, first: int) -> Sequence[Target]:
        """Detach functions that were refused at one side of a pair from the other side.

        If a link holds many functions, all of the group's links are closed. If only the exit
        link were made again, it would come after the entry link.

        :param first: number of the first link of the group
        :returns: functions to attach to again
        """
        pieces = self.link.pieces[first:]
        halves = [one for one in pieces if len(self.accepted(one.targets)) < len(one.targets)]
        if not halves:
            return ()
        shared = group.mechanism.shared
        for one in reversed(pieces if shared else halves):
            with held():
                self.link.losses.close(one.link)
                self.link.pieces.remove(one)
        return self.accepted(group.targets) if shared else ()

    # -- one program, one link, split when refused

    def batch(self, group: Group, part: Part, targets: Sequence[Target]) -> None:
        targets = self.standing(targets)
        if not targets:
            return
        try:
            program = self.load(group, part)
        except BpfError:
            if not self.standing(targets):
                return  # the module was unloaded
            raise
        pending = [targets]
        while pending:
            some = self.standing(pending.pop())
            if not some:
                continue
            try:
                with held():
                    link = self.linked(group, part, program, some)
                    left = self.keep(link, group, part, some)
            except BpfError as error:
                left = self.standing(some)
                if len(left) < len(some):
                    pending.append(left)
                    continue
                if isinstance(error, DeniedByPolicy) or error.errno in HOPELESS | NO_ROOM:
                    raise
                if len(some) == 1:
                    self.refuse(some[0], error)
                    self.step(1)
                    continue
                middle = len(some) // 2
                pending += [some[middle:], some[:middle]]
            else:
                if len(left) < len(some):
                    pending.append(left)
                else:
                    self.step(len(some))
        self.unload()

    def load(self, group: Group, part: Part) -> Fd:
        # A program that several functions share. Not in a `with`: an interrupt between its
        # body and its end would skip the end.
        with held():
            self._program = self._load(group, part, part.variant)
            return self._program

    def _load(self, group: Group, part: Part, variant: Variant, target: Target | None = None) -> Fd:
        return self.source.load_variant(
            self.template,
            variant.code,
            prog_type=group.mechanism.prog_type,
            attach_type=group.mechanism.attach_type(part.side),
            btf_id=target.btf_id or 0 if target is not None else 0,
            module=target.module if target is not None else group.module,
            guard=self.link.guard,
        )

    def unload(self) -> None:
        with held():
            program, self._program = self._program, None
            if program is not None:
                program.close()  # the links hold it

    def linked(
        self, group: Group, part: Part, program: Fd, targets: Sequence[Target]
    ) -> links.Link:
        cookies = [self.cookie(t) for t in targets] if self.cookies is not None else None
        return group.mechanism.link(links, Job(program, part.side, targets, cookies))

    # -- a link for each function

    def alone(self, group: Group, part: Part, target: Target, program: Fd | None = None) -> None:
        """Make one function's own link, or record why it has none.

        :param program: the one that the functions share, None if each has its own
        """
        if not self.standing([target]):
            return
        try:
            with held():
                if program is not None:
                    link = self.linked(group, part, program, [target])
                else:
                    part, link = self.clone(group, part, target)
                kept = self.keep(link, group, part, (target,))
        except DeniedByPolicy:
            raise
        except BpfError as error:
            if not self.standing([target]):
                return  # the error does not matter: its module was unloaded
            self.refuse(target, error)
        else:
            if not kept:
                return
        self.step(1)

    def clone(self, group: Group, part: Part, target: Target) -> tuple[Part, links.Link]:
        variant, program = self.loaded(group, part, target)
        with program:
            return replace(part, variant=variant), self.linked(group, part, program, [target])

    def loaded(self, group: Group, part: Part, target: Target) -> tuple[Variant, Fd]:
        first: VerifierError | None = None
        for variant in group.mechanism.variants(self.template, part, target):
            if variant is part.variant and variant.digest in self._hopeless:
                continue
            try:
                program = self._load(group, part, variant, target)
            except VerifierError as error:
                first = first or error
                if is_sleep_refusal(error):
                    break  # the kernel refuses every variant
                continue
            if variant.scalars:
                self._hopeless.add(part.variant.digest)
            return variant, program
        assert first is not None
        raise first

    def undo(self) -> None:
        with held():  # an interrupt waits until everything is undone
            self.link.detach()
            self.unload()


def _files(group: Group) -> int:
    # Number of open files that its links hold.
    links_ = 1 if group.mechanism.shared else len(group.targets)
    return len(group.parts) * links_ * group.mechanism.files


def _no_place(error: BpfError) -> bool:
    # The trampoline is full or saves too few slots. E2BIG from the verifier blames the program.
    return error.errno in (errno.E2BIG, ENOTSUPP) and not isinstance(error, VerifierError)


def _said(target: Target, error: BpfError, template: Template) -> Skipped:
    if isinstance(error, Stale):
        return Skipped(target.name, target.module, error.reason, error.detail)
    detail = name_of(error.errno or 0) or ""
    if isinstance(error, VerifierError) and error.summary:
        detail += f": {error.summary.strip().splitlines()[-1].strip()}"
    if is_sleep_refusal(error):
        return Skipped(target.name, target.module, Reason.NOT_SLEEPABLE, *NO_SLEEP)
    reason = Reason.KERNEL_REFUSED
    if _no_place(error):
        reason = Reason.TRAMPOLINE_FULL if error.errno == errno.E2BIG else Reason.TOO_MANY_SLOTS
    # A link of many functions does not say what was wrong with a single one.
    unsure = template.sleepable and target.may_sleep is None and error.errno == errno.EINVAL
    hint = f"perhaps {NO_SLEEP[0]}" if unsure else ""
    return Skipped(target.name, target.module, reason, detail, hint)


def check(source: MultiPrograms, template: Template, plan: Plan) -> int:
    """Load what a plan needs and close it again, to get the verifier's answer without attaching.

    Of clones, which are loaded for each function, only the first of each group is.

    :param plan: made of `template`
    :returns: programs that were loaded
    :raises VerifierError: the verifier refuses one
    :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
    """
    engine = _Engine(source, template, MultiLink(plan), None, None)
    loaded = 0
    try:
        if plan.guarded:
            engine.link.guard = source.make_guard()
        for group in plan.groups:
            for part in group.parts:
                if group.mechanism.per_function:
                    engine.loaded(group, part, group.targets[0])[1].close()
                else:
                    engine.load(group, part)
                    engine.unload()
                loaded += 1
    finally:
        engine.undo()
    return loaded


def attach(
    source: MultiPrograms,
    template: Template,
    plan: Plan,
    facts: PlanFacts,
    options: AttachOptions,
    cookies: Callable[[Target], int] | None = None,
    ground: Stands | None = None,
    losses: Losses | None = None,
) -> MultiLink:
    """Carry out a plan. Functions that the kernel refuses one by one are skipped, not fatal.

    :param source: the programs of the object, which loads variants and makes guards
    :param plan: made from `template` with `facts` and `options`
    :param cookies: target -> ``__u64`` for bpf_get_attach_cookie
    :param ground: tells whether the modules of targets are still the same; None: assume so
    :param losses: counts what the links miss
    :raises PlanError: no function could be attached to; ``.skipped`` has the reasons
    :raises VerifierError: the program itself is at fault: the verifier refused a group's variant,
        or every function's clone
    :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
    :raises BpfError: EMFILE if it needs more links than the process may have open; a soft
        limit (RLIMIT_NOFILE) that is too low is raised first
    """
    if options.planned is not None:
        options.planned(plan)
    elif plan.cost.attach_s > SLOW_S:
        warn(f"{plan.program}: attaching to {say_takes(plan.count, plan.cost.attach_s)}")
    engine = _Engine(source, template, MultiLink(plan, losses), cookies, options.progress, ground)
    try:
        try:
            return _run(engine, facts, options)
        except BaseException:
            engine.undo()
            raise
    except BaseException:
        engine.undo()  # an interrupt may come before the first `held` begins
        raise


def look_again(engine: _Engine, facts: PlanFacts, options: AttachOptions) -> tuple[Skipped, ...]:
    """Attach to functions whose module was unloaded or reloaded, as they are now.

    :returns: functions that are gone, or cannot be attached to any more
    """
    nowhere: tuple[Skipped, ...] = ()
    for _ in range(ROUNDS):
        stale = [t for t, e in engine.refused.values() if isinstance(e, Stale) and e.again]
        if not stale or engine.ground is None:
            break
        found, gone = engine.ground.again(stale)
        guarded = engine.link.guard is not None
        made = make_plan(engine.template, found, facts, options, gone, guarded=guarded)
        for target in stale:
            del engine.refused[target_key(target)]
        nowhere += made.skipped
        engine.run(made.groups)
    return nowhere


def _run(engine: _Engine, facts: PlanFacts, options: AttachOptions) -> MultiLink:
    link = engine.link
    engine.run(link.plan.groups)
    nowhere = look_again(engine, facts, options)
    # Full trampolines (E2BIG) and kernels without stack arguments (ENOTSUPP) are known
    # only now. Plan those functions again.
    full = [t for t, e in engine.refused.values() if _no_place(e)]
    if full:
        again = [
            replace(t, occupied=facts.max_programs)
            if engine.refused[target_key(t)][1].errno == errno.E2BIG
            else t
            for t in full
        ]
        fewer = any(engine.refused[target_key(t)][1].errno == ENOTSUPP for t in full)
        slots = min(facts.max_slots, _SLOTS_WITHOUT_STACK) if fewer else facts.max_slots
        known, guarded = replace(facts, max_slots=slots), link.guard is not None
        spill = make_plan(engine.template, again, known, options, guarded=guarded)
        for target in full:
            del engine.refused[target_key(target)]
        engine.run(spill.groups)
        link.spilled = tuple(engine.accepted(spill.targets))
        nowhere += (*spill.skipped, *look_again(engine, facts, options))
    errors = [error for _, error in engine.refused.values()]
    if errors and not link and all(map(_blames_program, errors)):
        raise errors[0]  # the caller needs the log
    link.refused = (
        *nowhere,
        *(_said(target, error, engine.template) for target, error in engine.refused.values()),
    )
    if not link:
        raise _nothing(link) from next(filter(_blames_program, errors), None)
    return link


def _blames_program(error: BpfError) -> bool:
    # The verifier found a fault in the program, not in the function that it is for.
    return isinstance(error, VerifierError) and not is_sleep_refusal(error)


def _nothing(link: MultiLink) -> PlanError:
    first, *rest = link.skipped or ("no function was found",)
    more = f", and {len(rest)} more" if rest else ""
    text = f"program {link.plan.program!r}: nothing to attach to: {first}{more}"
    return PlanError(text, skipped=link.skipped)
