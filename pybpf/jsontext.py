"""JSON that any reader accepts, whatever names and numbers are in it.

`json.dumps` writes NaN, which is not JSON, and half a character of a surrogate pair, which
many readers refuse: Python has these for bytes of a name that are not UTF-8.
"""

from __future__ import annotations

from math import isfinite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["dumps"]


def dumps(value: Any, *, indent: int | None = None, compact: bool = False) -> str:
    """Write a value as JSON in ASCII, so no terminal takes a part of it for a command.

    A number that JSON does not have (NaN, infinity) becomes null. A byte of a name that is not
    UTF-8 becomes ``\\xNN``, as in text.

    :param indent: blanks for each level; None for one line
    :param compact: no blanks after separators
    """
    import json  # lazy: most runs print text

    separators = (",", ":") if compact else None
    try:
        text = json.dumps(value, indent=indent, separators=separators, allow_nan=False)
        if "\\ud" not in text:
            return text
    except ValueError:  # NaN
        pass
    return json.dumps(_clean(value), indent=indent, separators=separators, allow_nan=False)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(map(_character, value))
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {_clean(key): _clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(one) for one in value]
    return value


def _character(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char
