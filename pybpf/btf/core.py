"""CO-RE: making a program fit the types of the kernel it is loaded on.

Clang leaves a record for every instruction whose constant depends on a kernel
type: the type as the program knows it (the *local* type), an access string
that walks into it ("0:1:2"), and what the constant is (a field's offset, a
type's size, whether it exists...). For each record:

1. The access string becomes a *spec*: named fields and array indices, with
   anonymous structs folded away, and the bit offset they add up to.
2. *Candidates* are looked up in the target BTF: types of the same kind with the
   same essential name (flavours such as ``task_struct___old`` drop their
   suffix). The kernel's own BTF goes first; modules are asked only if it has none.
3. The spec is replayed on each candidate, by field name, through anonymous
   members. Those that do not match drop out, also for later records of the same
   type, and those that do must all give the same value.
4. The instruction is checked to hold the value the local type gives, then
   patched. A record that nothing matches makes its instruction a call of a
   helper that does not exist, which is fine in code the verifier can prove dead.

The outcome is that of libbpf's ``relo_core.c`` down to the bytes, quirks
included; comments say where one is deliberate. Types are only read here, and
the only thing written is the caller's code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from pybpf.btf.decode import Btf, essential_name
from pybpf.btf.ext import CoreRelo
from pybpf.btf.types import (
    INT_SIGNED,
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
from pybpf.errors import ObjectFormatError, RelocationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["POISON_IMM", "CandidateCache", "CoreKind", "CoreResult", "relocate", "types_compatible"]

#: Helper number of a poisoned instruction: 0xbad2310, "bad relo".
POISON_IMM = 195896080

_INSN = struct.Struct("<BBhi")
_MAX_SPEC = 64
_MAX_LEVEL = 32
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_SIZE_CODE = {8: 0x18, 4: 0x00, 2: 0x08, 1: 0x10}
_SIZE_BYTES = {code: size for size, code in _SIZE_CODE.items()}
_LD, _LDX, _ST, _STX, _ALU, _ALU64 = 0, 1, 2, 3, 4, 7
_LDIMM64 = 0x18
_JMP_CALL = 0x85


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


_FIELD_KINDS = frozenset(range(6))
_TYPE_KINDS = frozenset((6, 7, 8, 9, 12))
_ENUM_KINDS = frozenset((10, 11))


@dataclass(frozen=True, slots=True)
class CoreResult:
    """What became of one relocation.

    ``offset`` is the instruction's byte offset in the code, ``local`` and
    ``target`` describe the accesses in words (``target`` is "" when nothing
    matched), ``value`` is the new constant as u64. ``poisoned`` instructions were
    made uncallable, ``reason`` says why.
    """

    offset: int
    kind: CoreKind
    local: str
    target: str = ""
    value: int = 0
    poisoned: bool = False
    reason: str = ""


@dataclass(slots=True)
class _Accessor:
    # A step that means something: a named field, or an array index (name None).
    type_id: int
    idx: int
    name: str | None


class _Spec:
    """An access into a type of one BTF."""

    __slots__ = ("accessors", "bit_offset", "btf", "kind", "raw", "root")

    def __init__(self, btf: Btf, root: int, kind: int) -> None:
        self.btf = btf
        self.root = root
        self.kind = kind
        self.accessors: list[_Accessor] = []
        self.raw: list[int] = []
        self.bit_offset = 0

    def push_raw(self, idx: int) -> None:
        if len(self.raw) == _MAX_SPEC:
            raise _Failed("the access is nested too deeply")
        self.raw.append(idx)

    def __str__(self) -> str:
        kind = CoreKind(self.kind).name.lower()
        name = self.btf.name(self.root) or "<anon>"
        what = _kind_name(self.btf.kind(self.root))
        text = f"<{kind}> [{self.root}] {what} {name}"
        if self.kind in _TYPE_KINDS or not self.accessors:
            return text
        if self.kind in _ENUM_KINDS:
            one = self.accessors[0]
            return f"{text}::{one.name} = {_enum_value(self.btf, one)}"
        for i, one in enumerate(self.accessors):
            if one.name is not None:
                text += f".{one.name}"
            elif i or one.idx:
                text += f"[{one.idx}]"
        whole, bits = divmod(self.bit_offset, 8)
        where = f"{whole}.{bits}" if bits else f"{whole}"
        return f"{text} ({':'.join(map(str, self.raw))} @ offset {where})"


def _kind_name(kind: int) -> str:
    return BtfKind(kind).name.lower() if kind in _KNOWN_KINDS else f"kind {kind}"


_KNOWN_KINDS = frozenset(BtfKind)


class _Failed(Exception):
    """The relocation cannot be decided: an error of the whole load."""


class _Poison(Exception):
    """The relocation has no answer on this target."""


class _Candidates:
    """The target types one local type may stand for; loses those that do not match."""

    __slots__ = ("found",)

    def __init__(self, found: list[tuple[Btf, int]]) -> None:
        self.found = found


class CandidateCache:
    """Candidates by local type, to be shared by all programs of one load.

    Sharing it is not only faster: which candidates are left depends on the
    relocations seen before, as in libbpf.
    """

    def __init__(self, local: Btf, targets: Sequence[Btf]) -> None:
        self._local = local
        self._targets = targets
        self._by_id: dict[int, _Candidates] = {}

    def candidates(self, local_id: int) -> _Candidates:
        known = self._by_id.get(local_id)
        if known is None:
            known = self._by_id[local_id] = _Candidates(self._search(local_id))
        return known

    def _search(self, local_id: int) -> list[tuple[Btf, int]]:
        name = essential_name(self._local.name(local_id))
        kind = self._local.kind(local_id)
        found: list[tuple[Btf, int]] = []
        for number, target in enumerate(self._targets):
            if number == 1 and found:
                break  # what the kernel itself has wins over all modules
            ids = target.find_essential(name)
            # Modules contribute only types of their own; a lone split BTF
            # brings its base along.
            if number == 0 and target.base is not None:
                ids = target.base.find_essential(name) + ids
            found += [(target, i) for i in ids if _kinds_compatible(target.kind(i), kind)]
        return found


def _kinds_compatible(a: int, b: int) -> bool:
    return a == b or (a in _ANY_ENUM and b in _ANY_ENUM)


_ANY_ENUM = (BtfKind.ENUM, BtfKind.ENUM64)


# Specs.


def _resolve(btf: Btf, type_id: int) -> tuple[int, Type]:
    type_id = btf.skip_mods_and_typedefs(type_id)
    return type_id, btf.type(type_id)


def _parse_access(text: str) -> list[int]:
    parts = text.split(":")
    if not all(part.isascii() and part.isdecimal() and len(part) < 11 for part in parts):
        raise _Failed(f"bad access string {text!r}")
    indices = [int(part) for part in parts]
    if max(indices) > 0x7FFFFFFF:
        raise _Failed(f"bad access string {text!r}")
    if len(indices) > _MAX_SPEC:
        raise _Failed("the access is nested too deeply")
    return indices


def _is_flexible(btf: Btf, before: _Accessor, array: Array) -> bool:
    # An array without elements that is the last member of its struct.
    if before.name is None or array.nelems:
        return False
    owner = btf.type(before.type_id)
    return isinstance(owner, (Struct, Union)) and before.idx == len(owner.members) - 1


def _local_spec(btf: Btf, relo: CoreRelo) -> _Spec:
    spec = _Spec(btf, relo.type_id, relo.kind)
    if relo.kind in _TYPE_KINDS:
        if relo.access_str != "0":
            raise _Failed(f"bad access string {relo.access_str!r} of a type relocation")
        return spec
    spec.raw = _parse_access(relo.access_str)
    type_id, t = _resolve(btf, relo.type_id)
    first = spec.raw[0]
    if relo.kind in _ENUM_KINDS:
        if not isinstance(t, (Enum, Enum64)) or len(spec.raw) > 1 or first >= len(t.values):
            raise _Failed(f"access string {relo.access_str!r} names no enumerator")
        spec.accessors.append(_Accessor(type_id, first, t.values[first].name))
        return spec
    spec.accessors.append(_Accessor(type_id, first, None))
    spec.bit_offset = first * btf.sizeof(type_id) * 8 & _U32
    for idx in spec.raw[1:]:
        type_id, t = _resolve(btf, type_id)
        if isinstance(t, (Struct, Union)):
            if idx >= len(t.members):
                raise _Failed(f"access string {relo.access_str!r} names no member")
            member = t.members[idx]
            spec.bit_offset = spec.bit_offset + member.bit_offset & _U32
            if member.name:
                spec.accessors.append(_Accessor(type_id, idx, member.name))
            type_id = member.type
        elif isinstance(t, Array):
            type_id, _ = _resolve(btf, t.type)
            if idx >= t.nelems and not _is_flexible(btf, spec.accessors[-1], t):
                raise _Failed(f"access string {relo.access_str!r} leaves an array")
            spec.accessors.append(_Accessor(type_id, idx, None))
            spec.bit_offset = spec.bit_offset + idx * btf.sizeof(type_id) * 8 & _U32
        else:
            kind = _kind_name(t.kind)
            raise _Failed(f"access string {relo.access_str!r} walks into a {kind}")
    return spec


def _fields_compatible(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    # Whether reading a field of one type as the other makes sense at all.
    for _ in range(_MAX_SPEC):
        _, a = _resolve(local, local_id)
        _, b = _resolve(target, target_id)
        if isinstance(a, (Struct, Union)) and isinstance(b, (Struct, Union)):
            return True
        if not _kinds_compatible(a.kind, b.kind):
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
    raise _Failed("array types are nested too deeply")


def _match_member(
    local: Btf, field: Member, target: Btf, target_id: int, spec: _Spec, missing: set[int]
) -> int | None:
    """Find a local field by name in a target type; extends `spec`, gives the field's type.

    Returns None if there is no such field, or it is of an incompatible type.
    `missing` collects anonymous types that do not have it.
    """
    target_id, t = _resolve(target, target_id)
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
            spec.accessors.append(_Accessor(target_id, i, member.name))
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


def _match_spec(local_spec: _Spec, target: Btf, target_id: int) -> _Spec | None:
    """Replay a local access on a target type; None if it does not have it."""
    local = local_spec.btf
    spec = _Spec(target, target_id, local_spec.kind)
    if spec.kind in _TYPE_KINDS:
        if spec.kind == CoreKind.TYPE_MATCHES:
            same = _TypesMatch(local, target).match(local_spec.root, target_id)
        else:
            same = _TypesCompatible(local, target).check(local_spec.root, target_id)
        return spec if same else None
    if spec.kind in _ENUM_KINDS:
        target_id, t = _resolve(target, target_id)
        if not isinstance(t, (Enum, Enum64)):
            return None
        wanted = essential_name(local_spec.accessors[0].name or "")
        for i, value in enumerate(t.values):
            if essential_name(value.name) == wanted:
                spec.accessors.append(_Accessor(target_id, i, value.name))
                spec.raw.append(i)
                return spec
        return None
    for i, step in enumerate(local_spec.accessors):
        target_id, t = _resolve(target, target_id)
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
            target_id, _ = _resolve(target, t.type)
        spec.push_raw(step.idx)
        spec.accessors.append(_Accessor(target_id, step.idx, None))
        spec.bit_offset = spec.bit_offset + step.idx * target.sizeof(target_id) * 8 & _U32
    return spec


class _TypesCompatible:
    """Type-based relocations: same kinds all the way down, names below the root ignored."""

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
        if not _kinds_compatible(self.local.kind(local_id), self.target.kind(target_id)):
            return False
        for _ in range(_MAX_LEVEL):
            _, a = _resolve(self.local, local_id)
            _, b = _resolve(self.target, target_id)
            if not _kinds_compatible(a.kind, b.kind):
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
                        raise _Failed("types are nested too deeply to compare")
                    first, _ = _resolve(self.local, mine.type)
                    second, _ = _resolve(self.target, theirs.type)
                    if not self.check(first, second, level - 1):
                        return False
            elif not (
                (isinstance(a, Ptr) and isinstance(b, Ptr))
                or (isinstance(a, Array) and isinstance(b, Array))
            ):
                return False  # floats and what BTF gains in the future
            # Pointee, element, or return type.
            local_id, target_id = a.type, b.type
        raise _Failed("types are nested too deeply to compare")


def types_compatible(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Can a local type stand for a target's, as for kernel variables and kfuncs?

    Kinds must agree all the way down, names are ignored
    (``bpf_core_types_are_compat`` of libbpf; types nested too deeply do not agree).
    """
    try:
        return _TypesCompatible(local, target).check(local_id, target_id)
    except _Failed:
        return False


class _TypesMatch:
    """TYPE_MATCHES: every local member exists in the target with a matching type."""

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
            raise _Failed("types are nested too deeply to match")
        for _ in range(_MAX_LEVEL):
            _, a = _resolve(self.local, local_id)
            _, b = _resolve(self.target, target_id)
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
        raise _Failed("types are nested too deeply to match")

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


# Values.


@dataclass(slots=True)
class _Value:
    # What one spec says the constant is; `size` and `type_id` of the field are
    # set only where a load or store may have to change its width.
    value: int
    size: int = 0
    type_id: int = 0
    validate: bool = True


def _enum_value(btf: Btf, accessor: _Accessor) -> int:
    t = btf.type(accessor.type_id)
    assert isinstance(t, (Enum, Enum64))
    val = t.values[accessor.idx].val
    if isinstance(t, Enum):
        # libbpf reads the value as s32, also that of an unsigned enum.
        val &= _U32
        return val - (1 << 32) if val >> 31 else val
    return val


def _element_size(btf: Btf, type_id: int) -> int:
    # Size in bytes of what an access loads: of an array, one element.
    for _ in range(_MAX_SPEC):
        type_id, t = _resolve(btf, type_id)
        if not isinstance(t, Array):
            return btf.sizeof(type_id)
        type_id = t.type
    raise _Failed("array types are nested too deeply")


def _field_value(kind: int, spec: _Spec | None) -> _Value:
    if kind == CoreKind.FIELD_EXISTS:
        return _Value(int(spec is not None))
    if spec is None:
        raise _Poison("no candidate has the field")
    btf = spec.btf
    last = spec.accessors[-1]
    if last.name is None:
        if kind == CoreKind.FIELD_BYTE_OFFSET:
            size = _element_size(btf, last.type_id)
            return _Value(spec.bit_offset // 8, size, last.type_id)
        if kind == CoreKind.FIELD_BYTE_SIZE:
            return _Value(btf.sizeof(last.type_id))
        raise _Failed("this kind of relocation does not apply to an array element")
    owner = btf.type(last.type_id)
    assert isinstance(owner, (Struct, Union))
    member = owner.members[last.idx]
    field_id, field = _resolve(btf, member.type)
    bits = member.bitfield_size
    if bits:
        byte_offset, byte_size = _bitfield_load(spec.bit_offset, bits, field)
    else:
        byte_size = btf.sizeof(field_id)
        byte_offset = spec.bit_offset // 8
        bits = byte_size * 8
    # Compilers disagree on how to load a bitfield, so only what does not
    # depend on that is compared with the instruction.
    validate = not member.bitfield_size
    if kind == CoreKind.FIELD_BYTE_OFFSET:
        if member.bitfield_size:
            return _Value(byte_offset, validate=False)
        return _Value(byte_offset, _element_size(btf, field_id), field_id)
    if kind == CoreKind.FIELD_BYTE_SIZE:
        return _Value(byte_size, validate=validate)
    if kind == CoreKind.FIELD_SIGNED:
        if isinstance(field, (Enum, Enum64, Int)):
            return _Value(int(field.signed))
        return _Value(0)
    if kind == CoreKind.FIELD_LSHIFT_U64:
        shift = 64 - (spec.bit_offset + bits - byte_offset * 8)
        return _Value(shift & _U64, validate=validate)
    return _Value(64 - bits & _U64)


def _bitfield_load(bit_offset: int, bits: int, field: Type) -> tuple[int, int]:
    # (offset, size) in bytes of the smallest aligned load that has the bits.
    if not isinstance(field, (Int, Enum, Enum64)) or field.size not in _SIZE_CODE:
        raise _Failed("a bitfield is not of an integer type")
    size = field.size
    offset = bit_offset // 8 // size * size
    while bit_offset + bits - offset * 8 > size * 8:
        if size >= 8:
            raise _Failed("a bitfield does not fit into a 64-bit load")
        size *= 2
        offset = bit_offset // 8 // size * size
    return offset, size


def _calculate(kind: int, spec: _Spec | None) -> _Value:
    if kind in _FIELD_KINDS:
        return _field_value(kind, spec)
    if kind in _ENUM_KINDS:
        if kind == CoreKind.ENUMVAL_EXISTS:
            return _Value(int(spec is not None))
        if spec is None:
            raise _Poison("no candidate has the enumerator")
        return _Value(_enum_value(spec.btf, spec.accessors[0]) & _U64)
    if spec is None:
        return _Value(0)
    if kind == CoreKind.TYPE_ID_TARGET:
        # The linker may renumber the ids in the code, so they are not compared.
        return _Value(spec.root, validate=False)
    if kind == CoreKind.TYPE_SIZE:
        return _Value(spec.btf.sizeof(spec.root))
    return _Value(1)


@dataclass(slots=True)
class _Decision:
    value: int = 0
    poison: str = ""
    old: _Value | None = None
    new_size: int = 0
    # Set if a load or store through this field would read a wrong value.
    bad_width: bool = False


def _decide(kind: int, local_spec: _Spec, spec: _Spec | None) -> _Decision:
    old = _calculate(kind, local_spec)
    try:
        new = _calculate(kind, spec)
    except _Poison as why:
        return _Decision(poison=str(why), old=old)
    decision = _Decision(new.value, old=old, new_size=new.size)
    if kind in _FIELD_KINDS and old.size != new.size:
        assert spec is not None
        decision.bad_width = not _width_may_change(
            local_spec.btf.type(old.type_id), spec.btf.type(new.type_id)
        )
    return decision


def _width_may_change(old: Type, new: Type) -> bool:
    # Pointers (32-bit kernels) and unsigned integers: zero extension keeps
    # their value. Only an encoding of exactly SIGNED counts as signed.
    if isinstance(old, Ptr) and isinstance(new, Ptr):
        return True
    return (
        isinstance(old, Int)
        and isinstance(new, Int)
        and INT_SIGNED not in (old.encoding, new.encoding)
    )


def _resolve_relo(
    relo: CoreRelo, local_spec: _Spec, candidates: _Candidates
) -> tuple[_Decision, str]:
    """Match all candidates; returns the decision and the matching target in words."""
    chosen: tuple[_Spec, _Decision] | None = None
    left = []
    for target, target_id in candidates.found:
        spec = _match_spec(local_spec, target, target_id)
        if spec is None:
            continue
        decision = _decide(relo.kind, local_spec, spec)
        if chosen is None:
            chosen = spec, decision
        elif spec.bit_offset != chosen[0].bit_offset:
            raise _Failed(f"ambiguous: field offset is that of {chosen[0]} or of {spec}")
        elif (decision.value, decision.poison) != (chosen[1].value, chosen[1].poison):
            raise _Failed(
                f"ambiguous: {chosen[0]} gives {chosen[1].value}, {spec} gives {decision.value}"
            )
        left.append((target, target_id))
    if chosen is None:
        return _decide(relo.kind, local_spec, None), ""
    candidates.found = left
    return chosen[1], str(chosen[0])


# Instructions.


def _poison(code: bytearray, at: int) -> None:
    # Both slots of a 64-bit load: "unknown opcode 00" would confuse.
    slots = 2 if code[at] == _LDIMM64 and at + 16 <= len(code) else 1
    for slot in range(slots):
        _INSN.pack_into(code, at + 8 * slot, _JMP_CALL, 0, 0, POISON_IMM)


def _s32(value: int) -> int:
    value &= _U32
    return value - (1 << 32) if value >> 31 else value


def _patch(code: bytearray, at: int, decision: _Decision) -> str:
    """Put the value into the instruction; returns why it was poisoned instead, or ""."""
    old = decision.old
    if decision.poison or old is None:
        _poison(code, at)
        return decision.poison
    opcode, regs, off, imm = _INSN.unpack_from(code, at)
    cls = opcode & 7
    value = decision.value
    if cls in (_ALU, _ALU64):
        if opcode & 8:
            raise _Failed("an ALU instruction without an immediate cannot be relocated")
        _check_old(old, imm)
        _INSN.pack_into(code, at, opcode, regs, off, _s32(value))
    elif cls in (_LDX, _ST, _STX):
        _check_old(old, off)
        if value > 0x7FFF:
            raise _Failed(f"offset {value} does not fit into a load or store")
        if decision.bad_width:
            _poison(code, at)
            return (
                f"the field is {decision.new_size} bytes here and {old.size} in the program, "
                "and is not a pointer or unsigned integer on both sides"
            )
        if decision.new_size != old.size:
            have = _SIZE_BYTES[opcode & 0x18]
            if have != old.size:
                raise _Failed(f"the instruction accesses {have} bytes, the field has {old.size}")
            if decision.new_size not in _SIZE_CODE:
                raise _Failed(f"no load or store of {decision.new_size} bytes exists")
            opcode = opcode & 0xE0 | _SIZE_CODE[decision.new_size] | cls
        _INSN.pack_into(code, at, opcode, regs, value, imm)
    elif opcode == _LDIMM64 and at + 16 <= len(code):
        second = _INSN.unpack_from(code, at + 8)
        if regs >> 4 or off or second[:3] != (0, 0, 0):
            raise _Failed("a 64-bit load has an unexpected form")
        _check_old(old, (imm & _U32) | (second[3] & _U32) << 32)
        _INSN.pack_into(code, at, opcode, regs, off, _s32(value))
        _INSN.pack_into(code, at + 8, 0, 0, 0, _s32(value >> 32))
    else:
        raise _Failed(f"an instruction with code {opcode:#04x} cannot be relocated")
    return ""


def _check_old(old: _Value, found: int) -> None:
    if old.validate and found & _U64 != old.value:
        raise _Failed(f"the instruction holds {found}, the program's own types say {old.value}")


def _relocate_one(
    code: bytearray, at: int, relo: CoreRelo, local: Btf, cache: CandidateCache
) -> CoreResult:
    if at < 0 or at % 8 or at + 8 > len(code):
        raise _Failed(f"byte offset {at} is not that of an instruction")
    try:
        kind = CoreKind(relo.kind)
    except ValueError:
        raise _Failed(f"relocation kind {relo.kind} is not known") from None
    if kind != CoreKind.TYPE_ID_LOCAL and not local.name(relo.type_id):
        raise _Failed(f"type {relo.type_id} is anonymous and cannot be looked up")
    local_spec = _local_spec(local, relo)
    if kind == CoreKind.TYPE_ID_LOCAL:
        decision = _Decision(relo.type_id, old=_Value(relo.type_id, validate=False))
        target = str(local_spec)
    else:
        decision, target = _resolve_relo(relo, local_spec, cache.candidates(relo.type_id))
    reason = _patch(code, at, decision)
    return CoreResult(at, kind, str(local_spec), target, decision.value, bool(reason), reason)


def relocate(
    code: bytearray,
    relos: Sequence[tuple[int, CoreRelo]],
    local: Btf,
    targets: Sequence[Btf],
    *,
    program: str,
    cache: CandidateCache | None = None,
) -> list[CoreResult]:
    """Apply CO-RE relocations to a program's instructions, in place.

    :param code: instructions, 8 bytes each
    :param relos: (byte offset of the instruction in `code`, record), in the order of .BTF.ext
    :param local: the object's BTF
    :param targets: the kernel's BTF, then those of modules
    :param program: for messages
    :param cache: shared by the programs of one load; must be made for `local` and `targets`
    :return: one result per relocation; unresolvable ones are poisoned, not refused
    :raises RelocationError: candidates disagree, or record and instruction do not fit
    """
    if cache is None:
        cache = CandidateCache(local, targets)
    results = []
    for number, (at, relo) in enumerate(relos):
        try:
            results.append(_relocate_one(code, at, relo, local, cache))
        except (_Failed, ObjectFormatError) as err:
            raise RelocationError(
                f"CO-RE relocation #{number} ({_describe(local, relo)}): {err}",
                program=program,
                insn=at // 8,
            ) from None
    return results


def _describe(local: Btf, relo: CoreRelo) -> str:
    kind = CoreKind(relo.kind).name.lower() if 0 <= relo.kind <= 12 else f"kind {relo.kind}"
    try:
        name = local.name(relo.type_id) or "<anon>"
    except ObjectFormatError:
        name = "?"
    return f"{kind} [{relo.type_id}] {name} + {relo.access_str}"
