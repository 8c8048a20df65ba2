"""What the original retsnoop gets wrong: each row of retsnoop-traps.toml has tests."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.support.proofs import exists

FILE = Path(__file__).parents[1] / "data" / "retsnoop-traps.toml"
TABLES: dict[str, list[list[str]]] = tomllib.loads(FILE.read_text())


@pytest.mark.parametrize("row", TABLES["defects"] + TABLES["traps"], ids=lambda row: str(row[0]))
def test_row(row: list[str]) -> None:
    """The tests that it names exist."""
    _, *proofs = row
    assert proofs
    for proof in proofs:
        assert exists(proof), proof


def test_rows_are_told_apart() -> None:
    assert set(TABLES) == {"defects", "traps"}
    for table in TABLES.values():
        assert len({what for what, *_ in table}) == len(table)
