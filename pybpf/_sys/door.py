"""The one door to the kernel: bpf(2) and perf_event_open(2), which libc does not wrap.

Every bpf(2) and perf_event_open(2) of pybpf leaves the process through this module. So a test
can replace `_syscall` and `prepare` here and needs no kernel. An attr is passed with the size of
its own structure. An older kernel, whose ``union bpf_attr`` is shorter, accepts that as long as
the rest is zero.

EPERM and EACCES become `DeniedByPolicy`, whose hint says who refused. For BPF_OBJ_PIN,
BPF_OBJ_GET and map entries EPERM means something else (a wrong path, a frozen map), and their
callers explain it.
"""

from __future__ import annotations

import ctypes
import os
from errno import EACCES, EINVAL, EPERM
from functools import partial

from .._uapi.defines import BPF_OBJ_NAME_LEN, SYS_BPF
from .._uapi.enums import Cmd
from ..errors import BpfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    Call = Callable[[], int]

    class HasFileno(Protocol):
        """Describe anything with a descriptor."""

        def fileno(self) -> int: ...


__all__ = [
    "LOG_FIRST",
    "LOG_MOST",
    "address",
    "bpf",
    "bpf_common",
    "c_string",
    "error",
    "fileno",
    "give_back",
    "last_errno",
    "log_text",
    "mmap_at",
    "munmap",
    "object_name",
    "prepare",
    "syscall",
    "tail",
    "try_bpf",
]

#: Bytes of the first log buffer. The kernel takes buffers of up to UINT_MAX / 4 bytes.
LOG_FIRST = 1 << 16
#: Bytes of the last one. A longer log is cut.
LOG_MOST = 1 << 27

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 6  # number, arguments
_mmap = _libc.mmap
_mmap.restype = ctypes.c_ssize_t
_mmap.argtypes = [
    *(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
]
_trim = getattr(_libc, "malloc_trim", None)  # glibc has it
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
# syscall() once more, for arguments that are converted already.
_ready_syscall = _libc["syscall"]
_ready_syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: int) -> int:
    """Make a system call with five arguments.

    :returns: the result, or a negative errno
    """
    result: int = _syscall(number, *arguments)
    return result if result >= 0 else -ctypes.get_errno()


def mmap_at(address: int, length: int, protection: int, flags: int, fd: int) -> int:
    """Call mmap(2), from the start of `fd`.

    :returns: the address, or a negative errno
    """
    result: int = _mmap(address, length, protection, flags, fd, 0)
    return result if result != -1 else -ctypes.get_errno()


def munmap(address: int, length: int) -> None:
    """Call munmap(2) on what `mmap_at` gave."""
    _munmap(address, length)


def give_back() -> None:
    """Return freed memory to the kernel, where the C library does that on request.

    After a large block was freed, glibc keeps later blocks of up to that size for itself.
    Source: malloc_trim(3), mallopt(3), M_MMAP_THRESHOLD.
    """
    if _trim is not None:
        _trim(0)


def prepare(cmd: int, attr: ctypes.Array[ctypes.c_uint64], size: int = 0) -> Call:
    """Prepare a bpf(2) command that can be called many times at the lowest cost.

    The arguments are converted once, here. Without argtypes, ctypes has nothing to look
    up, convert or allocate in a call. That saves half of the time of a map lookup.

    :param attr: memory of the attr, which the caller keeps alive
    :param size: bytes of it to pass, by default all
    :returns: a function that returns the result of the call; after -1, see `last_errno`
    """
    return partial(
        _ready_syscall,
        ctypes.c_long.from_param(SYS_BPF),
        ctypes.c_long.from_param(int(cmd)),
        ctypes.c_void_p.from_param(ctypes.addressof(attr)),
        ctypes.c_ulong.from_param(size or ctypes.sizeof(attr)),
    )


def last_errno() -> int:
    """Return errno of this thread's last call that returned -1."""
    return ctypes.get_errno()


def try_bpf(cmd: int, attr: ctypes.Structure, size: int | None = None) -> int:
    """Do what `bpf` does, but return an error as a negative errno."""
    return syscall(
        SYS_BPF,
        cmd,
        ctypes.addressof(attr),
        ctypes.sizeof(attr) if size is None else size,
        0,
        0,
    )


def bpf_common(cmd: int, attr: ctypes.Structure, common: ctypes.Structure) -> int:
    """Do what `try_bpf` does, with ``struct bpf_common_attr``: a log for any command.

    A kernel without it answers -EINVAL.
    """
    return syscall(
        SYS_BPF,
        cmd | Cmd.BPF_COMMON_ATTRS,
        ctypes.addressof(attr),
        ctypes.sizeof(attr),
        ctypes.addressof(common),
        ctypes.sizeof(common),
    )


def bpf(cmd: int, attr: ctypes.Structure, size: int | None = None, *, doing: str = "") -> int:
    """Call bpf(2).

    :param cmd: ``enum bpf_cmd``
    :param attr: the command's own variant of ``union bpf_attr``
    :param size: bytes of it to pass, by default all
    :param doing: name of the action in errors; by default the command's name
    :returns: what the kernel returned, >= 0
    :raises BpfError: if it refused
    """
    result = try_bpf(cmd, attr, size)
    if result < 0:
        raise error(-result, cmd, doing)
    return result


def error(
    errno: int, cmd: int, doing: str = "", *, needs: tuple[int, ...] = (), token: bool = False
) -> BpfError:
    """Make the exception for a refused command.

    :param errno: positive
    :param needs: ``CAP_*`` numbers it requires; by default those of the command
    :param token: it was called with a BPF token
    """
    if not doing:
        doing = Cmd(cmd).name
    if errno not in (EPERM, EACCES):
        return BpfError(errno, doing)
    from .denied import denied  # lazy: only errors need it

    return denied(errno, doing, cmd, needs, token=token)


def fileno(fd: int | HasFileno) -> int:
    """Return the descriptor number of `fd`."""
    return fd if isinstance(fd, int) else fd.fileno()


def address(memory: Any) -> int:
    """Return the address of a buffer, 0 for an empty one.

    The caller keeps `memory` alive and does not resize it during the system call.

    :param memory: `bytes`, or a writable contiguous buffer (bytearray, array, memoryview)
    """
    if not memory:
        return 0
    if isinstance(memory, bytes):
        return ctypes.cast(ctypes.c_char_p(memory), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def c_string(text: str | os.PathLike[str]) -> bytes:
    """Return a name or path with the NUL that ends it in C.

    :raises BpfError: EINVAL if it has another NUL, at which the kernel would end it
    """
    data = os.fsencode(text)
    if b"\0" in data:
        raise BpfError(EINVAL, f"{os.fspath(text)!r}", "a name ends at a NUL byte")
    return data + b"\0"


def tail(text: str, lines: int = 1) -> str:
    """Return the last non-empty `lines` of a log."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def log_text(log: bytearray) -> str:
    """Decode what the kernel wrote into a log buffer, up to the first 0 byte."""
    end = log.find(0)
    return log[: end if end >= 0 else len(log)].decode(errors="replace")


def object_name(name: str) -> bytes:
    """Cut a name to the 15 bytes that fit into an object's name with its final 0."""
    return name.encode()[: BPF_OBJ_NAME_LEN - 1]
