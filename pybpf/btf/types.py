"""BTF types as frozen values, one class per kind (`include/uapi/linux/btf.h`).

Fields keep their UAPI names. A reference to another type is its id, an `int`
that has a meaning only together with the `Btf` it came from. Every class has
``name`` ("" for kinds and types without a name) and ``kind``.
"""

from __future__ import annotations

from ..dataclass import dataclass
from ..intenum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = [
    "INT_BOOL",
    "INT_CHAR",
    "INT_SIGNED",
    "Array",
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

# BTF_INT_SIGNED, BTF_INT_CHAR, BTF_INT_BOOL: bits of Int.encoding.
INT_SIGNED = 1
INT_CHAR = 2
INT_BOOL = 4


class BtfKind(IntEnum):
    """``BTF_KIND_*``."""

    UNKN = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


class Linkage(IntEnum):
    """``enum btf_func_linkage``, and ``BTF_VAR_*``, which has the same values."""

    STATIC = 0
    GLOBAL = 1
    EXTERN = 2


class Type:
    """Hold what every kind has in common."""

    __slots__ = ()
    KIND: ClassVar[int]
    name: str

    @property
    def kind(self) -> int:
        """``BTF_KIND_*``."""
        return self.KIND


@dataclass(frozen=True, slots=True)
class Void(Type):
    """Type id 0."""

    name: str = ""
    KIND = BtfKind.UNKN


@dataclass(frozen=True, slots=True)
class Int(Type):
    """An integer. ``size`` in bytes, ``bits`` and ``offset`` in bits."""

    name: str
    size: int
    bits: int
    offset: int = 0
    encoding: int = 0
    KIND = BtfKind.INT

    @property
    def signed(self) -> bool:
        """Return True if BTF_INT_SIGNED is set."""
        return bool(self.encoding & INT_SIGNED)

    @property
    def is_bool(self) -> bool:
        """Return True if BTF_INT_BOOL is set."""
        return bool(self.encoding & INT_BOOL)

    @property
    def is_char(self) -> bool:
        """Return True if BTF_INT_CHAR is set, or the type is one byte wide and called char.

        clang never sets BTF_INT_CHAR, but pahole does.
        """
        return bool(self.encoding & INT_CHAR) or (self.size == 1 and self.name == "char")


@dataclass(frozen=True, slots=True)
class Ptr(Type):
    """A pointer to ``type``."""

    type: int
    name: str = ""
    KIND = BtfKind.PTR


@dataclass(frozen=True, slots=True)
class Array(Type):
    """``nelems`` elements of ``type``."""

    type: int
    index_type: int
    nelems: int
    name: str = ""
    KIND = BtfKind.ARRAY


@dataclass(frozen=True, slots=True)
class Member:
    """A field. ``bit_offset`` and ``bitfield_size`` in bits; 0 = no bitfield."""

    name: str
    type: int
    bit_offset: int
    bitfield_size: int = 0


@dataclass(frozen=True, slots=True)
class Struct(Type):
    """A struct of ``size`` bytes. ``kind_flag``: members say their bitfield size."""

    name: str
    size: int
    members: tuple[Member, ...] = ()
    kind_flag: bool = False
    KIND = BtfKind.STRUCT


@dataclass(frozen=True, slots=True)
class Union(Type):
    """A union of ``size`` bytes."""

    name: str
    size: int
    members: tuple[Member, ...] = ()
    kind_flag: bool = False
    KIND = BtfKind.UNION


@dataclass(frozen=True, slots=True)
class EnumValue:
    """An enumerator; ``val`` is read as signed when the enum is."""

    name: str
    val: int


@dataclass(frozen=True, slots=True)
class Enum(Type):
    """An enum whose values fit in 32 bits; ``size`` in bytes."""

    name: str
    size: int
    values: tuple[EnumValue, ...] = ()
    signed: bool = False
    KIND = BtfKind.ENUM


@dataclass(frozen=True, slots=True)
class Fwd(Type):
    """A forward declaration of a struct or union."""

    name: str
    is_union: bool = False
    KIND = BtfKind.FWD


@dataclass(frozen=True, slots=True)
class Typedef(Type):
    """Another name for ``type``."""

    name: str
    type: int
    KIND = BtfKind.TYPEDEF


@dataclass(frozen=True, slots=True)
class Volatile(Type):
    """``volatile`` ``type``."""

    type: int
    name: str = ""
    KIND = BtfKind.VOLATILE


@dataclass(frozen=True, slots=True)
class Const(Type):
    """``const`` ``type``."""

    type: int
    name: str = ""
    KIND = BtfKind.CONST


@dataclass(frozen=True, slots=True)
class Restrict(Type):
    """``restrict`` ``type``."""

    type: int
    name: str = ""
    KIND = BtfKind.RESTRICT


@dataclass(frozen=True, slots=True)
class Func(Type):
    """A function; ``type`` is its prototype, ``linkage`` a `Linkage` value."""

    name: str
    type: int
    linkage: int = 0
    KIND = BtfKind.FUNC


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter. Type 0 at the end of the list means variadic."""

    name: str
    type: int


@dataclass(frozen=True, slots=True)
class FuncProto(Type):
    """A prototype; ``type`` is the return type, 0 for void."""

    type: int
    params: tuple[Param, ...] = ()
    name: str = ""
    KIND = BtfKind.FUNC_PROTO


@dataclass(frozen=True, slots=True)
class Var(Type):
    """A variable; ``linkage`` is a `Linkage` value."""

    name: str
    type: int
    linkage: int = 0
    KIND = BtfKind.VAR


@dataclass(frozen=True, slots=True)
class VarSecinfo:
    """Where a variable is in its section; ``offset`` and ``size`` in bytes."""

    type: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Datasec(Type):
    """An ELF section and the variables in it; ``size`` in bytes."""

    name: str
    size: int
    entries: tuple[VarSecinfo, ...] = ()
    KIND = BtfKind.DATASEC


@dataclass(frozen=True, slots=True)
class Float(Type):
    """A floating point number of ``size`` bytes."""

    name: str
    size: int
    KIND = BtfKind.FLOAT


@dataclass(frozen=True, slots=True)
class DeclTag(Type):
    """``btf_decl_tag(name)`` on ``type``; ``component_idx`` -1 = on the type itself.

    ``kind_flag`` (Linux 6.15): the name is an arbitrary attribute.
    """

    name: str
    type: int
    component_idx: int = -1
    kind_flag: bool = False
    KIND = BtfKind.DECL_TAG


@dataclass(frozen=True, slots=True)
class TypeTag(Type):
    """``btf_type_tag(name)`` in front of ``type``."""

    name: str
    type: int
    kind_flag: bool = False
    KIND = BtfKind.TYPE_TAG


@dataclass(frozen=True, slots=True)
class Enum64(Type):
    """An enum with 64-bit values; ``size`` in bytes."""

    name: str
    size: int
    values: tuple[EnumValue, ...] = ()
    signed: bool = False
    KIND = BtfKind.ENUM64


@dataclass(frozen=True, slots=True)
class Unknown(Type):
    """A kind newer than this library. The BTF's own layout section tells its size."""

    name: str
    number: int

    @property
    def kind(self) -> int:
        """``BTF_KIND_*``."""
        return self.number
