"""Write BTF as C declarations that a compiler lays out as the kernel did.

C requires a type to be declared before it is used. How much of it must be declared depends on
the use. A struct must be complete where it is a member, but only its name must be known
where it is pointed to. A typedef or enum must always have been declared. A
typedef's own target is needed only as far as the typedef is used. So declarations
are made in the order of ids, and each first asks for what it needs: `_complete`
for use by value, `_mention` for use behind pointers and in prototypes, where a forward
declaration is enough for structs. Anonymous types are written in place.

Layout: members are placed by the C rules for 64-bit little-endian targets. If
BTF has a member further on, unnamed bit-fields fill the gap. A struct with a member
closer than the rules allow is ``packed``. Names that C would see twice (BTF
may have several types of one name) get the suffix ``___2``, ``___3``..., which CO-RE
drops again. Type tags are left out.
"""

from __future__ import annotations

import re

from ..errors import ObjectFormatError
from .decode import Btf
from .types import (
    Array,
    BtfKind,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Member,
    Ptr,
    Restrict,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Var,
    Volatile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .blob import Blob

__all__ = ["dump"]

_MAX_DEPTH = 100
# Most declarators to write for each word of the types, and some more. A kernel needs 0.1. Types
# without a name are written again at each use: forged ones would double from one to the next.
_PER_WORD, _SOME = 4, 1000
# Most uses of types to follow, likewise. A kernel needs 0.2.
_STEPS_PER_WORD = 8
_HEAD = """\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

"""
_KFUNCS = """\
#ifndef BPF_NO_KFUNC_PROTOTYPES
#ifndef __ksym
#define __ksym __attribute__((section(".ksyms")))
#endif
#ifndef __weak
#define __weak __attribute__((weak))
#endif
"""
_KEYWORDS = frozenset(
    {
        *("auto", "bool", "break", "case", "char", "const", "continue", "default", "do", "double"),
        *("else", "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long"),
        *("register", "restrict", "return", "short", "signed", "sizeof", "static", "struct"),
        *("switch", "typedef", "typeof", "union", "unsigned", "void", "volatile", "while"),
    }
)
_KFUNC = "bpf_kfunc"  # the tag of a kfunc
_TAIL = """\
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
"""
# Widths of unnamed bit-fields that fill gaps, widest first. A full one starts its own storage
# unit, so it ends exactly where it should.
_FILLERS = ((64, "long"), (32, "int"), (16, "short"), (8, "char"))
# A gap of this many bits gets an array instead, which is a member with a name.
_LONG_GAP = 64 * 64
_NAMED = frozenset(
    {
        *(BtfKind.STRUCT, BtfKind.UNION, BtfKind.ENUM, BtfKind.ENUM64),
        *(BtfKind.FWD, BtfKind.TYPEDEF),
    }
)
_NO_TYPES = frozenset({BtfKind.FUNC, BtfKind.VAR, BtfKind.DATASEC, BtfKind.DECL_TAG})
_QUALIFIERS = {Const: "const", Volatile: "volatile", Restrict: "restrict"}


def dump(btf: Btf, ids: Iterable[int] | None = None) -> str:
    """Write C declarations of all types and of the kernel's kfuncs, or of some types.

    What these need is declared, too. Of functions, only those with the tag ``bpf_kfunc`` are
    declared (6.10 and later mark them), as `bpftool btf dump` does. A program that declares them
    otherwise defines ``BPF_NO_KFUNC_PROTOTYPES``.

    :param ids: types to declare; None for all of them, including the base's, and kfuncs
    :raises ObjectFormatError: malformed records, types nested in themselves
    """
    dumper = _Dumper(btf)
    for type_id in dumper.named if ids is None else ids:
        dumper.declare(type_id)
    kfuncs = dumper.kfuncs() if ids is None else []
    prototypes = f"{_KFUNCS}{''.join(kfuncs)}#endif\n\n" if kfuncs else ""
    return _HEAD + "".join(dumper.out) + prototypes + _TAIL


class _Names:
    """Make names valid and unique in one C name space."""

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}

    def is_free(self, name: str) -> bool:
        """Tell whether a name is valid and has not been given."""
        return (
            name.isidentifier()
            and name.isascii()
            and name not in self._uses
            and name not in _KEYWORDS
        )

    def unique(self, name: str) -> str:
        clean = _identifier(name)
        if clean[:1].isdigit():
            clean = "_" + clean
        while True:
            uses = self._uses[clean] = self._uses.get(clean, 0) + 1
            if uses == 1:
                return clean
            made = f"{clean}___{uses}"
            if made not in self._uses:
                self._uses[made] = 1
                return made


class _Types(dict[int, Type]):
    """Decode types when they are first looked at."""

    def __init__(self, btf: Btf) -> None:
        super().__init__()
        self._btf = btf

    def __missing__(self, type_id: int) -> Type:
        found = self[type_id] = self._btf.type(type_id)
        return found


class _Dumper:
    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.types = _Types(btf)
        self.named: list[int] = []  # ids of what a declaration of its own may have
        self.out: list[str] = []
        self._left = _SOME + _PER_WORD * _words(btf)
        self._steps = _SOME + _STEPS_PER_WORD * _words(btf)
        self._tags = _Names()
        self._words = _Names()
        self._fillers = _Names()  # members of the declaration that is being written
        self._name_of: dict[int, str] = {}
        self._forwards: dict[tuple[str, bool], str] = {}
        self._declared: set[int] = set()  # forward declarations, typedefs, enums
        self._done: set[int] = set()  # complete types
        self._mentioned: set[int] = set()  # what pointers to them need is declared
        self._busy: set[int] = set()
        self._inline_enums: set[int] = set()
        self._packed: dict[int, bool] = {}
        self._aligns: dict[int, int] = {}
        self._sizes: dict[int, int] = {}  # in bits
        self._plain: dict[int, str] = {}
        self._choose_names()

    def _choose_names(self) -> None:
        # This comes before anything is written, because a later typedef must not lose its
        # name to an enumerator of an earlier enum.
        forwards: list[tuple[int, Fwd]] = []
        used = self._inline_enums
        for type_id, kind, blob, at in _records(self.btf):
            if kind == BtfKind.FUNC_PROTO:
                # Most prototypes are of functions, and are not written.
                count = blob.words[at + 1] & 0xFFFFFF
                used.add(blob.words[at + 2])
                used.update(blob.words[at + 4 : at + 3 + 2 * count : 2])
                continue
            if kind in _NO_TYPES:
                continue
            t = self.types[type_id]
            if kind in _NAMED:
                self.named.append(type_id)
            if isinstance(t, (Struct, Union, Enum, Enum64)):
                if t.name:
                    name = self._name_of[type_id] = self._tags.unique(t.name)
                    if isinstance(t, (Struct, Union)):
                        self._forwards.setdefault((t.name, isinstance(t, Union)), name)
                if isinstance(t, (Struct, Union)):
                    used.update([m.type for m in t.members])
                continue
            if isinstance(t, Typedef):
                # The compiler's own va_list differs between targets.
                name = "kernel" + t.name if t.name.startswith("__builtin_") else t.name
                self._name_of[type_id] = self._words.unique(name)
            elif isinstance(t, Fwd):
                forwards.append((type_id, t))
            target = getattr(t, "type", None)
            if target is not None:
                used.add(target)
        for type_id, fwd in forwards:
            # The struct it declares, under whatever name, if it is here.
            key = (fwd.name, fwd.is_union)
            if key not in self._forwards:
                self._forwards[key] = self._tags.unique(fwd.name)
            self._name_of[type_id] = self._forwards[key]

    # What to write, and in which order.

    def declare(self, type_id: int) -> None:
        """Declare a type that was requested itself."""
        t = self.types[type_id]
        if isinstance(t, (Struct, Union)):
            if t.name:
                self._complete(type_id, 0)
        elif isinstance(t, (Enum, Enum64)):
            # An enum without a name matters because of its enumerators, unless it is
            # written where it is used.
            if t.name or type_id not in self._inline_enums:
                self._enum(type_id, t)
        elif isinstance(t, (Typedef, Fwd)):
            self._mention(type_id, 0)

    def _nested(self, depth: int, type_id: int) -> int:
        self._steps -= 1
        if self._steps < 0:
            raise ObjectFormatError(
                f"type {type_id} is used too often: prototypes are nested in others",
                file=self.btf.label,
                section=".BTF",
            )
        if depth > _MAX_DEPTH:
            raise ObjectFormatError(
                f"type {type_id} is nested too deeply", file=self.btf.label, section=".BTF"
            )
        return depth + 1

    def _complete(self, type_id: int, depth: int) -> None:
        """Declare everything that a use of the type by value needs."""
        if type_id in self._done:
            return
        depth = self._nested(depth, type_id)
        t = self.types[type_id]
        if isinstance(t, Typedef):
            self._complete(t.type, depth)
            self._typedef(type_id, t, depth)
            self._done.add(type_id)
        elif isinstance(t, (Struct, Union)):
            if type_id in self._busy:
                raise ObjectFormatError(
                    f"{t.name or '<anon>'} contains itself", file=self.btf.label, section=".BTF"
                )
            self._busy.add(type_id)
            for member in t.members:
                self._complete(member.type, depth)
            self._busy.discard(type_id)
            self._done.add(type_id)
            if t.name:
                self._declared.add(type_id)
                self.out.append(f"{self._composite(type_id, t, 0)};\n\n")
        elif isinstance(t, Array) or type(t) in _QUALIFIERS or isinstance(t, TypeTag):
            self._complete(t.type, depth)  # type: ignore[attr-defined]
        else:
            self._mention(type_id, depth)

    def _mention(self, type_id: int, depth: int) -> None:
        """Declare everything that a pointer to the type needs."""
        if type_id in self._mentioned:
            return
        depth = self._nested(depth, type_id)
        t = self.types[type_id]
        if isinstance(t, (Struct, Union)):
            if t.name:
                self._forward(type_id, isinstance(t, Union))
            else:
                self._complete(type_id, depth)
        elif isinstance(t, Fwd):
            self._forward(type_id, t.is_union)
        elif isinstance(t, (Enum, Enum64)):
            if t.name:
                self._enum(type_id, t)
        elif isinstance(t, Typedef):
            if type_id not in self._declared:
                self._mention(t.type, depth)
                self._typedef(type_id, t, depth)
        elif isinstance(t, FuncProto):
            self._mention(t.type, depth)
            for param in t.params:
                self._mention(param.type, depth)
        elif isinstance(t, Array):
            # The elements of an array must be complete even behind a pointer.
            if self.btf.skip_mods_and_typedefs(t.type) in self._busy:
                self._mention(t.type, depth)
            else:
                self._complete(t.type, depth)
        elif isinstance(t, (Ptr, TypeTag)) or type(t) in _QUALIFIERS:
            self._mention(t.type, depth)  # type: ignore[attr-defined]
        self._mentioned.add(type_id)

    def _forward(self, type_id: int, is_union: bool) -> None:
        if type_id not in self._declared:
            self._declared.add(type_id)
            if type_id not in self._done:
                keyword = "union" if is_union else "struct"
                self.out.append(f"{keyword} {self._name_of[type_id]};\n\n")

    def _typedef(self, type_id: int, t: Typedef, depth: int) -> None:
        if type_id in self._declared:
            return
        self._declared.add(type_id)
        self.out.append(f"typedef {self._declarator(t.type, self._name_of[type_id], 0)};\n\n")

    def _enum(self, type_id: int, t: Enum | Enum64) -> None:
        if type_id not in self._declared:
            self._declared.add(type_id)
            self.out.append(f"{self._enum_body(type_id, t, 0)};\n\n")

    def kfuncs(self) -> list[str]:
        """Return prototypes of the kfuncs by name, and declare what they need."""
        protos: dict[str, FuncProto] = {}
        btf: Btf | None = self.btf
        while btf is not None:
            for tag_id in btf.ids(BtfKind.DECL_TAG) if btf.has_tag(_KFUNC) else ():
                tag = self.types[tag_id]
                assert isinstance(tag, DeclTag)
                function = self.types[tag.type]
                # Tags of parameters have an index.
                if tag.name != _KFUNC or tag.component_idx != -1 or not isinstance(function, Func):
                    continue
                proto = self.types[function.type]
                # A name that a typedef or an enumerator has cannot be a function's.
                if self._words.is_free(function.name) and self._can_be_declared(proto):
                    assert isinstance(proto, FuncProto)
                    protos.setdefault(function.name, proto)
            btf = btf.base
        return [self._prototype(name, protos[name]) for name in sorted(protos)]

    def _can_be_declared(self, proto: Type) -> bool:
        # Forged types may not be: a declaration that no compiler takes would break the header.
        if not isinstance(proto, FuncProto):
            return False
        used = [proto.type, *(param.type for param in proto.params)]
        if 0 in used[1:-1]:
            return False  # "..." before the last parameter
        return all(
            not isinstance(t, (Func, Var, Datasec, DeclTag))
            and (bool(t.name) or not isinstance(t, (Struct, Union, Enum, Enum64)))
            for t in [self.types[one] for one in used if one]
        )

    def _prototype(self, name: str, proto: FuncProto) -> str:
        params = []
        for param in proto.params:
            self._mention(param.type, 0)
            # A parameter with the name of a type would hide it from those after it.
            inner = param.name if self._words.is_free(param.name) else ""
            params.append(self._declarator(param.type, inner, 0) if param.type else "...")
        self._mention(proto.type, 0)
        text = self._declarator(proto.type, f"{name}({_params(params)})", 0)
        return f"extern {text} __weak __ksym;\n"

    # How to write it.

    def _enum_body(self, type_id: int, t: Enum | Enum64, level: int) -> str:
        head = f"enum {self._name_of.get(type_id, '')}".rstrip()
        if not t.values:
            return head
        pad = "\t" * (level + 1)
        suffix = "" if isinstance(t, Enum) else "LL" if t.signed else "ULL"
        # If it is used in place twice, it is written twice, with other enumerator names.
        lines = [f"{pad}{self._words.unique(v.name)} = {v.val}{suffix},\n" for v in t.values]
        return f"{head} {{\n{''.join(lines)}{pad[1:]}}}{_enum_mode(t)}"

    def _composite(self, type_id: int, t: Struct | Union, level: int) -> str:
        if not level:
            self._fillers = _Names()
        keyword = "union" if isinstance(t, Union) else "struct"
        head = f"{keyword} {self._name_of.get(type_id, '')}".rstrip()
        packed = self._is_packed(type_id)
        pad = "\t" * (level + 1)
        lines = []
        at = 0
        for member in t.members:
            if isinstance(t, Struct):
                lines += [f"{pad}{filler};\n" for filler in self._gap(member, at, packed)]
            text = self._declarator(member.type, _identifier(member.name), level + 1)
            bits = f" : {member.bitfield_size}" if member.bitfield_size else ""
            lines.append(f"{pad}{text}{bits};\n")
            at = member.bit_offset + (member.bitfield_size or self._bits(member.type))
        if isinstance(t, Struct):
            end = _up(at, 8 * (1 if packed else self._align(type_id)))
            if end < 8 * t.size:
                lines += [f"{pad}{filler};\n" for filler in self._fill(at, 8 * t.size)]
        elif self._union_end(type_id, t) < t.size:
            # Members of a union without a name belong to the struct around it.
            lines.append(f"{pad}char {self._fillers.unique('__padding')}[{t.size}];\n")
        attribute = " __attribute__((packed))" if packed else ""
        return f"{head} {{\n{''.join(lines)}{pad[1:]}}}{attribute}"

    def _declarator(self, type_id: int, inner: str, level: int) -> str:
        """Write ``TYPE inner`` with the parts of TYPE where C puts them."""
        self._left -= 1
        if self._left < 0:
            raise ObjectFormatError(
                f"type {type_id} is written too often: types without a name are nested in others",
                file=self.btf.label,
                section=".BTF",
            )
        plain = self._plain.get(type_id)
        if plain is None:
            plain = self._plain[type_id] = self._find_plain(type_id)
        if plain:
            return plain + inner if inner else plain.rstrip()
        qualifiers: list[str] = []
        for _ in range(_MAX_DEPTH):
            t = self.types[type_id]
            word = _QUALIFIERS.get(type(t))
            if word:
                if word not in qualifiers:
                    qualifiers.append(word)
                type_id = t.type  # type: ignore[attr-defined]
            elif isinstance(t, TypeTag):
                type_id = t.type
            elif isinstance(t, Ptr):
                inner = f"* {' '.join(qualifiers)} {inner}".rstrip() if qualifiers else f"*{inner}"
                qualifiers = []
                type_id = t.type
            elif isinstance(t, Array):
                # C applies the qualifiers of an array to its elements.
                inner = f"{_grouped(inner)}[{t.nelems}]"
                type_id = t.type
            elif isinstance(t, FuncProto):
                params = [
                    "..." if not p.type else self._declarator(p.type, "", level) for p in t.params
                ]
                inner = f"{_grouped(inner)}({_params(params)})"
                qualifiers = []
                type_id = t.type
            else:
                words = [w for w in qualifiers if w != "restrict"]
                return " ".join([*words, self._specifier(type_id, t, level), inner]).rstrip()
        raise ObjectFormatError(
            f"the chain of types through {type_id} does not end",
            file=self.btf.label,
            section=".BTF",
        )

    def _find_plain(self, type_id: int) -> str:
        # What comes before a name, for names of types and pointers to them. Most declarations
        # are of this kind. "" for others.
        stars = ""
        for _ in range(_MAX_DEPTH):
            t = self.types[type_id]
            if not isinstance(t, Ptr):
                whole = isinstance(t, (Typedef, Int, Float, Fwd)) or (
                    isinstance(t, (Struct, Union, Enum, Enum64)) and bool(t.name)
                )
                return f"{self._specifier(type_id, t, 0)} {stars}" if whole else ""
            stars += "*"
            type_id = t.type
        return ""

    def _specifier(self, type_id: int, t: Type, level: int) -> str:
        if isinstance(t, (Struct, Union)):
            if t.name:
                return f"{'union' if isinstance(t, Union) else 'struct'} {self._name_of[type_id]}"
            self._nested(level, type_id)
            return self._composite(type_id, t, level)
        if isinstance(t, (Enum, Enum64)):
            return (
                f"enum {self._name_of[type_id]}" if t.name else self._enum_body(type_id, t, level)
            )
        if isinstance(t, Fwd):
            return f"{'union' if t.is_union else 'struct'} {self._name_of[type_id]}"
        if isinstance(t, Typedef):
            return self._name_of[type_id]
        if isinstance(t, (Int, Float)):
            return re.sub(r"[^A-Za-z0-9_ ]", "_", t.name) or _plain_int(t)
        return "void"

    # Layout.

    def _bits(self, type_id: int) -> int:
        known = self._sizes.get(type_id)
        if known is None:
            known = self._sizes[type_id] = 8 * self.btf.sizeof(type_id)
        return known

    def _unit(self, member: Member) -> int:
        # Number of bits in the storage unit of a bit-field.
        bits = self._bits(member.type)
        if bits not in (8, 16, 32, 64, 128):
            raise ObjectFormatError(
                f"bit-field {member.name!r} is not of an integer type",
                file=self.btf.label,
                section=".BTF",
            )
        return bits

    def _align(self, type_id: int) -> int:
        # Alignment of a complete type, in bytes, on x86-64 and BPF.
        known = self._aligns.get(type_id)
        if known is None:
            known = self._aligns[type_id] = self._find_align(type_id)
        return known

    def _find_align(self, type_id: int) -> int:
        for _ in range(_MAX_DEPTH):
            t = self.types[type_id]
            if isinstance(t, (Struct, Union)):
                known = max([self._align(m.type) for m in t.members], default=1)
                return 1 if self._is_packed(type_id) else known
            if isinstance(t, Ptr):
                return 8
            if isinstance(t, (Int, Float, Enum, Enum64)):
                return t.size if t.size in (1, 2, 4, 8, 16) else 1
            if not isinstance(t, (Array, Typedef, TypeTag, Const, Volatile, Restrict)):
                break
            type_id = t.type
        return 1

    def _is_packed(self, type_id: int) -> bool:
        if type_id not in self._packed:
            self._packed[type_id] = False
            t = self.types[type_id]
            if isinstance(t, (Struct, Union)):
                self._packed[type_id] = self._must_pack(t)
        return self._packed[type_id]

    def _must_pack(self, t: Struct | Union) -> bool:
        align = 1
        for member in t.members:
            one = self._align(member.type)
            if member.bitfield_size:
                unit = self._unit(member)
                if member.bit_offset % unit + member.bitfield_size > unit:
                    return True
            elif member.bit_offset % (8 * one):
                return True
            align = max(align, one)
        return t.size % align != 0

    def _union_end(self, type_id: int, t: Union) -> int:
        ends = [m.bitfield_size or self._bits(m.type) for m in t.members]
        return _up(_up(max(ends, default=0), 8) // 8, self._align(type_id))

    def _gap(self, member: Member, at: int, packed: bool) -> list[str]:
        # What to write so that the compiler puts `member` where BTF has it.
        # The previous member ended at bit `at`.
        if packed:
            natural = at if member.bitfield_size else _up(at, 8)
        elif member.bitfield_size:
            unit = self._unit(member)
            natural = at if at % unit + member.bitfield_size <= unit else _up(at, unit)
        else:
            natural = _up(at, 8 * self._align(member.type))
        return [] if natural == member.bit_offset else self._fill(at, member.bit_offset)

    def _fill(self, at: int, end: int) -> list[str]:
        """Write unnamed bit-fields from bit `at` to bit `end`."""
        parts = []
        while at < end:
            if at % 8:
                width = min(8 - at % 8, end - at)
                parts.append(f"char : {width}")
            elif end - at < 8:
                width = end - at
                parts.append(f"char : {width}")
            else:
                if end - at > _LONG_GAP:
                    name = self._fillers.unique(f"__gap_{at // 8}")
                    parts.append(f"char {name}[{(end - at) // 8}]")
                    at += (end - at) // 8 * 8
                    continue
                width, word = next((w, t) for w, t in _FILLERS if at % w == 0 and at + w <= end)
                parts.append(f"{word} : {width}")
            at += width
        return parts


def _records(btf: Btf) -> Iterator[tuple[int, int, Blob, int]]:
    """Iterate over id, kind, blob and word offset of all records, the base's first."""
    if btf.base is not None:
        yield from _records(btf.base)
    blob = btf.blob
    infos = blob.words[1:]
    for type_id, at in enumerate(blob.offsets, blob.start_id):
        yield type_id, infos[at] >> 24 & 0x7F, blob, at


def _words(btf: Btf | None) -> int:
    count = 0
    while btf is not None:
        count += len(btf.blob.words)
        btf = btf.base
    return count


def _up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def _grouped(inner: str) -> str:
    return f"({inner})" if inner.startswith("*") else inner


def _params(params: list[str]) -> str:
    if not params:
        return "void"
    # C does not allow "..." as the only parameter of a function.
    return ", ".join(params) if params != ["..."] else ""


def _plain_int(t: Int | Float) -> str:
    if isinstance(t, Float):
        return {4: "float", 8: "double"}.get(t.size, "long double")
    base = {1: "char", 2: "short", 4: "int", 8: "long", 16: "__int128"}.get(t.size, "int")
    return base if t.signed else f"unsigned {base}"


def _identifier(name: str) -> str:
    if name.isidentifier() and name.isascii():
        return name
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)


def _enum_mode(t: Enum | Enum64) -> str:
    # The size that C gives the enum: 4 bytes, or 8 if a value needs them.
    low, high = (-(1 << 31), 1 << 31) if t.signed else (0, 1 << 32)
    natural = 4 if all(low <= v.val < high for v in t.values) else 8
    mode = {1: "QI", 2: "HI", 4: "SI", 8: "DI"}.get(t.size)
    return "" if t.size == natural or mode is None else f" __attribute__((mode({mode})))"
