"""`pybpf obj pyi`: the stub of an object has its names and types, and type checkers take it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pybpf
from pybpf.obj.reader import read_object
from pybpf.stub import _seen_beside, object_stub

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"
REFUSED = ("obj_legacy.bpf.o", "obj_legacy_forms.bpf.o")
OBJECTS = [path for path in sorted(DATA.glob("*.bpf.o")) if path.name not in REFUSED]


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_every_object(path: Path) -> None:
    """Each stub is Python, with all programs, maps and variables."""
    spec = read_object(path.read_bytes(), str(path))
    text = object_stub(spec)
    compile(text, "stub", "exec", ast.PyCF_ONLY_AST)
    for name in (*spec.programs, *spec.maps):
        assert f'"{name}"' in text
    with pybpf.open(path) as obj:
        for name in obj.globals:
            assert not name.isidentifier() or f" {name}" in text


def test_records_are_what_values_are() -> None:
    """Fields of a record, of an anonymous union and of events that a pointer keeps."""
    text = object_stub(read_object((DATA / "map_kinds.bpf.o").read_bytes()))
    assert "class struct_value(pybpf.Record):\n    packets: int\n    delta: int\n" in text
    assert "    name: pybpf.CharArray\n" in text
    text = object_stub(read_object((DATA / "map_events.bpf.o").read_bytes()))
    assert (
        "class struct_event(pybpf.Record):\n    seq: int\n    delta: int\n    kind: int\n" in text
    )


def test_a_field_may_have_the_name_of_a_type() -> None:
    """``struct { __u64 bytes; __u8 mac[6]; }``: in the class, `bytes` is the field."""
    assert _seen_beside("bytes", ("bytes", "mac")) == "builtins.bytes"
    assert _seen_beside("tuple[struct_a, ...]", ("tuple",)) == "builtins.tuple[struct_a, ...]"
    assert _seen_beside("pybpf.CharArray", ("comm", "bytes")) == "pybpf.CharArray"
    assert _seen_beside("pybpf.CharArray", ("pybpf",)) == "builtins.object"
