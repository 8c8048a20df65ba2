"""Links: one function per form of BPF_LINK_CREATE, and what can be done with a link.

The functions follow the rules of `pybpf._sys.bpf`.
"""

from __future__ import annotations

import ctypes
from array import array
from errno import EPERM, ERANGE

from .._uapi import structs as s
from .._uapi.defines import BPF_F_REPLACE
from .._uapi.enums import AttachType, Cmd
from ..errors import BpfError
from ..wording import many
from .door import address, bpf, c_string, error, fileno, try_bpf
from .fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .door import HasFileno

__all__ = [
    "iter_create",
    "link_create_anchored",
    "link_create_generic",
    "link_create_iter",
    "link_create_kprobe_multi",
    "link_create_map",
    "link_create_netfilter",
    "link_create_perf_event",
    "link_create_tracing",
    "link_create_tracing_multi",
    "link_create_uprobe_multi",
    "link_detach",
    "link_update",
    "link_update_map",
    "prog_attach",
    "prog_detach",
    "raw_tracepoint_open",
]


def raw_tracepoint_open(prog_fd: int | HasFileno, name: str | None, cookie: int = 0) -> Fd:
    """Call BPF_RAW_TRACEPOINT_OPEN.

    :param name: tracepoint; None if the program was loaded for its target (tp_btf, fentry)
    :param cookie: for bpf_get_attach_cookie (6.10 and newer)
    :raises BpfError: ENOENT if the tracepoint does not exist
    """
    text = b"" if name is None else c_string(name)
    attr = s.RawTracepointOpen(name=address(text), prog_fd=fileno(prog_fd), cookie=cookie)
    fd = bpf(
        Cmd.BPF_RAW_TRACEPOINT_OPEN, attr, doing=f"BPF_RAW_TRACEPOINT_OPEN {name or ''}".strip()
    )
    return Fd(fd, f"link on raw tracepoint {name}" if name else "link")


def _link_create(attr: Any, what: str) -> Fd:
    return Fd(bpf(Cmd.BPF_LINK_CREATE, attr, doing=f"BPF_LINK_CREATE ({what})"), f"{what} link")


def link_create_generic(
    prog_fd: int | HasFileno, target_fd: int | HasFileno, attach_type: int, flags: int = 0
) -> Fd:
    """Call BPF_LINK_CREATE without further arguments: cgroup, netns, xdp, sk_lookup.

    :param target_fd: descriptor, or interface index for XDP
    :param flags: depends on the attach type
    """
    attr = s.LinkCreate(
        prog_fd=fileno(prog_fd), target_fd=fileno(target_fd), attach_type=attach_type, flags=flags
    )
    return _link_create(attr, _attach_name(attach_type))


def link_create_anchored(
    prog_fd: int | HasFileno,
    target: int,
    attach_type: int,
    *,
    flags: int = 0,
    relative: int = 0,
    expected_revision: int = 0,
) -> Fd:
    """Call BPF_LINK_CREATE for tcx, netkit (6.6, 6.7) and cgroups, at a place among others.

    :param target: interface index, or descriptor of a cgroup
    :param flags: BPF_F_BEFORE or BPF_F_AFTER, with BPF_F_ID or BPF_F_LINK to say what `relative` is
    :param relative: descriptor or id of the neighbouring program or link; 0 for the first or last
    :param expected_revision: revision that the list must still have; 0 for any
    """
    attr = s.LinkCreateTcx(prog_fd=fileno(prog_fd), attach_type=attach_type, flags=flags)
    attr.target_fd = target
    attr.tcx.relative_fd, attr.tcx.expected_revision = relative, expected_revision
    return _link_create(attr, _attach_name(attach_type))


def link_create_netfilter(
    prog_fd: int | HasFileno, *, family: int, hook: int, priority: int, flags: int = 0
) -> Fd:
    """Call BPF_LINK_CREATE for a netfilter hook (6.4).

    :param family: ``NFPROTO_IPV4`` 2 or ``NFPROTO_IPV6`` 10
    :param hook: ``NF_INET_*``
    :param priority: lower runs first
    :param flags: BPF_F_NETFILTER_IP_DEFRAG
    """
    attr = s.LinkCreateNetfilter(prog_fd=fileno(prog_fd), attach_type=AttachType.BPF_NETFILTER)
    where = attr.netfilter
    where.pf, where.hooknum, where.priority, where.flags = family, hook, priority, flags
    return _link_create(attr, "BPF_NETFILTER")


def link_create_map(map_fd: int | HasFileno) -> Fd:
    """Call BPF_LINK_CREATE for a struct_ops map with BPF_F_LINK (6.4)."""
    attr = s.LinkCreate(attach_type=AttachType.BPF_STRUCT_OPS)
    attr.map_fd = fileno(map_fd)
    return _link_create(attr, "BPF_STRUCT_OPS")


def link_update_map(
    link_fd: int | HasFileno, map_fd: int | HasFileno, *, old: int | HasFileno | None = None
) -> None:
    """Call BPF_LINK_UPDATE for a struct_ops link, to replace its map (6.4).

    :param old: replace it only if this map is attached (BPF_F_REPLACE)
    """
    attr = s.LinkUpdate(link_fd=fileno(link_fd))
    attr.new_map_fd = fileno(map_fd)
    if old is not None:
        attr.flags, attr.old_map_fd = BPF_F_REPLACE, fileno(old)
    bpf(Cmd.BPF_LINK_UPDATE, attr)


def prog_attach(
    prog_fd: int | HasFileno, target_fd: int | HasFileno, attach_type: int, flags: int = 0
) -> None:
    """Call BPF_PROG_ATTACH: the older way, without a link.

    :param target_fd: descriptor of a cgroup or a map of sockets
    :param flags: BPF_F_ALLOW_OVERRIDE or BPF_F_ALLOW_MULTI on a cgroup
    """
    attr = s.ProgAttach(attach_bpf_fd=fileno(prog_fd), attach_type=attach_type, attach_flags=flags)
    attr.target_fd = fileno(target_fd)
    bpf(Cmd.BPF_PROG_ATTACH, attr, doing=f"BPF_PROG_ATTACH ({_attach_name(attach_type)})")


def prog_detach(prog_fd: int | HasFileno, target_fd: int | HasFileno, attach_type: int) -> None:
    """Call BPF_PROG_DETACH to undo `prog_attach`."""
    attr = s.ProgAttach(attach_bpf_fd=fileno(prog_fd), attach_type=attach_type)
    attr.target_fd = fileno(target_fd)
    bpf(Cmd.BPF_PROG_DETACH, attr, doing=f"BPF_PROG_DETACH ({_attach_name(attach_type)})")


def _attach_name(attach_type: int) -> str:
    try:
        return AttachType(attach_type).name
    except ValueError:
        return f"attach type {attach_type}"


def link_create_tracing(
    prog_fd: int | HasFileno,
    attach_type: int,
    *,
    target_fd: int | HasFileno = 0,
    target_btf_id: int = 0,
    cookie: int = 0,
) -> Fd:
    """Call BPF_LINK_CREATE for fentry, fexit, fmod_ret, fsession, tp_btf, lsm and freplace.

    :param target_fd: another program to attach to than the one it was loaded for
    :param target_btf_id: function in that program
    :raises BpfError: E2BIG if the trampoline is full, EBUSY if the function cannot be patched or
        already runs this program, ENOTSUPP (524) if it has too many argument slots
    """
    attr = s.LinkCreateTracing(
        prog_fd=fileno(prog_fd), target_fd=fileno(target_fd), attach_type=attach_type
    )
    attr.tracing.target_btf_id = target_btf_id
    attr.tracing.cookie = cookie
    return _link_create(attr, _attach_name(attach_type))


def link_create_perf_event(
    prog_fd: int | HasFileno, perf_fd: int | HasFileno, cookie: int = 0
) -> Fd:
    """Call BPF_LINK_CREATE on a perf event: kprobe, uprobe, tracepoint, sampling."""
    attr = s.LinkCreatePerfEvent(
        prog_fd=fileno(prog_fd), target_fd=fileno(perf_fd), attach_type=AttachType.BPF_PERF_EVENT
    )
    attr.perf_event.bpf_cookie = cookie
    return _link_create(attr, "BPF_PERF_EVENT")


def _u64s(values: Sequence[int] | None) -> array[int]:
    if isinstance(values, array) and values.typecode == "Q":
        return values
    try:
        return array("Q", values or ())
    except OverflowError:
        wrong = next(one for one in values or () if not 0 <= one < 1 << 64)
        raise BpfError(ERANGE, f"{wrong} for 64 bits") from None


def link_create_kprobe_multi(
    prog_fd: int | HasFileno,
    *,
    flags: int = 0,
    syms: Sequence[str] | None = None,
    addrs: Sequence[int] | None = None,
    cookies: Sequence[int] | None = None,
    attach_type: int = AttachType.BPF_TRACE_KPROBE_MULTI,
) -> Fd:
    """Call BPF_LINK_CREATE for one program on many functions, through fprobe.

    :param flags: `KprobeMultiFlag`
    :param syms: names
    :param addrs: addresses, instead of names (``array('Q')`` is used as it is)
    :param cookies: ``__u64`` for each, in the same order
    :param attach_type: BPF_TRACE_KPROBE_MULTI or BPF_TRACE_KPROBE_SESSION
    :raises BpfError: EOPNOTSUPP without CONFIG_FPROBE; ESRCH, EINVAL or ENOENT if one function
        cannot be probed
    """
    attr = s.LinkCreateKprobeMulti(prog_fd=fileno(prog_fd), attach_type=attach_type)
    multi = attr.kprobe_multi
    places = _u64s(addrs)
    texts = [c_string(name) for name in syms or ()]
    names = (ctypes.c_char_p * len(texts))(*texts)
    data = _u64s(cookies)
    _same_length(len(texts) or len(places), cookies)
    multi.flags, multi.cnt = flags, len(texts) or len(places)
    multi.syms = ctypes.addressof(names) if texts else 0
    multi.addrs, multi.cookies = address(places), address(data)
    return _link_create(attr, f"{_attach_name(attach_type)}, {many(multi.cnt, 'function')}")


def link_create_uprobe_multi(
    prog_fd: int | HasFileno,
    path: str,
    offsets: Sequence[int],
    *,
    ref_ctr_offsets: Sequence[int] | None = None,
    cookies: Sequence[int] | None = None,
    flags: int = 0,
    pid: int = 0,
    attach_type: int = AttachType.BPF_TRACE_UPROBE_MULTI,
) -> Fd:
    """Call BPF_LINK_CREATE for one program on many places of an executable or library (6.6).

    :param path: path of the file
    :param offsets: bytes from the start of the file
    :param ref_ctr_offsets: file offset of a semaphore for each, in the same order
    :param cookies: ``__u64`` for each, in the same order
    :param flags: `UprobeMultiFlag`
    :param pid: trace only that process; 0 for all
    :param attach_type: BPF_TRACE_UPROBE_MULTI or BPF_TRACE_UPROBE_SESSION
    """
    attr = s.LinkCreateUprobeMulti(prog_fd=fileno(prog_fd), attach_type=attach_type)
    name = c_string(path)
    places, counters, data = _u64s(offsets), _u64s(ref_ctr_offsets), _u64s(cookies)
    _same_length(len(places), ref_ctr_offsets, "semaphore")
    _same_length(len(places), cookies)
    multi = attr.uprobe_multi
    multi.path, multi.offsets, multi.cnt = address(name), address(places), len(places)
    multi.ref_ctr_offsets, multi.cookies = address(counters), address(data)
    multi.flags, multi.pid = flags, pid
    return _link_create(attr, f"{_attach_name(attach_type)}, {many(len(places), 'place')}")


def link_create_tracing_multi(
    prog_fd: int | HasFileno,
    attach_type: int,
    ids: Sequence[int],
    cookies: Sequence[int] | None = None,
) -> Fd:
    """Call BPF_LINK_CREATE for a ``*.multi`` program (7.2 and newer): all functions or none.

    :param attach_type: BPF_TRACE_FENTRY_MULTI, BPF_TRACE_FEXIT_MULTI or BPF_TRACE_FSESSION_MULTI
    :param ids: BTF ids of functions in the BTF the program was loaded for. No two of them may
        have the same address: 7.3 crashes when such a link is closed
    :param cookies: ``__u64`` for each, in the same order
    """
    attr = s.LinkCreateTracingMulti(prog_fd=fileno(prog_fd), attach_type=attach_type)
    numbers, data = array("I", ids), _u64s(cookies)
    _same_length(len(numbers), cookies)
    multi = attr.tracing_multi
    multi.ids, multi.cookies, multi.cnt = address(numbers), address(data), len(numbers)
    return _link_create(attr, f"{_attach_name(attach_type)}, {many(len(numbers), 'function')}")


def _same_length(count: int, values: Sequence[int] | None, what: str = "cookie") -> None:
    # The kernel would read past the end of a shorter array.
    if values is not None and len(values) != count:
        raise ValueError(f"{many(len(values), what)} for {many(count, 'function')}")


def link_create_iter(
    prog_fd: int | HasFileno, *, target: s.IterLinkInfo | None = None, flags: int = 0
) -> Fd:
    """Call BPF_LINK_CREATE for an iterator.

    :param target: ``union bpf_iter_link_info``: the map, cgroup or task to walk
    """
    attr = s.LinkCreateIter(
        prog_fd=fileno(prog_fd), attach_type=AttachType.BPF_TRACE_ITER, flags=flags
    )
    if target is not None:
        attr.iter_info, attr.iter_info_len = ctypes.addressof(target), ctypes.sizeof(target)
    return _link_create(attr, "BPF_TRACE_ITER")


def iter_create(link_fd: int | HasFileno) -> Fd:
    """Call BPF_ITER_CREATE. The descriptor reads once what the iterator writes."""
    return Fd(bpf(Cmd.BPF_ITER_CREATE, s.IterCreate(link_fd=fileno(link_fd))), "iterator")


def link_update(
    link_fd: int | HasFileno,
    new_prog_fd: int | HasFileno,
    *,
    old_prog_fd: int | HasFileno | None = None,
) -> None:
    """Call BPF_LINK_UPDATE: replace the program.

    :param old_prog_fd: replace it only if this program is attached (BPF_F_REPLACE)
    :raises BpfError: EPERM if another one is; EINVAL or EOPNOTSUPP if the link type cannot
    """
    attr = s.LinkUpdate(link_fd=fileno(link_fd), new_prog_fd=fileno(new_prog_fd))
    if old_prog_fd is not None:
        attr.flags, attr.old_prog_fd = BPF_F_REPLACE, fileno(old_prog_fd)
    result = try_bpf(Cmd.BPF_LINK_UPDATE, attr)
    if result == -EPERM and old_prog_fd is not None:
        hint = "the link runs another program, not the given old one"
        raise BpfError(EPERM, "BPF_LINK_UPDATE", hint)
    if result < 0:
        raise error(-result, Cmd.BPF_LINK_UPDATE)


def link_detach(link_fd: int | HasFileno) -> None:
    """Call BPF_LINK_DETACH.

    :raises BpfError: EOPNOTSUPP for types that only detach when closed
    """
    bpf(Cmd.BPF_LINK_DETACH, s.LinkDetach(link_fd=fileno(link_fd)))
