"""A few short histories of tracers; `make histories` plays hundreds. PYBPF_SEED=N is the first."""

from __future__ import annotations

import os

import pytest

from pybpf.multi.target import Target
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


def test_a_fault_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong cookie of one function: one step with that function is all that is left."""
    with known_calls() as (pool, about):
        right = pool.witness.cookie
        wrong = next(f for f in pool.functions if f.name == "vfs_mkdir").target.address

        def cookie(target: Target) -> int:
            return right(target) + (target.address == wrong)

        monkeypatch.setattr(pool.witness, "cookie", cookie)
        problems = (failing(pool, seed, STEPS, about) for seed in range(1, 20))
        problem = next(filter(None, problems))
    print(problem)
    last = problem.splitlines()
    at = last.index(f"the smallest history that fails, of {STEPS} steps:")
    (step,) = last[at + 1 :]
    assert step.startswith("attach ") and step.endswith(" to vfs_mkdir")
