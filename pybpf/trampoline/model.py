"""The model of a kernel function: what BTF says of its arguments and return.

A trampoline saves arguments in 8-byte slots (``struct btf_func_model``,
kernel/bpf/btf.c btf_distill_func_proto, arch/x86/net/bpf_jit_comp.c): a scalar
takes one slot, a struct by value one or two. The same rules decide which
functions no trampoline can carry: variadic ones, those with more than 12
parameters or slots (6 slots on kernels that cannot copy stack arguments), with
a struct of more than 16 bytes by value, or returning one.
"""

from __future__ import annotations

import enum

from ..btf import Btf, types
from ..dataclass import dataclass
from ..multi.reasons import Reason

__all__ = ["MAX_PARAMS", "MAX_SLOTS", "REGISTER_SLOTS", "Model", "Models", "Return"]

MAX_PARAMS = 12  # MAX_BPF_FUNC_ARGS, include/linux/bpf.h
MAX_SLOTS = 12
REGISTER_SLOTS = 6  # arguments the x86-64 calling convention passes in registers


class Return(enum.Enum):
    """What kind of value a function returns."""

    VOID = "void"
    INT = "int"
    BOOL = "bool"
    POINTER = "pointer"
    ENUM = "enum"
    STRUCT = "struct"
    WIDE = "wide"  # more than 8 bytes, e.g. __int128


@dataclass(frozen=True, slots=True)
class Model:
    """One function's calling model.

    :param slots: 8-byte argument slots
    :param returns: kind of the return value
    :param ret_size: its size in bytes, 0 for void
    :param signed: the return value is a signed integer
    :param params: number of C parameters
    :param structs: some parameter is a struct or union by value
    :param pointers: bit i set: slot i holds a pointer
    :param obstacle: why no trampoline can carry it, or None
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
    """Models of the functions of one BTF, each prototype looked at once.

    Equal models are one object: the planner asks once for each of them.
    """

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._known: dict[int, Model] = {}
        self._equal: dict[Model, Model] = {}

    def of(self, proto_id: int) -> Model:
        """Model of a FUNC_PROTO.

        :raises ObjectFormatError: if the id is none
        """
        model = self._known.get(proto_id)
        if model is None:
            model = self._read(proto_id)
            model = self._known[proto_id] = self._equal.setdefault(model, model)
        return model

    def of_func(self, func_id: int) -> Model:
        """Model of a FUNC."""
        func = self._btf.type(func_id)
        assert isinstance(func, types.Func)
        return self.of(func.type)

    def _read(self, proto_id: int) -> Model:
        btf = self._btf
        proto = btf.type(proto_id)
        assert isinstance(proto, types.FuncProto)
        obstacle: Reason | None = None
        params = proto.params
        if params and params[-1].type == 0:
            obstacle = Reason.VARIADIC
            params = params[:-1]
        if len(params) > MAX_PARAMS:
            obstacle = obstacle or Reason.TOO_MANY_SLOTS
        slots = pointers = 0
        structs = False
        for param in params:
            kind = btf.type(btf.skip_mods_and_typedefs(param.type))
            size = 8
            if isinstance(kind, types.Ptr):
                pointers |= 1 << slots
            elif isinstance(kind, (types.Struct, types.Union)):
                structs = True
                size = kind.size
                if size > 16:
                    obstacle = obstacle or Reason.BIG_STRUCT
            elif isinstance(kind, (types.Int, types.Enum, types.Enum64, types.Float)):
                size = kind.size
            slots += (size + 7) // 8
        if slots > MAX_SLOTS:
            obstacle = obstacle or Reason.TOO_MANY_SLOTS
        returns, ret_size, signed = self._return(proto.type)
        if returns is Return.STRUCT:
            obstacle = obstacle or Reason.RETURNS_STRUCT
        return Model(slots, returns, ret_size, signed, len(params), structs, pointers, obstacle)

    def _return(self, type_id: int) -> tuple[Return, int, bool]:
        if type_id == 0:
            return Return.VOID, 0, False
        kind = self._btf.type(self._btf.skip_mods_and_typedefs(type_id))
        if isinstance(kind, types.Void):
            return Return.VOID, 0, False
        if isinstance(kind, types.Ptr):
            return Return.POINTER, 8, False
        if isinstance(kind, (types.Struct, types.Union)):
            return Return.STRUCT, kind.size, False
        if isinstance(kind, types.Int):
            if kind.is_bool:
                return Return.BOOL, kind.size, False
            if kind.size > 8:
                return Return.WIDE, kind.size, kind.signed
            return Return.INT, kind.size, kind.signed
        if isinstance(kind, (types.Enum, types.Enum64)):
            return Return.ENUM, kind.size, kind.signed
        return Return.INT, 8, True
