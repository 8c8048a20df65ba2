"""Lines of trace_pipe, as kernels write them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pybpf._sys import denied
from pybpf.errors import BpfError, DeniedByPolicy, StateError
from pybpf.kernel import tracepipe
from pybpf.kernel.tracepipe import TraceLine, TracePipe, count_lost, parse_lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "           <...>-123     [000] d..31   12.345678: bpf_trace_printk: hello",
            TraceLine("<...>", 123, 0, 12.345678, "hello"),
        ),
        (
            " python3-a-b-7777    (   7777) [003] .....  1.000001: bpf_trace_printk: a: b-1 [2]",
            TraceLine("python3-a-b", 7777, 3, 1.000001, "a: b-1 [2]"),
        ),
        (
            "  kworker/0:1-9       (-------) [011] d...1 99.5: bpf_trace_printk: ",
            TraceLine("kworker/0:1", 9, 11, 99.5, ""),
        ),
    ],
)
def test_one_line(line: str, expected: TraceLine) -> None:
    """Task, thread, CPU, time and text, with and without the process id in brackets."""
    assert parse_lines([line]) == [expected]


def test_other_lines() -> None:
    """A text of two lines is one; losses and other events are nobody's text."""
    head = "  a-1 [000] d..31 1.5: "
    lines = [
        "no text yet",
        f"{head}bpf_trace_printk: one",
        "two",
        "CPU:1 [LOST 12 EVENTS]",
        f"{head}bpf_trace_printk: three",
    ]
    assert [line.text for line in parse_lines(lines)] == ["one\ntwo", "three"]
    assert count_lost([*lines, "CPU:3 [LOST EVENTS]"]) == 13


def test_texts_and_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters of a text are kept, and what the kernel says was lost is counted."""
    monkeypatch.setattr(tracepipe, "tracefs", lambda: str(tmp_path))

    real = os.mkdir

    def make(path: str, mode: int = 0o777) -> None:
        real(path, mode)
        if "pybpf-" in os.path.basename(path):
            os.makedirs(f"{path}/events/bpf_trace/bpf_trace_printk")
            os.mkfifo(f"{path}/trace_pipe")

    (tmp_path / "instances").mkdir()
    monkeypatch.setattr(os, "mkdir", make)
    pipe = TracePipe()
    monkeypatch.undo()
    head = "  a-1 [000] d..31 1.5: bpf_trace_printk: "
    with pipe, open(next(tmp_path.glob("instances/*/trace_pipe")), "w") as writer:
        writer.write(f"{head}progress\r50%\x0c\nCPU:1 [LOST 12 EVENTS]\n{head}more")
        writer.flush()
        assert [line.text for line in pipe.read(5)] == ["progress\r50%\x0c"]
        assert pipe.lost == 12
        writer.write(" of it\n")
        writer.flush()
        assert [line.text for line in pipe.read(5)] == ["more of it"]


@pytest.mark.parametrize(
    ("number", "level", "hint"),
    [
        (errno.EINVAL, "confidentiality", "kernel lockdown is in confidentiality mode"),
        (errno.EPERM, "confidentiality", "kernel lockdown is in confidentiality mode"),
        (errno.EPERM, "none", "root only"),
        (errno.EINVAL, "none", ""),
        (errno.EMFILE, "confidentiality", ""),
    ],
)
def test_who_refused_an_instance(
    monkeypatch: pytest.MonkeyPatch, number: int, level: str, hint: str
) -> None:
    """In confidentiality mode the kernel answers mkdir with EINVAL."""

    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number))

    seen = denied.Circumstances(0, lockdown=level)
    monkeypatch.setattr(denied, "circumstances", lambda: seen)
    monkeypatch.setattr(tracepipe, "tracefs", lambda: "/nowhere")
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(DeniedByPolicy if hint else BpfError) as caught:
        TracePipe()
    assert (caught.value.errno, caught.value.hint) == (number, hint)
    assert isinstance(caught.value, DeniedByPolicy) == bool(hint)


def test_a_closed_pipe_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has no descriptor any more, and closing again does nothing."""
    mkdir = os.mkdir

    def instance(path: str) -> None:
        for folder in ("", "/events", "/events/bpf_trace", "/events/bpf_trace/bpf_trace_printk"):
            mkdir(path + folder)
        os.mkfifo(f"{path}/trace_pipe")

    (tmp_path / "instances").mkdir()
    monkeypatch.setattr(tracepipe, "tracefs", lambda: str(tmp_path))
    monkeypatch.setattr(os, "mkdir", instance)
    pipe = TracePipe()
    assert pipe.read(0) == []
    pipe.close()
    pipe.close()
    uses: list[Callable[[], object]] = [pipe.fileno, lambda: pipe.read(0), lambda: next(iter(pipe))]
    for use in uses:
        with pytest.raises(StateError, match="the trace pipe: it is closed"):
            use()
