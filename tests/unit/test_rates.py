"""Plans by rates of calls: busy functions cost few instructions, idle ones little set-up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf import trampoline
from pybpf.errors import PlanError
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import Plan
from pybpf.multi.planner import make_plan
from pybpf.multi.rates import Rates, plan_for, total_s
from pybpf.multi.target import Target
from tests.unit.test_planner import K6_1, K6_12, K7_3, KERNELS, PROGRAMS, SESSION, model, requests

by_name = st.dictionaries(
    st.sampled_from([f"f{i}" for i in range(30)]), st.floats(0, 1e7), max_size=30
)
horizons = st.sampled_from([0.0, 1.0, 3600.0, 86400.0])


def options(request: Any, rates: Any = None, horizon: float = 0.0, prefer: Any = None) -> Any:
    _, _, _, mechanism, _ = request
    if rates is None:
        return AttachOptions(mechanism=mechanism, prefer=prefer)
    return AttachOptions(mechanism=mechanism, rates=rates, horizon=horizon)


def everyone(plan: Plan) -> list[tuple[str, str, int]]:
    return sorted(
        [(t.module, t.name, t.address) for t in plan.targets]
        + [(s.module, s.name, -1) for s in plan.skipped]
    )


@given(requests, by_name, horizons)
def test_never_dearer_than_either_end(
    request: Any, rates: dict[str, float], horizon: float
) -> None:
    """Total seconds, calls included: at most the least of least set-up and least per call."""
    template, targets, facts, _, _ = request
    plan = plan_for(template, targets, facts, options(request, rates, horizon))
    known = Rates(rates, horizon)
    for prefer in (None, "overhead"):
        end = make_plan(template, targets, facts, options(request, prefer=prefer))
        assert total_s(plan, facts, known) <= total_s(end, facts, known) * (1 + 1e-9)


@given(requests, by_name, horizons)
def test_no_function_is_lost(request: Any, rates: dict[str, float], horizon: float) -> None:
    """Attached or skipped: the same functions as without rates, and no two groups are one."""
    template, targets, facts, _, _ = request
    plan = plan_for(template, targets, facts, options(request, rates, horizon))
    assert everyone(plan) == everyone(make_plan(template, targets, facts, options(request)))
    keys = [group.key for group in plan.groups]
    assert keys == sorted(set(keys))
    parts = [part for group in plan.groups for part in group.parts]
    assert len({part.variant.guarded for part in parts}) <= 1, "a guard is shared by all or none"


@given(requests, by_name, horizons, st.randoms())
def test_same_input_same_plan(
    request: Any, rates: dict[str, float], horizon: float, random: Any
) -> None:
    template, targets, facts, _, _ = request
    plan = plan_for(template, targets, facts, options(request, rates, horizon))
    shuffled = list(targets)
    random.shuffle(shuffled)
    assert plan_for(template, shuffled, facts, options(request, rates, horizon)) == plan


TARGETS = [Target(f"f{n}", "", 0x1000 * (n + 1), n + 1, model(2)) for n in range(2000)]
#: 20 of 2,000 functions have 90 % of 100,000 calls a second.
SKEWED = {f"f{n}": 4_500.0 if n < 20 else 5.05 for n in range(2000)}


@pytest.mark.parametrize("facts", [K6_12, K7_3])
def test_the_hot_ones_get_trampolines(facts: Any) -> None:
    """On 6.12 a link of kprobe.multi for the cold mass; on 7.x one mechanism is best for all."""
    plan = trampoline.plan(SESSION, TARGETS, facts, rates=SKEWED, horizon=600)
    by = {group.mechanism.value: {target.name for target in group.targets} for group in plan.groups}
    if facts is K7_3:
        assert set(by) == {"tracing_multi"}
        return
    assert set(by) == {"trampoline", "kprobe_multi"}
    assert by["trampoline"] == {f"f{n}" for n in range(20)}
    known = Rates(SKEWED, 600)
    alone = make_plan(SESSION, TARGETS, facts, AttachOptions(mechanism="kprobe_multi"))
    assert total_s(plan, facts, known) <= 0.6 * total_s(alone, facts, known)


def test_idle_functions_cost_nothing_more() -> None:
    """No calls: the plan without rates. Calls without end: the plan of least overhead."""
    for facts in KERNELS:
        plain = make_plan(SESSION, TARGETS[:50], facts)
        assert plan_for(SESSION, TARGETS[:50], facts, AttachOptions(rates={})) == plain
        busy = AttachOptions(rates=dict.fromkeys(SKEWED, 1e9))
        least = make_plan(SESSION, TARGETS[:50], facts, AttachOptions(prefer="overhead"))
        assert plan_for(SESSION, TARGETS[:50], facts, busy) == least


def test_a_module_function_is_meant_by_its_label() -> None:
    """A rate by ``name [module]`` is of that function only."""
    twin = replace(TARGETS[0], module="mod", address=0x999000)
    rates = Rates({"f0": 5.0, "f0 [mod]": 7.0}, 10)
    assert (rates.calls(TARGETS[0]), rates.calls(twin), rates.calls(TARGETS[1])) == (50, 70, 0)


def test_rates_and_a_preference_contradict() -> None:
    with pytest.raises(PlanError, match="leave prefer out"):
        trampoline.plan(PROGRAMS[0], TARGETS[:1], K6_1, prefer="overhead", rates={})
