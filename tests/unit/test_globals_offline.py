"""Globals before loading: pure, from the committed object alone."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.btf import Btf, BtfKind, Datasec, Int, Linkage, Var
from pybpf.btf.encode import BtfBuilder, stretch
from pybpf.globals import Globals, variable
from pybpf.maps import Map
from pybpf.obj.reader import read_object
from pybpf.obj.spec import MapSpec
from pybpf.obj.variables import DataSection, Placed

DATA = Path(__file__).parents[1] / "data"
OBJECT = DATA / "map_events.bpf.o"
RESIZE = DATA / "obj_resize.bpf.o"


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
        ("tiny", 256, ValueError, "256 does not fit 1 byte"),
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


@pytest.fixture
def growing() -> tuple[Globals, dict[str, Map]]:
    spec = read_object(RESIZE.read_bytes(), "obj_resize.bpf.o")
    maps = {name: Map(one, spec.btf) for name, one in spec.maps.items()}
    return Globals(spec, maps), maps


def test_an_array_at_the_end_grows_with_its_section(
    growing: tuple[Globals, dict[str, Map]],
) -> None:
    """The old contents stay in front. New elements are 0, typed as the others, and assignable."""
    names, maps = growing
    maps[".data.cells"].value_size = 3 * 16
    assert [(cell.hits, cell.weight) for cell in names.cells] == [(5, 0), (0, 0), (0, 0)]
    names.cells = [(1, 2), (3, 4), (5, 6)]
    assert maps[".data.cells"].initial == struct.pack("<QI4xQI4xQI4x", 1, 2, 3, 4, 5, 6)
    maps[".bss.names"].value_size = 8 + 16
    names.total, names.names = 1 << 40, "sixteen letters."
    assert (names.total, names.names) == (1 << 40, "sixteen letters.")
    maps[".rodata.weights"].value_size = 8
    names[".rodata.weights"].weights = [1, 2]
    with pytest.raises(ValueError, match="'weights': 3 items given, at most 2 fit"):
        names.weights = [1, 2, 3]
    maps[".rodata.weights"].value_size = 4
    assert names.weights == (1,)


def test_only_an_array_at_the_end_grows(growing: tuple[Globals, dict[str, Map]]) -> None:
    """Other variables keep their size; what a shorter section cuts off says so."""
    names, maps = growing
    maps[".data.alone"].value_size = 64
    assert names.alone == 3 and variable(names, "alone").size == 4
    maps[".bss.names"].value_size = 4
    with pytest.raises(ValueError, match=r"'total'.*\.bss\.names has only 4 bytes"):
        _ = names.total
    with pytest.raises(ValueError, match=r"'total'.*\.bss\.names has only 4 bytes"):
        names.total = 1
    for wrong in (0, -1, 1 << 32, "8", 2.0):
        with pytest.raises((TypeError, ValueError), match=r"map '\.data\.alone': value_size"):
            maps[".data.alone"].value_size = wrong  # type: ignore[assignment]
    assert len(maps[".data.alone"].initial or b"") == 64


def test_btf_of_a_section_that_has_grown(growing: tuple[Globals, dict[str, Map]]) -> None:
    """Section, variable and array have the new length; all ids stay."""
    spec = read_object(RESIZE.read_bytes(), "obj_resize.bpf.o")
    blob = spec.btf_for_load()
    assert blob is not None
    before = Btf(blob)
    after = Btf(stretch(blob, {".data.cells": 48, ".bss.names": 24, ".data.alone": 64}))
    changed = {n for n in range(1, before.nr_types) if before.type(n) != after.type(n)}
    assert {before.name(one) for one in changed} == {".data.cells", ".bss.names", "cells", "names"}
    cells = after.type(after.find("cells", BtfKind.VAR))
    assert isinstance(cells, Var) and after.sizeof(cells.type) == 48
    section = after.type(after.find(".bss.names", BtfKind.DATASEC))
    assert isinstance(section, Datasec)
    assert (section.size, [one.size for one in section.entries]) == (24, [8, 16])
    assert stretch(blob, {".data.cells": 47}) == blob  # not a whole number of elements
