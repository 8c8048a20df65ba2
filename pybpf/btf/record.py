"""Values as Python has them: records, unions and texts. They are copies, so they do not change.

`pybpf.btf.nodes` makes a class for each struct and union. Values are pickled with the names of
their fields, so the process that reads them needs no BTF.
"""

from __future__ import annotations

from functools import cache, partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Self

__all__ = [
    "RESERVED",
    "CharArray",
    "Record",
    "Texts",
    "UnionValue",
    "make_text",
    "plain",
    "record_class",
    "union_class",
    "usable",
]


class CharArray(str):
    """Hold a ``char[]``: the text before its first NUL.

    It is a `str`: it prints, formats and goes into JSON as text. Bytes that are not UTF-8 show
    as U+FFFD. It equals a `str` of that text, `bytes` of that text or of the whole array, and
    another `CharArray` if all their bytes are the same.

    :param raw: all bytes of the array
    """

    __slots__ = ("raw",)

    #: All bytes of the array, including those after the first NUL.
    raw: bytes

    def __new__(cls, raw: bytes) -> Self:
        self = str.__new__(cls, raw.partition(b"\0")[0], "utf-8", "replace")
        self.raw = raw
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CharArray):
            return self.raw == other.raw
        if isinstance(other, (bytes, bytearray)):
            return other in (self.raw, self.raw.partition(b"\0")[0])
        return str.__eq__(self, other) if isinstance(other, str) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __bytes__(self) -> bytes:
        return self.raw

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        """Return the text, for code that expects bytes (ctypes and bcc return bytes)."""
        return self.raw.partition(b"\0")[0].decode(encoding, errors)

    def __getnewargs__(self) -> tuple[bytes]:  # type: ignore[override]
        return (self.raw,)


def make_text(
    raw: bytes, new: Callable[..., CharArray] = str.__new__, cls: type[CharArray] = CharArray
) -> CharArray:
    """Make ``CharArray(raw)`` without calling its ``__new__``: a fifth faster. Hot path."""
    self = new(cls, raw.partition(b"\0")[0], "utf-8", "replace")
    self.raw = raw
    return self


class Texts(dict[bytes, CharArray]):
    """Keep the texts of one field by their bytes.

    The name of a task and the like come again and again, and a look-up costs less than making a
    text (measured: 60 ns for 380 ns). Hot path.
    """

    __slots__ = ("_missed",)
    #: Longest array in bytes that is worth keeping: paths hardly repeat.
    LONGEST = 32
    # Most texts to keep. When there are that many, others are made each time. After _STALE
    # of these, the kept texts may no longer be the common ones, and all are dropped.
    _MOST = 1024
    _STALE = 1 << 16

    def __init__(self) -> None:
        self._missed = 0

    def __missing__(self, raw: bytes) -> CharArray:
        text = make_text(raw)
        if len(self) < self._MOST:
            self[raw] = text
        else:
            self._missed += 1
            if self._missed == self._STALE:
                self._missed = 0
                self.clear()
        return text


def plain(value: Any) -> Any:
    """Convert a value to what JSON has: dicts, lists, text and numbers.

    Structs and unions become dicts, arrays and bytes become lists, ``char[]`` becomes text.
    """
    if isinstance(value, (Record, UnionValue)):
        return {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, CharArray):
        return str(value)
    if isinstance(value, (tuple, bytes)):
        return [plain(one) for one in value]
    return value


def _is_a_copy(what: str, made_with: str) -> AttributeError:
    hint = f"assign a new one, made with {made_with}, to the variable or the map's entry"
    return AttributeError(f"{what}: a value that was read is a copy and cannot be changed; {hint}")


class Record(tuple["Any", ...]):
    """Hold a struct, as `pybpf.Map` and `pybpf.RingBuffer` return it: a tuple with attributes.

    Integers, enums, pointers and floats are numbers. ``char[]`` is text (`CharArray`, whose
    ``.raw`` has all bytes), ``unsigned char[]`` is `bytes`, other arrays are tuples, and structs
    are records. An anonymous union takes one place in the tuple; its members are attributes.
    A field with the name of a method is only in `to_dict`.
    """

    __slots__ = ()
    #: Names by position, "" for an anonymous union.
    _fields: ClassVar[tuple[str, ...]] = ()
    _what: ClassVar[str] = "struct"

    def __setattr__(self, name: str, value: object) -> None:
        raise _is_a_copy(self._what, f"._replace({name}=...)")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name as JSON can have them, including nested ones.

        Structs and unions are dicts (a union has each of its members), ``char[]`` is text,
        other arrays are lists, enums and pointers are integers.
        """
        made: dict[str, Any] = plain(self)
        return made

    def _asdict(self) -> dict[str, Any]:
        """Return the fields by name, with those of anonymous unions. Nested values stay as is."""
        found: dict[str, Any] = {}
        for name, value in zip(self._fields, self, strict=True):
            if name:
                found[name] = value
            else:
                found.update(value._asdict())
        return found

    def _replace(self, **changes: Any) -> Self:
        """Copy it with some fields changed. Fields of anonymous unions cannot be changed."""
        unknown = set(changes) - set(self._fields)
        if unknown:
            raise ValueError(f"{self._what} has no field {sorted(unknown)[0]!r} to replace")
        values = zip(self._fields, self, strict=True)
        return tuple.__new__(type(self), [changes.get(name, value) for name, value in values])

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        unions = tuple(
            (number, tuple(self[number]._members))
            for number, name in enumerate(self._fields)
            if not name
        )
        return _unpickled_record, (self._what, self._fields, unions, tuple(self))

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{self._what}({inner})"


class UnionValue(bytes):
    """Hold the bytes of a union. Members are decoded when they are read."""

    __slots__ = ()
    _members: ClassVar[dict[str, Callable[[bytes], Any]]] = {}
    _what: ClassVar[str] = "union"

    def __setattr__(self, name: str, value: object) -> None:
        raise _is_a_copy(self._what, "bytes")

    def to_dict(self) -> dict[str, Any]:
        """Return all members by name as JSON can have them, including nested ones."""
        made: dict[str, Any] = plain(self)
        return made

    def _asdict(self) -> dict[str, Any]:
        """Return all members by name."""
        return {name: decode(self) for name, decode in self._members.items()}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_union, (self._what, bytes(self), self._asdict())

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{self._what}({inner})"


# Nodes. A node knows its leaves as (offset, struct code, size) in ascending order. It gives
# the expression of its value from `v` (all leaf values) and the index of its first value
# there, and it writes a value into a buffer.


def usable(name: str) -> bool:
    """Tell whether a field can be an attribute. Other names are still in ``_asdict()``."""
    return not (name.startswith("__") and name.endswith("__")) and name not in RESERVED


#: Names that a record or union has of its own.
RESERVED = frozenset(("to_dict", "_asdict", "_replace", "_fields", "_what", "_members"))


def record_class(
    what: str, fields: tuple[str, ...], unions: tuple[tuple[int, tuple[str, ...]], ...]
) -> type[Record]:
    """Make the class of a struct's records.

    :param fields: names by position, "" for an anonymous union
    :param unions: positions of the anonymous unions, and the names of their members
    """
    attributes: dict[str, Any] = {"__slots__": (), "_fields": fields, "_what": what}
    for number, name in enumerate(fields):
        if name and usable(name):
            attributes[name] = _getter(number)
    for number, members in unions:
        for name in members:
            if usable(name):
                attributes.setdefault(name, property(partial(_through_union, number, name)))
    made: type[Record] = type("Record", (Record,), attributes)
    made.__module__ = __name__
    return made


def union_class(
    what: str, decoders: dict[str, Callable[[Any], Any]], base: type[UnionValue]
) -> type[UnionValue]:
    """Make the class of a union's values.

    :param decoders: by name of the member: gives its value from the union
    """
    attributes: dict[str, Any] = {"__slots__": (), "_what": what, "_members": decoders}
    attributes |= {name: property(one) for name, one in decoders.items() if usable(name)}
    made: type[UnionValue] = type("UnionValue", (base,), attributes)
    made.__module__ = __name__
    return made


# Classes of values that another process has pickled: here no node makes them.
_record_class_once = cache(record_class)


def _unpickled_record(
    what: str,
    fields: tuple[str, ...],
    unions: tuple[tuple[int, tuple[str, ...]], ...],
    values: tuple[Any, ...],
) -> Record:
    return tuple.__new__(_record_class_once(what, fields, unions), values)


class _DecodedUnion(UnionValue):
    # Has the values of its members, as only its own type could decode them from the bytes.
    pass


@cache
def _decoded_union_class(what: str, names: tuple[str, ...]) -> type[UnionValue]:
    decoders: dict[str, Callable[[Any], Any]] = {name: partial(_decoded, name) for name in names}
    return union_class(what, decoders, _DecodedUnion)


def _decoded(name: str, union: UnionValue) -> Any:
    return union.__dict__["decoded"][name]


def _unpickled_union(what: str, raw: bytes, members: dict[str, Any]) -> UnionValue:
    made = bytes.__new__(_decoded_union_class(what, tuple(members)), raw)
    made.__dict__["decoded"] = members
    return made


def _through_union(number: int, name: str, record: Record) -> Any:
    return record[number]._members[name](record[number])


def _getter(number: int) -> Any:
    # collections.namedtuple uses this, too: an attribute is read without a Python call.
    try:
        from _collections import _tuplegetter  # type: ignore[import-not-found]
    except ImportError:  # another Python implementation
        return property(lambda record: record[number])
    return _tuplegetter(number, None)
