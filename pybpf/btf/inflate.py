"""Make the values of `pybpf.btf.types` from BTF records, with one maker per kind.

The record is known to be inside the type section. The `Blob` checks names and references
as they are read.
"""

from __future__ import annotations

from .types import (
    Array,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    EnumValue,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Restrict,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Unknown,
    Var,
    VarSecinfo,
    Void,
    Volatile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .blob import Blob

__all__ = ["VOID", "inflate"]

VOID = Void()


def inflate(blob: Blob, at: int) -> Type:
    """Make the type whose record starts at word `at` of the type section.

    :raises ObjectFormatError: it refers to strings or types that do not exist
    """
    words = blob.words
    info = words[at + 1]
    kind = info >> 24 & 0x7F
    name = blob.record_name(at, words[at]) if words[at] else ""
    maker = _MAKERS[kind] if kind < len(_MAKERS) else None
    if maker is None:
        return Unknown(name, kind)
    return maker(blob, at, name, info, words[at + 2])


# Makers: (blob, word offset, name, info, size or type) -> Type.


def _int(blob: Blob, at: int, name: str, info: int, size: int) -> Type:
    word = blob.words[at + 3]
    return Int(name, size, word & 0xFF, word >> 16 & 0xFF, word >> 24 & 0xF)


def _array(blob: Blob, at: int, name: str, info: int, _size: int) -> Type:
    element, index, nelems = blob.words[at + 3 : at + 6]
    return Array(blob.reference(at, element), blob.reference(at, index), nelems, name)


def _composite(
    cls: type[Struct] | type[Union], blob: Blob, at: int, name: str, info: int, size: int
) -> Type:
    limit = blob.nr_types
    get = blob.record_name
    kind_flag = info >> 31
    members = []
    for name_off, type_id, where in blob.rows(at, info, 3):
        if type_id >= limit:
            blob.reference(at, type_id)
        # With kind_flag the offset word is size << 24 | offset.
        offset, bits = (where & 0xFFFFFF, where >> 24) if kind_flag else (where, 0)
        members.append(Member(get(at, name_off) if name_off else "", type_id, offset, bits))
    return cls(name, size, tuple(members), bool(kind_flag))


def _struct(blob: Blob, at: int, name: str, info: int, size: int) -> Type:
    return _composite(Struct, blob, at, name, info, size)


def _union(blob: Blob, at: int, name: str, info: int, size: int) -> Type:
    return _composite(Union, blob, at, name, info, size)


def _enum(blob: Blob, at: int, name: str, info: int, size: int) -> Type:
    signed = bool(info >> 31)
    values = []
    for name_off, val in blob.rows(at, info, 2):
        if signed and val >> 31:
            val -= 1 << 32
        values.append(EnumValue(blob.record_name(at, name_off), val))
    return Enum(name, size, tuple(values), signed)


def _enum64(blob: Blob, at: int, name: str, info: int, size: int) -> Type:
    signed = bool(info >> 31)
    values = []
    for name_off, low, high in blob.rows(at, info, 3):
        val = high << 32 | low
        if signed and val >> 63:
            val -= 1 << 64
        values.append(EnumValue(blob.record_name(at, name_off), val))
    return Enum64(name, size, tuple(values), signed)


def _func_proto(blob: Blob, at: int, name: str, info: int, ret: int) -> Type:
    params = tuple(
        Param(blob.record_name(at, name_off) if name_off else "", blob.reference(at, type_id))
        for name_off, type_id in blob.rows(at, info, 2)
    )
    return FuncProto(blob.reference(at, ret), params, name)


def _var(blob: Blob, at: int, name: str, info: int, type_id: int) -> Type:
    return Var(name, blob.reference(at, type_id), blob.words[at + 3])


def _datasec(blob: Blob, at: int, name: str, info: int, size: int) -> Type:
    entries = tuple(
        VarSecinfo(blob.reference(at, type_id), offset, length)
        for type_id, offset, length in blob.rows(at, info, 3)
    )
    return Datasec(name, size, entries)


def _decl_tag(blob: Blob, at: int, name: str, info: int, type_id: int) -> Type:
    index = blob.words[at + 3]
    index = index - (1 << 32) if index >> 31 else index
    return DeclTag(name, blob.reference(at, type_id), index, bool(info >> 31))


_MAKERS: tuple[Callable[[Blob, int, str, int, int], Type] | None, ...] = (
    None,
    _int,
    lambda b, at, name, info, t: Ptr(b.reference(at, t), name),
    _array,
    _struct,
    _union,
    _enum,
    lambda b, at, name, info, t: Fwd(name, bool(info >> 31)),
    lambda b, at, name, info, t: Typedef(name, b.reference(at, t)),
    lambda b, at, name, info, t: Volatile(b.reference(at, t), name),
    lambda b, at, name, info, t: Const(b.reference(at, t), name),
    lambda b, at, name, info, t: Restrict(b.reference(at, t), name),
    lambda b, at, name, info, t: Func(name, b.reference(at, t), info & 0xFFFFFF),
    _func_proto,
    _var,
    _datasec,
    lambda b, at, name, info, t: Float(name, t),
    _decl_tag,
    lambda b, at, name, info, t: TypeTag(name, b.reference(at, t), bool(info >> 31)),
    _enum64,
)
