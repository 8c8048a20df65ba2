"""A place among the programs that are attached to the same hook (tcx, netkit)."""

from __future__ import annotations

from .._uapi.defines import BPF_F_AFTER, BPF_F_BEFORE, BPF_F_ID
from .._uapi.enums import MapFlag
from ..dataclass import dataclass
from .link import HasFd, Link

__all__ = ["Anchor", "anchor"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Hold what BPF_LINK_CREATE needs to know about a place.

    :param flags: ``BPF_F_BEFORE`` and the like
    :param relative: descriptor or id of the neighbour, 0 for the first or last place
    """

    flags: int = 0
    relative: int = 0


def anchor(
    before: Link | HasFd | int | bool | None, after: Link | HasFd | int | bool | None
) -> Anchor:
    """Turn arguments into a place. Without arguments it is the last place.

    :param before: a link, a loaded program, the id of a program; or True for the first place
    :param after: the same; or True for the last place
    :raises ValueError: if both are given
    :raises TypeError: if an argument has another type
    """
    if before is not None and after is not None:
        raise ValueError("give either before or after")
    other = after if before is None else before
    side = BPF_F_BEFORE if before is not None else BPF_F_AFTER
    match other:
        case None | False:
            return Anchor()
        case True:
            return Anchor(side)
        case int():
            return Anchor(side | BPF_F_ID, other)
        case Link():
            return Anchor(side | MapFlag.BPF_F_LINK, other.fileno())
    if not hasattr(other, "fileno"):
        kind = type(other).__name__
        raise TypeError(f"before, after: a link, a program or the id of one expected, not {kind}")
    return Anchor(side, other.fileno())
