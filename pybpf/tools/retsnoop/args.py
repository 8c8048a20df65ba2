"""Arguments of traced functions: what the BPF program captures, and their values as text. Pure.

A function's prototype says whether a parameter's register is the value, points to memory of a
known size, or points to a string. The BPF program reads it at the call. A record holds each
argument's register and the memory that was read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from ... import errnos
from ...btf.types import Enum, Enum64, Func, FuncProto, Int, Param, Ptr, Struct, Type, Union
from ...dataclass import dataclass, field
from ...errors import ObjectFormatError
from ...wording import plain
from .cvalues import CUT, c_text, number_text, string_text
from .events import Arg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...btf import Btf
    from .functions import Function
    from .settings import Settings

__all__ = ["MAX_ARGS", "Parameter", "Take", "arguments_text", "pack_spec", "parameters_of"]

#: Most arguments captured of a call, and registers they may be in; the same as in retsnoop.bpf.c.
MAX_ARGS = 12
_REGISTERS = 6
_E2BIG, _EOPNOTSUPP = 7, 95
_SPEC = struct.Struct("<BBH")


class Take:
    """Say how an argument is captured: `enum arg_kind` of retsnoop.bpf.c."""

    NONE, VALUE, PAIR, MEMORY, STRING = range(5)


@dataclass(frozen=True, slots=True)
class Parameter:
    """Describe one parameter of a function.

    :param take: see `Take`
    :param slot: number of its first register
    :param size: most bytes to read
    :param btf: the BTF that has its type, None if it has no type
    :param type: BTF id of what is read: its own type, or the type it points to
    :param note: text shown instead of a value
    :param variadic: number of a variable argument, None for a named parameter
    """

    name: str
    take: int
    slot: int = 0
    size: int = 0
    btf: Btf | None = field(default=None, compare=False, repr=False)
    type: int = 0
    note: str = ""
    variadic: int | None = None


def parameters_of(function: Function, btf: Btf | None, settings: Settings) -> tuple[Parameter, ...]:
    """Say what to capture of a call: raw registers if there is no prototype.

    :param btf: BTF of the function's module
    """
    if btf is None or function.btf_id is None:
        return _registers()
    try:
        func = btf.type(function.btf_id)
        proto = btf.type(func.type) if isinstance(func, Func) else None
        if not isinstance(proto, FuncProto):
            return _registers()
        return tuple(_parameters(btf, proto.params, settings))[:MAX_ARGS]
    except (ObjectFormatError, ValueError):
        return _registers()


def _registers() -> tuple[Parameter, ...]:
    return tuple(Parameter(f"arg{i}", Take.VALUE, i) for i in range(_REGISTERS))


def _parameters(btf: Btf, params: Sequence[Param], settings: Settings) -> Iterator[Parameter]:
    slot = 0
    for number, param in enumerate(params):
        if param.type == 0:  # ... of a variadic function
            for more in range(_REGISTERS - slot):
                yield Parameter(f"vararg{more}", Take.VALUE, slot + more, variadic=more)
            return
        name = plain(param.name or f"arg{number}")
        t = btf.type(btf.skip_mods_and_typedefs(param.type))
        whole = isinstance(t, (Struct, Union)) or (isinstance(t, Int) and t.size > 8)
        needed = (btf.sizeof(param.type) + 7) // 8 if whole else 1
        if needed > 2:
            yield Parameter(name, Take.NONE, note="(unsupp)")
            continue
        if slot + needed > _REGISTERS:
            yield Parameter(name, Take.NONE, note="(stack-too-far)")
        elif whole:
            yield Parameter(name, Take.PAIR, slot, btf.sizeof(param.type), btf, param.type)
        elif isinstance(t, Ptr):
            yield _pointer(btf, name, slot, t.type, param.type, settings)
        else:
            yield Parameter(name, Take.VALUE, slot, 0, btf, param.type)
        slot += needed


def _pointer(
    btf: Btf, name: str, slot: int, pointee: int, own: int, settings: Settings
) -> Parameter:
    t = btf.type(btf.skip_mods_and_typedefs(pointee))
    if isinstance(t, Int) and t.size == 1 and t.name == "char":
        return Parameter(name, Take.STRING, slot, settings.max_str_arg_size, btf, pointee)
    try:
        size = btf.sizeof(pointee) if pointee else 0
    except (ObjectFormatError, ValueError):
        size = 0  # void, a function, or a struct that is only declared
    if not size:
        return Parameter(name, Take.VALUE, slot, 0, btf, own)
    return Parameter(name, Take.MEMORY, slot, min(size, settings.max_sized_arg_size), btf, pointee)


def pack_spec(parameters: Sequence[Parameter]) -> bytes:
    """Encode `struct args_spec` of retsnoop.bpf.c."""
    specs = b"".join(_SPEC.pack(p.take, p.slot, p.size) for p in parameters)
    return struct.pack("<I", len(parameters)) + specs.ljust(MAX_ARGS * _SPEC.size, b"\0")


# -- as text ------------------------------------------------------------------


def arguments_text(
    parameters: Sequence[Parameter],
    values: Sequence[Arg],
    settings: Settings,
    *,
    lines: bool = False,
) -> list[tuple[str, str]]:
    """Return names and values of the arguments of one call.

    :param lines: print structs over several lines
    """
    out: list[tuple[str, str]] = []
    wanted: int | None = None  # variable arguments
    for parameter, value in zip(parameters, values, strict=False):
        if parameter.variadic is not None:
            if wanted is None:
                out.append(("...", "(vararg)"))
                break
            if parameter.variadic >= wanted:
                break
            out.append((parameter.name, _value(parameter, value.value)))
            continue
        text = _text(parameter, value, settings, lines=lines)
        width = settings.fmt_max_arg_width
        if width and not lines and len(text) > width:
            text = text[: width - 1] + CUT
        out.append((parameter.name, text))
        if parameter.take == Take.STRING and value.size > 0:
            wanted = value.data.replace(b"%%", b"").count(b"%")
    else:
        if len(values) < len(parameters):
            out.append(("...", "(trunc)"))
    return out


def _text(parameter: Parameter, arg: Arg, settings: Settings, *, lines: bool) -> str:
    if parameter.note:
        return parameter.note
    take, value = parameter.take, arg.value
    if take == Take.VALUE:
        return _value(parameter, value)
    raw_pointer = ""
    if take in (Take.MEMORY, Take.STRING):
        if not value:
            return "NULL"
        name = _error_pointer(value)
        if name:
            return name
        raw_pointer = f"({value:#x})" if settings.capture_raw_ptrs else ""
    if arg.size == -_E2BIG:
        return f"{raw_pointer}(trunc)"
    if arg.size < 0:
        return f"{raw_pointer}<ERR:-{errnos.name_of(-arg.size) or -arg.size}>"
    if take == Take.STRING:
        # It filled the room, with its NUL: perhaps it was longer.
        return raw_pointer + string_text(arg.data, cut=arg.size >= parameter.size)
    assert parameter.btf is not None
    shown = arg.data[: parameter.size] if take == Take.PAIR else arg.data
    text = c_text(parameter.btf, parameter.type, shown, lines=lines)
    return text if take == Take.PAIR else f"{raw_pointer}&{text}"


def _error_pointer(value: int) -> str:
    signed = value - (1 << 64) if value >> 63 else value
    if not errnos.is_error(signed):
        return ""
    name = errnos.name_of(-signed)
    return f"-{name}" if name else str(signed)


def _value(parameter: Parameter, register: int) -> str:
    btf = parameter.btf
    if btf is None:
        return number_text(register) if register < 1 << 31 else f"{register:#x}"
    t: Type = btf.type(btf.skip_mods_and_typedefs(parameter.type))
    size = btf.sizeof(parameter.type) if isinstance(t, (Int, Enum, Enum64)) else 8
    if isinstance(t, Ptr) and (name := _error_pointer(register)):
        return name
    return c_text(btf, parameter.type, register.to_bytes(8, "little")[:size])
