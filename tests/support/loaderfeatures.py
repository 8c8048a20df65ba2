"""Read tests/data/loader-features.toml: what a loader must do, and which tests prove it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Row", "rows"]

FILE = Path(__file__).parents[1] / "data" / "loader-features.toml"


@dataclass(frozen=True)
class Row:
    """Describe one feature.

    :param priority: 0 for a first release, 1 for what libbpf's users expect
    :param proofs: tests below tests/, as FILE::TEST, or FILE for all of its tests
    :param missing: why it does not work, "" if it does
    """

    area: str
    priority: int
    feature: str
    proofs: tuple[str, ...]
    missing: str = ""

    def __str__(self) -> str:
        return f"{self.area}: {self.feature}"


def rows() -> list[Row]:
    """Return all rows, in the file's order."""
    found = []
    for area in tomllib.loads(FILE.read_text())["area"]:
        for priority, feature, *proofs in area["rows"]:
            missing = proofs[1] if proofs[0] == "-" else ""
            tests = () if missing else tuple(proofs)
            found.append(Row(area["name"], priority, feature, tests, missing))
    return found
