"""Attach random multi and standard programs, and compare them with kprobes after every step.

Each step attaches a random program to a random set of functions, or detaches one
(tests/support/scenario.py). Here the sets are large, and the functions are all that a workload
calls. `python3 -m tests.histories` plays many short histories on few functions. The seed is
printed; PYBPF_SEED=N chooses one, PYBPF_SEED=random a new one each time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.support.mechanisms import MECHANISMS, supported
from tests.support.scenario import STANDARD, Pool, failing, world
from tests.support.witness import Witness
from tests.support.workload import called_functions, workload

pytestmark = pytest.mark.long

POOL = 200  # functions at least
STEPS = 5
# Functions in one set: what is attached one by one is slow to detach on 6.x.
SIZES = {
    "tracing_multi": 60,
    "kprobe_multi": 150,
    "trampoline": 6,
    "kprobe": 8,
    "auto": 40,
    STANDARD: 6,
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Functions under kprobes for as long as this file's tests run."""
    witness = Witness(called_functions())
    try:
        inside = [f for f in witness.functions if not f.target.module]
        # Single kprobes take 25 ms to attach and up to 76 ms to detach, and 6.1 has no others.
        count = POOL + (50 if witness.batch else 15)
        functions = random.Random(1).sample(inside, min(count, len(inside)))
        with witness.watch_by_kprobes(functions):
            witness.run(workload, functions)
            yield Pool(witness, witness.called(functions), workload)
    finally:
        witness.close()


@pytest.mark.parametrize(
    "mechanism",
    [*MECHANISMS, "mixed"],
)
def test_random_company(pool: Pool, mechanism: str) -> None:
    """Whatever comes and goes, every program sees the truth, and nothing is left at the end."""
    assert len(pool.functions) >= POOL
    given = os.environ.get("PYBPF_SEED", "1")
    seed = random.SystemRandom().randrange(1 << 32) if given == "random" else int(given)
    print(f"seed {seed}")
    names = [*supported(), "auto"] if mechanism == "mixed" else [mechanism]
    used = [*names, STANDARD] if "trampoline" in supported() else names
    problem = failing(pool, seed, STEPS, world(pool, {name: SIZES[name] for name in used}))
    assert not problem, problem
