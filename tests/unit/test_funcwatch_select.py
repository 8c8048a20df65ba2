"""What funcwatch says of globs that match nothing: each reason once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.multi.reasons import Reason, Skipped
from pybpf.multi.unmatched import Unmatched
from pybpf.tools.funcwatch import run
from pybpf.tools.funcwatch.cli import parse

WRONG = Unmatched("vfs_reed", "no such function", "perhaps vfs_read", skipped=True)
OTHER = Unmatched("vfs_wriet", "no such function", "perhaps vfs_write", skipped=True)
SKIPPED = Skipped("vfs_reed", "", Reason.NOT_FOUND)


def select(capsys: pytest.CaptureFixture[str], **selection: Any) -> list[str]:
    """All lines that are printed, the error included."""
    signals: Any = SimpleNamespace(end=lambda: None)
    facts: Any = None
    runner = run._Run(parse(["--json", "vfs_reed"]), facts, signals)
    globs: Any = SimpleNamespace(select=lambda facts: SimpleNamespace(**selection))
    lines = []
    try:
        runner.select(globs)
    except run._Failed as error:
        lines = [str(error)]
    return [*capsys.readouterr().err.splitlines(), *lines]


def test_the_only_reason_is_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = select(capsys, unmatched=[WRONG], candidates=[], skipped=[SKIPPED])
    assert line == f"no function can be watched: glob {WRONG}"


def test_several_reasons_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    lines = select(capsys, unmatched=[WRONG, OTHER], candidates=[], skipped=[SKIPPED])
    assert lines == [f"Glob {WRONG}.", f"no function can be watched: glob {OTHER}"]


def test_functions_that_are_all_refused(capsys: pytest.CaptureFixture[str]) -> None:
    lines = select(capsys, unmatched=[], candidates=[], skipped=[SKIPPED])
    assert lines == [f"no function can be watched: {SKIPPED}"]
    lines = select(capsys, unmatched=[], candidates=[], skipped=[])
    assert lines == ["no function can be watched"]


def test_some_can_be_watched(capsys: pytest.CaptureFixture[str]) -> None:
    """Then nothing is an error, and every reason is said."""
    lines = select(capsys, unmatched=[WRONG, OTHER], candidates=["f"], skipped=[SKIPPED])
    assert lines == [f"Glob {WRONG}.", f"Glob {OTHER}."]
