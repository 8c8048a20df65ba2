"""Counts with their nouns: a message never says ``1 functions``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pybpf
from pybpf.elf import ElfFile
from pybpf.errors import ObjectFormatError, VerifierError
from pybpf.wording import many

ROOT = Path(__file__).parents[2]


def test_one_and_more() -> None:
    """One thing has no s; words with another plural give it."""
    assert [many(n, "function") for n in (0, 1, 2)] == ["0 functions", "1 function", "2 functions"]
    assert [many(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_a_file_of_one_byte() -> None:
    """A parser's message about one byte."""
    with pytest.raises(ObjectFormatError, match="1 byte cannot hold"):
        ElfFile(b"\x7f")


def test_a_log_of_one_line() -> None:
    """A verifier's log of one line."""
    assert "(1 line of verifier log in .log)" in str(VerifierError(22, "p", "refused\n", "refused"))


def test_an_object_of_few_parts() -> None:
    """What an object says of itself."""
    with pybpf.open(ROOT / "tests/data/fentry_args.bpf.o") as obj:
        assert f"{many(len(obj.maps), 'map')}, " in repr(obj)
        assert not re.search(r"\b1 (?:programs|maps)\b", repr(obj))
