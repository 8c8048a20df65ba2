"""Answer CO-RE's questions about types: where a field is in another kernel, and what matches.

A `Spec` is the meaning of a relocation's access string: named fields and array
indices, with anonymous structs folded away, and the bit offset they add up to.
`local_spec` makes one from the program's own types. `match_spec` replays it on a
candidate of the target by field name. The type-based kinds compare whole types
instead: `types_compatible` by kind and shape, TYPE_MATCHES by members and names.

Every walk has a bound, because forged BTF may nest without end.
"""

from __future__ import annotations

from ..dataclass import dataclass
from ..intenum import IntEnum
from .decode import Btf
from .names import essential_name
from .types import (
    Array,
    BtfKind,
    Enum,
    Enum64,
    Float,
    FuncProto,
    Fwd,
    Int,
    Member,
    Ptr,
    Struct,
    Type,
    Union,
    Void,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ext import CoreRelo

__all__ = [
    "ENUM_KINDS",
    "FIELD_KINDS",
    "MAX_SPEC",
    "TYPE_KINDS",
    "Accessor",
    "CoreFailure",
    "CoreKind",
    "Spec",
    "enum_value",
    "kinds_compatible",
    "local_spec",
    "match_spec",
    "resolve",
    "types_compatible",
]

#: Most steps an access may have.
MAX_SPEC = 64
_MAX_LEVEL = 32
_U32 = 0xFFFFFFFF


class CoreKind(IntEnum):
    """``enum bpf_core_relo_kind``."""

    FIELD_BYTE_OFFSET = 0
    FIELD_BYTE_SIZE = 1
    FIELD_EXISTS = 2
    FIELD_SIGNED = 3
    FIELD_LSHIFT_U64 = 4
    FIELD_RSHIFT_U64 = 5
    TYPE_ID_LOCAL = 6
    TYPE_ID_TARGET = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12


FIELD_KINDS = frozenset(range(6))
TYPE_KINDS = frozenset((6, 7, 8, 9, 12))
ENUM_KINDS = frozenset((10, 11))


@dataclass(slots=True)
class Accessor:
    # One step of an access: a named field, or an array index (name None).
    type_id: int
    idx: int
    name: str | None


class Spec:
    """Describe an access into a type of one BTF."""

    __slots__ = ("accessors", "bit_offset", "btf", "kind", "raw", "root")

    def __init__(self, btf: Btf, root: int, kind: int) -> None:
        self.btf = btf
        self.root = root
        self.kind = kind
        self.accessors: list[Accessor] = []
        self.raw: list[int] = []
        self.bit_offset = 0

    def push_raw(self, idx: int) -> None:
        if len(self.raw) == MAX_SPEC:
            raise CoreFailure("the access is nested too deeply")
        self.raw.append(idx)

    def __str__(self) -> str:
        kind = CoreKind(self.kind).name.lower()
        name = self.btf.name(self.root) or "<anon>"
        what = kind_name(self.btf.kind(self.root))
        text = f"<{kind}> [{self.root}] {what} {name}"
        if self.kind in TYPE_KINDS or not self.accessors:
            return text
        if self.kind in ENUM_KINDS:
            one = self.accessors[0]
            return f"{text}::{one.name} = {enum_value(self.btf, one)}"
        for i, one in enumerate(self.accessors):
            if one.name is not None:
                text += f".{one.name}"
            elif i or one.idx:
                text += f"[{one.idx}]"
        whole, bits = divmod(self.bit_offset, 8)
        where = f"{whole}.{bits}" if bits else f"{whole}"
        return f"{text} ({':'.join(map(str, self.raw))} @ offset {where})"


def kind_name(kind: int) -> str:
    return BtfKind(kind).name.lower() if kind in _KNOWN_KINDS else f"kind {kind}"


_KNOWN_KINDS = frozenset(BtfKind)


class CoreFailure(Exception):
    """Say that the relocation cannot be decided, which is an error of the whole load."""


def kinds_compatible(a: int, b: int) -> bool:
    return a == b or (a in _ANY_ENUM and b in _ANY_ENUM)


_ANY_ENUM = (BtfKind.ENUM, BtfKind.ENUM64)


def resolve(btf: Btf, type_id: int) -> tuple[int, Type]:
    type_id = btf.skip_mods_and_typedefs(type_id)
    return type_id, btf.type(type_id)


def _parse_access(text: str) -> list[int]:
    parts = text.split(":")
    if not all(part.isascii() and part.isdecimal() and len(part) < 11 for part in parts):
        raise CoreFailure(f"bad access string {text!r}")
    indices = [int(part) for part in parts]
    if max(indices) > 0x7FFFFFFF:
        raise CoreFailure(f"bad access string {text!r}")
    if len(indices) > MAX_SPEC:
        raise CoreFailure("the access is nested too deeply")
    return indices


def _is_flexible(btf: Btf, before: Accessor, array: Array) -> bool:
    # True for an array without elements that is the last member of its struct.
    if before.name is None or array.nelems:
        return False
    owner = btf.type(before.type_id)
    return isinstance(owner, (Struct, Union)) and before.idx == len(owner.members) - 1


def local_spec(btf: Btf, relo: CoreRelo) -> Spec:
    spec = Spec(btf, relo.type_id, relo.kind)
    if relo.kind in TYPE_KINDS:
        if relo.access_str != "0":
            raise CoreFailure(f"bad access string {relo.access_str!r} of a type relocation")
        return spec
    spec.raw = _parse_access(relo.access_str)
    type_id, t = resolve(btf, relo.type_id)
    first = spec.raw[0]
    if relo.kind in ENUM_KINDS:
        if not isinstance(t, (Enum, Enum64)) or len(spec.raw) > 1 or first >= len(t.values):
            raise CoreFailure(f"access string {relo.access_str!r} names no enumerator")
        spec.accessors.append(Accessor(type_id, first, t.values[first].name))
        return spec
    spec.accessors.append(Accessor(type_id, first, None))
    spec.bit_offset = first * btf.sizeof(type_id) * 8 & _U32
    for idx in spec.raw[1:]:
        type_id, t = resolve(btf, type_id)
        if isinstance(t, (Struct, Union)):
            if idx >= len(t.members):
                raise CoreFailure(f"access string {relo.access_str!r} names no member")
            member = t.members[idx]
            spec.bit_offset = spec.bit_offset + member.bit_offset & _U32
            if member.name:
                spec.accessors.append(Accessor(type_id, idx, member.name))
            type_id = member.type
        elif isinstance(t, Array):
            type_id, _ = resolve(btf, t.type)
            if idx >= t.nelems and not _is_flexible(btf, spec.accessors[-1], t):
                raise CoreFailure(f"access string {relo.access_str!r} leaves an array")
            spec.accessors.append(Accessor(type_id, idx, None))
            spec.bit_offset = spec.bit_offset + idx * btf.sizeof(type_id) * 8 & _U32
        else:
            kind = kind_name(t.kind)
            raise CoreFailure(f"access string {relo.access_str!r} walks into a {kind}")
    return spec


def _fields_compatible(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    # Tells whether reading a field of one type as the other makes sense at all.
    for _ in range(MAX_SPEC):
        _, a = resolve(local, local_id)
        _, b = resolve(target, target_id)
        if isinstance(a, (Struct, Union)) and isinstance(b, (Struct, Union)):
            return True
        if not kinds_compatible(a.kind, b.kind):
            return False
        if isinstance(a, (Ptr, Float)):
            return True
        if isinstance(a, (Fwd, Enum, Enum64)):
            first, second = essential_name(a.name), essential_name(b.name)
            return not first or not second or first == second
        if isinstance(a, Int) and isinstance(b, Int):
            return a.offset == 0 and b.offset == 0
        if not (isinstance(a, Array) and isinstance(b, Array)):
            return False
        local_id, target_id = a.type, b.type
    raise CoreFailure("array types are nested too deeply")


def _match_member(
    local: Btf, field: Member, target: Btf, target_id: int, spec: Spec, missing: set[int]
) -> int | None:
    """Find a local field by name in a target type. Extends `spec` and returns the field's type.

    Returns None if the target lacks the field, or has it with an incompatible type.
    `missing` collects anonymous types that do not have it.
    """
    target_id, t = resolve(target, target_id)
    if not isinstance(t, (Struct, Union)) or target_id in missing:
        return None
    before = spec.bit_offset
    for i, member in enumerate(t.members):
        if member.name and member.name != field.name:
            continue
        spec.push_raw(i)
        spec.bit_offset = before + member.bit_offset & _U32
        if member.name:
            if not _fields_compatible(local, field.type, target, member.type):
                break
            spec.accessors.append(Accessor(target_id, i, member.name))
            return member.type
        # An anonymous struct or union: its fields are this type's fields.
        depth = len(spec.raw)
        found = _match_member(local, field, target, member.type, spec, missing)
        if found is not None:
            return found
        del spec.raw[depth - 1 :]
        spec.bit_offset = before
    missing.add(target_id)
    return None


def match_spec(mine: Spec, target: Btf, target_id: int) -> Spec | None:
    """Replay a local access on a target type. None if the type does not have it."""
    local = mine.btf
    spec = Spec(target, target_id, mine.kind)
    if spec.kind in TYPE_KINDS:
        if spec.kind == CoreKind.TYPE_MATCHES:
            same = _TypesMatch(local, target).match(mine.root, target_id)
        else:
            same = _TypesCompatible(local, target).check(mine.root, target_id)
        return spec if same else None
    if spec.kind in ENUM_KINDS:
        target_id, t = resolve(target, target_id)
        if not isinstance(t, (Enum, Enum64)):
            return None
        wanted = essential_name(mine.accessors[0].name or "")
        for i, value in enumerate(t.values):
            if essential_name(value.name) == wanted:
                spec.accessors.append(Accessor(target_id, i, value.name))
                spec.raw.append(i)
                return spec
        return None
    for i, step in enumerate(mine.accessors):
        target_id, t = resolve(target, target_id)
        if step.name is not None:
            owner = local.type(step.type_id)
            assert isinstance(owner, (Struct, Union))
            found = _match_member(local, owner.members[step.idx], target, target_id, spec, set())
            if found is None:
                return None
            target_id = found
            continue
        if i:  # the first index counts whole objects of the root type
            if not isinstance(t, Array):
                return None
            if step.idx >= t.nelems and not _is_flexible(target, spec.accessors[-1], t):
                return None
            target_id, _ = resolve(target, t.type)
        spec.push_raw(step.idx)
        spec.accessors.append(Accessor(target_id, step.idx, None))
        spec.bit_offset = spec.bit_offset + step.idx * target.sizeof(target_id) * 8 & _U32
    return spec


class _TypesCompatible:
    """Compare types by kind all the way down. Names below the root are ignored."""

    def __init__(self, local: Btf, target: Btf) -> None:
        self.local = local
        self.target = target
        self.known: dict[tuple[int, int], bool] = {}

    def check(self, local_id: int, target_id: int, level: int = _MAX_LEVEL) -> bool:
        key = (local_id, target_id)
        if key not in self.known:
            self.known[key] = self._check(local_id, target_id, level)
        return self.known[key]

    def _check(self, local_id: int, target_id: int, level: int) -> bool:
        if not kinds_compatible(self.local.kind(local_id), self.target.kind(target_id)):
            return False
        for _ in range(_MAX_LEVEL):
            _, a = resolve(self.local, local_id)
            _, b = resolve(self.target, target_id)
            if not kinds_compatible(a.kind, b.kind):
                return False
            if isinstance(a, (Void, Struct, Union, Enum, Enum64, Fwd)):
                return True
            if isinstance(a, Int) and isinstance(b, Int):
                return a.offset == 0 and b.offset == 0
            if isinstance(a, FuncProto) and isinstance(b, FuncProto):
                if len(a.params) != len(b.params):
                    return False
                for mine, theirs in zip(a.params, b.params, strict=True):
                    if level <= 0:
                        raise CoreFailure("types are nested too deeply to compare")
                    first, _ = resolve(self.local, mine.type)
                    second, _ = resolve(self.target, theirs.type)
                    if not self.check(first, second, level - 1):
                        return False
            elif not (
                (isinstance(a, Ptr) and isinstance(b, Ptr))
                or (isinstance(a, Array) and isinstance(b, Array))
            ):
                return False  # floats, and kinds that BTF may get in the future
            # Pointee, element, or return type.
            local_id, target_id = a.type, b.type
        raise CoreFailure("types are nested too deeply to compare")


def types_compatible(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Tell whether a local type can stand for a target's, as for kernel variables and kfuncs.

    Kinds must agree all the way down. Names are ignored
    (``bpf_core_types_are_compat`` of libbpf; types nested too deeply do not agree).
    """
    try:
        return _TypesCompatible(local, target).check(local_id, target_id)
    except CoreFailure:
        return False


class _TypesMatch:
    """Check TYPE_MATCHES: every local member exists in the target with a matching type."""

    def __init__(self, local: Btf, target: Btf) -> None:
        self.local = local
        self.target = target
        self.known: dict[tuple[int, int, bool], bool] = {}

    def match(
        self, local_id: int, target_id: int, behind_ptr: bool = False, level: int = _MAX_LEVEL
    ) -> bool:
        key = (local_id, target_id, behind_ptr)
        if key not in self.known:
            self.known[key] = self._match(local_id, target_id, behind_ptr, level)
        return self.known[key]

    def _match(self, local_id: int, target_id: int, behind_ptr: bool, level: int) -> bool:
        if level <= 0:
            raise CoreFailure("types are nested too deeply to match")
        for _ in range(_MAX_LEVEL):
            _, a = resolve(self.local, local_id)
            _, b = resolve(self.target, target_id)
            if not _names_match(a.name, b.name):
                return False
            if isinstance(a, Fwd):
                return _forward_matches(a.is_union, b, behind_ptr)
            if isinstance(a, (Struct, Union)):
                if not behind_ptr:
                    return a.kind == b.kind and self._members(a, b, behind_ptr, level)
                if isinstance(b, Fwd):
                    return b.is_union == isinstance(a, Union)
                return a.kind == b.kind
            if isinstance(a, (Enum, Enum64)):
                return isinstance(b, (Enum, Enum64)) and _enums_match(a, b)
            if isinstance(a, Void):
                return isinstance(b, Void)
            if isinstance(a, Int):
                return isinstance(b, Int) and (a.size, a.signed) == (b.size, b.signed)
            if isinstance(a, Ptr) and isinstance(b, Ptr):
                behind_ptr = True
            elif isinstance(a, Array) and isinstance(b, Array):
                if a.nelems != b.nelems:
                    return False
            elif isinstance(a, FuncProto) and isinstance(b, FuncProto):
                if len(a.params) != len(b.params):
                    return False
                for mine, theirs in zip(a.params, b.params, strict=True):
                    if not self.match(mine.type, theirs.type, behind_ptr, level - 1):
                        return False
            else:
                return False
            local_id, target_id = a.type, b.type
        raise CoreFailure("types are nested too deeply to match")

    def _members(self, a: Struct | Union, b: Type, behind_ptr: bool, level: int) -> bool:
        assert isinstance(b, (Struct, Union))
        if len(a.members) > len(b.members):
            return False
        by_name: dict[str, list[Member]] = {}
        for theirs in b.members:
            by_name.setdefault(essential_name(theirs.name), []).append(theirs)
        return all(
            any(
                self.match(mine.type, theirs.type, behind_ptr, level - 1)
                for theirs in by_name.get(essential_name(mine.name), ())
            )
            for mine in a.members
        )


def _names_match(local: str, target: str) -> bool:
    return essential_name(local) == essential_name(target)


def _forward_matches(is_union: bool, target: Type, behind_ptr: bool) -> bool:
    if isinstance(target, Fwd):
        return target.is_union == is_union
    # Behind a pointer a forward declaration stands for the full type.
    return behind_ptr and isinstance(target, Union if is_union else Struct)


def _enums_match(a: Enum | Enum64, b: Enum | Enum64) -> bool:
    if a.size != b.size or len(a.values) > len(b.values):
        return False
    theirs = {essential_name(value.name) for value in b.values}
    return all(essential_name(value.name) in theirs for value in a.values)


def enum_value(btf: Btf, accessor: Accessor) -> int:
    t = btf.type(accessor.type_id)
    assert isinstance(t, (Enum, Enum64))
    val = t.values[accessor.idx].val
    if isinstance(t, Enum):
        # libbpf reads the value as s32, even for an unsigned enum.
        val &= _U32
        return val - (1 << 32) if val >> 31 else val
    return val
