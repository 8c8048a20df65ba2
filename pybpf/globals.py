"""Global variables of a BPF object as Python attributes.

Theory of operation. clang puts globals into sections (.rodata, .data, .bss and
names that start with one of these), and each section becomes the only element of an array
map. Before the object is loaded, an assignment edits the map's initial contents. Afterwards
the map is memory that BPF programs and we share (``BPF_F_MMAPABLE``), so reads and writes
are plain loads and stores. A reused map can lack that flag, and one with static variables only
does, as in libbpf. It is read and written as a whole by BPF_MAP_LOOKUP_ELEM and
BPF_MAP_UPDATE_ELEM, so an assignment may undo what a program changes meanwhile. .rodata
is frozen when it is loaded, so that the verifier may trust it.

Before loading, a section may be given another size (``Map.value_size``). An array at its end then
gets the number of elements that fill it, as in libbpf.

Integers, enums and pointers of 2, 4 or 8 bytes are read and written by one native
move, so a counter that a program changes meanwhile is never torn. Larger
values are copied byte by byte and may be torn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from .errors import BpfError, StateError
from .names import unknown
from .wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .btf import Btf
    from .maps import Map
    from .obj.spec import ObjectSpec

__all__ = ["Globals", "Section", "Variable", "variable"]

_READ_ONLY = ("rodata", "kconfig")
_CODES: dict[int, Literal["H", "I", "Q"]] = {2: "H", 4: "I", 8: "Q"}


class Variable:
    """Access one global variable.

    :param section: name of its section, which is also its map's name in the object
    :param offset: bytes into the map's value
    :param size: bytes
    :param type_id: id of its type in `btf`
    :param last: it is the last of its section, and grows with that if it is an array
    """

    __slots__ = (
        *("_code", "_codec", "_last", "_made_for", "_size"),
        *("btf", "map", "name", "offset", "section", "type_id"),
    )

    def __init__(
        self,
        name: str,
        section: str,
        offset: int,
        size: int,
        type_id: int,
        btf: Btf,
        holder: Map,
        *,
        last: bool = False,
    ) -> None:
        self.name = name
        self.section = section
        self.offset = offset
        self._size = size
        self._last = last
        self._made_for = size
        self.type_id = type_id
        self.btf = btf
        self.map = holder
        self._codec: Any = None
        self._code: Literal["H", "I", "Q"] | None = None

    def __repr__(self) -> str:
        size = many(self.size, "byte")
        return f"<Variable {self.name!r}: {size} at {self.section}+{self.offset:#x}>"

    @property
    def size(self) -> int:
        """Return its bytes."""
        if not self._last or self.map.value_size == self.map.spec.value_size:
            return self._size
        return self._size if self._elements() is None else self.map.value_size - self.offset

    def _elements(self) -> int | None:
        # How many elements it has if its section has another size than in the file, else None.
        whole = self.map.value_size
        if not self._last or whole == self.map.spec.value_size:
            return None
        from .btf.encode import array_length

        return array_length(self.btf, self.type_id, whole - self.offset)

    @property
    def read_only(self) -> bool:
        """Return True if nobody can change it once the object is loaded."""
        return self.map.spec.data in _READ_ONLY

    def _typed(self) -> Any:
        # Its codec, made again if its section got another size.
        codec = self._codec
        if codec is None or (self._last and self._made_for != self.size):
            self._resolve()
            codec = self._codec
        return codec

    def _resolve(self) -> None:
        from .btf import BtfKind
        from .btf.values import array_codec, codec

        self._made_for = self.size
        length = self._elements()
        if length is not None:
            self._codec = array_codec(self.btf, self.type_id, length)
            return
        made = codec(self.btf, self.type_id)
        kind = self.btf.kind(self.btf.skip_mods_and_typedefs(self.type_id))
        scalars = (BtfKind.INT, BtfKind.ENUM, BtfKind.ENUM64, BtfKind.PTR)
        if kind in scalars and self.size and self.offset % self.size == 0:
            self._code = _CODES.get(self.size)
        self._codec = made

    @property
    def raw(self) -> bytes:
        """Return the variable's bytes."""
        self._typed()
        end = self._end()
        if not self.map.created:
            return bytes(self._initial()[self.offset : end])
        try:
            memory = self.map.memory()
        except BpfError:
            return bytes(self.map.raw[bytes(4)][self.offset : end])
        with memory, memory[self.offset : end] as part:
            if self._code is None:
                return bytes(part)
            with part.cast(self._code) as cell:
                return cell[0].to_bytes(self.size, sys.byteorder)

    @raw.setter
    def raw(self, data: bytes) -> None:
        if len(data) != self.size:
            given = many(len(data), "byte")
            raise ValueError(f"variable {self.name!r}: {given} given, {self.size} needed")
        self._typed()
        end = self._end()
        if not self.map.created:
            self._initial()[self.offset : end] = data
            return
        if self.read_only:
            raise AttributeError(
                f"{self.name!r} is in {self.section}, which nobody can change once it is loaded: "
                "assign before load()"
            )
        try:
            memory = self.map.memory()
        except BpfError:
            whole = bytearray(self.map.raw[bytes(4)])
            whole[self.offset : end] = data
            self.map.raw[bytes(4)] = bytes(whole)
            return
        if memory.readonly:
            memory.release()
            raise AttributeError(
                f"{self.name!r} is in {self.section}, whose map is frozen or read-only"
            )
        with memory, memory[self.offset : end] as part:
            if self._code is None:
                part[:] = data
                return
            with part.cast(self._code) as cell:
                cell[0] = int.from_bytes(data, sys.byteorder)

    def _end(self) -> int:
        # Where its bytes end in the map's value.
        end = self.offset + (self.size if self._last else self._size)
        if end > self.map.value_size < self.map.spec.value_size:
            has = many(self.map.value_size, "byte")
            raise ValueError(f"variable {self.name!r}: {self.section} has only {has}")
        return end

    def _initial(self) -> bytearray:
        if self.map.closed or self.map.initial is None:
            raise StateError(f"variable {self.name!r}", "the object is closed; open it again")
        return self.map.initial

    def get(self) -> Any:
        """Return the value, typed from BTF."""
        data = self.raw
        codec = self._codec  # `raw` has made it
        return codec.decode(data) if codec.size == len(data) else data

    def set(self, value: Any) -> None:
        """Assign a value.

        :raises AttributeError: it is constant and the object is loaded
        :raises TypeError: the value has a wrong type
        :raises ValueError: the value is out of range or has a wrong size
        """
        codec = self._typed()
        if codec.size == self.size and not (
            isinstance(value, (bytes, bytearray)) and len(value) == self.size
        ):
            try:
                value = codec.encode(value)
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"variable {self.name!r}: {error}") from error
        self.raw = bytes(value)


class _Names:
    # Attribute access to variables by name. A name with several variables is ambiguous.

    __slots__ = ("__variables",)

    def __init__(self, variables: Mapping[str, list[Variable]]) -> None:
        object.__setattr__(self, "_Names__variables", variables)

    def __getattr__(self, name: str) -> Any:
        return _find(self, name).get()

    def __setattr__(self, name: str, value: Any) -> None:
        _find(self, name).set(value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError("global variables cannot be deleted")

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __contains__(self, name: object) -> bool:
        return name in self.__variables

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the variables."""
        return iter(self.__variables)

    def __len__(self) -> int:
        return len(self.__variables)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self.__variables if name.isidentifier())]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self.__variables) or 'none'}>"


def _find(names: _Names, name: str) -> Variable:
    variables: Mapping[str, list[Variable]] = object.__getattribute__(names, "_Names__variables")
    found = variables.get(name)
    if found is None:
        raise AttributeError(unknown("global variable", name, variables))
    if len(found) > 1:
        places = ", ".join(f"{one.section}+{one.offset:#x}" for one in found)
        raise AttributeError(
            f"several variables are called {name!r} ({places}): "
            f"name the section, as in globals[{found[0].section!r}].{name}"
        )
    return found[0]


class Section(_Names):
    """Access the variables of one section."""

    __slots__ = ()


class Globals(_Names):
    """Access the global variables of one object.

    :param spec: says where they are and what types they have
    :param maps: the object's maps by name

    ``globals.name`` reads and ``globals.name = value`` assigns. ``name in globals``
    and iteration tell which variables exist. ``globals[".bss"]`` is one section. Static
    variables of several sections may share a name; ask the section for these.
    """

    __slots__ = ("__sections",)

    def __init__(self, spec: ObjectSpec, maps: Mapping[str, Map]) -> None:
        sections: dict[str, dict[str, list[Variable]]] = {}
        visible: dict[str, list[Variable]] = {}
        static: dict[str, list[Variable]] = {}
        for key, blueprint in spec.maps.items():
            arena = blueprint.data_section
            described = spec.data_sections.get(arena or blueprint.section)
            no_variables = blueprint.data in ("", "kconfig") and not arena
            if spec.btf is None or described is None or no_variables or key not in maps:
                continue
            own = sections.setdefault(arena or key, {})
            for entry in described.entries:
                name = entry.var.name
                made = Variable(
                    name,
                    key,
                    entry.offset,
                    entry.size,
                    entry.var.type,
                    spec.btf,
                    maps[key],
                    last=not arena and entry is described.entries[-1],
                )
                own.setdefault(name, []).append(made)
                (static if entry.static else visible).setdefault(name, []).append(made)
        super().__init__({**static, **visible})
        object.__setattr__(
            self,
            "_Globals__sections",
            {name: Section(variables) for name, variables in sections.items()},
        )

    def __getitem__(self, name: str) -> Any:
        if name.startswith("."):
            section = self.__sections.get(name)
            if section is None:
                raise KeyError(unknown("section with variables", name, self.__sections))
            return section
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("."):
            raise TypeError(f"section {name!r} cannot be assigned as a whole")
        setattr(self, name, value)


def variable(names: Globals | Section, name: str) -> Variable:
    """Return the variable behind an attribute: its place, type and raw bytes.

    :raises AttributeError: if the variable does not exist, or several do
    """
    return _find(names, name)
