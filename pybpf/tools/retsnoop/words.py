"""Sentences for people about a run."""

from __future__ import annotations

from ..screen import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .load import Counts

__all__ = ["sessions"]


def sessions(counts: Counts, shown: int) -> str:
    """Say what happened to the sessions that were started. The numbers add up.

    :param shown: number of sessions that were printed
    """
    reasons = [
        (counts.success, "succeeded"),
        (counts.duration, "too short"),
        (counts.error, "with other errors"),
        (counts.retval, "with other return values"),
    ]
    why = ", ".join(f"{number} {what}" for number, what in reasons if number)
    parts = [f"{shown} shown"]
    if counts.filtered:
        parts.append(f"{counts.filtered} filtered ({why})")
    if counts.sent - shown:
        parts.append(f"{counts.sent - shown} not shown any more")
    if counts.lost:
        parts.append(f"{counts.lost} dropped")
    if counts.open:
        parts.append(f"{counts.open} not finished")
    text = f"{many(counts.started, 'session')}: {', '.join(parts)}."
    if counts.no_room:
        text += f" {many(counts.no_room, 'more session')} had no room."
    if counts.deep:
        text += f" {many(counts.deep, 'call')} nested too deep to be kept."
    return text
