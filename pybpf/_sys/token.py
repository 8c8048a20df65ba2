"""Take rights that a bpf file system delegates to a user namespace (BPF token, Linux 6.9).

A container manager mounts a bpf file system that belongs to the container's user namespace, with
options such as ``delegate_cmds``, ``delegate_maps``, ``delegate_progs`` and ``delegate_attachs``. A
process in there makes a token of it. With the token, the kernel creates maps, BTF and programs of
the delegated kinds for a process that has its capabilities only inside.

As in libbpf, the path comes from the caller, else from the environment variable
``LIBBPF_BPF_TOKEN_PATH``, and an empty path means no token. Both have to work. Without either,
``/sys/fs/bpf`` is tried, and whether that works does not matter.
"""

from __future__ import annotations

import errno
import os

from ..errors import BpfError
from .bpf import token_create
from .namespaces import is_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .fd import Fd

__all__ = ["make_token"]

_VARIABLE = "LIBBPF_BPF_TOKEN_PATH"
_USUAL = "/sys/fs/bpf"
# What the kernel's answers mean (bpf_token_create in kernel/bpf/token.c of 6.12).
_HINTS = {
    errno.ENOENT: "it delegates nothing: mount it with delegate_cmds=, delegate_maps= and others",
    errno.EPERM: "it belongs to another user namespace, or this process lacks CAP_BPF in its own",
    errno.EOPNOTSUPP: "tokens are for containers: this is the first user namespace",
    errno.EINVAL: "it is not the root of a bpf file system, or the kernel has no tokens (6.9)",
}


def make_token(path: str | None) -> Fd | None:
    """Make the token that an object is loaded with.

    :param path: where a bpf file system is mounted; "" for no token, None for the usual places
    :returns: None if no token is wanted, or none was named and there is none
    :raises BpfError: the named place gives none
    """
    named = path if path is not None else os.environ.get(_VARIABLE)
    if named == "" or (named is None and is_first("user")):  # the first one has no tokens
        return None
    try:
        return _token_of(named or _USUAL)
    except BpfError:
        if named is None:
            return None
        raise


def _token_of(path: str) -> Fd:
    what = f"BPF token of {path!r}"
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: it has a NUL
        hint = "give the path where a bpf file system is mounted"
        raise BpfError(getattr(error, "errno", 0) or errno.EINVAL, what, hint) from None
    try:
        return token_create(folder)
    except BpfError as error:
        number = error.errno or 0
        raise BpfError(number, what, _HINTS.get(number, error.hint)) from None
    finally:
        os.close(folder)
