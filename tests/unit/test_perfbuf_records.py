"""Perf records, built here byte by byte, and what the scan finds in them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.errors import BpfError
from pybpf.ringbuf.perf import scan_perf
from pybpf.ringbuf.records import bytes_decoder, skip_records, struct_decoder


def sample(payload: bytes) -> bytes:
    """PERF_RECORD_SAMPLE with PERF_SAMPLE_RAW: padded so that the record is whole words."""
    raw = payload + bytes(-(len(payload) + 4) % 8)
    return struct.pack("=IHHI", 9, 0, 12 + len(raw), len(raw)) + raw


def lost(count: int) -> bytes:
    return struct.pack("=IHHQQ", 2, 0, 24, 7, count)


def other(size: int) -> bytes:
    return struct.pack("=IHH", 5, 0, size) + bytes(size - 8)


def decode(data: bytes, decoder: Any) -> list[Any]:
    view = memoryview(data + bytes(8))
    out: list[Any] = []
    decoder(view, scan_perf(view).runs, out)
    return out


@given(
    st.lists(
        st.one_of(
            st.sampled_from([4, 12, 20]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
            st.integers(1, 1000),
            st.none(),
        ),
        max_size=60,
    )
)
def test_samples_losses_and_strangers(items: list[bytes | int | None]) -> None:
    """Every sample comes out, losses add up, records of other types are passed over."""
    data = b"".join(
        sample(i) if isinstance(i, bytes) else lost(i) if i else other(16) for i in items
    )
    found = scan_perf(memoryview(data + bytes(8)))
    samples = [i for i in items if isinstance(i, bytes)]
    assert found.lost == sum(i for i in items if isinstance(i, int))
    assert found.records == len(samples)
    assert decode(data, bytes_decoder()) == samples


@pytest.mark.parametrize("count", [1, 2, 9, 1000])
def test_long_runs(count: int) -> None:
    """A run of equal records, where the scan guesses ahead, with a stranger behind it."""
    data = b"".join(sample(struct.pack("=IQ", i, i * i)) for i in range(count)) + lost(1)
    assert decode(data, struct_decoder(struct.Struct("=IQ"))) == [(i, i * i) for i in range(count)]


def test_padding_stays() -> None:
    """The kernel does not tell padding from data, so neither do we."""
    assert decode(sample(b"abc"), bytes_decoder()) == [b"abc\0"]


@pytest.mark.parametrize("size", [0, 4, 20, 64])
def test_bad_sizes_are_refused(size: int) -> None:
    """A size of 0 would loop forever, one too big would leave the chunk: an error instead."""
    data = struct.pack("=IHH", 9, 0, size) + bytes(8)
    with pytest.raises(BpfError, match=f"record of {size} bytes"):
        scan_perf(memoryview(data + bytes(8)))


def test_skip_records() -> None:
    runs = [(0, 2, 8), (48, 3, 20)]
    assert skip_records(runs, 0) == runs
    assert skip_records(runs, 1) == [(16, 1, 8), (48, 3, 20)]
    assert skip_records(runs, 4) == [(48 + 64, 1, 20)]
    assert skip_records(runs, 5) == []
