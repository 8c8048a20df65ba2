"""pybpf.open: what it takes, and what it says to anything else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import pybpf

OBJECT = Path(__file__).parent.parent / "data" / "map_kinds.bpf.o"


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
def test_an_object_in_memory_is_the_file(wrap: type) -> None:
    """Every kind of buffer, and a file object, opens as the path does."""
    with pybpf.open(OBJECT) as named, pybpf.open(wrap(OBJECT.read_bytes())) as obj:
        assert list(obj.programs) == list(named.programs) != []
        assert list(obj.maps) == list(named.maps) != []


@pytest.mark.parametrize("source", [None, 5, io.StringIO("text"), ["list"]])
def test_anything_else_is_a_type_error(source: object) -> None:
    """The error says what is needed and names the type given."""
    with pytest.raises(TypeError, match=f"binary mode, not {type(source).__name__}"):
        pybpf.open(source)  # type: ignore[arg-type]
