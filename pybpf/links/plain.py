"""Attachments without a link: BPF_PROG_ATTACH, programs on sockets, filters by netlink.

The kernel keeps such an attachment until somebody undoes it, or until what it is on goes away.
It survives this process. Closing an `Attachment` undoes it, as with a link.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress

from .._sys import link as sys_link
from .._sys.fd import Fd
from ..errors import BpfError, UnsupportedFeature
from .link import HasFd, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket  # 4 ms, and only network programs need it

    from .._sys.bpf import LinkInfo

__all__ = ["Attachment", "attach_plain", "attach_reuseport", "attach_socket", "duplicate"]

# asm-generic/socket.h
_SO_ATTACH_BPF, _SO_DETACH_BPF = 50, 27
_SO_ATTACH_REUSEPORT_EBPF, _SO_DETACH_REUSEPORT_BPF = 52, 68


class Attachment(Link):
    """Hold a program that is attached without a link. Closing or detaching undoes it.

    :param kept: a descriptor of the program, which becomes its own. Make it with `duplicate`
        before you attach: without a free descriptor, nobody would own what is attached
    :param undo: called once, when it is closed
    """

    def __init__(self, kept: Fd, what: str, undo: Callable[[], None]) -> None:
        super().__init__(kept, what)
        self._undo = undo

    def close(self) -> None:
        """Undo the attachment. If somebody else already did, that is fine."""
        if self.closed:
            return
        try:
            self._undo()
        finally:
            super().close()

    def detach(self) -> None:
        """Undo the attachment."""
        self.close()

    def info(self) -> LinkInfo:
        """Refuse: the kernel has no information about an attachment without a link.

        :raises UnsupportedFeature: always
        """
        raise self._no_link("info")

    def update(self, program: HasFd, *, old: HasFd | None = None) -> None:
        """Refuse: attach the other program and close this one instead.

        :raises UnsupportedFeature: always
        """
        raise self._no_link("update")

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Refuse: only links can be pinned.

        :raises UnsupportedFeature: always
        """
        raise self._no_link("pin")

    def _no_link(self, method: str) -> UnsupportedFeature:
        return UnsupportedFeature(f"{method}() of {self.what}", by="attachments without a link")


def duplicate(program: HasFd | int, what: str) -> Fd:
    """Make another descriptor of a program or of what it is attached to.

    :raises BpfError: EMFILE if no descriptor is left
    """
    number = program if isinstance(program, int) else program.fileno()
    try:
        return Fd(os.dup(number), what)
    except OSError as error:
        raise BpfError(error.errno or errno.EBADF, f"{what}: duplicating a descriptor") from None


def attach_plain(
    program: HasFd, target: int, attach_type: int, *, flags: int = 0, what: str = ""
) -> Attachment:
    """Attach by BPF_PROG_ATTACH.

    :param target: descriptor of a cgroup or of a map of sockets, which is duplicated
    :param flags: BPF_F_ALLOW_OVERRIDE or BPF_F_ALLOW_MULTI on a cgroup
    :raises BpfError: if the kernel refuses
    """
    with ExitStack() as failed:
        own = failed.enter_context(duplicate(program, what))
        kept = failed.enter_context(duplicate(target, what))

        def undo() -> None:
            with kept:
                try:
                    sys_link.prog_detach(own, kept, attach_type)
                except BpfError as error:
                    if error.errno != errno.ENOENT:
                        raise

        sys_link.prog_attach(own, kept, attach_type, flags)
        failed.pop_all()
    return Attachment(own, what, undo)


def attach_socket(program: HasFd, sock: socket.socket) -> Attachment:
    """Filter what a socket receives (SO_ATTACH_BPF).

    :param program: a socket filter, which returns how many bytes to keep
    :raises TypeError: if `sock` is not a socket
    :raises BpfError: EINVAL for a program of another type
    """
    return _on_socket(program, sock, _SO_ATTACH_BPF, _SO_DETACH_BPF, "socket filter")


def attach_reuseport(program: HasFd, sock: socket.socket) -> Attachment:
    """Choose among the sockets that share an address (SO_ATTACH_REUSEPORT_EBPF).

    :param program: a sk_reuseport program, or a socket filter that returns an index
    :param sock: a socket of the group, with SO_REUSEPORT set
    :raises TypeError: if `sock` is not a socket
    :raises BpfError: EINVAL for a program of another type, or without SO_REUSEPORT
    """
    return _on_socket(
        program, sock, _SO_ATTACH_REUSEPORT_EBPF, _SO_DETACH_REUSEPORT_BPF, "sk_reuseport"
    )


def _on_socket(
    program: HasFd, sock: socket.socket, option: int, undoing: int, kind: str
) -> Attachment:
    import socket

    if not isinstance(sock, socket.socket):
        raise TypeError(f"{kind}: a socket expected, not {type(sock).__name__}")
    what = f"{kind} on {sock.family.name} socket {sock.fileno()}"
    with ExitStack() as failed:
        own = failed.enter_context(duplicate(program, what))
        try:
            kept = failed.enter_context(sock.dup())
            kept.setsockopt(socket.SOL_SOCKET, option, own.fileno())
        except OSError as error:
            raise BpfError(error.errno or errno.EINVAL, what) from None
        failed.pop_all()

    def undo() -> None:
        with kept, suppress(FileNotFoundError):
            kept.setsockopt(socket.SOL_SOCKET, undoing, 0)

    return Attachment(own, what, undo)
