"""pybpf's cheap IntEnum does what the standard library's does."""

from __future__ import annotations

import copy
import enum
import json
import pickle
from typing import Any

import pytest

from pybpf import intenum


class Ours(intenum.IntEnum):
    """Numbers, with two names for one of them."""

    NONE = 0
    SOME = 3
    ALSO = 3
    MOST = 0x10


class Theirs(enum.IntEnum):
    """The same, as the standard library makes it."""

    NONE = 0
    SOME = 3
    ALSO = 3
    MOST = 0x10


USES = {
    "order": lambda kind: [int(one) for one in kind],
    "length": len,
    "names": lambda kind: [one.name for one in kind],
    "second name": lambda kind: kind.ALSO is kind.SOME and kind["ALSO"] is kind.SOME,
    "number": lambda kind: kind(16).name,
    "value": lambda kind: (kind.MOST.value, type(kind.MOST.value)),
    "text": lambda kind: (str(kind.SOME), f"{kind.SOME}", f"{kind.MOST:#x}"),
    "int": lambda kind: (kind.MOST | kind.SOME, kind.SOME + 1, kind.SOME == 3, {3: "x"}[kind.SOME]),
    "json": lambda kind: json.dumps({"a": kind.SOME}),
    "kept": lambda kind: copy.deepcopy(kind.MOST) is kind.MOST,
    "pickled": lambda kind: pickle.loads(pickle.dumps(kind.MOST)) is kind.MOST,
    "instance": lambda kind: (isinstance(kind.MOST, kind), isinstance(3, kind)),
    "members": lambda kind: [(name, int(one)) for name, one in kind.__members__.items()],
    "most": lambda kind: max(kind).name,
    "inside": lambda kind: kind.SOME in kind,
}


@pytest.mark.parametrize("use", USES)
def test_a_use_gives_the_same(use: str) -> None:
    """Everything that pybpf does with the kernel's numbers."""
    ask: Any = USES[use]
    assert ask(Ours) == ask(Theirs)


def test_repr_names_the_member() -> None:
    """As the standard one does."""
    assert repr(Ours.SOME) == repr(Theirs.SOME).replace("Theirs", "Ours")


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_what_is_not_a_member(kind: Any) -> None:
    """An unknown number is a ValueError, an unknown name a KeyError."""
    with pytest.raises(ValueError, match="7 is not a valid"):
        kind(7)
    with pytest.raises(KeyError):
        kind["NOTHING"]
