"""CO-RE: fit a program to the types of the kernel it is loaded on.

Clang leaves a record for every instruction whose constant depends on a kernel
type. A record has the type as the program knows it (the *local* type), an access string
that walks into it ("0:1:2"), and the kind of constant (a field's offset, a
type's size, whether it exists...). For each record:

1. The access string becomes a *spec*: named fields and array indices, with
   anonymous structs folded away, and the bit offset they add up to.
2. *Candidates* are looked up in the target BTF: types of the same kind with the
   same essential name (flavours such as ``task_struct___old`` drop their
   suffix). The kernel's own BTF comes first; modules are asked only if it has none.
3. The spec is replayed on each candidate, by field name, through anonymous
   members. Candidates that do not match are dropped, also for later records of the same
   type. All that match must give the same value.
4. The instruction is checked to hold the value the local type gives, then
   patched. If nothing matches, the instruction becomes a call of a
   helper that does not exist. That is fine in code the verifier can prove dead.

The result is that of libbpf's ``relo_core.c`` down to the bytes, including its
quirks; comments mark those that are deliberate. Types are only read here, and
only the caller's code is written.
"""

from __future__ import annotations

import struct
from functools import cached_property, partial

from ..asm import opcodes as op
from ..dataclass import dataclass, field
from ..errors import ObjectFormatError, RelocationError
from ..wording import many
from .decode import Btf
from .match import (
    ENUM_KINDS,
    FIELD_KINDS,
    MAX_SPEC,
    CoreFailure,
    CoreKind,
    Spec,
    enum_value,
    kinds_compatible,
    local_spec,
    match_spec,
    resolve,
    types_compatible,
)
from .names import essential_name
from .types import INT_SIGNED, Array, Enum, Enum64, Int, Ptr, Struct, Type, Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .absent import Absent
    from .ext import CoreRelo

__all__ = [
    "POISON_IMM",
    "CandidateCache",
    "CoreKind",
    "CoreResult",
    "relocate",
    "types_compatible",
]

#: Helper number of a poisoned instruction: 0xbad2310, "bad relo".
POISON_IMM = 195896080

_INSN = struct.Struct("<BBhi")
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_SIZE_CODE = {size: code for code, size in op.SIZE_BYTES.items()}


@dataclass(frozen=True, slots=True)
class CoreResult:
    """Hold the result of one relocation.

    ``offset`` is the instruction's byte offset in the code. ``local`` and
    ``target`` describe the accesses in words (``target`` is "" if nothing
    matched). ``value`` is the new constant as u64. A ``poisoned`` instruction was
    made uncallable, ``reason`` says why (by ``why``), and ``access`` is the access as C writes it.
    """

    offset: int
    kind: CoreKind
    local: str
    target: str = ""
    value: int = 0
    poisoned: bool = False
    why: Callable[[], str] | None = field(default=None, compare=False)
    access: str = ""

    @property
    def reason(self) -> str:
        """Say why the instruction was poisoned, "" if it was not.

        What the kernel has instead is looked for now: most of these instructions never run.
        """
        return self.why() if self.why is not None else ""


# Why, until it is known what there is instead.
_NOTHING = "no candidate has it"


class _Poison(Exception):
    """Say that the relocation has no answer on this target."""


class _Candidates:
    """Hold the target types that one local type may mean. Those that do not match are dropped."""

    __slots__ = ("every", "found")

    def __init__(self, found: list[tuple[Btf, int]]) -> None:
        self.found = found
        self.every = found  # including those that did not match


class CandidateCache:
    """Keep candidates by local type, shared by all programs of one load.

    Sharing is not only faster. As in libbpf, the candidates that are left depend on the
    relocations seen before.
    """

    def __init__(self, local: Btf, targets: Sequence[Btf]) -> None:
        self._local = local
        self._targets = targets
        self._by_id: dict[int, _Candidates] = {}
        self._decided: dict[tuple[int, int, str], _Decided] = {}

    @cached_property
    def absent(self) -> Absent:
        """Return what says what there is instead of missing types and fields."""
        from .absent import Absent  # only when something is missing

        return Absent(self._targets)

    def candidates(self, local_id: int) -> _Candidates:
        known = self._by_id.get(local_id)
        if known is None:
            known = self._by_id[local_id] = _Candidates(self._search(local_id))
        return known

    def decide(self, relo: CoreRelo) -> _Decided:
        """Decide a relocation. One that was decided is answered from before, unless another one
        has dropped candidates of its type since."""
        key = (relo.kind, relo.type_id, relo.access_str)
        known = self._decided.get(key)
        if known is None or (known.of is not None and known.of.found is not known.among):
            known = self._decided[key] = self._decide(relo)
        return known

    def _decide(self, relo: CoreRelo) -> _Decided:
        mine = local_spec(self._local, relo)
        text = str(mine)
        if relo.kind == CoreKind.TYPE_ID_LOCAL:
            own = _Decision(relo.type_id, old=_Value(relo.type_id, validate=False))
            return _Decided(mine, text, own, text)
        of = self.candidates(relo.type_id)
        decision, target = _resolve_relo(relo, mine, of)
        return _Decided(mine, text, decision, target, of, of.found)

    def _search(self, local_id: int) -> list[tuple[Btf, int]]:
        name = essential_name(self._local.name(local_id))
        kind = self._local.kind(local_id)
        found: list[tuple[Btf, int]] = []
        for number, target in enumerate(self._targets):
            if number == 1 and found:
                break  # the kernel's own types win over all modules
            ids = target.find_essential(name)
            # Modules contribute only their own types. A lone split BTF
            # brings its base along.
            if number == 0 and target.base is not None:
                ids = target.base.find_essential(name) + ids
            found += [(target, i) for i in ids if kinds_compatible(target.kind(i), kind)]
        return found


# Values.


@dataclass(slots=True)
class _Value:
    # The constant that one spec gives. `size` and `type_id` of the field are
    # set only if a load or store may have to change its width.
    value: int
    size: int = 0
    type_id: int = 0
    validate: bool = True


def _element_size(btf: Btf, type_id: int) -> int:
    # Size in bytes of what an access loads. For an array that is one element.
    for _ in range(MAX_SPEC):
        type_id, t = resolve(btf, type_id)
        if not isinstance(t, Array):
            return btf.sizeof(type_id)
        type_id = t.type
    raise CoreFailure("array types are nested too deeply")


def _field_value(kind: int, spec: Spec | None) -> _Value:
    if kind == CoreKind.FIELD_EXISTS:
        return _Value(int(spec is not None))
    if spec is None:
        raise _Poison(_NOTHING)
    btf = spec.btf
    last = spec.accessors[-1]
    if last.name is None:
        if kind == CoreKind.FIELD_BYTE_OFFSET:
            size = _element_size(btf, last.type_id)
            return _Value(spec.bit_offset // 8, size, last.type_id)
        if kind == CoreKind.FIELD_BYTE_SIZE:
            return _Value(btf.sizeof(last.type_id))
        raise CoreFailure("this kind of relocation does not apply to an array element")
    owner = btf.type(last.type_id)
    assert isinstance(owner, (Struct, Union))
    member = owner.members[last.idx]
    field_id, field = resolve(btf, member.type)
    bits = member.bitfield_size
    if bits:
        byte_offset, byte_size = _bitfield_load(spec.bit_offset, bits, field)
    else:
        byte_size = btf.sizeof(field_id)
        byte_offset = spec.bit_offset // 8
        bits = byte_size * 8
    # Compilers disagree on how to load a bitfield, so only the part that does not
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
    # (offset, size) in bytes of the smallest aligned load that contains the bits.
    if not isinstance(field, (Int, Enum, Enum64)) or field.size not in _SIZE_CODE:
        raise CoreFailure("a bitfield is not of an integer type")
    size = field.size
    offset = bit_offset // 8 // size * size
    while bit_offset + bits - offset * 8 > size * 8:
        if size >= 8:
            raise CoreFailure("a bitfield does not fit into a 64-bit load")
        size *= 2
        offset = bit_offset // 8 // size * size
    return offset, size


def _calculate(kind: int, spec: Spec | None) -> _Value:
    if kind in FIELD_KINDS:
        return _field_value(kind, spec)
    if kind in ENUM_KINDS:
        if kind == CoreKind.ENUMVAL_EXISTS:
            return _Value(int(spec is not None))
        if spec is None:
            raise _Poison(_NOTHING)
        return _Value(enum_value(spec.btf, spec.accessors[0]) & _U64)
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


@dataclass(slots=True)
class _Decided:
    # What was decided for a kind, type and access: the access in words, what to write, and the
    # target in words. `among` are the candidates of `of` that were left then.
    mine: Spec
    text: str
    decision: _Decision
    target: str
    of: _Candidates | None = None
    among: list[tuple[Btf, int]] | None = None
    instead: str = ""  # what there is, once it was looked for


def _decide(kind: int, mine: Spec, spec: Spec | None) -> _Decision:
    old = _calculate(kind, mine)
    try:
        new = _calculate(kind, spec)
    except _Poison as why:
        return _Decision(poison=str(why), old=old)
    decision = _Decision(new.value, old=old, new_size=new.size)
    if kind in FIELD_KINDS and old.size != new.size:
        assert spec is not None
        decision.bad_width = not _width_may_change(
            mine.btf.type(old.type_id), spec.btf.type(new.type_id)
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


def _resolve_relo(relo: CoreRelo, mine: Spec, candidates: _Candidates) -> tuple[_Decision, str]:
    """Match all candidates. Return the decision, and the matching target in words."""
    chosen: tuple[Spec, _Decision] | None = None
    left = []
    for target, target_id in candidates.found:
        spec = match_spec(mine, target, target_id)
        if spec is None:
            continue
        decision = _decide(relo.kind, mine, spec)
        if chosen is None:
            chosen = spec, decision
        elif spec.bit_offset != chosen[0].bit_offset:
            raise CoreFailure(f"ambiguous: the field may be at {chosen[0]} or at {spec}")
        elif (decision.value, decision.poison) != (chosen[1].value, chosen[1].poison):
            raise CoreFailure(
                f"ambiguous: {chosen[0]} gives {chosen[1].value}, {spec} gives {decision.value}"
            )
        left.append((target, target_id))
    if chosen is None:
        return _decide(relo.kind, mine, None), ""
    if len(left) < len(candidates.found):
        candidates.found = left
    return chosen[1], str(chosen[0])


# Instructions.


def _poison(code: bytearray, at: int) -> None:
    # Poison both slots of a 64-bit load: "unknown opcode 00" would confuse people.
    slots = 2 if code[at] == op.LDIMM64 and at + 16 <= len(code) else 1
    for slot in range(slots):
        _INSN.pack_into(code, at + 8 * slot, op.JMP | op.CALL, 0, 0, POISON_IMM)


def _s32(value: int) -> int:
    value &= _U32
    return value - (1 << 32) if value >> 31 else value


def _patch(code: bytearray, at: int, decision: _Decision) -> str:
    """Put the value into the instruction. Return why it was poisoned instead, or ""."""
    old = decision.old
    if decision.poison or old is None:
        _poison(code, at)
        return decision.poison
    opcode, regs, off, imm = _INSN.unpack_from(code, at)
    cls = opcode & op.CLASS_MASK
    value = decision.value
    if cls in (op.ALU, op.ALU64):
        if opcode & op.X:
            raise CoreFailure("an ALU instruction without an immediate cannot be relocated")
        _check_old(old, imm)
        _INSN.pack_into(code, at, opcode, regs, off, _s32(value))
    elif cls in (op.LDX, op.ST, op.STX):
        _check_old(old, off)
        if value > 0x7FFF:
            raise CoreFailure(f"offset {value} does not fit into a load or store")
        if decision.bad_width:
            _poison(code, at)
            return (
                f"the field is {many(decision.new_size, 'byte')} here and {old.size} in the "
                "program, and is not a pointer or unsigned integer on both sides"
            )
        if decision.new_size != old.size:
            have = op.SIZE_BYTES[opcode & op.SIZE_MASK]
            if have != old.size:
                raise CoreFailure(
                    f"the instruction accesses {many(have, 'byte')}, but the field has {old.size}"
                )
            if decision.new_size not in _SIZE_CODE:
                raise CoreFailure(f"no load or store of {many(decision.new_size, 'byte')} exists")
            opcode = opcode & op.MODE_MASK | _SIZE_CODE[decision.new_size] | cls
        _INSN.pack_into(code, at, opcode, regs, value, imm)
    elif opcode == op.LDIMM64 and at + 16 <= len(code):
        second = _INSN.unpack_from(code, at + 8)
        if regs >> 4 or off or second[:3] != (0, 0, 0):
            raise CoreFailure("a 64-bit load has an unexpected form")
        _check_old(old, (imm & _U32) | (second[3] & _U32) << 32)
        _INSN.pack_into(code, at, opcode, regs, off, _s32(value))
        _INSN.pack_into(code, at + 8, 0, 0, 0, _s32(value >> 32))
    else:
        raise CoreFailure(f"an instruction with code {opcode:#04x} cannot be relocated")
    return ""


def _check_old(old: _Value, found: int) -> None:
    if old.validate and found & _U64 != old.value:
        raise CoreFailure(
            f"the instruction holds {found}, but the program's own types say {old.value}"
        )


def _relocate_one(
    code: bytearray, at: int, relo: CoreRelo, local: Btf, cache: CandidateCache
) -> CoreResult:
    if at < 0 or at % 8 or at + 8 > len(code):
        raise CoreFailure(f"byte offset {at} is not the start of an instruction")
    try:
        kind = CoreKind(relo.kind)
    except ValueError:
        raise CoreFailure(f"relocation kind {relo.kind} is not known") from None
    if kind != CoreKind.TYPE_ID_LOCAL and not local.name(relo.type_id):
        raise CoreFailure(f"type {relo.type_id} is anonymous and cannot be looked up")
    known = cache.decide(relo)
    mine, decision = known.mine, known.decision
    reason = _patch(code, at, decision)
    if not reason:
        return CoreResult(at, kind, known.text, known.target, decision.value)
    from .absent import access  # only when something is missing

    why = partial(_instead, known, cache, relo.type_id) if reason == _NOTHING else lambda: reason
    return CoreResult(at, kind, known.text, known.target, decision.value, True, why, access(mine))


def _instead(known: _Decided, cache: CandidateCache, type_id: int) -> str:
    if not known.instead:
        known.instead = cache.absent.instead(known.mine, cache.candidates(type_id).every)
    return known.instead


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
    :param program: name for messages
    :param cache: shared by the programs of one load; must be made for `local` and `targets`
    :return: one result per relocation; unresolvable ones are poisoned, not refused
    :raises RelocationError: candidates disagree, or record and instruction do not match
    """
    if cache is None:
        cache = CandidateCache(local, targets)
    results = []
    for number, (at, relo) in enumerate(relos):
        try:
            results.append(_relocate_one(code, at, relo, local, cache))
        except (CoreFailure, ObjectFormatError) as err:
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
