"""Links of programs on network namespaces: flow_dissector and sk_lookup."""

from __future__ import annotations

import errno
import os

from ..errors import BpfError
from .link import HasFd, Link, attach_to_fd, descriptor

__all__ = ["attach_netns"]


def attach_netns(
    program: HasFd,
    netns: str | os.PathLike[str] | int | HasFd,
    attach_type: int,
    *,
    what: str = "netns",
) -> Link:
    """Attach to a network namespace.

    :param netns: path of its file (``/run/netns/NAME``, ``/proc/PID/ns/net``), or a descriptor
        of it
    :param attach_type: the program's ``expected_attach_type`` (``enum bpf_attach_type``)
    :raises TypeError: if `netns` has another type
    :raises BpfError: ENOENT if the file does not exist, with near names; EINVAL if it is not a
        network namespace or the program is not for them
    """
    with descriptor(netns, "network namespace", os.O_RDONLY) as fd:
        try:
            return attach_to_fd(program, fd, attach_type, what=what)
        except BpfError as error:
            if error.errno == errno.EINVAL and not _is_netns(fd):
                error.hint = "that is not a network namespace"
            error.add_context(f"network namespace {netns!r}")
            raise


def _is_netns(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").startswith("net:[")
