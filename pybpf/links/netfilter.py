"""Links of programs on netfilter hooks, beside the rules of nftables."""

from __future__ import annotations

import errno

from .._sys import link as sys_link
from ..errors import BpfError
from .link import HasFd, Link, need

__all__ = ["FAMILIES", "HOOKS", "attach_netfilter"]

#: ``NFPROTO_*`` of linux/netfilter.h.
FAMILIES = {"ipv4": 2, "ipv6": 10}
#: ``NF_INET_*`` of linux/netfilter.h.
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_DEFRAG = 1  # BPF_F_NETFILTER_IP_DEFRAG


def attach_netfilter(
    program: HasFd, family: str, hook: str, priority: int = 0, *, defrag: bool = False
) -> Link:
    """Attach to a netfilter hook of this process's network namespace (6.4).

    :param family: "ipv4" or "ipv6"
    :param hook: "prerouting", "input", "forward", "output" or "postrouting"
    :param priority: lower runs first; only one program can have each, and none can have the
        least or greatest ``int``
    :param defrag: put fragments together first; needs a priority above -400
    :raises ValueError: if the family or hook is unknown
    :raises TypeError: if `priority` is not an int
    :raises BpfError: EBUSY if the priority is taken
    """
    for value, choices, role in ((family, FAMILIES, "family"), (hook, HOOKS, "hook")):
        if value not in choices:
            raise ValueError(f"{role} {value!r}: one of {', '.join(map(repr, choices))} expected")
    need(priority, int, "priority")
    what = f"netfilter {family} {hook} priority {priority}"
    try:
        fd = sys_link.link_create_netfilter(
            program.fileno(),
            family=FAMILIES[family],
            hook=HOOKS[hook],
            priority=priority,
            flags=_DEFRAG if defrag else 0,
        )
    except BpfError as error:
        if error.errno == errno.EBUSY:
            error.hint = "another program has this priority"
        error.add_context(what)
        raise
    return Link(fd, what)
