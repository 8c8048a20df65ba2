"""The golden listings of tests/e2e/golden: the set is whole, and they are for people."""

from __future__ import annotations

import re

from tests.support import golden_snoop, rows
from tests.support.golden_cases import CASES, GOLDEN, absence, batches, expected, present


def test_every_case_has_its_listings_and_every_listing_its_case() -> None:
    """Nothing missing, nothing left over; a row without a case says why."""
    update = "write it with: pytest tests/e2e/test_golden.py --update-golden"
    missing = sorted(str(p.relative_to(GOLDEN)) for p in expected() - present())
    assert not missing, f"no golden listing {missing}: {update}"
    over = sorted(str(p.relative_to(GOLDEN)) for p in present() - expected())
    assert not over, f"golden listings without a case: {over}: remove them"


def test_cases_are_sound() -> None:
    """Names are unique; each is kept on a row at least; excuses name real rows."""
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert any(not absence(case, row) for row in rows.names()), case.name
        assert set(case.refused) <= set(rows.names()), case.name


def test_batches_hold_every_case_once_and_keep_functions_apart() -> None:
    """A row has each of its cases once, in few batches, because each takes more than a second."""
    for row in rows.names():
        found = batches(row)
        names = [case.name for batch in found for case in batch]
        assert sorted(names) == sorted(
            case.name for case in CASES if not absence(case, row) or row in case.refused
        )
        for batch in found:
            assert len({case.function for case in batch}) == len(batch)
        assert len(found) <= 3


def test_golden_listings_are_small_and_without_addresses() -> None:
    """They are for people: 150 KB in all, no kernel address, every program named."""
    texts = {path: path.read_text() for path in present()}
    assert sum(map(len, texts.values())) < 150_000
    for path, text in texts.items():
        assert not re.search(r"0xffff[0-9a-f]{8}", text), path
        assert not re.search(r"<no symbol>|\?|not the function|not known|elsewhere", text), path


def test_every_run_of_retsnoop_has_its_text_and_every_text_its_run() -> None:
    """On all rows; nothing in them tells a boot, an address or a time."""
    update = "write it with: pytest tests/e2e/test_retsnoop_golden.py --update-golden"
    assert golden_snoop.present() == golden_snoop.expected(), update
    assert len({case.name for case in golden_snoop.CASES}) == len(golden_snoop.CASES)
    texts = {path: path.read_text() for path in golden_snoop.present()}
    assert sum(map(len, texts.values())) < 150_000
    for path, text in texts.items():
        assert golden_snoop.normalise(text) == text, path
        assert not re.search(r"0xffff[0-9a-f]{8}|DONE in [0-9]|[0-9]{2}:[0-9]{2}:[0-9]{2}", text)
