"""Choose the fields for key and value of each map type."""

from __future__ import annotations

from .._uapi.enums import MapFlag, MapType
from ..errors import ObjectFormatError
from ..obj.maptypes import FD_KEYS, FD_VALUES, INDEXED, NO_KEYS, PERCPU
from .fields import (
    BytesField,
    CodecField,
    FdField,
    Field,
    IntField,
    LpmField,
    NoKeyField,
    PerCpuField,
    StackField,
)
from .percpu import possible_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf

__all__ = [
    "key_field",
    "value_field",
]

T = MapType


def key_field(kind: int, size: int, btf: Btf | None, type_id: int) -> Field:
    """Choose the field for the keys of a map.

    :param size: bytes
    :param type_id: id in `btf`, 0 if not known
    """
    if kind in NO_KEYS:
        return NoKeyField(kind)
    if kind in INDEXED and size == 4:
        return IntField(4)
    if kind in FD_KEYS and size == 4:
        return FdField()
    typed = _typed(btf, type_id, size)
    if typed is not None:
        return typed
    if kind == T.BPF_MAP_TYPE_LPM_TRIE and size > 4:
        return LpmField(size)
    return BytesField(size)


def value_field(
    kind: int, size: int, flags: int, btf: Btf | None, type_id: int, *, sections: bool = False
) -> Field:
    """Choose the field for the values of a map.

    :param size: size of one value (one CPU's), bytes
    :param flags: flags of the map
    :param type_id: id in `btf`, 0 if not known
    :param sections: a data section is a record of its variables. False: it is bytes, because its
        object has `Globals`, and BTF that was not loaded may not say where the variables are
    """
    if kind in FD_VALUES and size == 4:
        return FdField()
    if kind == T.BPF_MAP_TYPE_STACK_TRACE:
        build_id = bool(flags & MapFlag.BPF_F_STACK_BUILD_ID)
        if size % (32 if build_id else 8) == 0:
            return StackField(size, build_id)
    value = _typed(btf, type_id, size, sections=sections)
    if value is None:
        value = BytesField(size)
    return PerCpuField(value, possible_cpus()) if kind in PERCPU else value


def _typed(btf: Btf | None, type_id: int, size: int, *, sections: bool = False) -> Field | None:
    if btf is None or not type_id:
        return None
    from ..btf import Datasec, Enum, Enum64, Int
    from ..btf.types import INT_BOOL, INT_CHAR, INT_SIGNED

    plain = btf.type(btf.skip_mods_and_typedefs(type_id))
    if isinstance(plain, Int) and plain.size == size and size in (1, 2, 4, 8):
        if plain.bits == 8 * size and not plain.encoding & (INT_BOOL | INT_CHAR):
            return IntField(size, bool(plain.encoding & INT_SIGNED))
    elif isinstance(plain, (Enum, Enum64)) and plain.size == size and size in (1, 2, 4, 8):
        return IntField(size, plain.signed)
    elif isinstance(plain, Datasec) and not sections:
        return None
    from ..btf.values import codec

    try:
        made = codec(btf, type_id)
    except ObjectFormatError:
        if isinstance(plain, Datasec):
            return None  # one variable without a readable type does not hide the bytes
        raise
    return CodecField(made) if made.size == size else None
