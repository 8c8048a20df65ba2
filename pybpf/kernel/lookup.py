"""Names of the kernel: what a wrong name perhaps meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["near_names"]


def near_names(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """Names that are perhaps meant by `name`, best first.

    Spelling is compared only with names that begin alike or hold `name`
    inside, so 50,000 names cost some ten milliseconds.
    """
    if len(name) < 3:
        return []
    import difflib

    plain = name.lstrip("_")
    near = list(_alike(name, plain, names))
    inside = sorted((n for n in near if plain in n), key=lambda n: (len(n), n))
    close = difflib.get_close_matches(name, near[:4000], limit, 0.75)
    return list(dict.fromkeys([*close, *inside]))[:limit]


def _alike(name: str, plain: str, names: Iterable[str]) -> Iterator[str]:
    starts = (name[:3], plain[:3], f"_{plain[:3]}", f"__{plain[:3]}")
    low, high = len(name) - 3, len(name) + 3
    for other in names:
        if plain in other or (low <= len(other) <= high and other.startswith(starts)):
            yield other
