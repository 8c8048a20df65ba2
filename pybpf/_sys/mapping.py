"""Map shared memory at a chosen address, which Python's mmap cannot do."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from errno import EEXIST

from ..errors import BpfError, StateError
from ..wording import many
from .door import fileno, mmap_at, munmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .door import HasFileno

__all__ = ["FixedMapping"]

_MAP_FIXED_NOREPLACE = 0x100000  # asm-generic/mman-common.h


class FixedMapping:
    """Map the memory of a descriptor, readable and writable, at a given address.

    :param length: bytes
    :param address: page-aligned
    :raises BpfError: EEXIST if something is mapped there, or the kernel's refusal
    """

    def __init__(self, fd: int | HasFileno, length: int, address: int) -> None:
        flags = mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        found = mmap_at(address, length, protection, flags, fileno(fd))
        if found < 0:
            what = f"mmap of {many(length, 'byte')} at {address:#x}"
            hint = "this process has something else there" if found == -EEXIST else ""
            raise BpfError(-found, what, hint)
        memory = (ctypes.c_char * length).from_address(found)
        self._memory: ctypes.Array[ctypes.c_char] | None = memory
        # If a view still exists, the memory is unmapped when it goes.
        # Not when Python ends: other threads and exit handlers may still use a view then.
        weakref.finalize(memory, munmap, found, length).atexit = False

    def view(self) -> memoryview:
        """Return the memory. It stays mapped as long as the view exists.

        :raises StateError: if it is closed
        """
        if self._memory is None:
            raise StateError("the mapping")
        return memoryview(self._memory).cast("B")

    def close(self) -> None:
        """Unmap it, now or when the last view goes."""
        self._memory = None
