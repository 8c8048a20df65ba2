#!/usr/bin/env python3
"""Write README's table of attach kinds from the table that attaches, or check it (``--check``).

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

__all__ = ["attach_table", "with_table"]

BEGIN = "<!-- made by tools/dev/gen_readme.py -->\n"
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


def with_table(text: str) -> str:
    """Put the table into README's text, between its two marks.

    :raises ValueError: a mark is missing
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README.name} lacks {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}{attach_table()}{END}{after}"


def main() -> int:
    """Write or check README; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    args = parser.parse_args()
    text = README.read_text()
    made = with_table(text)
    if args.check:
        return int(made != text)
    README.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
