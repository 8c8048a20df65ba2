"""Convert map keys and values to bytes and back.

A `Field` is one side of a map entry. Integers, the most common case, have
their own class because everything has a C-speed form for them (a struct's
bound ``pack``, one ``memoryview.cast().tolist()`` for a whole batch). BTF types use
their codec. What has no type stays `bytes`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, Protocol

from ..wording import many
from .percpu import PerCpu

__all__ = [
    "Buffer",
    "BytesField",
    "CodecField",
    "FdField",
    "Field",
    "IntField",
    "LpmField",
    "NoKeyField",
    "PerCpuField",
    "StackField",
]

_Code = Literal["B", "H", "I", "Q", "b", "h", "i", "q"]
_UNSIGNED: dict[int, _Code] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SIGNED: dict[int, _Code] = {1: "b", 2: "h", 4: "i", 8: "q"}

Buffer = bytes | bytearray | memoryview


def _exact(data: Buffer, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{many(len(data), 'byte')} given, but the map needs {size}")
    return bytes(data)


class Field:
    """Convert one side of a map entry: bytes as they are.

    Subclasses replace `encode` and `decode`. If a batch can be done
    faster than item by item, they also replace `decode_all`.
    """

    __slots__ = ("at", "convert", "decode", "size")

    #: Size in the map's buffers, in bytes.
    size: int
    #: Returns the value from a buffer prepared by `view`.
    decode: Callable[[memoryview], Any]
    #: The quick way to write: ``view[at] = convert(value)``, or ``= value`` if it is None. For
    #: the usual type of value it does what `encode` does. It raises anything for others.
    at: Any
    convert: Callable[[Any], Buffer] | None

    def __init__(self, size: int) -> None:
        self.size = size
        self.decode = memoryview.tobytes
        self.at = slice(None)
        self.convert = None

    def view(self, buffer: memoryview) -> memoryview:
        """Return an element buffer in the form that `decode` and `at` need. Made once per
        buffer."""
        return buffer

    def encode(self, value: Any) -> Buffer:
        """Encode `value` in exactly `size` bytes.

        :raises TypeError: if the value has a wrong type
        :raises ValueError: if it has a wrong size or is out of range
        """
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _exact(value, self.size)
        raise TypeError(f"{value!r} given, but the map needs {many(self.size, 'byte')}")

    def decode_all(self, data: memoryview) -> Iterable[Any]:
        """Decode the consecutive values in `data`."""
        if not self.size:
            return []
        return chain.from_iterable(struct.iter_unpack(f"={self.size}s", data))

    def encode_all(self, values: Sequence[Any]) -> Buffer:
        """Encode `values`, one after the other."""
        return b"".join(map(self.encode, values))


class BytesField(Field):
    """Convert keys or values without a type: read as `bytes`, written from `bytes`. If they have
    1, 2, 4 or 8 bytes, they may also be written from an int, in native order.
    """

    __slots__ = ()

    def encode(self, value: Any) -> Buffer:
        if isinstance(value, int) and self.size in _UNSIGNED:
            codes = _SIGNED if value < 0 else _UNSIGNED
            try:
                return struct.pack(codes[self.size], value)
            except struct.error:
                raise ValueError(f"{value!r} does not fit {many(self.size, 'byte')}") from None
        return super().encode(value)


class NoKeyField(Field):
    """Refuse keys, for maps that have none.

    :param map_type: one of `pybpf.obj.maptypes.NO_KEYS`
    """

    __slots__ = ("_map_type",)

    def __init__(self, map_type: int) -> None:
        super().__init__(0)
        self._map_type = map_type

    def encode(self, value: Any) -> Buffer:
        if isinstance(value, (bytes, bytearray, memoryview)) and not value:
            return b""
        from .hints import without_keys  # only for errors

        raise TypeError(f"key {value!r}: {without_keys(self._map_type)}")


class IntField(Field):
    """Convert integers and enums of 1, 2, 4 or 8 bytes, in native order.

    :param size: bytes
    :param signed: two's complement
    """

    __slots__ = ("_code", "_pack")

    def __init__(self, size: int, signed: bool = False) -> None:
        super().__init__(size)
        self._code = (_SIGNED if signed else _UNSIGNED)[size]
        self._pack = struct.Struct(self._code).pack
        self.at = 0
        self.decode = itemgetter(0)

    def view(self, buffer: memoryview) -> memoryview:
        return buffer.cast(self._code)

    def encode(self, value: Any) -> Buffer:
        try:
            return self._pack(value)
        except struct.error:
            if isinstance(value, (bytes, bytearray, memoryview)):
                return _exact(value, self.size)
            if hasattr(value, "__index__"):
                raise ValueError(f"{value!r} does not fit {many(self.size, 'byte')}") from None
            raise TypeError(f"{value!r} given, but the map needs an int") from None

    def decode_all(self, data: memoryview) -> Iterable[Any]:
        return data.cast(self._code).tolist()

    def encode_all(self, values: Sequence[Any]) -> Buffer:
        try:
            return struct.pack(f"{len(values)}{self._code}", *values)
        except struct.error:
            return super().encode_all(values)


class Codec(Protocol):
    """Describe `pybpf.btf.values.Codec`, as far as maps need it."""

    @property
    def size(self) -> int: ...

    def decode(self, buffer: Any, offset: int = 0) -> Any: ...

    def encode(self, value: Any) -> bytes: ...

    def iter_unpack(self, buffer: Any, *, before: int = 0, after: int = 0) -> Iterable[Any]: ...


class CodecField(Field):
    """Convert structs, arrays and other BTF types."""

    __slots__ = ("_codec",)

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec.size)
        self._codec = codec
        self.decode = codec.decode
        self.convert = codec.encode

    def encode(self, value: Any) -> Buffer:
        return self._codec.encode(value)

    def decode_all(self, data: memoryview) -> Iterable[Any]:
        return self._codec.iter_unpack(data)


class FdField(IntField):
    """Convert kernel objects: written as a file descriptor, read back as the object's id.

    It accepts an int or anything with ``fileno()``: a `Program`, `Map`, `Fd` or file.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(4)

    def encode(self, value: Any) -> Buffer:
        fileno = getattr(value, "fileno", None)
        return super().encode(fileno() if fileno is not None else value)


class LpmField(Field):
    """Convert LPM trie keys (``struct bpf_lpm_trie_key``): ``(prefix length in bits, address)``.

    :param size: size of the key in the map, bytes; the address takes `size` - 4
    """

    __slots__ = ()

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.decode = self._decode

    def encode(self, value: Any) -> Buffer:
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], int):
            bits, address = value
            if not 0 <= bits <= 8 * (self.size - 4):
                raise ValueError(f"prefix length {bits} exceeds {8 * (self.size - 4)} bits")
            return struct.pack("=I", bits) + _exact(address, self.size - 4)
        return super().encode(value)

    @staticmethod
    def _decode(data: memoryview) -> tuple[int, bytes]:
        return struct.unpack_from("=I", data)[0], bytes(data[4:])

    def decode_all(self, data: memoryview) -> Iterable[Any]:
        return struct.iter_unpack(f"=I{self.size - 4}s", data)


class StackField(Field):
    """Convert values of a stack trace map: a tuple of addresses, innermost first.

    :param size: size of a value, bytes
    :param build_id: the map has ``BPF_F_STACK_BUILD_ID``; items are
        ``(status, build id, offset or address)`` of ``struct bpf_stack_build_id``
    """

    __slots__ = ("_build_id",)

    def __init__(self, size: int, build_id: bool = False) -> None:
        super().__init__(size)
        self._build_id = build_id
        self.decode = self._decode

    def _decode(self, data: memoryview) -> tuple[Any, ...]:
        if self._build_id:
            rows = struct.iter_unpack("=i20sQ", data)
            return tuple(row for row in rows if row[0])
        addresses: list[int] = data.cast("Q").tolist()
        # Unused entries are zero. A return address never is.
        end = addresses.index(0) if 0 in addresses else len(addresses)
        return tuple(addresses[:end])

    def decode_all(self, data: memoryview) -> Iterable[Any]:
        return [self._decode(data[at : at + self.size]) for at in range(0, len(data), self.size)]


class PerCpuField(Field):
    """Convert one value for each possible CPU, each padded to 8 bytes.

    :param item: the value of one CPU
    :param cpus: number of possible CPUs
    """

    __slots__ = ("_cpus", "_item", "_stride")

    def __init__(self, item: Field, cpus: int) -> None:
        self._item = item
        self._cpus = cpus
        self._stride = (item.size + 7) & ~7
        super().__init__(self._stride * cpus)
        self.decode = self._decode

    def encode(self, value: Any) -> Buffer:
        item, pad = self._item, bytes(self._stride - self._item.size)
        # A record is a tuple too, and one value.
        if isinstance(value, (PerCpu, list, tuple)) and not hasattr(value, "_fields"):
            if len(value) != self._cpus:
                given = many(len(value), "value")
                raise ValueError(f"{given} given for {self._cpus} possible CPUs")
            return b"".join(bytes(item.encode(one)) + pad for one in value)
        return (bytes(item.encode(value)) + pad) * self._cpus

    def _decode(self, data: memoryview) -> PerCpu:
        item, size, stride = self._item, self._item.size, self._stride
        return PerCpu(
            item.decode(item.view(data[at : at + size]))
            for at in range(0, stride * self._cpus, stride)
        )

    def decode_all(self, data: memoryview) -> Iterable[Any]:
        if self._stride == self._item.size:
            rest = iter(self._item.decode_all(data))
            return map(PerCpu, zip(*[rest] * self._cpus, strict=True))
        return [self._decode(data[at : at + self.size]) for at in range(0, len(data), self.size)]
