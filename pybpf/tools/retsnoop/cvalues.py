"""Bytes of kernel memory as C text, by their BTF types: ``{.flags=32768,.mode=420}``. Pure.

Zero members are left out, because a kernel struct has hundreds of them. An ellipsis stands for
what was not captured.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...btf.types import Array, Enum, Enum64, Float, Int, Member, Ptr, Struct, Type, Union
from ...wording import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...btf import Btf

__all__ = ["CUT", "c_text", "number_text", "string_text"]

#: Stands for what was not captured, or not shown.
CUT = "…"
_DECIMAL_BELOW = 4 << 20  # larger numbers are more likely addresses, sizes or flags
_MAX_NESTING = 16
# Most values to write, nested ones included. What is captured has at most some hundred; but the
# members of nested unions share their bytes, so their number could double with each.
_MAX_VALUES = 10_000


def number_text(value: int) -> str:
    """Format a number, in hexadecimal if it is large."""
    return str(value) if value < _DECIMAL_BELOW else f"{value:#x}"


def string_text(raw: bytes, *, cut: bool = False) -> str:
    """Format a C string in quotes, up to its NUL.

    :param cut: the string was longer
    """
    text = raw.partition(b"\0")[0].decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else " " for c in text)
    return f"'{plain(shown)}{CUT if cut else ''}'"


def c_text(btf: Btf, type_id: int, raw: bytes, *, lines: bool = False) -> str:
    """Format a value of a type.

    :param raw: its first bytes, perhaps not all
    :param lines: put each struct member on its own line, indented by 4 blanks
    """
    return "".join(_Writer(btf, raw, lines).value(type_id, 0, 0))


def _resolved(btf: Btf, type_id: int) -> Type:
    return btf.type(btf.skip_mods_and_typedefs(type_id))


class _Writer:
    def __init__(self, btf: Btf, raw: bytes, lines: bool) -> None:
        self.btf = btf
        self.raw = raw
        self.lines = lines
        self.left = _MAX_VALUES

    def value(self, type_id: int, at: int, depth: int) -> Iterator[str]:
        self.left -= 1
        if self.left < 0:
            yield CUT
            return
        t = _resolved(self.btf, type_id)
        if isinstance(t, (Struct, Union)):
            yield from self.struct(t, at, depth)
        elif isinstance(t, Array):
            yield from self.array(t, at, depth)
        else:
            yield self.scalar(t, self.btf.sizeof(type_id), at)

    def scalar(self, t: Type, size: int, at: int) -> str:
        raw = self.raw[at : at + size]
        if len(raw) < size:
            return CUT
        signed = isinstance(t, (Int, Enum, Enum64)) and t.signed
        value = int.from_bytes(raw, "little", signed=signed)
        return _number(t, value, size)

    def struct(self, t: Struct | Union, at: int, depth: int) -> Iterator[str]:
        if depth >= _MAX_NESTING:
            yield "{" + CUT + "}"
            return
        shown = [m for m in t.members if self.left >= 0 and self.is_shown(m, at)]
        cut = at + t.size > len(self.raw)
        if not shown and not cut:
            yield "{}"
            return
        before, equals, end = "", "=", ""
        if self.lines:
            before, equals = "\n" + "    " * (depth + 1), " = "
            end = "\n" + "    " * depth
        yield "{"
        for number, member in enumerate(shown):
            yield ("," if number else "") + before
            if member.name:
                yield f".{plain(member.name)}{equals}"
            if member.bitfield_size:
                yield self.bits(member, at)
            else:
                yield from self.value(member.type, at + member.bit_offset // 8, depth + 1)
        if cut:
            yield ("," if shown else "") + before + CUT
        yield end + "}"

    def is_shown(self, member: Member, at: int) -> bool:
        """Return True if at least a part was captured, and it is not all zero."""
        if member.bitfield_size:
            value = self.bits_value(member, at)
            return value is not None and value != 0
        start = at + member.bit_offset // 8
        raw = self.raw[start : start + self.size(member.type)]
        return any(raw)

    def size(self, type_id: int) -> int:
        return self.btf.sizeof(type_id)

    def bits_value(self, member: Member, at: int) -> int | None:
        first = member.bit_offset // 8
        last = (member.bit_offset + member.bitfield_size + 7) // 8
        raw = self.raw[at + first : at + last]
        if len(raw) < last - first:
            return None
        value = int.from_bytes(raw, "little") >> member.bit_offset % 8
        value &= (1 << member.bitfield_size) - 1
        t = _resolved(self.btf, member.type)
        signed = isinstance(t, (Int, Enum, Enum64)) and t.signed
        if signed and value >> (member.bitfield_size - 1):
            value -= 1 << member.bitfield_size
        return value

    def bits(self, member: Member, at: int) -> str:
        value = self.bits_value(member, at)
        t = _resolved(self.btf, member.type)
        return CUT if value is None else _number(t, value, 8)

    def array(self, t: Array, at: int, depth: int) -> Iterator[str]:
        if depth >= _MAX_NESTING:
            yield "[" + CUT + "]"
            return
        element = _resolved(self.btf, t.type)
        size = self.size(t.type)
        if isinstance(element, Int) and size == 1 and _is_char(element):
            yield self.chars(t, at)
            return
        yield "["
        for number in range(t.nelems if size else 0):
            start = at + number * size
            if start >= len(self.raw) or self.left < 0:
                yield ("," if number else "") + CUT
                break
            yield "," if number else ""
            yield from self.value(t.type, start, depth + 1)
        yield "]"

    def chars(self, t: Array, at: int) -> str:
        raw = self.raw[at : at + t.nelems]
        text, nul, _ = raw.partition(b"\0")
        cells = [f"'{chr(b)}'" if 32 <= b < 127 else str(b) for b in text]
        if not nul and len(raw) < t.nelems:
            cells.append(CUT)
        return "[" + ",".join(cells) + "]"


def _is_char(t: Int) -> bool:
    return t.name == "char" or bool(t.encoding & 2)  # BTF_INT_CHAR


def _number(t: Type, value: int, size: int) -> str:
    if isinstance(t, (Enum, Enum64)):
        for one in t.values:
            if one.val == value:
                return plain(one.name)
        return str(value)
    if isinstance(t, Int) and t.is_bool:
        return "true" if value else "false"
    if isinstance(t, Ptr):
        return f"{value:#x}" if value else "NULL"
    if isinstance(t, Float) or size > 8:
        return f"{value:#x}"
    return number_text(value)
