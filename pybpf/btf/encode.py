"""Write BTF: from values, and from what clang wrote to what a kernel accepts.

`BtfBuilder` turns type values into a blob. `fixup_for_load` does what clang
leaves to the loader. Only ELF knows sizes and offsets of data sections. Externs
are not allocated variables, but the kernel requires those. `sanitize` replaces
kinds that an older kernel does not know by known ones of the same layout,
so ids keep their meaning. Both work on the records as words, so everything
they do not touch stays as it was.
"""

from __future__ import annotations

import struct
from array import array

from ..dataclass import replace
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
    Linkage,
    Ptr,
    Restrict,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Var,
    VarSecinfo,
    Volatile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = [
    "BTF_FEATURES",
    "BtfBuilder",
    "Editor",
    "array_length",
    "fixup_for_load",
    "sanitize",
    "stretch",
]

_HEADER = struct.Struct("<HBBIIIII")
_MAX_VLEN = 0xFFFFFF
_KSYMS = ".ksyms"
_KCONFIG = ".kconfig"

#: Features that `sanitize` can replace, oldest first, with the first kernel that has each.
BTF_FEATURES = {
    "func": "5.0",
    "datasec": "5.2",
    "func_global": "5.6",
    "float": "5.13",
    "decl_tag": "5.16",
    "type_tag": "5.17",
    "enum64": "6.0",
    "qmark_datasec": "6.9",
}


def _blob(types: bytes, strings: bytes) -> bytes:
    head = _HEADER.pack(0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return head + types + strings


class _Strings:
    """Build a string section. Equal strings share an offset."""

    def __init__(self, data: bytes, first: int) -> None:
        self.data = bytearray(data)
        self._first = first
        self._known: dict[str, int] = {}

    def offset(self, text: str) -> int:
        if not text:
            return 0
        known = self._known.get(text)
        if known is None:
            raw = text.encode("utf-8", "surrogateescape")
            if b"\0" in raw:
                raise ValueError(f"BTF string {text!r} has a NUL in it")
            known = self._known[text] = self._first + len(self.data)
            self.data += raw + b"\0"
        return known


class BtfBuilder:
    """Collect types and write them as BTF.

    :param base: write a split BTF that continues this one

    `add` gives out ids in order. A type may refer to ids that are
    added later. References are not checked here; `Btf.validate` checks them.
    """

    def __init__(self, base: Btf | None = None) -> None:
        self._start = base.nr_types if base else 1
        self._strings = _Strings(b"" if base else b"\0", base.blob.strings_end if base else 0)
        self._words = array("I")
        self._count = 0

    @property
    def next_id(self) -> int:
        """Return the id that the next `add` will return."""
        return self._start + self._count

    def string(self, text: str) -> int:
        """Return the offset of a string, 0 for "". A new string is added."""
        return self._strings.offset(text)

    def add(self, t: Type) -> int:
        """Append a type and return its id.

        :raises ValueError: a field does not fit in its place in the record
        """
        try:
            self._words.extend(_record(t, self._strings))
        except OverflowError:
            raise ValueError(f"{t}: a field is negative or has more than 32 bits") from None
        self._count += 1
        return self.next_id - 1

    def build(self) -> bytes:
        """Return the blob so far, header first."""
        return _blob(self._words.tobytes(), bytes(self._strings.data))


def _record(t: Type, strings: _Strings) -> list[int]:
    kind_flag, vlen, size = 0, 0, 0
    tail: list[int] = []
    offset = strings.offset
    # Added before the tail's strings, only to keep names in file order.
    name_off = offset(t.name)
    if isinstance(t, (Struct, Union)):
        size, vlen = t.size, len(t.members)
        kind_flag = int(t.kind_flag or any(m.bitfield_size for m in t.members))
        for m in t.members:
            tail += (offset(m.name), m.type, _member_offset(t, m.bit_offset, m.bitfield_size))
    elif isinstance(t, (Enum, Enum64)):
        size, vlen, kind_flag = t.size, len(t.values), int(t.signed)
        bits = 32 if isinstance(t, Enum) else 64
        low = -(1 << bits - 1) if t.signed else 0
        high = (1 << bits - 1) if t.signed else 1 << bits
        for value in t.values:
            if not low <= value.val < high:
                raise ValueError(f"{t.name}::{value.name} = {value.val} does not fit")
            tail += (offset(value.name), value.val & 0xFFFFFFFF)
            if isinstance(t, Enum64):
                tail.append(value.val >> 32 & 0xFFFFFFFF)
    elif isinstance(t, FuncProto):
        size, vlen = t.type, len(t.params)
        for p in t.params:
            tail += (offset(p.name), p.type)
    elif isinstance(t, Datasec):
        size, vlen = t.size, len(t.entries)
        for entry in t.entries:
            tail += (entry.type, entry.offset, entry.size)
    elif isinstance(t, Int):
        if not (0 <= t.bits < 256 and 0 <= t.offset < 256 and 0 <= t.encoding < 16):
            raise ValueError(f"{t}: bits, offset or encoding out of range")
        size = t.size
        tail = [t.encoding << 24 | t.offset << 16 | t.bits]
    elif isinstance(t, Array):
        tail = [t.type, t.index_type, t.nelems]
    elif isinstance(t, Var):
        size, tail = t.type, [int(t.linkage)]
    elif isinstance(t, DeclTag):
        if not -1 <= t.component_idx < 1 << 31:
            raise ValueError(f"{t}: component_idx out of range")
        size, tail, kind_flag = t.type, [t.component_idx & 0xFFFFFFFF], int(t.kind_flag)
    elif isinstance(t, Func):
        size, vlen = t.type, int(t.linkage)
    elif isinstance(t, Fwd):
        kind_flag = int(t.is_union)
    elif isinstance(t, Float):
        size = t.size
    elif isinstance(t, TypeTag):
        size, kind_flag = t.type, int(t.kind_flag)
    elif isinstance(t, (Ptr, Typedef, Volatile, Const, Restrict)):
        size = t.type
    else:
        raise ValueError(f"{t} cannot be written")
    if not 0 <= vlen <= _MAX_VLEN:
        raise ValueError(f"{t.name}: {vlen} entries are too many")
    return [name_off, kind_flag << 31 | t.kind << 24 | vlen, size, *tail]


def _member_offset(t: Struct | Union, bit_offset: int, bits: int) -> int:
    if not (t.kind_flag or any(m.bitfield_size for m in t.members)):
        return bit_offset
    if not (0 <= bit_offset < 1 << 24 and 0 <= bits < 256):
        raise ValueError(f"{t.name}: bit offset {bit_offset} or size {bits} out of range")
    return bits << 24 | bit_offset


class Editor:
    """Edit a blob: words of the records, strings, and their positions."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.words = array("I", btf.blob.words.tobytes())
        self.strings = _Strings(btf.blob.strings, btf.blob.base_strings)
        self.at = btf.blob.offsets
        self.next_id = btf.nr_types

    def position(self, type_id: int) -> int:
        """Return the word offset of a record of this blob."""
        if not self.btf.start_id <= type_id < self.btf.nr_types:
            raise ObjectFormatError(
                f"type {type_id} has no record here", file=self.btf.label, section=".BTF"
            )
        return self.at[type_id - self.btf.start_id]

    def add(self, t: Type) -> int:
        self.words.extend(_record(t, self.strings))
        self.next_id += 1
        return self.next_id - 1

    def set_kind(self, type_id: int, kind: int, vlen: int = 0, *, kind_flag: int = 0) -> None:
        self.words[self.position(type_id) + 1] = kind_flag << 31 | kind << 24 | vlen

    def build(self) -> bytes:
        # Writes a plain 24-byte header. A layout section, if any, is dropped, because
        # only the newest kernels accept it and it is not needed here.
        return _blob(self.words.tobytes(), bytes(self.strings.data))


def fixup_for_load(
    btf: Btf,
    datasec_sizes: Mapping[str, int],
    var_offsets: Mapping[tuple[str, str], int],
    *,
    static_vars: Collection[str] = (),
    static_funcs: Collection[str] = (),
) -> bytes:
    """Make an object's BTF fit for BPF_BTF_LOAD.

    :param btf: as clang wrote it
    :param datasec_sizes: bytes of each ELF section, for data sections whose size clang left 0
    :param var_offsets: offset in bytes of each global by (section, name). For
        ``.kconfig`` it may be left out: variables are then placed as libbpf does.
    :param static_vars: globals with hidden visibility
    :param static_funcs: functions with hidden visibility, to be verified in their callers' context
    :raises ObjectFormatError: a section or variable is missing from the tables
    """
    editor = Editor(btf)
    for type_id, t in list(btf.types()):
        if isinstance(t, Datasec):
            if t.name == _KSYMS:
                _fix_ksyms(editor, type_id, t)
            elif t.name == _KCONFIG:
                _fix_kconfig(editor, type_id, t, datasec_sizes, var_offsets)
            else:
                _fix_datasec(editor, type_id, t, datasec_sizes, var_offsets, static_vars)
        elif isinstance(t, Func) and t.linkage != Linkage.EXTERN:
            if t.linkage == Linkage.GLOBAL and t.name in static_funcs:
                editor.set_kind(type_id, BtfKind.FUNC, Linkage.STATIC)
            _name_params(editor, t.type, "unnamed")
    return editor.build()


def _missing(editor: Editor, type_id: int, what: str) -> ObjectFormatError:
    offset = editor.btf.blob.types_at + 4 * editor.position(type_id)
    return ObjectFormatError(what, file=editor.btf.label, section=".BTF", offset=offset)


def _write_datasec(editor: Editor, type_id: int, size: int, entries: Iterable[VarSecinfo]) -> None:
    # The kernel requires the variables of a section in ascending order.
    at = editor.position(type_id)
    if not 0 <= size < 1 << 32:
        raise _missing(editor, type_id, f"section size {size} does not fit")
    editor.words[at + 2] = size
    for entry in sorted(entries, key=lambda e: e.offset):
        at += 3
        try:
            editor.words[at : at + 3] = array("I", (entry.type, entry.offset, entry.size))
        except OverflowError:
            raise _missing(editor, type_id, f"offset {entry.offset} does not fit") from None


def _fix_datasec(
    editor: Editor,
    type_id: int,
    t: Datasec,
    datasec_sizes: Mapping[str, int],
    var_offsets: Mapping[tuple[str, str], int],
    static_vars: Collection[str],
) -> None:
    # A linked object already has size and offsets, and keeps them.
    size = t.size or datasec_sizes.get(t.name, 0)
    if not size:
        raise _missing(editor, type_id, f"the size of section {t.name!r} is not known")
    entries = []
    for entry in t.entries:
        var = editor.btf.type(entry.type)
        if not isinstance(var, Var):
            raise _missing(editor, type_id, f"{t.name!r} lists type {entry.type}, not a variable")
        offset = entry.offset
        # clang writes the right offsets for static variables.
        if var.linkage == Linkage.GLOBAL:
            if not t.size:
                found = var_offsets.get((t.name, var.name))
                if found is None:
                    what = f"variable {var.name!r} has no symbol in section {t.name!r}"
                    raise _missing(editor, entry.type, what)
                offset = found
            if var.name in static_vars:
                editor.words[editor.position(entry.type) + 3] = Linkage.STATIC
        entries.append(VarSecinfo(entry.type, offset, entry.size))
    _write_datasec(editor, type_id, size, entries)


def _int32(editor: Editor, type_id: int) -> int:
    for int_id in editor.btf.ids(BtfKind.INT):
        t = editor.btf.type(int_id)
        if isinstance(t, Int) and t.bits == 32:
            return int_id
    raise _missing(editor, type_id, "externs need a 32-bit integer type, but there is none")


def _fix_ksyms(editor: Editor, type_id: int, t: Datasec) -> None:
    # Every extern becomes an int variable. The verifier learns its real type
    # from the instructions, not from here.
    int_id = _int32(editor, type_id)
    stand_in = 0
    entries = []
    for number, entry in enumerate(t.entries):
        at = editor.position(entry.type)
        what = editor.btf.type(entry.type)
        var_id = entry.type
        if isinstance(what, Func):
            # A section may not list functions, so one variable stands in for all.
            if not stand_in:
                stand_in = editor.add(Var("dummy_ksym", int_id, Linkage.GLOBAL))
            var_id = stand_in
            editor.set_kind(entry.type, BtfKind.FUNC, Linkage.GLOBAL)
            _name_params(editor, what.type, "dummy_ksym")
        elif isinstance(what, Var):
            editor.words[at + 2 : at + 4] = array("I", (int_id, Linkage.GLOBAL))
        else:
            raise _missing(editor, type_id, f"extern {entry.type} is neither function nor variable")
        entries.append(VarSecinfo(var_id, 4 * number, 4))
    _write_datasec(editor, type_id, 4 * len(entries), entries)


def _name_params(editor: Editor, proto_id: int, name: str) -> None:
    # The kernel requires names for the parameters of a function.
    proto = editor.btf.type(proto_id)
    if isinstance(proto, FuncProto):
        at = editor.position(proto_id) + 3
        for number, param in enumerate(proto.params):
            if param.type and not editor.words[at + 2 * number]:
                editor.words[at + 2 * number] = editor.strings.offset(name)


def _fix_kconfig(
    editor: Editor,
    type_id: int,
    t: Datasec,
    datasec_sizes: Mapping[str, int],
    var_offsets: Mapping[tuple[str, str], int],
) -> None:
    placed = _place_kconfig(editor, type_id, t)
    entries = []
    for entry, name, offset in placed:
        editor.words[editor.position(entry.type) + 3] = Linkage.GLOBAL
        offset = var_offsets.get((_KCONFIG, name), offset)
        entries.append(VarSecinfo(entry.type, offset, entry.size))
    end = max((e.offset + e.size for e in entries), default=0)
    _write_datasec(editor, type_id, datasec_sizes.get(_KCONFIG) or end, entries)


def _place_kconfig(editor: Editor, type_id: int, t: Datasec) -> list[tuple[VarSecinfo, str, int]]:
    # libbpf's order: largest alignment first, then smallest, then by name.
    btf = editor.btf
    keyed = []
    for entry in t.entries:
        var = btf.type(entry.type)
        if not isinstance(var, Var):
            raise _missing(editor, type_id, f"{t.name!r} lists type {entry.type}, not a variable")
        align, size = btf.alignof(var.type), btf.sizeof(var.type)
        keyed.append((-align, size, var.name, entry))
    keyed.sort(key=lambda item: item[:3])
    placed = []
    end = 0
    for negative, size, name, entry in keyed:
        offset = -(end // negative) * -negative  # end rounded up to the alignment
        placed.append((VarSecinfo(entry.type, entry.offset, size), name, offset))
        end = offset + size
    return placed


def stretch(data: bytes, sizes: Mapping[str, int]) -> bytes:
    """Give data sections another size, and the arrays at their ends the length that fills it.

    :param data: BTF without base, after `fixup_for_load`
    :param sizes: bytes by name of the section. One that does not end with an array, or would have
        a part of an element, stays as it is
    :return: BTF in which all ids mean what they did
    """
    editor = Editor(Btf(data))
    btf = editor.btf
    for name, size in sizes.items():
        found = btf.find(name, BtfKind.DATASEC)
        section = btf.type(found) if found else None
        if not found or not isinstance(section, Datasec) or not section.entries:
            continue
        last = section.entries[-1]
        var = btf.type(last.type)
        length = array_length(btf, last.type, size - last.offset)
        if length is None or not isinstance(var, Var):
            continue
        old = btf.type(btf.skip_mods_and_typedefs(var.type))
        assert isinstance(old, Array)
        editor.words[editor.position(last.type) + 2] = editor.add(replace(old, nelems=length))
        at = editor.position(found)
        editor.words[at + 2] = size
        editor.words[at + 2 + 3 * len(section.entries)] = size - last.offset
    return editor.build() if editor.next_id > btf.nr_types else data


def array_length(btf: Btf, type_id: int, size: int) -> int | None:
    """Return how many elements of a variable's array fill `size` bytes.

    :param type_id: a VAR, or its type
    :return: None if it is no array, or `size` is not a whole number of elements
    """
    t = btf.type(type_id)
    t = btf.type(btf.skip_mods_and_typedefs(t.type if isinstance(t, Var) else type_id))
    if not isinstance(t, Array) or size <= 0:
        return None
    item = btf.sizeof(t.type)
    return size // item if item and size % item == 0 else None


def sanitize(data: bytes, features: Collection[str]) -> bytes:
    """Rewrite a blob for a kernel that knows only some of `BTF_FEATURES`.

    :param data: BTF without base, after `fixup_for_load`
    :param features: names of the BTF features the kernel has
    :return: the same bytes if nothing has to change; ids stay the same in any case
    """
    lacks = set(BTF_FEATURES) - set(features)
    if not lacks:
        return data
    if lacks & {"func", "datasec"}:
        lacks.add("decl_tag")  # a tag is not allowed on the replacements
    editor = Editor(Btf(data))
    sanitizer = _Sanitizer(editor, lacks)
    for type_id, t in list(editor.btf.types()):
        sanitizer.visit(type_id, t)
    return editor.build() if sanitizer.changed else data


class _Sanitizer:
    """Replace kinds by older ones whose records have the same length."""

    def __init__(self, editor: Editor, lacks: Collection[str]) -> None:
        self.editor = editor
        self.lacks = lacks
        self.changed = False
        self._placeholder = 0

    def visit(self, type_id: int, t: Type) -> None:
        before = self.editor.words[self.editor.position(type_id) + 1]
        name_before = self.editor.words[self.editor.position(type_id)]
        self._visit(type_id, t)
        at = self.editor.position(type_id)
        self.changed |= (name_before, before) != tuple(self.editor.words[at : at + 2])

    def _visit(self, type_id: int, t: Type) -> None:
        editor, lacks = self.editor, self.lacks
        words, at = editor.words, editor.position(type_id)
        if ("datasec" in lacks and isinstance(t, Var)) or (
            "decl_tag" in lacks and isinstance(t, DeclTag)
        ):
            # One byte, because the variable may be smaller than four.
            editor.set_kind(type_id, BtfKind.INT)
            words[at + 2], words[at + 3] = 1, 8
        elif "datasec" in lacks and isinstance(t, Datasec):
            self._datasec_to_struct(type_id, t)
        elif "qmark_datasec" in lacks and isinstance(t, Datasec) and t.name.startswith("?"):
            words[at] = editor.strings.offset("_" + t.name[1:])
        elif "func" in lacks and isinstance(t, FuncProto):
            editor.set_kind(type_id, BtfKind.ENUM, len(t.params))
            words[at + 2] = 4
            for number, param in enumerate(t.params):
                if not param.name:
                    words[at + 3 + 2 * number] = editor.strings.offset(f"arg{number}")
        elif "func" in lacks and isinstance(t, Func):
            editor.set_kind(type_id, BtfKind.TYPEDEF)
        elif "func_global" in lacks and isinstance(t, Func):
            editor.set_kind(type_id, BtfKind.FUNC, Linkage.STATIC)
        elif "float" in lacks and isinstance(t, Float):
            # Anonymous, because "float" is not a name for a struct.
            editor.set_kind(type_id, BtfKind.STRUCT)
            words[at] = 0
        elif "type_tag" in lacks and isinstance(t, TypeTag):
            editor.set_kind(type_id, BtfKind.CONST)
            words[at] = 0
        elif "enum64" in lacks and isinstance(t, Enum):
            editor.set_kind(type_id, BtfKind.ENUM, len(t.values))  # kind_flag is as new as ENUM64
        elif "enum64" in lacks and isinstance(t, Enum64):
            if not self._placeholder:
                self._placeholder = editor.add(Int("enum64_placeholder", 1, 8))
            editor.set_kind(type_id, BtfKind.UNION, len(t.values))
            for number in range(len(t.values)):
                words[at + 4 + 3 * number] = self._placeholder
                words[at + 5 + 3 * number] = 0

    def _datasec_to_struct(self, type_id: int, t: Datasec) -> None:
        editor = self.editor
        at = editor.position(type_id)
        editor.set_kind(type_id, BtfKind.STRUCT, len(t.entries))
        editor.words[at] = editor.strings.offset(t.name.replace(".", "_").replace("?", "_"))
        for number, entry in enumerate(t.entries):
            name = editor.strings.offset(editor.btf.name(entry.type))
            row = array("I", (name, entry.type, entry.offset * 8 & 0xFFFFFFFF))
            editor.words[at + 3 + 3 * number : at + 6 + 3 * number] = row
