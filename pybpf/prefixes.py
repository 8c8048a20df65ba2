"""Find what names start with, so that a text is searched a few times, not once for each name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["shared_prefixes"]


def shared_prefixes(names: Iterable[str]) -> list[str]:
    """List what the names start with: for each first letter the longest text that they share.

    :param names: not empty texts
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name[0], []).append(name)
    return [_shared(min(group), max(group)) for group in groups.values()]


def _shared(first: str, last: str) -> str:
    # Whatever is between two texts in their order starts as both do.
    alike = zip(first, last, strict=False)
    end = next((i for i, (a, b) in enumerate(alike) if a != b), min(len(first), len(last)))
    return first[:end]
