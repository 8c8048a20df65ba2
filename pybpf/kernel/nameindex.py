"""Positions by name, for lists of tens of thousands of names with some repeats."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["index_names"]


def index_names(names: Sequence[str]) -> dict[str, int | list[int]]:
    """Make a dictionary from name to position, counted from 0.

    A name that repeats has the list of its positions, ascending. The dictionary is made at C
    speed, which keeps the last position of each name. Only names that repeat are looked at again.
    """
    index: dict[str, int | list[int]] = dict(zip(names, range(len(names)), strict=True))
    if len(index) == len(names):
        return index
    last = map(index.__getitem__, names)
    for i in [i for i, at in enumerate(last) if i != at]:
        known = index[names[i]]
        if isinstance(known, list):
            known.insert(-1, i)
        else:
            index[names[i]] = [i, known]
    return index
