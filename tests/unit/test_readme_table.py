"""README's table of attach kinds is what the code does."""

from __future__ import annotations

from pybpf.links.table import WAYS
from tools.dev.gen_readme import README, attach_table, with_table


def test_the_table_is_fresh() -> None:
    """Run tools/dev/gen_readme.py after a change of pybpf/links/table.py."""
    text = README.read_text()
    assert with_table(text) == text


def test_every_kind_has_an_answer() -> None:
    """Each row attaches by section, names a method, or says what to do instead."""
    assert all(way.attach or way.call or way.instead for way in WAYS.values())
    assert attach_table().count("\n") == len(WAYS) + 2
