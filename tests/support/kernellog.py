"""Check what the kernel logs during tests: no warning, oops, stall or hung task.

The fixture `kernel_log` does that for each test in a guest. Lines that come between tests fail the
run: `vagrant/vm` reports what is on the console, and the matrix counts it as a failed test.
On the host the log is also that of others, so nothing is checked there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from tests.support import rows

__all__ = ["KernelLog", "clean_kernel_log", "complaints", "kernel_log"]

# Words of a warning, oops, stall, lockup or hung task. The date and priority are before them.
_BAD = re.compile(
    r"WARNING:|BUG:|\bOops|general protection|Call Trace|\b(?:self-)?detected stall|"
    r"\bstalls? on|lockup|blocked for more than|possible recursive locking|"
    r"scheduling while atomic|RIP:|page allocation failure"
)
_SHOWN = 40  # lines


def complaints(lines: Iterable[str]) -> list[str]:
    """Return lines that report a fault of the kernel."""
    return [line for line in lines if _BAD.search(line)]


class KernelLog:
    """Read the kernel's log from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._on_purpose: list[re.Pattern[str]] = []

    def close(self) -> None:
        os.close(self._fd)

    def expect(self, pattern: str, reason: str) -> None:
        """Say that this test has the kernel log lines like this on purpose.

        :param reason: why it must be so
        """
        assert reason
        self._on_purpose.append(re.compile(pattern))

    def new(self) -> list[str]:
        """Return the lines since the last call."""
        out = []
        while True:
            try:
                out.append(os.read(self._fd, 8192).decode(errors="replace").strip())
            except BlockingIOError:
                return out
            except BrokenPipeError:
                continue  # records were overwritten while they were read

    def complaints(self) -> list[str]:
        """Return new lines that report a fault and were not expected."""
        found = complaints(self.new())
        return [x for x in found if not any(p.search(x) for p in self._on_purpose)]


@contextmanager
def clean_kernel_log() -> Iterator[KernelLog]:
    """Fail if the kernel logs a fault inside."""
    log = KernelLog()
    try:
        yield log
        found = log.complaints()
    finally:
        log.close()
    if found:
        pytest.fail("the kernel's log:\n" + "\n".join(found[:_SHOWN]), pytrace=False)


@pytest.fixture(autouse=True)
def kernel_log() -> Iterator[KernelLog | None]:
    """Fail a test in a guest during which the kernel logs a fault. None outside guests."""
    if not rows.in_guest():
        yield None
        return
    with clean_kernel_log() as log:
        yield log
