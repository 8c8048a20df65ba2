"""bpf(2), one function per command: maps, BTF, and what objects of any kind share.

Programs are in `pybpf._sys.prog`, links in `pybpf._sys.link`, infos in `pybpf._sys.info`,
single map entries in `pybpf._sys.element`.

Each function builds the command's own attr and its buffers as locals and calls
the door (`pybpf._sys.door`) in the same frame. So memory that the kernel reads or
writes cannot be garbage-collected meanwhile. Descriptors are returned as `Fd`, which owns
them (the kernel makes them close-on-exec). Where a function takes a descriptor, it takes an int
or anything with ``fileno()``. Refusals are `BpfError`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EAGAIN, EINVAL, ENOENT, ENOSPC

from .._lazy import lazy
from .._uapi import structs as s
from .._uapi.defines import CAP_BPF, CAP_NET_ADMIN
from .._uapi.enums import Cmd, MapFlag, MapType
from ..errors import BpfError
from .door import (
    LOG_FIRST,
    LOG_MOST,
    address,
    bpf,
    bpf_common,
    c_string,
    error,
    fileno,
    log_text,
    object_name,
    tail,
    try_bpf,
)
from .fd import NOUNS, Fd, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .door import HasFileno
    from .info import (
        BtfInfo,
        LinkInfo,
        MapInfo,
        ProgInfo,
        btf_info,
        link_info,
        map_info,
        prog_info,
    )

__all__ = [
    "BtfInfo",
    "Fd",
    "LinkInfo",
    "MapInfo",
    "ProgInfo",
    "bpf",
    "btf_info",
    "btf_load",
    "enable_stats",
    "get_fd_by_id",
    "get_next_id",
    "ids",
    "link_info",
    "map_create",
    "map_freeze",
    "map_info",
    "obj_get",
    "obj_pin",
    "open_by_id",
    "prog_info",
    "walk",
]

# Maps that take CAP_NET_ADMIN (map_create() in kernel/bpf/syscall.c of 6.12; in 6.1 the same, in
# the functions that allocate them).
_NETWORK_MAPS = frozenset(
    {
        MapType.BPF_MAP_TYPE_SOCKMAP,
        MapType.BPF_MAP_TYPE_SOCKHASH,
        MapType.BPF_MAP_TYPE_DEVMAP,
        MapType.BPF_MAP_TYPE_DEVMAP_HASH,
        MapType.BPF_MAP_TYPE_XSKMAP,
    }
)

# The infos take 2 ms to import, and loading an object needs none.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "BtfInfo": "..info",
        "LinkInfo": "..info",
        "MapInfo": "..info",
        "ProgInfo": "..info",
        "btf_info": "..info",
        "link_info": "..info",
        "map_info": "..info",
        "prog_info": "..info",
    },
)

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
    value_type_btf_obj_fd: int | HasFileno = 0,
    token_fd: int | HasFileno = 0,
) -> Fd:
    """Call BPF_MAP_CREATE.

    :param map_type: ``enum bpf_map_type``
    :param key_size: bytes
    :param value_size: bytes
    :param name: cut to 15 bytes
    :param token_fd: a BPF token, 0 for none
    :raises BpfError: refused; the hint has the kernel's own words if it gives any (7.x)
    :raises DeniedByPolicy: a capability or policy forbids it
    """
    attr = s.MapCreate(
        map_type=map_type,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        map_flags=map_flags | (MapFlag.BPF_F_TOKEN_FD if token_fd else 0),
        inner_map_fd=fileno(inner_map_fd),
        numa_node=numa_node,
        map_name=object_name(name),
        map_ifindex=map_ifindex,
        btf_fd=fileno(btf_fd),
        btf_key_type_id=btf_key_type_id,
        btf_value_type_id=btf_value_type_id,
        btf_vmlinux_value_type_id=btf_vmlinux_value_type_id,
        map_extra=map_extra,
        value_type_btf_obj_fd=fileno(value_type_btf_obj_fd),
        map_token_fd=fileno(token_fd),
    )
    result = try_bpf(Cmd.BPF_MAP_CREATE, attr)
    if result >= 0:
        return Fd(result, f"map {name!r}")
    needs = (CAP_BPF, CAP_NET_ADMIN) if map_type in _NETWORK_MAPS else ()
    refusal = error(
        -result, Cmd.BPF_MAP_CREATE, f"BPF_MAP_CREATE {name!r}", needs=needs, token=bool(token_fd)
    )
    if result == -EINVAL:
        # A kernel without BPF_COMMON_ATTRS answers EINVAL again and writes no log.
        log = bytearray(1024)
        common = s.CommonAttr(log_buf=address(log), log_size=len(log), log_level=1)
        result = bpf_common(Cmd.BPF_MAP_CREATE, attr, common)
        if result >= 0:
            return Fd(result, f"map {name!r}")
        refusal.hint = tail(log_text(log))
    raise refusal


def map_freeze(fd: int | HasFileno) -> None:
    """Call BPF_MAP_FREEZE: user space cannot write to the map any more.

    :raises BpfError: EBUSY if it is already frozen or is mapped writable
    """
    bpf(Cmd.BPF_MAP_FREEZE, s.MapElem(map_fd=fileno(fd)))


# -- BTF


def btf_load(data: bytes, *, token_fd: int | HasFileno = 0) -> Fd:
    """Call BPF_BTF_LOAD.

    :param token_fd: a BPF token, 0 for none
    :raises BpfError: refused; the hint ends with the kernel's own words
    """
    attr = s.BtfLoad(
        btf=address(data),
        btf_size=len(data),
        btf_flags=MapFlag.BPF_F_TOKEN_FD if token_fd else 0,
        btf_token_fd=fileno(token_fd),
    )
    result = try_bpf(Cmd.BPF_BTF_LOAD, attr)
    if result >= 0:
        return Fd(result, "BTF object")
    refusal = error(-result, Cmd.BPF_BTF_LOAD, token=bool(token_fd))
    log = bytearray(LOG_FIRST)
    while True:
        attr.btf_log_buf, attr.btf_log_size, attr.btf_log_level = address(log), len(log), 1
        result = try_bpf(Cmd.BPF_BTF_LOAD, attr)
        if result != -ENOSPC or len(log) >= LOG_MOST:
            break
        log = bytearray(4 * len(log))
    if result >= 0:
        return Fd(result, "BTF object")
    refusal.hint = refusal.hint or tail(log_text(log))
    raise refusal


# -- rights


def token_create(folder: int | HasFileno) -> Fd:
    """Call BPF_TOKEN_CREATE (Linux 6.9): take the rights that a bpf file system delegates.

    :param folder: descriptor of the root of the file system, which must belong to the user
        namespace of this process
    :raises BpfError: ENOENT if it delegates nothing, EOPNOTSUPP outside of containers
    :raises DeniedByPolicy: CAP_BPF in the user namespace is missing
    """
    result = bpf(Cmd.BPF_TOKEN_CREATE, s.TokenCreate(bpffs_fd=fileno(folder)))
    return Fd(result, "BPF token")


# -- objects of any kind


def obj_pin(fd: int | HasFileno, path: str) -> None:
    """Call BPF_OBJ_PIN: give a program, map or link a path in a bpf file system.

    If only the last folder of the path is missing, it is made for this user alone, as by libbpf.
    """
    try:
        _obj(Cmd.BPF_OBJ_PIN, path, fileno(fd), 0)
        return
    except BpfError as refusal:
        folder = os.path.dirname(path)
        if refusal.errno != ENOENT or not _make_folder(folder):
            raise
    try:
        _obj(Cmd.BPF_OBJ_PIN, path, fileno(fd), 0)
    except BpfError:
        with suppress(OSError):  # somebody else may have pinned something there meanwhile
            os.rmdir(folder)
        raise


def _make_folder(folder: str) -> bool:
    from .denied import file_system

    if file_system(folder) != "bpf":
        return False
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass  # somebody else was faster
    except OSError:
        return False
    return True


def obj_get(path: str, kind: str = "", *, file_flags: int = 0) -> Fd:
    """Call BPF_OBJ_GET: open a pinned object.

    :param kind: ``prog``, ``map`` or ``link``, "" for any
    :param file_flags: BPF_F_RDONLY or BPF_F_WRONLY for a map
    :raises BpfError: EINVAL if it is of another kind
    """
    fd = Fd(_obj(Cmd.BPF_OBJ_GET, path, 0, file_flags), f"pinned {path}")
    seen = kind_of(fd.fileno()) if kind else ""
    if seen not in ("", kind):
        fd.close()
        hint = f"it is not a pinned {NOUNS[kind]} but a {NOUNS[seen]}"
        raise BpfError(EINVAL, f"opening {path!r}", hint)
    return fd


def _obj(cmd: Cmd, path: str, fd: int, flags: int) -> int:
    text = c_string(path)
    result = try_bpf(cmd, s.Obj(pathname=address(text), bpf_fd=fd, file_flags=flags))
    if result >= 0:
        return result
    from .denied import path_error

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
    """Find the lowest id above `start`.

    :param kind: ``prog``, ``map``, ``btf`` or ``link``
    :raises BpfError: ENOENT if there is none
    """
    attr = s.GetId(start_id=start)
    bpf(_NEXT[kind], attr)
    return int(attr.next_id)


def ids(kind: str) -> Iterator[int]:
    """Iterate over all ids of a kind, ascending."""
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
    """Open a descriptor of an object by its id.

    This is for an object that the caller keeps alive. For one that others may be making or
    closing at this moment, use `open_by_id`.

    :param kind: ``prog``, ``map``, ``btf`` or ``link``
    :raises BpfError: ENOENT if it is gone, EAGAIN if it is a link that is still being made
    """
    cmd = _BY_ID[kind]
    try:
        number = bpf(cmd, s.GetId(start_id=id), doing=f"{cmd.name} {id}")
    except BpfError as refusal:
        if refusal.errno == ENOENT:
            refusal.hint = f"no {NOUNS[kind]} has this id, or it is gone"
        raise
    return Fd(number, f"{kind} id {id}")


def open_by_id(kind: str, id: int) -> Fd | None:
    """Open an object by its id, or return None if it is gone or still being made.

    A link has an id before it is attached, and until then the kernel answers EAGAIN
    (``bpf_link_by_id()``, kernel/bpf/syscall.c). An object whose last reference was just
    dropped answers ENOENT although its id is still listed.

    :param kind: ``prog``, ``map``, ``btf`` or ``link``
    :raises BpfError: any other refusal
    """
    cmd = _BY_ID[kind]
    result = try_bpf(cmd, s.GetId(start_id=id))
    if result in (-ENOENT, -EAGAIN):
        return None
    if result < 0:
        raise error(-result, cmd, f"{cmd.name} {id}")
    return Fd(result, f"{kind} id {id}")


def walk(kind: str) -> Iterator[tuple[int, Fd | None]]:
    """Yield each object of a kind that exists at this moment: its id and a descriptor.

    The descriptor is closed when the walk continues. It is None for an object that is already
    gone or still being made. The ids are read first, so the walk ends no matter how fast others
    make new objects.

    :param kind: ``prog``, ``map``, ``btf`` or ``link``
    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    for number in list(ids(kind)):
        fd = open_by_id(kind, number)
        if fd is None:
            yield number, None
            continue
        with fd:
            yield number, fd


def enable_stats(type: int = 0) -> Fd:
    """Call BPF_ENABLE_STATS: count runs and run time while the descriptor is open."""
    return Fd(bpf(Cmd.BPF_ENABLE_STATS, s.EnableStats(type=type)), "BPF statistics")
