"""Mappings by name that help when a name is wrong."""

from __future__ import annotations

from typing import TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ByName", "suggestion", "unknown"]

T = TypeVar("T")

_LISTED = 8


def unknown(what: str, name: object, names: Iterable[str]) -> str:
    """Say that there is no such name, and suggest near ones.

    :param what: what it would be, e.g. ``map``
    :param names: the names that exist
    """
    known = list(names)
    near = suggestion(what, name, known) if isinstance(name, str) else ""
    if near:
        return near
    if not known:
        return f"no {what} {name!r}; there are none"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"no {what} {name!r}; there are: {', '.join(known[:_LISTED])}{more}"


def suggestion(
    what: str, name: str, names: Iterable[str], prefix: str = "", *, alike: float = 0.6
) -> str:
    """Suggest names near to a wrong one, "" if there are none.

    :param prefix: goes before each name without being compared: ``struct ``
    :param alike: how much of the letters must agree, 0 to 1
    """
    from difflib import get_close_matches  # 5 ms, and only errors need it

    near = [repr(prefix + one) for one in get_close_matches(name, list(names), 3, alike)]
    return f"no {what} {prefix + name!r}; is it {' or '.join(near)}?" if near else ""


class ByName(dict[str, T]):
    """Map names to things. An unknown name raises a KeyError that suggests near ones.

    :param what: what they are, for messages: ``map``
    """

    def __init__(self, what: str, items: Mapping[str, T]) -> None:
        super().__init__(items)
        self._what = what

    def __missing__(self, name: str) -> T:
        raise KeyError(unknown(self._what, name, self))
