#!/usr/bin/env python3
"""Write README's tables of features and of attach kinds, or check them (``--check``).

Features come from tests/data/loader-features.toml, attach kinds from the table that attaches.

Exit status: 0 ok, 1 README differs, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT)]

from pybpf.links.table import WAYS  # noqa: E402
from pybpf.obj.sections import SECTIONS  # noqa: E402
from tests.support.loaderfeatures import rows  # noqa: E402

__all__ = ["attach_table", "feature_table", "with_tables"]

END = "<!-- end of what is made -->\n"
README = ROOT / "README.md"


def attach_table() -> str:
    """Make the table: sections, whether they attach by name, and the method to call."""
    lines = ["| sections | by section | by method, or what to do |", "|---|---|---|"]
    for how, way in WAYS.items():
        names = [row.prefix for row in SECTIONS.values() if row.how == how and not row.sleepable]
        names = names or [row.prefix for row in SECTIONS.values() if row.how == how]
        shown = ", ".join(f"`{name}`" for name in names)
        what = f"`{way.call}`" if way.call else way.instead.replace("|", "\\|") or "-"
        lines.append(f"| {shown} | {'yes' if way.attach else '-'} | {what} |")
    return "\n".join(lines) + "\n"


def feature_table() -> str:
    """Make the table: a line for each area, with what works and what does not."""
    works: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for row in rows():
        works.setdefault(row.area, [])
        if row.missing:
            missing.setdefault(row.area, []).append(f"{row.feature} ({row.missing})")
        else:
            works[row.area].append(row.feature)
    lines = ["| area | works | does not |", "|---|---|---|"]
    for area, features in works.items():
        lines.append(f"| {area} | {'; '.join(features)} | {'; '.join(missing.get(area, ['-']))} |")
    return "\n".join(lines) + "\n"


TABLES = {"features": feature_table, "attach kinds": attach_table}


def with_tables(text: str) -> str:
    """Put the tables into README's text, each between its two marks.

    :raises ValueError: a mark is missing
    """
    for name, make in TABLES.items():
        begin = f"<!-- {name}: made by tools/dev/gen_readme.py -->\n"
        before, found, rest = text.partition(begin)
        _, end, after = rest.partition(END)
        if not found or not end:
            raise ValueError(f"{README.name} lacks {begin!r} or {END!r}")
        text = f"{before}{begin}{make()}{END}{after}"
    return text


def main() -> int:
    """Write or check README; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    args = parser.parse_args()
    text = README.read_text()
    made = with_tables(text)
    if args.check:
        return int(made != text)
    README.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
