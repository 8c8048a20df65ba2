"""The planner: which mechanism, which variant, for which function, and why not for the rest.

Theory of operation. A request is one multi program (a `Template`: its code and
what `traits.analyse` proved of it) and a set of targets. For every target and
every mechanism the planner asks one question, "can this mechanism carry this
program on this function, and if not, for what reason", from rules that are
plain data: the function's model, the kernel's features, our deny lists. A
mechanism that can gets its variant, the rewritten instruction stream, whose
bytes are the group key: targets that share mechanism, BTF object and variant
share a group, so the number of argument slots splits groups exactly where it
changes an instruction and nowhere else.

Which mechanism comes first is decided by trying: each one in turn is put at
the head of the preference order, all targets are assigned, and the order whose
predicted set-up plus tear-down is least wins. A mechanism that is no better
than another by more than 20 % and costs more per call is not tried. A target
the first mechanism cannot carry falls to the next; one that none can carry is
skipped with the reason of the most preferred mechanism. Since every order's
cost grows with each target, so does the least of them.

Everything here is pure: same inputs in any order, same plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter, itemgetter, lt
from typing import NamedTuple

from ..dataclass import dataclass, replace
from ..features import Feature
from ..trampoline.model import REGISTER_SLOTS, Model, Return
from . import guard, rewrite
from .callees import THROW, calls_traceable, leaf_functions
from .cost import Cost, Mechanism
from .denylist import denied, never_returns, risky
from .options import AUTO, LOWERINGS, AttachOptions
from .plan import Group, GroupKey, Part, Plan, PlanFacts, Side, group_key
from .reasons import NO_SLEEP, Reason, Skipped
from .target import Target
from .template import Template
from .traits import CtxHelper, Hook, Traits
from .variant import Lowering, Variant

__all__ = ["answers", "make_plan"]

_SESSION_COOKIE = "bpf_session_cookie"
_BY_ADDRESS = (
    "kprobe_multi or kprobe can trace it if the program reads neither arguments nor return value"
)
_FEWER = "attach to one function, or by a mechanism that loads it once"
# What a mechanism answers for one target: its parts, or why not (reason, detail, hint).
_No = tuple[Reason, str, str]
_Answer = tuple[Part, ...] | _No


class _Fit(NamedTuple):
    # What a target's group is made of, and the group's place among the groups.
    mechanism: Mechanism
    module: str
    parts: tuple[Part, ...]
    key: GroupKey


# What becomes of a target.
_Choice = _Fit | _No
# All of a target that a mechanism's answer depends on, but its model.
_Shape = tuple[object, ...]
_PLAIN: _Shape = ("", False, True, True, 0, False)

_VOID, _WIDE = Return.VOID, Return.WIDE


def _by_shape(targets: Sequence[Target]) -> list[tuple[_Shape, list[int]]]:
    # Positions of targets by all that a mechanism's answer depends on; a model by its identity,
    # for equal ones are mostly one object. Written for thousands of targets, most of them plain.
    plain: defaultdict[int, list[int]] = defaultdict(list)
    out: defaultdict[tuple[int, _Shape], list[int]] = defaultdict(list)
    for i, t in enumerate(targets):
        if t.unique and t.kprobe and t.address and t.btf_id and not t.occupied and not t.module:
            plain[id(t.model)].append(i)
        else:
            shape = (t.module, t.btf_id is None, t.unique, t.kprobe, t.occupied, t.address == 0)
            out[id(t.model), shape].append(i)
    return [
        *((_PLAIN, some) for some in plain.values()),
        *((shape, some) for (_, shape), some in out.items()),
    ]


def _by_sleep(
    targets: Sequence[Target], shapes: Iterable[tuple[_Shape, Sequence[int]]]
) -> list[tuple[_Shape, list[int]]]:
    # The same, where it also matters whether a function takes sleepable programs.
    out: list[tuple[_Shape, list[int]]] = []
    for shape, some in shapes:
        split: defaultdict[bool | None, list[int]] = defaultdict(list)
        for i in some:
            split[targets[i].may_sleep].append(i)
        out += [((*shape, answer), at) for answer, at in split.items()]
    return out


def _kind(model: Model | None) -> object:
    # What of a model the answers depend on: fewer kinds than there are models. Members of an
    # Enum by identity, for they have a slow hash.
    if model is None:
        return None
    returns = model.returns
    return (
        model.slots,
        returns is _VOID,
        returns is _WIDE and model.ret_size,
        model.params,
        model.structs,
        id(model.obstacle),
    )


@dataclass
class _Planner:
    template: Template
    facts: PlanFacts
    lowering: Lowering | None = None  # None: the best of each mechanism
    unguardable: str = ""  # why copies of the program cannot be many, if they cannot

    # -- which programs a mechanism loads for this hook

    def sides(self, mechanism: Mechanism) -> tuple[tuple[Side, Template], ...] | _No:
        hook = self.template.hook
        if hook is Hook.ENTRY:
            return ((Side.ENTRY, self.template),)
        if hook is Hook.EXIT:
            return ((Side.EXIT, self.template),)
        native = {
            Mechanism.TRACING_MULTI: Feature.TRACING_MULTI,
            Mechanism.TRAMPOLINE: Feature.FSESSION,
            Mechanism.KPROBE_MULTI: Feature.KPROBE_SESSION,
        }.get(mechanism)
        # A kprobe.session has what is in a register for a return value at entry, not the 0 of
        # every other session.
        kprobes = mechanism is Mechanism.KPROBE_MULTI
        stray = kprobes and self.template.reads_ret_at_entry
        if native is not None and self.facts.features.supports(native) and not stray:
            return ((Side.SESSION, self.template),)
        if _SESSION_COOKIE in self.template.traits.kfuncs:
            why = ", for it reads the return value at entry too" if stray else ""
            return (
                Reason.NO_SESSION_COOKIE,
                f"{mechanism.value} makes a session of two programs here{why}",
                "session cookies need kprobe.session (6.10) or fsession (7.0)",
            )
        return ((Side.ENTRY, self.template.half(False)), (Side.EXIT, self.template.half(True)))

    def supported(self, mechanism: Mechanism) -> _No | None:
        feature = {
            Mechanism.TRACING_MULTI: Feature.TRACING_MULTI,
            Mechanism.TRAMPOLINE: Feature.FENTRY,
            Mechanism.KPROBE_MULTI: Feature.KPROBE_MULTI,
            Mechanism.KPROBE: Feature.KPROBE,
        }[mechanism]
        if self.template.sleepable and mechanism in (Mechanism.KPROBE_MULTI, Mechanism.KPROBE):
            return (Reason.NOT_SLEEPABLE, f"{mechanism.value} programs cannot sleep", "")
        if not self.facts.features.supports(feature):
            since = f" ({feature.since} and newer)" if feature.since else ""
            return (Reason.NO_MECHANISM, f"it has no {feature.value}{since}", "")
        if self.lowering is not None and mechanism not in LOWERINGS[self.lowering]:
            detail = f"{mechanism.value} has no {self.lowering.value} lowering"
            return (Reason.NO_MECHANISM, detail, "")
        return None

    # -- one target, one mechanism

    def answer(self, mechanism: Mechanism, target: Target) -> _Answer:
        sides = self.sides(mechanism)
        if isinstance(sides[0], Reason):
            return sides
        problem = (
            self.trampoline_problem(mechanism, target)
            if mechanism in (Mechanism.TRACING_MULTI, Mechanism.TRAMPOLINE)
            else self.kprobe_problem(mechanism, target)
        )
        if problem is not None:
            return problem
        parts = []
        for side, template in sides:
            traits = template.traits
            if mechanism in (Mechanism.KPROBE_MULTI, Mechanism.KPROBE):
                no = self.regs_problem(side, traits, target)
                if no is not None:
                    return no
            parts.append(Part(side, self.variant(mechanism, side, template, target)))
        return tuple(parts)

    def exits(self) -> bool:
        return self.template.hook is not Hook.ENTRY

    def trampoline_problem(self, mechanism: Mechanism, target: Target) -> _No | None:
        model = target.model
        if not target.unique:
            return (Reason.AMBIGUOUS, "the kernel would take the first", _BY_ADDRESS)
        if target.btf_id is None or model is None:
            return (Reason.NO_BTF, "", _BY_ADDRESS)
        if model.obstacle is not None:
            return (model.obstacle, f"{model.params} parameters, {model.slots} slots", "")
        if model.slots > self.facts.max_slots:
            detail = f"{model.slots} slots, this kernel's trampolines save {self.facts.max_slots}"
            return (Reason.TOO_MANY_SLOTS, detail, "")
        if self.exits() and model.returns is Return.WIDE:
            return (Reason.RETURNS_STRUCT, f"returns {model.ret_size} bytes", "")
        if self.template.sleepable and target.may_sleep is False:
            return (Reason.NOT_SLEEPABLE, *NO_SLEEP)
        if mechanism is Mechanism.TRAMPOLINE and self.unguardable:
            return (Reason.NO_GUARD, self.unguardable, _FEWER)
        need = 2 if self.template.hook is Hook.SESSION else 1
        if target.occupied + need > self.facts.max_programs:
            detail = f"{target.occupied} of {self.facts.max_programs}"
            return (Reason.TRAMPOLINE_FULL, detail, "")
        return None

    def kprobe_problem(self, mechanism: Mechanism, target: Target) -> _No | None:
        if mechanism is Mechanism.KPROBE and not target.kprobe:
            return (Reason.NOT_TRACEABLE, "on the kprobe blacklist", "")
        if not target.unique and not target.address:
            return (Reason.AMBIGUOUS, "", "give the address")
        cookie = Feature.ATTACH_COOKIE
        helpers = self.template.traits.helpers
        if CtxHelper.get_attach_cookie in helpers and not self.facts.features.supports(cookie):
            return (Reason.NO_MECHANISM, "it has no cookies on kprobes", "")
        return None

    def regs_problem(self, side: Side, traits: Traits, target: Target) -> _No | None:
        model = target.model
        counts = traits.needs_args or CtxHelper.get_func_arg_cnt in traits.helpers
        if model is None or not target.unique:
            # Without a model nobody knows which slots are its own, or whether it is void.
            if counts or traits.needs_ret:
                reason = Reason.NO_BTF if target.unique else Reason.AMBIGUOUS
                return (reason, "the program reads arguments or the return value", "")
            return None
        if self.reads_own_args(traits, model) and (
            side is Side.EXIT
            or (
                side is Side.SESSION and self.reads_own_args(self.template.half(True).traits, model)
            )
        ):
            hint = "fentry/fexit clones have them"
            return (Reason.NO_EXIT_ARGS, "kprobes lose argument registers", hint)
        if model.structs and traits.needs_args:
            return (Reason.TOO_MANY_SLOTS, "a struct by value may be on the stack", "")
        top = traits.max_arg
        if model.slots > REGISTER_SLOTS and (top is None or top >= REGISTER_SLOTS):
            return (Reason.TOO_MANY_SLOTS, "arguments on the stack are not in pt_regs", "")
        return None

    @staticmethod
    def reads_own_args(traits: Traits, model: Model) -> bool:
        if any(slot < model.slots for slot in traits.slots):
            return True
        return any(
            call.helper == CtxHelper.get_func_arg and (call.arg is None or call.arg < model.slots)
            for call in traits.calls
        )

    # -- variants

    def variant(
        self, mechanism: Mechanism, side: Side, template: Template, target: Target
    ) -> Variant:
        traits = template.traits
        model = target.model
        # The entry half of a session has no return value to read yet.
        returns = side is not Side.ENTRY and (model is None or not model.is_void)
        slots = model.slots if model is not None else 0
        if mechanism in (Mechanism.TRACING_MULTI, Mechanism.TRAMPOLINE):
            if not traits.accesses:
                return template.variant(Lowering.NATIVE, lambda: template.code)
            if mechanism is Mechanism.TRAMPOLINE and self.lowering is not Lowering.FRAME:
                return template.variant(
                    Lowering.DIRECT,
                    lambda: rewrite.direct(template.code, traits, slots=slots, returns=returns),
                    slots,
                    returns,
                )
            shown = returns or not traits.reads_ret
            return template.variant(
                Lowering.FRAME,
                lambda: rewrite.frame(template.code, traits, returns=shown, static=template.static),
                shown,
            )
        return template.variant(
            Lowering.REGS,
            lambda: rewrite.regs(template.code, traits, slots=slots, returns=returns),
            slots,
            returns,
        )

    # -- the recursion guard

    def recursive(self, names: Iterable[str]) -> bool:
        """The program's calls may run one of these functions."""
        traits = self.template.traits
        return calls_traceable(traits) or not leaf_functions(traits).isdisjoint(names)

    def guarded(self, groups: Iterable[Group]) -> tuple[Group, ...]:
        """The groups, in the order of their new variants."""
        out = [
            replace(
                group,
                parts=tuple(
                    Part(part.side, self.template.guarded(part.variant)) for part in group.parts
                ),
            )
            for group in groups
        ]
        return tuple(sorted(out, key=lambda group: group.key))

    # -- all targets, one order of mechanisms

    def choose(self, shape: Target, order: Sequence[Mechanism]) -> _Choice:
        # What becomes of every target of a shape.
        first: _No | None = None
        for mechanism in order:
            answer = self.answer(mechanism, shape)
            if answer and isinstance(answer[0], Part):
                parts: tuple[Part, ...] = answer
                # kprobes are loaded for no BTF: modules share their group.
                btf = mechanism in (Mechanism.TRACING_MULTI, Mechanism.TRAMPOLINE)
                module = shape.module if btf else ""
                return _Fit(mechanism, module, parts, group_key(mechanism, module, parts))
            first = first or answer  # type: ignore[assignment]
        return first or (Reason.NO_MECHANISM, "", "")

    def weigh(
        self,
        targets: Sequence[Target],
        shapes: Sequence[tuple[_Shape, Sequence[int]]],
        order: Sequence[Mechanism],
    ) -> tuple[list[_Choice], int, Cost]:
        """What becomes of each shape, how many targets are left over, and the cost.

        Targets of one group have one `_Fit`, the same object.
        """
        known: dict[object, _Choice] = {}
        fits: dict[GroupKey, _Fit] = {}
        chosen: list[_Choice] = []
        counts: defaultdict[int, int] = defaultdict(int)
        for shape, some in shapes:
            one = targets[some[0]]
            kind = (_kind(one.model), shape)
            choice = known.get(kind)
            if choice is None:
                choice = self.choose(one, order)
                if isinstance(choice, _Fit):
                    choice = fits.setdefault(choice.key, choice)
                known[kind] = choice
            chosen.append(choice)
            counts[id(choice)] += len(some)
        cost = Cost()
        for _, fit in sorted(fits.items(), key=itemgetter(0)):
            cost += self.facts.costs.predict(
                fit.mechanism,
                counts[id(fit)],
                sides=len(fit.parts),
                entry=fit.parts[0].side is not Side.EXIT,
                exit_=fit.parts[-1].side is not Side.ENTRY,
            )
        return chosen, len(targets) - sum(counts[id(fit)] for fit in fits.values()), cost

    @staticmethod
    def place(
        targets: Sequence[Target],
        shapes: Iterable[tuple[_Shape, Sequence[int]]],
        chosen: Iterable[_Choice],
    ) -> tuple[tuple[Group, ...], list[Skipped]]:
        """The groups, their targets in the order given, and what was left over."""
        found: dict[int, tuple[_Fit, list[int]]] = {}
        skipped: list[Skipped] = []
        for (_, some), choice in zip(shapes, chosen, strict=True):
            if isinstance(choice, _Fit):
                group = found.get(id(choice))
                if group is None:
                    group = found[id(choice)] = (choice, [])
                group[1].extend(some)
            else:
                skipped += [_skipped(targets[i], choice) for i in some]
        groups = tuple(
            Group(fit.mechanism, fit.module, fit.parts, tuple([targets[i] for i in sorted(at)]))
            for fit, at in sorted(found.values(), key=lambda group: group[0].key)
        )
        return groups, skipped

    def orders(self, usable: Sequence[Mechanism], prefer: str | None) -> list[list[Mechanism]]:
        costs = self.facts.costs

        def sides(mechanism: Mechanism) -> int:
            found = self.sides(mechanism)
            return 1 if isinstance(found[0], Reason) else len(found)

        def setup(mechanism: Mechanism) -> float:
            return costs.per_target_ms(mechanism, sides(mechanism))

        def per_call(mechanism: Mechanism) -> int:
            hook = self.template.hook
            return costs.insns(mechanism, entry=hook is not Hook.EXIT, exit_=hook is not Hook.ENTRY)

        if prefer == "overhead":
            return [sorted(usable, key=lambda m: (per_call(m), setup(m)))]
        kept = [
            m
            for m in usable
            if not any(
                per_call(o) < per_call(m)
                and setup(o) <= 1.2 * setup(m)
                # with one function; the line above says the same of every further one
                and costs.price(o).fixed_ms + setup(o) <= 1.2 * (costs.price(m).fixed_ms + setup(m))
                for o in usable
            )
        ]
        return [[head, *sorted((m for m in usable if m is not head), key=setup)] for head in kept]


def _refused(name: str, exits: bool) -> Skipped | None:
    rule = denied(name)
    if rule is not None:
        return Skipped(name, "", Reason.DENIED, rule.why)
    if exits and never_returns(name):
        return Skipped(name, "", Reason.NORETURN, hint="fentry.multi can")
    return None


def _skipped(target: Target, no: _No) -> Skipped:
    reason, detail, hint = no
    # One of several of this name is told by its address.
    address = 0 if target.unique else target.address
    return Skipped(target.name, target.module, reason, detail, hint, address)


def _rank(target: Target) -> tuple[object, ...]:
    m = target.model
    shape: tuple[object, ...] = ()
    if m is not None:
        obstacle = m.obstacle.value if m.obstacle else ""
        shape = (
            m.slots,
            m.returns.value,
            m.ret_size,
            m.signed,
            m.params,
            m.structs,
            m.pointers,
            obstacle,
        )
    return (
        target.address,
        target.module,
        target.name,
        target.btf_id or 0,
        target.unique,
        target.kprobe,
        target.occupied,
        str(target.may_sleep),
        *shape,
    )


def make_plan(
    template: Template,
    targets: Iterable[Target],
    facts: PlanFacts,
    options: AttachOptions = AUTO,
    skipped: Iterable[Skipped] = (),
    *,
    guarded: bool = False,
) -> Plan:
    """Group targets by mechanism and variant. Pure.

    :param targets: functions; order does not matter
    :param facts: what the kernel offers
    :param skipped: functions that were asked for and left out before planning
    :param guarded: it is for a link that has a recursion guard already
    :raises PlanError: if the program's use of the context cannot be proved
    """
    forced = options.only
    work = _Planner(template, facts, options.shape)
    exits = work.exits()
    skipped = list(skipped)
    rest, distinct = _ordered(targets)
    no = {n: why for n in risky([t.name for t in rest]) if (why := _refused(n, exits)) is not None}
    if no:
        skipped += [replace(no[t.name], module=t.module) for t in rest if t.name in no]
        rest = [t for t in rest if t.name not in no]
    if not distinct:
        # The first of the names of an address stays: the order is total, so always the same.
        seen: dict[object, Target] = {}
        for target in rest:
            twin = seen.setdefault(target.address or (target.module, target.name), target)
            if twin is not target:
                same = (twin.module, twin.name) == (target.module, target.name)
                of = "it is asked for twice" if same else f"of {twin.label}"
                skipped.append(Skipped(target.name, target.module, Reason.ALIAS, of))
        rest = list(seen.values())

    candidates = [forced] if forced is not None else list(Mechanism)
    usable = [m for m in candidates if work.supported(m) is None]
    if not usable:
        no_way = work.supported(candidates[0]) or (Reason.NO_MECHANISM, "", "")
        skipped += [Skipped(t.name, t.module, *no_way) for t in rest]
        return Plan(
            template.name,
            template.hook,
            (),
            _sorted(skipped),
            Cost(),
            template.sleepable,
        )
    # An unprovable program is one error, not a reason per target: this asks for its traits.
    recursive = work.recursive(t.name for t in rest)
    obstacle = guard.obstacle(template.code, template.kfunc_names.values(), THROW)
    if recursive and len(rest) > 1:
        work.unguardable = obstacle
    shapes = _by_shape(rest)
    if template.sleepable:
        shapes = _by_sleep(rest, shapes)
    tried = [work.weigh(rest, shapes, order) for order in work.orders(usable, options.prefer)]
    chosen, _, cost = min(tried, key=lambda t: (t[1], t[2].attach_s + t[2].detach_s))
    groups, left = work.place(rest, shapes, chosen)
    if recursive and not obstacle and (guarded or _copies(groups)):
        groups = work.guarded(groups)
        sides = 2 if template.hook is Hook.SESSION else 1
        more = facts.costs.guard_insns * sides
        cost = replace(cost, insns_per_call=cost.insns_per_call + more)
    return Plan(
        template.name, template.hook, groups, _sorted(skipped + left), cost, template.sleepable
    )


def _copies(groups: Sequence[Group]) -> bool:
    # The kernel has more than one flag against recursion for what is loaded: each tracing program
    # has one, all kprobe programs have one together (``bpf_prog_active``). A single clone counts
    # too: other links may be made of the program, and of others of its object.
    kprobes = (Mechanism.KPROBE_MULTI, Mechanism.KPROBE)
    tracing = [group for group in groups if group.mechanism not in kprobes]
    flags = sum(g.programs for g in tracing) + (len(tracing) < len(groups))
    return flags > 1 or any(g.mechanism is Mechanism.TRAMPOLINE for g in groups)


def _ordered(targets: Iterable[Target]) -> tuple[list[Target], bool]:
    # By address, and where those are equal by everything else. And whether no two have the
    # same address, all being known.
    out = list(targets)
    for _ in range(2):
        addresses = [t.address for t in out]
        if all(map(lt, [0, *addresses], addresses)):
            return out, True
        out.sort(key=attrgetter("address"))
    out.sort(key=_rank)
    return out, False


def answers(program: Template, target: Target, facts: PlanFacts) -> dict[Mechanism, Skipped | None]:
    """For each mechanism: None if it can carry the program on the function, or why not. Pure.

    :raises PlanError: if the program's use of the context cannot be proved
    """
    work = _Planner(program, facts)
    refused = _refused(target.name, work.exits())
    if refused is not None:
        refused = replace(refused, module=target.module)
    out: dict[Mechanism, Skipped | None] = {}
    for mechanism in Mechanism:
        answer: _Answer | _No | None = work.supported(mechanism)
        if refused is not None:
            out[mechanism] = refused
            continue
        answer = answer or work.answer(mechanism, target)
        if answer and isinstance(answer[0], Part):
            out[mechanism] = None
        else:
            out[mechanism] = _skipped(target, answer)  # type: ignore[arg-type]
    return out


def _sorted(skipped: list[Skipped]) -> tuple[Skipped, ...]:
    return tuple(
        sorted(skipped, key=lambda s: (s.module, s.name, s.reason.value, s.detail, s.address))
    )
