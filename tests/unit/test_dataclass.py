"""pybpf.dataclass makes what the standard's decorator makes: each case is made by both."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pybpf import dataclass as ours

ROOT = Path(__file__).resolve().parents[2]
BOTH = {"ours": ours, "standard": dataclasses}


def family(made_by: Any) -> SimpleNamespace:
    """Classes of many kinds, made by one of the two decorators."""
    dataclass, field = made_by.dataclass, made_by.field

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 0
        kind: ClassVar[str] = "point"

        @property
        def sum(self) -> int:
            return self.x + self.y

    @dataclass(frozen=True, slots=True)
    class Point3(Point):
        z: list[int] = field(default_factory=list)

    @dataclass(frozen=True, slots=True)
    class Same:
        x: int
        y: int = 0

    @dataclass(slots=True)
    class Counter:
        name: str
        count: int = 0
        seen: set[int] = field(default_factory=set, repr=False)
        cache: dict[str, int] = field(default_factory=dict, init=False, compare=False)

        def __post_init__(self) -> None:
            self.name = self.name.upper()

    @dataclass(frozen=True)
    class Loose:
        a: int
        b: str = field(default="b", repr=False, compare=False)

    @dataclass(frozen=True, slots=True, order=True)
    class Version:
        major: int
        minor: int = 0

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        deep: bool = False
        name: str

    @dataclass(frozen=True, slots=True, eq=False)
    class Identity:
        x: int

    @dataclass(frozen=True, slots=True)
    class Empty:
        pass

    @dataclass(frozen=True, slots=True)
    class Own:
        x: int

        def __repr__(self) -> str:
            return f"<{self.x}>"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own) and self.x % 10 == other.x % 10

        def __hash__(self) -> int:
            return self.x % 10

    @dataclass(frozen=True, slots=True)
    class Named:  # noqa: PLW1641  the decorator makes its hash
        """Has a text."""

        x: int

        def __eq__(self, other: object) -> bool:
            return True

    return SimpleNamespace(**{k: v for k, v in locals().items() if isinstance(v, type)})


def compiled() -> SimpleNamespace:
    """Our classes, each past the number of instances that its constructor is compiled at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "_FEW", 0)
        return family(ours)


OURS, THEIRS = family(ours), family(dataclasses)
# The same classes, with the constructor that many instances have.
COMPILED = compiled()


def outcome(call: Callable[[], Any]) -> object:
    """What a call gives, or the error's class and text."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


SAYS: list[Callable[[SimpleNamespace], Any]] = [
    lambda m: repr([m.Point(1), m.Point(x=1, y=2), m.Point3(1, z=[4]), m.Empty(), m.Own(3)]),
    lambda m: repr([m.Counter("a", seen={1}), m.Loose(1), m.Options(name="n"), m.Version(1, 2)]),
    lambda m: [m.Point(1, 2) == m.Point(1, 2), m.Point(1) == m.Point(2), m.Point(1) != m.Point(1)],
    lambda m: [m.Point(1) == m.Same(1), m.Point(1) == m.Point3(1), m.Point(1) == (1, 0)],
    lambda m: [m.Loose(1, "x") == m.Loose(1, "y"), hash(m.Loose(1)) == hash(m.Loose(1, "z"))],
    lambda m: [m.Counter("a") == m.Counter("A"), m.Counter("a", 1) == m.Counter("a")],
    lambda m: [m.Identity(1) == m.Identity(1), len({m.Identity(1), m.Identity(1)})],
    lambda m: [m.Own(1) == m.Own(11), len({m.Own(1), m.Own(11)}), m.Empty() == m.Empty()],
    lambda m: len({m.Point(1), m.Point(1, 0), m.Point(2)}),
    lambda m: hash(m.Counter("a")),
    lambda m: hash(m.Point3(1)),
    lambda m: [m.Version(1) < m.Version(1, 1), m.Version(2) >= m.Version(1)],
    lambda m: max(m.Version(1), m.Version(3)).major,
    lambda m: m.Version(1) < m.Same(1),
    lambda m: m.Point(),
    lambda m: m.Point(1, 2, 3),
    lambda m: m.Point(1, q=3),
    lambda m: m.Options(True),
    lambda m: m.Counter("a", cache={}),
    lambda m: [m.Point.__match_args__, m.Options.__match_args__, m.Counter.__match_args__],
    lambda m: [m.Point.__slots__, m.Point3.__slots__, hasattr(m.Point(1), "__dict__")],
    lambda m: [m.Point(1).sum, m.Point.kind, m.Loose.b, m.Point3(1).z is m.Point3(1).z],
    lambda m: setattr(m.Point(1), "x", 2),
    lambda m: delattr(m.Loose(1), "a"),
    lambda m: setattr(m.Loose(1), "other", 2),
    lambda m: [f.name for f in dataclasses.fields(m.Point3)],
    lambda m: [(f.name, f.repr, f.compare, f.init) for f in dataclasses.fields(m.Counter("a"))],
    lambda m: [(f.type, f.kw_only) for f in dataclasses.fields(m.Options)],
    lambda m: dataclasses.asdict(m.Point3(1, 2, [3])),
    lambda m: [dataclasses.is_dataclass(m.Point), dataclasses.is_dataclass(int)],
    lambda m: repr(dataclasses.replace(m.Point(1), y=5)),
    lambda m: dataclasses.replace(m.Point(1), z=5),
    lambda m: repr(copy.copy(m.Point(1, 2))) + repr(copy.deepcopy(m.Point3(1, 2, [3]))),
    lambda m: m.Point3.__qualname__.rpartition(".")[2] + m.Point3.__module__,
    lambda m: [m.Named.__doc__, m.Named(1) == m.Named(2)],
    lambda m: hash(m.Named(1)) == hash(m.Named(1)),
    lambda m: [issubclass(m.Point3, m.Point), isinstance(m.Point3(1), m.Point)],
]  # fmt: skip


@pytest.mark.parametrize("say", SAYS, ids=range(len(SAYS)))
def test_the_standard_says_the_same(say: Callable[[SimpleNamespace], Any]) -> None:
    """Values, errors and their texts are those of dataclasses.dataclass."""
    expected = outcome(lambda: say(THEIRS))
    assert outcome(lambda: say(OURS)) == outcome(lambda: say(COMPILED)) == expected


def test_replace_is_the_standards() -> None:
    cases: list[tuple[Callable[[Any], Any], dict[str, Any]]] = [
        (lambda m: m.Point(1, 2), {"y": 3}), (lambda m: m.Point3(1), {"z": [9]}),
        (lambda m: m.Options(name="a"), {"deep": True}), (lambda m: m.Point(1), {"q": 1}),
        (lambda m: m.Counter("a"), {"cache": {}}), (lambda m: m.Counter("a", 4), {"name": "b"}),
    ]  # fmt: skip

    def replaced(by: Any, one: Any, change: dict[str, Any]) -> object:
        return outcome(lambda: repr(by.replace(one, **change)))

    for make, change in cases:
        expected = replaced(dataclasses, make(THEIRS), change)
        assert replaced(ours, make(OURS), change) == expected


def test_another_attribute_of_a_frozen_value_is_refused() -> None:
    """The standard's message is about super() here; ours names the field."""
    with pytest.raises(dataclasses.FrozenInstanceError, match="'other'"):
        OURS.Point(1).other = 2


def test_patterns_match() -> None:
    match OURS.Point(3, 4):
        case OURS.Point(3, y):
            assert y == 4
        case _:
            pytest.fail("no match")


def test_many_instances_compile_init_for_all() -> None:
    """The constructor is compiled once, when it pays; each instance before it is the same."""
    made = family(ours)
    before = made.Point.__init__
    instances = [made.Point(1, y=2) for _ in range(ours._FEW)]
    assert made.Point.__init__ is before
    instances.append(made.Point(1, y=2))
    after = made.Point.__init__
    assert before is not after
    made.Point(2)
    assert made.Point.__init__ is after
    assert len(set(instances)) == 1


@ours.dataclass(frozen=True, slots=True)
class Pickled:
    x: int
    y: tuple[int, ...] = ()


def test_pickled_and_back() -> None:
    assert pickle.loads(pickle.dumps(Pickled(1, (2,)))) == Pickled(1, (2,))


def test_a_mutable_default_is_refused() -> None:
    with pytest.raises(ValueError, match="default_factory"):

        @ours.dataclass(frozen=True)
        class Wrong:
            x: list[int] = []  # noqa: RUF012


def test_no_module_imports_the_standard_one_at_its_head() -> None:
    """Importing it takes longer than all of ours; use pybpf.dataclass, which does the same."""
    heads = ("from dataclasses ", "import dataclasses")
    bad = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "pybpf").rglob("*.py")
        if path.name != "dataclass.py"
        for line in path.read_text().splitlines()
        if line.startswith(heads)
    ]
    assert not bad, "from ..dataclass import dataclass"


def test_loading_an_object_does_not_import_the_standard_one() -> None:
    code = (
        "import sys; import pybpf.loader, pybpf.kernel.host, pybpf.obj.linker, pybpf.programs\n"
        "print(sorted({'dataclasses', 'inspect'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_standard_fields_are_made_once() -> None:
    """Making them takes 2 ms, and `asdict` asks for them several times per value."""

    @ours.dataclass(frozen=True, slots=True)
    class One:
        a: int

    assert dataclasses.fields(One)[0] is dataclasses.fields(One(1))[0]
