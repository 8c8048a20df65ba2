"""Convert values of BTF types from bytes to Python objects and back.

Values are immutable and hashable, so they can be keys. Integers, bools and
floats are themselves, pointers and enums are integers, and arrays are tuples. Arrays of ``char``
are `CharArray`, a `str`; arrays of ``unsigned char`` are `bytes`. Structs are `Record`,
a tuple with attributes. Unions are `UnionValue`, their bytes with attributes.
Fields of anonymous members are attributes of the struct around them, as in C. A data section is
a record of its variables.
"""

from __future__ import annotations

from ..dataclass import replace
from ..errors import ObjectFormatError
from ..wording import many
from .decode import Btf
from .nodes import (
    FLOAT_CODES,
    INT_CODES,
    ArrayNode,
    Bits,
    BytesNode,
    CharsNode,
    Node,
    OnlyField,
    RawNode,
    ScalarNode,
    Slot,
    StructNode,
    UnionNode,
    WideIntNode,
    compile_node,
    encoder,
)
from .record import CharArray, Record, UnionValue
from .types import (
    Array,
    Datasec,
    Enum,
    Enum64,
    Float,
    Int,
    Ptr,
    Struct,
    Type,
    Union,
    Var,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Buffer = bytes | bytearray | memoryview

__all__ = ["CharArray", "Codec", "Record", "UnionValue", "array_codec", "codec", "node_of"]

# Lengths of a flexible array that decoders are kept for.
_LENGTHS = 64
_MAX_NESTING = 48
_MAX_SIZE = 1 << 31
_MAX_INT = 16  # bytes of __int128: the kernel accepts no longer ones
# Most fields and elements, those of nested types counted each time. No
# type of Linux 6.12 has more than 2,200. Forged types, each with two of the one before, have
# millions after twenty.
_MAX_NODES = 20_000


class FlexibleArray:
    """Read the flexible array at the end of a struct: ``char data[]``.

    :ivar offset: where it starts, in bytes; padding of the struct may follow
    """

    def __init__(self, position: int, slot: Slot) -> None:
        self.offset = slot.offset
        self._position = position
        self._what = slot.what
        self._made: dict[int, Callable[[Buffer], Any]] = {}  # by number of elements

    def fill(self, record: Record, data: bytes) -> Record:
        """Return the record with the array.

        :param data: the bytes from `offset` on. Less than an element at the end is ignored
        """
        values = list(record)
        values[self._position] = self._value(data)
        return tuple.__new__(type(record), values)

    def _value(self, data: bytes) -> Any:
        what = self._what
        if isinstance(what, BytesNode):
            return data
        if isinstance(what, CharsNode):
            return CharArray(data)
        assert isinstance(what, ArrayNode)
        count = len(data) // what.item.size
        decode = self._made.get(count)
        if decode is None:
            if len(self._made) >= _LENGTHS:
                self._made.clear()
            decode = self._made[count] = compile_node(ArrayNode(what.item, count))[0]
        return decode(data)


class Codec:
    """Turn values of one type into bytes and back. `codec` makes it.

    ``size`` is in bytes, ``name`` is the type's C name, and ``fields`` are the names of a
    struct's fields by position. ``least`` is the bytes of a struct without the array at its end.

    ``flexible`` reads the array of no fixed length at the end of a struct, None if there is none.

    ``decode(buffer, offset=0)`` returns the value at a byte offset (ValueError if
    the buffer is too short). ``encode(value)`` returns exactly ``size`` bytes (TypeError,
    ValueError). ``iter_unpack(buffer)`` iterates over consecutive values.
    """

    __slots__ = (
        *("_encode", "_iter"),
        *("decode", "fields", "flexible", "least", "name", "size", "type_id"),
    )

    decode: Callable[..., Any]

    def __init__(self, node: Node, name: str, type_id: int) -> None:
        self.size = node.size
        self.least = node.least
        self.name = name
        self.type_id = type_id
        self.fields: tuple[str, ...] = node.fields if isinstance(node, StructNode) else ()
        last = node.flexible if isinstance(node, StructNode) else None
        self.flexible = None if last is None else FlexibleArray(len(self.fields) - 1, last)
        self.decode, self._iter = compile_node(node)
        self._encode = encoder(node)

    def __repr__(self) -> str:
        return f"<Codec {self.name}: {many(self.size, 'byte')}>"

    def encode(self, value: Any) -> bytes:
        """Encode a value. Structs also accept a dict (missing fields are 0) or a sequence, char
        arrays a str, enums a name, and everything its own bytes.
        """
        return self._encode(value)

    def iter_unpack(self, buffer: Buffer, *, before: int = 0, after: int = 0) -> Iterator[Any]:
        """Iterate over the values in a buffer of a multiple of ``before + size + after`` bytes.

        :param before: bytes to skip before each value
        :param after: bytes to skip after each value
        :raises ValueError: if the length is not such a multiple
        """
        return self._iter(buffer, before, after)


def codec(btf: Btf, type_id: int) -> Codec:
    """Return the codec of a type. It is made once per `Btf`.

    :param type_id: a data type, a data section, or a variable, which means its type
    :raises ObjectFormatError: functions, void, forward declarations; malformed types
    """
    known: Codec | None = btf.codecs.get(type_id)
    if known is None:
        t = btf.type(btf.skip_mods_and_typedefs(type_id))
        name = t.name or "<anon>"
        known = Codec(_node(btf, type_id, _Room()), name, type_id)
        btf.codecs[type_id] = known
    return known


def array_codec(btf: Btf, type_id: int, length: int) -> Codec:
    """Return the codec of an array type with another number of elements. It is not kept.

    :raises TypeError: the type is no array
    :raises ObjectFormatError: as `codec`
    """
    t = btf.type(btf.skip_mods_and_typedefs(type_id))
    if not isinstance(t, Array):
        raise TypeError(f"type {type_id} is no array")
    return Codec(_array_node(btf, replace(t, nelems=length), _Room()), "<anon>", type_id)


def node_of(btf: Btf, type_id: int) -> Node:
    """Return how values of a type are read, for those who generate code or text from it.

    :raises ObjectFormatError: as `codec`
    """
    return _node(btf, type_id, _Room())


# From types to nodes.


class _Room:
    # How deep the walk through nested types is, and how many nodes it has made in all.

    __slots__ = ("_depth", "_nodes")

    def __init__(self, depth: int = 0, nodes: Iterator[int] | None = None) -> None:
        self._depth = depth
        self._nodes = nodes if nodes is not None else iter(range(_MAX_NODES))

    def inside(self, btf: Btf, t: Type) -> _Room:
        """Go one type deeper."""
        if self._depth > _MAX_NESTING:
            raise _error(btf, t, "is nested too deeply")
        if next(self._nodes, None) is None:
            raise _error(btf, t, f"is inside a type of more than {_MAX_NODES} fields")
        return _Room(self._depth + 1, self._nodes)


def _node(btf: Btf, type_id: int, room: _Room) -> Node:
    type_id = btf.skip_mods_and_typedefs(type_id)
    t = btf.type(type_id)
    inside = room.inside(btf, t)
    if isinstance(t, Var):
        return _node(btf, t.type, inside)
    if isinstance(t, Int):
        return _int_node(btf, t)
    if isinstance(t, Ptr):
        return ScalarNode("Q")
    if isinstance(t, (Enum, Enum64)):
        code = INT_CODES.get((t.size, t.signed))
        if code is None:
            raise _error(btf, t, f"is an enum of {many(t.size, 'byte')}")
        return ScalarNode(code, {value.name: value.val for value in t.values})
    if isinstance(t, Float):
        if t.size in FLOAT_CODES:
            return ScalarNode(FLOAT_CODES[t.size])
        return RawNode(_checked(btf, t, t.size))
    if isinstance(t, Array):
        return _array_node(btf, t, inside)
    if isinstance(t, (Struct, Union)):
        return _composite_node(btf, t, inside)
    if isinstance(t, Datasec):
        return _section_node(btf, t, inside)
    raise _error(btf, t, "has no values")


def _error(btf: Btf, t: Type, what: str) -> ObjectFormatError:
    kind = type(t).__name__.lower()
    return ObjectFormatError(f"{kind} {t.name or '<anon>'} {what}", file=btf.label, section=".BTF")


def _checked(btf: Btf, t: Type, size: int) -> int:
    if size >= _MAX_SIZE:
        raise _error(btf, t, f"is too large: {size} bytes")
    return size


def _int_node(btf: Btf, t: Int) -> Node:
    if t.is_bool and t.size == 1:
        return ScalarNode("?")
    code = INT_CODES.get((t.size, t.signed))
    if code is not None:
        return ScalarNode(code)
    if t.size > _MAX_INT:
        raise _error(btf, t, f"has {t.size} bytes")
    return WideIntNode(t.size, t.signed)


def _array_node(btf: Btf, t: Array, room: _Room) -> Node:
    item = btf.type(btf.skip_mods_and_typedefs(t.type))
    if (
        isinstance(item, Int)
        and item.size == 1
        and not item.is_bool
        and (item.is_char or not item.signed)
    ):
        # char is text, uint8_t is bytes, int8_t is a number.
        size = _checked(btf, t, t.nelems)
        return CharsNode(size) if item.is_char else BytesNode(size)
    node = _node(btf, t.type, room)
    _checked(btf, t, t.nelems)
    _checked(btf, t, node.size * t.nelems)
    return ArrayNode(node, t.nelems)


def _composite_node(btf: Btf, t: Struct | Union, room: _Room) -> Node:
    what = ("struct " if isinstance(t, Struct) else "union ") + (t.name or "<anon>")
    size = _checked(btf, t, t.size)
    if isinstance(t, Struct):
        slots: list[Slot] = []
        _collect(btf, t, 0, size, slots, room)
        return StructNode(what, size, slots)
    members: list[tuple[str, Node]] = []
    for member in t.members:
        slot = _slot(
            btf, t, member.name, member.type, member.bit_offset, member.bitfield_size, room
        )
        _check_place(btf, t, slot, size)
        node = slot.what
        if isinstance(node, Bits) or slot.offset:
            # One bit-field of a union, or a forged offset. It gets its own record.
            node = StructNode(what, size, [slot])
            members.append((member.name, OnlyField(node)))
        else:
            members.append((member.name, node))
    return UnionNode(what, size, members)


def _collect(btf: Btf, t: Struct, base: int, limit: int, slots: list[Slot], room: _Room) -> None:
    # Slots of a struct at bit `base` of the record; those of anonymous structs join them.
    for member in t.members:
        inner = btf.type(btf.skip_mods_and_typedefs(member.type))
        at = base + member.bit_offset
        if not member.name and isinstance(inner, Struct):
            _collect(btf, inner, at, limit, slots, room.inside(btf, inner))
        elif member.name or isinstance(inner, Union):
            slot = _slot(btf, t, member.name, member.type, at, member.bitfield_size, room)
            _check_place(btf, t, slot, limit)
            slots.append(slot)


def _section_node(btf: Btf, t: Datasec, room: _Room) -> Node:
    # Static variables may share a name, and hostile ones have none. The place tells them apart.
    size = _checked(btf, t, t.size)
    slots: dict[str, Slot] = {}
    for entry in t.entries:
        name = btf.type(entry.type).name
        if not name or name in slots:
            name = f"{name}@{entry.offset:#x}"
        slot = Slot(name, entry.offset, _node(btf, entry.type, room))
        _check_place(btf, t, slot, size)
        slots[name] = slot
    return StructNode(f"section {t.name}", size, list(slots.values()))


def _check_place(btf: Btf, t: Type, slot: Slot, limit: int) -> None:
    if slot.end_byte > limit:
        raise _error(btf, t, f"ends before its member {slot.name or '<anon>'!r}")


def _slot(btf: Btf, owner: Type, name: str, type_id: int, at: int, width: int, room: _Room) -> Slot:
    t = btf.type(btf.skip_mods_and_typedefs(type_id))
    if not width and isinstance(t, Int) and t.bits < t.size * 8 and not t.is_bool:
        # A bit-field in the form used before BTF had kind_flag.
        width = t.bits
        at += t.offset
    if width:
        if not isinstance(t, (Int, Enum, Enum64)) or width > t.size * 8:
            raise _error(btf, owner, f"has a bit-field {name!r} of a wrong type or size")
        is_bool = isinstance(t, Int) and t.is_bool
        return Slot(name, 0, Bits(at, width, t.signed and not is_bool, is_bool))
    if at % 8:
        raise _error(btf, owner, f"has a member {name!r} that is not at a byte")
    return Slot(name, at // 8, _node(btf, type_id, room))
