"""Links keep programs attached.

A `Link` owns its file descriptors. Closing it detaches the program. The other modules of
this package make links, one module for each kind. If a section name can ask for a kind, its
module has a function that takes a `Request`. `pybpf.links.table` lists these functions.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from .. import log
from .._sys import bpf as sys_bpf
from .._sys import link as sys_link
from .._sys.fd import Fd
from ..dataclass import dataclass
from ..errors import BpfError, StateError
from ..kernel.lookup import near_names
from ..names import ByName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from .._uapi.enums import ProgType
    from ..kernel.host import Facts
    from ..multi.link import MultiLink
    from .usdt import UsdtLink

__all__ = [
    "Attachable",
    "Closes",
    "HasFd",
    "Link",
    "LinkSet",
    "PerfLink",
    "Request",
    "attach_to_fd",
    "descriptor",
    "is_of_type",
    "near",
    "need",
]

# Most names that a message lists.
_LISTED = 8
# What the kernel answers if the program of a link cannot be replaced by this one.
_NO_UPDATE = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


class HasFd(Protocol):
    """Stand for anything that owns a descriptor: an `Fd`, a program, a map."""

    def fileno(self) -> int: ...


class Link:
    """Own a ``struct bpf_link``: one program, attached until this is closed or detached.

    A link that is garbage collected without `close` warns (ResourceWarning)
    and is detached. `pin` keeps the attachment beyond this process.

    :ivar what: what is attached where, for messages
    """

    def __init__(self, fd: Fd, what: str) -> None:
        self._fd = fd
        self._pins: list[str] = []
        self.what = what
        log.debug("links", "opened %s", what)

    @classmethod
    def from_id(cls, link_id: int) -> Link:
        """Open a link by its kernel-wide id (BPF_LINK_GET_FD_BY_ID).

        :raises DeniedByPolicy: without CAP_SYS_ADMIN
        :raises BpfError: ENOENT if no link has that id
        """
        return cls(sys_bpf.get_fd_by_id("link", link_id), f"link {link_id}")

    @classmethod
    def from_pinned(cls, path: str | os.PathLike[str]) -> Link:
        """Open a link that is pinned in a bpf file system (BPF_OBJ_GET).

        :raises BpfError: ENOENT if nothing is pinned there, EINVAL if it is not a link
        """
        name = os.fspath(path)
        fd = sys_bpf.obj_get(name, "link")
        link = cls(fd, f"link pinned at {name}")
        link._pins.append(name)
        return link

    @property
    def fd(self) -> Fd:
        """Return the link's descriptor.

        :raises StateError: after `close` and `detach`
        """
        if self._fd.closed:
            raise StateError(self.what)
        return self._fd

    def fileno(self) -> int:
        """Return the number of the link's descriptor.

        :raises StateError: after `close` and `detach`
        """
        return self.fd.fileno()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Return the numbers of all descriptors that keep it attached, () if it is closed."""
        return () if self.closed else (self._fd.fileno(),)

    @property
    def closed(self) -> bool:
        """Return True after `close` or `detach`."""
        return self._fd.closed

    @property
    def attached(self) -> bool:
        """Return True until `close` or `detach`."""
        return not self.closed

    @property
    def id(self) -> int:
        """Return the kernel-wide id of the link, as ``bpftool link`` shows it."""
        return self.info().id

    def info(self) -> sys_bpf.LinkInfo:
        """Ask the kernel about the link (BPF_OBJ_GET_INFO_BY_FD).

        :raises StateError: after `close` and `detach`
        :raises BpfError: if the kernel refuses
        """
        return sys_bpf.link_info(self.fd)

    def update(self, program: HasFd, *, old: HasFd | None = None) -> None:
        """Replace the attached program (BPF_LINK_UPDATE).

        :param program: loaded program to run from now on
        :param old: if given, replace only if this program is attached now
        :raises BpfError: EINVAL or EOPNOTSUPP for kinds of links whose program cannot be
            replaced (tracing, kprobe, uprobe, tracepoint)
        """
        link, new = self.fileno(), program.fileno()
        before = old.fileno() if old is not None else None
        try:
            sys_link.link_update(link, new, old_prog_fd=before)
        except BpfError as error:
            error.add_context(self.what)
            if error.errno in _NO_UPDATE and not error.hint:
                error.hint = (
                    "the program of such a link cannot be replaced, or the new one is of another "
                    "type; attach the new one, then close this link"
                )
            raise

    def detach(self) -> None:
        """Undo the attachment, even if others hold the link, and release its descriptors.

        The kernel has BPF_LINK_DETACH for some kinds of links (xdp, cgroup, netns). Any other
        kind lives as long as somebody holds it. For these, the pins that this object made or
        was opened from are removed, and its descriptors are closed. May be called again.

        :raises OSError: if a pin cannot be removed
        """
        if self.closed:
            return
        try:
            sys_link.link_detach(self.fileno())
        except BpfError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.unpin()
        self.close()

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin to a path in a bpf file system (BPF_OBJ_PIN). The attachment outlives this process.

        If only the last folder of the path is missing, it is made.

        :raises BpfError: EEXIST if the path exists, EPERM if it is not in a bpf file system
        """
        name = os.fspath(path)
        sys_bpf.obj_pin(self.fileno(), name)
        self._pins.append(name)

    def unpin(self) -> None:
        """Remove the pins that this object made or was opened from. Missing pins are fine."""
        while self._pins:
            with suppress(FileNotFoundError):
                os.unlink(self._pins[-1])
            self._pins.pop()

    def close(self) -> None:
        """Release the descriptors, which detaches unless the link is pinned. May be called again.

        `detach` undoes the attachment of a pinned link too.
        """
        if not self._fd.closed:
            log.debug("links", "closed %s", self.what)
        self._fd.close()

    def __enter__(self) -> Self:
        if self.closed:
            raise StateError(self.what)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self.fileno()}"
        return f"<{type(self).__name__} {self.what}: {state}>"


class PerfLink(Link):
    """Own a link and its perf event (kprobe, tracepoint...)."""

    def __init__(self, fd: Fd, event: Fd, what: str) -> None:
        super().__init__(fd, what)
        self._event = event

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Return the numbers of the link's and the perf event's descriptors, () if closed."""
        return () if self.closed else (*super().descriptors, self._event.fileno())

    def close(self) -> None:
        """Detach, then close the perf event."""
        try:
            super().close()
        finally:
            self._event.close()


class Closes(Protocol):
    """Stand for what a `LinkSet` holds: a `Link`, or a `MultiLink` that owns several."""

    @property
    def attached(self) -> bool: ...

    def detach(self) -> None: ...

    def close(self) -> None: ...


class LinkSet(ByName[Closes]):
    """Hold links by program name. Closing closes all, last attached first.

    :ivar by_hand: programs that were left out because their section does not say where to
        attach, and what to call instead: ``{"on_xdp": "call attach_xdp(interface)"}``
    """

    def __init__(self) -> None:
        super().__init__("link", {})
        self.by_hand: dict[str, str] = {}

    @property
    def attached(self) -> bool:
        """Return True while one of the links is attached."""
        return any(link.attached for link in self.values())

    def detach(self) -> None:
        """Undo every attachment, last attached first. The links can still be read here.

        The first error is raised after all links were tried.
        """
        _all(link.detach for link in reversed(self.values()))

    def close(self) -> None:
        """Detach and forget everything. The first error is raised after all were tried."""
        links = []
        while self:
            links.append(self.popitem()[1])
        _all(link.close for link in links)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _all(calls: Iterable[Callable[[], None]]) -> None:
    failure: BaseException | None = None
    for call in calls:
        try:
            call()
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure


class Attachable(HasFd, Protocol):
    """Stand for a program, as the functions that attach by section need it."""

    @property
    def is_multi(self) -> bool: ...

    def attach_multi(self, *, cookies: int | None = None) -> MultiLink: ...

    def attach_tracing(self, *, cookie: int = 0) -> Link: ...

    def attach_usdt(
        self, binary: str, provider: str, name: str, *, cookie: int = 0
    ) -> UsdtLink: ...


@dataclass(frozen=True, slots=True)
class Request:
    """Hold what a section asks for: the input of the functions in `pybpf.links.table`.

    :param program: the program, loaded unless it is a multi program
    :param section: section name without a leading "?", for messages
    :param target: what follows the section's first slash, or what ``attach_to`` was set to
    :param attach_type: ``enum bpf_attach_type``
    :param retprobe: attach to the function's return
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :param facts: what is known of the running kernel
    """

    program: Attachable
    section: str
    target: str
    attach_type: int
    retprobe: bool
    cookie: int
    facts: Facts

    @property
    def what(self) -> str:
        """Return what is attached where, for messages: ``fentry/vfs_read``."""
        return f"{self.section.partition('/')[0]}/{self.target}"


def need(value: object, kind: type | tuple[type, ...], what: str, hint: str = "") -> None:
    """Check the type of an argument that names something.

    :param what: what the argument is, for the message
    :raises TypeError: if `value` is not of that type
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(one.__name__ for one in kinds)
        text = f"{what}: {names} expected, not {type(value).__name__}"
        raise TypeError(f"{text} ({hint})" if hint else text)


def near(name: str, names: Iterable[str] | Callable[[], Iterable[str]]) -> str:
    """Return a hint with similar names, "" if there are none.

    :param names: the existing names, or a function that reads them; no hint if that fails
    """
    try:
        found = near_names(name, names() if callable(names) else names)
    except (OSError, ValueError):  # not allowed to see them, or no BTF
        return ""
    return f"near: {', '.join(found)}" if found else ""


@contextmanager
def descriptor(
    target: str | os.PathLike[str] | int | HasFd, what: str, flags: int
) -> Iterator[int]:
    """Yield the number of a descriptor of something that has a path.

    :param target: a path, which is open until the block ends; or a descriptor
    :param what: what it is, for messages
    :param flags: of open(2)
    :raises TypeError: for any other type
    :raises BpfError: if the path cannot be opened; ENOENT with near names
    """
    if isinstance(target, int):
        yield target
    elif isinstance(target, (str, os.PathLike)):
        with _open(os.fspath(target), what, flags) as fd:
            yield fd.fileno()
    elif hasattr(target, "fileno"):
        yield target.fileno()
    else:
        kind = type(target).__name__
        raise TypeError(f"{what}: a path or a descriptor expected, not {kind}")


def _open(path: str, what: str, flags: int) -> Fd:
    try:
        return Fd(os.open(path, flags | os.O_CLOEXEC), f"{what} {path}")
    except OSError as error:
        number = error.errno or errno.EIO
        hint = ""
        if number == errno.ENOENT:
            hint = _beside(path, only_folders=bool(flags & os.O_DIRECTORY))
        elif number == errno.ENOTDIR:
            hint = "that is not a directory"
        raise BpfError(number, f"{what} {path!r}", hint) from None


def _beside(path: str, *, only_folders: bool) -> str:
    # What there is in the folder of a path that does not exist.
    folder = os.path.dirname(path) or "."
    try:
        with os.scandir(folder) as found:
            names = sorted(one.name for one in found if one.is_dir() or not only_folders)
    except OSError:
        return f"there is no folder {folder!r}"
    near_ones = near(os.path.basename(path), names)
    if near_ones or not names:
        return near_ones or f"{folder!r} is empty"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{folder!r} has: {', '.join(names[:_LISTED])}{more}"


def is_of_type(program: HasFd, *types: ProgType) -> bool:
    """Tell whether a program is of one of these types. True if the kernel does not say.

    EINVAL means a program of a wrong type or a kernel without that kind of attachment. This
    tells which.
    """
    try:
        return sys_bpf.prog_info(program).type in types
    except BpfError:
        return True


def attach_to_fd(
    program: HasFd, target: int, attach_type: int, *, flags: int = 0, what: str = ""
) -> Link:
    """Make a link with the plain form of BPF_LINK_CREATE (cgroup, netns, xdp).

    :param target: descriptor of the cgroup or namespace, or an interface index for xdp
    :param attach_type: ``enum bpf_attach_type``
    :raises BpfError: if the kernel refuses
    """
    fd = sys_link.link_create_generic(program.fileno(), target, attach_type, flags)
    return Link(fd, what or f"attach type {attach_type}")
