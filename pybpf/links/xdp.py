"""Links of XDP programs on network interfaces."""

from __future__ import annotations

import errno

from .._uapi.defines import XDP_FLAGS_DRV_MODE, XDP_FLAGS_HW_MODE, XDP_FLAGS_SKB_MODE
from .._uapi.enums import AttachType
from ..errors import BpfError
from .link import HasFd, Link, attach_to_fd, near, need

__all__ = ["MODES", "attach_xdp", "interface_index"]

#: Where the program runs: the kernel chooses, after the packet became an skb (any driver), in
#: the driver, or on the network card.
MODES = {
    "auto": 0,
    "generic": XDP_FLAGS_SKB_MODE,
    "native": XDP_FLAGS_DRV_MODE,
    "offload": XDP_FLAGS_HW_MODE,
}


def interface_index(interface: str | int) -> int:
    """Find the index of a network interface of this process's network namespace.

    :param interface: its name (``eth0``) or its index
    :raises TypeError: if it has another type
    :raises BpfError: ENODEV if it does not exist, with near names
    """
    import socket  # 4 ms, and only network programs need it

    need(interface, (str, int), "network interface", "its name or index")
    try:
        if isinstance(interface, str):
            return socket.if_nametoindex(interface)
        socket.if_indextoname(interface)
    except (OSError, OverflowError, ValueError):
        names = [name for _, name in socket.if_nameindex()]
        hint = near(str(interface), names) or f"there are: {', '.join(names)}"
        by = "name" if isinstance(interface, str) else "index"
        what = f"network interface with {by} {interface!r}"
        raise BpfError(errno.ENODEV, what, hint) from None
    return interface


def attach_xdp(program: HasFd, interface: str | int, *, mode: str = "auto") -> Link:
    """Attach to a network interface (BPF_LINK_CREATE with BPF_XDP).

    :param interface: its name or index
    :param mode: "auto", "generic" (any driver), "native" (in the driver) or "offload"
    :raises ValueError: if the mode is unknown
    :raises TypeError: if `interface` is neither a str nor an int
    :raises BpfError: ENODEV if the interface does not exist, EBUSY if it has an XDP program,
        EOPNOTSUPP if its driver lacks that mode
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: one of {', '.join(map(repr, MODES))} expected")
    index = interface_index(interface)
    what = f"xdp on {interface}" if isinstance(interface, str) else f"xdp on interface {index}"
    try:
        return attach_to_fd(program, index, AttachType.BPF_XDP, flags=MODES[mode], what=what)
    except BpfError as error:
        error.add_context(what)
        raise
