"""Relocation records: which instruction, map slot or struct_ops member refers to what.

clang writes a reference to one of its global symbols as that symbol. For anything
static it uses the section's symbol plus an offset in the instruction. Both become
"map number N", "function at offset O of .text" or "extern number N" here.
The relocation type field adds nothing and is ignored, as in libbpf.
"""

from __future__ import annotations

from bisect import bisect_right

from .._uapi.defines import BPF_PSEUDO_CALL
from .._uapi.enums import MapType, ProgType
from ..asm.opcodes import CALL, JMP, LDIMM64
from ..btf import Btf, FuncProto, Ptr, Struct
from ..elf import (
    SHN_LORESERVE,
    STB_GLOBAL,
    STB_WEAK,
    STT_FUNC,
    STT_SECTION,
    ElfFile,
    Rel,
    Section,
    Symbol,
)
from ..wording import many
from .externs import is_extern
from .maptypes import OUTER
from .spec import (
    R_CALL,
    R_DATA,
    R_EXTERN,
    R_FUNC,
    R_JUMPTABLE,
    R_KFUNC,
    R_MAP,
    Extern,
    Function,
    MapSpec,
    ProgramSpec,
    Reloc,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..errors import ObjectFormatError

__all__ = ["ON_REQUEST", "FunctionIndex", "Places", "program_relocs", "slots", "struct_ops_funcs"]

_CALL_CODE = JMP | CALL


class FunctionIndex:
    """Find the function that contains an instruction.

    :param functions: by section, then start
    """

    def __init__(self, functions: Sequence[Function]) -> None:
        self._keys = [(f.section, f.start) for f in functions]
        self._functions = functions

    def end(self, number: int) -> int:
        """Return the first instruction after a function, or the next function's if that is
        earlier."""
        function = self._functions[number]
        end = function.start + function.count
        if number + 1 < len(self._keys):
            section, start = self._keys[number + 1]
            if section == function.section and function.start < start < end:
                return start
        return end

    def find(self, section: int, insn: int) -> int | None:
        """Find the index of the function with an instruction of a section, None if there is
        none."""
        at = bisect_right(self._keys, (section, insn)) - 1
        if at < 0:
            return None
        found = self._functions[at]
        if found.section != section or insn >= found.start + found.count:
            return None
        return at


#: How legacy map definitions are read all the same.
ON_REQUEST = "read with pybpf.open(..., legacy_maps=True) or --legacy-maps"


class Places:
    """Tell where the things that relocations refer to are.

    :param text: index of section .text, 0 if there is none
    :param maps_section: index of section .maps, 0 if there is none
    :param maps: map number by offset in .maps
    :param data: map number by index of a data section
    :param arena: (index of the arena's data section, map number)
    :param jumptables: index of section .jumptables, 0 if there is none
    :param externs: extern number by symbol index
    :param legacy: map number by (index of its section, offset there), of legacy definitions
    """

    def __init__(
        self,
        elf: ElfFile,
        *,
        text: int,
        maps_section: int,
        maps: Mapping[int, int],
        data: Mapping[int, int],
        arena: tuple[int, int | None],
        jumptables: int,
        externs: Sequence[Extern],
        legacy: Mapping[tuple[int, int], int],
    ) -> None:
        self._legacy = legacy
        self._elf = elf
        self._text = text
        self._maps_section = maps_section
        self._maps = maps
        self._data = data
        self._arena_section, self._arena_map = arena
        self._jumptables = jumptables
        self._externs = {extern.symbol: i for i, extern in enumerate(externs)}
        # The meaning of a symbol depends only on the opcode of the instruction.
        self._calls: dict[int, tuple[int, int, int]] = {}
        #: What `load` has answered so far.
        self.loads: dict[int, tuple[int, int, int]] = {}

    def call(self, number: int, section: str, where: int) -> tuple[int, int, int]:
        """Return what a call refers to: (R_* kind, number, offset).

        :param number: number of the symbol
        :param section: name of the code's section, for messages
        :param where: byte offset there, for messages
        :raises ObjectFormatError: the called thing makes no sense
        """
        known = self._calls.get(number)
        if known is not None:
            return known
        symbol = symbol_of(self._elf, section, number, where)
        if is_extern(symbol):
            known = R_KFUNC, self._extern(number, section, where), 0
        elif not self._text or symbol.shndx != self._text or symbol.value % 8:
            raise self._error(section, where, "calls something outside .text", symbol)
        else:
            known = R_CALL, 0, symbol.value
        self._calls[number] = known
        return known

    def load(self, number: int, section: str, where: int) -> tuple[int, int, int]:
        """Return what a 64-bit load refers to: (R_* kind, number, offset); see `call`."""
        symbol = symbol_of(self._elf, section, number, where)
        if is_extern(symbol):
            found = R_EXTERN, self._extern(number, section, where), 0
        else:
            found = self._load(symbol, section, where)
        self.loads[number] = found
        return found

    def _extern(self, number: int, section: str, where: int) -> int:
        found = self._externs.get(number)
        if found is None:
            symbol = self._elf.symbols[number]
            raise self._error(section, where, "refers to an undeclared extern", symbol)
        return found

    def _load(self, symbol: Symbol, section: str, where: int) -> tuple[int, int, int]:
        target = symbol.shndx
        if not target or target >= SHN_LORESERVE:
            raise self._error(section, where, "refers to an undefined variable", symbol)
        if target == self._text and self._is_function(symbol):
            if symbol.value % 8:
                raise self._error(section, where, "points into an instruction", symbol)
            return R_FUNC, 0, symbol.value
        if target == self._arena_section:
            if self._arena_map is None:
                raise self._error(section, where, "arena data without an arena map", symbol)
            return R_DATA, self._arena_map, symbol.value
        if target == self._jumptables:
            return R_JUMPTABLE, 0, symbol.value
        number = self._data.get(target)
        if number is not None:
            return R_DATA, number, symbol.value
        number = self._legacy.get((target, symbol.value))
        if number is not None:
            return R_MAP, number, 0
        name = self._elf.sections[target].name
        if target != self._maps_section:
            if name.startswith("maps/") or name.endswith("/maps"):
                what = f"legacy map definition in section {name!r} ({ON_REQUEST})"
            else:
                what = f"refers to section {name!r}"
            raise self._error(section, where, what, symbol)
        number = self._maps.get(symbol.value)
        if number is None:
            raise self._error(section, where, "does not refer to a map of .maps", symbol)
        return R_MAP, number, 0

    @staticmethod
    def _is_function(symbol: Symbol) -> bool:
        return symbol.type == STT_SECTION or (
            symbol.type == STT_FUNC and symbol.bind in (STB_GLOBAL, STB_WEAK)
        )

    def _error(self, section: str, where: int, what: str, symbol: Symbol) -> ObjectFormatError:
        against = f" (symbol {symbol.name!r})" if symbol.name else ""
        return self._elf.error(f"relocation: {what}{against}", section, where)


def symbol_of(elf: ElfFile, section: str, number: int, where: int) -> Symbol:
    """Return the symbol of a relocation.

    :raises ObjectFormatError: the symbol does not exist, or it is in no section of the file
    """
    if number >= len(elf.symbols):
        raise elf.error(f"relocation against symbol {number}, which does not exist", section, where)
    symbol = elf.symbols[number]
    if symbol.shndx >= len(elf.sections):
        raise elf.error(
            f"relocation against {symbol.name!r} in section {symbol.shndx:#x}", section, where
        )
    return symbol


def program_relocs(
    elf: ElfFile,
    table: Section,
    functions: Sequence[Function],
    index: FunctionIndex,
    places: Places,
    found: dict[int, list[Reloc]],
) -> None:
    """Add the relocations of one code section to `found`, by function number."""
    section = elf.sections[table.info]
    name, size, code = section.name, section.size, elf.contents(section)
    first = end = 0  # instructions of the function of the previous relocation
    into: list[Reloc] = []
    loads = places.loads
    for offset, _, symbol in elf.relocation_rows(table):
        if offset % 8 or offset >= size:
            raise elf.error("relocation outside the instructions", name, offset)
        insn = offset // 8
        if not first <= insn < end:
            number = index.find(table.info, insn)
            if number is None:
                symbol_of(elf, name, symbol, offset)
                continue  # code of a weak function that a linker replaced
            first, end = functions[number].start, index.end(number)
            into = found.setdefault(number, [])
        opcode = code[offset]
        if opcode == LDIMM64:
            kind, what, at = loads.get(symbol) or places.load(symbol, name, offset)
            if insn + 1 == end:
                raise elf.error("relocation of half an instruction", name, offset)
            if kind == R_FUNC and code[offset + 4] % 8:
                raise elf.error("relocation into an instruction", name, offset)
        elif opcode == _CALL_CODE:
            kind, what, at = places.call(symbol, name, offset)
            if kind == R_CALL and code[offset + 1] >> 4 != BPF_PSEUDO_CALL:
                raise elf.error("relocation of a helper call", name, offset)
        else:
            raise elf.error(f"relocation of opcode {opcode:#04x}", name, offset)
        into.append(Reloc(insn - first, kind, what, at))


def slots(
    elf: ElfFile,
    btf: Btf,
    table: Section,
    maps: Sequence[tuple[int, int, int, MapSpec]],
    programs: Mapping[str, ProgramSpec],
    maps_section: int,
) -> dict[str, list[tuple[int, str]]]:
    """Find the initial values in .maps: inner maps and programs by slot.

    :param maps: (offset, size, type id of the definition, map) of every map in .maps
    :return: (slot, name of map or program) by map name
    """
    found: dict[str, dict[int, str]] = {}
    names = {spec.name for _, _, _, spec in maps}
    programs_at = {(p.function.section, 8 * p.function.start): p for p in programs.values()}
    for rel in elf.relocations(table):
        symbol = symbol_of(elf, ".maps", rel.symbol, rel.offset)

        def error(what: str, rel: Rel = rel) -> ObjectFormatError:
            return elf.error(f"initial value of a map: {what}", ".maps", rel.offset)

        holder = next(
            (m for m in maps if m[0] <= rel.offset and rel.offset + 8 <= m[0] + m[1]), None
        )
        if holder is None:
            raise error("is not in a map")
        start, _, definition_id, spec = holder
        program: ProgramSpec | None = None
        if spec.type in OUTER:
            if symbol.shndx != maps_section or symbol.name not in names:
                raise error(f"{symbol.name!r} is not a map of section .maps")
            if spec.type == MapType.BPF_MAP_TYPE_HASH_OF_MAPS and spec.key_size != 4:
                raise error(f"{spec.name!r} has keys of {many(spec.key_size, 'byte')}, not 4")
        elif spec.type == MapType.BPF_MAP_TYPE_PROG_ARRAY:
            program = programs_at.get(_pointed_to(elf, table, rel, symbol))
            if program is None:
                raise error(f"{symbol.name!r} is not a program")
        else:
            raise error(f"{spec.name!r} holds neither maps nor programs")
        definition = btf.type(definition_id)
        last = definition.members[-1] if isinstance(definition, Struct) else None
        if last is None or last.name != "values":
            raise error(f"{spec.name!r} has no member 'values'")
        at = rel.offset - start - last.bit_offset // 8
        if at < 0 or at % 8:
            raise error(f"is outside 'values' of {spec.name!r}")
        found.setdefault(spec.name, {})[at // 8] = symbol.name if program is None else program.name
    return {name: sorted(values.items()) for name, values in found.items()}


def _pointed_to(elf: ElfFile, table: Section, rel: Rel, symbol: Symbol) -> tuple[int, int]:
    # The section and byte offset that a 64-bit pointer in a data section leads to. Pointers to
    # static functions refer to the section, and the data hold the offset in it.
    if symbol.type != STT_SECTION:
        return symbol.shndx, symbol.value
    data = elf.contents(elf.sections[table.info])
    return symbol.shndx, int.from_bytes(data[rel.offset : rel.offset + 8], "little")


def struct_ops_funcs(
    elf: ElfFile,
    btf: Btf,
    table: Section,
    maps: Sequence[tuple[int, MapSpec]],
    functions: Sequence[Function],
    index: FunctionIndex,
    programs: Mapping[str, ProgramSpec],
) -> dict[str, dict[str, str]]:
    """Find programs that struct_ops maps point to: program name by member name, by map name.

    :param maps: (offset in the section, map) of every map of the section
    """
    found: dict[str, dict[str, str]] = {}
    section = elf.sections[table.info].name
    for rel in elf.relocations(table):
        symbol = symbol_of(elf, section, rel.symbol, rel.offset)
        holder = next((m for m in maps if m[0] <= rel.offset < m[0] + m[1].value_size), None)
        if holder is None:
            raise elf.error("a pointer outside the struct_ops variables", section, rel.offset)
        start, spec = holder
        struct = btf.type(spec.value_type_id)
        members = struct.members if isinstance(struct, Struct) else ()
        bit = 8 * (rel.offset - start)
        member = next((m for m in members if m.bit_offset == bit), None)
        if member is None or not _points_to_function(btf, member.type):
            raise elf.error(f"not a function pointer of {spec.name!r}", section, rel.offset)
        into, at = _pointed_to(elf, table, rel, symbol)
        number = index.find(into, at // 8)
        program = programs.get(functions[number].name) if number is not None else None
        if at % 8 or program is None or program.type != ProgType.BPF_PROG_TYPE_STRUCT_OPS:
            raise elf.error(
                f"member {member.name!r} points to {symbol.name!r}, not a struct_ops program",
                section,
                rel.offset,
            )
        found.setdefault(spec.name, {})[member.name] = program.name
    return found


def _points_to_function(btf: Btf, type_id: int) -> bool:
    pointer = btf.type(btf.skip_mods_and_typedefs(type_id))
    return isinstance(pointer, Ptr) and isinstance(
        btf.type(btf.skip_mods_and_typedefs(pointer.type)), FuncProto
    )
