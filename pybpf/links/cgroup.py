"""Links of programs on cgroups."""

from __future__ import annotations

import errno
import os

from ..errors import BpfError
from .link import HasFd, Link, attach_to_fd, descriptor

__all__ = ["attach_cgroup"]


def attach_cgroup(
    program: HasFd,
    cgroup: str | os.PathLike[str] | int | HasFd,
    attach_type: int,
    *,
    what: str = "cgroup",
) -> Link:
    """Attach to a cgroup (v2), for it and those below it.

    :param cgroup: path of its directory (``/sys/fs/cgroup/user.slice``), or a descriptor of it
    :param attach_type: the program's ``expected_attach_type`` (``enum bpf_attach_type``)
    :raises TypeError: if `cgroup` is none of these
    :raises BpfError: ENOENT if there is no such directory, with near names; EBADF if it is not
        a cgroup of the v2 hierarchy; EINVAL if the program is not one for cgroups
    """
    with descriptor(cgroup, "cgroup", os.O_RDONLY | os.O_DIRECTORY) as fd:
        try:
            return attach_to_fd(program, fd, attach_type, what=what)
        except BpfError as error:
            if error.errno == errno.EBADF:
                error.hint = "that is not a directory of a cgroup2 file system"
            error.add_context(f"cgroup {cgroup!r}")
            raise
