"""Errors of the command line."""

from __future__ import annotations

__all__ = ["NotYet", "UsageError"]


class UsageError(Exception):
    """The command line makes no sense; the text says why."""


class NotYet(UsageError):
    """An option of retsnoop that this clone does not have yet."""
