"""The model of a kernel function: what BTF says about its arguments and return value.

A trampoline saves arguments in 8-byte slots (``struct btf_func_model``,
kernel/bpf/btf.c btf_distill_func_proto, arch/x86/net/bpf_jit_comp.c). A scalar
takes one slot, a struct passed by value takes one or two. The same rules decide which
functions cannot have a trampoline: variadic functions, functions with more than 12
parameters or slots (6 slots on kernels that cannot copy stack arguments), functions that
take a struct of more than 16 bytes by value, and functions that return a struct by value.
"""

from __future__ import annotations

import enum

from ..btf import Btf, BtfKind, types
from ..dataclass import dataclass
from ..errors import ObjectFormatError
from ..multi.reasons import Reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MAX_PARAMS", "MAX_SLOTS", "REGISTER_SLOTS", "Model", "Models", "Return"]

MAX_PARAMS = 12  # MAX_BPF_FUNC_ARGS, include/linux/bpf.h
MAX_SLOTS = 12
REGISTER_SLOTS = 6  # arguments the x86-64 calling convention passes in registers


class Return(enum.Enum):
    """Name the kind of value a function returns."""

    VOID = "void"
    INT = "int"
    BOOL = "bool"
    POINTER = "pointer"
    ENUM = "enum"
    STRUCT = "struct"
    WIDE = "wide"  # more than 8 bytes, e.g. __int128


@dataclass(frozen=True, slots=True)
class Model:
    """Describe how one function is called.

    :param slots: 8-byte argument slots
    :param returns: kind of the return value
    :param ret_size: its size in bytes, 0 for void
    :param signed: the return value is a signed integer
    :param params: number of C parameters
    :param structs: some parameter is a struct or union passed by value
    :param pointers: if bit i is set, slot i holds a pointer
    :param obstacle: why it cannot have a trampoline, or None
    """

    slots: int
    returns: Return
    ret_size: int
    signed: bool
    params: int
    structs: bool = False
    pointers: int = 0
    obstacle: Reason | None = None

    @property
    def is_void(self) -> bool:
        return self.returns is Return.VOID


class Models:
    """Give the models of the functions of one BTF. Each prototype is read once.

    Equal models are one object: the planner asks once for each of them. Only the numbers of a
    prototype are read. The slots that a parameter adds depend on its type, and are worked out
    once for each type. A kernel has 21,000 prototypes and 1,300 different models.
    """

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._known: dict[int, Model] = {}
        self._params = _Answers(self._param)
        self._returns = _Answers(self._return)
        # By what its return type and its parameters add.
        self._shapes: dict[tuple[int, ...], Model] = {}
        self._equal: dict[Model, Model] = {}

    def of(self, proto_id: int) -> Model:
        """Return the model of a FUNC_PROTO.

        :raises ObjectFormatError: if the id is not that of a FUNC_PROTO, or a type does not exist
        """
        model = self._known.get(proto_id)
        if model is None:
            model = self._known[proto_id] = self._read(proto_id)
        return model

    def of_func(self, func_id: int) -> Model:
        """Return the model of a FUNC."""
        func = self._btf.type(func_id)
        assert isinstance(func, types.Func)
        return self.of(func.type)

    def of_each(self, proto_ids: Iterable[int]) -> dict[int, Model]:
        """Return the models of many FUNC_PROTOs by id. Others and malformed ones are left out."""
        known, shapes = self._known, self._shapes
        blob = self._btf.blob
        words, offsets, start = blob.words, blob.offsets, blob.start_id
        param, returns = self._params.__getitem__, self._returns
        # Written for tens of thousands: `_read` with everything looked up beforehand.
        for proto_id in proto_ids:
            if proto_id in known:
                continue
            try:
                at = offsets[proto_id - start] if proto_id >= start else None
                if at is None or (info := words[at + 1]) >> 24 & 0x7F != _FUNC_PROTO:
                    known[proto_id] = self._read(proto_id)
                    continue
                ids = words[at + 4 : at + 3 + 2 * (info & 0xFFFFFF) : 2].tolist()
                shape = (returns[words[at + 2]], *map(param, ids))
                known[proto_id] = shapes.get(shape) or self._read(proto_id)
            except (ObjectFormatError, AssertionError, IndexError):
                continue
        return known

    def _read(self, proto_id: int) -> Model:
        owner, at = self._btf.blob.locate(proto_id)
        words = owner.words
        info = words[at + 1]
        assert info >> 24 & 0x7F == _FUNC_PROTO
        # Pairs of name and type.
        ids = words[at + 4 : at + 3 + 2 * (info & 0xFFFFFF) : 2].tolist()
        returned = words[at + 2]
        shape = (self._returns[returned], *map(self._params.__getitem__, ids))
        model = self._shapes.get(shape)
        if model is None:
            model = self._made(returned, list(shape[1:]))
            model = self._shapes[shape] = self._equal.setdefault(model, model)
        return model

    def _made(self, returned: int, params: list[int]) -> Model:
        obstacle: Reason | None = None
        if params and params[-1] == _NOTHING:
            obstacle = Reason.VARIADIC
            params = params[:-1]
        if len(params) > MAX_PARAMS:
            obstacle = obstacle or Reason.TOO_MANY_SLOTS
        slots = pointers = 0
        structs = False
        for param in params:
            what, own = param & 3, param >> 2
            if what == _POINTER:
                pointers |= 1 << slots
            elif what == _STRUCT:
                structs = True
                if own > _STRUCT_SLOTS:
                    obstacle = obstacle or Reason.BIG_STRUCT
            slots += own
        if slots > MAX_SLOTS:
            obstacle = obstacle or Reason.TOO_MANY_SLOTS
        returns, ret_size, signed = self._returned(returned)
        if returns is Return.STRUCT:
            obstacle = obstacle or Reason.RETURNS_STRUCT
        return Model(slots, returns, ret_size, signed, len(params), structs, pointers, obstacle)

    # What a type adds, as a number. For a parameter: slots << 2 | what.

    def _param(self, type_id: int) -> int:
        if not type_id:
            return _NOTHING
        btf = self._btf
        real = btf.skip_mods_and_typedefs(type_id)
        kind = btf.kind(real)
        if kind == BtfKind.PTR:
            return 1 << 2 | _POINTER
        size = btf.sizeof(real) if kind in _SIZED else 8
        return (size + 7) // 8 << 2 | (_STRUCT if kind in _STRUCTS else 0)

    def _return(self, type_id: int) -> int:
        returns, size, signed = self._returned(type_id)
        return size << 8 | signed << 7 | _RETURNS[returns]

    def _returned(self, type_id: int) -> tuple[Return, int, bool]:
        btf = self._btf
        real = btf.skip_mods_and_typedefs(type_id)
        kind = btf.kind(real)
        if kind == BtfKind.UNKN:
            return Return.VOID, 0, False
        if kind == BtfKind.PTR:
            return Return.POINTER, 8, False
        if kind in _STRUCTS:
            return Return.STRUCT, btf.sizeof(real), False
        if kind in _NUMBERS:
            number = btf.type(real)
            assert isinstance(number, (types.Int, types.Enum, types.Enum64))
            if not isinstance(number, types.Int):
                return Return.ENUM, number.size, number.signed
            if number.is_bool:
                return Return.BOOL, number.size, False
            if number.size > 8:
                return Return.WIDE, number.size, number.signed
            return Return.INT, number.size, number.signed
        return Return.INT, 8, True


# What a parameter is, apart from its size. `_NOTHING` at the end of a list means variadic.
_POINTER, _STRUCT, _NOTHING = 1, 2, 1 << 2 | 3
_STRUCT_SLOTS = 2  # most slots of a struct passed by value
_STRUCTS = frozenset({BtfKind.STRUCT, BtfKind.UNION})
_NUMBERS = frozenset({BtfKind.INT, BtfKind.ENUM, BtfKind.ENUM64})
_SIZED = _STRUCTS | _NUMBERS | {BtfKind.FLOAT}
_FUNC_PROTO = int(BtfKind.FUNC_PROTO)
_RETURNS = {returns: number for number, returns in enumerate(Return)}


class _Answers(dict[int, int]):
    """Work out a number when it is first needed, and keep it."""

    def __init__(self, ask: Callable[[int], int]) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, type_id: int) -> int:
        answer = self[type_id] = self._ask(type_id)
        return answer
