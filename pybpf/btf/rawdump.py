"""Print BTF as text, one record after the other, like ``bpftool btf dump format raw``.

The form is bpftool's, so that `diff` can compare two dumps.
"""

from __future__ import annotations

from .decode import Btf
from .types import (
    Array,
    BtfKind,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Struct,
    Type,
    Union,
    Unknown,
    Var,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["as_dict", "raw_lines", "type_lines"]

_LINKAGE = ("static", "global", "extern")
_ENCODINGS = {0: "(none)", 1: "SIGNED", 2: "CHAR", 4: "BOOL"}


def raw_lines(btf: Btf) -> Iterator[str]:
    """Print the own types of a BTF as lines without line ends."""
    for type_id, t in btf.types():
        yield from type_lines(btf, type_id, t)


def type_lines(btf: Btf, type_id: int, t: Type) -> Iterator[str]:
    """Print the lines of one type."""
    kind = f"UNKNOWN{t.kind}" if isinstance(t, Unknown) else BtfKind(t.kind).name
    head = f"[{type_id}] {kind} '{t.name or '(anon)'}'"
    if isinstance(t, Int):
        encoding = _ENCODINGS.get(t.encoding, "UNKN")
        yield f"{head} size={t.size} bits_offset={t.offset} nr_bits={t.bits} encoding={encoding}"
    elif isinstance(t, (Struct, Union)):
        yield f"{head} size={t.size} vlen={len(t.members)}"
        for m in t.members:
            bits = f" bitfield_size={m.bitfield_size}" if m.bitfield_size else ""
            yield f"\t'{m.name or '(anon)'}' type_id={m.type} bits_offset={m.bit_offset}{bits}"
    elif isinstance(t, (Enum, Enum64)):
        sign = "SIGNED" if t.signed else "UNSIGNED"
        suffix = "" if isinstance(t, Enum) else "LL" if t.signed else "ULL"
        yield f"{head} encoding={sign} size={t.size} vlen={len(t.values)}"
        for value in t.values:
            yield f"\t'{value.name}' val={value.val}{suffix}"
    elif isinstance(t, Array):
        yield f"{head} type_id={t.type} index_type_id={t.index_type} nr_elems={t.nelems}"
    elif isinstance(t, FuncProto):
        yield f"{head} ret_type_id={t.type} vlen={len(t.params)}"
        for p in t.params:
            yield f"\t'{p.name or '(anon)'}' type_id={p.type}"
    elif isinstance(t, Func):
        yield f"{head} type_id={t.type} linkage={_linkage(t.linkage)}"
    elif isinstance(t, Var):
        yield f"{head} type_id={t.type}, linkage={_linkage(t.linkage)}"
    elif isinstance(t, Datasec):
        yield f"{head} size={t.size} vlen={len(t.entries)}"
        for entry in t.entries:
            what = BtfKind(btf.kind(entry.type)).name if btf.kind(entry.type) < 20 else "?"
            name = btf.name(entry.type)
            place = f"\ttype_id={entry.type} offset={entry.offset} size={entry.size}"
            yield f"{place} ({what} '{name}')"
    elif isinstance(t, Fwd):
        yield f"{head} fwd_kind={'union' if t.is_union else 'struct'}"
    elif isinstance(t, Float):
        yield f"{head} size={t.size}"
    elif isinstance(t, DeclTag):
        yield f"{head} type_id={t.type} component_idx={t.component_idx}"
    elif isinstance(t, Unknown):
        yield head
    else:
        yield f"{head} type_id={getattr(t, 'type', 0)}"


def _linkage(value: int) -> str:
    return _LINKAGE[value] if value < len(_LINKAGE) else "(unknown)"


def as_dict(type_id: int, t: Type) -> dict[str, Any]:
    """Return a type as plain values for JSON: ``id``, ``kind`` and its fields by name."""
    from dataclasses import asdict

    kind = f"UNKNOWN{t.kind}" if isinstance(t, Unknown) else BtfKind(t.kind).name
    return {"id": type_id, "kind": kind, **asdict(t)}  # type: ignore[call-overload]
