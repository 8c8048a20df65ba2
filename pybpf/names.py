"""Mappings by name that help when a name is wrong."""

from __future__ import annotations

from typing import TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ByName", "unknown"]

T = TypeVar("T")

_LISTED = 8


def unknown(what: str, name: object, names: Iterable[str]) -> str:
    """Say that there is no such name, and suggest near ones.

    :param what: what it would be, e.g. ``map``
    :param names: the names that exist
    """
    from difflib import get_close_matches  # 5 ms, and only errors need it

    known = list(names)
    near = get_close_matches(name, known, 3) if isinstance(name, str) else []
    if near:
        return f"no {what} {name!r}; is it {' or '.join(map(repr, near))}?"
    if not known:
        return f"no {what} {name!r}; there are none"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"no {what} {name!r}; there are: {', '.join(known[:_LISTED])}{more}"


class ByName(dict[str, T]):
    """Map names to things. An unknown name raises a KeyError that suggests near ones.

    :param what: what they are, for messages: ``map``
    """

    def __init__(self, what: str, items: Mapping[str, T]) -> None:
        super().__init__(items)
        self._what = what

    def __missing__(self, name: str) -> T:
        raise KeyError(unknown(self._what, name, self))
