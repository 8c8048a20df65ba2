"""Play a history of multi and standard programs, and compare them with kprobes after every step.

After each step known code runs, and every attached program must have seen exactly what plain
kprobes saw, every other program nothing. At the end images and links must agree, and everything
must be gone.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pybpf._sys import bpf as sys_bpf
from pybpf.kernel.lookup import BtfTarget
from pybpf.multi.reasons import Reason
from pybpf.trampoline.links import attachments
from tests.support.histories import Step, World, history, shrink
from tests.support.trampolines import verify
from tests.support.witness import PROGRAMS, SESSION, Function, Program, Witness

__all__ = ["STANDARD", "Pool", "failing", "play", "world"]

#: Stands for a clone of a standard program on each function, among the mechanisms of a step.
STANDARD = "standard"
_STANDARD = ("std_entry", "std_exit")
_AT_KPROBES = ("entry_slots", "entry_helpers", "entry_narrow", "exit_ret", "session")
_AT_TRAMPOLINES = (*_AT_KPROBES, "exit_slots", "exit_helpers")
_SHOWN = 20


@dataclass(frozen=True)
class Pool:
    """Hold functions under kprobes, and what calls them.

    :param truth: calls of each function in one `run`, where that is known
    """

    witness: Witness
    functions: list[Function]
    run: Callable[[], None]
    truth: Mapping[str, int] = field(default_factory=dict)


def world(pool: Pool, sizes: Mapping[str, int], crowded: int = 12) -> World:
    """Return the world of histories on these functions.

    :param sizes: most functions of a set, by mechanism; those without are not used
    """
    programs = {
        name: _STANDARD
        if name == STANDARD
        else _AT_KPROBES
        if name.startswith("kprobe")
        else _AT_TRAMPOLINES
        for name in sizes
    }
    return World([f.name for f in pool.functions], sizes, programs, crowded)


@dataclass
class _Party:
    # One program while it is attached.
    programs: tuple[Program, ...]
    functions: list[Function]
    close: Callable[[], None]


class _Wrong(Exception):
    pass


class _Scenario:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.witness = pool.witness
        self.live: dict[str, _Party] = {}
        self.by_address = {f.target.address: f for f in pool.functions}
        self.by_name = {f.name: f for f in pool.functions}

    def do(self, step: Step) -> None:
        if not step.functions:
            if step.program in self.live:
                self.live.pop(step.program).close()
        elif step.program not in self.live:
            functions = [self.by_name[name] for name in step.functions]
            attach = self.standard if step.mechanism == STANDARD else self.multi
            self.live[step.program] = attach(step, functions)

    def standard(self, step: Step, functions: list[Function]) -> _Party:
        functions = [f for f in functions if f.slots <= 6]  # what every kernel can trace
        with ExitStack() as made:
            for function in functions:
                assert function.target.btf_id is not None
                target = BtfTarget(function.target.btf_id)
                with self.witness.obj.programs[step.program].clone(target=target) as clone:
                    made.enter_context(clone.attach_tracing(cookie=function.number))
            return _Party((PROGRAMS[step.program],), functions, made.pop_all().close)

    def multi(self, step: Step, functions: list[Function]) -> _Party:
        link = self.witness.obj.programs[step.program].attach_multi(
            [f.target for f in functions],
            mechanism=step.mechanism,
            cookies=self.witness.cookie,
        )
        left = [s for s in link.skipped if s.reason is not Reason.TOO_MANY_SLOTS]
        if left:
            link.detach()
            raise _Wrong(f"skipped: {left[0]}")
        on = [self.by_address[t.address] for t in link.targets]
        programs = SESSION if step.program == "session" else (PROGRAMS[step.program],)
        return _Party(programs, on, link.detach)

    def check(self) -> None:
        witness = self.witness
        witness.run(self.pool.run, self.pool.functions)
        problems = []
        for party in self.live.values():
            for program in party.programs:
                problems += witness.problems(program, party.functions)
                problems += self.seen_elsewhere(program, party.functions)
        for program in (*PROGRAMS.values(), *SESSION):
            if program.name not in self.live:
                problems += self.seen_elsewhere(program, ())
        entries = witness.seen["kprobe_entry_seen"]
        for name, calls in self.pool.truth.items():
            function = self.by_name.get(name)
            if function is not None and (saw := entries[function.number].calls) != calls:
                problems.append(f"the kprobe of {name} saw {saw} of {calls} calls")
        if problems:
            more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
            raise _Wrong("\n".join([*problems[:_SHOWN], *more]))

    def seen_elsewhere(self, program: Program, functions: Sequence[Function]) -> list[str]:
        own = {f.number for f in functions}
        seen = self.witness.seen[program.seen]
        return [
            f"{program.name} saw {f.name}, which it is not attached to"
            for f in self.pool.functions
            if f.number not in own and any(seen.raw(f.number))
        ]

    def close(self) -> None:
        while self.live:
            self.live.popitem()[1].close()


def play(pool: Pool, steps: Sequence[Step]) -> str:
    """Play a history. Return what was wrong after which step, "" if nothing was."""
    links = set(sys_bpf.ids("link"))
    before = {a.link for a in attachments()}
    scenario = _Scenario(pool)
    doing = "nothing"
    try:
        try:
            for number, step in enumerate(steps, 1):
                doing = f"step {number}, {step}"
                scenario.do(step)
                scenario.check()
            doing = "the last step"
            if found := verify():
                raise _Wrong("\n".join(map(str, found)))
        finally:
            scenario.close()
        doing = "detaching all"
        scenario.check()
        if {a.link for a in attachments()} != before or set(sys_bpf.ids("link")) != links:
            raise _Wrong("links are left")
    except _Wrong as wrong:
        return f"after {doing}:\n{wrong}"
    except Exception:
        return f"in {doing}:\n{traceback.format_exc()}"
    return ""


def _smallest(pool: Pool, steps: Sequence[Step], problem: str) -> str:
    """Describe the smallest part of a failing history that still fails.

    :param problem: what `play` returned
    """
    if not (again := play(pool, steps)):
        said = [f"{problem}", "played again, it does not fail; all steps:"]
        return "\n".join([*said, *map(str, steps)])
    last = again

    def fails(some: Sequence[Step]) -> bool:
        nonlocal last
        found = play(pool, some)
        last = found or last
        return bool(found)

    least = shrink(steps, fails)
    said = [last, f"the smallest history that fails, of {len(steps)} steps:"]
    return "\n".join([*said, *map(str, least)])


def failing(pool: Pool, seed: int, count: int, about: World) -> str:
    """Play the history of a seed. Return "" or what is wrong, with the smallest history."""
    steps = history(seed, count, about)
    problem = play(pool, steps)
    return problem and f"seed {seed}\n{_smallest(pool, steps, problem)}"
