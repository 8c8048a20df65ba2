"""pybpf's cheap NamedTuple makes what the standard library's does."""

from __future__ import annotations

import copy
import pickle
import typing
from typing import Any

import pytest

from pybpf import namedtuple


class Ours(namedtuple.NamedTuple):
    """Has a text, defaults, a property and a method."""

    name: str
    count: int = 2
    more: tuple[int, ...] = ()

    @property
    def double(self) -> int:
        return 2 * self.count

    def called(self, name: str) -> Ours:
        return self._replace(name=name)


class Theirs(typing.NamedTuple):
    """Has a text, defaults, a property and a method."""

    name: str
    count: int = 2
    more: tuple[int, ...] = ()

    @property
    def double(self) -> int:
        return 2 * self.count

    def called(self, name: str) -> Theirs:
        return self._replace(name=name)


USES = {
    "values": lambda kind: [tuple(kind("a")), tuple(kind("a", 3, (1,))), tuple(kind(name="b"))],
    "fields": lambda kind: (kind._fields, kind._field_defaults, list(kind.__annotations__)),
    "text": lambda kind: (kind.__doc__, kind.__module__, repr(kind("a")).partition("(")[2]),
    "own": lambda kind: (kind("a", 4).double, tuple(kind("a").called("b"))),
    "equal": lambda kind: (kind("a") == ("a", 2, ()), hash(kind("a")) == hash(("a", 2, ()))),
    "kept": lambda kind: (copy.copy(kind("a")), pickle.loads(pickle.dumps(kind("a")))),
    "errors": lambda kind: [_error(kind), _error(kind, 1, 2, 3, 4), _error(kind, nothing=1)],
    "attribute": lambda kind: _error(lambda: setattr(kind("a"), "name", "b")),
    "tuple": lambda kind: (issubclass(kind, tuple), kind.__slots__, kind.__match_args__),
}


def _error(call: Any, *args: Any, **more: Any) -> object:
    try:
        return call(*args, **more)
    except (TypeError, AttributeError) as error:
        return type(error), str(error).replace("Theirs", "Ours")


@pytest.mark.parametrize("use", USES)
def test_a_use_gives_the_same(use: str) -> None:
    """Values, texts and errors are those of typing.NamedTuple."""
    ask: Any = USES[use]
    assert ask(Ours) == ask(Theirs)


def test_a_default_must_come_last() -> None:
    """As with the standard one."""
    with pytest.raises(TypeError, match="default"):
        exec(
            "class Wrong(NamedTuple):\n a: int = 1\n b: int",
            {"NamedTuple": namedtuple.NamedTuple, "__name__": "wrong"},
        )
