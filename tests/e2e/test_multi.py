"""Multi programs see the right values on every mechanism, beside any other programs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf.features import Feature
from pybpf.multi.mechanisms import KPROBE, KPROBE_MULTI
from pybpf.multi.reasons import Reason
from pybpf.multi.resolve import Asked, Resolver
from tests.support.mechanisms import MECHANISMS
from tests.support.require import facts
from tests.support.trampolines import verify

DATA = Path(__file__).resolve().parents[1] / "data"
GLOB = "bpf_fentry_test?"
STACK = None  # an address that only the kernel knows
#: What BPF_PROG_TEST_RUN passes to bpf_fentry_testN, and what that returns.
CALLS: dict[int, tuple[list[int | None], int]] = {
    1: ([1], 2),
    2: ([2, 3], 5),
    3: ([4, 5, 6], 15),
    4: ([7, 8, 9, 10], 34),
    5: ([11, 12, 13, 14, 15], 65),
    6: ([16, 17, 18, 19, 20, 21], 111),
    7: ([0], 0),  # a pointer, returned as it came
    8: ([STACK], 0),  # the address of a struct of zeros; its first member comes back
}
#: Functions that never return and that some kernel of ours can trace.
NORETURN = ("do_exit", "do_group_exit", "make_task_dead", "kthread_complete_and_exit")
KERNEL_HALF = 1 << 63  # addresses from here on are the kernel's
TRAMPOLINES = MECHANISMS[:2]


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "multi.bpf.o", facts=facts()) as opened:
        opened.load()
        yield opened


@pytest.fixture
def standard() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "fentry_args.bpf.o", facts=facts()) as opened:
        opened.load()
        yield opened


def number(target: Any) -> int:
    """The cookie: the digit in bpf_fentry_testN."""
    return int(target.name[-1])


def check(obj: pybpf.Object, name: str, *, args: bool, ret: bool, runs: int = 1) -> set[int]:
    """What one program saw of bpf_fentry_test1..8 is what the kernel passed and got.

    :returns: the addresses it saw where the kernel passed one of its own
    """
    seen = dict(obj.maps[name].items())
    addresses = set()
    for n, (values, result) in CALLS.items():
        one = seen[n]
        expected: list[int | None] = [*values, *[0] * (6 - len(values))] if args else [0] * 6
        got = list(one.args)
        if STACK in expected:
            at = expected.index(STACK)
            assert got[at] >= KERNEL_HALF, f"{name}: bpf_fentry_test{n}"
            addresses.add(got[at])
            expected[at] = got[at]
        assert got == expected, f"{name}: bpf_fentry_test{n}"
        assert one.ret == (result if ret else 0), f"{name}: bpf_fentry_test{n}"
        assert one.count == runs
        address = obj.facts.kallsyms.by_name(f"bpf_fentry_test{n}")[0].addr
        assert one.ip == address
    return addresses


def attached(obj: pybpf.Object, program: str, mechanism: str, asked: Asked = GLOB) -> Any:
    return obj.programs[program].attach_multi(asked, mechanism=mechanism, cookies=number)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    ("program", "seen"), [("on_entry", "entry_slots"), ("on_entry_helpers", "entry_helpers")]
)
def test_entry(
    obj: pybpf.Object, standard: pybpf.Object, mechanism: str, program: str, seen: str
) -> None:
    """Arguments by slot and by helper, 0 past the last; address and cookie on every mechanism."""
    with attached(obj, program, mechanism) as link:
        assert {g.mechanism.value for g in link.plan.groups} == {mechanism}
        assert len(link.targets) >= 8
        standard.programs["entry1"].test_run()
        if mechanism in ("tracing_multi", "trampoline"):
            assert not verify()
    check(obj, seen, args=True, ret=False)
    if seen == "entry_helpers":
        assert [obj.maps[seen][n].nargs for n in CALLS] == [1, 2, 3, 4, 5, 6, 1, 1]


@pytest.mark.parametrize("mechanism", TRAMPOLINES)
@pytest.mark.parametrize(
    ("program", "seen"), [("on_exit", "exit_slots"), ("on_exit_helpers", "exit_helpers")]
)
def test_exit_with_arguments(
    obj: pybpf.Object, standard: pybpf.Object, mechanism: str, program: str, seen: str
) -> None:
    """Arguments and return value at exit, by slot (ctx[6]) and by helper."""
    with attached(obj, program, mechanism):
        standard.programs["entry1"].test_run()
        assert not verify()
    check(obj, seen, args=True, ret=True)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_return_value(obj: pybpf.Object, standard: pybpf.Object, mechanism: str) -> None:
    """ctx[6] alone works on every mechanism: rax is there at a kretprobe too."""
    with attached(obj, "on_exit_ret", mechanism):
        standard.programs["entry1"].test_run()
    check(obj, "exit_ret", args=False, ret=True)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_session(obj: pybpf.Object, standard: pybpf.Object, mechanism: str) -> None:
    """One program at entry and exit: native, kprobe.session or a pair, each sees its side."""
    with attached(obj, "on_session", mechanism):
        standard.programs["entry1"].test_run()
    seen = dict(obj.maps["session"].items())
    for n, (values, result) in CALLS.items():
        first = seen[n].args[0]
        assert first == values[0] or (values[0] is STACK and first >= KERNEL_HALF)
        assert (seen[n].ret, seen[n].count) == (result, 2)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_return_value_at_the_entry_of_a_session(
    obj: pybpf.Object, standard: pybpf.Object, mechanism: str
) -> None:
    """0 at entry and the truth at exit, by slot and by helper, whatever makes the session."""
    with attached(obj, "on_session_ret", mechanism):
        standard.programs["entry1"].test_run()
    seen = dict(obj.maps["session"].items())
    for n, (_, result) in CALLS.items():
        assert list(seen[n].args[:3]) == [100, 100, result]
        assert (seen[n].ret, seen[n].count) == (result, 2)


@pytest.mark.parametrize("mechanism", MECHANISMS[2:])
def test_arguments_at_exit_are_a_reason_for_kprobes(obj: pybpf.Object, mechanism: str) -> None:
    with pytest.raises(pybpf.PlanError, match="not available at exit"):
        attached(obj, "on_exit", mechanism)


State = tuple[int, ...]  # who is attached, in the order they came


def after(state: State, turn: int) -> State:
    """Return the state after one program has attached or detached."""
    return tuple(p for p in state if p != turn) if turn in state else (*state, turn)


def way(state: State, parties: int, wanted: Callable[[State], Iterable[int]]) -> State | None:
    """Find the fewest steps from a state to one with a missing step, and that step."""
    seen: set[State] = {state}
    queue: list[tuple[State, State]] = [(state, ())]
    for here, path in queue:
        for turn in wanted(here):
            return (*path, turn)
        for turn in range(parties):
            there = after(here, turn)
            if there not in seen:
                seen.add(there)
                queue.append((there, (*path, turn)))
    return None


def every_company(parties: int) -> Iterator[int]:
    """Whose turn it is, until everybody has been there in every order of coming: the one who goes
    comes back as the last."""
    state: State = ()
    met: set[State] = set()

    def wanted(here: State) -> Iterator[int]:
        missing = [p for p in range(parties) if p not in here]
        return (p for p in missing if len(missing) == 1 and (*here, p) not in met)

    while turns := way(state, parties, wanted):
        for turn in turns:
            state = after(state, turn)
            yield turn
        met.add(state)
    yield from state


def every_step(parties: int) -> Iterator[int]:
    """Whose turn it is, until every step has been taken that any order of attaching and any order
    of detaching can have, from everyone who can be there, in the order they came."""
    state: State = ()
    taken: set[tuple[State, int]] = set()

    def wanted(here: State) -> Iterator[int]:
        return (p for p in range(parties) if (here, p) not in taken)

    while turns := way(state, parties, wanted):
        for turn in turns:
            taken.add((state, turn))
            state = after(state, turn)
            yield turn
    yield from reversed(state)


@pytest.mark.icount
@pytest.mark.time_limit(1800)
@pytest.mark.needs(Feature.FENTRY)
@pytest.mark.parametrize("turns", [every_company, pytest.param(every_step, marks=pytest.mark.long)])
def test_the_2021_scenario(
    obj: pybpf.Object, standard: pybpf.Object, turns: Callable[[int], Iterator[int]]
) -> None:
    """A standard fexit, two fexit.multi and a fentry.multi on bpf_fentry_test1..8, attached
    and detached in every order: each always sees the true arguments and return value.

    What the kernel holds depends on which programs are attached, and in which order. There are 65
    such states, and every step from each of them stands for all pairs of an attach and a detach
    order; the short form meets the 24 states in which all are there.
    """
    reads_slots = ("exit_slots", True, True)
    reads_helpers = ("exit_helpers", True, True)
    enters = ("entry_slots", True, False)
    functions, _ = Resolver(obj.facts).resolve(GLOB, at_exit=True)  # once, not at every step
    parties: list[tuple[Callable[[], Any], tuple[str, bool, bool] | None]] = [
        (standard.programs["exit2"].attach, None),
        (lambda: attached(obj, "on_exit", "auto", functions), reads_slots),
        (lambda: attached(obj, "on_exit_helpers", "auto", functions), reads_helpers),
        (lambda: attached(obj, "on_entry", "auto", functions), enters),
    ]
    live: dict[int, Any] = {}

    def run() -> None:
        for name in ("exit_slots", "exit_helpers", "entry_slots"):
            obj.maps[name].clear()
        before = standard.maps["seen"][8 + 2].count
        standard.programs["entry1"].test_run()
        addresses = set()
        for index, (_, sees) in enumerate(parties):
            if sees is None:
                own = standard.maps["seen"][8 + 2]
                assert own.count - before == (1 if index in live else 0)
                if index in live:
                    assert (list(own.args)[:2], own.ret) == ([2, 3], 5)
            elif index in live:
                addresses |= check(obj, sees[0], args=sees[1], ret=sees[2])
            else:
                assert len(obj.maps[sees[0]]) == 0
        assert len(addresses) <= 1, "one call, and programs saw different arguments"

    everyone = set()
    with ExitStack() as everything:
        for turn in turns(len(parties)):
            if turn in live:
                live.pop(turn).close()
            else:
                live[turn] = everything.enter_context(parties[turn][0]())
            run()
            if len(live) == len(parties) and (order := tuple(live)) not in everyone:
                everyone.add(order)
                assert not verify()
        assert not live
    assert len(everyone) == math.factorial(len(parties))
    assert not verify()


@pytest.mark.needs(Feature.FENTRY)
def test_full_trampoline_spills(obj: pybpf.Object, standard: pybpf.Object) -> None:
    """With the maximum number of programs on a function the next multi attach still works."""
    with ExitStack() as crowd:
        count = 0
        while True:
            clone = crowd.enter_context(standard.programs["entry1"].clone())
            try:
                crowd.enter_context(clone.attach_tracing())
            except pybpf.BpfError as error:
                assert error.errno == 7  # E2BIG
                break
            count += 1
        assert count in (36, 38)
        with obj.programs["on_entry"].attach_multi(
            "bpf_fentry_test1", mechanism="auto", cookies=1
        ) as link:
            assert link.plan.groups[0].mechanism in (KPROBE_MULTI, KPROBE)
            standard.programs["entry1"].test_run()
        assert obj.maps["entry_slots"][1].args[0] == 1
        with pytest.raises(pybpf.PlanError, match="holds the most programs"):
            obj.programs["on_entry"].attach_multi("bpf_fentry_test1", mechanism="trampoline")


def test_denied_and_unknown_names_are_reasons(obj: pybpf.Object) -> None:
    """__rcu_read_lock is refused by us on every kernel; a wrong name gets a near one."""
    with obj.programs["on_entry"].attach_multi(
        ["bpf_fentry_test1", "__rcu_read_lock", "__rcu_read_unlock", "bpf_fentry_tets2"],
        mechanism="auto",
    ) as link:
        reasons = {s.name: s for s in link.skipped}
        assert [t.name for t in link.targets] == ["bpf_fentry_test1"]
    assert reasons["bpf_fentry_tets2"].reason is Reason.NOT_FOUND
    assert "bpf_fentry_test2" in reasons["bpf_fentry_tets2"].hint
    for name in ("__rcu_read_lock", "__rcu_read_unlock"):
        assert name in obj.facts.ftrace, "nothing to refuse"
        assert reasons[name].reason is Reason.DENIED


@pytest.mark.needs(Feature.FENTRY)
def test_there_is_one_plan(obj: pybpf.Object) -> None:
    """`planned=`, `.plan` and `pybpf.trampoline.plan` are equal, skipped functions included."""
    program = obj.programs["on_entry"]
    asked = ["bpf_fentry_test?", "do_exit", "no_such_fn", "__rcu_read_lock"]
    for options in ({}, {"mechanism": "trampoline", "lowering": "frame"}, {"prefer": "overhead"}):
        plan = pybpf.trampoline.plan(program, asked, obj.facts, **options)
        told: list[object] = []
        with program.attach_multi(asked, planned=told.append, **options) as link:
            assert told == [link.plan] == [plan]
            assert {s.name for s in plan.skipped} == {"no_such_fn", "__rcu_read_lock"}
            assert link.skipped == plan.skipped
            ways = {t.name: g for g in link.groups for t in g.targets}
            changed = {c.target.name: c.attached for c in link.changed}
            for group in plan.groups:
                for target in group.targets:
                    assert ways[target.name].same_way(changed.get(target.name, group))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_denied_functions_are_refused_by_every_mechanism(obj: pybpf.Object, mechanism: str) -> None:
    """Whichever was asked for: 6.1 would accept a clone on __rcu_read_lock and hang."""
    with pytest.raises(pybpf.PlanError, match="list of functions that must not be traced"):
        attached(obj, "on_entry", mechanism, "__rcu_read_lock")


@pytest.mark.parametrize("mechanism", TRAMPOLINES)
def test_noreturn_functions_are_refused_at_exit(obj: pybpf.Object, mechanism: str) -> None:
    """6.1 would attach fexit to do_exit and never finish the call; entry programs are fine."""
    there = [name for name in NORETURN if name in obj.facts.ftrace]
    assert len(there) >= 3
    with attached(obj, "on_exit", mechanism, ["bpf_fentry_test1", *there]) as link:
        assert [t.name for t in link.targets] == ["bpf_fentry_test1"]
        assert {s.name: s.reason for s in link.skipped} == dict.fromkeys(there, Reason.NORETURN)
    with pytest.raises(pybpf.PlanError, match="never returns"):
        attached(obj, "on_exit", mechanism, "do_exit")
    with obj.programs["on_entry"].attach_multi("do_exit", mechanism=mechanism, cookies=0):
        child = os.fork()
        if not child:
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert obj.maps["entry_slots"][0].count >= 1


@pytest.mark.needs(Feature.TRACING_MULTI)
def test_alias_pair_attaches_once_and_closes() -> None:
    """Two ids of one address in a tracing_multi link crash 7.3 when it closes: ours never has."""
    with pybpf.open(DATA / "multi.bpf.o", facts=facts()) as obj:
        names = ["__do_sys_getegid16", "__x64_sys_getegid16", "__ia32_sys_getegid16"]
        for _ in range(10):
            with obj.programs["on_entry"].attach_multi(names, mechanism="tracing_multi") as link:
                assert len({t.address for t in link.targets}) == len(link.targets) == 1
    assert not verify()
