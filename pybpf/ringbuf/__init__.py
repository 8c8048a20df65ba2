"""BPF ring buffer consumer (``BPF_MAP_TYPE_RINGBUF``), batch first.

`RingBuffer` reads one ring, `RingBuffers` waits for several at once.
"""

from __future__ import annotations

from pybpf.ringbuf.reader import Chunk, RingBuffer
from pybpf.ringbuf.waiting import Batches, RingBuffers

__all__ = ["Batches", "Chunk", "RingBuffer", "RingBuffers"]
