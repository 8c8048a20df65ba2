"""Print intervals and totals: a table in lines of text, or JSON Lines."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...dataclass import dataclass
from ...jsontext import dumps
from ..screen import Screen, many
from .records import record
from .text import COLUMNS, Row, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["JsonOutput", "Output", "Report", "TextOutput"]


@dataclass(frozen=True, slots=True)
class Report:
    """Hold the counts of an interval, or of the whole run.

    :param rows: functions with their counts, most called first
    :param time: its end, seconds since 1970
    :param seconds: its length
    """

    rows: Sequence[Row]
    time: float
    seconds: float


class Output:
    """Print reports.

    :param top: most functions shown, 0 for all
    """

    def __init__(self, out: TextIO, top: int) -> None:
        self.out = out
        self.top = top

    def shown(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Choose the rows that are printed."""
        return rows[: self.top] if self.top else rows

    def begin(self) -> None:
        """Get ready: counting has begun."""

    def leave(self) -> None:
        """Clean up: counting has ended, perhaps by an error."""

    @property
    def input(self) -> int | None:
        """Return the descriptor that keys come from, None if there is none.

        Call `keys` when it is readable.
        """
        return None

    def keys(self) -> None:
        """Handle the pressed keys."""

    def note(self, text: str) -> bool:
        """Show a line that is not a count. Return False if it should go to standard error."""
        return False

    def interval(self, report: Report) -> None:
        """Print an interval."""
        raise NotImplementedError

    def total(self, report: Report) -> None:
        """Print the totals."""
        raise NotImplementedError


class JsonOutput(Output):
    """Print JSON Lines."""

    def interval(self, report: Report) -> None:
        self._print(self.shown(report.rows), report.time, final=False)

    def total(self, report: Report) -> None:
        self._print(report.rows, report.time, final=True)

    def _print(self, rows: Sequence[Row], now: float, *, final: bool) -> None:
        for function, counts in rows:
            value = record(function, counts, time=now, final=final)
            self.out.write(dumps(value) + "\n")
        self.out.flush()


class TextOutput(Output):
    """Print a table for each interval."""

    def interval(self, report: Report) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.time))
        self._print(stamp, report)

    def total(self, report: Report) -> None:
        self._print(f"Total of {report.seconds:.1f} s", report)

    def _print(self, heading: str, report: Report) -> None:
        screen = Screen.of(self.out)
        called = [item for item in report.rows if item[1].calls]
        shown = self.shown(called)
        calls = sum(counts.calls for _, counts in called)
        more = f", {len(shown)} shown" if len(shown) < len(called) else ""
        screen.show(f"{heading}: {many(calls, 'call')} of {many(len(called), 'function')}{more}")
        if shown:
            screen.table(COLUMNS, [row(*item, report.seconds) for item in shown])
        screen.line()
        self.out.flush()
