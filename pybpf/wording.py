"""Wording shared by messages, and names that the kernel takes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from enum import IntEnum

__all__ = ["many", "object_name", "plain", "uapi_word"]


def many(count: int, one: str, more: str = "") -> str:
    """Write a count with its noun, e.g. ``1 function`` or ``3 functions``.

    :param more: the plural, if it is not the noun with an s
    """
    return f"{count} {one if count == 1 else more or one + 's'}"


def object_name(name: str) -> str:
    """Turn a name into one that the kernel takes for a program or map.

    It has 15 characters: letters, digits, "_" and ".". Others become "_".
    Source: bpf_obj_name_cpy(), kernel/bpf/syscall.c.
    """
    return "".join(c if c in "_." or (c.isascii() and c.isalnum()) else "_" for c in name[:15])


def plain(text: str, *, lines: bool = False) -> str:
    """Make a text safe to show: unprintable characters become escapes such as ``\\x1b``.

    Names of processes, files, programs, maps and symbols are whatever somebody chose. Shown as
    they are, they could control the terminal. A byte that is not UTF-8 becomes ``\\xNN``.

    :param lines: keep line ends and tabs
    """
    if text.isprintable():
        return text
    import re  # lazy: 5 ms that most runs do not need

    return re.sub(r"[^\n\t -~]" if lines else r"[^ -~]", _escape, text)


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


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
