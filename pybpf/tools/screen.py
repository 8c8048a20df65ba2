"""Print text for people: colours and tables that fit on a terminal, plain whole text on a pipe.

Names of processes, functions, programs and maps are untrusted text. Whatever prints
them passes them through `wording.plain`, so that none of them can control the terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ..dataclass import dataclass, replace
from ..jsontext import dumps
from ..wording import many, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["Column", "Line", "Screen", "cut", "fit", "many"]

_GAP = 2  # blanks between columns
_LEAST = 4  # columns that a cut cell keeps, however narrow the terminal


def cut(text: str, width: int) -> str:
    """Cut `text` to at most `width` columns, with an ellipsis if it was longer."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


@dataclass(frozen=True, slots=True)
class Line:
    """Describe one line of a report.

    :param style: ANSI style (``1`` bold, ``2`` dim, ``31`` red ...), "" for none
    :param wrap: wrap at the end of the terminal and indent by this many blanks; None
        cuts instead
    """

    text: str = ""
    style: str = ""
    wrap: int | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """Describe one column of a table.

    :param least: width it keeps when it is cut to fit, None if it is never cut
    :param drop: leave it out if the table still does not fit, the lowest first; 0 never
    :param style: style of its cells
    """

    name: str
    least: int | None = None
    drop: int = 0
    right: bool = False
    style: str = ""


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """Find widths of the columns so that a table fits in `width`. 0 leaves a column out.

    :param rows: cells, without the headings
    :param width: None for no limit
    """
    widths = [max(map(len, cells)) for cells in zip([c.name for c in columns], *rows, strict=True)]
    if width is None:
        return widths

    def over() -> int:
        shown = [w for w in widths if w]
        return sum(shown) + _GAP * (len(shown) - 1) - width

    def shrink(least: int | None) -> None:
        # The widest columns are cut first, so that short ones stay whole.
        for _, at in sorted((-w, at) for at, w in enumerate(widths)):
            own = columns[at].least
            if own is not None and widths[at]:
                floor = min(own if least is None else least, widths[at])
                widths[at] = max(widths[at] - max(over(), 0), floor)

    shrink(None)
    for at in sorted((a for a, c in enumerate(columns) if c.drop), key=lambda a: columns[a].drop):
        if over() > 0:
            widths[at] = 0
    shrink(None)
    shrink(_LEAST)
    return widths


@dataclass(frozen=True, slots=True)
class Screen:
    """Print text, with colours and a width on a terminal, with neither on a pipe.

    :param width: columns, or None for no limit
    """

    out: TextIO
    colour: bool = False
    width: int | None = None

    @classmethod
    def of(cls, out: TextIO) -> Screen:
        """Make a screen for a terminal (NO_COLOR or TERM=dumb turns colours off) or a plain
        stream."""
        if not out.isatty():
            return cls(out)
        import shutil

        colour = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        return cls(out, colour, shutil.get_terminal_size().columns)

    def paint(self, text: str, style: str) -> str:
        """Put `text` in an ANSI style, if colours are on."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and text and style else text

    def line(self, text: str = "") -> None:
        """Print a line as it is. Names in it must have been through `plain`."""
        print(text, file=self.out)

    def show(self, *lines: Line | str) -> None:
        """Print lines, cut or wrapped to fit."""
        for one in lines:
            line = Line(one) if isinstance(one, str) else one
            line = replace(line, text=plain(line.text))
            for text in self._fitted(line):
                self.line(self.paint(text, line.style))

    def _fitted(self, line: Line) -> list[str]:
        if self.width is None or len(line.text) <= self.width:
            return [line.text]
        if line.wrap is None:
            return [cut(line.text, self.width)]
        import textwrap

        return textwrap.wrap(
            line.text,
            max(self.width, line.wrap + _LEAST),
            subsequent_indent=" " * line.wrap,
            break_on_hyphens=False,
            drop_whitespace=True,
        )

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
        """Print headings and rows. Cells are cut to fit."""
        body = [[plain(cell) for cell in row] for row in rows]
        widths = fit(columns, body, self.width)
        for number, row in enumerate([[c.name for c in columns], *body]):
            cells = []
            for column, text, width in zip(columns, row, widths, strict=True):
                if width:
                    text = cut(text, width)
                    text = text.rjust(width) if column.right else text.ljust(width)
                    cells.append((text, column.style if number else "1"))
            cells[-1] = (cells[-1][0].rstrip(), cells[-1][1])
            self.line((" " * _GAP).join(self.paint(*cell) for cell in cells).rstrip())

    def json(self, value: object) -> None:
        """Print a value as JSON, the same on a terminal and a pipe."""
        self.line(dumps(value, indent=2))
