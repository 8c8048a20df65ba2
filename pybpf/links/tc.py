"""Attachments through rtnetlink: filters of traffic control (clsact), and XDP without a link.

pyroute2 speaks netlink, and is a dependency for this alone. Requests, acknowledgements and nested
attributes of qdiscs, filters and interfaces are a protocol of their own, and bpf(2) cannot reach
filters. pyroute2 is imported on first use (0.2 s).

The hook of a device is a qdisc, ``clsact``. If a device has none, it is made here. The attachment
that made it removes it again, unless it has other filters by then.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import BpfError, UnsupportedFeature
from .link import HasFd
from .plain import Attachment, duplicate
from .xdp import MODES, interface_index

__all__ = ["DIRECTIONS", "attach_tc", "attach_xdp_netlink"]

#: Parents of filters: TC_H_CLSACT with TC_H_MIN_INGRESS or TC_H_MIN_EGRESS.
DIRECTIONS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_CLSACT = 0xFFFF0000  # handle of the qdisc
_ETH_P_ALL = 0x0003
_XDP_FLAGS_UPDATE_IF_NOEXIST, _XDP_FLAGS_REPLACE = 1, 1 << 4
_LOWEST = 0xFFFF  # the priority that runs last
_TRIES = 8


@contextmanager
def _netlink(what: str) -> Iterator[Any]:
    try:
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError
    except ImportError as error:
        hint = "install it: pip install pyroute2"
        raise UnsupportedFeature(
            what, by="this installation without pyroute2", hint=hint
        ) from error
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        code = abs(error.code)
        said = str(error.args[1]) if error.args[1:] else ""
        # Where the kernel says nothing more, pyroute2 has the text of the errno, which we have too.
        raise BpfError(code, what, "" if said == os.strerror(code) else said) from None


def attach_tc(
    program: HasFd,
    interface: str | int,
    direction: str,
    *,
    priority: int | None = None,
    name: str = "",
) -> Attachment:
    """Attach to a network interface as a filter of traffic control. Works on old kernels too.

    The program's return value decides what happens to a packet (``direct-action``).

    :param interface: its name or index
    :param direction: "ingress" or "egress"
    :param priority: 1 to 65535, lower runs first; None for the first free one
    :param name: name that ``tc filter show`` prints
    :raises ValueError: if the direction or priority is not one of these
    :raises BpfError: ENODEV if the interface does not exist, with near names; EEXIST if it has an
        old ``ingress`` qdisc, which rules out ``clsact``
    """
    if direction not in DIRECTIONS:
        choices = ", ".join(map(repr, DIRECTIONS))
        raise ValueError(f"direction {direction!r}: one of {choices} expected")
    if priority is not None and not 0 < priority <= _LOWEST:
        raise ValueError(f"priority {priority}: 1 to {_LOWEST} expected")
    index = interface_index(interface)
    what = f"tc {direction} on {interface}"
    parent = DIRECTIONS[direction]
    own = duplicate(program, what)
    try:
        with _netlink(what) as route:
            made = _make_hook(route, index, what)
            try:
                place = _add(route, own, index, parent, priority, name or what, what)
            except BaseException:
                if made:
                    _remove_hook(route, index)
                raise
    except BaseException:
        own.close()
        raise

    def undo() -> None:
        with _netlink(what) as route:
            _ignoring_missing(
                lambda: route.tc(
                    "del-filter",
                    "bpf",
                    index,
                    handle=place[1],
                    prio=place[0],
                    parent=parent,
                    protocol=_ETH_P_ALL,
                )
            )
            if made and not any(_taken(route, index, one) for one in DIRECTIONS.values()):
                _remove_hook(route, index)

    return Attachment(own, what, undo)


def _make_hook(route: Any, index: int, what: str) -> bool:
    # True if it was made here.
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        route.tc("add", "clsact", index)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            hint = "the kernel has no clsact: CONFIG_NET_SCH_INGRESS, module sch_ingress"
            raise UnsupportedFeature(what, hint=hint) from None
        if error.code != errno.EEXIST:
            raise
        kinds = [one.get_attr("TCA_KIND") for one in route.get_qdiscs(index)]
        if "clsact" in kinds:
            return False
        hint = "it has an ingress qdisc, which rules out clsact: tc qdisc del dev DEVICE ingress"
        raise BpfError(errno.EEXIST, what, hint) from None
    return True


def _remove_hook(route: Any, index: int) -> None:
    _ignoring_missing(lambda: route.tc("del", "clsact", index))


def _ignoring_missing(call: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        call()
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise


def _taken(route: Any, index: int, parent: int) -> set[tuple[int, int]]:
    # (priority, handle) of each filter.
    found = route.get_filters(index, parent=parent)
    return {(one["info"] >> 16, one["handle"]) for one in found if one["handle"]}


def _add(
    route: Any,
    program: HasFd,
    index: int,
    parent: int,
    priority: int | None,
    name: str,
    what: str,
) -> tuple[int, int]:
    from pyroute2.netlink.exceptions import NetlinkError

    for _ in range(_TRIES):
        taken = _taken(route, index, parent)
        used = {number for number, _ in taken}
        first = next((n for n in range(1, _LOWEST + 1) if n not in used), _LOWEST)
        chosen = priority or first
        handle = next(n for n in range(1, len(taken) + 2) if (chosen, n) not in taken)
        try:
            route.tc(
                "add-filter",
                "bpf",
                index,
                handle=handle,
                prio=chosen,
                fd=program.fileno(),
                name=name,
                parent=parent,
                protocol=_ETH_P_ALL,
                direct_action=True,
                classid=1,
            )
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            continue  # somebody else took the priority meanwhile
        return chosen, handle
    raise BpfError(errno.EEXIST, what, "others attach there all the time")


def attach_xdp_netlink(program: HasFd, interface: str | int, *, mode: str = "auto") -> Attachment:
    """Attach to a network interface by netlink, as ``ip link set dev NAME xdp`` does.

    Use it on kernels before 5.9, and beside tools that expect this form. Closing the result
    undoes it, unless another program is attached by then.

    :param interface: its name or index
    :param mode: "auto", "generic", "native" or "offload"
    :raises ValueError: if the mode is unknown
    :raises BpfError: ENODEV if the interface does not exist, with near names; EBUSY if it already
        has an XDP program
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: one of {', '.join(map(repr, MODES))} expected")
    index = interface_index(interface)
    what = f"xdp on {interface}"
    own = duplicate(program, what)
    try:
        with _netlink(what) as route:
            _set_xdp(route, index, own.fileno(), MODES[mode] | _XDP_FLAGS_UPDATE_IF_NOEXIST)
    except BaseException:
        own.close()
        raise

    def undo() -> None:
        with _netlink(what) as route:
            flags = MODES[mode] | _XDP_FLAGS_REPLACE
            _ignoring_missing(lambda: _set_xdp(route, index, -1, flags, own.fileno()))

    return Attachment(own, what, undo)


def _set_xdp(route: Any, index: int, fd: int, flags: int, expected: int = -1) -> None:
    attributes: list[tuple[str, int]] = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]
    if expected >= 0:
        attributes.append(("IFLA_XDP_EXPECTED_FD", expected))
    route.link("set", index=index, IFLA_XDP={"attrs": attributes})
