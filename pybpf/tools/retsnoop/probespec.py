"""Probes on the command line. Pure."""

from __future__ import annotations

from ...dataclass import dataclass
from ...kernel.globs import is_glob
from .usage import UsageError

__all__ = ["Spec", "parse_spec"]

# Probes of functions, and whether they may have an offset.
_TAKES_OFFSET = {"kprobe": True, "kretprobe": False}


@dataclass(frozen=True, slots=True)
class Spec:
    """Hold a probe of the command line. Its name may be a glob.

    :param kind: "kprobe", "kretprobe", "tp" or "rawtp"
    :param category: category of a tracepoint
    """

    kind: str
    name: str
    category: str = ""
    offset: int = 0


def parse_spec(text: str) -> Spec:
    """Read one ``-J``.

    :raises UsageError: it is not a probe
    """
    kind, _, rest = text.partition(":")
    if kind in _TAKES_OFFSET and rest:
        name, plus, offset = rest.partition("+")
        if plus:
            try:
                number = int(offset, 0)
            except ValueError:
                raise UsageError(f"-J {text}: {offset!r} is not an offset") from None
            if not _TAKES_OFFSET[kind] or is_glob(name):
                raise UsageError(f"-J {text}: an offset goes with the kprobe of one function")
            return Spec(kind, name, offset=number)
        return Spec(kind, rest)
    if kind == "rawtp" and rest:
        return Spec(kind, rest)
    if kind == "tp" and rest.count(":") == 1 and all(rest.split(":")):
        category, _, name = rest.partition(":")
        return Spec(kind, name, category)
    raise UsageError(
        f"-J {text}: give kprobe:NAME[+OFFSET], kretprobe:NAME, tp:CATEGORY:NAME or rawtp:NAME"
    )
