"""Externs: symbols an object leaves to the kernel.

Section .ksyms holds kernel variables, addresses and kfuncs. Section .kconfig
holds values that become one read-only map. Undefined ELF symbols say which externs
exist and whether they are weak. BTF gives their types.
"""

from __future__ import annotations

import struct

from ..btf import Array, Btf, BtfKind, Datasec, Enum, Enum64, Func, Int, Linkage, Var
from ..dataclass import replace
from ..elf import SHN_UNDEF, STB_GLOBAL, STB_WEAK, STT_NOTYPE, ElfFile
from ..errors import RelocationError
from .spec import KCONFIG, KSYMS, Extern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..elf import Symbol

__all__ = ["collect", "is_extern", "kconfig_size", "kconfig_values"]

_TRISTATE = {"n": 0, "y": 1, "m": 2}  # enum libbpf_tristate
# Bytes of one value. The longest option of a kernel is a text of some kilobytes.
_MAX_SIZE = 1 << 20
_LINK = "if another file defines it, link them first: bpftool gen object OUT.o FILE.o FILE.o"
_SIZES = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


def is_extern(symbol: Symbol) -> bool:
    """Tell whether a symbol is undefined here because another file, here the kernel, defines it."""
    return (
        symbol.shndx == SHN_UNDEF
        and symbol.bind in (STB_GLOBAL, STB_WEAK)
        and symbol.type == STT_NOTYPE
    )


def collect(elf: ElfFile, btf: Btf | None) -> list[Extern]:
    """Collect externs in libbpf's order: .kconfig by alignment, size and name; .ksyms by name.

    :raises ObjectFormatError: BTF does not describe one, or describes it wrongly
    """
    undefined = [(i, s) for i, s in enumerate(elf.symbols) if is_extern(s) and s.name]
    if not undefined:
        return []
    if btf is None:
        raise elf.error(f"extern {undefined[0][1].name!r} needs BTF; compile with -g", KSYMS, 0)
    declared = _declared(elf, btf)
    used: set[str] = set()
    kconfig: list[tuple[tuple[int, int, str], Extern]] = []
    ksyms: list[Extern] = []
    for index, symbol in undefined:
        where = declared.get(symbol.name)
        if where is None:
            what = f"extern {symbol.name!r} is in neither .ksyms nor .kconfig"
            raise elf.error(f"{what}; {_LINK}", ".BTF", 0)
        section, btf_id = where
        if symbol.name in used:
            raise elf.error(f"two externs {symbol.name!r}", section, 0)
        used.add(symbol.name)
        weak = symbol.bind == STB_WEAK
        var = btf.type(btf_id)
        if section == KSYMS:
            assert isinstance(var, (Var, Func))  # _declared lists nothing else
            ksyms.append(
                Extern(
                    symbol.name,
                    section,
                    weak,
                    btf_id,
                    btf.skip_mods_and_typedefs(var.type),
                    isinstance(var, Func),
                    index,
                )
            )
            continue
        if not isinstance(var, Var):
            raise elf.error(f"extern function {symbol.name!r} in .kconfig", section, 0)
        size, align = btf.sizeof(var.type), btf.alignof(var.type)
        if not 0 < size <= _MAX_SIZE:
            raise elf.error(f"extern {symbol.name!r} has a size of {size} bytes", section, 0)
        if _form(btf, var.type) is None:
            raise elf.error(
                f"extern {symbol.name!r} has a type unknown to kernel options", section, 0
            )
        kconfig.append(
            (
                (-align, size, symbol.name),
                Extern(
                    symbol.name, section, weak, btf_id, var.type, False, index, offset=0, size=size
                ),
            )
        )
    sections = {declared[name][0] for name in used}
    for name, (section, _) in declared.items():
        if name not in used and section in sections:
            raise elf.error(f"no symbol for extern {name!r}", section, 0)
    return [*_laid_out(kconfig), *sorted(ksyms, key=lambda extern: extern.name)]


def _laid_out(kconfig: list[tuple[tuple[int, int, str], Extern]]) -> Iterator[Extern]:
    # Offsets in the map's value, each aligned as its type requires.
    at = 0
    for (minus_align, _, _), extern in sorted(kconfig, key=lambda pair: pair[0]):
        at += -at % -minus_align
        yield replace(extern, offset=at)
        at += extern.size


def _declared(elf: ElfFile, btf: Btf) -> dict[str, tuple[str, int]]:
    # Returns (section, id of VAR or FUNC) of all extern declarations, by name.
    found: dict[str, tuple[str, int]] = {}
    for datasec_id in btf.ids(BtfKind.DATASEC):
        datasec = btf.type(datasec_id)
        if not isinstance(datasec, Datasec) or datasec.name not in (KCONFIG, KSYMS):
            continue
        for entry in datasec.entries:
            var = btf.type(entry.type)
            if not isinstance(var, (Var, Func)):
                raise elf.error("a member that is neither variable nor function", datasec.name, 0)
            if var.linkage == Linkage.EXTERN:
                found.setdefault(var.name, (datasec.name, entry.type))
    return found


def _form(btf: Btf, type_id: int) -> tuple[str, bool] | None:
    """Return (form of a kernel option that fits a C type, is it signed). None if none fits."""
    t = btf.type(btf.skip_mods_and_typedefs(type_id))
    if isinstance(t, Int):
        if t.is_bool:
            return ("bool", False) if t.size == 1 else None
        if t.size == 1:
            return "char", t.signed
        return ("int", t.signed) if t.size in _SIZES else None
    if isinstance(t, Enum):
        return ("tristate", False) if t.size == 4 and t.name == "libbpf_tristate" else None
    if isinstance(t, Enum64):
        return ("tristate", False) if t.name == "libbpf_tristate" else None
    if isinstance(t, Array) and t.nelems:
        element = _form(btf, t.type)
        return ("string", False) if element and element[0] == "char" else None
    return None


def kconfig_size(externs: Iterable[Extern]) -> int:
    """Return the size of the .kconfig map's value in bytes. 0 if there is no such extern."""
    return max((e.offset + e.size for e in externs if e.section == KCONFIG), default=0)


def kconfig_values(
    externs: Sequence[Extern],
    btf: Btf,
    config: Iterable[str],
    virtual: Mapping[str, int],
    unknown: str = "",
) -> bytes:
    """Make the contents of the .kconfig map.

    :param config: lines of a kernel configuration, ``CONFIG_X=y``; read only if needed
    :param virtual: values of ``LINUX_*`` names, e.g. ``LINUX_KERNEL_VERSION``
    :param unknown: why an option without a line is unknown; "" if it is not set
    :raises RelocationError: a strong extern has no value, or a value does not fit its type; or
        an option is unknown, weak or not: it is not taken for one that is not set
    """
    data = bytearray(kconfig_size(externs))
    options: dict[str, Extern] = {}
    for extern in externs:
        if extern.section != KCONFIG:
            continue
        if extern.name.startswith("CONFIG_"):
            options[extern.name] = extern
        elif extern.name in virtual:
            _store_number(data, btf, extern, virtual[extern.name])
        elif not (extern.weak and extern.name.startswith("LINUX_")):
            raise RelocationError(f"extern {extern.name!r} (.kconfig): unknown kconfig value")
    if options:
        for line in config:
            if not line.startswith("CONFIG_"):
                continue
            name, equals, value = line.rstrip("\n").partition("=")
            option = options.get(name) if equals and value else None
            if option is not None:
                _store_option(data, btf, option, value)
                del options[name]
    for extern in options.values():
        if unknown:
            raise RelocationError(
                f"extern {extern.name!r} (.kconfig): {unknown}; "
                "give pybpf.open(..., kconfig=FILE or {NAME: VALUE}) or --kconfig FILE"
            )
        if not extern.weak:
            raise RelocationError(
                f"extern {extern.name!r} (.kconfig): not set in this kernel's configuration; "
                "give pybpf.open(..., kconfig={NAME: VALUE}), or declare it __weak"
            )
    return bytes(data)


def _misfit(extern: Extern, value: object) -> RelocationError:
    return RelocationError(
        f"extern {extern.name!r} (.kconfig): {value!r} does not fit its type of {extern.size} "
        "bytes; declare another type, or give pybpf.open(..., kconfig={NAME: VALUE})"
    )


def _store_number(data: bytearray, btf: Btf, extern: Extern, value: int) -> None:
    form, signed = _form(btf, extern.type_id) or ("", False)
    bits = 8 * extern.size
    low, high = (-1 << bits - 1, 1 << bits - 1) if signed else (0, 1 << bits)
    if form == "bool":
        high = 2
    if form not in ("bool", "char", "int") or not low <= value < high:
        raise _misfit(extern, value)
    struct.pack_into(_SIZES[extern.size], data, extern.offset, value & (1 << bits) - 1)


def _store_option(data: bytearray, btf: Btf, extern: Extern, value: str) -> None:
    form, _ = _form(btf, extern.type_id) or ("", False)
    if value[0] == '"':
        text = value[1:-1].encode("utf-8", "surrogateescape")
        if form != "string" or len(value) < 2 or value[-1] != '"':
            raise _misfit(extern, value)
        # As in libbpf, a text that is too long is cut, and the NUL is kept.
        data[extern.offset : extern.offset + extern.size] = text[: extern.size - 1].ljust(
            extern.size, b"\0"
        )
    elif value in _TRISTATE:
        if form == "bool" and value != "m":
            data[extern.offset] = value == "y"
        elif form == "tristate":
            struct.pack_into(_SIZES[extern.size], data, extern.offset, _TRISTATE[value])
        elif form == "char":
            data[extern.offset] = ord(value)
        else:
            raise _misfit(extern, value)
    else:
        try:
            number = int(value, 0)
        except ValueError:
            raise _misfit(extern, value) from None
        if form == "bool":
            raise _misfit(extern, value)
        _store_number(data, btf, extern, number)
