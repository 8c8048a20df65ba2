"""Whatever ends a tool at whatever moment, nothing of it is left, and its exit status is true.

Each case is a tool, a signal or a lost reader or terminal at a random moment, and sometimes too
few descriptors, a full disk or little memory (`tests/support/endings.py`). A few run at a time.
PYBPF_SEED=N chooses the cases, PYBPF_ENDINGS=N says how many the long test runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.endings import ENDINGS, Case, Running, draw, wrong_ends
from tests.support.leftovers import held, left_over

TOGETHER = 6
_MS_NOSUID = 2


@pytest.fixture
def full(tmp_path: Path) -> Iterator[str]:
    """A file on a file system of one page that is full."""
    place = tmp_path / "full"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    at = os.fsencode(place)
    assert libc.mount(b"none", at, b"tmpfs", _MS_NOSUID, b"size=4k") == 0, ctypes.get_errno()
    try:
        (place / "rest").write_bytes(bytes(4096))
        (place / "out").touch()
        with pytest.raises(OSError), open(place / "out", "wb", buffering=0) as file:
            file.write(b"x")
        yield str(place / "out")
    finally:
        libc.umount2(at, 2)


def run(cases: list[Case], full: str, seed: int) -> Counter[str]:
    """Run the cases, a few at a time. Fail with all that was wrong."""
    before = held()
    wrong: list[str] = []
    done: Counter[str] = Counter()
    for at in range(0, len(cases), TOGETHER):
        some = [Running(case, full) for case in cases[at : at + TOGETHER]]
        open_ = list(some)
        while open_:
            open_ = [one for one in open_ if not one.tick()]
            time.sleep(0.01)
        shown = []
        for one in some:
            end = one.end()
            done[f"{one.case.ending} {'hit' if end.acted else 'missed'}"] += 1
            shown.append(f"{one.case} -> {end.status} after {end.seconds:.1f} s")
            for what in wrong_ends(one.case, end):
                wrong.append(f"{one.case}: {what}\n{end.err[-1500:]}{end.out[-300:]}")
        left = left_over(before, lambda: [p for one in some for p in one.others()])  # noqa: B023
        if left:
            wrong.append("\n".join([f"left over: {', '.join(left[:20])}, after", *shown]))
            before = held()
        print(*shown, sep="\n")
    print(f"seed {seed}: {len(cases)} cases, {dict(sorted(done.items()))}")
    assert not wrong, f"seed {seed}\n" + "\n---\n".join(wrong)
    return done


def seed() -> int:
    return int(os.environ.get("PYBPF_SEED", "1"))


@pytest.mark.first_on("6.12")
def test_ended_at_a_few_moments(full: str) -> None:
    run(draw(seed(), 6), full, seed())


@pytest.mark.long
@pytest.mark.time_limit(3600)
def test_ended_at_random_moments(full: str) -> None:
    """Two hundred that are ended, and some that lack something."""
    count = int(os.environ.get("PYBPF_ENDINGS", "260"))
    done = run(draw(seed() + 1, count), full, seed() + 1)
    if out := os.environ.get("OUT"):
        with contextlib.suppress(OSError):
            Path(out, "endings").mkdir(exist_ok=True)
            name = f"{os.uname().release}-{seed()}.txt"
            Path(out, "endings", name).write_text(f"{dict(sorted(done.items()))}\n")
    assert sum(done[f"{ending} hit"] for ending in ENDINGS) >= count // 2
