"""Handle Ctrl-C at a safe point: delay SIGINT while something is made and recorded.

Between the system call that makes a link and the line that records it,
Python may run a signal handler, and the default one raises KeyboardInterrupt.
Nobody would own the link then. Inside `held` an interrupt is only noted. At the end,
the previous handler is called as if the signal came just then.
Handlers run only in the main thread, so in other threads there is nothing to delay.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["held"]


class held:
    """Allow no KeyboardInterrupt inside this context; raise it right after.

    It may be nested: an inner one passes what it noted to the outer one.
    """

    __slots__ = ("_former", "_noted")

    def __init__(self) -> None:
        self._former: Callable[[int, FrameType | None], object] | None = None
        self._noted = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True

    def __enter__(self) -> held:
        former = signal.getsignal(signal.SIGINT)
        if callable(former):  # not ignored, not left to the kernel, and not set by C code
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
