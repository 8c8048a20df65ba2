"""A process of its own that closes descriptors: told when, and no longer ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pybpf._sys.closer import Closer


def test_it_holds_them_until_it_is_told() -> None:
    """The far end of a pipe is open while it holds the other; nothing else of ours is."""
    reading, writing = os.pipe()
    other_reading, other_writing = os.pipe()
    os.set_blocking(reading, False)
    with Closer([writing]) as closer:
        os.close(writing)
        os.close(other_writing)
        assert os.read(other_reading, 1) == b"", "it has what it was not given"
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        status = Path(f"/proc/{closer.pid}/status").read_text()
        assert f"\nPPid:\t{os.getpid()}\n" not in status, "somebody must wait for it"
    os.set_blocking(reading, True)
    assert os.read(reading, 1) == b""
    os.close(reading)
    os.close(other_reading)
    closer.go()


def test_what_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and no descriptor is left open."""
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(FileNotFoundError):
        Closer([])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="did not start"):
        Closer([])
    assert os.listdir("/proc/self/fd") == before
