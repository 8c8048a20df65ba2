"""BPF ring buffer consumer (``BPF_MAP_TYPE_RINGBUF``), batch first.

`RingBuffer` reads one ring, `RingBuffers` waits for several at once.
"""

from __future__ import annotations

from .reader import Chunk, RingBuffer
from .several import RingBuffers
from .waiting import Batches

__all__ = ["Batches", "Chunk", "RingBuffer", "RingBuffers"]
