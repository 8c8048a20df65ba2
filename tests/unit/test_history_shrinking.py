"""Histories are valid and repeatable, shrink to what matters, and are remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.histories import Notes, Step, World, history, shrink

WORLD = World(
    tuple("abcdefghijklmn"),
    {"one": 2, "many": 8},
    {"one": ("p", "q"), "many": ("p", "q", "r", "s")},
    crowded=5,
    most=4,
)


@given(st.integers(0, 1 << 32), st.integers(0, 30))
def test_a_history_attaches_what_is_free_and_detaches_what_is_not(seed: int, count: int) -> None:
    live: set[str] = set()
    steps = history(seed, count, WORLD)
    assert len(steps) == count and steps == history(seed, count, WORLD)
    for step in steps:
        if step.functions:
            assert step.program not in live
            assert step.program in WORLD.programs[step.mechanism]
            assert len(set(step.functions)) == len(step.functions) <= WORLD.sizes[step.mechanism]
            assert set(step.functions) <= set(WORLD.functions)
            live.add(step.program)
        else:
            live.remove(step.program)
        assert len(live) <= WORLD.most


@st.composite
def planted(draw: st.DrawFn) -> tuple[list[Step], set[int], dict[int, str]]:
    """Steps, the ones that a failure needs, and the function that it needs of each of these."""
    count = draw(st.integers(0, 20))
    steps = [
        Step(f"p{n}", "m", tuple(f"f{n}.{k}" for k in range(draw(st.integers(1, 6)))))
        for n in range(count)
    ]
    needed = draw(st.sets(st.integers(0, count - 1))) if count else set()
    functions = {n: draw(st.sampled_from(steps[n].functions)) for n in needed}
    return steps, needed, functions


@given(planted())
def test_shrinking_finds_the_planted_steps_and_functions(
    plant: tuple[list[Step], set[int], dict[int, str]],
) -> None:
    steps, needed, functions = plant
    tries = 0

    def fails(some: Sequence[Step]) -> bool:
        nonlocal tries
        tries += 1
        there = {step.program: step.functions for step in some}
        return all(functions[n] in there.get(f"p{n}", ()) for n in needed)

    found = shrink(steps, fails, tries=10_000)
    assert found == [Step(f"p{n}", "m", (functions[n],)) for n in sorted(needed)]
    assert tries < 2000


@given(planted(), st.integers(0, examples(20)))
def test_shrinking_ends_in_time_with_a_part_that_fails(
    plant: tuple[list[Step], set[int], dict[int, str]], tries: int
) -> None:
    steps, needed, _ = plant
    played = []

    def fails(some: Sequence[Step]) -> bool:
        played.append(list(some))
        return all(f"p{n}" in [step.program for step in some] for n in needed)

    found = shrink(steps, fails, tries)
    assert len(played) <= tries
    assert found == steps or found in played
    assert all(f"p{n}" in [step.program for step in found] for n in needed)


def test_what_passed_is_not_played_again(tmp_path: Path) -> None:
    """What failed is, and so is what was played with other steps or on another row."""
    path = tmp_path / "notes"
    notes = Notes(path)
    notes.add("6.1", 1, 20, "", 1.5)
    notes.add("6.1", 2, 20, "wrong", 1.5)
    with open(path, "a") as file:
        file.write('{"row": "6.1", "se')  # killed here
    notes = Notes(path)
    notes.add("6.12", 4, 20, "", 1.5)
    notes = Notes(path)
    assert notes.passed("6.1", 1, 20) and notes.passed("6.12", 4, 20)
    for row, seed, steps in (("6.1", 2, 20), ("6.1", 4, 20), ("6.1", 1, 21), ("6.12", 1, 20)):
        assert not notes.passed(row, seed, steps)
    notes.add("6.1", 1, 20, "wrong now", 1.5)
    assert not Notes(path).passed("6.1", 1, 20)


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    notes = Notes(None)
    notes.add("6.1", 1, 20, "", 1.5)
    assert notes.passed("6.1", 1, 20) and not list(tmp_path.iterdir())
