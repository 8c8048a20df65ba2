"""Run rows side by side. Each is a process, and its lines say which row they belong to.

One thread does it all. This is necessary: a run is killed when the thread that started it ends,
so that nothing outlives us (`inside.outside`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from . import inside
from .machine import Setting, note

__all__ = ["run"]

CHUNK = 1 << 16


@dataclass(eq=False)
class _Run:
    """Track one running row."""

    setting: Setting
    process: subprocess.Popen[bytes]
    began: float
    lines: dict[int, bytes] = field(default_factory=dict)  # for each pipe: the unfinished line


def run(rows: Sequence[str], jobs: int, setting: Callable[[str], Setting]) -> dict[str, int]:
    """Run rows, at most `jobs` at once. Return the exit status of each.

    If only one row runs, its output is passed on unchanged.

    :param setting: called with each row just before it starts
    """
    waiting = list(rows)
    running: list[_Run] = []
    statuses: dict[str, int] = {}
    alone = min(jobs, len(rows)) == 1
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_start(setting(waiting.pop(0)), selector, alone=alone))
                if alone:
                    running[0].process.wait()
                else:
                    for key, _ in selector.select():
                        _pass_on(key, selector)
                for one in [r for r in running if alone or not r.lines]:
                    row = one.setting.row
                    statuses[row] = inside.ended(one.process, one.setting)
                    _end(one)
                    running.remove(one)
                    note(f"row {row} took {time.monotonic() - one.began:.0f} s in total")
        finally:
            for one in running:
                _end(one)
    return statuses


def _start(setting: Setting, selector: selectors.BaseSelector, *, alone: bool) -> _Run:
    process = inside.outside(setting, None if alone else subprocess.PIPE)
    one = _Run(setting, process, time.monotonic())
    if not alone:
        for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            assert source
            one.lines[source.fileno()] = b""
            selector.register(source, selectors.EVENT_READ, (one, sink.buffer))
    return one


def _pass_on(key: selectors.SelectorKey, selector: selectors.BaseSelector) -> None:
    # Only whole lines, so that the lines of two rows do not mix.
    sink: BinaryIO
    one, sink = key.data
    some = os.read(key.fd, CHUNK)
    text = one.lines.pop(key.fd) + some
    whole, newline, rest = text.rpartition(b"\n")
    if not some:
        selector.unregister(key.fileobj)
        whole, newline, rest = text, b"\n" if text else b"", b""
    else:
        one.lines[key.fd] = rest
    if newline:
        name = f"{one.setting.row:>6} | ".encode()
        sink.write(b"".join(name + line + b"\n" for line in whole.split(b"\n")))
        sink.flush()


def _end(one: _Run) -> None:
    # Closing its standard input ends everything that still runs in there.
    process = one.process
    with contextlib.ExitStack() as stack:
        for stream in (process.stdout, process.stderr):
            if stream:
                stack.enter_context(stream)
        assert process.stdin
        process.stdin.close()
        process.wait()
