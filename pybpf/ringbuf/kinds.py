"""Choose a record decoder."""

from __future__ import annotations

import struct
from typing import Any, Protocol, cast

from .records import (
    Decoder,
    RecordCodec,
    bytes_decoder,
    call_decoder,
    codec_decoder,
    struct_decoder,
)

__all__ = ["RingMap", "btf_codec", "record_decoder"]


class RingMap(Protocol):
    """Describe what a reader needs of its map. `pybpf.Map` is one."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> int: ...
    @property
    def max_entries(self) -> int: ...
    @property
    def map_flags(self) -> int: ...

    def fileno(self) -> int: ...


def record_decoder(kind: object, ring: RingMap) -> Decoder:
    """Choose the decoder for a record type, as `RingBuffer` accepts it.

    :param ring: map the records come from; its BTF has the named types
    """
    if kind is None or kind is bytes:
        return bytes_decoder()
    if isinstance(kind, struct.Struct):
        return struct_decoder(kind)
    if isinstance(kind, (str, int)):
        btf = getattr(ring, "btf", None)
        if btf is None:
            raise ValueError(f"map {ring.name!r} has no BTF, so type {kind!r} is not known")
        return codec_decoder(btf_codec(btf, kind))
    if all(hasattr(kind, name) for name in ("decode", "iter_unpack", "size")):
        return codec_decoder(cast("RecordCodec", kind))
    if callable(kind):
        return call_decoder(kind)
    raise TypeError(f"not a record type: {kind!r}")


def btf_codec(btf: Any, kind: str | int) -> Any:
    """Return the codec of a type by its name (``"struct event"``) or id.

    :raises ValueError: the type does not exist
    """
    from ..btf import BtfKind
    from ..btf.values import codec

    if isinstance(kind, int):
        return codec(btf, kind)
    tag, _, name = kind.strip().rpartition(" ")
    wanted = {"struct": BtfKind.STRUCT, "union": BtfKind.UNION, "enum": BtfKind.ENUM, "": None}
    if tag.strip() not in wanted:
        raise ValueError(f"{kind!r} is not the name of a BTF type")
    type_id = btf.find(name, wanted[tag.strip()])
    if type_id is None:
        raise ValueError(f"no type {kind!r} in the object's BTF")
    return codec(btf, type_id)
