"""Classes: how few trampolines would do, for attachments in any order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

import pybpf
from pybpf.multi.classes import planned
from pybpf.multi.resolve import plan
from pybpf.multi.target import Target
from pybpf.trampoline.classes import (
    Attachment,
    CallModel,
    Class,
    Classes,
    Kind,
    classify,
)
from pybpf.trampoline.model import Model, Return
from tests.unit.test_planner import K6_1, K6_12, K7_3, PROGRAMS, SESSION, model

FUNCTIONS = [
    Target(f"f{n}", "" if n % 4 else "mod", 0x1000 * (n + 1), 100 + n, model(n % 3))
    for n in range(12)
]
attachments = st.lists(
    st.builds(
        Attachment,
        program=st.sampled_from("abc"),
        kind=st.sampled_from(list(Kind)),
        functions=st.lists(st.sampled_from(FUNCTIONS), max_size=12).map(tuple),
    ),
    max_size=8,
)


def key(function: Target) -> tuple[str, int | None]:
    return function.module, function.btf_id


def as_attached(asked: list[Attachment], function: Target) -> list[tuple[str, Kind]]:
    return [(a.program, a.kind) for a in asked if function in a.functions]


def called(history: list[tuple[str, Kind]]) -> list[tuple[str, Kind, str]]:
    """What a trampoline calls, written out one rule at a time."""
    late_first = history[::-1]
    before = [(p, k, "entry") for p, k in late_first if k in (Kind.FENTRY, Kind.FSESSION)]
    modify = [(p, k, "entry") for p, k in late_first if k is Kind.FMOD_RET]
    after = [(p, k, "exit") for p, k in late_first if k in (Kind.FEXIT, Kind.FSESSION)]
    return before + modify + after


@given(attachments)
def test_a_partition(asked: list[Attachment]) -> None:
    """Each attached function is in exactly one class, and no other function is in any."""
    found = classify(asked)
    members = Counter(key(t) for one in found for t in one.functions)
    assert set(members) == {key(t) for a in asked for t in a.functions}
    assert set(members.values()) <= {1}
    assert found.functions == len(members)
    assert found.trampolines == len(found) <= found.functions


@given(attachments)
def test_classes_are_homogeneous(asked: list[Attachment]) -> None:
    """What a class says of its programs and model is true of each of its functions."""
    for one in classify(asked):
        assert one.functions
        for function in one.functions:
            assert function.model is not None
            assert one.model == CallModel.of(function.model)
            runs = [(r.program, r.kind, r.phase) for r in one.runs]
            assert runs == called(as_attached(asked, function))


@given(attachments)
def test_no_two_classes_could_be_one(asked: list[Attachment]) -> None:
    """As many trampolines as needed, and no more."""
    found = classify(asked)
    assert len({(one.runs, one.model) for one in found}) == len(found)


@given(attachments, st.randoms())
def test_only_the_order_of_attaching_matters(asked: list[Attachment], random: object) -> None:
    """The order of functions, or of attachments on different ones, changes nothing."""
    shuffled = []
    for one in asked:
        functions = [*one.functions, *one.functions[:2]]  # named twice is attached once
        random.shuffle(functions)  # type: ignore[attr-defined]
        shuffled += [replace(one, functions=tuple(functions))]
    split = [replace(one, functions=(f,)) for one in asked for f in dict.fromkeys(one.functions)]
    assert classify(shuffled) == classify(split) == classify(iter(asked))


@given(attachments)
def test_sides_do_not_wait_for_each_other(asked: list[Attachment]) -> None:
    """All exit programs attached before all others: the same classes."""
    exits = [one for one in asked if one.kind is Kind.FEXIT]
    modify = [one for one in asked if one.kind is Kind.FMOD_RET]
    rest = [one for one in asked if one.kind is Kind.FENTRY]
    mixed = [one for one in asked if one.kind is not Kind.FSESSION]
    assert classify([*exits, *modify, *rest]) == classify(mixed)


def test_the_last_attached_runs_first() -> None:
    """On each side; and another order is another class."""
    one, two = FUNCTIONS[1], replace(FUNCTIONS[1], name="g", btf_id=999)
    found = classify(
        [
            Attachment("a", Kind.FENTRY, (one, two)),
            Attachment("b", Kind.FEXIT, (one, two)),
            Attachment("c", Kind.FENTRY, (one,)),
            Attachment("d", Kind.FEXIT, (one, two)),
        ]
    )
    by_name = {t.name: [r.program for r in c.runs] for c in found for t in c.functions}
    assert by_name == {one.name: ["c", "a", "d", "b"], "g": ["a", "d", "b"]}
    there = found.of(one)
    assert there is not None and [t.name for t in there.functions] == [one.name]
    assert found.of(FUNCTIONS[2]) is None


def test_a_session_is_called_twice_and_named_once() -> None:
    found = classify(
        [
            Attachment("s", Kind.FSESSION, FUNCTIONS[:1]),  # type: ignore[arg-type]
            Attachment("e", Kind.FENTRY, FUNCTIONS[:1]),  # type: ignore[arg-type]
        ]
    )
    (one,) = found
    assert [(r.program, r.phase) for r in one.runs] == [
        ("e", "entry"),
        ("s", "entry"),
        ("s", "exit"),
    ]
    assert [r.program for r in one.programs] == ["e", "s"]


def test_models_split() -> None:
    """Slots, kind of return value, struct arguments; not what a trampoline does not see."""
    base = Model(2, Return.INT, 4, True, 2)
    differ = [
        replace(base, slots=3),
        replace(base, returns=Return.VOID, ret_size=0),
        replace(base, structs=True),
    ]
    same = [base, replace(base, pointers=1), replace(base, params=1)]
    functions = tuple(
        Target(f"f{n}", btf_id=n + 1, model=m) for n, m in enumerate([*same, *differ, None])
    )
    found = classify([Attachment("p", Kind.FENTRY, functions)])
    assert [len(c.functions) for c in found] == [3, 1, 1, 1, 1]


def test_largest_first_and_printable() -> None:
    found = pybpf.trampoline.classify([Attachment("p", Kind.FEXIT, tuple(FUNCTIONS[:4]))])
    assert [len(c.functions) for c in found] == [2, 1, 1]
    lines = str(found).splitlines()
    assert lines[0] == "3 trampolines would do for 4 functions, the kernel makes 4"
    assert lines[1] == "  2 functions: 0 slots, returns int: p/fexit"
    value = json.loads(found.to_json())
    assert (value["functions"], value["trampolines"]) == (4, 3)
    assert value["classes"][0] == {
        "programs": [{"program": "p", "kind": "fexit"}],
        "slots": 0,
        "returns": "int",
        "structs": False,
        "functions": ["f3", "f0 [mod]"],
    }
    assert str(classify([])) == "0 trampolines would do for 0 functions, the kernel makes 0"


def test_plans_become_attachments() -> None:
    """By mechanism: kprobes have no trampoline; a pair's exit half is attached first."""
    targets = FUNCTIONS[:6]
    pair = planned(plan(SESSION, targets, K6_1, "trampoline"))
    assert {a.kind for a in pair} == {Kind.FENTRY, Kind.FEXIT}
    assert pair[0].kind is Kind.FEXIT
    whole = planned(plan(SESSION, targets, K7_3, "tracing_multi"), program="mine")
    assert {(a.program, a.kind) for a in whole} == {("mine", Kind.FSESSION)}
    assert not planned(plan(PROGRAMS[1], targets, K6_12, "kprobe_multi"))


def test_several_plans_together() -> None:
    """Overlapping plans: as many trampolines as different sets on different models."""
    first = plan(PROGRAMS[1], FUNCTIONS[:8], K6_12, "trampoline")
    second = plan(PROGRAMS[4], FUNCTIONS[4:], K6_12, "trampoline")
    found = classify([*planned(first, "first"), *planned(second, "second")])
    sets = {frozenset(r.program for r in one.runs) for one in found}
    assert sets == {frozenset({"first"}), frozenset({"second"}), frozenset({"first", "second"})}
    assert (found.trampolines, found.functions) == (9, 12)  # 3 sets on 3 models
    assert isinstance(found, Classes)
    assert all(isinstance(one, Class) for one in found)
