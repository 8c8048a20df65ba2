"""Read kernel memory by address: trampoline images, function entries.

/proc/kcore is an ELF core file whose program headers map kernel addresses to
file offsets, so a read is one pread(2). If it is compiled out or denied,
a BPF_PROG_TYPE_SYSCALL program copies memory into an array map with
bpf_probe_read_kernel. A fault then gives an error, never a crash.
"""

from __future__ import annotations

import errno
import os
import struct
from bisect import bisect_right

from .._sys.fd import Fd
from .._uapi.defines import CAP_SYS_RAWIO
from ..errors import BpfError, DeniedByPolicy, ObjectFormatError, UnsupportedFeature
from ..wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["BpfMemory", "Kcore", "KernelMemory", "open_memory", "parse_segments"]

_PATH = "/proc/kcore"
_EHDR = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_LOAD = 1
_MOST_OFFSET = (1 << 63) - 1  # off_t
# Bytes the BPF reader copies at once: one value of its map.
_CHUNK = 4096


class KernelMemory:
    """Read kernel memory. Use it as a context manager."""

    #: Name for messages.
    name: str

    def read(self, addr: int, size: int) -> bytes:
        """Read `size` bytes from kernel address `addr`.

        :raises BpfError: EFAULT if part of the range is not mapped
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close its file descriptors. Closing twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def parse_segments(head: bytes) -> list[tuple[int, int, int]]:
    """Find the loaded ranges of an ELF64 core file: (address, bytes, file offset), sorted.

    :param head: start of the file, up to the last program header
    :raises ObjectFormatError: if it is not a little-endian ELF64 file, or is cut short
    """

    def bad(what: str, offset: int) -> ObjectFormatError:
        return ObjectFormatError(what, file=_PATH, offset=offset)

    if len(head) < _EHDR.size:
        raise bad(f"{many(len(head), 'byte')} cannot hold an ELF header", 0)
    fields = _EHDR.unpack_from(head)
    if fields[0] != b"\x7fELF":
        raise bad("not an ELF file", 0)
    if fields[1:3] != (2, 1):
        raise bad("not a little-endian ELF64 file", 4)
    phoff, phentsize, phnum = fields[10], fields[14], fields[15]
    if phentsize != _PHDR.size or phoff + phnum * phentsize > len(head):
        raise bad("program headers do not fit", phoff)
    segments = []
    for i in range(phnum):
        kind, _, offset, vaddr, _, filesz, _, _ = _PHDR.unpack_from(head, phoff + i * phentsize)
        if kind == _PT_LOAD and filesz:
            if offset + filesz > _MOST_OFFSET:
                raise bad(f"a segment at {offset:#x}, further than files go", phoff + i * phentsize)
            segments.append((vaddr, filesz, offset))
    return sorted(segments)


class Kcore(KernelMemory):
    """Read /proc/kcore, or another file of the same form.

    :raises UnsupportedFeature: if the kernel has none (CONFIG_PROC_KCORE), or it is empty
    :raises DeniedByPolicy: if this process may not open it (CAP_SYS_RAWIO, lockdown)
    """

    name = _PATH

    def __init__(self, path: str = _PATH) -> None:
        try:
            self._fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
        except FileNotFoundError:
            raise UnsupportedFeature(_PATH, "2.4", "CONFIG_PROC_KCORE is off") from None
        except PermissionError as error:
            from .._sys.lockdown import read_hint

            hint = read_hint("root only, with CAP_SYS_RAWIO", (CAP_SYS_RAWIO,))
            raise DeniedByPolicy(error.errno or errno.EPERM, f"opening {path}", hint) from None
        try:
            head = os.pread(self._fd.fileno(), 64 << 10, 0)
            if not head:  # containers put /dev/null there
                raise UnsupportedFeature(_PATH, "2.4", "it is empty: a container hides it")
            self._segments = parse_segments(head)
        except BaseException:
            self.close()
            raise
        self._starts = [start for start, _, _ in self._segments]

    def close(self) -> None:
        self._fd.close()

    def read(self, addr: int, size: int) -> bytes:
        """Read `size` bytes from kernel address `addr`.

        :raises BpfError: EFAULT if part of the range is not mapped
        """
        out = b""
        while len(out) < size:
            part = self._read_part(addr + len(out), size - len(out))
            if not part:
                what = f"reading {many(size, 'byte')} at {addr:#x} of {_PATH}"
                raise BpfError(errno.EFAULT, what)
            out += part
        return out

    def _read_part(self, addr: int, size: int) -> bytes:
        at = bisect_right(self._starts, addr) - 1
        if at < 0:
            return b""
        start, length, offset = self._segments[at]
        if addr - start >= length:
            return b""
        try:
            skip = addr - start
            return os.pread(self._fd.fileno(), min(size, length - skip), offset + skip)
        except OSError as error:
            if error.errno in (errno.EFAULT, errno.EINVAL, errno.EIO):
                return b""
            raise


def _reader_program(map_fd: int) -> bytes:
    # ctx is {u64 addr; u64 size}: copy to the value of `map_fd` and return 0 or -errno.
    from ..asm import insn as asm
    from ..asm import opcodes as op

    probe_read_kernel, e2big = 113, -errno.E2BIG
    return asm.encode(
        [
            asm.load(op.DW, op.R3, op.R1, 0),
            asm.load(op.DW, op.R2, op.R1, 8),
            asm.mov(op.R0, e2big),
            asm.jmp(op.JGT, op.R2, _CHUNK, 3),
            *asm.map_value(op.R1, map_fd, 0),
            asm.call(probe_read_kernel),
            asm.exit_(),
        ]
    )


class BpfMemory(KernelMemory):
    """Read kernel memory through a BPF program, which is closed with this object.

    :raises DeniedByPolicy: if such programs may not be loaded
    :raises BpfError: if the kernel cannot do it (before 5.14)
    """

    name = "bpf_probe_read_kernel"

    def __init__(self) -> None:
        from .._sys import bpf as sys_bpf
        from .._sys import prog as sys_prog
        from .._sys.element import Element
        from .._uapi.defines import BPF_F_SLEEPABLE
        from .._uapi.enums import MapType, ProgType

        self._map = sys_bpf.map_create(
            MapType.BPF_MAP_TYPE_ARRAY,
            key_size=4,
            value_size=_CHUNK,
            max_entries=1,
            name="pybpf_memory",
        )
        try:
            self._program = sys_prog.prog_load(
                ProgType.BPF_PROG_TYPE_SYSCALL,
                _reader_program(self._map.fileno()),
                name="pybpf_memory",
                prog_flags=BPF_F_SLEEPABLE,
            )
        except BaseException:
            self._map.close()
            raise
        self._entry = Element(self._map.fileno(), 4, _CHUNK)

    def close(self) -> None:
        self._program.close()
        self._map.close()

    def read(self, addr: int, size: int) -> bytes:
        """Read `size` bytes from kernel address `addr`.

        :raises BpfError: EFAULT if part of the range is not mapped
        """
        from .._sys import prog as sys_prog
        from .._sys.element import last_errno

        out = bytearray()
        while len(out) < size:
            count = min(_CHUNK, size - len(out))
            context = struct.pack("<QQ", addr + len(out), count)
            result = sys_prog.prog_test_run(self._program, ctx_in=context)
            if result.retval:
                # __u32 that holds -errno: EFAULT, or ERANGE for a user address
                what = f"reading {many(size, 'byte')} at {addr:#x} by a BPF program"
                raise BpfError(errno.EFAULT, what)
            if self._entry.lookup() < 0:
                raise BpfError(last_errno(), "BPF_MAP_LOOKUP_ELEM of the map of pybpf_memory")
            out += self._entry.value[:count]
        return bytes(out)


def open_memory() -> KernelMemory:
    """Open the first way to read kernel memory that works. The caller closes it.

    :raises DeniedByPolicy: if a policy forbids every way
    :raises BpfError: if the kernel has no way
    """
    try:
        return Kcore()
    except (UnsupportedFeature, DeniedByPolicy) as error:
        first = error
    try:
        return BpfMemory()
    except BpfError as error:
        error.add_context(f"{first}")
        raise
