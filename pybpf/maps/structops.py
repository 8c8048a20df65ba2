"""The members of a struct_ops map, which may be changed before it is loaded."""

from __future__ import annotations

from ..btf.values import codec
from ..names import unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..btf import Btf
    from ..btf.types import Member
    from ..obj.spec import StructOpsSpec

__all__ = ["StructOps"]


class StructOps:
    """Access the members of one struct_ops map as attributes.

    A member that is a function pointer is the name of a program, or None. Assign another name
    or None to change what is loaded and attached. Any other member is a value typed from BTF.

    :param name: name of the map, for messages
    """

    __slots__ = ("_btf", "_data", "_members", "_name", "_programs", "_spec", "_status")

    def __init__(self, name: str, spec: StructOpsSpec, btf: Btf) -> None:
        from ..btf import Struct

        struct = btf.type(spec.type_id)
        assert isinstance(struct, Struct)
        init = object.__setattr__
        init(self, "_name", name)
        init(self, "_spec", spec)
        init(self, "_btf", btf)
        init(self, "_data", bytearray(spec.data))
        init(self, "_programs", dict(spec.funcs))
        init(self, "_members", {member.name: member for member in struct.members if member.name})
        init(self, "_status", {"loaded": False})

    _members: dict[str, Member]
    _programs: dict[str, str]
    _data: bytearray

    def __getattr__(self, name: str) -> Any:
        member = self._member(name)
        if name in self._programs or self._is_function(member):
            return self._programs.get(name)
        made = codec(self._btf, member.type)
        return made.decode(memoryview(self._data), member.bit_offset // 8)

    def __setattr__(self, name: str, value: Any) -> None:
        member = self._member(name)
        if self._status["loaded"]:
            raise AttributeError(f"map {self._name!r} is loaded: {name} can no longer be changed")
        if self._is_function(member):
            program = getattr(value, "name", value)
            if program is None:
                self._programs.pop(name, None)
            elif isinstance(program, str):
                self._programs[name] = program
            else:
                raise TypeError(f"{name}: a program, its name or None expected")
            return
        made = codec(self._btf, member.type)
        at = member.bit_offset // 8
        try:
            self._data[at : at + made.size] = made.encode(value)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"map {self._name!r}: member {name!r}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the members."""
        return iter(self._members)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._members]

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._members)
        return f"<StructOps {self._name}: {inner}>"

    def _member(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None or name.startswith("__"):
            raise AttributeError(unknown("member", name, self._members))
        return member

    def _is_function(self, member: Member) -> bool:
        from ..btf import FuncProto, Ptr

        btf = self._btf
        pointer = btf.type(btf.skip_mods_and_typedefs(member.type))
        return isinstance(pointer, Ptr) and isinstance(
            btf.type(btf.skip_mods_and_typedefs(pointer.type)), FuncProto
        )


def contents(members: StructOps) -> tuple[bytes, dict[str, str]]:
    """Return the present contents: the bytes, and program name by member name."""
    return bytes(members._data), dict(members._programs)


def seal(members: StructOps) -> None:
    """Allow no more changes."""
    members._status["loaded"] = True
