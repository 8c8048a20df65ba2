"""BTF: reading, relocating, writing and printing type information.

`Btf` and the type classes are imported with the package. The rest is imported when it
is first used.
"""

from __future__ import annotations

from .._lazy import lazy
from .decode import Btf
from .types import (
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cdump import dump
    from .core import CoreKind, CoreResult, relocate
    from .encode import BtfBuilder, fixup_for_load, sanitize
    from .ext import BtfExt, CoreRelo
    from .values import CharArray, Codec, Record, UnionValue, codec

__all__ = [
    "Array",
    "Btf",
    "BtfBuilder",
    "BtfExt",
    "BtfKind",
    "CharArray",
    "Codec",
    "Const",
    "CoreKind",
    "CoreRelo",
    "CoreResult",
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
    "Record",
    "Restrict",
    "Struct",
    "Type",
    "TypeTag",
    "Typedef",
    "Union",
    "UnionValue",
    "Unknown",
    "Var",
    "VarSecinfo",
    "Void",
    "Volatile",
    "codec",
    "dump",
    "fixup_for_load",
    "relocate",
    "sanitize",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BtfBuilder": ".encode",
        "BtfExt": ".ext",
        "CharArray": ".values",
        "Codec": ".values",
        "CoreKind": ".core",
        "CoreRelo": ".ext",
        "CoreResult": ".core",
        "Record": ".values",
        "UnionValue": ".values",
        "codec": ".values",
        "dump": ".cdump",
        "fixup_for_load": ".encode",
        "relocate": ".core",
        "sanitize": ".encode",
    },
)
