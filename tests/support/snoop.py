"""Run the retsnoop clone, as a separate process or in this one."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

import pybpf
from pybpf.tools.retsnoop.options import parse
from pybpf.tools.retsnoop.run import run

__all__ = ["TOOL", "Done", "Snoop", "facts", "process", "quiet", "runner", "sessions"]

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, str(ROOT / "tools" / "retsnoop")]


@dataclass(frozen=True)
class Done:
    """A finished run."""

    returncode: int
    stdout: str
    stderr: str


class Snoop(Protocol):
    def __call__(self, *arguments: str, command: Sequence[str] = ()) -> Done: ...


def quiet(command: Sequence[str]) -> list[str]:
    """A command for the tool whose own output is thrown away, and that looks for no translations
    of its messages: those are files that are missing too."""
    return ["--", "sh", "-c", 'export LC_ALL=C; exec "$@" >/dev/null 2>&1', "sh", *command]


def process(*arguments: str, command: Sequence[str] = ()) -> Done:
    """Run the tool to its end, as users do."""
    words = [*TOOL, *arguments, *(quiet(command) if command else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    print(done.stdout, done.stderr)
    return Done(done.returncode, done.stdout, done.stderr)


@functools.cache
def facts() -> pybpf.Facts:
    return pybpf.Facts()


def runner(capfd: pytest.CaptureFixture[str]) -> Snoop:
    """The tool in this process: start-up, which takes seconds in a guest, is paid once."""

    def call(*arguments: str, command: Sequence[str] = ()) -> Done:
        capfd.readouterr()
        options = parse([*arguments, *(quiet(command) if command else [])])
        status = run(options, facts().current())
        out, err = capfd.readouterr()
        print(out, err)
        return Done(status, out, err)

    return call


def sessions(done: Done) -> list[dict[str, Any]]:
    """Sessions of a run with --json."""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["type"] for line in lines[:1] + lines[-1:]] == ["attached", "end"], done.stderr
    end = lines[-1]
    parts = ("sessions", "filtered", "unshown", "lost", "unfinished")
    assert end["started"] == sum(end[part] for part in parts), end
    found = [line for line in lines if line["type"] == "session"]
    assert len(found) == end["sessions"]
    return found
