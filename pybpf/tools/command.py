"""Run the command after ``--``. It is held back until everything is attached."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Sequence

__all__ = ["NOT_FOUND", "Command", "find"]

#: Exit status of a command that does not exist, as in shells.
NOT_FOUND = 127
CANNOT_RUN = 126
_GRACE = 1.0  # seconds that a command has to end after it is told to


def find(name: str) -> str | None:
    """Find the path of a program as a shell would, None if there is none."""
    return shutil.which(name)


class Command:
    """Hold a child process that waits for `start` before it becomes the command.

    The path is looked up beforehand. So if the trace shows a failing
    execve(), it really failed.

    :param path: program file
    :param arguments: argv, including the name
    :param tool: name of the tool, for the message that the command cannot be run
    :param aside: its output goes to standard error, because standard output is for records
    """

    def __init__(
        self, path: str, arguments: Sequence[str], tool: str, *, aside: bool = False
    ) -> None:
        self._tool = tool
        self._aside = aside
        reading, self._gate = os.pipe()
        self.status: int | None = None
        self._started = False
        self.pid = os.fork()
        if self.pid == 0:
            self._child(path, list(arguments), reading)
        os.close(reading)
        self._settle()

    def _settle(self) -> None:
        # Returns when the child sleeps at the gate; it sleeps nowhere else. Tracing begins later.
        # So what it calls before that is not taken for a call of the command.
        until = time.monotonic() + _GRACE
        with contextlib.suppress(OSError):  # no /proc
            while time.monotonic() < until:
                with open(f"/proc/{self.pid}/stat", "rb") as file:
                    if file.read().rpartition(b") ")[2].startswith(b"S"):
                        return
                time.sleep(0.001)

    def _child(self, path: str, arguments: list[str], gate: int) -> None:
        # Never returns, whatever happens: there must not be a second tracer.
        try:
            os.close(self._gate)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            if self._aside:
                with contextlib.suppress(OSError):  # there is no standard error
                    os.dup2(2, 1)
            if os.read(gate, 1):
                os.execv(path, arguments)
        except OSError as error:
            text = f"{self._tool}: {path}: {error.strerror}\n"
            os.write(2, text.encode("utf-8", "replace"))
        finally:
            os._exit(CANNOT_RUN)

    def start(self) -> None:
        """Let the command run."""
        self._started = True
        os.write(self._gate, b"1")

    def poll(self) -> int | None:
        """Return its exit status as a shell gives it (128 + signal), None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(status)
        return self.status

    def wait(self) -> int:
        """Wait for its end and return the status."""
        if self.status is None:
            self._ended(os.waitpid(self.pid, 0)[1])
        assert self.status is not None
        return self.status

    def _ended(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.status = code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Make sure that it ends, without waiting for it.

        If it was never started, it ends now. If it still runs, it is told to end, as strace and
        perf do when they fail. If it does not end, it is left alone.
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
