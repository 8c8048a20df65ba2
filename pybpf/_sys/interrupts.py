"""Ctrl-C at a safe point: hold SIGINT back while something is made and recorded.

Between the system call that makes a link and the line that remembers it,
Python may run a signal handler, and the default one raises KeyboardInterrupt:
the link would then be nobody's. Inside `held` an interrupt is only noted; on
leaving, the handler that was there before is called as if it came just then.
Handlers run in the main thread alone, so in any other there is nothing to hold.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["held"]


class held:
    """Context manager: no KeyboardInterrupt inside, but right after.

    May be nested: an inner one hands what it noted to the outer.
    """

    __slots__ = ("_former", "_noted")

    def __init__(self) -> None:
        self._former: Callable[[int, FrameType | None], object] | None = None
        self._noted = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True

    def __enter__(self) -> held:
        former = signal.getsignal(signal.SIGINT)
        if callable(former):  # neither ignored, nor left to the kernel, nor set by C code
            self._former = former
            try:
                signal.signal(signal.SIGINT, self._note)
            except ValueError:  # not the main thread
                self._former = None
        return self

    def __exit__(self, *exc: object) -> None:
        former, self._former = self._former, None
        if former is None:
            return
        signal.signal(signal.SIGINT, former)
        if self._noted:
            self._noted = False
            former(signal.SIGINT, None)
