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
from array import array
from collections import defaultdict
from contextlib import suppress

from ..btf import Btf, BtfKind, types
from ..bulk import picked
from ..dataclass import dataclass
from ..errors import ObjectFormatError
from ..multi.reasons import Reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["MAX_PARAMS", "MAX_SLOTS", "REGISTER_SLOTS", "Model", "Models", "Return"]

MAX_PARAMS = 12  # MAX_BPF_FUNC_ARGS, include/linux/bpf.h
MAX_SLOTS = 12
REGISTER_SLOTS = 6  # arguments the x86-64 calling convention passes in registers
_RETURN_REGISTERS = 16  # bytes of rax and rdx


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
    :param structs: some parameter is a struct or union passed by value, or wider than a register
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

    @property
    def returns_in_memory(self) -> bool:
        """Return True if the caller passes an address for the value, before all arguments."""
        return self.returns is Return.STRUCT and self.ret_size > _RETURN_REGISTERS


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
        known, blob = self._known, self._btf.blob
        start, offsets = blob.start_id, blob.offsets
        ids = sorted(set(proto_ids).difference(known))
        if ids and not start <= ids[0] <= ids[-1] < start + len(offsets):
            own = range(start, start + len(offsets))
            self._one_by_one(x for x in ids if x not in own)
            ids = [x for x in ids if x in own]
        # Written for tens of thousands: prototypes with as many parameters are read together.
        groups: defaultdict[int, list[int]] = defaultdict(list)
        places = picked(offsets, [x - start for x in ids])
        for i, info in enumerate(picked(blob.words[1:], places)):
            groups[info].append(i)
        for info, rows in groups.items():
            some = picked(ids, rows)
            try:
                models = self._alike(info, picked(places, rows))
                known.update(zip(some, models, strict=True))
            except (ObjectFormatError, AssertionError):
                self._one_by_one(some)
        return known

    def _one_by_one(self, proto_ids: Iterable[int]) -> None:
        for proto_id in proto_ids:
            with suppress(ObjectFormatError, AssertionError):
                self.of(proto_id)

    def _alike(self, info: int, places: Sequence[int]) -> list[Model]:
        # The models of records with one info word. They are as long as each other, so what they
        # have in one place is a column.
        assert info >> 24 & 0x7F == _FUNC_PROTO
        records, start = self._btf.blob.records
        size = 3 + 2 * (info & 0xFFFFFF)
        parts = [records[at : at + 4 * size] for at in [start + 4 * at for at in places]]
        words = array("I", b"".join(parts))
        returned, *params = (words[at::size] for at in range(2, size, 2))
        self._learn_pointers(self._params, set().union(*params), _ONE_POINTER)
        self._learn_pointers(self._returns, set(returned), _POINTER_RETURNED)
        columns = [map(self._params.__getitem__, ids) for ids in params]
        shapes = list(zip(map(self._returns.__getitem__, returned), *columns, strict=True))
        for shape in set(shapes).difference(self._shapes):
            self._make(shape)
        return list(map(self._shapes.__getitem__, shapes))

    def _learn_pointers(self, known: _Answers, type_ids: set[int], answer: int) -> None:
        # Most types of parameters are pointers, which are known by their kind.
        blob = self._btf.blob
        words, offsets, start = blob.words, blob.offsets, blob.start_id
        own = range(start, start + len(offsets))
        for type_id in type_ids.difference(known):
            if type_id in own and words[offsets[type_id - start] + 1] >> 24 & 0x7F == _PTR:
                known[type_id] = answer

    def _read(self, proto_id: int) -> Model:
        owner, at = self._btf.blob.locate(proto_id)
        words = owner.words
        info = words[at + 1]
        assert info >> 24 & 0x7F == _FUNC_PROTO
        # Pairs of name and type.
        ids = words[at + 4 : at + 3 + 2 * (info & 0xFFFFFF) : 2].tolist()
        returned = words[at + 2]
        shape = (self._returns[returned], *map(self._params.__getitem__, ids))
        return self._shapes.get(shape) or self._make(shape)

    def _make(self, shape: tuple[int, ...]) -> Model:
        model = self._made(*shape)
        model = self._shapes[shape] = self._equal.setdefault(model, model)
        return model

    @staticmethod
    def _made(returned: int, *params: int) -> Model:
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
        returns, ret_size, signed = _NUMBERED[returned & 0x7F], returned >> 8, bool(returned & 0x80)
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
            return _ONE_POINTER
        size = btf.sizeof(real) if kind in _SIZED else 8
        return (size + 7) // 8 << 2 | (_STRUCT if kind in _STRUCTS or size > 8 else 0)

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
_ONE_POINTER = 1 << 2 | _POINTER
_STRUCT_SLOTS = 2  # most slots of a struct passed by value
_STRUCTS = frozenset({BtfKind.STRUCT, BtfKind.UNION})
_NUMBERS = frozenset({BtfKind.INT, BtfKind.ENUM, BtfKind.ENUM64})
_SIZED = _STRUCTS | _NUMBERS | {BtfKind.FLOAT}
_FUNC_PROTO, _PTR = int(BtfKind.FUNC_PROTO), int(BtfKind.PTR)
_NUMBERED = tuple(Return)
_RETURNS = {returns: number for number, returns in enumerate(_NUMBERED)}
_POINTER_RETURNED = 8 << 8 | _RETURNS[Return.POINTER]


class _Answers(dict[int, int]):
    """Work out a number when it is first needed, and keep it."""

    def __init__(self, ask: Callable[[int], int]) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, type_id: int) -> int:
        answer = self[type_id] = self._ask(type_id)
        return answer
