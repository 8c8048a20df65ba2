"""Links: what keeps a program attached, and the ways to make one.

A `Link` owns its file descriptors; closing it detaches the program. Each
`attach_*` function here takes a loaded program's descriptor and makes one kind
of ``struct bpf_link`` (BPF_LINK_CREATE; UAPI ``enum bpf_link_type``), with a
cookie where the kind has one. On any error nothing stays attached.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ._sys import bpf as sys_bpf
from ._sys import perf
from ._sys.fd import make_room
from ._uapi.enums import AttachType
from .errors import BpfError, UnsupportedFeature

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ._sys.fd import Fd

__all__ = [
    "Closes",
    "HasFd",
    "Link",
    "LinkSet",
    "PerfLink",
    "attach_iter",
    "attach_kprobe",
    "attach_kprobe_multi",
    "attach_perf_event",
    "attach_raw_tracepoint",
    "attach_to_fd",
    "attach_tracepoint",
    "attach_tracing",
    "attach_uprobe",
    "make_room",
]


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
        sys_bpf.link_update(
            self.fileno(), program.fileno(), old_prog_fd=old.fileno() if old is not None else None
        )

    def detach(self) -> None:
        """Force-detach (BPF_LINK_DETACH); the link object stays, defunct.

        :raises BpfError: EOPNOTSUPP for link types that cannot: close those instead
        """
        sys_bpf.link_detach(self.fileno())

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


def attach_tracing(
    program: HasFd, attach_type: int, *, cookie: int = 0, what: str = "tracing"
) -> Link:
    """fentry, fexit, fmod_ret, fsession, tp_btf, lsm: the target is fixed at load.

    :param attach_type: the program's ``expected_attach_type`` (``enum bpf_attach_type``)
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :raises BpfError: E2BIG if the trampoline is full, EBUSY if the function cannot be
        patched (notrace) or the same program is on it already, ENOTSUPP (524) if it has
        more argument slots than the kernel's trampolines take
    """
    fd = sys_bpf.link_create_tracing(program.fileno(), attach_type, cookie=cookie)
    return Link(fd, what)


def attach_raw_tracepoint(program: HasFd, name: str, *, cookie: int = 0) -> Link:
    """Raw tracepoint `name` (BPF_RAW_TRACEPOINT_OPEN).

    :param cookie: needs Linux 6.10 or newer when not 0
    :raises BpfError: ENOENT if there is no such tracepoint
    """
    try:
        fd = sys_bpf.raw_tracepoint_open(program.fileno(), name, cookie=cookie)
    except BpfError as error:
        if cookie and error.errno in (errno.EINVAL, errno.E2BIG):
            raise UnsupportedFeature("a cookie on a raw tracepoint", "6.10") from error
        error.add_context(f"raw tracepoint {name!r}")
        raise
    return Link(fd, f"raw_tp/{name}")


def attach_perf_event(program: HasFd, event: Fd, *, cookie: int = 0, what: str = "perf") -> Link:
    """Link a program to an open perf event, whose ownership passes to the link."""
    try:
        fd = sys_bpf.link_create_perf_event(program.fileno(), event.fileno(), cookie=cookie)
    except BaseException:
        event.close()
        raise
    return PerfLink(fd, event, what)


def attach_kprobe(
    program: HasFd,
    function: str = "",
    *,
    offset: int = 0,
    address: int = 0,
    retprobe: bool = False,
    cookie: int = 0,
) -> Link:
    """One kprobe or kretprobe through the kprobe PMU (perf_event_open).

    :param function: symbol name; or "" and `address`
    :param offset: bytes from its start; must be 0 for a return probe
    :param address: absolute kernel address, an alternative to `function`
    :raises BpfError: ENOENT for an unknown name, EINVAL for a blacklisted address,
        EADDRNOTAVAIL for a name that several functions share
    """
    kind = "kretprobe" if retprobe else "kprobe"
    place = function or f"{address:#x}"
    what = f"{kind}/{place}" + (f"+{offset:#x}" if offset else "")
    try:
        event = perf.open_kprobe(function or None, offset or address, retprobe=retprobe)
    except BpfError as error:
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)


def attach_uprobe(
    program: HasFd,
    path: str,
    offset: int,
    *,
    pid: int = -1,
    retprobe: bool = False,
    ref_ctr_offset: int = 0,
    cookie: int = 0,
) -> Link:
    """One uprobe or uretprobe at a file offset (bytes) of an executable or library.

    :param pid: only that process, or -1 for all
    """
    kind = "uretprobe" if retprobe else "uprobe"
    what = f"{kind}/{path}+{offset:#x}"
    try:
        event = perf.open_uprobe(
            path, offset, pid=pid, retprobe=retprobe, ref_ctr_offset=ref_ctr_offset
        )
    except BpfError as error:
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)


def attach_tracepoint(program: HasFd, category: str, name: str, *, cookie: int = 0) -> Link:
    """A static tracepoint ``category/name`` of tracefs.

    :raises BpfError: ENOENT if tracefs has no such event
    """
    what = f"tracepoint/{category}/{name}"
    try:
        event = perf.open_tracepoint(category, name)
    except BpfError as error:
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)


def attach_kprobe_multi(
    program: HasFd,
    *,
    syms: Sequence[str] | None = None,
    addrs: Sequence[int] | None = None,
    cookies: Sequence[int] | None = None,
    retprobe: bool = False,
    session: bool = False,
) -> Link:
    """One kprobe.multi link on many functions (BPF_TRACE_KPROBE_MULTI, FPROBE kernels).

    :param syms: symbol names, or
    :param addrs: addresses of function entries; exactly one of the two
    :param cookies: ``__u64`` per function, in the same order
    :param session: the program was loaded for BPF_TRACE_KPROBE_SESSION (Linux 6.10)
    :raises UnsupportedFeature: if the kernel has no FPROBE
    :raises BpfError: ESRCH if a symbol is unknown or ambiguous, EINVAL or ENOENT if an
        address cannot be probed: one bad function fails the whole link
    """
    if (syms is None) == (addrs is None):
        raise ValueError("give either syms or addrs")
    count = len(syms if syms is not None else addrs or ())
    if cookies is not None and len(cookies) != count:
        raise ValueError(f"{len(cookies)} cookies for {count} functions")
    kind = AttachType.BPF_TRACE_KPROBE_SESSION if session else AttachType.BPF_TRACE_KPROBE_MULTI
    try:
        fd = sys_bpf.link_create_kprobe_multi(
            program.fileno(),
            flags=1 if retprobe else 0,  # BPF_F_KPROBE_MULTI_RETURN
            syms=syms,
            addrs=addrs,
            cookies=cookies,
            attach_type=kind,
        )
    except BpfError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise UnsupportedFeature(
                "kprobe.multi", "5.18", "it was built without CONFIG_FPROBE"
            ) from error
        error.add_context(f"kprobe.multi on {count} functions")
        raise
    return Link(fd, f"{'kretprobe' if retprobe else 'kprobe'}.multi x{count}")


def attach_iter(program: HasFd, *, what: str = "iter") -> Link:
    """A BPF iterator; read it through `pybpf.Program.iter_read`."""
    return Link(sys_bpf.link_create_iter(program.fileno()), what)


def attach_to_fd(
    program: HasFd, target: int, attach_type: int, *, flags: int = 0, what: str = ""
) -> Link:
    """cgroup, netns, xdp: the plain form of BPF_LINK_CREATE.

    :param target: descriptor of the cgroup or namespace, or an interface index for xdp
    """
    fd = sys_bpf.link_create_generic(program.fileno(), target, attach_type, flags)
    return Link(fd, what or f"attach type {attach_type}")
