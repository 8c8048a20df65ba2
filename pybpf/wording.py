"""Wording shared by messages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import IntEnum

__all__ = ["many", "uapi_word"]


def many(count: int, one: str, more: str = "") -> str:
    """Write a count with its noun, e.g. ``1 function`` or ``3 functions``.

    :param more: the plural, if it is not the noun with an s
    """
    return f"{count} {one if count == 1 else more or one + 's'}"


def uapi_word(kind: type[IntEnum], prefix: str, number: int) -> str:
    """Write a UAPI number as a word, like bpftool: ``kprobe`` for BPF_PROG_TYPE_KPROBE.

    :param prefix: prefix of the names of `kind`
    :returns: ``type 99`` for a number that this version does not know
    """
    try:
        name = kind(number).name
    except ValueError:
        return f"type {number}"
    return name.removeprefix(prefix).removesuffix("_DEPRECATED").lower()
