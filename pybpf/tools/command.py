"""The command behind ``--``: ready to run, held back until everything is attached."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Sequence

__all__ = ["NOT_FOUND", "Command", "find"]

#: Exit status of a command that does not exist, as shells have it.
NOT_FOUND = 127
CANNOT_RUN = 126
_GRACE = 1.0  # seconds that a command which is told to end has for it


def find(name: str) -> str | None:
    """Path of a program as a shell would find it, None if there is none."""
    return shutil.which(name)


class Command:
    """A child process that waits for `start` before it becomes the command.

    The path is looked up beforehand, so that the only failing execve() the
    trace may show is one that really fails.

    :param path: program file
    :param arguments: argv, the name included
    :param tool: who runs it, for the message that it cannot be run
    """

    def __init__(self, path: str, arguments: Sequence[str], tool: str) -> None:
        self._tool = tool
        reading, self._gate = os.pipe()
        self.status: int | None = None
        self._started = False
        self.pid = os.fork()
        if self.pid == 0:
            self._child(path, list(arguments), reading)
        os.close(reading)

    def _child(self, path: str, arguments: list[str], gate: int) -> None:
        # Never returns, whatever happens: a second tracer must not come to life.
        try:
            os.close(self._gate)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            if os.read(gate, 1):
                os.execv(path, arguments)
        except OSError as error:
            text = f"{self._tool}: {path}: {error.strerror}\n"
            os.write(2, text.encode("utf-8", "replace"))
        finally:
            os._exit(CANNOT_RUN)

    def start(self) -> None:
        """Let it run."""
        self._started = True
        os.write(self._gate, b"1")

    def poll(self) -> int | None:
        """Its exit status as a shell gives it (128 + signal), None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(status)
        return self.status

    def wait(self) -> int:
        """Wait for its end; gives the status."""
        if self.status is None:
            self._ended(os.waitpid(self.pid, 0)[1])
        assert self.status is not None
        return self.status

    def _ended(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.status = code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """See to its end: nobody waits for it any more.

        One that was never started ends now. One that still runs is told to, as strace and perf
        do when they fail, and left alone if it does not.
        """
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
        if not self._started:
            self.wait()
            return
        self.signal(signal.SIGTERM)
        until = time.monotonic() + _GRACE
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
