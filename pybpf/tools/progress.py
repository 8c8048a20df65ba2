"""Show on a terminal that work is going on while it takes long."""

from __future__ import annotations

import contextlib
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Event, Thread
    from typing import Self, TextIO

__all__ = ["Counting", "Waiting"]

_AFTER = 1.0  # seconds of silence before the first message
_EVERY_TTY, _EVERY_PIPE = 0.2, 5.0  # seconds between two updates of a count


class Waiting:
    """Say what is being waited for, and for how long, once it has taken more than a second.

    It says nothing if `out` is not a terminal, and it removes its line at the end.

    :param what: e.g. ``planning``
    :param out: usually standard error
    :param after: seconds before the first message, and between two updates
    """

    def __init__(self, what: str, out: TextIO, *, after: float = _AFTER) -> None:
        self._what = what
        self._out = out
        self._after = after
        self._thread: Thread | None = None
        self._end: Event | None = None
        self._shown = 0  # columns to erase

    def __enter__(self) -> Self:
        if self._out.isatty():
            import threading  # lazy: some milliseconds that a pipe does not need

            self._end = threading.Event()
            self._thread = threading.Thread(target=self._tell, args=(self._end,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread is None or self._end is None:
            return
        self._end.set()
        self._thread.join()
        if self._shown:
            self._write(f"\r{' ' * self._shown}\r")

    def _tell(self, end: Event) -> None:
        start = time.monotonic()
        while not end.wait(self._after):
            text = f"{self._what}, {time.monotonic() - start:.0f} s"
            self._shown = max(self._shown, len(text))
            self._write(f"\r{text}")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody watches, but the work goes on
            self._out.write(text)
            self._out.flush()


class Counting:
    """Say how far slow work has come: in one line on a terminal, otherwise in occasional lines.

    Call it with (done, total). It is silent for a second.

    :param doing: e.g. ``Attaching``
    :param out: usually standard error
    """

    def __init__(self, doing: str, out: TextIO) -> None:
        self._doing = doing
        self._out = out
        self._tty = out.isatty()
        self._start = self._last = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        every = _EVERY_TTY if self._tty else _EVERY_PIPE
        if now - self._start < _AFTER or now - self._last < every:
            return
        self._last, self._shown = now, True
        end = "" if self._tty else "\n"
        start = "\r" if self._tty else ""
        with contextlib.suppress(OSError):  # nobody watches: the work goes on
            print(f"{start}{self._doing} {done}/{total}...", end=end, file=self._out, flush=True)

    def done(self) -> None:
        """End the line, if there is one."""
        if self._shown and self._tty:
            with contextlib.suppress(OSError):
                print(file=self._out, flush=True)
