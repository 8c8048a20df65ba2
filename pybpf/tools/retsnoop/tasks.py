"""Read from /proc about processes and threads."""

from __future__ import annotations

__all__ = ["process_of"]


def process_of(thread: int) -> int | None:
    """Return the process id (tgid) of a process or thread, None if the id is not in use."""
    try:
        with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Tgid:"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None
