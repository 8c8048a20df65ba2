"""The live table on a terminal, by curses.

It uses curses, not rich. curses is in Python's standard library, so nothing needs to be
installed on a server. It reads keys, which rich does not, and it sends only what changed.
It uses the terminal's second screen, so at the end the totals follow the earlier text.
"""

from __future__ import annotations

import contextlib
import curses
import sys
from collections.abc import Callable

from .output import Output, Report, TextOutput
from .table import Key, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["LiveOutput"]

_TOTALS = 20  # functions printed at the end
_STYLES = {"1": curses.A_BOLD, "2": curses.A_DIM, "7": curses.A_REVERSE, "": curses.A_NORMAL}
_KEYS = {
    curses.KEY_UP: Key.UP,
    curses.KEY_DOWN: Key.DOWN,
    curses.KEY_PPAGE: Key.PAGE_UP,
    curses.KEY_NPAGE: Key.PAGE_DOWN,
    curses.KEY_ENTER: Key.ENTER,
}


class LiveOutput(Output):
    """Redraw a table at each interval and each key.

    :param end: called when a key ends the run
    :raises curses.error: the terminal cannot show it
    """

    def __init__(self, out: TextIO, top: int, end: Callable[[], None]) -> None:
        super().__init__(out, top)
        self._end = end
        self._table = Table(top)
        self._screen: curses.window | None = None
        curses.setupterm()  # fail now, while lines of text can still be used

    def begin(self) -> None:
        """Take the screen."""
        self.out.flush()
        screen = curses.initscr()
        self._screen = screen
        curses.noecho()
        curses.cbreak()
        screen.keypad(True)
        screen.nodelay(True)
        with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
            curses.curs_set(0)
        self._draw()

    def leave(self) -> None:
        """Give the screen back."""
        if self._screen is not None:
            self._screen.keypad(False)
            self._screen = None
            curses.nocbreak()
            curses.echo()
            curses.endwin()

    @property
    def input(self) -> int | None:
        """Return the descriptor to read keys from."""
        return sys.stdin.fileno() if self._screen is not None else None

    def keys(self) -> None:
        """Handle the pressed keys."""
        while self._screen is not None and (code := self._screen.getch()) != -1:
            key = _KEYS.get(code) or (chr(code) if 0 <= code < 128 else "")
            if not self._table.press(key):
                self._end()
        self._draw()

    def note(self, text: str) -> bool:
        """Show a line at the bottom. Return False if the screen is not ours now."""
        self._table.note = text
        return self._screen is not None

    def interval(self, report: Report) -> None:
        """Draw the table with one more interval."""
        self._table.update(report.rows, report.seconds)
        self.keys()

    def total(self, report: Report) -> None:
        """Give the screen back and print the totals."""
        self.leave()
        TextOutput(self.out, self.top or _TOTALS).total(report)

    def _draw(self) -> None:
        screen = self._screen
        if screen is None:
            return
        height, width = screen.getmaxyx()
        screen.erase()
        for number, line in enumerate(self._table.lines(max(width - 1, 1), height)):
            try:
                screen.addstr(number, 0, line.text, _STYLES[line.style])
            except curses.error:
                break  # the terminal became smaller meanwhile; it is redrawn soon
        screen.refresh()
