"""bpf(2), one function per command.

Each function builds the command's own attr and its buffers as locals and calls
the door (`pybpf._sys.door`) in the same frame, so nothing the kernel reads or
writes can be collected meanwhile. Descriptors come back as `Fd`, which owns
them (the kernel makes them close-on-exec); where one is taken, an int or
anything with ``fileno()`` will do. Refusals are `BpfError`.
"""

from __future__ import annotations

import ctypes
from array import array
from errno import EAGAIN, EINVAL, EMFILE, ENFILE, ENOENT, ENOSPC
from typing import NamedTuple

from pybpf._sys.door import address, bpf, bpf_common, error, fileno, tail, try_bpf
from pybpf._sys.fd import Fd
from pybpf._sys.info import (
    BtfInfo,
    LinkInfo,
    MapInfo,
    ProgInfo,
    btf_info,
    link_info,
    map_info,
    prog_info,
)
from pybpf._uapi import structs as s
from pybpf._uapi.defines import BPF_OBJ_NAME_LEN
from pybpf._uapi.enums import AttachType, Cmd
from pybpf.errors import BpfError, VerifierError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from _typeshed import ReadableBuffer as Buffer

    from pybpf._sys.door import HasFileno

__all__ = [
    "BtfInfo",
    "Fd",
    "LinkInfo",
    "MapInfo",
    "ProgInfo",
    "RunOutput",
    "bpf",
    "btf_info",
    "btf_load",
    "enable_stats",
    "get_fd_by_id",
    "get_next_id",
    "ids",
    "iter_create",
    "link_create_generic",
    "link_create_iter",
    "link_create_kprobe_multi",
    "link_create_perf_event",
    "link_create_tracing",
    "link_create_tracing_multi",
    "link_detach",
    "link_info",
    "link_update",
    "map_batch",
    "map_create",
    "map_delete_elem",
    "map_freeze",
    "map_get_next_key",
    "map_info",
    "map_lookup_and_delete_elem",
    "map_lookup_elem",
    "map_update_elem",
    "obj_get",
    "obj_pin",
    "prog_bind_map",
    "prog_info",
    "prog_load",
    "prog_test_run",
    "raw_tracepoint_open",
]

# BPF_PROG_LOAD says EAGAIN when a signal came during verification; libbpf gives up after as many.
_LOAD_ATTEMPTS = 5
# The kernel takes logs of up to UINT_MAX / 4 bytes; a reader of more than this does not exist.
_LOG_FIRST = 1 << 16
_LOG_MOST = 1 << 27


def _name(name: str) -> bytes:
    # What fits into an object name with its final 0.
    return name.encode()[: BPF_OBJ_NAME_LEN - 1]


# -- maps


def map_create(
    map_type: int,
    *,
    key_size: int,
    value_size: int,
    max_entries: int,
    name: str = "",
    map_flags: int = 0,
    inner_map_fd: int | HasFileno = 0,
    numa_node: int = 0,
    btf_fd: int | HasFileno = 0,
    btf_key_type_id: int = 0,
    btf_value_type_id: int = 0,
    map_extra: int = 0,
    map_ifindex: int = 0,
    btf_vmlinux_value_type_id: int = 0,
) -> Fd:
    """BPF_MAP_CREATE.

    :param map_type: ``enum bpf_map_type``
    :param key_size: bytes
    :param value_size: bytes
    :param name: cut to 15 bytes
    :raises BpfError: refused; the hint has the kernel's words where it gives any (7.x)
    """
    attr = s.MapCreate(
        map_type=map_type,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        map_flags=map_flags,
        inner_map_fd=fileno(inner_map_fd),
        numa_node=numa_node,
        map_name=_name(name),
        map_ifindex=map_ifindex,
        btf_fd=fileno(btf_fd),
        btf_key_type_id=btf_key_type_id,
        btf_value_type_id=btf_value_type_id,
        btf_vmlinux_value_type_id=btf_vmlinux_value_type_id,
        map_extra=map_extra,
    )
    result = try_bpf(Cmd.BPF_MAP_CREATE, attr)
    if result >= 0:
        return Fd(result, f"map {name!r}")
    refusal = error(-result, Cmd.BPF_MAP_CREATE, f"BPF_MAP_CREATE {name!r}")
    if result == -EINVAL:
        # A kernel that has no BPF_COMMON_ATTRS says EINVAL again, and nothing.
        log = bytearray(1024)
        common = s.CommonAttr(log_buf=address(log), log_size=len(log), log_level=1)
        result = bpf_common(Cmd.BPF_MAP_CREATE, attr, common)
        if result >= 0:
            return Fd(result, f"map {name!r}")
        refusal.hint = tail(_text(log))
    raise refusal


def map_lookup_elem(fd: int | HasFileno, key: Buffer, value: Buffer, flags: int = 0) -> None:
    """BPF_MAP_LOOKUP_ELEM into `value`, which must be writable and of the full size.

    :raises BpfError: ENOENT if there is no such key
    """
    attr = s.MapElem(map_fd=fileno(fd), key=address(key), value=address(value), flags=flags)
    bpf(Cmd.BPF_MAP_LOOKUP_ELEM, attr)


def map_update_elem(fd: int | HasFileno, key: Buffer, value: Buffer, flags: int = 0) -> None:
    """BPF_MAP_UPDATE_ELEM; `flags` as in ``enum`` `ElemFlag`.

    :raises BpfError: E2BIG if the map is full, EEXIST and ENOENT by flags
    """
    attr = s.MapElem(map_fd=fileno(fd), key=address(key), value=address(value), flags=flags)
    bpf(Cmd.BPF_MAP_UPDATE_ELEM, attr)


def map_delete_elem(fd: int | HasFileno, key: Buffer) -> None:
    """BPF_MAP_DELETE_ELEM.

    :raises BpfError: ENOENT if there is no such key
    """
    bpf(Cmd.BPF_MAP_DELETE_ELEM, s.MapElem(map_fd=fileno(fd), key=address(key)))


def map_get_next_key(fd: int | HasFileno, key: Buffer | None, next_key: Buffer) -> bool:
    """BPF_MAP_GET_NEXT_KEY into `next_key`; False when `key` was the last.

    :param key: None for the first
    """
    attr = s.MapElem(map_fd=fileno(fd), key=address(key), next_key=address(next_key))
    result = try_bpf(Cmd.BPF_MAP_GET_NEXT_KEY, attr)
    if result == -ENOENT:
        return False
    if result < 0:
        raise error(-result, Cmd.BPF_MAP_GET_NEXT_KEY)
    return True


def map_lookup_and_delete_elem(
    fd: int | HasFileno, key: Buffer | None, value: Buffer, flags: int = 0
) -> None:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM; `key` None for queues and stacks.

    :raises BpfError: ENOENT if there is nothing
    """
    attr = s.MapElem(map_fd=fileno(fd), key=address(key), value=address(value), flags=flags)
    bpf(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, attr)


def map_batch(
    cmd: int,
    fd: int | HasFileno,
    *,
    count: int,
    keys: Buffer,
    values: Buffer | None = None,
    in_batch: Buffer | None = None,
    out_batch: Buffer | None = None,
    elem_flags: int = 0,
) -> tuple[int, bool]:
    """One of the ``BPF_MAP_*_BATCH`` commands.

    :param count: entries in (room in) `keys` and `values`
    :param in_batch: the kernel's opaque position, None to start
    :param out_batch: where it writes the next one
    :returns: entries done, and whether the map's end was reached (ENOENT)
    """
    attr = s.MapBatch(
        in_batch=address(in_batch),
        out_batch=address(out_batch),
        keys=address(keys),
        values=address(values),
        count=count,
        map_fd=fileno(fd),
        elem_flags=elem_flags,
    )
    result = try_bpf(cmd, attr)
    if result < 0 and result != -ENOENT:
        raise error(-result, cmd)
    return attr.count, result < 0


def map_freeze(fd: int | HasFileno) -> None:
    """BPF_MAP_FREEZE: no more writes from user space.

    :raises BpfError: EBUSY if it is frozen already or mapped writable
    """
    bpf(Cmd.BPF_MAP_FREEZE, s.MapElem(map_fd=fileno(fd)))


# -- programs


def prog_load(
    prog_type: int,
    insns: bytes,
    *,
    license: str = "GPL",
    name: str = "",
    expected_attach_type: int = 0,
    prog_flags: int = 0,
    kern_version: int = 0,
    attach_btf_id: int = 0,
    attach_btf_obj_fd: int | HasFileno = 0,
    attach_prog_fd: int | HasFileno = 0,
    prog_btf_fd: int | HasFileno = 0,
    func_info: bytes = b"",
    func_info_rec_size: int = 0,
    line_info: bytes = b"",
    line_info_rec_size: int = 0,
    fd_array: Sequence[int] = (),
    prog_ifindex: int = 0,
    log_level: int = 0,
    on_log: Callable[[str], object] | None = None,
) -> Fd:
    """BPF_PROG_LOAD, quietly; the verifier is asked for its log when it refused.

    :param prog_type: ``enum bpf_prog_type``
    :param insns: packed ``struct bpf_insn``
    :param name: cut to 15 bytes
    :param expected_attach_type: ``enum bpf_attach_type``
    :param func_info: packed ``struct bpf_func_info`` of `func_info_rec_size` bytes each
    :param line_info: packed ``struct bpf_line_info`` likewise
    :param fd_array: descriptors that instructions refer to by index
    :param log_level: ``BPF_LOG_*``, to have a log of a load that succeeds
    :param on_log: called with that log
    :raises VerifierError: the verifier refused
    :raises DeniedByPolicy: EPERM or EACCES before the verifier said anything
    :raises BpfError: refused for another reason, which the hint guesses
    """
    fds = array("i", fd_array)
    license_text = license.encode() + b"\0"
    attr = s.ProgLoad(
        prog_type=prog_type,
        insn_cnt=len(insns) // 8,
        insns=address(insns),
        license=address(license_text),
        prog_flags=prog_flags,
        kern_version=kern_version,
        prog_name=_name(name),
        prog_ifindex=prog_ifindex,
        expected_attach_type=expected_attach_type,
        prog_btf_fd=fileno(prog_btf_fd),
        func_info_rec_size=func_info_rec_size,
        func_info=address(func_info),
        func_info_cnt=len(func_info) // func_info_rec_size if func_info_rec_size else 0,
        line_info_rec_size=line_info_rec_size,
        line_info=address(line_info),
        line_info_cnt=len(line_info) // line_info_rec_size if line_info_rec_size else 0,
        attach_btf_id=attach_btf_id,
        attach_prog_fd=fileno(attach_prog_fd) or fileno(attach_btf_obj_fd),
        fd_array=address(fds),
    )
    log, truncated = "", False
    if log_level:
        result, log, truncated = _load_with_log(attr, log_level)
    else:
        result = _load(attr)
    errno = max(-result, 0)
    if errno in (EMFILE, ENFILE):
        # Not the program's fault, so no log; and no file is left to import a module from.
        raise error(errno, Cmd.BPF_PROG_LOAD, f"BPF_PROG_LOAD {name!r}")
    if errno and not log_level:
        # The refusal that counts is the first: a log that does not fit is one of its own.
        result, log, truncated = _load_with_log(attr, 1)
    if result >= 0:
        if on_log is not None and log:
            on_log(log)
        return Fd(result, f"program {name!r}")
    from pybpf._sys.verifier import said_something, summary

    if said_something(log):
        raise VerifierError(errno, name, log, summary(log), truncated)
    from pybpf._sys.denied import load_hint, program_needs

    refusal = error(
        errno, Cmd.BPF_PROG_LOAD, f"BPF_PROG_LOAD {name!r}", needs=program_needs(prog_type)
    )
    refusal.hint = refusal.hint or load_hint(errno, attr.insn_cnt, attach_btf_id)
    raise refusal


def _load(attr: s.ProgLoad) -> int:
    for _ in range(_LOAD_ATTEMPTS):
        result = try_bpf(Cmd.BPF_PROG_LOAD, attr)
        if result != -EAGAIN:
            break
    return result


def _load_with_log(attr: s.ProgLoad, level: int) -> tuple[int, str, bool]:
    # Result, log, and whether some of it is missing. Grows the buffer until the log fits.
    size = _LOG_FIRST
    while True:
        log = bytearray(size)
        attr.log_level, attr.log_size, attr.log_buf = level, size, address(log)
        attr.log_true_size = 0
        result = _load(attr)
        full = result == -ENOSPC
        if not full or size >= _LOG_MOST:
            return result, _text(log), full
        # 6.4 and newer say how much it takes; before, guess.
        size = min(max(attr.log_true_size, 4 * size), _LOG_MOST)


def _text(log: bytearray) -> str:
    end = log.find(0)
    return log[: end if end >= 0 else len(log)].decode(errors="replace")


class RunOutput(NamedTuple):
    """What BPF_PROG_TEST_RUN gave back.

    :ivar retval: ``__u32``, what the program returned
    :ivar duration: mean time of one run, ns
    :ivar data_out: packet after the run
    :ivar ctx_out: context after the run
    """

    retval: int
    duration: int
    data_out: bytes
    ctx_out: bytes


def prog_test_run(
    fd: int | HasFileno,
    *,
    data_in: bytes | None = None,
    data_out_size: int = 0,
    ctx_in: bytes | None = None,
    ctx_out_size: int = 0,
    repeat: int = 0,
    flags: int = 0,
    cpu: int = 0,
    batch_size: int = 0,
) -> RunOutput:
    """BPF_PROG_TEST_RUN.

    :param data_in: packet
    :param data_out_size: bytes of room for the packet afterwards; more than it needs is fine
    :param ctx_in: context struct
    :param ctx_out_size: bytes of room for the context afterwards. BPF_PROG_TYPE_SYSCALL
        takes none: it changes the context in place, which is returned as ``ctx_out``
    :param repeat: runs; types that run once only take 0 and 1
    :raises BpfError: ENOTSUPP (524) if the type cannot be run so, EINVAL for a combination it
        does not take, ENOSPC if an output did not fit
    """
    data, ctx = bytearray(data_in or b""), bytearray(ctx_in or b"")
    data_out, ctx_out = bytearray(data_out_size), bytearray(ctx_out_size)
    attr = s.ProgTestRun(
        prog_fd=fileno(fd),
        data_size_in=len(data),
        data_size_out=data_out_size,
        data_in=address(data),
        data_out=address(data_out),
        # 0 means once to every type, and some refuse any other number.
        repeat=repeat if repeat > 1 else 0,
        ctx_size_in=len(ctx),
        ctx_size_out=ctx_out_size,
        ctx_in=address(ctx),
        ctx_out=address(ctx_out),
        flags=flags,
        cpu=cpu,
        batch_size=batch_size,
    )
    bpf(Cmd.BPF_PROG_TEST_RUN, attr)
    return RunOutput(
        attr.retval,
        attr.duration,
        bytes(data_out[: attr.data_size_out]),
        bytes(ctx_out[: attr.ctx_size_out] if ctx_out_size else ctx),
    )


def prog_bind_map(prog_fd: int | HasFileno, map_fd: int | HasFileno) -> None:
    """BPF_PROG_BIND_MAP: the program keeps the map alive though it does not use it."""
    bpf(Cmd.BPF_PROG_BIND_MAP, s.ProgBindMap(prog_fd=fileno(prog_fd), map_fd=fileno(map_fd)))


# -- BTF


def btf_load(data: bytes) -> Fd:
    """BPF_BTF_LOAD.

    :raises BpfError: refused; the hint ends with the kernel's own words
    """
    attr = s.BtfLoad(btf=address(data), btf_size=len(data))
    result = try_bpf(Cmd.BPF_BTF_LOAD, attr)
    if result >= 0:
        return Fd(result, "BTF object")
    refusal = error(-result, Cmd.BPF_BTF_LOAD)
    log = bytearray(1 << 16)
    while True:
        attr.btf_log_buf, attr.btf_log_size, attr.btf_log_level = address(log), len(log), 1
        result = try_bpf(Cmd.BPF_BTF_LOAD, attr)
        if result != -ENOSPC or len(log) >= _LOG_MOST:
            break
        log = bytearray(4 * len(log))
    if result >= 0:
        return Fd(result, "BTF object")
    refusal.hint = refusal.hint or tail(_text(log))
    raise refusal


# -- links


def raw_tracepoint_open(prog_fd: int | HasFileno, name: str | None, cookie: int = 0) -> Fd:
    """BPF_RAW_TRACEPOINT_OPEN.

    :param name: tracepoint; None if the program was loaded for its target (tp_btf, fentry)
    :param cookie: for bpf_get_attach_cookie (6.10 and newer)
    :raises BpfError: ENOENT if there is no such tracepoint
    """
    text = b"" if name is None else name.encode() + b"\0"
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
    """BPF_LINK_CREATE without anything more: cgroup, netns, xdp, sk_lookup.

    :param target_fd: descriptor, or interface index for XDP
    :param flags: depends on the attach type
    """
    attr = s.LinkCreate(
        prog_fd=fileno(prog_fd), target_fd=fileno(target_fd), attach_type=attach_type, flags=flags
    )
    return _link_create(attr, _attach_name(attach_type))


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
    """BPF_LINK_CREATE of fentry, fexit, fmod_ret, fsession, tp_btf, lsm and freplace.

    :param target_fd: another program to attach to than the one it was loaded for
    :param target_btf_id: function in that program
    :raises BpfError: E2BIG if the trampoline is full, EBUSY if the function cannot be patched or
        runs this program already, ENOTSUPP (524) if it has too many argument slots
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
    """BPF_LINK_CREATE on a perf event: kprobe, uprobe, tracepoint, sampling."""
    attr = s.LinkCreatePerfEvent(
        prog_fd=fileno(prog_fd), target_fd=fileno(perf_fd), attach_type=AttachType.BPF_PERF_EVENT
    )
    attr.perf_event.bpf_cookie = cookie
    return _link_create(attr, "BPF_PERF_EVENT")


def _u64s(values: Sequence[int] | None) -> array[int]:
    if isinstance(values, array) and values.typecode == "Q":
        return values
    return array("Q", values or ())


def link_create_kprobe_multi(
    prog_fd: int | HasFileno,
    *,
    flags: int = 0,
    syms: Sequence[str] | None = None,
    addrs: Sequence[int] | None = None,
    cookies: Sequence[int] | None = None,
    attach_type: int = AttachType.BPF_TRACE_KPROBE_MULTI,
) -> Fd:
    """BPF_LINK_CREATE of one program on many functions, through fprobe.

    :param flags: `KprobeMultiFlag`
    :param syms: names, or
    :param addrs: addresses (``array('Q')`` is taken as it is)
    :param cookies: ``__u64`` for each, in the same order
    :param attach_type: BPF_TRACE_KPROBE_MULTI or BPF_TRACE_KPROBE_SESSION
    :raises BpfError: EOPNOTSUPP without CONFIG_FPROBE; ESRCH, EINVAL or ENOENT if one function
        cannot be probed
    """
    attr = s.LinkCreateKprobeMulti(prog_fd=fileno(prog_fd), attach_type=attach_type)
    multi = attr.kprobe_multi
    places = _u64s(addrs)
    texts = [name.encode() for name in syms or ()]
    names = (ctypes.c_char_p * len(texts))(*texts)
    data = _u64s(cookies)
    _same_length(len(texts) or len(places), cookies)
    multi.flags, multi.cnt = flags, len(texts) or len(places)
    multi.syms = ctypes.addressof(names) if texts else 0
    multi.addrs, multi.cookies = address(places), address(data)
    return _link_create(attr, f"{_attach_name(attach_type)}, {multi.cnt} functions")


def link_create_tracing_multi(
    prog_fd: int | HasFileno,
    attach_type: int,
    ids: Sequence[int],
    cookies: Sequence[int] | None = None,
) -> Fd:
    """BPF_LINK_CREATE of a ``*.multi`` program (7.2 and newer): all functions or none.

    :param attach_type: BPF_TRACE_FENTRY_MULTI, BPF_TRACE_FEXIT_MULTI or BPF_TRACE_FSESSION_MULTI
    :param ids: BTF ids of functions in the BTF the program was loaded for. No two of them may
        have one address: 7.3 crashes when such a link is closed
    :param cookies: ``__u64`` for each, in the same order
    """
    attr = s.LinkCreateTracingMulti(prog_fd=fileno(prog_fd), attach_type=attach_type)
    numbers, data = array("I", ids), _u64s(cookies)
    _same_length(len(numbers), cookies)
    multi = attr.tracing_multi
    multi.ids, multi.cookies, multi.cnt = address(numbers), address(data), len(numbers)
    return _link_create(attr, f"{_attach_name(attach_type)}, {len(numbers)} functions")


def _same_length(count: int, cookies: Sequence[int] | None) -> None:
    # The kernel would read past the end of a shorter array.
    if cookies is not None and len(cookies) != count:
        raise ValueError(f"{len(cookies)} cookies for {count} functions")


def link_create_iter(
    prog_fd: int | HasFileno, *, target: s.IterLinkInfo | None = None, flags: int = 0
) -> Fd:
    """BPF_LINK_CREATE of an iterator.

    :param target: ``union bpf_iter_link_info``: the map, cgroup or task to walk
    """
    attr = s.LinkCreateIter(
        prog_fd=fileno(prog_fd), attach_type=AttachType.BPF_TRACE_ITER, flags=flags
    )
    if target is not None:
        attr.iter_info, attr.iter_info_len = ctypes.addressof(target), ctypes.sizeof(target)
    return _link_create(attr, "BPF_TRACE_ITER")


def iter_create(link_fd: int | HasFileno) -> Fd:
    """BPF_ITER_CREATE: a descriptor to read what the iterator writes, once."""
    return Fd(bpf(Cmd.BPF_ITER_CREATE, s.IterCreate(link_fd=fileno(link_fd))), "iterator")


def link_update(
    link_fd: int | HasFileno,
    new_prog_fd: int | HasFileno,
    *,
    old_prog_fd: int | HasFileno | None = None,
) -> None:
    """BPF_LINK_UPDATE: replace the program.

    :param old_prog_fd: only if it is this one that is attached (BPF_F_REPLACE)
    :raises BpfError: EPERM if it is another; EINVAL or EOPNOTSUPP if the type cannot
    """
    attr = s.LinkUpdate(link_fd=fileno(link_fd), new_prog_fd=fileno(new_prog_fd))
    if old_prog_fd is not None:
        attr.flags, attr.old_prog_fd = 1 << 2, fileno(old_prog_fd)  # BPF_F_REPLACE
    result = try_bpf(Cmd.BPF_LINK_UPDATE, attr)
    if result == -1 and old_prog_fd is not None:
        raise BpfError(1, "BPF_LINK_UPDATE", "the link runs another program than the old one given")
    if result < 0:
        raise error(-result, Cmd.BPF_LINK_UPDATE)


def link_detach(link_fd: int | HasFileno) -> None:
    """BPF_LINK_DETACH.

    :raises BpfError: EOPNOTSUPP for types that only detach when closed
    """
    bpf(Cmd.BPF_LINK_DETACH, s.LinkDetach(link_fd=fileno(link_fd)))


# -- objects of any kind


def obj_pin(fd: int | HasFileno, path: str) -> None:
    """BPF_OBJ_PIN: give a program, map or link a path in a bpf file system."""
    _obj(Cmd.BPF_OBJ_PIN, path, fileno(fd), 0)


def obj_get(path: str, *, file_flags: int = 0) -> Fd:
    """BPF_OBJ_GET: open what was pinned.

    :param file_flags: BPF_F_RDONLY or BPF_F_WRONLY for a map
    """
    return Fd(_obj(Cmd.BPF_OBJ_GET, path, 0, file_flags), f"pinned {path}")


def _obj(cmd: Cmd, path: str, fd: int, flags: int) -> int:
    text = path.encode(errors="surrogateescape") + b"\0"
    result = try_bpf(cmd, s.Obj(pathname=address(text), bpf_fd=fd, file_flags=flags))
    if result >= 0:
        return result
    from pybpf._sys.denied import path_error

    raise path_error(-result, cmd, path)


_NEXT = {
    "prog": Cmd.BPF_PROG_GET_NEXT_ID,
    "map": Cmd.BPF_MAP_GET_NEXT_ID,
    "btf": Cmd.BPF_BTF_GET_NEXT_ID,
    "link": Cmd.BPF_LINK_GET_NEXT_ID,
}
_BY_ID = {
    "prog": Cmd.BPF_PROG_GET_FD_BY_ID,
    "map": Cmd.BPF_MAP_GET_FD_BY_ID,
    "btf": Cmd.BPF_BTF_GET_FD_BY_ID,
    "link": Cmd.BPF_LINK_GET_FD_BY_ID,
}


def get_next_id(kind: str, start: int = 0) -> int:
    """The lowest id above `start`.

    :param kind: ``prog``, ``map``, ``btf`` or ``link``
    :raises BpfError: ENOENT if there is none
    """
    attr = s.GetId(start_id=start)
    bpf(_NEXT[kind], attr)
    return int(attr.next_id)


def ids(kind: str) -> Iterator[int]:
    """All ids of a kind, ascending."""
    current = 0
    while True:
        attr = s.GetId(start_id=current)
        result = try_bpf(_NEXT[kind], attr)
        if result == -ENOENT:
            return
        if result < 0:
            raise error(-result, _NEXT[kind])
        current = attr.next_id
        yield current


def get_fd_by_id(kind: str, id: int) -> Fd:
    """A descriptor of an object by its id.

    :param kind: ``prog``, ``map``, ``btf`` or ``link``
    :raises BpfError: ENOENT if it is gone
    """
    cmd = _BY_ID[kind]
    return Fd(bpf(cmd, s.GetId(start_id=id), doing=f"{cmd.name} {id}"), f"{kind} id {id}")


def enable_stats(type: int = 0) -> Fd:
    """BPF_ENABLE_STATS: run time and count of all programs, while the descriptor is open."""
    return Fd(bpf(Cmd.BPF_ENABLE_STATS, s.EnableStats(type=type)), "BPF statistics")
