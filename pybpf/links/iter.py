"""Links of BPF iterators, which are read like files."""

from __future__ import annotations

import errno
import io
import os
import threading

from .._sys import link as sys_link
from .._uapi.enums import CgroupIterOrder
from .._uapi.structs import IterLinkInfo
from ..errors import BpfError
from .link import HasFd, Link, Request, descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..maps import Map

__all__ = ["ORDERS", "IterLink", "attach_iter", "by_section"]

#: The orders in which an iterator walks cgroups, from the given cgroup.
ORDERS = {
    "self": CgroupIterOrder.BPF_CGROUP_ITER_SELF_ONLY,
    "descendants_pre": CgroupIterOrder.BPF_CGROUP_ITER_DESCENDANTS_PRE,
    "descendants_post": CgroupIterOrder.BPF_CGROUP_ITER_DESCENDANTS_POST,
    "ancestors": CgroupIterOrder.BPF_CGROUP_ITER_ANCESTORS_UP,
}


class IterLink(Link):
    """Hold an iterator, which can be read any number of times. Pinned, ``cat`` can read it."""

    def open(self) -> io.BufferedReader:
        """Run the iterator again, and return its output as a binary file.

        Wrap it in `io.TextIOWrapper` for text. The iterator runs while the file is read.

        :raises BpfError: if the kernel refuses
        """
        fd = sys_link.iter_create(self.fileno())
        return io.BufferedReader(_IterFile(fd.release(), "rb"))

    def read(self) -> bytes:
        """Run the iterator once, and return all of its output."""
        with self.open() as file:
            return file.read()


class _IterFile(io.FileIO):
    # The kernel never wakes the reader of an iterator. EAGAIN means that a walk took long: ask
    # again (kernel/bpf/bpf_iter.c).

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        while True:
            count = super().readinto(buffer)
            if count is not None:
                return count

    def readall(self) -> bytes:
        parts = []
        buffer = memoryview(bytearray(1 << 16))
        while count := self.readinto(buffer):
            parts.append(bytes(buffer[:count]))
        return b"".join(parts)


def attach_iter(
    program: HasFd,
    *,
    map: Map | HasFd | None = None,
    cgroup: str | os.PathLike[str] | int | HasFd | None = None,
    order: str = "descendants_pre",
    pid: int | None = None,
    tid: int | None = None,
    what: str = "iter",
) -> IterLink:
    """Make a link of a BPF iterator, over everything or only what an argument names.

    :param map: for ``bpf_map_elem`` and ``bpf_sk_storage_map``: the map to walk
    :param cgroup: for ``cgroup``: where to start, a path or a descriptor
    :param order: for ``cgroup``: "self", "descendants_pre", "descendants_post" or "ancestors"
    :param pid: for ``task``, ``task_file`` and ``task_vma``: walk only this process, 0 for the
        caller's
    :param tid: for the same iterators: walk only this thread, 0 for the caller
    :raises ValueError: if the order is unknown, or several parameters are given
    :raises BpfError: if the kernel refuses; EBADF if the iterator needs a map
    """
    if sum(value is not None for value in (map, cgroup, pid, tid)) > 1:
        raise ValueError("give one of map, cgroup, pid and tid")
    if order not in ORDERS:
        raise ValueError(f"order {order!r}: one of {', '.join(ORDERS)} expected")
    try:
        if cgroup is not None:
            with descriptor(cgroup, "cgroup", os.O_RDONLY | os.O_DIRECTORY) as fd:
                target = IterLinkInfo()
                target.cgroup.cgroup_fd, target.cgroup.order = fd, ORDERS[order]
                return _attach(program, target, what)
        return _attach(program, _target(map, pid, tid), what)
    except BpfError as error:
        if error.errno == errno.EBADF and map is None:
            error.hint = error.hint or "this iterator walks a map: give map="
        error.add_context(what)
        raise


def _target(map: HasFd | None, pid: int | None, tid: int | None) -> IterLinkInfo | None:
    target = IterLinkInfo()
    if map is not None:
        target.map.map_fd = map.fileno()
    elif pid is not None:
        target.task.pid = pid or os.getpid()  # for the kernel 0 is all
    elif tid is not None:
        target.task.tid = tid or threading.get_native_id()
    else:
        return None
    return target


def _attach(program: HasFd, target: IterLinkInfo | None, what: str) -> IterLink:
    return IterLink(sys_link.link_create_iter(program.fileno(), target=target), what)


def by_section(request: Request) -> IterLink:
    """``iter/NAME``."""
    return attach_iter(request.program, what=request.what)
