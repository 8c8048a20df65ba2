"""Read numbers in texts that others wrote: ASCII digits only, of a bounded size.

`int` takes more than any kernel or compiler writes: signs, blanks, underscores, digits of other
scripts. It raises ValueError for a text of thousands of digits. These functions return None for
whatever is not plainly a number.
"""

from __future__ import annotations

import re

__all__ = ["U64", "decimal", "hexadecimal", "number"]

#: The largest number that these functions read by default.
U64 = (1 << 64) - 1

_LONGEST = 24  # characters of a number: 20 digits, a sign, "0x" and a zero
_HEX = frozenset("0123456789abcdefABCDEF")
_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19})")


def decimal(text: str, most: int = U64) -> int | None:
    """Read decimal digits, e.g. ``12``. None if the text is anything else, or more than `most`."""
    if not text.isascii() or not text.isdecimal() or len(text) > _LONGEST:
        return None
    value = int(text)
    return value if value <= most else None


def hexadecimal(text: str, most: int = U64) -> int | None:
    """Read hexadecimal digits, with or without ``0x``. None for anything else, as `decimal`."""
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    if not 0 < len(digits) <= _LONGEST or not _HEX.issuperset(digits):
        return None
    value = int(digits, 16)
    return value if value <= most else None


def number(text: str) -> int | None:
    """Read a number as C writes it: ``12``, ``-0x1f``. At most 64 bits and a sign.

    None for anything else, also for ``010``, which C and people read differently.
    """
    return int(text, 0) if len(text) <= _LONGEST and _NUMBER.fullmatch(text) else None
