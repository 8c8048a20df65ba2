"""Links: what keeps a program attached.

A `Link` owns its file descriptors; closing it detaches the program. The ways to make one are
in the other modules of this package, one for each kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .._sys import bpf as sys_bpf
from .._sys import link as sys_link

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from .._sys.fd import Fd

__all__ = ["Closes", "HasFd", "Link", "LinkSet", "PerfLink", "attach_to_fd"]


class HasFd(Protocol):
    """Anything that owns a descriptor: a `Fd`, a program, a map."""

    def fileno(self) -> int: ...


class Link:
    """A ``struct bpf_link``: one program attached until this is closed.

    A link that is garbage collected without `close` warns (ResourceWarning)
    and is detached. `pin` keeps the attachment beyond this process.
    """

    def __init__(self, fd: Fd, what: str) -> None:
        self._fd = fd
        self.what = what

    @property
    def fd(self) -> Fd:
        """The link's descriptor."""
        return self._fd

    def fileno(self) -> int:
        return self._fd.fileno()

    @property
    def closed(self) -> bool:
        return self._fd.closed

    @property
    def id(self) -> int:
        """Kernel-wide id of the link, as ``bpftool link`` shows it."""
        return self.info().id

    def info(self) -> sys_bpf.LinkInfo:
        """BPF_OBJ_GET_INFO_BY_FD of the link.

        :raises BpfError: if the kernel refuses
        """
        return sys_bpf.link_info(self._fd)

    def update(self, program: HasFd, *, old: HasFd | None = None) -> None:
        """Replace the attached program (BPF_LINK_UPDATE).

        :param program: loaded program to run from now on
        :param old: if given, only replace when this one is attached now
        :raises BpfError: EOPNOTSUPP for link types that cannot (tracing, kprobe)
        """
        sys_link.link_update(
            self.fileno(), program.fileno(), old_prog_fd=old.fileno() if old is not None else None
        )

    def detach(self) -> None:
        """Force-detach (BPF_LINK_DETACH); the link object stays, defunct.

        :raises BpfError: EOPNOTSUPP for link types that cannot: close those instead
        """
        sys_link.link_detach(self.fileno())

    def pin(self, path: str) -> None:
        """Pin to a bpffs path, so that the link outlives this process (BPF_OBJ_PIN)."""
        sys_bpf.obj_pin(self.fileno(), path)

    def close(self) -> None:
        """Detach and release. May be called again."""
        self._fd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self.fileno()}"
        return f"<{type(self).__name__} {self.what}: {state}>"


class PerfLink(Link):
    """A link on a perf event that this link opened and owns (kprobe, tracepoint...)."""

    def __init__(self, fd: Fd, event: Fd, what: str) -> None:
        super().__init__(fd, what)
        self._event = event

    def close(self) -> None:
        """Detach, then close the perf event."""
        try:
            super().close()
        finally:
            self._event.close()


class Closes(Protocol):
    """What a `LinkSet` holds: a `Link`, or a `MultiLink` that owns several."""

    def close(self) -> None: ...


class LinkSet(dict[str, Closes]):
    """Links by program name; closing closes all, last attached first."""

    def close(self) -> None:
        """Detach everything; the first error is raised after all were tried."""
        failure: BaseException | None = None
        while self:
            _, link = self.popitem()
            try:
                link.close()
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def attach_to_fd(
    program: HasFd, target: int, attach_type: int, *, flags: int = 0, what: str = ""
) -> Link:
    """cgroup, netns, xdp: the plain form of BPF_LINK_CREATE.

    :param target: descriptor of the cgroup or namespace, or an interface index for xdp
    """
    fd = sys_link.link_create_generic(program.fileno(), target, attach_type, flags)
    return Link(fd, what or f"attach type {attach_type}")
