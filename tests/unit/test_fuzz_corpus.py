"""The kept inputs of tests/fuzz, and the fuzzer itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import worker
from tests.fuzz.engine import shrunk
from tests.fuzz.targets import TARGETS, Target, attempt
from tests.fuzz.worker import Finding, fuzz, input_of

ROOT = Path(__file__).resolve().parents[2]


def test_the_kept_inputs_are_fine() -> None:
    """Every finding of the past: no foreign error, 2 s and 300 MB at most."""
    command = [sys.executable, "-m", "tests.fuzz", "--replay"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 findings\n")


def test_every_corpus_folder_has_a_target() -> None:
    """A target that is renamed takes its inputs along."""
    folders = {path.name for path in (ROOT / "tests/fuzz/corpus").iterdir()}
    assert folders <= set(TARGETS)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_inputs_depend_on_the_seed_alone(name: str) -> None:
    """The same number of the same seed is the same input; others differ."""
    target = TARGETS[name]
    seeds = target.seeds()
    numbers = range(len(seeds), len(seeds) + 8)
    first = [input_of(target, seeds, 7, number) for number in numbers]
    assert first == [input_of(target, seeds, 7, number) for number in numbers]
    assert len(set(first)) > 4
    assert first != [input_of(target, seeds, 8, number) for number in numbers]


def _broken(data: bytes) -> None:
    if b"x" in data:
        raise KeyError(data)
    if b"h" in data:
        while True:
            pass
    if b"m" in data:
        bytearray(1 << 30)
    if b"d" in data:
        import os

        os._exit(1)


def _grown(data: bytes, _others: object, random: Random) -> bytes:
    return data + random.choice((b"a", b"a", b"x", b"m", b"d", b"h"))


def test_each_kind_of_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign error, a hang, too much memory, the end of the process: none ends the run."""
    monkeypatch.setattr(worker, "SECONDS", 0.1)
    target = Target("broken", lambda: [b"seed"[:1]], _broken, _grown)
    found = list(fuzz(target, 1, first=0, count=40, until=float("inf")))
    keys = {one.key.partition("-")[0] for one in found if isinstance(one, Finding)}
    assert keys == {"KeyError", "Hang", "MemoryError", "Died"}
    assert found[-1] == 40
    small = next(one for one in found if isinstance(one, Finding) and one.key.startswith("Key"))
    assert small.data == b"x"


def _greedy(data: bytes, _others: object, random: Random) -> bytes:
    if random.random() < 0.5:
        raise MemoryError
    return data + b"a"


def test_an_input_that_is_too_large_to_make_is_left_out() -> None:
    """That is no fault of the parser, and the run goes on."""
    target = Target("greedy", lambda: [b"a"], _broken, _greedy)
    assert list(fuzz(target, 1, first=0, count=20, until=float("inf"))) == [20]


def test_shrinking_keeps_what_is_needed() -> None:
    """The rest is removed."""
    assert shrunk(b"aaaaxaaaayaaaa", lambda data: b"x" in data and b"y" in data) == b"xy"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_runs(target: Target) -> None:
    """It takes an input that its parser accepts. One that cannot run finds nothing."""
    attempt(target, target.seeds()[0])
