"""The one door to the kernel: the bpf(2) system call, and what its errno means.

`bpf` is the only place where map, program, BTF and link commands leave the
process, so a test replaces `_syscall` here and needs no kernel. An attr is
passed with the size of its own structure: an older kernel, whose ``union
bpf_attr`` is shorter, accepts that as long as what it does not know is zero.

EPERM and EACCES become `DeniedByPolicy`, whose hint says who refused. The
exceptions are the commands where the kernel uses EPERM for something else
(a frozen map, a path that is on no bpf file system): they keep `BpfError`.
"""

from __future__ import annotations

import ctypes
from errno import EACCES, EPERM

from .._uapi.defines import BPF_OBJ_NAME_LEN, SYS_BPF
from .._uapi.enums import Cmd
from ..errors import BpfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class HasFileno(Protocol):
        """Anything with a descriptor."""

        def fileno(self) -> int: ...


__all__ = [
    "LOG_FIRST",
    "LOG_MOST",
    "address",
    "bpf",
    "bpf_common",
    "error",
    "fileno",
    "log_text",
    "object_name",
    "tail",
    "try_bpf",
]

#: Bytes of the first log buffer. The kernel takes buffers of up to UINT_MAX / 4 bytes.
LOG_FIRST = 1 << 16
#: Bytes of the last one: nobody reads a log longer than this.
LOG_MOST = 1 << 27

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
# number, cmd, attr, size, common attr (7.x), its size
_syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
]

# Commands on entries of a map: EPERM is the map's own refusal (frozen, BPF_F_RDONLY).
_ELEMENT = frozenset(
    {
        Cmd.BPF_MAP_LOOKUP_ELEM,
        Cmd.BPF_MAP_UPDATE_ELEM,
        Cmd.BPF_MAP_DELETE_ELEM,
        Cmd.BPF_MAP_GET_NEXT_KEY,
        Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM,
        Cmd.BPF_MAP_LOOKUP_BATCH,
        Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH,
        Cmd.BPF_MAP_UPDATE_BATCH,
        Cmd.BPF_MAP_DELETE_BATCH,
    }
)


def try_bpf(cmd: int, attr: ctypes.Structure, size: int | None = None) -> int:
    """As `bpf`, but an error is returned as a negative errno."""
    result: int = _syscall(
        SYS_BPF,
        cmd,
        ctypes.addressof(attr),
        ctypes.sizeof(attr) if size is None else size,
        None,
        0,
    )
    return result if result >= 0 else -ctypes.get_errno()


def bpf_common(cmd: int, attr: ctypes.Structure, common: ctypes.Structure) -> int:
    """As `try_bpf`, with ``struct bpf_common_attr``: a log for any command.

    A kernel without it answers -EINVAL.
    """
    result: int = _syscall(
        SYS_BPF,
        cmd | Cmd.BPF_COMMON_ATTRS,
        ctypes.addressof(attr),
        ctypes.sizeof(attr),
        ctypes.addressof(common),
        ctypes.sizeof(common),
    )
    return result if result >= 0 else -ctypes.get_errno()


def bpf(cmd: int, attr: ctypes.Structure, size: int | None = None, *, doing: str = "") -> int:
    """Call bpf(2).

    :param cmd: ``enum bpf_cmd``
    :param attr: the command's own variant of ``union bpf_attr``
    :param size: bytes of it to pass, by default all
    :param doing: what to call it in errors; by default the command's name
    :returns: what the kernel returned, >= 0
    :raises BpfError: it refused
    """
    result = try_bpf(cmd, attr, size)
    if result < 0:
        raise error(-result, cmd, doing)
    return result


def error(errno: int, cmd: int, doing: str = "", *, needs: tuple[int, ...] = ()) -> BpfError:
    """The exception for a refused command.

    :param errno: positive
    :param needs: ``CAP_*`` numbers it takes; by default those of the command
    """
    if not doing:
        doing = Cmd(cmd).name
    if errno not in (EPERM, EACCES):
        return BpfError(errno, doing)
    if cmd in _ELEMENT:
        hint = "the map is frozen, or its flags or this descriptor do not allow it"
        return BpfError(errno, doing, hint)
    from .denied import denied  # only wanted now

    return denied(errno, doing, cmd, needs)


def fileno(fd: int | HasFileno) -> int:
    """The descriptor behind `fd`."""
    return fd if isinstance(fd, int) else fd.fileno()


def address(memory: Any) -> int:
    """Where a buffer lies; 0 for an empty one.

    The caller keeps `memory` alive and at its size during the system call.

    :param memory: `bytes`, or a writable contiguous buffer (bytearray, array, memoryview)
    """
    if not memory:
        return 0
    if isinstance(memory, bytes):
        return ctypes.cast(ctypes.c_char_p(memory), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def tail(text: str, lines: int = 1) -> str:
    """The last non-empty `lines` of a log."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def log_text(log: bytearray) -> str:
    """Decode what the kernel wrote into a log buffer, up to the first 0 byte."""
    end = log.find(0)
    return log[: end if end >= 0 else len(log)].decode(errors="replace")


def object_name(name: str) -> bytes:
    """Cut a name to the 15 bytes that fit into an object's name with its final 0."""
    return name.encode()[: BPF_OBJ_NAME_LEN - 1]
