"""The layout of records in a BPF ring buffer, and how a run of them is decoded.

Pure: it works on any buffer that looks like the data pages of the kernel's ring
(``kernel/bpf/ringbuf.c``), so it is tested without a kernel.

Theory of operation. Each record is an 8-byte header followed by its payload,
padded to 8 bytes. The header's first ``__u32`` is the payload length in bytes.
Its top bits say BUSY (reserved but not yet submitted: nothing after it may be
read) and DISCARD (skip it). Walking the headers one by one costs Python some
200 ns per record, 40 times what C needs. So `scan` guesses: if two headers in
a row are equal, the next N records probably have that length, too. Then
their headers are a strided view of the ring, and one comparison with N copies of
that header, at C speed, proves or refutes it. A busy, discarded or
different record makes a header differ. N grows eightfold with each success and starts
again at 8 after a failure, so a ring of ever-changing lengths costs little
more than the plain walk. The result is a list of runs (offset, records,
length). Decoders work run by run, again with one C call each if the
type allows it (``struct.Struct.iter_unpack`` with the header as padding).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from sys import byteorder
from typing import Any, Protocol

from ..errors import BpfError
from ..namedtuple import NamedTuple
from ..wording import many

__all__ = [
    "BUSY",
    "DISCARD",
    "HEADER_SIZE",
    "LENGTH_MASK",
    "Decoder",
    "RecordCodec",
    "Run",
    "Scan",
    "bytes_decoder",
    "call_decoder",
    "codec_decoder",
    "ctypes_decoder",
    "record_offset",
    "scan",
    "skip_records",
    "stride_of",
    "struct_decoder",
]

# UAPI <linux/bpf.h>: BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ.
BUSY = 1 << 31
DISCARD = 1 << 30
HEADER_SIZE = 8
LENGTH_MASK = DISCARD - 1

_FIRST_GUESS = 8
_GROWTH = 8
_FORMS = 64  # compiled record layouts to keep, for records of ever-changing length


#: Adjacent records of one length, none of them discarded: offset of the first
#: header (bytes from the start of the data pages), number of records, length of one
#: payload (bytes).
Run = tuple[int, int, int]


class Scan(NamedTuple):
    """Hold what `scan` found between two positions."""

    runs: list[Run]
    end: int  # offset after the last record that was read, bytes
    records: int  # in `runs`; discarded ones are not counted
    discarded: int
    busy: bool  # stopped at a record that is reserved but not submitted
    header: int  # the last header seen, the `hint` for the next call


def stride_of(length: int) -> int:
    """Return the bytes that a record with a payload of `length` bytes takes in the ring."""
    return (length + HEADER_SIZE + 7) & ~7


def scan(
    words: memoryview,
    start: int,
    end: int,
    *,
    limit: int = 1 << 62,
    hint: int = -1,
    one_run: bool = False,
) -> Scan:
    """Find the complete records between two offsets.

    :param words: the data pages as ``__u32`` (a ring mapped twice in a row, so
        that a record that wraps is in one piece)
    :param start: offset of the consumer position, bytes
    :param end: offset of the producer position, bytes, >= `start`
    :param limit: stop after this many records (discarded ones do not count)
    :param hint: a header value to expect first, from the previous `Scan`
    :param one_run: stop before the first record that does not extend the first run
    :raises BpfError: EBADMSG if a record goes beyond `end`
    """
    runs: list[Run] = []
    offset = start
    records = discarded = 0
    # The run being collected.
    run_offset = run_length = run_end = -1
    run_stride = 1
    last = hint
    guess = _FIRST_GUESS
    busy = False
    while offset < end and records < limit:
        header = words[offset >> 2]
        if header & BUSY:
            busy = True
            break
        length = header & LENGTH_MASK
        stride = (length + 15) & ~7
        left = end - offset
        if stride > left:
            raise BpfError(
                errno.EBADMSG,
                "ring buffer",
                f"record of {many(length, 'byte')} at offset {offset} reaches beyond "
                "the producer position",
            )
        count = 1
        if header == last:
            count = min(left // stride, guess, limit - records)
            step = stride >> 2
            first = offset >> 2
            headers = words[first : first + count * step : step]
            if headers == memoryview(header.to_bytes(4, byteorder) * count).cast("I"):
                guess *= _GROWTH
            else:
                # A record that was busy when compared may be complete now. Then all are equal.
                odd = (i for i, seen in enumerate(headers.tolist()) if seen != header)
                count = next(odd, count)
                guess = _FIRST_GUESS
        last = header
        if header & DISCARD:
            discarded += count
        else:
            if length != run_length or offset != run_end:
                if run_length >= 0:
                    if one_run:
                        break
                    runs.append((run_offset, (run_end - run_offset) // run_stride, run_length))
                run_offset, run_length, run_stride = offset, length, stride
            run_end = offset + count * stride
            records += count
        offset += count * stride
    if run_length >= 0:
        runs.append((run_offset, (run_end - run_offset) // run_stride, run_length))
    return Scan(runs, offset, records, discarded, busy, last)


def record_offset(runs: Sequence[Run], index: int) -> int:
    """Return the byte offset of the header of record `index`, counted over all `runs`."""
    for offset, count, length in runs:
        if index < count:
            return offset + index * stride_of(length)
        index -= count
    raise ValueError("no such record")


def skip_records(runs: Sequence[Run], count: int) -> list[Run]:
    """Return the runs without their first `count` records."""
    left = []
    for offset, records, length in runs:
        gone = min(count, records)
        count -= gone
        if gone < records:
            left.append((offset + gone * stride_of(length), records - gone, length))
    return left


# A decoder appends the values of some runs to a list. The values it appended before an
# exception are right, so the caller knows which record failed.
Decoder = Callable[[memoryview, Sequence[Run], list[Any]], None]


class RecordCodec(Protocol):
    """Describe what decodes a typed record. `pybpf.btf.values.Codec` is one."""

    @property
    def size(self) -> int: ...

    def decode(self, buffer: Any, offset: int = 0) -> Any: ...

    def iter_unpack(self, buffer: Any, *, before: int = 0, after: int = 0) -> Iterable[Any]: ...


def _too_short(length: int, size: int) -> ValueError:
    sizes = f"{many(length, 'byte')}, but its type takes {many(size, 'byte')}"
    return ValueError(f"ring buffer record of {sizes}")


def bytes_decoder() -> Decoder:
    """Decode records as `bytes`, copied out of the ring."""
    made: dict[int, struct.Struct] = {}

    def decode(data: memoryview, runs: Sequence[Run], out: list[Any]) -> None:
        for offset, count, length in runs:
            if count == 1:
                at = offset + HEADER_SIZE
                out.append(data[at : at + length].tobytes())
                continue
            stride = stride_of(length)
            form = made.get(length)
            if form is None:
                if len(made) >= _FORMS:
                    made.clear()
                padding = stride - HEADER_SIZE - length
                form = made[length] = struct.Struct(f"={HEADER_SIZE}x{length}s{padding}x")
            records = data[offset : offset + count * stride]
            out.extend(chain.from_iterable(form.iter_unpack(records)))

    return decode


def struct_decoder(fields: struct.Struct) -> Decoder:
    """Decode records as tuples. If a record is longer than `fields`, its tail is ignored."""
    order = fields.format[:1] if fields.format[:1] in "@=<>!" else ""
    body = fields.format[len(order) :]
    size = fields.size
    made: dict[int, struct.Struct] = {}
    unpack_from = fields.unpack_from

    def decode(data: memoryview, runs: Sequence[Run], out: list[Any]) -> None:
        for offset, count, length in runs:
            if length < size:
                raise _too_short(length, size)
            if count == 1:
                out.append(unpack_from(data, offset + HEADER_SIZE))
                continue
            stride = stride_of(length)
            form = made.get(stride)
            if form is None:
                if len(made) >= _FORMS:
                    made.clear()
                # The header keeps 8-byte alignment, so native alignment ("@") is also right.
                form = struct.Struct(f"{order}{HEADER_SIZE}x{body}{stride - HEADER_SIZE - size}x")
                made[stride] = form
            out.extend(form.iter_unpack(data[offset : offset + count * stride]))

    return decode


def codec_decoder(codec: RecordCodec) -> Decoder:
    """Decode records by a BTF codec. If a record is longer, its tail is ignored.

    Programs often send no more of an array at the end than they filled. A record may thus end
    inside that array, if the codec has ``least``, the bytes before it. The rest is 0. A flexible
    array (``char data[]``) gets what is there, if the codec has ``flexible``.
    """
    size = codec.size
    flexible = getattr(codec, "flexible", None)
    least: int = getattr(codec, "least", size)
    decode_one = codec.decode
    iter_unpack = codec.iter_unpack

    def decode(data: memoryview, runs: Sequence[Run], out: list[Any]) -> None:
        for offset, count, length in runs:
            if length < least:
                raise _too_short(length, least)
            if length < size or flexible is not None:
                stride, rest = stride_of(length), bytes(max(size - length, 0))
                first = offset + HEADER_SIZE
                for at in range(first, first + count * stride, stride):
                    payload = data[at : at + length].tobytes()
                    value = decode_one(payload + rest)
                    if flexible is not None:
                        value = flexible.fill(value, payload[flexible.offset :])
                    out.append(value)
                continue
            if count == 1:
                out.append(decode_one(data, offset + HEADER_SIZE))
                continue
            stride = stride_of(length)
            records = data[offset : offset + count * stride]
            out.extend(iter_unpack(records, before=HEADER_SIZE, after=stride - HEADER_SIZE - size))

    return decode


def ctypes_decoder(kind: Any) -> Decoder:
    """Decode records as a `ctypes.Structure` or `ctypes.Union`, with memory of their own.

    If a record is longer, its tail is ignored. It may end inside an array at the end, as for
    `codec_decoder`.
    """
    import ctypes

    class Copied:
        size = ctypes.sizeof(kind)
        least = size

        def decode(self, buffer: Any, offset: int = 0) -> Any:
            return kind.from_buffer_copy(buffer, offset)

        def iter_unpack(self, buffer: Any, *, before: int = 0, after: int = 0) -> Iterable[Any]:
            stride = before + self.size + after
            starts = range(before, len(buffer), stride)
            return [kind.from_buffer_copy(buffer, at) for at in starts]

    fields = getattr(kind, "_fields_", ())
    if fields and issubclass(kind, ctypes.Structure) and issubclass(fields[-1][1], ctypes.Array):
        Copied.least = getattr(kind, fields[-1][0]).offset
    return codec_decoder(Copied())


def call_decoder(function: Callable[[memoryview], Any]) -> Decoder:
    """Decode records by calling `function` with a view of each.

    The view is of ring memory and is released when `function` returns.
    """

    def decode(data: memoryview, runs: Sequence[Run], out: list[Any]) -> None:
        for offset, count, length in runs:
            stride = stride_of(length)
            first = offset + HEADER_SIZE
            for at in range(first, first + count * stride, stride):
                with data[at : at + length] as view:
                    out.append(function(view))

    return decode
