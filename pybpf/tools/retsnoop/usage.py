"""Errors of the command line."""

from __future__ import annotations

__all__ = ["NotHere", "UsageError"]


class UsageError(Exception):
    """Report why the command line makes no sense."""


class NotHere(UsageError):
    """Report an option of the original retsnoop that this one does not have, and why."""
