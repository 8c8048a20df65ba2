"""File descriptors with one owner."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from errno import EMFILE

from ..errors import BpfError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["INODES", "NOUNS", "Fd", "kind_of", "make_room", "set_tracer"]

#: Kinds of BPF objects, as the kernel's commands call them, and the words for people.
NOUNS = {"prog": "program", "map": "map", "btf": "BTF object", "link": "link"}
#: What /proc/PID/fd shows of each. A link has two forms: the first in the process that made it,
#: the other after it was opened again, from a pin or by its id (kernel/bpf/syscall.c).
INODES = {
    "anon_inode:bpf_link": "link",
    "anon_inode:bpf-link": "link",
    "anon_inode:bpf-prog": "prog",
    "anon_inode:bpf-map": "map",
    "anon_inode:btf": "btf",
}

_STANDARD = 2  # the last number of standard input, output and errors
_SPARE = 64  # descriptors left for other files of the process

# Called with (fd object, "open" or "gone"), or None. Tests set it to see leaks; see `set_tracer`.
_tracer: Callable[[Fd, str], None] | None = None


def set_tracer(
    tracer: Callable[[Fd, str], None] | None,
) -> Callable[[Fd, str], None] | None:
    """Have `tracer` called for each `Fd` when it takes and gives up a descriptor. For tests.

    It gets the object and ``"open"``, ``"closed"``, ``"released"`` or
    ``"leaked"`` (collected while open). Returns the former tracer.
    """
    global _tracer
    former, _tracer = _tracer, tracer
    return former


def kind_of(fd: int) -> str:
    """Say which kind of BPF object a descriptor is of: a key of `NOUNS`.

    :returns: "" if it is of none, or /proc does not show it
    """
    try:
        return INODES.get(os.readlink(f"/proc/self/fd/{fd}"), "")
    except OSError:
        return ""


class Fd:
    """Own one file descriptor and close it exactly once.

    :param fd: the descriptor, >= 0. One of 0 to 2 is moved to a higher number, as in libbpf: the
        kernel takes 0 for "none" in many places, and a process without standard output would
        write there
    :param what: name for messages: ``map 'events'``
    :raises BpfError: EMFILE if it must be moved and no descriptor is left; it is closed then

    If it is collected while still open, it gives a `ResourceWarning` and closes.
    An `Fd` can be passed wherever the kernel needs a descriptor, like anything else with a
    ``fileno`` method.
    """

    __slots__ = ("__weakref__", "_fd", "what")

    def __init__(self, fd: int, what: str = "") -> None:
        self._fd = -1  # so that __del__ works if the next line raises
        if fd < 0:
            raise ValueError(f"not a file descriptor: {fd}")
        self._fd = fd if fd > _STANDARD else _moved(fd, what)
        self.what = what
        if _tracer is not None:
            _tracer(self, "open")

    @property
    def closed(self) -> bool:
        """Return True once it is closed or released."""
        return self._fd < 0

    def fileno(self) -> int:
        """Return the descriptor.

        :raises StateError: if it was closed or released
        """
        if self._fd < 0:
            raise StateError(self.what or "file descriptor")
        return self._fd

    def close(self) -> None:
        """Close it. Closing again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if _tracer is not None:
                _tracer(self, "closed")
            os.close(fd)

    def release(self) -> int:
        """Give up the descriptor without closing it. From now on the caller must close it.

        :raises StateError: if it was closed or released
        """
        fd = self.fileno()
        self._fd = -1
        if _tracer is not None:
            _tracer(self, "released")
        return fd

    def dup(self) -> Fd:
        """Make another descriptor (close-on-exec) of the same kernel object.

        :raises StateError: if it was closed or released
        """
        return Fd(os.dup(self.fileno()), self.what)

    def __enter__(self) -> Fd:
        self.fileno()  # says that it is closed
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else str(self._fd)
        return f"<Fd {state}{' ' + self.what if self.what else ''}>"

    def __del__(self) -> None:
        if self._fd < 0:
            return
        if _tracer is not None:
            _tracer(self, "leaked")
        warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
        fd, self._fd = self._fd, -1
        os.close(fd)


def _moved(fd: int, what: str) -> int:
    import fcntl  # only for processes without standard input or output

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD + 1)
    except OSError as error:
        raise BpfError(error.errno or EMFILE, what or "a descriptor above 2") from None
    finally:
        os.close(fd)


def _open_now(limit: int) -> int:
    # Number of descriptors this process has open.
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # /proc is not mounted: try each number
        found = 0
        for number in range(min(limit, 1 << 16) if limit > 0 else 1 << 16):
            with suppress(OSError):
                os.fstat(number)
                found += 1
        return found


def make_room(count: int, doing: str = "") -> None:
    """Make sure that `count` more descriptors may be opened.

    The soft limit (RLIMIT_NOFILE, usually 1024) is raised as far as needed. The hard limit
    belongs to the administrator and is not changed.

    :raises BpfError: EMFILE if the hard limit does not allow them
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_now(soft) + count + _SPARE
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        hint = f"the hard limit is {hard} but {needed} are needed; run ulimit -n {needed} as root"
        raise BpfError(EMFILE, doing, hint)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
