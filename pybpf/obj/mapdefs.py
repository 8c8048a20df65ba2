"""BTF-defined maps: a struct in section .maps whose members describe a map.

No member holds data. A number N is the length of an array that the member
points to (``int (*max_entries)[N]``, the ``__uint`` macro). A type is what the
member points to (``struct key *key``, ``__type``). ``values`` is a trailing
array of pointers to inner maps or programs, and relocations name these.
"""

from __future__ import annotations

import struct

from .._uapi.enums import MapType
from ..btf import Array, Btf, Enum, Enum64, FuncProto, Ptr, Struct
from ..dataclass import replace
from ..wording import many
from .maptypes import OUTER, RINGS
from .spec import MapSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..btf import Member
    from ..errors import ObjectFormatError

__all__ = ["parse", "parse_legacy", "ring_size"]

_NUMBERS = frozenset(
    {"type", "max_entries", "map_flags", "numa_node", "key_size", "value_size", "pinning"}
)
_PAGE = 4096  # reading does not depend on the machine; the loader rounds again for larger pages


def ring_size(size: int, page: int = _PAGE) -> int:
    """Round the size of a ring buffer up to a valid one: a power of two of whole pages.

    0 stays 0, so that the kernel refuses a ring without a size.

    :param size: bytes
    :param page: bytes of a page
    """
    if size <= 0 or (size % page == 0 and (size // page).bit_count() == 1):
        return size
    rounded = page << (size // page).bit_length()
    return rounded if rounded <= 0xFFFFFFFF else size


def parse(
    btf: Btf,
    name: str,
    definition: Struct,
    error: Callable[[str], ObjectFormatError],
    *,
    is_inner: bool = False,
) -> MapSpec:
    """Read a map from its definition.

    :param btf: the object's BTF
    :param definition: type of the variable in .maps
    :param error: makes the exception for a wrong definition
    :param is_inner: it is the inner map of a map of maps
    :raises ObjectFormatError: from `error`
    """
    numbers: dict[str, int] = {}
    types: dict[str, int] = {}
    map_extra = 0
    inner: MapSpec | None = None
    for position, member in enumerate(definition.members):
        what = member.name
        if what in _NUMBERS:
            value = _number(btf, member)
            if value is None:
                raise error(f"member {what!r} is not a pointer to an array")
            if what.endswith("_size"):
                _agree(numbers, what, value, error)
            numbers[what] = value
        elif what in ("key", "value"):
            pointer = btf.type(member.type)
            if not isinstance(pointer, Ptr):
                raise error(f"member {what!r} is not a pointer")
            size = btf.sizeof(pointer.type)
            _agree(numbers, what + "_size", size, error)
            numbers[what + "_size"] = size
            types[what] = pointer.type
        elif what == "values":
            if is_inner:
                raise error("the inner map is itself a map of maps")
            if position != len(definition.members) - 1:
                raise error("member 'values' is not the last one")
            inner = _values(btf, name, numbers.get("type", 0), member, error)
            _agree(numbers, "value_size", 4, error)
            numbers["value_size"] = 4
        elif what == "map_extra":
            extra = _long(btf, member)
            if extra is None:
                raise error("member 'map_extra' is not a number")
            map_extra = extra
        else:
            raise error(f"unknown member {what!r}")
    if not numbers.get("type"):
        raise error("the map has no type")
    pinning = numbers.get("pinning", 0)
    if pinning > 1 or (is_inner and "pinning" in numbers):
        raise error("an inner map is pinned" if is_inner else f"invalid pinning {pinning}")
    max_entries = numbers.get("max_entries", 0)
    return MapSpec(
        name,
        numbers["type"],
        numbers.get("key_size", 0),
        numbers.get("value_size", 0),
        ring_size(max_entries) if numbers["type"] in RINGS else max_entries,
        map_flags=numbers.get("map_flags", 0),
        numa_node=numbers.get("numa_node", 0),
        map_extra=map_extra,
        pinning=pinning,
        key_type_id=types.get("key", 0),
        value_type_id=types.get("value", 0),
        inner=inner,
        section=".maps",
    )


def _agree(
    numbers: dict[str, int], what: str, size: int, error: Callable[[str], ObjectFormatError]
) -> None:
    # key and key_size may both be given if they agree.
    if size > 0xFFFFFFFF:
        raise error(f"{what} {size} does not fit in 32 bits")
    if numbers.get(what) and numbers[what] != size:
        raise error(f"{what} is {numbers[what]} and {size}")


def _number(btf: Btf, member: Member) -> int | None:
    pointer = btf.type(btf.skip_mods_and_typedefs(member.type))
    if not isinstance(pointer, Ptr):
        return None
    array = btf.type(pointer.type)
    return array.nelems if isinstance(array, Array) else None


def _long(btf: Btf, member: Member) -> int | None:
    # 64 bits: the only value of an enum (__ulong), or written like the other numbers.
    holder = btf.type(btf.skip_mods_and_typedefs(member.type))
    if isinstance(holder, (Enum, Enum64)) and len(holder.values) == 1:
        return holder.values[0].val & 0xFFFFFFFFFFFFFFFF
    return _number(btf, member)


def _values(
    btf: Btf,
    name: str,
    map_type: int,
    member: Member,
    error: Callable[[str], ObjectFormatError],
) -> MapSpec | None:
    # Returns the inner map's definition, None for a program array.
    is_prog_array = map_type == MapType.BPF_MAP_TYPE_PROG_ARRAY
    if map_type not in OUTER and not is_prog_array:
        raise error("member 'values' in a map that holds neither maps nor programs")
    array = btf.type(member.type)
    if not isinstance(array, Array) or array.nelems:
        raise error("member 'values' is not an array of length zero")
    pointer = btf.type(btf.skip_mods_and_typedefs(array.type))
    if not isinstance(pointer, Ptr):
        raise error("member 'values' does not hold pointers")
    target = btf.type(btf.skip_mods_and_typedefs(pointer.type))
    if is_prog_array:
        if not isinstance(target, FuncProto):
            raise error("member 'values' does not hold pointers to functions")
        return None
    if not isinstance(target, Struct):
        raise error("member 'values' does not hold pointers to map definitions")
    inner = parse(btf, name + ".inner", target, error, is_inner=True)
    return replace(inner, section="")


def parse_legacy(
    name: str, section: str, definition: bytes, error: Callable[[str], ObjectFormatError]
) -> MapSpec:
    """Read a map from a ``struct bpf_map_def``.

    Its first four numbers are type, key size, value size and entries; the fifth, which the
    oldest leave out, is the flags. Loaders put what they liked behind these.

    :param definition: of any length
    :raises ObjectFormatError: from `error`: it is too short, or uses what a loader put there
    """
    if len(definition) < 16:
        raise error(f"{many(len(definition), 'byte')} cannot hold a struct bpf_map_def")
    more = definition[20:]
    if more.strip(b"\0"):
        at = 20 + len(more) - len(more.lstrip(b"\0"))
        raise error(f"byte {at} is set, and only its loader knows what for")
    kind, key, value, entries = struct.unpack_from("<4I", definition)
    flags = int.from_bytes(definition[16:20], "little")
    return MapSpec(name, kind, key, value, entries, map_flags=flags, section=section)
