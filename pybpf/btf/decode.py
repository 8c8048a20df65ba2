"""Read BTF lazily.

A kernel's BTF has more than 100,000 types and a process needs only a few, so
nothing is decoded in advance. `pybpf.btf.blob` knows where each record is. A type
becomes a Python value when it is needed, names are sliced out of the string
section on demand, and `pybpf.btf.names` finds types by name.

Everything in a blob is untrusted. The walk proves that records are inside the
section, and inflating a type proves its names and references. Chains of
references are followed for a bounded number of steps. So a forged blob ends in
an `ObjectFormatError`, never in a hang. `Btf.validate` does all of that at
once.

Split BTF (kernel modules) continues the ids and string offsets of its base.
"""

from __future__ import annotations

import re
import struct
from array import array
from functools import cached_property
from itertools import compress, repeat

from ..bulk import picked, shared_prefixes
from ..dataclass import dataclass
from ..errors import ObjectFormatError
from .blob import Blob
from .inflate import VOID, inflate
from .names import TypeNames, most_letters
from .types import (
    Array,
    BtfKind,
    Const,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Int,
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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

__all__ = ["Btf", "FuncColumns"]

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = range(
    1, 12
)
_FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(12, 20)

_IS_MOD_OR_TYPEDEF = bytes(
    k in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG) for k in range(128)
)
# Kinds that btf__resolve_size looks through, besides arrays.
_SIZED_BY_REF = bytes(
    k in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG, _VAR, _DECL_TAG) for k in range(128)
)
_HAS_SIZE = bytes(
    k in (_INT, _STRUCT, _UNION, _ENUM, _DATASEC, _FLOAT, _ENUM64) for k in range(128)
)
# From this many functions on, one pass over all types beats searches by name.
_BULK = 40
# For more beginnings of names than this, reading all names takes less time.
_MOST_PREFIXES = 4
# Find functions that follow one another among the kinds of types.
_FUNCS = re.compile(b"[\x0c\x8c]+").finditer
_POINTER_SIZE = 8
# Longest chain of modifiers, typedefs and arrays to follow. C code has
# a dozen; forged BTF has cycles.
_MAX_CHAIN = 256
# Deepest nesting of structs by value.
_MAX_NESTING = 64


@dataclass(frozen=True, slots=True, eq=False)
class FuncColumns:
    """Hold the functions of one BTF as columns.

    :param protos: ids of their FUNC_PROTOs
    """

    ids: array[int]
    names: list[str]
    protos: array[int]


class Btf:
    """Give access to the types of one BTF blob.

    :param data: the blob (``struct btf_header`` first), little-endian
    :param base: the BTF that a split BTF continues, e.g. vmlinux for a module
    :param name: file or module name, for messages
    :raises ObjectFormatError: the header or string section is malformed. Malformed
        type records raise it when they are first used; `validate` checks
        all of them.
    """

    def __init__(
        self, data: bytes | bytearray | memoryview, *, base: Btf | None = None, name: str = ""
    ) -> None:
        self.base = base
        #: The bytes: header, strings, type records.
        self.blob: Blob = Blob(data, base=base.blob if base else None, label=name)
        self._types: dict[int, Type] = {}
        self._aligns: dict[int, int] = {}
        #: Codecs that `pybpf.btf.values` made, by type id.
        self.codecs: dict[int, Any] = {}
        self._names = TypeNames(self.blob)

    def __repr__(self) -> str:
        return f"<Btf {self.label!r} {len(self.blob.data)} bytes>"

    # The walk.

    @property
    def label(self) -> str:
        """Return the file or module name, for messages."""
        return self.blob.label

    @property
    def start_id(self) -> int:
        """Return the first id after the base's."""
        return self.blob.start_id

    @property
    def nr_types(self) -> int:
        """Count the type ids, including void and the base's."""
        return self.blob.nr_types

    @property
    def raw(self) -> bytes:
        """Return the blob itself."""
        return self.blob.raw

    # Single types.

    def string(self, offset: int) -> str:
        """Read the string at a byte offset of the string section(s).

        :raises ObjectFormatError: offset outside
        """
        return self.blob.string(offset)

    def kind(self, type_id: int) -> int:
        """Return the ``BTF_KIND_*`` of a type."""
        if not type_id:
            return 0
        owner, at = self.blob.locate(type_id)
        return owner.words[at + 1] >> 24 & 0x7F

    def name(self, type_id: int) -> str:
        """Return the name of a type, "" if it has none."""
        if not type_id:
            return ""
        owner, at = self.blob.locate(type_id)
        return owner.record_name(at, owner.words[at])

    def type(self, type_id: int) -> Type:
        """Return the type with an id. It is decoded on first use.

        :raises ObjectFormatError: no such id, or its record refers to strings
            or types that do not exist
        """
        found = self._types.get(type_id)
        if found is None:
            if not type_id:
                found = VOID
            else:
                found = self._inflated(type_id)
            self._types[type_id] = found
        return found

    def _inflated(self, type_id: int) -> Type:
        if self.base is not None and 0 < type_id < self.start_id:
            return self.base.type(type_id)
        return inflate(*self.blob.locate(type_id))

    # All types.

    def types(self) -> Iterator[tuple[int, Type]]:
        """Iterate over (id, type) of every own type, without keeping them."""
        for type_id, at in enumerate(self.blob.offsets, self.start_id):
            yield type_id, inflate(self.blob, at)

    def ids(self, kind: int) -> list[int]:
        """List the ids of the own types of one kind, ascending."""
        words = self.blob.words
        want = int(kind) << 24
        return [
            type_id
            for type_id, at in enumerate(self.blob.offsets, self.start_id)
            if words[at + 1] & 0x7F000000 == want
        ]

    def funcs(self) -> Iterator[tuple[int, str, int]]:
        """Iterate over (id, name, prototype id) of every own FUNC, ascending."""
        columns = self.func_columns()
        return zip(columns.ids, columns.names, columns.protos, strict=True)

    def func_columns(self) -> FuncColumns:
        """Return every own FUNC as columns, ascending by id. The fast path for listing."""
        return self._func_columns(*self._func_records)

    @cached_property
    def _func_records(self) -> tuple[array[int], array[int], array[int]]:
        # Of the own FUNCs: ids, offsets of the names, ids of the prototypes.
        blob, start = self.blob, self.start_id
        records, types_at = blob.records
        ids, parts = array("I"), []
        # In a kernel most of them follow one another, 12 bytes each.
        for run in _FUNCS(blob.kinds):
            first, end = run.span()
            at = types_at + 4 * blob.offsets[first]
            ids.extend(range(start + first, start + end))
            parts.append(records[at : at + 12 * (end - first)])
        words = array("I", b"".join(parts))
        return ids, words[::3], words[2::3]

    def _func_columns(self, ids: array[int], names: array[int], protos: array[int]) -> FuncColumns:
        # :param names: offsets of their names
        blob, text = self.blob, self.blob.text
        if max(protos, default=0) >= self.nr_types:
            for at, proto in zip(self._places(ids), protos, strict=True):
                blob.reference(at, proto)
        if self._is_plain(names):
            ends = list(map(text.index, repeat("\0"), names))
            if sum(ends) - sum(names) > most_letters(text):
                raise blob.error("the names of functions are too long", None)
            texts = [text[at:end] for at, end in zip(names, ends, strict=True)]
            return FuncColumns(ids, texts, protos)
        return FuncColumns(ids, list(map(blob.record_name, self._places(ids), names)), protos)

    def _places(self, ids: Iterable[int]) -> list[int]:
        # Where own types are, in words.
        return [self.blob.offsets[type_id - self.start_id] for type_id in ids]

    def _funcs_starting(self, prefixes: Sequence[str]) -> FuncColumns | None:
        # The FUNCs whose names start so, None if they have to be found among all.
        types = self._names.starting(prefixes)
        if types is None:
            return None
        words, places = self.blob.words, self._places(types)
        infos = picked(words[1:], places)
        is_func = [info >> 24 & 0x7F == _FUNC for info in infos]
        ids, at = array("I", compress(types, is_func)), list(compress(places, is_func))
        return self._func_columns(
            ids, array("I", picked(words, at)), array("I", picked(words[2:], at))
        )

    def _is_plain(self, offsets: Sequence[int]) -> bool:
        # All of these are offsets of own strings, in which each byte is a character.
        blob = self.blob
        return blob.base is None and blob.is_ascii and max(offsets, default=0) < len(blob.text)

    def funcs_named(self, names: Sequence[str]) -> FuncColumns:
        """Return the own FUNCs with one of these names. For many names, others come as well."""
        if len(names) >= _BULK:
            prefixes = shared_prefixes(filter(None, names), _MOST_PREFIXES)
            some = self._funcs_starting(prefixes) if prefixes else None
            return self.func_columns() if some is None else some
        ids = array("I")
        for name in dict.fromkeys(names):
            # The first question to a blob is answered without tables.
            ids.extend(
                [x for x in self._names.first(name) if self.kind(x) == _FUNC] if name else []
            )
        protos = [getattr(self.type(type_id), "type", 0) for type_id in ids]
        return FuncColumns(ids, list(map(self.name, ids)), array("I", protos))

    def validate(self) -> None:
        """Decode every own type once.

        :raises ObjectFormatError: for the first malformed record
        """
        for _ in self.types():
            pass

    # Names.

    def find(self, name: str, kind: int | None = None) -> int | None:
        """Find the lowest id with a name (and kind). Own types come before the base's.

        :return: None if there is none
        """
        for type_id in self._names.first(name) if name else ():
            if kind is None or self.kind(type_id) == kind:
                return type_id
        return self.base.find(name, kind) if self.base else None

    def has_tag(self, name: str) -> bool:
        """Tell whether an own declaration tag has this text, without a walk of the types.

        :param name: not empty, ASCII
        """
        blob = self.blob
        data, first, last = blob.string_section
        place = data.find(b"\0" + name.encode() + b"\0", first, last) + 1 - first
        if place <= 0:
            return False
        # The name and the info word of a record, in which the kind is the highest byte.
        record = struct.pack("<II", place + blob.base_strings, BtfKind.DECL_TAG << 24)
        records, start = blob.records
        end = start + 4 * len(blob.words)
        at = records.find(record, start, end)
        while at >= 0 and (at - start) % 4:
            at = records.find(record, at + 1, end)
        return at >= 0

    def find_all(self, name: str, kind: int | None = None) -> list[int]:
        """List all ids with a name (and kind): own ids ascending, then the base's."""
        ids = self._names.find(name) if name else []
        found = [x for x in ids if kind is None or self.kind(x) == kind]
        return found + self.base.find_all(name, kind) if self.base else found

    def find_essential(self, essential: str) -> list[int]:
        """List the ids of the own types, ascending, whose name without flavour is `essential`."""
        return self._names.find_essential(essential) if essential else []

    def names(self) -> Mapping[str, int | list[int]]:
        """Map names of own types to ids: one id, or a list if the name has several."""
        return self._names.index

    # Following references.

    def _follow(self, type_id: int, through: bytes) -> int:
        for _ in range(_MAX_CHAIN):
            if not type_id:
                return 0
            owner, at = self.blob.locate(type_id)
            words = owner.words
            if not through[words[at + 1] >> 24 & 0x7F]:
                return type_id
            type_id = owner.reference(at, words[at + 2])
        raise self._endless(type_id)

    def _endless(self, type_id: int) -> ObjectFormatError:
        owner, at = self.blob.locate(type_id)
        return owner.bad_record(at, f"the chain of types through {type_id} does not end")

    def skip_mods_and_typedefs(self, type_id: int) -> int:
        """Return the id behind volatile, const, restrict, type tags and typedefs."""
        return self._follow(type_id, _IS_MOD_OR_TYPEDEF)

    def sizeof(self, type_id: int) -> int:
        """Return the size of a type in bytes. A variable has the size of its type.

        :raises ObjectFormatError: void, functions and forward declarations have no size
        """
        count = 1
        start = type_id
        for _ in range(_MAX_CHAIN):
            if not type_id:
                raise self.blob.error(f"type {start} has no size: it ends in void", None)
            owner, at = self.blob.locate(type_id)
            words = owner.words
            kind = words[at + 1] >> 24 & 0x7F
            if _HAS_SIZE[kind]:
                size = count * words[at + 2]
                if size > 0x7FFFFFFFFFFFFFFF:
                    raise owner.bad_record(at, f"type {start} is too large")
                return size
            if kind == _PTR:
                return count * _POINTER_SIZE
            if kind == _ARRAY:
                count *= words[at + 5]
                type_id = owner.reference(at, words[at + 3])
            elif _SIZED_BY_REF[kind]:
                type_id = owner.reference(at, words[at + 2])
            else:
                raise owner.bad_record(at, f"type {start} has no size: kind {kind}")
        raise self._endless(type_id)

    def alignof(self, type_id: int) -> int:
        """Return the alignment of a type in bytes, as clang's BPF target lays it out.

        A struct whose members or size are not naturally aligned is packed and has 1.
        """
        return self._alignof(type_id, 0)

    def _alignof(self, type_id: int, depth: int) -> int:
        known = self._aligns.get(type_id)
        if known is not None:
            return known
        start = type_id
        for _ in range(_MAX_CHAIN):
            t = self.type(type_id)
            if isinstance(t, (Typedef, Volatile, Const, Restrict, TypeTag, Var, DeclTag, Array)):
                type_id = t.type
                continue
            if isinstance(t, (Int, Float, Enum, Enum64)):
                align = max(1, min(_POINTER_SIZE, t.size))
            elif isinstance(t, Ptr):
                align = _POINTER_SIZE
            elif isinstance(t, (Struct, Union)):
                if depth >= _MAX_NESTING:
                    raise self._endless(type_id)
                align = self._align_of_members(t, depth + 1)
            else:
                owner, at = self.blob.locate(type_id) if type_id else (self.blob, 0)
                raise owner.bad_record(at, f"type {start} has no alignment")
            self._aligns[start] = align
            return align
        raise self._endless(type_id)

    def _align_of_members(self, t: Struct | Union, depth: int) -> int:
        align = 1
        for member in t.members:
            one = self._alignof(member.type, depth)
            if not member.bitfield_size and member.bit_offset % (8 * one):
                return 1
            align = max(align, one)
        return align if t.size % align == 0 else 1
