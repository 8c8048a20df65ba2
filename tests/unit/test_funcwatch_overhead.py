"""funcwatch --max-overhead: the hottest functions go, as few as possible, until it is cheap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.tools.funcwatch.overhead import HOT, Meter, excess

RATES = st.dictionaries(st.integers(0, 50), st.integers(0, 1_000_000), max_size=30)
SHARES = st.floats(0, 1)


@given(RATES, SHARES, st.floats(0.001, 1))
def test_what_is_left_is_cheap_or_not_hot(
    rates: dict[int, float], share: float, limit: float
) -> None:
    """Every function costs its part of the calls; none that is seldom called goes."""
    gone = excess(rates, share, limit)
    assert len(set(gone)) == len(gone) and all(rates[number] >= HOT for number in gone)
    if share <= limit:
        assert gone == []
        return
    stays = [rate for number, rate in rates.items() if number not in gone]
    cheap = share * sum(stays) <= limit * sum(rates.values())
    assert cheap or all(rate < HOT for rate in stays)


@given(RATES, SHARES, st.floats(0.001, 1))
def test_the_hottest_go_and_no_more_than_needed(
    rates: dict[int, float], share: float, limit: float
) -> None:
    gone = excess(rates, share, limit)
    stays = [rate for number, rate in rates.items() if number not in gone]
    assert not gone or min(rates[number] for number in gone) >= max(stays, default=0)
    total = sum(rates.values())
    without_last = total - sum(rates[number] for number in gone[:-1])
    assert not gone or share * without_last > 0.8 * limit * total


def test_a_meter() -> None:
    """Of all CPUs; a program that came counts from 0, one that went not at all."""
    meter = Meter(4)
    assert meter.share({1: 10**9}, 100.0) is None
    assert meter.share({1: 10**9 + 2 * 10**8}, 101.0) is None
    assert meter.share({2: 4 * 10**8}, 102.0) == pytest.approx(0.05)
    assert meter.share({2: 9 * 10**8}, 103.0) == pytest.approx(0.1)
    assert meter.share({}, 104.0) == 0
    assert meter.share({}, 104.0) is None
    meter.begin()
    assert meter.share({3: 10**8}, 105.0) is None
    assert meter.share({3: 2 * 10**8}, 106.0) == pytest.approx(0.025)


def test_one_odd_reading_costs_nothing() -> None:
    """A guest that was not run for a while: the next reading says that it was not the program."""
    meter = Meter(1)
    ran = 0
    for number, ns in enumerate([0, 10**6, 10**9, 10**6, 10**6]):
        ran += ns
        share = meter.share({1: ran}, 100.0 + number)
        assert share is None or share == pytest.approx(0.001)
