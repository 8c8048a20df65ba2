"""A few short histories of tracers; `make histories` plays hundreds. PYBPF_SEED=N is the first."""

from __future__ import annotations

import os

import pytest

from tests.histories.guest import known_calls
from tests.support.scenario import failing

pytestmark = [pytest.mark.long, pytest.mark.icount]

HISTORIES = 5
STEPS = 20


def test_whatever_comes_and_goes_every_program_sees_the_truth() -> None:
    first = int(os.environ.get("PYBPF_SEED", "1"))
    with known_calls() as (pool, about):
        assert len(pool.functions) >= 12
        for seed in range(first, first + HISTORIES):
            problem = failing(pool, seed, STEPS, about)
            assert not problem, problem
