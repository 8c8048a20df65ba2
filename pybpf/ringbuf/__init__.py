"""BPF ring buffer consumer (``BPF_MAP_TYPE_RINGBUF``), batch first.

`RingBuffer` reads one ring, `RingBuffers` waits for several at once. `UserRingBuffer` is the
other direction: it sends records to BPF programs (``BPF_MAP_TYPE_USER_RINGBUF``).
"""

from __future__ import annotations

from .reader import Chunk, RingBuffer
from .several import RingBuffers
from .user import Reservation, UserRingBuffer
from .waiting import Batches

__all__ = ["Batches", "Chunk", "Reservation", "RingBuffer", "RingBuffers", "UserRingBuffer"]
