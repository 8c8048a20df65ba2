"""BPF_OBJ_GET_INFO_BY_FD, with results as named tuples.

Theory of operation. The kernel fills a structure and, if the caller left
room, the arrays it points at. It reports the true counts in any case. So each
function first asks with room for the usual case. If that was too little, it asks again with
exactly enough. The structures are those of a new kernel. An older kernel
fills the front and leaves the rest 0, and the part it does not know must be 0.
So pointers that it may not know are tried first and then left out (E2BIG).
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable
from errno import E2BIG, EINVAL, ENOSPC
from typing import Any

from .._uapi import structs as s
from .._uapi.enums import AttachType, Cmd, LinkType
from .._uapi.enums import PerfEventType as P
from ..dataclass import dataclass, field
from ..errors import BpfError
from ..namedtuple import NamedTuple
from .door import address, error, fileno, try_bpf
from .fd import NOUNS, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .door import HasFileno

__all__ = [
    "BtfInfo",
    "LinkInfo",
    "MapInfo",
    "ProgInfo",
    "btf_info",
    "link_info",
    "map_info",
    "prog_info",
]


class ProgInfo(NamedTuple):
    """Hold ``struct bpf_prog_info``. Lengths are in bytes, times in ns.

    :ivar tag: 16 hex digits, as bpftool prints it
    :ivar jited_ksyms: address of each JITed function, () if we may not see addresses
    :ivar jited_func_lens: bytes of each, in the same order
    :ivar recursion_misses: times it did not run because it was already running
    :ivar attach_btf_obj_id: BTF object that holds `attach_btf_id`, 0 if it has none
    :ivar jited_insns: machine code, b"" unless requested
    :ivar xlated_insns: instructions as the verifier left them, b"" unless requested
    """

    type: int
    id: int
    tag: str
    name: str
    jited_prog_len: int
    xlated_prog_len: int
    load_time: int
    created_by_uid: int
    gpl_compatible: bool
    map_ids: tuple[int, ...]
    btf_id: int
    jited_ksyms: tuple[int, ...]
    jited_func_lens: tuple[int, ...]
    run_time_ns: int
    run_cnt: int
    recursion_misses: int
    verified_insns: int
    attach_btf_obj_id: int
    attach_btf_id: int
    nr_func_info: int
    nr_line_info: int
    ifindex: int
    jited_insns: bytes = b""
    xlated_insns: bytes = b""


class MapInfo(NamedTuple):
    """Hold ``struct bpf_map_info``. Sizes are in bytes."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    name: str
    ifindex: int
    btf_vmlinux_value_type_id: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int
    map_extra: int


class BtfInfo(NamedTuple):
    """Hold ``struct bpf_btf_info``.

    :ivar size: bytes of the BTF
    :ivar data: the BTF itself, b"" unless requested
    """

    id: int
    name: str
    kernel_btf: bool
    size: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """Hold ``struct bpf_link_info``, with the fields of all link types side by side.

    A field that the link's type or the running kernel does not have keeps its default. As text
    it has only the fields of its type.

    :ivar type: ``enum bpf_link_type``
    :ivar attach_type: ``enum bpf_attach_type``: tracing, tracing_multi, cgroup, netns, tcx,
        netkit, sockmap
    :ivar target_obj_id: tracing: id of the BTF object, or of the program it extends
    :ivar target_btf_id: tracing: id of the function in it
    :ivar cookie: raw tracepoint, tracing (7.0), perf event (6.8)
    :ivar name: tracepoint; function of a kprobe; path of a uprobe; target of an iterator
    :ivar perf_type: ``enum bpf_perf_event_type`` (6.6)
    :ivar offset: kprobe, uprobe: bytes from the function or the start of the file
    :ivar addr: kprobe: its address, 0 if we may not see it
    :ivar missed: kprobe, kprobe_multi: hits that ran nothing (6.7)
    :ivar count: number of functions of a ``*_multi`` link
    :ivar flags: kprobe_multi, uprobe_multi, netfilter
    :ivar btf_obj_id: tracing_multi (7.3): BTF object that holds `ids`
    :ivar ids: tracing_multi: BTF ids, ascending
    :ivar addrs: kprobe_multi, tracing_multi: addresses, 0 if we may not see them
    :ivar offsets: uprobe_multi: bytes from the start of the file
    :ivar cookies: one for each function (6.9 for kprobe_multi)
    :ivar map_id: struct_ops, sockmap, and iterators over a map
    :ivar pf: netfilter: ``NFPROTO_*``
    :ivar hooknum: netfilter: ``NF_INET_*``
    :ivar priority: netfilter: lower runs first
    """

    type: int
    id: int
    prog_id: int
    attach_type: int = 0
    target_obj_id: int = 0
    target_btf_id: int = 0
    cookie: int = 0
    name: str = ""
    perf_type: int = 0
    offset: int = 0
    addr: int = 0
    missed: int = 0
    count: int = 0
    flags: int = 0
    btf_obj_id: int = 0
    ids: Sequence[int] = ()
    addrs: Sequence[int] = ()
    offsets: Sequence[int] = ()
    cookies: Sequence[int] = ()
    ifindex: int = 0
    cgroup_id: int = 0
    netns_ino: int = 0
    map_id: int = 0
    pid: int = 0
    pf: int = 0
    hooknum: int = 0
    priority: int = 0
    #: Names of the fields that the link's type has.
    own: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __repr__(self) -> str:
        always = {"type", "id", "prog_id", *self.own} - _LATER
        if self.type == LinkType.BPF_LINK_TYPE_CGROUP:
            always.add("attach_type")
        words = [
            f"{name}={_word(name, value)}"
            for name in _FIELDS
            if (value := getattr(self, name)) or name in always
        ]
        return f"LinkInfo({', '.join(words)})"


_FIELDS = [one for one in LinkInfo.__match_args__ if one != "own"]
# Fields that a kernel may have left 0: they came later than their type of link, or 0 means none.
_LATER = frozenset(
    {"attach_type", "cookie", "cookies", "count", "missed", "perf_type", "btf_obj_id", "addrs"}
)
_ENUMS = {"type": LinkType, "attach_type": AttachType, "perf_type": P}
_MANY = 8


def _word(name: str, value: Any) -> str:
    if name in _ENUMS:
        try:
            return _ENUMS[name](value).name
        except ValueError:
            return str(value)
    if isinstance(value, (tuple, array)):
        return str(list(value)) if len(value) <= _MANY else f"<{len(value)} numbers>"
    return hex(value) if name == "addr" else repr(value)


def _get(fd: int, info: ctypes.Structure) -> int:
    # Returns 0 or a negative errno.
    return try_bpf(
        Cmd.BPF_OBJ_GET_INFO_BY_FD,
        s.GetInfo(bpf_fd=fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info)),
    )


def _check(fd: int, kind: str) -> int:
    # The command answers for any kind of object, in that kind's structure. With the descriptor of
    # a map in place of a program's, the fields would be nonsense.
    seen = kind_of(fd)
    if seen not in ("", kind):  # "": no /proc, or no BPF object; the kernel will report that
        doing = f"BPF_OBJ_GET_INFO_BY_FD of a {NOUNS[kind]}"
        raise BpfError(EINVAL, doing, f"the descriptor is that of a {NOUNS[seen]}")
    return fd


def _ask(fd: int, info: ctypes.Structure, what: str, also: tuple[int, ...] = ()) -> int:
    # Returns 0 or one of the errnos in `also`, positive. Raises on any other.
    errno = -_get(fd, info)
    if errno and errno not in also:
        raise error(errno, Cmd.BPF_OBJ_GET_INFO_BY_FD, f"BPF_OBJ_GET_INFO_BY_FD of a {what}")
    return errno


def _text(name: bytes | bytearray) -> str:
    return name.split(b"\0", 1)[0].decode(errors="replace")


def _u32s(count: int) -> array[int]:
    return array("I", bytes(4 * count))


def _u64s(count: int) -> array[int]:
    return array("Q", bytes(8 * count))


def prog_info(fd: int | HasFileno, *, jited: bool = False, xlated: bool = False) -> ProgInfo:
    """Read facts about a program.

    :param jited: fetch the machine code, too
    :param xlated: fetch the verified instructions, too
    :raises BpfError: EINVAL if `fd` is not a program
    """
    number = _check(fileno(fd), "prog")
    ids, functions, image, insns = 32, 16, 0, 0
    while True:
        info = s.ProgInfo()
        maps, ksyms, lens = _u32s(ids), _u64s(functions), _u32s(functions)
        code, stream = bytearray(image), bytearray(insns)
        info.nr_map_ids, info.map_ids = ids, address(maps)
        info.nr_jited_ksyms, info.jited_ksyms = functions, address(ksyms)
        info.nr_jited_func_lens, info.jited_func_lens = functions, address(lens)
        info.jited_prog_len, info.jited_prog_insns = image, address(code)
        info.xlated_prog_len, info.xlated_prog_insns = insns, address(stream)
        _ask(number, info, "program")
        want = (
            max(ids, info.nr_map_ids),
            max(functions, info.nr_jited_ksyms, info.nr_jited_func_lens),
            info.jited_prog_len if jited else 0,
            info.xlated_prog_len if xlated else 0,
        )
        if want == (ids, functions, image, insns):
            break
        ids, functions, image, insns = want
    # If the kernel cleared a pointer, it withheld the data because we may not see addresses.
    return ProgInfo(
        type=info.type,
        id=info.id,
        tag=bytes(info.tag).hex(),
        name=_text(info.name),
        jited_prog_len=info.jited_prog_len,
        xlated_prog_len=info.xlated_prog_len,
        load_time=info.load_time,
        created_by_uid=info.created_by_uid,
        gpl_compatible=bool(info.gpl_compatible),
        map_ids=tuple(maps[: info.nr_map_ids]),
        btf_id=info.btf_id,
        jited_ksyms=tuple(ksyms[: info.nr_jited_ksyms]) if info.jited_ksyms else (),
        jited_func_lens=tuple(lens[: info.nr_jited_func_lens]) if info.jited_func_lens else (),
        run_time_ns=info.run_time_ns,
        run_cnt=info.run_cnt,
        recursion_misses=info.recursion_misses,
        verified_insns=info.verified_insns,
        attach_btf_obj_id=info.attach_btf_obj_id,
        attach_btf_id=info.attach_btf_id,
        nr_func_info=info.nr_func_info,
        nr_line_info=info.nr_line_info,
        ifindex=info.ifindex,
        jited_insns=bytes(code) if info.jited_prog_insns else b"",
        xlated_insns=bytes(stream) if info.xlated_prog_insns else b"",
    )


def map_info(fd: int | HasFileno) -> MapInfo:
    """Read facts about a map.

    :raises BpfError: EINVAL if `fd` is not a map
    """
    info = s.MapInfo()
    _ask(_check(fileno(fd), "map"), info, "map")
    return MapInfo(
        type=info.type,
        id=info.id,
        key_size=info.key_size,
        value_size=info.value_size,
        max_entries=info.max_entries,
        map_flags=info.map_flags,
        name=_text(info.name),
        ifindex=info.ifindex,
        btf_vmlinux_value_type_id=info.btf_vmlinux_value_type_id,
        btf_id=info.btf_id,
        btf_key_type_id=info.btf_key_type_id,
        btf_value_type_id=info.btf_value_type_id,
        map_extra=info.map_extra,
    )


def btf_info(fd: int | HasFileno, *, data: bool = False) -> BtfInfo:
    """Read facts about a BTF object.

    :param data: fetch the BTF, too
    :raises BpfError: EINVAL if `fd` is not a BTF object
    """
    number = _check(fileno(fd), "btf")
    name, blob = bytearray(128), bytearray()
    while True:
        info = s.BtfInfo(
            name=address(name), name_len=len(name), btf=address(blob), btf_size=len(blob)
        )
        if _ask(number, info, "BTF object", (ENOSPC,)):
            name = bytearray(info.name_len + 1 if info.name_len >= len(name) else 2 * len(name))
        elif data and info.btf_size != len(blob):
            blob = bytearray(info.btf_size)
        else:
            break
    return BtfInfo(info.id, _text(name), bool(info.kernel_btf), info.btf_size, bytes(blob))


def _named(fd: int, part: str, field: str, length: str) -> str:
    # Ask for a name. The buffer's address goes into `field` and its size into `length` of `part`.
    size = 128
    while True:
        name = bytearray(size)
        again = s.LinkInfo()
        where = again
        for step in part.split("."):
            where = getattr(where, step)
        setattr(where, field, address(name))
        setattr(where, length, size)
        if not _ask(fd, again, "link", (ENOSPC,)):
            return _text(name)
        size *= 4
        if size > 1 << 16:
            raise error(ENOSPC, Cmd.BPF_OBJ_GET_INFO_BY_FD, "name of a link's target")


def _arrays(fd: int, part: str, count: int, fields: tuple[str, ...]) -> dict[str, Sequence[int]]:
    # Arrays of `count` u64 (u32 for "ids") from member `part`. An older kernel refuses arrays it
    # does not know (E2BIG). Then the last one is left out and the others are requested again.
    while fields and count:
        info = s.LinkInfo()
        where = getattr(info, part)
        where.count = count
        buffers = {f: (_u32s if f == "ids" else _u64s)(count) for f in fields}
        for f, buffer in buffers.items():
            setattr(where, f, address(buffer))
        if not _ask(fd, info, "link", (E2BIG,)):
            return {**buffers}
        fields = fields[:-1]
    return {}


def link_info(fd: int | HasFileno, *, details: bool = True) -> LinkInfo:
    """Read facts about a link.

    :param details: False for type, id and program id alone
    :raises BpfError: EINVAL if `fd` is not a link
    """
    number = _check(fileno(fd), "link")
    info = s.LinkInfo()
    _ask(number, info, "link")
    read = _DETAILS.get(info.type) if details else None
    more = read(number, info) if read is not None else {}
    return LinkInfo(info.type, info.id, info.prog_id, **more, own=tuple(more))


def _raw_tracepoint(fd: int, info: s.LinkInfo) -> dict[str, Any]:
    name = _named(fd, "raw_tracepoint", "tp_name", "tp_name_len")
    return {"name": name, "cookie": info.raw_tracepoint.cookie}


def _kprobe_multi(fd: int, info: s.LinkInfo) -> dict[str, Any]:
    k = info.kprobe_multi
    arrays = _arrays(fd, "kprobe_multi", k.count, ("addrs", "cookies"))
    return {"count": k.count, "flags": k.flags, "missed": k.missed, **arrays}


def _tracing_multi(fd: int, info: s.LinkInfo) -> dict[str, Any]:
    m = info.tracing_multi
    arrays = _arrays(fd, "tracing_multi", m.count, ("ids", "addrs", "cookies"))
    return {**_plain(m, "attach_type", "count", "btf_obj_id"), **arrays}


def _iter(fd: int, info: s.LinkInfo) -> dict[str, Any]:
    name = _named(fd, "iter", "target_name", "target_name_len")
    return {"name": name, "map_id": info.iter.map.map_id}


def _perf_event(fd: int, info: s.LinkInfo) -> dict[str, Any]:
    p = info.perf_event
    kind: dict[str, Any] = {"perf_type": p.type}
    match p.type:
        case P.BPF_PERF_EVENT_KPROBE | P.BPF_PERF_EVENT_KRETPROBE:
            name = _named(fd, "perf_event.kprobe", "func_name", "name_len")
            return kind | {"name": name, **_plain(p.kprobe, "offset", "addr", "missed", "cookie")}
        case P.BPF_PERF_EVENT_UPROBE | P.BPF_PERF_EVENT_URETPROBE:
            name = _named(fd, "perf_event.uprobe", "file_name", "name_len")
            return kind | {"name": name, **_plain(p.uprobe, "offset", "cookie")}
        case P.BPF_PERF_EVENT_TRACEPOINT:
            name = _named(fd, "perf_event.tracepoint", "tp_name", "name_len")
            return kind | {"name": name, "cookie": p.tracepoint.cookie}
        case P.BPF_PERF_EVENT_EVENT:
            return kind | {"cookie": p.event.cookie}
    return kind


def _uprobe_multi(fd: int, info: s.LinkInfo) -> dict[str, Any]:
    u = info.uprobe_multi
    if not u.count:
        return {}  # a kernel before 6.8 tells nothing of such a link, and refuses to be asked
    path = bytearray(4096)
    again = s.LinkInfo()
    offsets, cookies = _u64s(u.count), _u64s(u.count)
    w = again.uprobe_multi
    w.path, w.path_size, w.count = address(path), len(path), u.count
    w.offsets, w.cookies = address(offsets), address(cookies)
    _ask(fd, again, "link")
    counts = _plain(u, "count", "flags", "pid")
    return {"name": _text(path), "offsets": offsets, "cookies": cookies, **counts}


def _plain(part: Any, *fields: str) -> dict[str, Any]:
    return {field: getattr(part, field) for field in fields}


_T = LinkType
_DETAILS: dict[int, Callable[[int, s.LinkInfo], dict[str, Any]]] = {
    _T.BPF_LINK_TYPE_RAW_TRACEPOINT: _raw_tracepoint,
    _T.BPF_LINK_TYPE_TRACING: lambda _, i: _plain(
        i.tracing, "attach_type", "target_obj_id", "target_btf_id", "cookie"
    ),
    _T.BPF_LINK_TYPE_CGROUP: lambda _, i: _plain(i.cgroup, "cgroup_id", "attach_type"),
    _T.BPF_LINK_TYPE_ITER: _iter,
    _T.BPF_LINK_TYPE_NETNS: lambda _, i: _plain(i.netns, "netns_ino", "attach_type"),
    _T.BPF_LINK_TYPE_XDP: lambda _, i: _plain(i.xdp, "ifindex"),
    _T.BPF_LINK_TYPE_PERF_EVENT: _perf_event,
    _T.BPF_LINK_TYPE_KPROBE_MULTI: _kprobe_multi,
    _T.BPF_LINK_TYPE_STRUCT_OPS: lambda _, i: _plain(i.struct_ops, "map_id"),
    _T.BPF_LINK_TYPE_NETFILTER: lambda _, i: _plain(
        i.netfilter, "pf", "hooknum", "priority", "flags"
    ),
    _T.BPF_LINK_TYPE_TCX: lambda _, i: _plain(i.tcx, "ifindex", "attach_type"),
    _T.BPF_LINK_TYPE_UPROBE_MULTI: _uprobe_multi,
    _T.BPF_LINK_TYPE_NETKIT: lambda _, i: _plain(i.netkit, "ifindex", "attach_type"),
    _T.BPF_LINK_TYPE_SOCKMAP: lambda _, i: _plain(i.sockmap, "map_id", "attach_type"),
    _T.BPF_LINK_TYPE_TRACING_MULTI: _tracing_multi,
}
