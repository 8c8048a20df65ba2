"""Compare a text with the golden one that is kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import rows
from tests.support.golden import difference

__all__ = ["check"]


def check(path: Path, found: str, here: str, command: str, why: str) -> None:
    """Fail the test unless a text is the golden one.

    :param path: file of the golden text, below the checkout
    :param here: name of the other side
    :param command: what writes the file
    :param why: what may have changed, and what to look at before the new text is taken
    """
    shown = path.relative_to(rows.ROOT)
    if not path.exists():
        pytest.fail(f"{shown} is missing; write it with: {command}", pytrace=False)
    if text := difference(path.read_text(), found, str(shown), here):
        pytest.fail(f"{text}\n\n{why}: {command}", pytrace=False)
