"""The ring buffer reader against libbpf: ``python -m tests.bench.bench_ringbuf``.

A ring of 16 MiB, 90 % full of 32-byte records, then drained; the producer does not run meanwhile.
"""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pybpf._uapi.enums import MapType
from pybpf.btf import Array, Btf, Int, Member, Struct
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.values import Codec, codec
from pybpf.maps import Map
from pybpf.ringbuf import RingBuffer
from tests.bench.peer import best, build, line, timed
from tests.support.ringprog import Producer

RING = 16 << 20
RECORDS = RING * 9 // 10 // 40
GOAL = 4e6  # decoded records a second


def event_codec() -> Codec:
    """``struct event { u64 seq; u32 a, b; u64 c, d; }``."""
    types = BtfBuilder()
    u32 = types.add(Int("unsigned int", 4, 32))
    u64 = types.add(Int("unsigned long long", 8, 64))
    fields = [("seq", u64, 0), ("a", u32, 64), ("b", u32, 96), ("c", u64, 128), ("d", u64, 192)]
    event = types.add(Struct("event", 32, tuple(Member(*field) for field in fields)))
    return codec(Btf(types.build()), event)


def named_codec() -> Codec:
    """``struct event { u64 seq; u32 a, b; char comm[16]; }``, of the same size."""
    types = BtfBuilder()
    char = types.add(Int("char", 1, 8, 0, 1))
    u32 = types.add(Int("unsigned int", 4, 32))
    u64 = types.add(Int("unsigned long long", 8, 64))
    comm = types.add(Array(char, u32, 16))
    fields = [("seq", u64, 0), ("a", u32, 64), ("b", u32, 96), ("comm", comm, 128)]
    event = types.add(Struct("event", 32, tuple(Member(*field) for field in fields)))
    return codec(Btf(types.build()), event)


def main() -> list[str]:
    """Rows of the report."""
    c = build(Path(__file__).with_name("ringbuf_peer.c"), "bpf")
    c.ring_open.restype = ctypes.c_void_p
    c.ring_consume.argtypes = c.ring_close.argtypes = [ctypes.c_void_p]
    c.ring_consume.restype = ctypes.c_double
    kind = MapType.BPF_MAP_TYPE_RINGBUF
    with Map.create_new(kind, 0, 0, RING) as ring, Producer.output(ring, 32) as producer:
        peer = c.ring_open(ring.fileno())
        fields = struct.Struct("=QIIQQ")

        def side(type: object, drain: Callable[[RingBuffer], int]) -> Callable[[], float]:
            def once() -> float:
                producer.run(RECORDS)
                with RingBuffer(ring, type) as rb:
                    return timed(lambda: drain(rb))

            return once

        def libbpf() -> float:
            producer.run(RECORDS)
            return float(c.ring_consume(peer))

        def by_batches(rb: RingBuffer) -> int:
            return sum(len(batch) for batch in rb.batches(0))

        def by_loop(rb: RingBuffer) -> int:
            count = 0
            for batch in rb.batches(0):
                for _seq, _a, _b, _c, _d in batch:
                    count += 1
            return count

        def by_attribute(rb: RingBuffer) -> int:
            count = 0
            for batch in rb.batches(0):
                for event in batch:
                    count += event.seq > 0
            return count

        def by_callback(rb: RingBuffer) -> int:
            return rb.consume(len)

        def by_chunk(rb: RingBuffer) -> int:
            with rb.chunk() as chunk:
                return len(chunk) if chunk is not None else 0

        def by_sum(rb: RingBuffer) -> int:
            with rb.chunk() as chunk:
                assert chunk is not None
                sum(chunk.column(0, "Q").tolist())
                return len(chunk)

        def by_counter(rb: RingBuffer) -> int:
            with rb.chunk() as chunk:
                assert chunk is not None
                Counter(chunk.column(8, "I").tolist())
                return len(chunk)

        def mixed() -> float:
            with Producer.output(ring, None) as sizes:
                sizes.run(RING * 8 // 10 // 144)
                with RingBuffer(ring) as rb:
                    return timed(lambda: by_batches(rb))

        least = best(
            {
                "libbpf": libbpf,
                "tuples": side(fields, by_batches),
                "tuples, loop": side(fields, by_loop),
                "typed": side(event_codec(), by_batches),
                "named": side(named_codec(), by_batches),
                "typed, loop": side(event_codec(), by_attribute),
                "bytes": side(None, by_batches),
                "one read": side(fields, lambda rb: len(rb.read(0))),
                "callback": side(None, by_callback),
                "chunk": side(None, by_chunk),
                "sum": side(None, by_sum),
                "counter": side(None, by_counter),
                "mixed": mixed,
            },
            rounds=9,
        )
        c.ring_close(peer)

    theirs = least["libbpf"]
    rows = [
        f"{'ring buffer, ns per 32-byte record':<44} {'pybpf':>9} {'libbpf':>9} {'ratio':>8}",
        line("hand-over of a checked run, nothing copied", least["chunk"], theirs, 1.6),
    ]
    for what, name, goal in (
        ("sum of one column of a run", "sum", None),
        ("Counter of one column of a run", "counter", None),
        ("batches of tuples", "tuples", GOAL),
        ("batches of tuples, unpacked in a loop", "tuples, loop", GOAL),
        ("batches of BTF records", "typed", GOAL),
        ("batches of BTF records, attribute in a loop", "typed, loop", None),
        ("batches of BTF records with a char[16]", "named", None),
        ("batches of bytes", "bytes", GOAL),
        ("everything with one read(), tuples", "one read", None),
        ("views to a callback", "callback", 1.5e6),
        ("batches of bytes, 8 to 256 bytes long", "mixed", None),
    ):
        rate = 1e9 / least[name]
        text = line(what, least[name], theirs) + f"   {rate / 1e6:.1f} M/s"
        if goal is not None:
            text += f", goal >= {goal / 1e6:g} {'ok' if rate >= goal else 'MISSED'}"
        rows.append(text)
    return rows


if __name__ == "__main__":
    print("\n".join(main()))
