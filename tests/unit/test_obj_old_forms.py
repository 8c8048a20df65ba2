"""Objects that libbpf refuses and others open: legacy map definitions, the other byte order."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pybpf
from pybpf.btf import BtfKind
from pybpf.errors import ObjectFormatError, UnsupportedFeature
from pybpf.obj.endian import is_big_endian, to_little_endian
from pybpf.obj.reader import read_object
from pybpf.obj.spec import ObjectSpec
from tests.support.elfwriter import ElfWriter

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
BOTH = ["obj_legacy", "obj_maps", "obj_data", "obj_subprogs", "core_kinds"]


def read(name: str, **options: bool) -> ObjectSpec:
    return read_object((DATA / name).read_bytes(), name, **options)


def test_every_legacy_form() -> None:
    """Sections ``maps``, ``maps/NAME`` and ``NAME/maps``; short, plain and long definitions."""
    spec = read("obj_legacy_forms.bpf.o", legacy_maps=True)
    rows = {
        name: (int(m.type), m.key_size, m.value_size, m.max_entries, m.map_flags, m.section)
        for name, m in spec.maps.items()
        if not m.is_internal
    }
    assert rows == {
        "first": (1, 4, 8, 7, 1, "maps"),
        "second": (2, 4, 8, 3, 0, "maps"),
        "third": (2, 4, 8, 1, 0, "maps/third"),
        "fourth": (2, 4, 8, 2, 0, "socket/maps"),
    }
    numbers = {spec.map_names[reloc.number] for reloc in spec.relocs[0]}
    assert numbers == {"first", "second", "third", "fourth", ".data"}


@pytest.mark.parametrize("name", ["obj_legacy.bpf.o", "obj_legacy.eb.o"])
def test_refused_by_default(name: str) -> None:
    """The refusal names what to do."""
    with pytest.raises(ObjectFormatError, match=r"legacy_maps=True\) or --legacy-maps"):
        read(name)
    assert list(read(name, legacy_maps=True).maps) == ["old"]


@pytest.mark.parametrize(
    ("definition", "what"),
    [(bytes(12), "12 bytes cannot hold"), (bytes(24) + b"\1" + bytes(3), "byte 24 is set")],
)
def test_definitions_that_make_no_sense(definition: bytes, what: str) -> None:
    writer = ElfWriter()
    section = writer.section("maps", definition)
    writer.symbol("odd", section, 0, len(definition), type=1)
    with pytest.raises(ObjectFormatError, match=rf"legacy map 'odd': {what}"):
        read_object(writer.build(), legacy_maps=True)


@pytest.mark.parametrize("name", BOTH)
def test_a_big_endian_object_reads_as_its_twin(name: str) -> None:
    """The same source compiled for both byte orders: programs, code, maps, relocations and
    types agree."""
    big, little = read(f"{name}.eb.o", legacy_maps=True), read(f"{name}.bpf.o", legacy_maps=True)
    assert big.big_endian and not little.big_endian
    assert big.license == little.license
    assert list(big.programs) == list(little.programs)
    for one, other in zip(big.functions, little.functions, strict=True):
        assert (one.name, one.section_name, one.count) == (
            other.name,
            other.section_name,
            other.count,
        )
        assert bytes(one.code[::8]) == bytes(other.code[::8])  # the operations
    for key, map_spec in big.maps.items():
        twin = little.maps[key]
        sizes = (map_spec.type, map_spec.key_size, map_spec.value_size, map_spec.max_entries)
        assert sizes == (twin.type, twin.key_size, twin.value_size, twin.max_entries)
    relocs = [(n, r.insn, r.kind) for n, rows in big.relocs.items() for r in rows]
    assert relocs == [(n, r.insn, r.kind) for n, rows in little.relocs.items() for r in rows]
    if big.btf is not None and little.btf is not None:
        for kind in BtfKind:
            names = [big.btf.name(i) for i in big.btf.ids(kind)]
            assert names == [little.btf.name(i) for i in little.btf.ids(kind)]
        assert (big.btf_ext is None) == (little.btf_ext is None)


def test_registers_of_a_big_endian_object() -> None:
    """Its code is what the little-endian one has, apart from constants of wider data."""
    for one, other in zip(
        read("obj_legacy.eb.o", legacy_maps=True).functions,
        read("obj_legacy.bpf.o", legacy_maps=True).functions,
        strict=True,
    ):
        assert bytes(one.code) == bytes(other.code)


def test_it_is_inspected_and_not_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "tools/bpfobj.py", "inspect", str(DATA / "obj_maps.eb.o")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("big-endian: ") and "by_type" in done.stdout
    with pybpf.open(DATA / "obj_data.eb.o") as obj:
        assert list(obj.globals) == []
        with pytest.raises(UnsupportedFeature, match=r"obj_data.eb.o, which is big-endian"):
            obj.load()


@given(st.binary(min_size=6, max_size=200), st.integers(0, 300))
def test_mutations_are_refused(noise: bytes, at: int) -> None:
    """Whatever is in such a file, the answer is an object or one error."""
    data = bytearray((DATA / "obj_legacy.eb.o").read_bytes())
    at = at * 7 % len(data)
    data[at : at + len(noise)] = noise[: len(data) - at]
    if not is_big_endian(data):
        return
    with contextlib.suppress(ObjectFormatError):
        read_object(to_little_endian(data))
