"""Words of messages."""

from __future__ import annotations

__all__ = ["many"]


def many(count: int, one: str, more: str = "") -> str:
    """Write a count with its noun, e.g. ``1 function`` or ``3 functions``.

    :param more: the plural, if an s does not make it
    """
    return f"{count} {one if count == 1 else more or one + 's'}"
