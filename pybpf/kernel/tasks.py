"""What /proc says of processes and threads."""

from __future__ import annotations

import os

from .._sys.namespaces import is_first
from ..digits import decimal

__all__ = ["may_live", "process_of", "tgid_of"]


def may_live(thread: int) -> bool:
    """Tell whether there may be a task with this id, as the first pid namespace counts.

    From another namespace it cannot be seen, so then every task may live.
    """
    return os.path.exists(f"/proc/{thread}") or not is_first("pid")


def process_of(thread: int) -> int | None:
    """Process id (tgid) of a process or thread, None if there is none of this id."""
    try:
        with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:
            return tgid_of(file.read())
    except OSError:
        return None


def tgid_of(status: str) -> int | None:
    """Find the process id in the text of ``/proc/PID/status``.

    The name of a task is in it. It may have any bytes but line ends, which the kernel escapes.
    """
    for line in status.split("\n"):
        if line.startswith("Tgid:"):
            return decimal(line.removeprefix("Tgid:").strip())
    return None
