"""Globals before loading: pure, from the committed object alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.btf import Btf, Int, Linkage, Var
from pybpf.btf.encode import BtfBuilder
from pybpf.globals import Globals, variable
from pybpf.maps import Map
from pybpf.obj.reader import read_object
from pybpf.obj.spec import MapSpec
from pybpf.obj.variables import DataSection, Placed

OBJECT = Path(__file__).parents[1] / "data" / "map_events.bpf.o"


@pytest.fixture
def names() -> Globals:
    spec = read_object(OBJECT.read_bytes(), "map_events.bpf.o")
    maps = {name: Map(one, spec.btf) for name, one in spec.maps.items()}
    return Globals(spec, maps)


def test_initial_values_are_typed(names: Globals) -> None:
    """bool, signed, enum, struct, char array and array come out as the C source has them."""
    assert names.enabled is True
    assert (names.step, names.tiny, names.only, names.seq) == (-1, 3, 0, 0)
    assert (names.limits.low, names.limits.high) == (0, 0xFFFFFFFF)
    assert names.label == "pybpf"
    assert names.table == (0, 0, 0, 0)


def test_assignments_before_loading(names: Globals) -> None:
    names.step = 12
    names.enabled = False
    names.limits = (1, 2)
    names.only = "KIND_EVEN"
    names.label = b"eight888"
    names["tiny"] = 255
    assert (names.step, names.enabled, names.limits, names.only) == (12, False, (1, 2), 2)
    assert (names.label, names.tiny) == (b"eight888", 255)


def test_assignment_changes_nothing_else(names: Globals) -> None:
    """Every variable of every section can be set without touching its neighbours."""
    before = {name: variable(names, name).raw for name in names}
    for name in names:
        one = variable(names, name)
        one.raw = b"\xff" * one.size
        assert {n: variable(names, n).raw for n in names if n != name} == {
            n: raw for n, raw in before.items() if n != name
        }
        one.raw = before[name]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("step", 1 << 31, ValueError),
        ("step", "a word", TypeError),
        ("tiny", 256, ValueError),
        ("label", b"nine 9999", ValueError),
        ("limits", (1, 2, 3), ValueError),
    ],
)
def test_values_that_do_not_fit(names: Globals, name: str, value: Any, error: type) -> None:
    before = names[name]
    with pytest.raises(error):
        setattr(names, name, value)
    assert names[name] == before


def test_unknown_names_get_a_hint(names: Globals) -> None:
    with pytest.raises(AttributeError, match=r"no global variable 'enable'; is it 'enabled'"):
        _ = names.enable
    with pytest.raises(AttributeError, match="no global variable 'brand_new'"):
        names.brand_new = 1
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del names.step


def test_names_can_be_listed(names: Globals) -> None:
    assert "step" in names and "stepp" not in names
    assert {"step", "seq", "custom", "touch.twin"} <= set(names)
    assert "step" in dir(names) and "touch.twin" not in dir(names)
    assert "step" in repr(names)
    assert len(names) == len(list(names))


def test_sections(names: Globals) -> None:
    """A section is reached by its name and holds its own variables only."""
    assert set(names[".data"]) == {"tiny", "seen"}
    names[".data"].tiny = 9
    assert names.tiny == 9
    assert names[".bss.one"]["touch.twin"] == 0
    assert variable(names[".rodata"], "step").read_only
    with pytest.raises(KeyError):
        names[".nothing"]
    with pytest.raises(TypeError, match="as a whole"):
        names[".data"] = 1


def test_statics_of_one_name() -> None:
    """A visible variable wins its name; of several static ones each needs its section."""
    build = BtfBuilder()
    number = build.add(Int("int", 4, 32, 0, 1))
    btf = Btf(build.build())

    def section(name: str, *variables: tuple[str, bool]) -> DataSection:
        placed = tuple(
            Placed(4 * i, 4, Var(n, number, Linkage.STATIC if static else Linkage.GLOBAL), static)
            for i, (n, static) in enumerate(variables)
        )
        return DataSection(name, 0, 8, placed)

    sections = {
        ".data": section(".data", ("twin", True), ("both", True)),
        ".bss": section(".bss", ("twin", True), ("both", False)),
    }
    specs = {
        name: MapSpec(name, 2, 4, 8, 1, initial=bytes(8), section=name, data=name[1:])
        for name in sections
    }
    spec: Any = SimpleNamespace(btf=btf, maps=specs, data_sections=sections)
    names = Globals(spec, {name: Map(one, btf) for name, one in specs.items()})
    with pytest.raises(AttributeError, match=r"several variables are called 'twin'.*globals\["):
        _ = names.twin
    with pytest.raises(AttributeError, match="several"):
        names.twin = 1
    names[".data"].twin = 1
    names[".bss"].twin = 2
    assert (names[".data"].twin, names[".bss"].twin) == (1, 2)
    names.both = 3
    assert (names[".bss"].both, names[".data"].both) == (3, 0)


def test_object_without_btf_has_no_variables() -> None:
    spec: Any = SimpleNamespace(btf=None, maps={}, data_sections={})
    names = Globals(spec, {})
    assert list(names) == [] and repr(names) == "<Globals: none>"


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("tiny", 256, ValueError, "256 does not fit 1 bytes"),
        ("step", None, TypeError, "None given, a number needed"),
        ("limits", (1, -2), ValueError, "high: -2 does not fit"),
        ("label", "\udc80", ValueError, "surrogates not allowed"),
        ("label", bytes(9), ValueError, "9 bytes given, at most 8 fit"),
    ],
)
def test_a_value_that_does_not_fit_names_the_variable(
    names: Globals, name: str, value: object, error: type[Exception], words: str
) -> None:
    """Of many assignments, which one was wrong."""
    with pytest.raises(error, match=f"^variable '{name}': .*{words}"):
        names[name] = value
