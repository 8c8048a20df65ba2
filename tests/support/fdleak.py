"""Say where a leaked `Fd` was opened.

`tests/conftest.py` checks the process's descriptors after each kernel-touching
test. This fixture checks their owners instead: an `Fd` that was collected while open, or is
still open at the end, fails the test with the lines that opened it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from pybpf._sys.fd import Fd, set_tracer

__all__ = ["FdTracker", "owned_descriptors"]

_SKIP = ("/_sys/fd.py", "/support/fdleak.py")


def _opened_at() -> str:
    places: list[str] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(places) < 5:
        name = frame.f_code.co_filename
        if not name.endswith(_SKIP) and "_pytest" not in name and "pluggy" not in name:
            places.append(f"{name.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(places)


class FdTracker:
    """Follow every `Fd` of the process. ``open`` maps its id to a description."""

    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        self.leaked: list[str] = []

    def __call__(self, fd: Fd, event: str) -> None:
        if event == "open":
            self.open[id(fd)] = f"{fd!r} opened at {_opened_at()}"
            return
        what = self.open.pop(id(fd), None)
        if event == "leaked":
            self.leaked.append(what or repr(fd))


@pytest.fixture(autouse=True)
def owned_descriptors(request: pytest.FixtureRequest) -> Iterator[FdTracker]:
    """Fail a test that leaves an `Fd` open, or lets one be collected while open."""
    tracker = FdTracker()
    former = set_tracer(tracker)
    try:
        yield tracker
        if tracker.open:
            gc.collect()  # a cycle may have held it; then it is in `leaked` now
    finally:
        set_tracer(former)
    lost = [*tracker.leaked, *tracker.open.values()]
    if lost:
        pytest.fail("never closed:\n  " + "\n  ".join(lost))
