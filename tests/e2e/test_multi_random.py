"""Attach random multi and standard programs, and compare them with kprobes after every step.

Each step attaches a random program to a random set of functions that the workload calls, or
detaches a random one; then the workload runs and every attached program must have seen exactly
what plain kprobes saw, every other program nothing, and images and links must agree. The seed is
printed; PYBPF_SEED=N chooses one, PYBPF_SEED=random a new one each time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf.features import Feature
from pybpf.kernel.lookup import BtfTarget
from pybpf.multi.reasons import Reason
from pybpf.trampoline.links import attachments
from tests.support.require import probes
from tests.support.trampolines import verify
from tests.support.witness import PROGRAMS, SESSION, Function, Program, Witness
from tests.support.workload import called_functions, workload

pytestmark = pytest.mark.long

POOL = 200  # functions at least
STEPS = 5
NEEDS = {
    "tracing_multi": Feature.TRACING_MULTI,
    "trampoline": Feature.FENTRY,
    "kprobe_multi": Feature.KPROBE_MULTI,
    "kprobe": Feature.KPROBE,
}
# Functions in one set: what is attached one by one is slow to detach on 6.x.
SIZES = {"tracing_multi": 60, "kprobe_multi": 150, "trampoline": 6, "kprobe": 8, "auto": 40}
AT_KPROBES = ("entry_slots", "entry_helpers", "entry_narrow", "exit_ret", "session")
AT_TRAMPOLINES = (*AT_KPROBES, "exit_slots", "exit_helpers")
STANDARD = ("std_entry", "std_exit")


@dataclass(frozen=True)
class Pool:
    """Functions under kprobes for as long as this file's tests run."""

    witness: Witness
    functions: list[Function]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    witness = Witness(called_functions())
    try:
        inside = [f for f in witness.functions if not f.target.module]
        # Single kprobes take 25 ms to attach and up to 76 ms to detach, and 6.1 has no others.
        count = POOL + (50 if witness.batch else 15)
        functions = random.Random(1).sample(inside, min(count, len(inside)))
        with witness.watch_by_kprobes(functions):
            witness.run(workload, functions)
            yield Pool(witness, witness.called(functions))
    finally:
        witness.close()


@dataclass
class Party:
    """One program while it is attached."""

    programs: tuple[Program, ...]
    functions: list[Function]
    close: Callable[[], None]


class Scenario:
    """Random steps, from one seed."""

    def __init__(self, pool: Pool, mechanisms: Sequence[str], seed: int) -> None:
        self.pool = pool
        self.witness = pool.witness
        self.random = random.Random(seed)
        self.mechanisms = mechanisms
        self.live: dict[str, Party] = {}
        self.trampolines = False  # some have been made
        self.said = [f"seed {seed}"]
        # Half of every set is from few functions, so that sets overlap.
        self.crowded = self.random.sample(pool.functions, 12)
        self.by_address = {f.target.address: f for f in pool.functions}

    def some(self, count: int) -> list[Function]:
        count = self.random.randint(max(1, count // 3), count)
        chosen = self.random.sample(self.crowded, min(len(self.crowded), (count + 1) // 2))
        chosen += self.random.sample(self.pool.functions, count // 2)
        return list({f.number: f for f in chosen}.values())

    def attach(self) -> None:
        mechanism = self.random.choice(self.mechanisms)
        names = AT_KPROBES if mechanism.startswith("kprobe") else AT_TRAMPOLINES
        if probes().answer(Feature.FENTRY).ok:
            names = (*names, *STANDARD)
        name = self.random.choice([n for n in names if n not in self.live])
        self.trampolines |= name in STANDARD or not mechanism.startswith("kprobe")
        functions = self.some(SIZES["trampoline" if name in STANDARD else mechanism])
        self.said.append(f"attach {name} by {mechanism} to {' '.join(f.name for f in functions)}")
        if name in STANDARD:
            self.live[name] = self.standard(name, functions)
        else:
            self.live[name] = self.multi(name, mechanism, functions)

    def standard(self, name: str, functions: list[Function]) -> Party:
        functions = [f for f in functions if f.slots <= 6]  # what every kernel can trace
        with ExitStack() as made:
            for function in functions:
                assert function.target.btf_id is not None
                target = BtfTarget(function.target.btf_id)
                with self.witness.obj.programs[name].clone(target=target) as clone:
                    made.enter_context(clone.attach_tracing(cookie=function.number))
            return Party((PROGRAMS[name],), functions, made.pop_all().close)

    def multi(self, name: str, mechanism: str, functions: list[Function]) -> Party:
        link = self.witness.obj.programs[name].attach_multi(
            [f.target for f in functions], mechanism=mechanism, cookies=self.witness.cookie
        )
        left = [s for s in link.skipped if s.reason is not Reason.TOO_MANY_SLOTS]
        if left:
            link.detach()
            pytest.fail(self.text(f"skipped: {left[0]}"))
        on = [self.by_address[t.address] for t in link.targets]
        programs = SESSION if name == "session" else (PROGRAMS[name],)
        return Party(programs, on, link.detach)

    def detach(self) -> None:
        name = self.random.choice(sorted(self.live))
        self.said.append(f"detach {name}")
        self.live.pop(name).close()

    def step(self) -> None:
        if len(self.live) < 2 or (len(self.live) < 5 and self.random.random() < 0.6):
            self.attach()
        else:
            self.detach()
        self.check()

    def check(self) -> None:
        witness = self.witness
        witness.run(workload, self.pool.functions)
        problems = []
        for party in self.live.values():
            for program in party.programs:
                problems += witness.problems(program, party.functions)
                problems += self.seen_elsewhere(program, party.functions)
        for program in (*PROGRAMS.values(), *SESSION):
            if program.name not in self.live:
                problems += self.seen_elsewhere(program, ())
        if self.trampolines:
            problems += [str(finding) for finding in verify()]
        if problems:
            pytest.fail(self.text(*problems))

    def seen_elsewhere(self, program: Program, functions: Sequence[Function]) -> list[str]:
        own = {f.number for f in functions}
        seen = self.witness.seen[program.seen]
        return [
            f"{program.name} saw {f.name}, which it is not attached to"
            for f in self.pool.functions
            if f.number not in own and any(seen.raw(f.number))
        ]

    def close(self) -> None:
        order = sorted(self.live)
        self.random.shuffle(order)
        for name in order:
            self.live.pop(name).close()

    def text(self, *problems: str) -> str:
        more = [f"... and {len(problems) - 20} more"] if len(problems) > 20 else []
        return "\n".join([*self.said, *problems[:20], *more])


@pytest.mark.parametrize(
    "mechanism",
    [
        *(pytest.param(name, marks=pytest.mark.needs(feature)) for name, feature in NEEDS.items()),
        "mixed",
    ],
)
def test_random_company(pool: Pool, mechanism: str) -> None:
    """Whatever comes and goes, every program sees the truth, and nothing is left at the end."""
    assert len(pool.functions) >= POOL
    given = os.environ.get("PYBPF_SEED", "1")
    seed = random.SystemRandom().randrange(1 << 32) if given == "random" else int(given)
    print(f"seed {seed}")
    mixed = [*(n for n, f in NEEDS.items() if probes().answer(f).ok), "auto"]
    before = {a.link for a in attachments()}
    links = set(sys_bpf.ids("link"))
    scenario = Scenario(pool, mixed if mechanism == "mixed" else [mechanism], seed)
    try:
        for _ in range(STEPS):
            scenario.step()
    finally:
        scenario.close()
    scenario.said.append("detach all")
    scenario.check()
    assert {a.link for a in attachments()} == before
    assert set(sys_bpf.ids("link")) == links
