"""Links of programs on cgroups."""

from __future__ import annotations

import errno
import os

from .._sys.denied import lacking
from .._uapi.defines import BPF_F_ALLOW_MULTI, BPF_F_ALLOW_OVERRIDE, CAP_NET_ADMIN
from ..errors import BpfError, StateError
from .link import HasFd, Link, attach_to_fd, descriptor
from .plain import attach_plain

__all__ = ["MODES", "attach_cgroup"]

#: Ways of BPF_PROG_ATTACH.
MODES = {"multi": BPF_F_ALLOW_MULTI, "override": BPF_F_ALLOW_OVERRIDE, "exclusive": 0}


def attach_cgroup(
    program: HasFd,
    cgroup: str | os.PathLike[str] | int | HasFd,
    attach_type: int,
    *,
    mode: str = "link",
    what: str = "cgroup",
) -> Link:
    """Attach to a cgroup (v2). The program also runs for the cgroups below it.

    :param cgroup: path of its directory (``/sys/fs/cgroup/user.slice``), or a descriptor of it
    :param attach_type: the program's ``expected_attach_type`` (``enum bpf_attach_type``)
    :param mode: "link"; or, without a link, one of the older ways of BPF_PROG_ATTACH: "multi"
        (beside other programs), "override" (a cgroup below may replace it), "exclusive" (no
        cgroup below may replace it)
    :raises ValueError: if the mode is unknown
    :raises TypeError: if `cgroup` has another type
    :raises BpfError: ENOENT if the directory does not exist, with near names; EBADF if it is not
        a cgroup of the v2 hierarchy; EINVAL if the program is not for cgroups
    """
    if mode != "link" and mode not in MODES:
        raise ValueError(f"mode {mode!r}: one of 'link', {', '.join(map(repr, MODES))} expected")
    with descriptor(cgroup, "cgroup", os.O_RDONLY | os.O_DIRECTORY) as fd:
        try:
            if mode == "link":
                return attach_to_fd(program, fd, attach_type, what=what)
            return attach_plain(program, fd, attach_type, flags=MODES[mode], what=what)
        except StateError:
            raise
        except BpfError as error:
            if error.errno == errno.EBADF:
                error.hint = "that is not a directory of a cgroup2 file system"
            elif error.errno == errno.EPERM and mode != "multi":
                other = "a cgroup above, or another program here, does not allow it"
                error.hint = lacking(CAP_NET_ADMIN) or other
            error.add_context(f"cgroup {cgroup!r}")
            raise
