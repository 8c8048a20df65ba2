"""BTF: reading, relocating, writing and printing type information.

`Btf` and the type classes come with the package; the rest is imported when it
is first used.
"""

from __future__ import annotations

from pybpf.btf.decode import Btf
from pybpf.btf.types import (
    Array,
    BtfKind,
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
    Linkage,
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

__all__ = [
    "Array",
    "Btf",
    "BtfKind",
    "Const",
    "Datasec",
    "DeclTag",
    "Enum",
    "Enum64",
    "EnumValue",
    "Float",
    "Func",
    "FuncProto",
    "Fwd",
    "Int",
    "Linkage",
    "Member",
    "Param",
    "Ptr",
    "Restrict",
    "Struct",
    "Type",
    "TypeTag",
    "Typedef",
    "Union",
    "Unknown",
    "Var",
    "VarSecinfo",
    "Void",
    "Volatile",
]
