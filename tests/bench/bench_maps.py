"""Map operations against a C loop of raw bpf(2) calls: ``python -m tests.bench.bench_maps``.

A hash of 64 Ki entries, 4-byte keys, 8-byte values.
"""

from __future__ import annotations

import ctypes
from array import array
from collections import deque
from pathlib import Path

from pybpf._uapi.enums import MapType
from pybpf.btf import Btf, Int
from pybpf.btf.encode import BtfBuilder
from pybpf.maps import Map
from pybpf.obj.spec import MapSpec
from tests.bench.peer import best, build, line, timed

ENTRIES = 1 << 16
SINGLES = 20_000
BATCH = 1 << 16


def typed_hash() -> Map:
    """A hash with ``unsigned int`` keys and ``unsigned long long`` values."""
    types = BtfBuilder()
    key = types.add(Int("unsigned int", 4, 32, 0, 0))
    value = types.add(Int("unsigned long long", 8, 64, 0, 0))
    kind = MapType.BPF_MAP_TYPE_HASH
    spec = MapSpec("bench", kind, 4, 8, 2 * ENTRIES, key_type_id=key, value_type_id=value)
    made = Map(spec, Btf(types.build()))
    made.create()
    return made


def main() -> list[str]:
    """Rows of the report."""
    c = build(Path(__file__).with_name("maps_peer.c"))
    for name in ("lookup", "update", "walk", "lookup_batch", "update_batch"):
        getattr(c, name).restype = ctypes.c_double

    with typed_hash() as m:
        fd = m.fileno()
        numbers = {i: i for i in range(ENTRIES)}
        m.update(numbers)
        raw = m.raw
        keys = [i.to_bytes(4, "little") for i in range(SINGLES)]
        value = bytes(8)
        packed = array("I", range(ENTRIES)).tobytes(), array("Q", range(ENTRIES)).tobytes()

        def lookup_raw() -> int:
            for key in keys:
                raw[key]
            return SINGLES

        def lookup_typed() -> int:
            for key in range(SINGLES):
                m[key]
            return SINGLES

        def update_raw() -> int:
            for key in keys:
                raw[key] = value
            return SINGLES

        def update_typed() -> int:
            for key in range(SINGLES):
                m[key] = key
            return SINGLES

        def walk() -> int:
            return sum(1 for _ in m._items_one_by_one())

        def batch_raw() -> int:
            return sum(count for _, _, count in m.batches(BATCH))

        def batch_dict() -> int:
            return len(m.to_dict(BATCH))

        def batch_items() -> int:
            deque(m.items(BATCH), maxlen=0)
            return ENTRIES

        def update_packed() -> int:
            m.update_packed(*packed)
            return ENTRIES

        def update_dict() -> int:
            m.update(numbers)
            return ENTRIES

        least = best(
            {
                "c lookup": lambda: c.lookup(fd, SINGLES),
                "lookup raw": lambda: timed(lookup_raw),
                "lookup typed": lambda: timed(lookup_typed),
                "c update": lambda: c.update(fd, SINGLES),
                "update raw": lambda: timed(update_raw),
                "update typed": lambda: timed(update_typed),
                "c walk": lambda: c.walk(fd),
                "walk": lambda: timed(walk),
                "c batch": lambda: c.lookup_batch(fd, BATCH),
                "batch raw": lambda: timed(batch_raw),
                "batch dict": lambda: timed(batch_dict),
                "batch items": lambda: timed(batch_items),
                "c update batch": lambda: c.update_batch(fd, ENTRIES),
                "update packed": lambda: timed(update_packed),
                "update dict": lambda: timed(update_dict),
            }
        )
        assert m.to_dict() == numbers

    rows = [f"{'map operations, ns per entry':<44} {'pybpf':>9} {'C':>9} {'ratio':>8}"]
    for what, ours, theirs, goal in (
        ("lookup, bytes", "lookup raw", "c lookup", 2.0),
        ("lookup, ints", "lookup typed", "c lookup", 2.0),
        ("update, bytes", "update raw", "c update", 2.0),
        ("update, ints", "update typed", "c update", 2.0),
        ("walk: get_next_key + lookup", "walk", "c walk", None),
        ("batch lookup, packed", "batch raw", "c batch", 1.15),
        ("batch lookup to a dict of ints", "batch dict", "c batch", 1.5),
        ("batch lookup, items() loop", "batch items", "c batch", None),
        ("batch update, packed", "update packed", "c update batch", 1.15),
        ("batch update from a dict of ints", "update dict", "c update batch", 1.5),
        ("pybpf to_dict vs C's key by key walk", "batch dict", "c walk", 0.2),
    ):
        rows.append(line(what, least[ours], least[theirs], goal))
    return rows


if __name__ == "__main__":
    print("\n".join(main()))
