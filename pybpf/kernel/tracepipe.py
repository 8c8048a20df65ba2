"""Read what programs print with ``bpf_printk``.

The kernel has one ``trace_pipe``, and each line goes to one reader only. So `TracePipe` makes an
instance of its own in tracefs, which gets every line again. Other readers lose nothing.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import select
import time
from collections.abc import Iterable, Iterator

from .._sys.fd import Fd
from ..dataclass import dataclass
from ..errors import BpfError, DeniedByPolicy
from .ftrace import tracefs

__all__ = ["TraceLine", "TracePipe", "count_lost", "parse_lines"]

# seq_print_... of kernel/trace/trace_output.c: TASK-PID [CPU] FLAGS SECONDS: EVENT: TEXT
_LINE = re.compile(
    r" *(?P<task>.{1,16}?)-(?P<pid>\d+) +(?:\([ \d-]+\) +)?\[(?P<cpu>\d+)\] +\S+ +"
    r"(?P<time>\d+\.\d+): bpf_trace_printk: ?(?P<text>.*)"
)
# print_trace_line(), kernel/trace/trace.c. Without a number the kernel does not know how many.
_LOST = re.compile(r"CPU:\d+ \[LOST (?:(?P<count>\d+) )?EVENTS\]")
_EVENT = "events/bpf_trace/bpf_trace_printk/enable"
_READ = 1 << 16


@dataclass(frozen=True, slots=True)
class TraceLine:
    """Hold one text of ``bpf_printk``.

    :param task: name of the thread that ran the program, ``<...>`` if unknown
    :param pid: its thread id
    :param cpu: number of the CPU
    :param time: seconds of the trace clock
    :param text: the text, which may have several lines
    """

    task: str
    pid: int
    cpu: int
    time: float
    text: str


def parse_lines(lines: Iterable[str]) -> list[TraceLine]:
    """Read lines of a trace_pipe. Lines that continue a text are added to it; others are ignored.

    :param lines: lines without their ends
    """
    found: list[TraceLine] = []
    for line in lines:
        match = _LINE.match(line)
        if match is not None:
            task, pid, cpu, seconds, text = match.groups()
            found.append(TraceLine(task, int(pid), int(cpu), float(seconds), text))
        elif found and line and not _LOST.fullmatch(line):
            last = found.pop()
            text = f"{last.text}\n{line}"
            found.append(TraceLine(last.task, last.pid, last.cpu, last.time, text))
    return found


def count_lost(lines: Iterable[str]) -> int:
    """Count the texts that a trace_pipe says were lost, at least one for each time it says so."""
    found = map(_LOST.fullmatch, lines)
    return sum(int(match["count"] or 1) for match in found if match is not None)


def _refusal(error: OSError, doing: str) -> BpfError:
    from .._sys.lockdown import read_hint

    number, hint = error.errno or errno.EIO, ""
    if isinstance(error, PermissionError):
        hint = read_hint("root only")
    elif number == errno.EINVAL:  # a kernel that is locked down makes no files in an instance
        hint = read_hint("")
    return DeniedByPolicy(number, doing, hint) if hint else BpfError(number, doing)


class TracePipe:
    """Read texts of ``bpf_printk`` from now on, of all programs of this machine.

    :raises UnsupportedFeature: tracefs is not mounted
    :raises DeniedByPolicy: tracefs may not be used
    :raises BpfError: any other refusal

    Close it, or use it as a context manager: closing removes the instance in tracefs.

    :ivar lost: texts that came faster than they were read, as far as the kernel has said
    """

    def __init__(self) -> None:
        self._folder = f"{tracefs()}/instances/pybpf-{os.getpid()}-{id(self):x}"
        self._rest = b""
        self.lost = 0
        try:
            os.mkdir(self._folder)
            with open(f"{self._folder}/{_EVENT}", "w") as file:
                file.write("1")
            pipe = f"{self._folder}/trace_pipe"
            self._fd = Fd(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "the trace pipe")
        except BaseException as error:
            self._remove()
            if not isinstance(error, OSError):
                raise
            raise _refusal(error, f"making {self._folder}") from None

    def close(self) -> None:
        """Remove the instance. Closing again does nothing."""
        self._fd.close()
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)

    def __enter__(self) -> TracePipe:
        self.fileno()  # says that it is closed
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return a descriptor that is readable (poll, select) when there are texts.

        :raises StateError: after `close`
        """
        return self._fd.fileno()

    def read(self, timeout: float | None = None) -> list[TraceLine]:
        """Return all texts so far. Wait for the first one.

        :param timeout: seconds to wait if there is none; 0 does not wait, None waits forever
        :raises StateError: after `close`
        """
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            poll.poll(None if left is None else math.ceil(left * 1000))
            found = self._take()
            if found or left == 0:
                return found

    def __iter__(self) -> Iterator[TraceLine]:
        """Yield texts one by one, without end."""
        while True:
            yield from self.read()

    def _take(self) -> list[TraceLine]:
        data = self._rest
        while True:
            try:
                part = os.read(self._fd.fileno(), _READ)
            except BlockingIOError:
                break
            data += part
            if not part:
                break
        whole, _, self._rest = data.rpartition(b"\n")
        # Not splitlines(), which also splits at control characters of a text.
        lines = whole.decode(errors="replace").split("\n")
        self.lost += count_lost(lines)
        return parse_lines(lines)
