"""The trees behind `pybpf.btf.values`: the memory layout of values, and code made from it.

A type becomes a tree of nodes, and the tree becomes two things. For decoding, all
leaves of a struct, including nested ones, are put into one `struct.Struct` with
explicit padding. An expression that builds the objects from its values is
compiled once. It contains only indices and fixed names, never text from the
BTF. So a record costs one C call plus the cost of its objects. Overlapping parts cannot be
handled this way. A union is read as bytes and decodes its members on demand, and
bit-fields that share bytes are read as one integer. Encoding walks the tree and
checks each value, except that flat structs first try one `pack`.
"""

from __future__ import annotations

import struct
from functools import partial

from ..wording import many
from .record import (
    CharArray,
    Record,
    Texts,
    UnionValue,
    make_text,
    record_class,
    union_class,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Buffer = bytes | bytearray | memoryview

__all__ = [
    "FLOAT_CODES",
    "INT_CODES",
    "ArrayNode",
    "Bits",
    "BytesNode",
    "CharsNode",
    "Node",
    "OnlyField",
    "RawNode",
    "ScalarNode",
    "Slot",
    "StructNode",
    "UnionNode",
    "WideIntNode",
    "compile_node",
    "encoder",
]

INT_CODES = {(1, True): "b", (2, True): "h", (4, True): "i", (8, True): "q"}
INT_CODES |= {(size, False): code.upper() for (size, _), code in INT_CODES.items()}
FLOAT_CODES = {2: "e", 4: "f", 8: "d"}


class Node:
    size = 0
    leaves: tuple[tuple[int, str, int], ...] = ()
    #: Values that the leaves give.
    count = 1
    #: An array, whose end a record may leave out.
    is_array = False

    @property
    def least(self) -> int:
        """Return the bytes without the array at the end, if there is one."""
        return self.size

    def expr(self, first: int, env: dict[str, Any]) -> str:
        return f"v[{first}]"

    def write(self, buffer: bytearray, at: int, value: Any) -> None:
        """Store a value. The place is zeroed, or holds other members of a union."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = bytes(value)  # a view may be of wider items than bytes
            if len(value) != self.size:
                raise ValueError(f"{many(len(value), 'byte')} given, {self.size} needed")
            buffer[at : at + self.size] = value
        else:
            self.put(buffer, at, value)

    def put(self, buffer: bytearray, at: int, value: Any) -> None:
        raise TypeError(f"{value!r} given, {many(self.size, 'byte')} needed")


class RawNode(Node):
    """Keep plain bytes: long double, and whatever else Python has no type for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.leaves = ((0, f"{size}s", size),)


class ScalarNode(Node):
    def __init__(self, code: str, names: dict[str, int] | None = None) -> None:
        self.code = code
        self.packer = struct.Struct("<" + code)
        self.size = self.packer.size
        self.leaves = ((0, code, self.size),)
        self.names = names

    def put(self, buffer: bytearray, at: int, value: Any) -> None:
        if isinstance(value, str) and self.names is not None:
            if value not in self.names:
                raise ValueError(f"{value!r} is not one of the enumerators")
            value = self.names[value]
        if self.code == "?" and not isinstance(value, int):
            raise TypeError(f"{value!r} given, a bool needed")
        try:
            self.packer.pack_into(buffer, at, value)
        except (struct.error, OverflowError):
            number = hasattr(value, "__index__") or (
                self.code in "efd" and isinstance(value, float)
            )
            if number:
                raise ValueError(f"{value!r} does not fit {many(self.size, 'byte')}") from None
            raise TypeError(f"{value!r} given, a number needed") from None


class WideIntNode(Node):
    """Handle ``__int128`` and integers of odd sizes."""

    def __init__(self, size: int, signed: bool) -> None:
        self.size = size
        self.signed = signed
        self.leaves = ((0, f"{size}s", size),)

    def expr(self, first: int, env: dict[str, Any]) -> str:
        return f"from_bytes(v[{first}],'little',signed={self.signed})"

    def put(self, buffer: bytearray, at: int, value: Any) -> None:
        index = getattr(value, "__index__", None)
        if index is None:
            raise TypeError(f"{value!r} given, an integer needed")
        try:
            raw = index().to_bytes(self.size, "little", signed=self.signed)
        except OverflowError:
            raise ValueError(f"{value!r} does not fit {many(self.size, 'byte')}") from None
        buffer[at : at + self.size] = raw


class CharsNode(Node):
    """Handle ``char[]``, which is text."""

    is_array = True

    def __init__(self, size: int) -> None:
        self.size = size
        self.leaves = ((0, f"{size}s", size),)

    def expr(self, first: int, env: dict[str, Any]) -> str:
        if self.size > Texts.LONGEST:
            return f"text(v[{first}])"
        name = f"texts{len(env)}"
        env[name] = Texts()
        return f"{name}[v[{first}]]"

    def write(self, buffer: bytearray, at: int, value: Any) -> None:
        data = self.data(value)
        if len(data) > self.size:
            raise ValueError(f"{many(len(data), 'byte')} given, at most {self.size} fit")
        buffer[at : at + len(data)] = data

    def data(self, value: Any) -> bytes:
        """Return the bytes that a value stands for."""
        if isinstance(value, CharArray):
            return value.raw
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        raise TypeError(f"{value!r} given, bytes or str needed")


class BytesNode(CharsNode):
    """Handle ``unsigned char[]``, which is bytes. Accepts the same values as ``char[]``, and
    numbers, as `Record.to_dict` has them.
    """

    def data(self, value: Any) -> bytes:
        if isinstance(value, (list, tuple)):
            try:
                return bytes(value)
            except (TypeError, ValueError):
                raise ValueError(f"{value!r} given, numbers from 0 to 255 needed") from None
        return super().data(value)

    def expr(self, first: int, env: dict[str, Any]) -> str:
        return f"v[{first}]"


class ArrayNode(Node):
    """Handle arrays. Arrays of scalars are read by the struct around them."""

    is_array = True

    def __init__(self, item: Node, length: int) -> None:
        self.item = item
        self.length = length
        self.size = item.size * length
        self.flat = isinstance(item, ScalarNode)
        if isinstance(item, ScalarNode):
            self.leaves = ((0, f"{length}{item.code}", self.size),) if length else ()
            self.count = length
        else:
            self.leaves = ((0, f"{self.size}s", self.size),)

    def expr(self, first: int, env: dict[str, Any]) -> str:
        if self.flat:
            return f"v[{first}:{first + self.count}]"
        name = f"array{len(env)}"
        env[name] = compile_node(self.item)[1] if self.item.size else _nothing
        return f"tuple({name}(v[{first}]))"

    def put(self, buffer: bytearray, at: int, value: Any) -> None:
        try:
            items = list(value)
        except TypeError:
            raise TypeError(f"{value!r} given, a sequence needed") from None
        if isinstance(value, (str, dict)):
            raise TypeError(f"{value!r} given, a sequence of {self.length} needed")
        if len(items) > self.length:
            raise ValueError(f"{many(len(items), 'item')} given, at most {self.length} fit")
        for number, item in enumerate(items):
            try:
                self.item.write(buffer, at + number * self.item.size, item)
            except (TypeError, ValueError) as err:
                raise type(err)(f"[{number}]: {err}") from None


def _nothing(_buffer: Buffer) -> Iterator[Any]:
    return iter(())


class UnionNode(Node):
    def __init__(self, what: str, size: int, members: list[tuple[str, Node]]) -> None:
        self.size = size
        self.what = what
        self.leaves = ((0, f"{size}s", size),)
        self.members = {name: node for name, node in members if name}
        decoders: dict[str, Callable[[bytes], Any]] = {}
        for name, node in members:
            decoders |= _union_attributes(name, node)
        #: Nodes of anonymous members, for writing by name.
        self.anonymous = [node for name, node in members if not name]
        #: Attributes of its values, in order.
        self.attributes = tuple(decoders)
        self.cls = union_class(what, decoders, UnionValue)

    def expr(self, first: int, env: dict[str, Any]) -> str:
        name = f"union{len(env)}"
        env[name] = self.cls
        return f"{name}(v[{first}])"

    def put(self, buffer: bytearray, at: int, value: Any) -> None:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} given, a dict of members needed")
        for name, one in value.items():
            self.put_member(buffer, at, name, one)

    def put_member(self, buffer: bytearray, at: int, name: str, value: Any) -> None:
        node = self.members.get(name)
        try:
            if node is not None:
                # What other members wrote stays: those of `to_dict` agree, and one of them
                # may have the bytes that are padding in this one.
                node.write(buffer, at, value)
                return
            for inner in self.anonymous:
                if isinstance(inner, (StructNode, UnionNode)) and name in inner.names():
                    inner.put_member(buffer, at, name, value)
                    return
        except (TypeError, ValueError) as err:
            raise type(err)(f"{name}: {err}") from None
        raise ValueError(f"{self.what} has no member {name!r}")

    def names(self) -> set[str]:
        found = set(self.members)
        for inner in self.anonymous:
            if isinstance(inner, (StructNode, UnionNode)):
                found |= inner.names()
        return found


def _union_attributes(name: str, node: Node) -> dict[str, Callable[[bytes], Any]]:
    # Decoders of a member from the union's bytes; an anonymous struct gives one per field.
    decode = compile_node(node)[0]
    if name:
        return {name: decode}
    if isinstance(node, StructNode):
        return {inner: _field_of(decode, inner) for inner in node.attribute_names()}
    if isinstance(node, UnionNode):
        return {inner: _field_of(decode, inner) for inner in node.attributes}
    return {}


def _field_of(decode: Callable[..., Any], name: str) -> Callable[[bytes], Any]:
    return lambda data: decode(data)._asdict()[name]


class Bits:
    """Describe a bit-field: ``shift`` and ``width`` in bits within its struct."""

    def __init__(self, shift: int, width: int, signed: bool, is_bool: bool) -> None:
        self.shift = shift
        self.width = width
        self.signed = signed
        self.is_bool = is_bool

    def expr(self, word: str, base: int) -> str:
        shift = self.shift - base
        text = f"({word}>>{shift}&{(1 << self.width) - 1})"
        if self.is_bool:
            return f"{text}!=0"
        if self.signed:
            sign = 1 << self.width - 1
            return f"({text}^{sign})-{sign}"
        return text

    def write(self, buffer: bytearray, at: int, value: Any) -> None:
        index = getattr(value, "__index__", None)
        if index is None:
            raise TypeError(f"{value!r} given, an integer needed")
        number = index()
        low = -(1 << self.width - 1) if self.signed else 0
        if not low <= number < low + (1 << self.width):
            raise ValueError(f"{value!r} does not fit {many(self.width, 'bit')}")
        first, end = at + self.shift // 8, at + (self.shift + self.width + 7) // 8
        mask = (1 << self.width) - 1
        word = int.from_bytes(buffer[first:end], "little")
        word &= ~(mask << self.shift % 8)
        word |= (number & mask) << self.shift % 8
        buffer[first:end] = word.to_bytes(end - first, "little")


class Slot:
    """Describe one place of a record: a field, or an anonymous union (name "")."""

    def __init__(self, name: str, offset: int, what: Node | Bits) -> None:
        self.name = name
        self.offset = offset
        self.what = what

    @property
    def first_byte(self) -> int:
        return self.what.shift // 8 if isinstance(self.what, Bits) else self.offset

    @property
    def end_byte(self) -> int:
        if isinstance(self.what, Bits):
            return (self.what.shift + self.what.width + 7) // 8
        return self.offset + self.what.size


class StructNode(Node):
    def __init__(self, what: str, size: int, slots: list[Slot]) -> None:
        self.size = size
        self.what = what
        self.slots = slots
        self.by_name = {slot.name: slot for slot in slots if slot.name}
        self.fields = tuple(slot.name for slot in slots)
        self.cls = record_class(
            what,
            self.fields,
            tuple(
                (number, slot.what.attributes)
                for number, slot in enumerate(slots)
                if isinstance(slot.what, UnionNode) and not slot.name
            ),
        )
        self.leaves, self._places, self.count = self._lay_out()

    @property
    def least(self) -> int:
        last = max(self.slots, key=lambda slot: (slot.end_byte, slot.offset), default=None)
        if last is None or isinstance(last.what, Bits):
            return self.size
        if last.what.is_array:
            return last.offset
        # A struct at the end may end with an array in turn.
        return last.offset + last.what.least if last.what.least < last.what.size else self.size

    @property
    def flexible(self) -> Slot | None:
        """Return the flexible array at the end (``char data[]``), None if there is none."""
        slot = self.slots[-1] if self.slots else None
        if slot is None or not isinstance(slot.what, (CharsNode, ArrayNode)) or slot.what.size:
            return None
        if isinstance(slot.what, ArrayNode) and not slot.what.item.size:
            return None
        return slot if all(one.end_byte <= slot.offset for one in self.slots) else None

    @property
    def flat(self) -> bool:
        """Tell whether the values of the leaves, in order, are those of the record."""
        return len(self._places) == len(self.slots) and all(
            isinstance(slot.what, ScalarNode) and self._places[i] == (i, 0)
            for i, slot in enumerate(self.slots)
        )

    def _lay_out(self) -> tuple[tuple[tuple[int, str, int], ...], dict[int, tuple[int, int]], int]:
        """Return leaves, (value index, first bit of the word) by slot number, count of values."""
        leaves: list[tuple[int, str, int]] = []
        places: dict[int, tuple[int, int]] = {}
        count = end = 0
        order = sorted(
            range(len(self.slots)),
            key=lambda i: (self.slots[i].first_byte, self.slots[i].end_byte),
        )
        bits: list[int] = []  # slots of bit-fields that share bytes
        for number in order:
            slot = self.slots[number]
            if isinstance(slot.what, Bits) and bits and slot.first_byte < end:
                end = max(end, slot.end_byte)
                bits.append(number)
                continue
            count += self._close_bits(bits, leaves, places, count, end)
            bits = []
            if slot.first_byte < end:
                return self._overlapping()
            end = max(end, slot.end_byte)
            if isinstance(slot.what, Bits):
                bits = [number]
            else:
                places[number] = (count, 0)
                leaves += [(slot.offset + at, code, size) for at, code, size in slot.what.leaves]
                count += slot.what.count
        count += self._close_bits(bits, leaves, places, count, end)
        return tuple(leaves), places, count

    def _close_bits(
        self,
        bits: list[int],
        leaves: list[tuple[int, str, int]],
        places: dict[int, tuple[int, int]],
        count: int,
        end: int,
    ) -> int:
        if not bits:
            return 0
        first = self.slots[bits[0]].first_byte
        size = end - first
        leaves.append((first, INT_CODES.get((size, False), f"{size}s"), size))
        for number in bits:
            places[number] = (count, first * 8)
        return 1

    def _overlapping(
        self,
    ) -> tuple[tuple[tuple[int, str, int], ...], dict[int, tuple[int, int]], int]:
        # No C struct overlaps. Read it as bytes, then field by field.
        return ((0, f"{self.size}s", self.size),), {}, 1

    def expr(self, first: int, env: dict[str, Any]) -> str:
        name = f"cls{len(env)}"
        env[name] = self.cls
        if self.slots and not self._places:
            reader = f"read{len(env)}"
            env[reader] = partial(_read_slots, [(s, _slot_reader(s)) for s in self.slots])
            return f"new({name},{reader}(v[{first}]))"
        parts = []
        for number, slot in enumerate(self.slots):
            index, base = self._places[number]
            if isinstance(slot.what, Bits):
                parts.append(slot.what.expr(self._word(first + index, base), base))
            else:
                parts.append(slot.what.expr(first + index, env))
        if parts == [f"v[{first + i}]" for i in range(self.count)]:
            return f"new({name},v[{first}:{first + self.count}])"
        return f"new({name},({''.join(part + ',' for part in parts)}))"

    def _word(self, index: int, base: int) -> str:
        # The integer that holds a group of bit-fields.
        for at, code, size in self.leaves:  # an array of length 0 may be at the same place
            if size and at * 8 == base and code.endswith("s"):
                return f"from_bytes(v[{index}],'little')"
        return f"v[{index}]"

    def put(self, buffer: bytearray, at: int, value: Any) -> None:
        if isinstance(value, Record) and type(value) is not self.cls:
            value = value._asdict()
        if isinstance(value, dict):
            for name, one in value.items():
                self.put_member(buffer, at, name, one)
            return
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{value!r} given, a {self.what}, dict or tuple needed")
        if len(value) != len(self.slots):
            given = many(len(value), "value")
            raise ValueError(f"{given} given, {self.what} has {len(self.slots)}")
        for slot, one in zip(self.slots, value, strict=True):
            self._put_slot(buffer, at, slot, one)

    def _put_slot(self, buffer: bytearray, at: int, slot: Slot, value: Any) -> None:
        try:
            if isinstance(slot.what, Bits):
                slot.what.write(buffer, at, value)
            else:
                slot.what.write(buffer, at + slot.offset, value)
        except (TypeError, ValueError) as err:
            where = slot.name or "anonymous union"
            raise type(err)(f"{where}: {err}") from None

    def put_member(self, buffer: bytearray, at: int, name: str, value: Any) -> None:
        slot = self.by_name.get(name)
        if slot is not None:
            self._put_slot(buffer, at, slot, value)
            return
        for slot in self.slots:
            if not slot.name and isinstance(slot.what, UnionNode) and name in slot.what.names():
                slot.what.put_member(buffer, at + slot.offset, name, value)
                return
        raise ValueError(f"{self.what} has no field {name!r}")

    def attribute_names(self) -> list[str]:
        found: list[str] = []
        for slot in self.slots:
            if slot.name:
                found.append(slot.name)
            elif isinstance(slot.what, UnionNode):
                found += slot.what.attributes
        return found

    def names(self) -> set[str]:
        return set(self.attribute_names())


def _slot_reader(slot: Slot) -> Callable[..., Any]:
    if isinstance(slot.what, Bits):
        text = slot.what.expr("from_bytes(v,'little')", 0)
        made: Callable[..., Any] = eval(f"lambda v: {text}", {"from_bytes": int.from_bytes})
        return made
    return compile_node(slot.what)[0]


def _read_slots(readers: list[tuple[Slot, Callable[..., Any]]], data: bytes) -> list[Any]:
    return [
        read(data) if isinstance(slot.what, Bits) else read(data, slot.offset)
        for slot, read in readers
    ]


class OnlyField(Node):
    """Handle the only field of a record, without the record."""

    def __init__(self, node: StructNode) -> None:
        self.node = node
        self.size = node.size
        self.leaves = node.leaves
        self.count = node.count

    def expr(self, first: int, env: dict[str, Any]) -> str:
        return f"{self.node.expr(first, env)}[0]"

    def put(self, buffer: bytearray, at: int, value: Any) -> None:
        self.node.put(buffer, at, (value,))


# From nodes to functions.

_ENVIRONMENT = {
    "new": tuple.__new__,
    "tuple": tuple,
    "from_bytes": int.from_bytes,
    "text": make_text,
}
_DECODE = """\
def decode(buffer, offset=0):
    try:
        v = unpack_from(buffer, offset)
    except error:
        raise short(buffer, offset) from None
    return {expr}
"""


def _packer(node: Node) -> struct.Struct:
    form = "<"
    end = 0
    for at, code, size in node.leaves:
        form += f"{at - end}x{code}" if at > end else code
        end = at + size
    if node.size > end:
        form += f"{node.size - end}x"
    return struct.Struct(form)


def compile_node(
    node: Node,
) -> tuple[Callable[..., Any], Callable[..., Iterator[Any]]]:
    """Return (decode, iter_unpack) of a node."""
    packer = _packer(node)
    size = node.size
    env: dict[str, Any] = dict(_ENVIRONMENT)
    expr = node.expr(0, env)

    def short(buffer: Buffer, offset: int) -> ValueError:
        have = memoryview(buffer).nbytes
        return ValueError(f"{many(size, 'byte')} needed at offset {offset}, the buffer has {have}")

    env |= {"unpack_from": packer.unpack_from, "error": struct.error, "short": short}
    made: dict[str, Any] = {}
    build: Callable[[tuple[Any, ...]], Any]
    if isinstance(node, StructNode) and node.flat:
        env["cls"] = node.cls
        expr = "new(cls,v)"
        build = node.cls  # no Python frame per record
    else:
        build = eval(f"lambda v: {expr}", env)
    exec(_DECODE.format(expr=expr), env, made)

    padded = {(0, 0): packer}

    def iter_unpack(buffer: Buffer, before: int = 0, after: int = 0) -> Iterator[Any]:
        form = padded.get((before, after))
        if form is None:
            if len(padded) > 64:
                padded.clear()  # the length of records keeps changing
            form = struct.Struct(f"<{before}x{packer.format[1:]}{after}x")
            padded[before, after] = form
        if not form.size:
            raise ValueError("values of size 0 cannot be told apart in a buffer")
        try:
            return map(build, form.iter_unpack(buffer))
        except struct.error:
            have = memoryview(buffer).nbytes
            raise ValueError(f"{many(have, 'byte')} given, not a multiple of {form.size}") from None

    return made["decode"], iter_unpack


def encoder(node: Node) -> Callable[[Any], bytes]:
    size = node.size

    def encode(value: Any) -> bytes:
        buffer = bytearray(size)
        node.write(buffer, 0, value)
        return bytes(buffer)

    if isinstance(node, StructNode) and node.flat:
        pack = _packer(node).pack
        own = (node.cls, tuple)

        def encode_flat(value: Any) -> bytes:
            if type(value) in own:
                try:
                    return pack(*value)
                except (struct.error, OverflowError):
                    pass  # the slow path names the field
            return encode(value)

        return encode_flat
    if isinstance(node, ScalarNode) and node.code != "?":
        pack_one = node.packer.pack

        def encode_scalar(value: Any) -> bytes:
            try:
                return pack_one(value)
            except (struct.error, OverflowError):
                return encode(value)

        return encode_scalar
    return encode
