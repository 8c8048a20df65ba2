"""The planner chooses a mechanism and a variant for each function, or a reason to skip it.

Theory of operation. A request is one multi program (a `Template`: its code and
what `traits.analyse` proved of it) and a set of targets. For every target and
every mechanism the planner asks one question, "can this mechanism carry this
program on this function, and if not, for what reason", from rules that are
plain data: the function's model, the kernel's features, our deny lists. A
mechanism that can carry it gives a variant, the rewritten instruction stream.
Targets that share mechanism, BTF object and variant share a group. So the number
of argument slots splits groups only where it changes an instruction.

The first mechanism is found by trying. Each one in turn is put at the head of
the preference order, and all targets are assigned. The order with the lowest
predicted set-up plus tear-down wins. A mechanism with dearer calls than another
is not tried if its set-up saves no more than 20 %, or if the calls that a function
is assumed to get (`cost.CALLS`) cost more than the set-up saves. This rule does
not depend on the number of functions, so it cannot make a larger request cheaper.
If the first mechanism cannot carry a target, the next one is asked. If none can,
the target is skipped with the reason of the most preferred mechanism; but if a mechanism that
this process may not use could carry it, that is the reason. If no mechanism can be used at all,
the reason that matters most is given (`_weight`). The cost of
every order grows with each target, and so does the lowest of them.

Everything here is pure. The same inputs in any order give the same plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from ..bulk import picked, places_of, zeros
from ..dataclass import dataclass, replace
from ..features import new_enough
from ..kernel.functions import label
from ..namedtuple import NamedTuple
from ..trampoline.model import Model, Return
from . import guard
from .callees import THROW, calls_traceable, leaf_functions
from .columns import TargetColumns, Targets
from .cost import Cost
from .denylist import denied, never_returns, risky
from .mechanisms import MECHANISMS, Mechanism, Refusal, Request
from .options import AUTO, AttachOptions
from .plan import Group, GroupKey, Part, Plan, PlanFacts, Side, group_key
from .reasons import Reason, Skipped
from .target import Target
from .template import Template
from .traits import Hook

__all__ = ["answers", "make_plan"]


class _Fit(NamedTuple):
    # What makes a target's group, and the group's place among the groups.
    mechanism: Mechanism
    module: str
    parts: tuple[Part, ...]
    key: GroupKey


# The result for a target.
_Choice = _Fit | Refusal
# All properties of a target that a mechanism's answer depends on, except its model.
_Shape = tuple[object, ...]
_PLAIN: _Shape = ("", False, True, True, 0, False)

_VOID, _WIDE = Return.VOID, Return.WIDE


def _by_shape(targets: Targets) -> list[tuple[_Shape, list[int]]]:
    # Positions of the targets, by everything that a mechanism's answer depends on. This is fast for
    # thousands of targets, most of them plain: models are compared by identity, because equal ones
    # are mostly one object, and the columns are searched for what is not plain.
    columns, rows = targets.columns, targets.rows
    if 4 * len(rows) < len(columns.names):
        columns, rows = TargetColumns.of(targets), range(len(rows))
    unique, kprobe, addresses = columns.unique, columns.kprobe, columns.addresses
    btf_ids, occupied, modules = columns.btf_ids, columns.occupied, columns.modules
    models = columns.models
    odd = {*places_of(0, unique), *places_of(0, kprobe), *zeros(addresses), *zeros(btf_ids)}
    for values in (occupied, modules):
        if any(values):
            odd.update([row for row, value in enumerate(values) if value])
    ids = list(map(id, models))
    numbers: dict[object, int] = {}
    by_id = {
        key: numbers.setdefault((_kind(model), _PLAIN), len(numbers))
        for key, model in dict(zip(ids, models, strict=True)).items()
    }
    kinds = list(map(by_id.__getitem__, ids))
    shapes = [_PLAIN] * len(numbers)
    for r in odd:
        known = (not btf_ids[r], unique[r], kprobe[r], occupied[r], addresses[r] == 0)
        shape = (modules[r], *known)
        kinds[r] = numbers.setdefault((kinds[r], shape), len(numbers))
        if len(numbers) > len(shapes):
            shapes.append(shape)
    out: list[list[int]] = [[] for _ in shapes]
    for i, kind in enumerate(picked(kinds, rows)):
        out[kind].append(i)
    return [(shape, some) for shape, some in zip(shapes, out, strict=True) if some]


def _by_sleep(
    may_sleep: Sequence[bool | None],
    rows: Sequence[int],
    shapes: Iterable[tuple[_Shape, Sequence[int]]],
) -> list[tuple[_Shape, list[int]]]:
    # The same, where it also matters whether a function takes sleepable programs.
    out: list[tuple[_Shape, list[int]]] = []
    for shape, some in shapes:
        split: defaultdict[bool | None, list[int]] = defaultdict(list)
        for i in some:
            split[may_sleep[rows[i]]].append(i)
        out += [((*shape, answer), at) for answer, at in split.items()]
    return out


def _kind(model: Model | None) -> object:
    # The properties of a model that the answers depend on: fewer kinds than models. Enum members
    # are compared by identity, because their hash is slow.
    if model is None:
        return None
    returns = model.returns
    return (
        model.slots,
        returns is _VOID,
        (returns is _WIDE or model.returns_in_memory) and model.ret_size,
        model.params,
        model.structs,
        id(model.obstacle),
    )


@dataclass(frozen=True, slots=True)
class _Planner:
    request: Request
    # Mechanisms that a policy or missing rights forbid.
    forbidden: tuple[tuple[Mechanism, Refusal], ...] = ()

    # -- the recursion guard

    def recursive(self, names: Iterable[str]) -> bool:
        """Return True if the program's calls may run one of these functions."""
        traits = self.request.template.traits
        leaves = leaf_functions(traits)
        return calls_traceable(traits) or (bool(leaves) and not leaves.isdisjoint(names))

    def guarded(self, groups: Iterable[Group]) -> tuple[Group, ...]:
        """Return the groups, in the order of their new variants."""
        out = [
            replace(
                group,
                parts=tuple(
                    Part(part.side, self.request.template.guarded(part.variant))
                    for part in group.parts
                ),
            )
            for group in groups
        ]
        return tuple(sorted(out, key=lambda group: group.key))

    # -- all targets, one order of mechanisms

    def choose(self, shape: Target, order: Sequence[Mechanism]) -> _Choice:
        # The result for every target of a shape.
        first: Refusal | None = None
        for mechanism in order:
            answer = mechanism.answer(self.request, shape)
            if not isinstance(answer, Refusal):
                # Programs that are not loaded for a BTF object are shared by the modules.
                module = shape.module if mechanism.needs_btf else ""
                return _Fit(mechanism, module, answer, group_key(mechanism, module, answer))
            first = first or answer
        for mechanism, no in self.forbidden:
            if not isinstance(mechanism.answer(self.request, shape), Refusal):
                return no
        return first or Refusal(Reason.NO_MECHANISM)

    def weigh(
        self,
        targets: Targets,
        shapes: Sequence[tuple[_Shape, Sequence[int]]],
        order: Sequence[Mechanism],
    ) -> tuple[list[_Choice], int, Cost]:
        """Return the result for each shape, the number of targets left over, and the cost.

        Targets of one group have one `_Fit`, the same object.
        """
        known: dict[object, _Choice] = {}
        fits: dict[GroupKey, _Fit] = {}
        chosen: list[_Choice] = []
        counts: defaultdict[int, int] = defaultdict(int)
        models, rows = targets.columns.models, targets.rows
        for shape, some in shapes:
            kind = (_kind(models[rows[some[0]]]), shape)
            choice = known.get(kind)
            if choice is None:
                choice = self.choose(targets[some[0]], order)
                if isinstance(choice, _Fit):
                    choice = fits.setdefault(choice.key, choice)
                known[kind] = choice
            chosen.append(choice)
            counts[id(choice)] += len(some)
        cost = Cost()
        for _, fit in sorted(fits.items(), key=itemgetter(0)):
            cost += fit.mechanism.price(self.request.facts.costs).predict(
                counts[id(fit)],
                sides=len(fit.parts),
                entry=fit.parts[0].side is not Side.EXIT,
                exit_=fit.parts[-1].side is not Side.ENTRY,
                slowness=self.request.facts.costs.slowness,
            )
        return chosen, len(targets) - sum(counts[id(fit)] for fit in fits.values()), cost

    @staticmethod
    def place(
        targets: Targets,
        shapes: Iterable[tuple[_Shape, Sequence[int]]],
        chosen: Iterable[_Choice],
    ) -> tuple[tuple[Group, ...], list[Skipped]]:
        """Return the groups, with their targets in the given order, and what was left over."""
        found: dict[int, tuple[_Fit, list[int]]] = {}
        skipped: list[Skipped] = []
        for (_, some), choice in zip(shapes, chosen, strict=True):
            if isinstance(choice, _Fit):
                group = found.get(id(choice))
                if group is None:
                    group = found[id(choice)] = (choice, [])
                group[1].extend(some)
            else:
                skipped += [choice.of(targets[i]) for i in some]
        groups = tuple(
            Group(
                fit.mechanism,
                fit.module,
                fit.parts,
                targets if len(at) == len(targets) else targets.take(sorted(at)),
            )
            for fit, at in sorted(found.values(), key=lambda group: group[0].key)
        )
        return groups, skipped

    def orders(self, usable: Sequence[Mechanism], options: AttachOptions) -> list[list[Mechanism]]:
        prices = {m: m.price(self.request.facts.costs) for m in usable}
        hook = self.request.template.hook

        def sides(mechanism: Mechanism) -> int:
            found = mechanism.sides(self.request)
            return 1 if isinstance(found, Refusal) else len(found)

        def setup(mechanism: Mechanism) -> float:
            return prices[mechanism].per_target_ms(sides(mechanism))

        if options.ordered:
            return [list(usable)]
        entry, exit_ = hook is not Hook.EXIT, hook is not Hook.ENTRY
        if options.prefer == "overhead":
            return [
                sorted(usable, key=lambda m: (prices[m].insns(entry=entry, exit_=exit_), setup(m)))
            ]
        kept = [
            m
            for m in usable
            if not any(
                prices[o].repays(prices[m], sides=(sides(o), sides(m)), entry=entry, exit_=exit_)
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
    :param skipped: requested functions that were left out before planning
    :param guarded: the plan is for a link that already has a recursion guard
    :raises PlanError: if the program's use of the context cannot be proved
    """
    request = Request(template, facts, options.shape, unknown=options.unknown is not None)
    work = _Planner(request)
    exits = request.exits
    skipped = list(skipped)
    wanted = Targets.of(targets)
    columns = wanted.columns
    rows, distinct = _ordered(wanted)
    names = columns.names
    refused = {
        name: why
        for name in risky(wanted.column(names))
        if (why := _refused(name, exits)) is not None
    }
    if refused:
        no = [row for row in rows if names[row] in refused]
        skipped += [replace(refused[names[row]], module=columns.modules[row]) for row in no]
        rows = [row for row in rows if names[row] not in refused]
    if not distinct:
        rows = _without_aliases(columns, rows, skipped)
    rest = Targets(columns, rows)

    candidates = {m: m.unsupported(request) for m in options.mechanisms}
    usable = [mechanism for mechanism, no in candidates.items() if no is None]
    if not usable:
        no_way = _no_way(candidates, facts)
        skipped += [_asking_why(no_way.of(t)) for t in rest]
        return Plan(
            template.name,
            template.hook,
            (),
            _sorted(skipped),
            Cost(),
            template.sleepable,
        )
    work = replace(work, forbidden=_forbidden(candidates))
    # This asks for the traits: a program that cannot be proved is one error, not many reasons.
    recursive = work.recursive(rest.column(names))
    obstacle = guard.obstacle(template.code, template.kfunc_names.values(), THROW)
    if recursive and len(rest) > 1:
        request = replace(request, unguardable=obstacle)
        work = replace(work, request=request)
    shapes = _by_shape(rest)
    if template.sleepable:
        shapes = _by_sleep(columns.may_sleep, rows, shapes)
    tried = [work.weigh(rest, shapes, order) for order in work.orders(usable, options)]
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


def _forbidden(
    candidates: Mapping[Mechanism, Refusal | None],
) -> tuple[tuple[Mechanism, Refusal], ...]:
    return tuple(
        (mechanism, no)
        for mechanism, no in candidates.items()
        if no is not None and no.reason is Reason.NOT_PERMITTED
    )


def _no_way(candidates: Mapping[Mechanism, Refusal | None], facts: PlanFacts) -> Refusal:
    # Why no mechanism can be used: the reason that matters most, of the most preferred mechanism.
    refusals = [(_weight(m, no, facts), no) for m, no in candidates.items() if no is not None]
    return min(refusals, key=itemgetter(0), default=(0, Refusal(Reason.NO_MECHANISM)))[1]


def _weight(mechanism: Mechanism, no: Refusal, facts: PlanFacts) -> int:
    # Rights can be had, and an option can be built in; a newer kernel is the last resort.
    if no.reason is Reason.NOT_PERMITTED:
        return 0
    built = no.reason is Reason.NO_MECHANISM
    return 1 if built and new_enough(facts.release, mechanism.feature.since) else 2


def _asking_why(skipped: Skipped) -> Skipped:
    hint = f"for each mechanism's reason: pybpf trampolines why {skipped.name}"
    return replace(skipped, hint=hint)


def _copies(groups: Sequence[Group]) -> bool:
    # The kernel has several flags against recursion for the loaded programs: each tracing program
    # has its own, and all kprobe programs share one (``bpf_prog_active``). A single clone counts
    # too, because other links may use the program, or other programs of its object.
    own = sum(group.programs for group in groups if not group.mechanism.shares_flag)
    flags = own + any(group.mechanism.shares_flag for group in groups)
    return flags > 1 or any(group.mechanism.per_function for group in groups)


def _ordered(targets: Targets) -> tuple[Sequence[int], bool]:
    # Rows sorted by address, and equal addresses by everything else. Also returns True if all
    # addresses are known and different.
    addresses = targets.columns.addresses.tolist()
    rows, known = targets.rows, targets.column(addresses)
    in_order = sorted(known)
    if in_order != known:
        rows = sorted(rows, key=addresses.__getitem__)
    if 0 not in in_order[:1] and len(set(in_order)) == len(in_order):
        return rows, True
    out: list[int] = []
    for _, same in groupby(rows, key=addresses.__getitem__):
        some = list(same)
        if len(some) > 1:
            some.sort(key=lambda row: _rank(targets.columns.target(row)))
        out += some
    return out, False


def _without_aliases(
    columns: TargetColumns, rows: Sequence[int], skipped: list[Skipped]
) -> list[int]:
    # The first name of an address stays. The order is total, so it is always the same name.
    seen: dict[object, int] = {}
    for row in rows:
        name, module = columns.names[row], columns.modules[row]
        twin = seen.setdefault(columns.addresses[row] or (module, name), row)
        if twin != row:
            same = (columns.modules[twin], columns.names[twin]) == (module, name)
            label_ = label(columns.names[twin], columns.modules[twin])
            of = "it is asked for twice" if same else f"of {label_}"
            skipped.append(Skipped(name, module, Reason.ALIAS, of))
    return list(seen.values())


def answers(program: Template, target: Target, facts: PlanFacts) -> dict[Mechanism, Skipped | None]:
    """Return None for each mechanism that can carry the program on the function, or why not. Pure.

    :raises PlanError: if the program's use of the context cannot be proved
    """
    request = Request(program, facts)
    refused = _refused(target.name, request.exits)
    if refused is not None:
        return dict.fromkeys(MECHANISMS, replace(refused, module=target.module))
    out: dict[Mechanism, Skipped | None] = {}
    for mechanism in MECHANISMS:
        answer = mechanism.unsupported(request) or mechanism.answer(request, target)
        out[mechanism] = answer.of(target) if isinstance(answer, Refusal) else None
    return out


def _sorted(skipped: list[Skipped]) -> tuple[Skipped, ...]:
    return tuple(
        sorted(skipped, key=lambda s: (s.module, s.name, s.reason.value, s.detail, s.address))
    )
