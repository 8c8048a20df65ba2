"""Plan with known rates of calls: what a function costs depends on how often it is called.

Theory of operation. With a trampoline a call costs a third of what it costs with a kprobe, but
attaching and detaching a trampoline takes a hundred times as long. So a trampoline is cheaper
for a function that is called often, and dearer for one that is hardly ever called. If the calls
per second are known, both costs are seconds: the time to attach and detach, and instructions x
calls over the time that the program stays attached.

For each function the planner's two extremes are compared: the plan with the lowest set-up cost
("cold") and the plan with the lowest cost per call ("hot"). Functions that are cheaper hot are
planned that way, the others cold, and the two plans are joined. Fixed costs of groups may make
the joined plan dearer than one of the extremes, so the cheapest of the three is taken. It is
never dearer than either extreme.

Pure: same input, same plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..dataclass import dataclass, replace
from .cost import MS_PER_INSN
from .options import AttachOptions
from .plan import Group, Plan, PlanFacts, Side, in_groups
from .planner import make_plan
from .reasons import Skipped
from .target import Target
from .template import Template

__all__ = ["Rates", "plan_for", "total_s"]

_MS = 1e-3
_S_PER_INSN = MS_PER_INSN * _MS


@dataclass(frozen=True, slots=True)
class Rates:
    """Say how often functions are called, and how long the program will stay.

    :param by_name: calls per second by ``name`` or ``name [module]``; missing ones count as 0
    :param horizon: seconds that the program stays attached
    """

    by_name: Mapping[str, float]
    horizon: float

    def calls(self, target: Target) -> float:
        """Return the calls of a function during the whole time."""
        by = self.by_name
        return by.get(target.label, by.get(target.name, 0.0)) * self.horizon


def plan_for(
    template: Template,
    targets: Iterable[Target],
    facts: PlanFacts,
    options: AttachOptions,
    skipped: Iterable[Skipped] = (),
) -> Plan:
    """Do what `make_plan` does, but use rates if the options have some.

    :raises PlanError: as `make_plan`
    """
    if options.rates is None:
        return make_plan(template, targets, facts, options, skipped)
    rates = Rates(options.rates, options.horizon)
    targets = list(targets)
    cold = make_plan(template, targets, facts, options, skipped)
    hot = make_plan(
        template, targets, facts, replace(options, prefer="overhead", rates=None), skipped
    )
    by_cold, by_hot = _costs(cold, facts, rates), _costs(hot, facts, rates)
    busy = {where for where, cost in by_hot.items() if cost < by_cold.get(where, cost)}
    plans = [cold, hot]
    if busy and len(busy) < len(by_cold):
        plans.append(_joined(template, cold, busy, facts, options))
    return min(plans, key=lambda plan: total_s(plan, facts, rates))


def total_s(plan: Plan, facts: PlanFacts, rates: Rates) -> float:
    """Predict the seconds that a plan costs: attaching, detaching, and all calls."""
    calls = sum(
        rates.calls(target) * _insns(group, facts)
        for group in plan.groups
        for target in group.targets
    )
    called = calls * _S_PER_INSN * facts.costs.slowness
    return plan.cost.attach_s + plan.cost.detach_s + called


def _insns(group: Group, facts: PlanFacts) -> int:
    # Instructions of a traced call in this group.
    sides = [part.side for part in group.parts]
    price = group.mechanism.price(facts.costs)
    insns = price.insns(entry=sides[0] is not Side.EXIT, exit_=sides[-1] is not Side.ENTRY)
    return insns + sum(part.variant.guarded for part in group.parts) * facts.costs.guard_insns


_Where = tuple[str, str, int]


def _where(target: Target) -> _Where:
    return (target.module, target.name, target.address)


def _costs(plan: Plan, facts: PlanFacts, rates: Rates) -> dict[_Where, float]:
    # Seconds that each function adds to a plan, without the fixed cost of its group.
    found = {}
    slowness = facts.costs.slowness
    for group in plan.groups:
        price = group.mechanism.price(facts.costs)
        setup = price.per_target_ms(len(group.parts), slowness) * _MS
        call = _insns(group, facts) * _S_PER_INSN * slowness
        for target in group.targets:
            found[_where(target)] = setup + call * rates.calls(target)
    return found


def _joined(
    template: Template, cold: Plan, busy: set[_Where], facts: PlanFacts, options: AttachOptions
) -> Plan:
    # Plans the busy functions for few instructions, and leaves the others as they were.
    hot_options = replace(options, prefer="overhead", rates=None)

    def halves(guarded: bool) -> tuple[Plan, Plan]:
        some = [t for t in cold.targets if _where(t) in busy]
        rest = [t for t in cold.targets if _where(t) not in busy]
        return (
            make_plan(template, some, facts, hot_options, guarded=guarded),
            make_plan(template, rest, facts, options, guarded=guarded),
        )

    hot, rest = halves(False)
    if hot.guarded or rest.guarded:
        hot, rest = halves(True)  # copies of one program share the guard across both halves
    groups = in_groups(
        (group.mechanism, group.module, group.parts, target)
        for half in (hot, rest)
        for group in half.groups
        for target in group.targets
    )
    skipped = sorted(
        {*cold.skipped, *hot.skipped, *rest.skipped},
        key=lambda s: (s.module, s.name, s.reason.value, s.detail, s.address),
    )
    return replace(cold, groups=groups, skipped=tuple(skipped), cost=hot.cost + rest.cost)
