"""Errors of the command line."""

from __future__ import annotations

__all__ = ["NotYet", "UsageError"]


class UsageError(Exception):
    """Report why the command line makes no sense."""


class NotYet(UsageError):
    """Report an option of retsnoop that this clone does not have yet."""
