"""Positions by name, for lists of tens of thousands of names with some repeats."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["index_names"]


def index_names(names: Sequence[str]) -> dict[str, int | list[int]]:
    """Make a dictionary from name to position, counted from 0.

    A name that repeats has the list of its positions, ascending. The dictionary is first made at
    C speed, which keeps the last position of each name. A second pass runs only if some repeat.
    """
    index: dict[str, int | list[int]] = dict(zip(names, range(len(names)), strict=True))
    if len(index) == len(names):
        return index
    for i, name in enumerate(names):
        last = index[name]
        if isinstance(last, list):
            if last[-1] != i:
                last.insert(-1, i)
        elif last > i:
            index[name] = [i, last]
    return index
