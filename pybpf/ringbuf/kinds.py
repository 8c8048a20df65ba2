"""Choose a record decoder."""

from __future__ import annotations

import errno
import struct
from typing import Any, Protocol, cast

from .._uapi.enums import MapType
from ..errors import BpfError
from ..names import suggestion
from .records import (
    Decoder,
    RecordCodec,
    bytes_decoder,
    call_decoder,
    codec_decoder,
    ctypes_decoder,
    struct_decoder,
)

__all__ = ["RingMap", "btf_codec", "check_map", "record_decoder"]


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


_READERS: dict[int, str] = {
    MapType.BPF_MAP_TYPE_RINGBUF: "RingBuffer",
    MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY: "PerfBuffer",
    MapType.BPF_MAP_TYPE_USER_RINGBUF: "UserRingBuffer",
}


def check_map(ring: object, kind: MapType) -> None:
    """Check that a reader was given a map of its type.

    :param kind: the type that it reads or writes
    :raises TypeError: it is not a map
    :raises BpfError: EINVAL if it is a map of another type
    """
    if not all(hasattr(ring, name) for name in ("type", "name", "fileno")):
        text = f"{_READERS[kind]}: a map expected, not {type(ring).__name__}"
        raise TypeError(f"{text}; give obj.maps[NAME]")
    given = cast("RingMap", ring)
    if given.type != kind:
        hint = f"not a {kind.name} map"
        if given.type in _READERS:
            hint += f"; use pybpf.{_READERS[given.type]}"
        raise BpfError(errno.EINVAL, f"map {given.name!r}", hint)


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
    if isinstance(kind, type) and hasattr(kind, "from_buffer_copy"):
        return ctypes_decoder(kind)
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
        forms = "struct NAME, union NAME, enum NAME, or the NAME of a typedef or an integer"
        raise ValueError(f"{kind!r} is not the name of a BTF type: give {forms}")
    type_id = btf.find(name, wanted[tag.strip()])
    if type_id is None:
        raise ValueError(_unknown_type(btf, name, tag.strip(), wanted[tag.strip()]))
    return codec(btf, type_id)


def _unknown_type(btf: Any, name: str, tag: str, wanted: int | None) -> str:
    prefix = f"{tag} " if tag else ""
    names = _type_names(btf, wanted)
    if typo := suggestion("type", name, names, prefix, alike=0.85):
        return f"{typo} (in the object's BTF)"
    # The usual case with sources written for libbpf, where the loader has the struct from a header.
    # One of the kernel's types that the object has may come near, and misleads if it is all.
    near = suggestion("type", name, names, prefix).rpartition("; ")[2]
    return (
        f"no type {prefix + name!r} in the object's BTF: clang keeps a type only if a map, a "
        f"global variable or a function has it; if the source has it, add a variable: "
        f"const {prefix}{name} *unused_{name}; or describe it by a ctypes.Structure or a "
        "struct.Struct" + (f"; {near}" if near else "")
    )


def _type_names(btf: Any, wanted: int | None) -> list[str]:
    # The names that may be given, without the word struct, union or enum.
    from ..btf import BtfKind

    data = {BtfKind.STRUCT, BtfKind.UNION, BtfKind.ENUM, BtfKind.ENUM64, BtfKind.TYPEDEF}
    kinds = data | {BtfKind.INT, BtfKind.FLOAT} if wanted is None else {wanted}
    return [*{one.name: None for _, one in btf.types() if one.KIND in kinds and one.name}]
