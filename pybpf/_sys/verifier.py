"""The lines of a verifier log that say what is wrong."""

from __future__ import annotations

__all__ = ["said_something", "summary"]

_TRAILER = "processed "


def said_something(log: str) -> bool:
    """Whether there is more in a log than its statistics."""
    return bool(_lines(log))


def _lines(log: str) -> list[str]:
    return [x for x in log.splitlines() if x.strip() and not x.startswith(_TRAILER)]


def summary(log: str) -> str:
    """The useful end of a log."""
    return "\n".join(_lines(log)[-3:])
