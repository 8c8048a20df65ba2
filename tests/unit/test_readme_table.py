"""README's tables are what the code does, and what tests prove."""

from __future__ import annotations

from pybpf.links.table import WAYS
from tests.support.loaderfeatures import rows
from tools.dev.gen_readme import README, attach_table, feature_table, with_tables


def test_the_tables_are_fresh() -> None:
    """Run tools/dev/gen_readme.py after a change of links/table.py or loader-features.toml."""
    text = README.read_text()
    assert with_tables(text) == text


def test_every_feature_is_in_the_table() -> None:
    """Each row of the list is there, with the reason if it is missing."""
    table = feature_table()
    assert all(row.feature in table and row.missing in table for row in rows())


def test_every_kind_has_an_answer() -> None:
    """Each row attaches by section, names a method, or says what to do instead."""
    assert all(way.attach or way.call or way.instead for way in WAYS.values())
    assert attach_table().count("\n") == len(WAYS) + 2
