"""Links of programs on the traffic of a network interface: tcx and netkit."""

from __future__ import annotations

import errno

from .._sys import link as sys_link
from .._uapi.enums import AttachType, ProgType
from ..errors import BpfError, UnsupportedFeature
from .anchor import anchor
from .link import HasFd, Link, is_of_type
from .xdp import interface_index

__all__ = ["NETKIT_SIDES", "TCX_DIRECTIONS", "attach_netkit", "attach_tcx"]

TCX_DIRECTIONS = {
    "ingress": AttachType.BPF_TCX_INGRESS,
    "egress": AttachType.BPF_TCX_EGRESS,
}
#: The interface of a pair that sends.
NETKIT_SIDES = {
    "primary": AttachType.BPF_NETKIT_PRIMARY,
    "peer": AttachType.BPF_NETKIT_PEER,
}


def attach_tcx(
    program: HasFd,
    interface: str | int,
    direction: str,
    *,
    before: Link | HasFd | int | bool | None = None,
    after: Link | HasFd | int | bool | None = None,
) -> Link:
    """Attach to the incoming or outgoing packets of a network interface, by a tcx link (6.6).

    :param interface: its name or index
    :param direction: "ingress" or "egress"
    :param before: link, program or program id to run before; True: run before all
    :param after: the same, to run after; True or nothing: run after all
    :raises ValueError: if the direction is unknown, or both places are given
    :raises UnsupportedFeature: before Linux 6.6
    :raises BpfError: ENODEV if the interface does not exist, with near names; ENOENT if the
        program of `before` or `after` is not attached there
    """
    return _attach(program, interface, "tcx", "direction", TCX_DIRECTIONS, direction, before, after)


def attach_netkit(
    program: HasFd,
    interface: str | int,
    side: str,
    *,
    before: Link | HasFd | int | bool | None = None,
    after: Link | HasFd | int | bool | None = None,
) -> Link:
    """Attach to the packets that one side of a pair of netkit interfaces sends (6.7).

    :param interface: the primary interface of the pair, by name or index
    :param side: "primary" or "peer"
    :param before: as in `attach_tcx`
    :param after: as in `attach_tcx`
    :raises ValueError: if the side is unknown, or both places are given
    :raises UnsupportedFeature: before Linux 6.7, or without CONFIG_NETKIT
    :raises BpfError: ENODEV if the interface does not exist; ENXIO if it is not a netkit interface;
        EACCES if it is the peer of its pair
    """
    return _attach(program, interface, "netkit", "side", NETKIT_SIDES, side, before, after)


def _attach(
    program: HasFd,
    interface: str | int,
    kind: str,
    role: str,
    choices: dict[str, AttachType],
    choice: str,
    before: Link | HasFd | int | bool | None,
    after: Link | HasFd | int | bool | None,
) -> Link:
    if choice not in choices:
        raise ValueError(f"{role} {choice!r}: one of {', '.join(map(repr, choices))} expected")
    index = interface_index(interface)
    place = anchor(before, after)
    what = f"{kind}/{choice} on {interface}"
    try:
        fd = sys_link.link_create_anchored(
            program.fileno(), index, choices[choice], flags=place.flags, relative=place.relative
        )
    except BpfError as error:
        old = error.errno == errno.EINVAL and kind == "tcx" and not place.flags
        if old and is_of_type(program, ProgType.BPF_PROG_TYPE_SCHED_CLS):
            raise UnsupportedFeature(
                "tcx links", "6.6", "attach_tc() works on older kernels"
            ) from error
        if error.errno == errno.ENOENT and place.relative:
            error.hint = f"the program of before or after is not attached to {interface}"
        if error.errno == errno.ENXIO and kind == "netkit":
            error.hint = f"{interface} is not a netkit interface"
        error.add_context(what)
        raise
    return Link(fd, what)
