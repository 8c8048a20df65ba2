"""Links on perf events: an open event, or sampling events opened here per CPU or thread."""

from __future__ import annotations

import errno
import os

from .._sys import link as sys_link
from .._sys import perf
from .._sys.cpus import cpus as cpu_list
from .._uapi.perf import PerfType
from ..dataclass import dataclass
from ..digits import hexadecimal
from ..errors import BpfError
from .link import HasFd, Link, LinkSet, PerfLink, near, need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._sys.fd import Fd

__all__ = ["attach_perf_event", "attach_sampling"]


def attach_perf_event(program: HasFd, event: Fd, *, cookie: int = 0, what: str = "perf") -> Link:
    """Link a program to an open perf event. The link owns the event afterwards."""
    try:
        fd = sys_link.link_create_perf_event(program.fileno(), event.fileno(), cookie=cookie)
    except BaseException:
        event.close()
        raise
    return PerfLink(fd, event, what)


@dataclass(frozen=True, slots=True)
class _Where:
    # The thread and CPU of one event, and the name of its link.
    pid: int
    cpu: int
    name: str


def attach_sampling(
    program: HasFd,
    event: str = "cpu-clock",
    *,
    frequency: int = 99,
    period: int = 0,
    pid: int | None = None,
    cpu: int | Iterable[int] | None = None,
    cookie: int = 0,
) -> LinkSet:
    """Open a sampling event on each CPU, or for each thread of a process, and attach to all.

    :param event: a name from ``perf list``: ``cpu-clock``, ``cycles``, ``page-faults``,
        ``context-switches``...; ``rNNN`` for a raw event in hexadecimal
    :param frequency: samples per second, if there is no `period`
    :param period: number of events between two samples; ns for ``cpu-clock``
    :param pid: sample the threads that this process has now; None for all processes
    :param cpu: one CPU or several; None for all online CPUs
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :returns: a link for each event, named ``cpu 3`` or ``thread 1234``
    :raises TypeError: if an argument has another type
    :raises BpfError: ENOENT for an unknown name, with near names, or an event that this machine
        lacks; ESRCH if the process does not exist
    """
    need(event, str, "event", "a name such as cpu-clock")
    need(frequency, int, "frequency")
    need(period, int, "period")
    need(pid, (int, type(None)), "pid")
    if period < 0 or frequency < 0 or not (period or frequency):
        what = f"perf event {event}"
        raise BpfError(errno.EINVAL, what, "give a frequency in Hz, or a period")
    kind, config = _event(event)
    links = LinkSet()
    try:
        for where in _places(pid, cpu):
            what = f"perf event {event} of {where.name}"
            try:
                opened = perf.open_sampling(
                    kind,
                    config,
                    frequency=0 if period else frequency,
                    period=period,
                    pid=where.pid,
                    cpu=where.cpu,
                    doing=what,
                )
            except BpfError as error:
                if error.errno == errno.ESRCH and pid is not None and where.pid != pid:
                    continue  # that thread has ended
                _explain(error, kind, frequency if not period else 0, where.cpu)
                raise
            links[where.name] = attach_perf_event(program, opened, cookie=cookie, what=what)
    except BaseException:
        links.close()
        raise
    return links


def _event(name: str) -> tuple[int, int]:
    # (type, config)
    known = perf.EVENTS.get(name)
    if known is not None:
        return known
    config = hexadecimal(name[1:]) if name[:1] == "r" else None
    if config is not None:
        return PerfType.PERF_TYPE_RAW, config
    hint = near(name, perf.EVENTS) or f"there are: {', '.join(perf.EVENTS)}"
    raise BpfError(errno.ENOENT, f"perf event {name!r}", hint)


def _places(pid: int | None, cpu: int | Iterable[int] | None) -> list[_Where]:
    if isinstance(cpu, int):
        cpu = [cpu]
    if pid is None:
        return [
            _Where(-1, one, f"cpu {one}") for one in (cpu_list("online") if cpu is None else cpu)
        ]
    try:
        threads = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        raise BpfError(errno.ESRCH, f"process {pid}", "it has ended, or never was") from None
    cpus = [-1] if cpu is None else list(cpu)
    return [
        _Where(thread, one, f"thread {thread}" + (f" on cpu {one}" if one >= 0 else ""))
        for thread in threads
        for one in cpus
    ]


def _explain(error: BpfError, kind: int, frequency: int, cpu: int) -> None:
    if error.hint:
        return
    online = cpu_list("online")
    if cpu >= 0 and cpu not in online:
        there = ", ".join(map(str, online))
        error.hint = f"the CPU does not exist, or is offline; there are {there}"
        return
    if error.errno in (errno.ENOENT, errno.EOPNOTSUPP) and kind != PerfType.PERF_TYPE_SOFTWARE:
        error.hint = (
            "this machine does not have the event (virtual machines often do not): "
            "cpu-clock works anywhere"
        )
    elif error.errno == errno.EINVAL and frequency:
        error.hint = "perhaps more samples a second than kernel.perf_event_max_sample_rate allows"
