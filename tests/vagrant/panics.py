"""Not a test by name: tests/vagrant/test_ends.py has it run in a guest, which dies of it."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support import rows


def test_panic() -> None:
    """The kernel's own crash button."""
    assert rows.in_guest()
    Path("/proc/sysrq-trigger").write_text("c\n")
    time.sleep(600)
