"""The perf buffer reader against libbpf's: ``python -m tests.bench perfbuf``.

One CPU's ring of 4 MiB, 90 % full of records of 24 bytes, then drained; the producer does not run
meanwhile. A perf event array belongs to one reader, so each side has an object of its own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pybpf
from pybpf.ringbuf.perf import PerfBuffer
from tests.bench.peer import best, build, line, timed

OBJECT = Path(__file__).parents[1] / "data" / "map_perf.bpf.o"
PAGES = 1024
RECORD = 40  # bytes in the ring: header, size and 24 bytes, in words of 8
RECORDS = PAGES * 4096 * 9 // 10 // RECORD


def main() -> list[str]:
    """Rows of the report."""
    c = build(Path(__file__).with_name("perfbuf_peer.c"), "bpf")
    c.perf_open.restype = ctypes.c_void_p
    c.perf_open.argtypes = [ctypes.c_int, ctypes.c_size_t]
    c.perf_close.argtypes = [ctypes.c_void_p]
    c.perf_consume.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    c.perf_consume.restype = ctypes.c_double
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        return _rows(c)
    finally:
        os.sched_setaffinity(0, before)


def _rows(c: ctypes.CDLL) -> list[str]:
    with pybpf.open(OBJECT) as mine, pybpf.open(OBJECT) as libbpfs:
        mine.load()
        libbpfs.load()
        peer = c.perf_open(libbpfs.maps["events"].fileno(), PAGES)
        if not peer:
            raise OSError("libbpf cannot open the perf buffer")

        def offer(obj: pybpf.Object) -> None:
            obj.programs["offer_packet"].test_run(bytes(64), repeat=RECORDS)

        def libbpf() -> float:
            offer(libbpfs)
            took = float(c.perf_consume(peer, RECORDS))
            if took < 0:
                raise OSError("libbpf did not read all records")
            return took

        def side(buffer: PerfBuffer, drain: Callable[[PerfBuffer], int]) -> Callable[[], float]:
            def once() -> float:
                offer(mine)
                return timed(lambda: all_of(drain(buffer)))

            return once

        def by_batches(buffer: PerfBuffer) -> int:
            return sum(len(batch) for batch in buffer.batches(0))

        def all_of(found: int) -> int:
            if found != RECORDS:
                raise OSError(f"{found} of {RECORDS} records read")
            return found

        with PerfBuffer(mine.maps["events"], "struct event", pages=PAGES) as typed:
            sides = {
                "libbpf": libbpf,
                "typed": side(typed, by_batches),
            }
            least = best(sides, rounds=9)
        with PerfBuffer(mine.maps["events"], pages=PAGES) as raw:
            least |= best({"bytes": side(raw, by_batches)}, rounds=9)
        c.perf_close(peer)
    rows = [f"{'perf buffer, ns per record':<44} {'pybpf':>9} {'libbpf':>9} {'ratio':>8}"]
    for what, name in (("BTF records", "typed"), ("bytes", "bytes")):
        text = line(what, least[name], least["libbpf"])
        rows.append(f"{text}   {1e3 / least[name]:.1f} M/s")
    return rows


if __name__ == "__main__":
    print("\n".join(main()))
