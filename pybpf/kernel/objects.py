"""The BPF objects the kernel holds now: programs, maps, links and BTF, as ``bpftool`` lists them.

`programs`, `maps`, `links` and `btfs` walk the kernel's ids. Each yields frozen infos, with names
where the kernel has numbers, and with ``.open()`` for the object itself. An object that is
removed during the walk is left out.

Finding who holds an object (``.owners``) costs a walk over all processes. The walk is made when
``owners`` is first used, and it answers for all infos of that listing.
"""

from __future__ import annotations

import os
from functools import cached_property

from .._sys import bpf as sys_bpf
from .._sys.files import parse_mounts, required
from .._uapi.enums import AttachType, LinkType, MapType, PerfEventType, ProgType
from ..btf import Btf, Func
from ..dataclass import dataclass, field
from ..errors import BpfError, ObjectFormatError, UnsupportedFeature
from ..wording import many, uapi_word
from . import btf as kernel_btf
from . import owners as holders
from .host import Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .._sys.fd import Fd
    from .._sys.info import LinkInfo as RawLinkInfo
    from ..links import Link
    from ..maps import Map
    from ..programs import Program
    from .owners import Held

__all__ = [
    "BtfInfo",
    "LinkInfo",
    "MapInfo",
    "ProgramInfo",
    "btfs",
    "links",
    "maps",
    "programs",
    "run_statistics",
]


class _Listing:
    # Shared by the infos of one listing: sources that are read when first needed.

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._facts = Facts()

    @cached_property
    def owners(self) -> holders.Owners:
        return holders.read((self._kind,))

    @cached_property
    def _btf_names(self) -> dict[int, str]:
        return {one.id: one.name for one in kernel_btf.objects() if one.kernel}

    def function(self, object_id: int, type_id: int) -> str:
        """Name a FUNC of the kernel's or a module's BTF. "" if it is in neither."""
        name = self._btf_names.get(object_id)
        btf = self._facts.btf.get(name) if name is not None else None
        if btf is None:
            return ""
        label = _name_in(btf, type_id)
        return label if name == kernel_btf.VMLINUX else f"{label} [{name}]"

    def function_of_program(self, number: int, type_id: int) -> str:
        """Name a FUNC of a program's own BTF: ``main_function of program 7``."""
        label = ""
        fd = sys_bpf.open_by_id("prog", number)
        if fd is not None:
            with fd:
                owner = sys_bpf.prog_info(fd).btf_id
            try:
                label = _name_in(kernel_btf.from_id(owner), type_id) if owner else ""
            except (BpfError, ObjectFormatError):
                label = ""
        return f"{label or 'a function'} of program {number}"

    @cached_property
    def _cgroups(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for mount in parse_mounts(os.fsdecode(required("/proc/self/mounts", "cgroups"))):
            if mount.kind == "cgroup2":
                for folder, _, _ in os.walk(mount.path):
                    try:
                        found.setdefault(os.stat(folder).st_ino, folder)
                    except OSError:
                        continue  # removed meanwhile
        return found

    def cgroup(self, number: int) -> str:
        """Return the path of a cgroup, by the id that links have."""
        return self._cgroups.get(number, f"cgroup {number}")


def _name_in(btf: Btf, type_id: int) -> str:
    try:
        found = btf.type(type_id)
    except (ObjectFormatError, LookupError, ValueError):
        return f"type {type_id}"
    return found.name if isinstance(found, Func) else found.name or f"type {type_id}"


def _interface(index: int) -> str:
    import socket  # 4 ms, and only network links need it

    try:
        return socket.if_indextoname(index)
    except (OSError, OverflowError):
        return f"interface {index}"  # it is in another network namespace, or gone


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """Describe a loaded program (``struct bpf_prog_info``).

    :param name: the kernel's name, at most 15 characters
    :param type: ``kprobe``, ``tracing``, ``xdp``...
    :param tag: 16 hex digits, a hash of the instructions
    :param target: kernel function it was loaded for, with its module; "" if it has none
    :param uid: user who loaded it
    :param maps: ids of the maps it uses
    :param btf: id of its BTF object, 0 if it has none
    :param xlated_size: verified instructions, bytes
    :param jited_size: machine code, bytes
    :param verified_insns: instructions the verifier walked (5.16)
    :param run_time_ns: ns it ran while statistics were on, see `run_statistics`
    :param run_count: number of runs while statistics were on
    :param recursion_misses: times it did not run because it was already running
    """

    id: int
    name: str
    type: str
    tag: str
    target: str
    uid: int
    gpl_compatible: bool
    maps: tuple[int, ...]
    btf: int
    xlated_size: int
    jited_size: int
    verified_insns: int
    run_time_ns: int
    run_count: int
    recursion_misses: int
    _listing: _Listing = field(repr=False, compare=False)

    @property
    def owners(self) -> Held:
        """Find the processes that hold a descriptor of it, and the paths where it is pinned."""
        return self._listing.owners.of("prog", self.id)

    @property
    def link_owners(self) -> Held:
        """Find the processes that hold a link that runs it, and the paths where such are pinned.

        A link keeps its program loaded, so a tracer often holds no descriptor of the program.
        """
        return self._listing.owners.of_links_that_run(self.id)

    def open(self) -> Program:
        """Open it (BPF_PROG_GET_FD_BY_ID). The caller closes it.

        :raises BpfError: ENOENT if it is gone
        """
        from ..programs import Program

        return Program.from_id(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**_fields(self), "link_owners": self.link_owners.to_dict()}


@dataclass(frozen=True, slots=True)
class MapInfo:
    """Describe a map (``struct bpf_map_info``). Sizes are in bytes.

    :param name: the kernel's name, at most 15 characters
    :param type: ``hash``, ``ringbuf``...
    :param flags: ``BPF_F_*``
    :param btf: id of the BTF object with the types of keys and values, 0 if it has none
    :param frozen: user space may not write to it
    :param memory: bytes it uses, as its fdinfo tells (``memlock``)
    """

    id: int
    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf: int
    frozen: bool
    memory: int
    _listing: _Listing = field(repr=False, compare=False)

    @property
    def owners(self) -> Held:
        """Find the processes that hold a descriptor of it, and the paths where it is pinned."""
        return self._listing.owners.of("map", self.id)

    def open(self) -> Map:
        """Open it (BPF_MAP_GET_FD_BY_ID), typed from its BTF. The caller closes it.

        :raises BpfError: ENOENT if it is gone
        """
        from ..maps import Map

        return Map.from_id(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return _fields(self)


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """Describe a link (``struct bpf_link_info``).

    :param type: ``tracing``, ``kprobe_multi``, ``xdp``...
    :param program: id of the program it runs; 0 for struct_ops
    :param attach_type: ``trace_fentry``, ``cgroup_inet_egress``...; "" if the kind has none
    :param target: what it is attached to, in words
    :param raw: all that the kernel reports, with the fields of all types side by side
    """

    id: int
    type: str
    program: int
    attach_type: str
    target: str
    raw: RawLinkInfo = field(repr=False)
    _listing: _Listing = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Return the target, because links have no names of their own."""
        return self.target

    @property
    def owners(self) -> Held:
        """Find the processes that hold a descriptor of it, and the paths where it is pinned."""
        return self._listing.owners.of("link", self.id)

    def open(self) -> Link:
        """Open it (BPF_LINK_GET_FD_BY_ID). The caller closes it.

        :raises BpfError: ENOENT if it is gone
        """
        from ..links import Link

        return Link.from_id(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return _fields(self)


@dataclass(frozen=True, slots=True)
class BtfInfo:
    """Describe a BTF object (``struct bpf_btf_info``).

    :param name: ``vmlinux``, a module's name, "" for one that a process loaded
    :param kernel: made by the kernel itself
    :param size: bytes
    """

    id: int
    name: str
    kernel: bool
    size: int
    _listing: _Listing = field(repr=False, compare=False)

    @property
    def type(self) -> str:
        """Say whose types they are: ``kernel``, ``module`` or ``user``."""
        if not self.kernel:
            return "user"
        return "kernel" if self.name == kernel_btf.VMLINUX else "module"

    @property
    def owners(self) -> Held:
        """Find the processes that hold a descriptor of it."""
        return self._listing.owners.of("btf", self.id)

    def open(self) -> Btf:
        """Read its types.

        :raises BpfError: ENOENT if it is gone
        """
        return kernel_btf.from_id(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**_fields(self), "type": self.type}


def _fields(info: Any) -> dict[str, Any]:
    names = [name for name in type(info).__slots__ if name not in ("_listing", "raw")]
    values = {name: getattr(info, name) for name in names}
    return {
        **{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()},
        "owners": info.owners.to_dict(),
    }


def programs() -> Iterator[ProgramInfo]:
    """Yield the programs that are loaded now, by ascending id.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    listing = _Listing("prog")
    for number, fd in sys_bpf.walk("prog"):
        if fd is None:
            continue
        info = sys_bpf.prog_info(fd)
        yield ProgramInfo(
            number,
            info.name,
            uapi_word(ProgType, "BPF_PROG_TYPE_", info.type),
            info.tag,
            listing.function(info.attach_btf_obj_id, info.attach_btf_id)
            if info.attach_btf_id
            else "",
            info.created_by_uid,
            info.gpl_compatible,
            info.map_ids,
            info.btf_id,
            info.xlated_prog_len,
            info.jited_prog_len,
            info.verified_insns,
            info.run_time_ns,
            info.run_cnt,
            info.recursion_misses,
            listing,
        )


def maps() -> Iterator[MapInfo]:
    """Yield the maps the kernel has now, by ascending id.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    listing = _Listing("map")
    for number, fd in sys_bpf.walk("map"):
        if fd is None:
            continue
        info = sys_bpf.map_info(fd)
        more = _fdinfo(fd)
        yield MapInfo(
            number,
            info.name,
            uapi_word(MapType, "BPF_MAP_TYPE_", info.type),
            info.key_size,
            info.value_size,
            info.max_entries,
            info.map_flags,
            info.btf_id,
            more.get("frozen") == "1",
            int(more.get("memlock", "0")),
            listing,
        )


def links() -> Iterator[LinkInfo]:
    """Yield the links the kernel has now, by ascending id.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    listing = _Listing("link")
    for number, fd in sys_bpf.walk("link"):
        if fd is None:
            continue
        info = sys_bpf.link_info(fd)
        attach_type = ""
        if info.attach_type or info.type in _TYPED:
            attach_type = uapi_word(AttachType, "BPF_", info.attach_type)
        yield LinkInfo(
            number,
            uapi_word(LinkType, "BPF_LINK_TYPE_", info.type),
            info.prog_id,
            attach_type,
            _target(info, listing),
            info,
            listing,
        )


def btfs() -> Iterator[BtfInfo]:
    """Yield the BTF objects the kernel has now, by ascending id.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    listing = _Listing("btf")
    for number, fd in sys_bpf.walk("btf"):
        if fd is not None:
            info = sys_bpf.btf_info(fd)
            yield BtfInfo(number, info.name, info.kernel_btf, info.size, listing)


def run_statistics() -> Fd:
    """Have the kernel count runs and run time of all programs until the result is closed.

    Uses BPF_ENABLE_STATS, which costs some 20 ns per run.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    return sys_bpf.enable_stats()


def _fdinfo(fd: Fd) -> dict[str, str]:
    try:
        with open(f"/proc/self/fdinfo/{fd.fileno()}", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}  # /proc is not mounted
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


_T = LinkType
# Kinds whose attach type may be number 0 (BPF_CGROUP_INET_INGRESS).
_TYPED = frozenset({_T.BPF_LINK_TYPE_CGROUP})
_PROBES = {
    PerfEventType.BPF_PERF_EVENT_KPROBE: "kprobe",
    PerfEventType.BPF_PERF_EVENT_KRETPROBE: "kretprobe",
    PerfEventType.BPF_PERF_EVENT_UPROBE: "uprobe",
    PerfEventType.BPF_PERF_EVENT_URETPROBE: "uretprobe",
    PerfEventType.BPF_PERF_EVENT_TRACEPOINT: "tracepoint",
}
_FAMILIES = {2: "ipv4", 10: "ipv6"}  # NFPROTO_IPV4, NFPROTO_IPV6
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")  # NF_INET_*


def _traced(info: RawLinkInfo, listing: _Listing) -> str:
    # The object id is a BTF object's, or a program's if the program extends another. The link's
    # own program tells which: it was loaded for a function of that BTF object.
    fd = sys_bpf.open_by_id("prog", info.prog_id)
    if fd is not None:
        with fd:
            program = sys_bpf.prog_info(fd)
        if program.attach_btf_obj_id:
            name = listing.function(program.attach_btf_obj_id, info.target_btf_id)
            if name:
                return name
    try:
        return listing.function_of_program(info.target_obj_id, info.target_btf_id)
    except UnsupportedFeature:
        return f"type {info.target_btf_id} of BTF object {info.target_obj_id}"


def _perf(info: RawLinkInfo, listing: _Listing) -> str:
    kind = _PROBES.get(PerfEventType(info.perf_type)) if info.perf_type else None
    if kind is None:
        return "perf event"
    place = info.name or (f"{info.addr:#x}" if info.addr else "?")
    return f"{kind} {place}" + (f"+{info.offset:#x}" if info.offset else "")


def _netfilter(info: RawLinkInfo, listing: _Listing) -> str:
    family = _FAMILIES.get(info.pf, f"family {info.pf}")
    known = info.hooknum < len(_HOOKS)
    hook = _HOOKS[info.hooknum] if known else f"hook {info.hooknum}"
    return f"{family} {hook} priority {info.priority}"


_TARGETS: dict[LinkType, Callable[[RawLinkInfo, _Listing], str]] = {
    _T.BPF_LINK_TYPE_RAW_TRACEPOINT: lambda i, _: i.name,
    _T.BPF_LINK_TYPE_TRACING: _traced,
    _T.BPF_LINK_TYPE_CGROUP: lambda i, known: known.cgroup(i.cgroup_id),
    _T.BPF_LINK_TYPE_ITER: lambda i, _: i.name + (f" of map {i.map_id}" if i.map_id else ""),
    _T.BPF_LINK_TYPE_NETNS: lambda i, _: f"network namespace {i.netns_ino}",
    _T.BPF_LINK_TYPE_XDP: lambda i, _: _interface(i.ifindex),
    _T.BPF_LINK_TYPE_PERF_EVENT: _perf,
    _T.BPF_LINK_TYPE_KPROBE_MULTI: lambda i, _: many(i.count, "function"),
    _T.BPF_LINK_TYPE_STRUCT_OPS: lambda i, _: f"map {i.map_id}",
    _T.BPF_LINK_TYPE_NETFILTER: _netfilter,
    _T.BPF_LINK_TYPE_TCX: lambda i, _: _interface(i.ifindex),
    _T.BPF_LINK_TYPE_UPROBE_MULTI: lambda i, _: f"{i.name}: {many(i.count, 'place')}",
    _T.BPF_LINK_TYPE_NETKIT: lambda i, _: _interface(i.ifindex),
    _T.BPF_LINK_TYPE_SOCKMAP: lambda i, _: f"map {i.map_id}",
    _T.BPF_LINK_TYPE_TRACING_MULTI: lambda i, _: many(i.count, "function"),
}


def _target(info: RawLinkInfo, listing: _Listing) -> str:
    try:
        words = _TARGETS[LinkType(info.type)]
    except (ValueError, KeyError):
        return ""
    return words(info, listing)
