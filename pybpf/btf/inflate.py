"""From BTF records to the values of `pybpf.btf.types`, one maker per kind.

The record is known to lie inside the type section; names and references are
checked here, by `Btf`, as they are read.
"""

from __future__ import annotations

from pybpf.btf.types import (
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

    from pybpf.btf.decode import Btf

__all__ = ["VOID", "inflate"]

VOID = Void()


def inflate(btf: Btf, at: int) -> Type:
    """The type whose record starts at word `at` of the type section.

    :raises ObjectFormatError: it refers to strings or types that do not exist
    """
    words = btf._words
    info = words[at + 1]
    kind = info >> 24 & 0x7F
    name = btf._name(at, words[at]) if words[at] else ""
    maker = _MAKERS[kind] if kind < len(_MAKERS) else None
    if maker is None:
        return Unknown(name, kind)
    return maker(btf, at, name, info, words[at + 2])


# Makers: (btf, word offset, name, info, size or type) -> Type.


def _int(btf: Btf, at: int, name: str, info: int, size: int) -> Type:
    word = btf._words[at + 3]
    return Int(name, size, word & 0xFF, word >> 16 & 0xFF, word >> 24 & 0xF)


def _array(btf: Btf, at: int, name: str, info: int, _size: int) -> Type:
    element, index, nelems = btf._words[at + 3 : at + 6]
    return Array(btf._ref(at, element), btf._ref(at, index), nelems, name)


def _composite(
    cls: type[Struct] | type[Union], btf: Btf, at: int, name: str, info: int, size: int
) -> Type:
    limit = btf.nr_types
    get = btf._name
    kind_flag = info >> 31
    members = []
    for name_off, type_id, where in btf._rows(at, info, 3):
        if type_id >= limit:
            btf._ref(at, type_id)
        # With kind_flag the offset word is size << 24 | offset.
        offset, bits = (where & 0xFFFFFF, where >> 24) if kind_flag else (where, 0)
        members.append(Member(get(at, name_off) if name_off else "", type_id, offset, bits))
    return cls(name, size, tuple(members), bool(kind_flag))


def _struct(btf: Btf, at: int, name: str, info: int, size: int) -> Type:
    return _composite(Struct, btf, at, name, info, size)


def _union(btf: Btf, at: int, name: str, info: int, size: int) -> Type:
    return _composite(Union, btf, at, name, info, size)


def _enum(btf: Btf, at: int, name: str, info: int, size: int) -> Type:
    signed = bool(info >> 31)
    values = []
    for name_off, val in btf._rows(at, info, 2):
        if signed and val >> 31:
            val -= 1 << 32
        values.append(EnumValue(btf._name(at, name_off), val))
    return Enum(name, size, tuple(values), signed)


def _enum64(btf: Btf, at: int, name: str, info: int, size: int) -> Type:
    signed = bool(info >> 31)
    values = []
    for name_off, low, high in btf._rows(at, info, 3):
        val = high << 32 | low
        if signed and val >> 63:
            val -= 1 << 64
        values.append(EnumValue(btf._name(at, name_off), val))
    return Enum64(name, size, tuple(values), signed)


def _func_proto(btf: Btf, at: int, name: str, info: int, ret: int) -> Type:
    params = tuple(
        Param(btf._name(at, name_off) if name_off else "", btf._ref(at, type_id))
        for name_off, type_id in btf._rows(at, info, 2)
    )
    return FuncProto(btf._ref(at, ret), params, name)


def _var(btf: Btf, at: int, name: str, info: int, type_id: int) -> Type:
    return Var(name, btf._ref(at, type_id), btf._words[at + 3])


def _datasec(btf: Btf, at: int, name: str, info: int, size: int) -> Type:
    entries = tuple(
        VarSecinfo(btf._ref(at, type_id), offset, length)
        for type_id, offset, length in btf._rows(at, info, 3)
    )
    return Datasec(name, size, entries)


def _decl_tag(btf: Btf, at: int, name: str, info: int, type_id: int) -> Type:
    index = btf._words[at + 3]
    index = index - (1 << 32) if index >> 31 else index
    return DeclTag(name, btf._ref(at, type_id), index, bool(info >> 31))


_MAKERS: tuple[Callable[[Btf, int, str, int, int], Type] | None, ...] = (
    None,
    _int,
    lambda b, at, name, info, t: Ptr(b._ref(at, t), name),
    _array,
    _struct,
    _union,
    _enum,
    lambda b, at, name, info, t: Fwd(name, bool(info >> 31)),
    lambda b, at, name, info, t: Typedef(name, b._ref(at, t)),
    lambda b, at, name, info, t: Volatile(b._ref(at, t), name),
    lambda b, at, name, info, t: Const(b._ref(at, t), name),
    lambda b, at, name, info, t: Restrict(b._ref(at, t), name),
    lambda b, at, name, info, t: Func(name, b._ref(at, t), info & 0xFFFFFF),
    _func_proto,
    _var,
    _datasec,
    lambda b, at, name, info, t: Float(name, t),
    _decl_tag,
    lambda b, at, name, info, t: TypeTag(name, b._ref(at, t), bool(info >> 31)),
    _enum64,
)
