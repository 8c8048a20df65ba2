"""The live table: what is on the screen, and what each key does. Pure.

It shows totals of the whole run beside rates and latencies of the last interval. Each column has
a key that sorts by it. The same key again reverses the order. The arrow keys choose a function;
its histogram is of the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...dataclass import dataclass, field
from ...wording import plain
from ..screen import Column, Line, cut, fit, many
from .counts import NOTHING, Counts
from .functions import Function
from .text import Row, duration, histogram

__all__ = ["Key", "Table"]

_BARS = 12  # most lines of a histogram
_GAP = "  "


@dataclass(frozen=True, slots=True)
class _Shown:
    # A function in the table.
    function: Function
    total: Counts
    last: Counts
    seconds: float

    def share(self, share: float) -> int:
        return self.last.percentile(share) or 0


class Key:
    """Name the keys that are not characters."""

    UP = "up"
    DOWN = "down"
    PAGE_UP = "page up"
    PAGE_DOWN = "page down"
    ENTER = "\n"


# Key, column, sort value (greatest first), text of a cell.
_Cell = Callable[[_Shown], str]


@dataclass(frozen=True, slots=True)
class _Field:
    key: str
    column: Column
    by: Callable[[_Shown], Any]
    text: _Cell


def _latency(share: float) -> _Cell:
    return lambda row: duration(row.last.percentile(share))


def _name(row: _Shown) -> str:
    return row.function.label


_FIELDS = (
    _Field("f", Column("Function", least=20), _name, _name),
    _Field("c", Column("Calls", right=True), lambda r: r.total.calls, lambda r: str(r.total.calls)),
    _Field(
        "s",
        Column("/Second", right=True, drop=2),
        lambda r: r.last.calls,
        lambda r: f"{r.last.calls / r.seconds:.0f}" if r.seconds else "-",
    ),
    _Field(
        "e", Column("Errors", right=True), lambda r: r.total.errors, lambda r: str(r.total.errors)
    ),
    _Field("5", Column("50%", right=True, drop=3), lambda r: r.share(0.5), _latency(0.5)),
    _Field("9", Column("90%", right=True, drop=4), lambda r: r.share(0.9), _latency(0.9)),
    _Field("p", Column("99%", right=True), lambda r: r.share(0.99), _latency(0.99)),
    _Field(
        "m",
        Column("Max", right=True, drop=5),
        lambda r: r.last.max_ns,
        lambda r: duration(r.last.known_max_ns),
    ),
    _Field(
        "t",
        Column("Time", right=True, drop=1),
        lambda r: r.total.total_ns,
        lambda r: duration(r.total.total_ns),
    ),
)
_BY_KEY = {one.key: one for one in _FIELDS}
_HELP = "sort: " + " ".join(f"{f.key} {f.column.name.lower()}" for f in _FIELDS)


@dataclass(slots=True)
class Table:
    """Hold the state of the live table.

    :param top: most rows shown, 0 for as many as fit
    :param note: the last message
    """

    top: int = 0
    totals: dict[Function, Counts] = field(default_factory=dict)
    last: dict[Function, Counts] = field(default_factory=dict)
    seconds: float = 0.0
    elapsed: float = 0.0
    note: str = ""
    _sort: _Field = _BY_KEY["c"]
    _ascending: bool = False
    _chosen: Function | None = None
    _bars: bool = False

    def update(self, rows: Sequence[Row], seconds: float) -> None:
        """Take an interval.

        :param seconds: its length
        """
        self.last = dict(rows)
        self.seconds = seconds
        self.elapsed += seconds
        for function, counts in rows:
            self.totals[function] = self.totals.get(function, NOTHING) + counts

    def press(self, key: str) -> bool:
        """Handle a key. Return False if it ends the run."""
        if key == "q":
            return False
        if key in _BY_KEY:
            self._ascending = self._sort.key == key and not self._ascending
            self._sort = _BY_KEY[key]
        elif key in ("h", Key.ENTER):
            self._bars = not self._bars
        elif key in _STEPS:
            rows = self._rows()
            if rows:
                at = next((n for n, r in enumerate(rows) if r.function == self._chosen), -1)
                at = min(max(at + _STEPS[key], 0), len(rows) - 1)
                self._chosen = rows[at].function
        return True

    def _rows(self) -> list[_Shown]:
        rows = [
            _Shown(function, counts, self.last.get(function, NOTHING), self.seconds)
            for function, counts in self.totals.items()
        ]
        rows.sort(key=_name)
        down = not self._ascending if self._sort.key != "f" else self._ascending
        rows.sort(key=self._sort.by, reverse=down)
        return rows[: self.top] if self.top else rows

    def lines(self, width: int, height: int) -> list[Line]:
        """Return the screen: at most `height` lines, none longer than `width`."""
        rows = self._rows()
        calls = sum(counts.calls for counts in self.totals.values())
        rate = sum(counts.calls for counts in self.last.values()) / (self.seconds or 1)
        top = [
            Line(
                f"{many(calls, 'call')} of {many(len(self.totals), 'function')} "
                f"in {self.elapsed:.0f} s, {rate:.0f}/s now"
            )
        ]
        chosen = self._chosen or (rows[0].function if rows else None)
        bottom: list[Line] = []
        if self._bars and chosen is not None:
            bars = list(histogram(self.totals[chosen], max(width - 32, 4)))
            bottom = [Line(chosen.label, "1"), *map(Line, bars[: min(_BARS, height // 2)])]
        bottom.append(Line(self.note or f"q end  h histogram  {_HELP}", "2"))
        room = max(height - len(top) - len(bottom) - 1, 0)
        body = self._body(rows, chosen, room, width)
        whole = [*top, *body, *bottom][:height]
        return [Line(cut(plain(line.text), width), line.style) for line in whole]

    def _body(
        self, rows: Sequence[_Shown], chosen: Function | None, room: int, width: int
    ) -> list[Line]:
        # Headings, and as many rows as fit, including the chosen one.
        at = next((n for n, r in enumerate(rows) if r.function == chosen), 0)
        start = max(0, min(at - room + 1, len(rows) - room)) if at >= room else 0
        shown = rows[start : start + room]
        cells = [[one.text(row) for one in _FIELDS] for row in shown]
        columns = [one.column for one in _FIELDS]
        widths = fit(columns, cells, width)
        lines = []
        for number, texts in enumerate([[c.name for c in columns], *cells]):
            parts = [
                (cut(text, size).rjust(size) if column.right else cut(text, size).ljust(size))
                for column, text, size in zip(columns, texts, widths, strict=True)
                if size
            ]
            style = "1" if number == 0 else "7" if shown[number - 1].function == chosen else ""
            lines.append(Line(_GAP.join(parts), style))
        return lines


_STEPS = {Key.UP: -1, Key.DOWN: 1, "k": -1, "j": 1, Key.PAGE_UP: -10, Key.PAGE_DOWN: 10}
