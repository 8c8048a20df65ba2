"""Memory of this process."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Return freed memory to the kernel, where the C library does that on request (glibc).

    After a large block was freed, glibc keeps later blocks of up to that size for itself.
    Source: malloc_trim(3), mallopt(3), M_MMAP_THRESHOLD.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim.argtypes = [ctypes.c_size_t]
        trim(0)
