"""Signs of life on a terminal, and none elsewhere."""

from __future__ import annotations

import io
import threading

import pytest

from pybpf.tools.progress import Waiting


class Terminal(io.StringIO):
    """A terminal that tells when something was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_a_long_wait_is_told_and_taken_away() -> None:
    """The line names what is waited for and its seconds; at the end blanks cover it."""
    out = Terminal()
    with Waiting("planning", out, after=0.001):
        assert out.written.wait(60)
    shown = out.getvalue()
    assert shown.startswith("\rplanning, 0 s")
    *_, last = shown.removesuffix("\r").split("\r")
    assert not last.strip() and len(last) >= len("planning, 0 s")


def test_a_short_wait_is_silent() -> None:
    out = Terminal()
    with Waiting("planning", out, after=3600):
        pass
    assert out.getvalue() == ""


def test_a_pipe_gets_nothing() -> None:
    """And no thread is started for it."""
    out = io.StringIO()
    before = threading.active_count()
    with Waiting("planning", out, after=0):
        assert threading.active_count() == before
    assert out.getvalue() == ""


def test_an_error_ends_it_too() -> None:
    """The thread is gone when the error arrives."""
    out = Terminal()
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), Waiting("planning", out, after=0.001):
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_a_terminal_that_goes_away_ends_nothing() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            self.written.set()
            raise OSError(5, "Input/output error")

    out = Gone()
    with Waiting("planning", out, after=0.001):
        assert out.written.wait(60)
