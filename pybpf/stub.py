"""Write the types of an object as a Python stub (.pyi), for editors and type checkers.

The names and types are those that the loaded object really has: both come from the code that
decodes values. Structs become classes ``struct_NAME``, so that no class has the name of a field.
A ring buffer names no type, so a struct of events is in the stub if a global variable is of it or
points to it, which also keeps it in the object's BTF.
"""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Container, Iterator, Mapping
from functools import partial
from keyword import iskeyword

from .btf.nodes import (
    ArrayNode,
    Bits,
    BytesNode,
    CharsNode,
    Node,
    OnlyField,
    RawNode,
    ScalarNode,
    StructNode,
    UnionNode,
)
from .btf.record import RESERVED
from .btf.types import Ptr, Struct, Union
from .btf.values import node_of
from .errors import ObjectFormatError
from .maps.fields import BytesField, CodecField, Field, LpmField, PerCpuField, StackField
from .maps.kinds import key_field, value_field
from .obj.spec import MapSpec, ObjectSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .btf import Btf

__all__ = ["object_stub"]

_HEAD = '''\
"""Types of {name}, made by `pybpf obj pyi`.

    if TYPE_CHECKING:
        from {module} import Object
    obj = cast("Object", pybpf.open({name!r}))
"""

import builtins
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, Literal, Never, overload

import pybpf
from pybpf.btf.values import UnionValue
'''

# A method that accepts less than that of the class it comes from.
_OVERRIDES = "  # type: ignore[override]"


def object_stub(spec: ObjectSpec) -> str:
    """Return the text of a stub: records, globals, maps, programs and the object itself.

    :param spec: an object file that was read
    :raises ObjectFormatError: its types are malformed
    """
    made = _Stub(spec)
    maps = list(made.maps())
    made.globals()
    made.programs()
    name = os.path.basename(spec.name) or "object.bpf.o"
    module = name.removesuffix(".o").replace(".", "_").replace("-", "_")
    parts = [_HEAD.format(name=name, module=module), *made.records.values(), *maps, *made.rest]
    return "\n".join(parts)


class _Stub:
    def __init__(self, spec: ObjectSpec) -> None:
        self.spec = spec
        #: Text of each class of a struct or union, in the order of their ends.
        self.records: dict[str, str] = {}
        self.rest: list[str] = []
        self._names: dict[tuple[object, ...], str] = {}

    # -- types

    def type_of(self, node: Node | Bits) -> str:
        """Return what a value of this node is in Python."""
        if isinstance(node, Bits):
            return "bool" if node.is_bool else "int"
        if isinstance(node, OnlyField):
            return self.type_of(node.node.slots[0].what)
        if isinstance(node, ScalarNode):
            return {"?": "bool", "f": "float", "d": "float"}.get(node.code, "int")
        if isinstance(node, ArrayNode):
            return f"tuple[{self.type_of(node.item)}, ...]"
        if isinstance(node, (StructNode, UnionNode)):
            return self._record(node)
        if isinstance(node, (BytesNode, RawNode)):
            return "bytes"
        if isinstance(node, CharsNode):
            return "pybpf.CharArray"
        return "int"  # __int128 and other widths

    def _record(self, node: StructNode | UnionNode) -> str:
        kind, _, tag = node.what.partition(" ")
        fields = dict(self._fields(node))
        known = self._names.get((node.what, *fields.items()))
        if known is not None:
            return known
        name = f"{kind}_{tag}" if tag.isidentifier() else f"{kind}_anon{len(self._names) + 1}"
        while name in self._names.values():
            name += "_"
        self._names[node.what, *fields.items()] = name
        base = "UnionValue" if kind == "union" else "pybpf.Record"
        taken = dir(bytes if kind == "union" else tuple)
        lines = [f"class {name}({base}):"]
        for field, type_ in fields.items():
            if hasattr(node.cls, field) and _usable(field) and field not in RESERVED:
                ignored = "  # type: ignore[assignment]" if field in taken else ""
                lines.append(f"    {field}: {_seen_beside(type_, fields)}{ignored}")
        self.records[name] = "\n".join(lines if len(lines) > 1 else [f"{lines[0]} ..."]) + "\n"
        return name

    def _fields(self, node: Node | Bits) -> Iterator[tuple[str, str]]:
        # Attributes of a record: its own fields, and those of anonymous unions.
        if isinstance(node, OnlyField):
            node = node.node
        if isinstance(node, StructNode):
            for slot in node.slots:
                if slot.name:
                    yield slot.name, self.type_of(slot.what)
                else:
                    yield from self._fields(slot.what)
        elif isinstance(node, UnionNode):
            for name, member in node.members.items():
                yield name, self.type_of(member)
            for member in node.anonymous:
                yield from self._fields(member)

    def _entry(self, field: Field, type_id: int) -> str:
        if isinstance(field, PerCpuField):
            return "pybpf.PerCpu"
        if isinstance(field, CodecField) and self.spec.btf is not None:
            return self.type_of(node_of(self.spec.btf, type_id))
        if isinstance(field, LpmField):
            return "tuple[int, bytes]"
        if isinstance(field, StackField):
            return "tuple[Any, ...]"
        return "bytes" if isinstance(field, BytesField) else "int"

    # -- what an object has

    def maps(self) -> Iterator[str]:
        """Yield a class for each map that has typed entries, and note the others."""
        btf, types = self.spec.btf, {}
        for number, (name, one) in enumerate(self.spec.maps.items()):
            types[name] = "pybpf.Map"
            if one.data or not (one.key_size or one.value_size):
                continue
            key = self._entry(
                key_field(one.type, one.key_size, btf, one.key_type_id), one.key_type_id
            )
            value = self._entry(_value(one, btf), one.value_type_id)
            types[name] = label = f"map_{name if _usable(name) else number}"
            taken = key if key in ("int", "bytes") else f"{key} | tuple[Any, ...]"
            taken += " | dict[str, Any] | bytes" if key.startswith("struct_") else ""
            yield (
                f"class {label}(pybpf.Map):\n"
                f"    def __getitem__(self, key: {taken}) -> {value}: ...\n"
                f"    def __iter__(self) -> Iterator[{key}]: ...\n"
                "    def items(  # type: ignore[override]\n"
                f"        self, batch: int | None = None\n    ) -> ItemsView[{key}, {value}]: ...\n"
                "    def values(  # type: ignore[override]\n"
                f"        self, batch: int | None = None\n    ) -> ValuesView[{value}]: ...\n"
            )
        self.rest.append(_by_name("Maps", "pybpf.Map", types))

    def globals(self) -> None:
        """Note the class of the global variables."""
        lines = ["class Globals:"]
        variables = self._variables()
        beside = partial(_seen_beside, names=variables)
        for name, type_id in variables.items():
            if not _usable(name) or self.spec.btf is None:
                continue
            try:
                self._pointed_to(self.spec.btf, type_id)
                type_ = self.type_of(node_of(self.spec.btf, type_id))
            except ObjectFormatError:  # e.g. size 0
                type_ = "Any"
            if type_ in ("int", "bool", "float", "Any"):
                lines.append(f"    {name}: {beside(type_)}")
            else:  # assigned from dicts, sequences, texts and bytes, too
                lines += [
                    "    @property",
                    f"    def {name}(self) -> {beside(type_)}: ...",
                    f"    @{name}.setter",
                    f"    def {name}(self, value: {beside('Any')}) -> None: ...",
                ]
        name, value = beside("str"), beside("Any")
        lines += [
            f"    def __getitem__(self, name: {name}) -> {value}: ...",
            f"    def __setitem__(self, name: {name}, value: {value}) -> None: ...",
            f"    def __iter__(self) -> {beside('Iterator[str]')}: ...",
            f"    def __contains__(self, name: {beside('object')}) -> {beside('bool')}: ...",
        ]
        self.rest.append("\n".join(lines) + "\n")

    def _pointed_to(self, btf: Btf, type_id: int) -> None:
        # A global pointer keeps a struct of events in BTF, as their ring buffer names no type.
        pointer = btf.type(btf.skip_mods_and_typedefs(type_id))
        if isinstance(pointer, Ptr):
            target = btf.skip_mods_and_typedefs(pointer.type)
            if isinstance(btf.type(target), (Struct, Union)):
                self.type_of(node_of(btf, target))

    def _variables(self) -> dict[str, int]:
        # Type ids by name. A visible variable hides a static one of its name.
        found: dict[bool, dict[str, int]] = {True: {}, False: {}}
        for one in self.spec.maps.values():
            section = self.spec.data_sections.get(one.data_section or one.section)
            if section is not None and (one.data not in ("", "kconfig") or one.data_section):
                for entry in section.entries:
                    found[entry.static][entry.var.name] = entry.var.type
        return {**found[True], **found[False]}

    def programs(self) -> None:
        """Note the classes of the programs and of the object."""
        types = dict.fromkeys(self.spec.programs, "pybpf.Program")
        self.rest.append(_by_name("Programs", "pybpf.Program", types))
        self.rest.append(
            "class Object(pybpf.Object):\n    maps: Maps\n    programs: Programs\n"
            "    globals: Globals  # type: ignore[assignment]\n"
        )


def _usable(name: str) -> bool:
    special = name.startswith("__") and name.endswith("__")
    return name.isidentifier() and not iskeyword(name) and not special


def _seen_beside(type_: str, names: Container[str]) -> str:
    """Write a type so that it means the same in a class that has attributes of these names."""

    def other(found: re.Match[str]) -> str:
        word, *inside = found[0].split(".")
        if word not in names:
            return found[0]
        return f"builtins.{word}" if not inside and hasattr(builtins, word) else "builtins.object"

    return re.sub(r"[A-Za-z_][\w.]*", other, type_)


def _value(one: MapSpec, btf: Btf | None) -> Field:
    return value_field(one.type, one.value_size, one.map_flags, btf, one.value_type_id)


def _by_name(label: str, item: str, types: Mapping[str, str]) -> str:
    # A mapping that has these names and no others.
    lines = [f"class {label}(Mapping[str, {item}]):"]
    if not types:
        lines.append(f"    def __getitem__(self, name: Never) -> {item}: ...{_OVERRIDES}")
    by_type: dict[str, list[str]] = {}
    for name, type_ in types.items():
        by_type.setdefault(type_, []).append(name)
    for number, (type_, names) in enumerate(by_type.items()):
        if len(by_type) > 1:
            lines.append("    @overload" + ("" if number else _OVERRIDES))
        alone = "" if len(by_type) > 1 else _OVERRIDES
        literal = ", ".join(f'"{name}"' for name in names)
        lines.append(f"    def __getitem__(self, name: Literal[{literal}]) -> {type_}: ...{alone}")
    lines += ["    def __iter__(self) -> Iterator[str]: ...", "    def __len__(self) -> int: ..."]
    return "\n".join(lines) + "\n"
