"""A stack of retsnoop as text, laid out for itself alone."""

from __future__ import annotations

from collections.abc import Sequence

from pybpf.tools.retsnoop import render, stacks

__all__ = ["stack_lines"]


def stack_lines(
    rows: Sequence[stacks.Row],
    style: render.Style,
    arguments: render.Arguments | None = None,
) -> list[str]:
    """The lines of one stack."""
    frames = [row.frame for row in rows if row.frame is not None]
    return render.Layout(rows, style).text(frames, arguments).split("\n")
