"""Check what the kernel logged during a test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["clean_kernel_log", "complaints"]

# Words of a warning, oops, stall, lockup or hung task. The date and priority are before them.
_BAD = re.compile(
    r"WARNING:|BUG:|Oops|general protection|Call Trace|stall|lockup|blocked for more than|"
    r"possible recursive locking|scheduling while atomic|RIP:|page allocation failure"
)


def complaints(since: list[str], now: list[str]) -> list[str]:
    """Return lines of `now` that are not in `since` and report a fault."""
    known = set(since)
    return [line for line in now if line not in known and _BAD.search(line)]


def _lines() -> list[str]:
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    out = []
    try:
        while True:
            try:
                out.append(os.read(fd, 8192).decode(errors="replace").strip())
            except BlockingIOError:
                return out
            except BrokenPipeError:
                continue  # records were overwritten while they were read
    finally:
        os.close(fd)


@contextmanager
def clean_kernel_log() -> Iterator[None]:
    """Fail if the kernel logs a fault inside."""
    before = _lines()
    yield
    found = complaints(before, _lines())
    if found:
        pytest.fail("the kernel's log:\n" + "\n".join(found[:40]))
