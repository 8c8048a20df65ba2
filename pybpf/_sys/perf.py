"""perf_event_open(2), as far as BPF programs are attached through it.

A kprobe or uprobe is an event of a dynamic PMU. sysfs gives the PMU's number and its bit for
"at return". A tracepoint is an event with the number that tracefs gives.
The event does nothing by itself. A BPF link on it (or `set_bpf`) makes it run
a program.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from contextlib import suppress
from errno import EACCES, EADDRNOTAVAIL, EINTR, EINVAL, ENODEV, ENOENT, EPERM
from functools import cache

from .._uapi.defines import (
    CAP_SYS_ADMIN,
    PERF_EVENT_IOC_ENABLE,
    PERF_EVENT_IOC_SET_BPF,
    PERF_FLAG_FD_CLOEXEC,
    SYS_PERF_EVENT_OPEN,
)
from .._uapi.perf import PerfBranch, PerfEventAttr, PerfHw, PerfSample, PerfSw, PerfType
from ..errors import BpfError, DeniedByPolicy, UnsupportedFeature
from .denied import PERF_EVENT_OPEN, denied
from .door import address, c_string, fileno, syscall
from .fd import Fd
from .files import MOUNT_TRACEFS, is_one_name, tracefs_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .door import HasFileno

__all__ = [
    "EVENTS",
    "enable",
    "is_shared_name",
    "open_bpf_output",
    "open_branches",
    "open_kprobe",
    "open_sampling",
    "open_tracepoint",
    "open_uprobe",
    "perf_event_open",
    "pmu",
    "set_bpf",
    "tracepoint_categories",
    "tracepoint_id",
    "tracepoint_names",
]

_PMUS = "/sys/bus/event_source/devices"
# Upper half of config of a uprobe: PERF_UPROBE_REF_CTR_OFFSET_SHIFT, kernel/events/core.c.
_REF_CTR_SHIFT = _REF_CTR_BITS = 32
# Bytes from a kernel symbol to a place below all kernel addresses: kernels are in the upper 2 GiB.
_NOWHERE = 0x7FFFFFFF


def perf_event_open(
    attr: PerfEventAttr,
    *,
    pid: int = -1,
    cpu: int = -1,
    group_fd: int = -1,
    doing: str = "",
    needs: tuple[int, ...] = (),
) -> Fd:
    """Call perf_event_open(2), with close-on-exec.

    :param pid: process, or -1 for all
    :param cpu: CPU, or -1 for all (`pid` must then name a process)
    :param needs: ``CAP_*`` numbers that it requires, if not CAP_PERFMON
    :raises DeniedByPolicy: EPERM or EACCES
    """
    attr.size = ctypes.sizeof(attr)
    fd = -EINTR
    while fd == -EINTR:  # a signal came while it waited for an exec of `pid`
        fd = syscall(
            SYS_PERF_EVENT_OPEN, ctypes.addressof(attr), pid, cpu, group_fd, PERF_FLAG_FD_CLOEXEC
        )
    if fd >= 0:
        return Fd(fd, doing or "perf event")
    errno = -fd
    doing = f"perf_event_open {doing}".strip()
    if errno in (EPERM, EACCES):
        raise denied(errno, doing, PERF_EVENT_OPEN, needs)
    raise BpfError(errno, doing)


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)


@cache
def pmu(name: str) -> tuple[int, int]:
    """Find the number of a dynamic PMU (constant after boot), and its config bit for "at return".

    :param name: ``kprobe`` or ``uprobe``
    :raises UnsupportedFeature: if the kernel lacks that PMU
    """
    try:
        number = int(_read(f"{_PMUS}/{name}/type"))
        # "config:0" is the bit for "at return".
        form = _read(f"{_PMUS}/{name}/format/retprobe")
    except FileNotFoundError:
        hint = f"no {_PMUS}/{name}: the kernel has no CONFIG_{name.upper()}_EVENTS"
        if not os.path.isdir(_PMUS):
            hint = f"{_PMUS} is missing: sysfs is not mounted; try: mount -t sysfs sysfs /sys"
        raise UnsupportedFeature(f"the {name} PMU", "4.17", hint) from None
    return number, 1 << int(form.rpartition(":")[2])


def open_kprobe(function: str | None, offset_or_address: int = 0, *, retprobe: bool = False) -> Fd:
    """Open an event for one kprobe, on all CPUs.

    :param function: symbol name, or None
    :param offset_or_address: bytes from its start; without a function, the absolute address
    :param retprobe: probe the return instead of that place
    :raises BpfError: ENOENT for an unknown name, EINVAL for a place that must not be probed,
        EADDRNOTAVAIL for a name that several functions share
    """
    kind, at_return = pmu("kprobe")
    name = b"" if function is None else c_string(function)
    attr = PerfEventAttr(type=kind, config=at_return if retprobe else 0)
    attr.kprobe_func, attr.kprobe_addr = address(name), offset_or_address
    place = hex(offset_or_address) if function is None else function
    what = f"{'kretprobe' if retprobe else 'kprobe'} {place}"
    return perf_event_open(attr, cpu=0, doing=what)


def is_shared_name(function: str) -> bool:
    """Tell whether several kernel symbols have a name, as the kernel counts them for kprobes (6.6).

    Nothing is probed. The place is so far from the symbol that no code is there.

    :returns: False as well if no symbol has the name, or the kernel does not count
    :raises DeniedByPolicy: without CAP_PERFMON
    :raises UnsupportedFeature: if the kernel has no kprobes for perf
    """
    name = c_string(function)
    attr = PerfEventAttr(type=pmu("kprobe")[0])
    attr.kprobe_func, attr.probe_offset = address(name), _NOWHERE
    try:
        perf_event_open(attr, cpu=0, doing=f"kprobe {function}+{_NOWHERE:#x}").close()
    except DeniedByPolicy:
        raise
    except BpfError as refusal:
        return refusal.errno == EADDRNOTAVAIL
    return True  # cannot be: then nothing is known of the name


def open_uprobe(
    path: str,
    offset: int,
    *,
    pid: int = -1,
    retprobe: bool = False,
    ref_ctr_offset: int = 0,
) -> Fd:
    """Open an event for one uprobe.

    :param path: executable or shared library
    :param offset: bytes from the start of that file
    :param pid: trace only this process, -1 for all
    :param ref_ctr_offset: file offset of a USDT semaphore, 0 for none
    :raises BpfError: EINVAL also if it does not fit the 32 bits that the event has for it
    """
    kind, at_return = pmu("uprobe")
    if not 0 <= ref_ctr_offset < 1 << _REF_CTR_BITS:
        what = f"semaphore at {ref_ctr_offset:#x} of {path}"
        raise BpfError(EINVAL, what, "a uprobe takes a place in the first 4 GiB of a file")
    config = at_return if retprobe else 0
    name = c_string(path)
    attr = PerfEventAttr(type=kind, config=config | ref_ctr_offset << _REF_CTR_SHIFT)
    attr.uprobe_path, attr.probe_offset = address(name), offset
    what = f"{'uretprobe' if retprobe else 'uprobe'} {path}+{offset:#x}"
    # perf_uprobe_event_init() of 6.12 takes CAP_SYS_ADMIN, not CAP_PERFMON.
    needs = (CAP_SYS_ADMIN,)
    return perf_event_open(attr, pid=pid, cpu=0 if pid == -1 else -1, doing=what, needs=needs)


def tracepoint_id(category: str, name: str) -> int:
    """Read the number of a tracepoint from tracefs.

    :raises BpfError: ENOENT if it does not exist, or tracefs is not mounted; DeniedByPolicy if
        it may not be read
    """
    doing = f"tracepoint {category}:{name}"
    if not is_one_name(category) or not is_one_name(name):
        raise BpfError(ENOENT, doing, "category and name must be plain names, without a slash")
    mounted = False
    for root in tracefs_directories():
        try:
            return int(_read(f"{root}/events/{category}/{name}/id"))
        except FileNotFoundError:
            mounted = mounted or os.path.isdir(f"{root}/events")
        except PermissionError as refusal:
            from .lockdown import read_hint

            hint = read_hint("root only: tracefs is mode 700")
            raise DeniedByPolicy(refusal.errno or EACCES, doing, hint) from None
    if not mounted:
        raise BpfError(ENOENT, doing, f"tracefs is not mounted; try: {MOUNT_TRACEFS}")
    raise BpfError(ENOENT, doing, "there is no such tracepoint")


def tracepoint_categories() -> list[str]:
    """List the categories of tracepoints in tracefs. Empty if it cannot be read."""
    return _listed("")


def tracepoint_names(category: str) -> list[str]:
    """List the tracepoints of one category in tracefs. Empty if it cannot be read."""
    return _listed(category)


def _listed(category: str) -> list[str]:
    with suppress(OSError):
        for root in tracefs_directories():
            with suppress(OSError), os.scandir(f"{root}/events/{category}") as found:
                return sorted(entry.name for entry in found if entry.is_dir())
    return []


def open_tracepoint(category: str, name: str) -> Fd:
    """Open an event for a static tracepoint, on all CPUs.

    :raises BpfError: ENOENT if the tracepoint does not exist
    """
    attr = PerfEventAttr(
        type=PerfType.PERF_TYPE_TRACEPOINT, config=tracepoint_id(category, name), sample_period=1
    )
    attr.sample_type, attr.wakeup_events = PerfSample.PERF_SAMPLE_RAW, 1
    return perf_event_open(attr, cpu=0, doing=f"tracepoint {category}:{name}")


#: Names of events for `open_sampling`, as in ``perf list`` -> (``type``, ``config``).
EVENTS = {
    **{
        member.name.removeprefix("PERF_COUNT_SW_").lower().replace("_", "-"): (
            int(PerfType.PERF_TYPE_SOFTWARE),
            int(member),
        )
        for member in PerfSw
        if member not in (PerfSw.PERF_COUNT_SW_DUMMY, PerfSw.PERF_COUNT_SW_BPF_OUTPUT)
    },
    "minor-faults": (int(PerfType.PERF_TYPE_SOFTWARE), int(PerfSw.PERF_COUNT_SW_PAGE_FAULTS_MIN)),
    "major-faults": (int(PerfType.PERF_TYPE_SOFTWARE), int(PerfSw.PERF_COUNT_SW_PAGE_FAULTS_MAJ)),
    **{
        member.name.removeprefix("PERF_COUNT_HW_").lower().replace("_", "-"): (
            int(PerfType.PERF_TYPE_HARDWARE),
            int(member),
        )
        for member in PerfHw
    },
    "cycles": (int(PerfType.PERF_TYPE_HARDWARE), int(PerfHw.PERF_COUNT_HW_CPU_CYCLES)),
    "branches": (int(PerfType.PERF_TYPE_HARDWARE), int(PerfHw.PERF_COUNT_HW_BRANCH_INSTRUCTIONS)),
}


def open_sampling(
    kind: int,
    config: int,
    *,
    frequency: int = 0,
    period: int = 0,
    pid: int = -1,
    cpu: int = -1,
    doing: str = "",
) -> Fd:
    """Open an event that repeats, with one sample in each period.

    :param kind: ``enum perf_type_id``
    :param config: which event of that type
    :param frequency: samples per second; the kernel adapts the period
    :param period: events between two samples (ns for clocks), instead of `frequency`
    :param pid: thread, or -1 for all on `cpu`
    :param cpu: CPU, or -1 for the one that the thread is on
    :raises BpfError: ENOENT or EOPNOTSUPP if the machine lacks that event, EINVAL for a
        frequency above ``kernel.perf_event_max_sample_rate``, ESRCH if the thread does not exist
    """
    attr = PerfEventAttr(type=kind, config=config)
    if frequency:
        attr.freq, attr.sample_freq = 1, frequency
    else:
        attr.sample_period = period
    return perf_event_open(attr, pid=pid, cpu=cpu, doing=doing)


def open_bpf_output(cpu: int, *, wakeup_events: int = 1) -> Fd:
    """Open the event that bpf_perf_event_output writes samples to, for one CPU.

    :param wakeup_events: samples before a reader is woken
    """
    attr = PerfEventAttr(
        type=PerfType.PERF_TYPE_SOFTWARE,
        config=PerfSw.PERF_COUNT_SW_BPF_OUTPUT,
        sample_type=PerfSample.PERF_SAMPLE_RAW,
        sample_period=1,
        wakeup_events=wakeup_events,
    )
    return perf_event_open(attr, cpu=cpu, doing=f"BPF output on CPU {cpu}")


def open_branches(cpu: int, kinds: int) -> Fd:
    """An event that has the hardware of one CPU record branches of the kernel, while it is open.

    :param kinds: ``enum perf_branch_sample_type``: which branches
    :raises BpfError: ENOENT, EOPNOTSUPP or EINVAL if the machine records none of these
    """
    attr = PerfEventAttr(
        type=PerfType.PERF_TYPE_HARDWARE,
        config=PerfHw.PERF_COUNT_HW_CPU_CYCLES,
        sample_type=PerfSample.PERF_SAMPLE_BRANCH_STACK,
        branch_sample_type=kinds | PerfBranch.PERF_SAMPLE_BRANCH_KERNEL,
    )
    return perf_event_open(attr, cpu=cpu, doing=f"branch records of CPU {cpu}")


def _ioctl(fd: int | HasFileno, request: int, argument: int, name: str) -> None:
    while True:
        try:
            fcntl.ioctl(fileno(fd), request, argument)
        except InterruptedError:
            continue
        except OSError as refusal:
            errno = refusal.errno or ENODEV
            if errno in (EPERM, EACCES):
                raise denied(errno, name, PERF_EVENT_OPEN) from None
            raise BpfError(errno, name) from None
        return


def set_bpf(fd: int | HasFileno, prog_fd: int | HasFileno) -> None:
    """Have the event run a program until the event is closed (PERF_EVENT_IOC_SET_BPF).

    A link (BPF_LINK_CREATE) does the same and can be inspected, so it is better.
    """
    _ioctl(fd, PERF_EVENT_IOC_SET_BPF, fileno(prog_fd), "PERF_EVENT_IOC_SET_BPF")


def enable(fd: int | HasFileno) -> None:
    """Call PERF_EVENT_IOC_ENABLE."""
    _ioctl(fd, PERF_EVENT_IOC_ENABLE, 0, "PERF_EVENT_IOC_ENABLE")
