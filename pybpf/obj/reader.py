"""From the bytes of an object file to its `ObjectSpec`.

One pass sorts the ELF sections by what they hold, as libbpf does: code, data,
map definitions, struct_ops, relocations. Debug information is not read
and unknown sections are skipped. Then symbols become functions, BTF describes
variables and maps, and relocations are resolved to map, function and extern
numbers. Everything that could make a later step fail on this file is checked
here, so a malformed file never gets past reading.

The result depends only on the bytes. The order of programs and maps, names and
numbers are libbpf's.
"""

from __future__ import annotations

from .. import log
from .._uapi.enums import MapFlag, MapType
from ..btf import Btf, Linkage, Struct, Var
from ..dataclass import replace
from ..elf import (
    SHF_EXECINSTR,
    SHT_NOBITS,
    SHT_NULL,
    SHT_PROGBITS,
    SHT_REL,
    SHT_STRTAB,
    SHT_SYMTAB,
    STB_LOCAL,
    STT_FUNC,
    STV_HIDDEN,
    STV_INTERNAL,
    ElfFile,
    Section,
    Symbol,
)
from ..errors import ObjectFormatError
from . import externs as ext
from . import mapdefs, relocs, sections
from .endian import is_big_endian, to_little_endian
from .spec import (
    KCONFIG,
    Extern,
    Function,
    MapSpec,
    ObjectSpec,
    ProgramSpec,
    Reloc,
    StructOpsSpec,
    VariableSpec,
)
from .variables import DataSection, place

__all__ = ["read_object"]

# UAPI bpf.h, flags of BPF_MAP_CREATE
# Plain numbers, as in a map definition.
BPF_F_RDONLY_PROG = int(MapFlag.BPF_F_RDONLY_PROG)
BPF_F_MMAPABLE = int(MapFlag.BPF_F_MMAPABLE)
BPF_F_LINK = int(MapFlag.BPF_F_LINK)

_STRUCT_OPS = frozenset({".struct_ops", ".struct_ops.link", "?.struct_ops", "?.struct_ops.link"})
_ARRAY = int(MapType.BPF_MAP_TYPE_ARRAY)
_ARENA, _JUMPTABLES = ".addr_space.1", ".jumptables"
_INT_MAX = 0x7FFFFFFF
# Of .bss sections that are longer in all, the later ones are not stored as zeros.
_MAX_ZEROS = 16 << 20
_LICENSE_LEN = 63
# How often the same code may be part of a function. Two or three names for one are common.
_MAX_ALIASES = 32


def read_object(
    data: bytes | bytearray | memoryview, name: str = "", *, legacy_maps: bool = False
) -> ObjectSpec:
    """Read what an object file asks for.

    :param data: the whole file
    :param name: file name; its stem becomes part of kernel map names
    :param legacy_maps: read ``struct bpf_map_def`` in sections ``maps``, ``maps/NAME`` and
        ``NAME/maps``, too, which libbpf has refused since 1.0
    :raises ObjectFormatError: not a BPF object, or a malformed one; it names file,
        section and offset
    """
    swapped = is_big_endian(data)
    if swapped:
        data = to_little_endian(data, name)
    reader = _Reader(ElfFile(data, name), legacy_maps)
    try:
        spec = reader.read()
        return replace(spec, big_endian=True) if swapped else spec
    except ObjectFormatError as err:
        err.file = err.file or name
        err.offset = err.offset or 0  # some errors in BTF have no offset
        raise


def _is_legacy(section: str) -> bool:
    return section == "maps" or section.startswith("maps/") or section.endswith("/maps")


class _Reader:
    def __init__(self, elf: ElfFile, legacy_maps: bool = False) -> None:
        self.elf = elf
        self.wants_legacy = legacy_maps
        self.legacy: list[Section] = []
        self.zeros = 0  # bytes of .bss so far
        self.license = ""
        self.version = 0
        self.text = self.maps_section = self.arena = self.jumptables = 0
        self.code: list[Section] = []
        self.data: dict[int, str] = {}  # "data", "rodata" or "bss" by section index
        self.struct_ops: list[Section] = []
        self.rels: list[Section] = []
        self.btf: Btf | None = None
        self.btf_section: Section | None = None
        self.has_btf_ext = False

    def read(self) -> ObjectSpec:
        elf = self.elf
        stored = sum(s.size for s in elf.sections if s.type not in (SHT_NOBITS, SHT_NULL))
        if stored > 2 * len(elf.data):
            raise elf.error(f"sections overlap: {stored} bytes in all", "ELF section headers", 0)
        if elf.symbol_section is None:
            raise elf.error("no symbol table (a stripped file?)", ".symtab", 0)
        for section in elf.sections[1:]:
            self.sort(section)
        functions = self.functions()
        self.btf = self.read_btf()
        externs = ext.collect(elf, self.btf)
        places = place(elf, self.btf) if self.btf is not None else {}
        programs = self.programs(functions)
        old = self.legacy_maps()
        maps, indexes = self.maps(places, externs, old)
        arena = next((i for i, m in enumerate(maps) if m.type == MapType.BPF_MAP_TYPE_ARENA), None)
        if self.arena and arena is None:
            raise elf.error("arena data without an arena map", _ARENA, 0)
        if arena is not None and self.arena:
            contents = bytes(elf.contents(elf.sections[self.arena]))
            maps[arena] = replace(maps[arena], initial=contents, data_section=_ARENA)
        found: dict[int, list[Reloc]] = {}
        index = relocs.FunctionIndex(functions)
        where = relocs.Places(
            elf,
            text=self.text,
            maps_section=self.maps_section,
            maps={offset: i for i, (offset, _, _, _) in enumerate(indexes)},
            data={s: i for i, s in enumerate(self._data_sections(), len(indexes) + len(old))},
            arena=(self.arena, arena),
            jumptables=self.jumptables,
            externs=externs,
            legacy={place: i for i, place in enumerate(old, len(indexes))},
        )
        for table in self.rels:
            if table.info == self.maps_section:
                maps = self.fill_slots(table, maps, indexes, programs)
            elif any(s.idx == table.info for s in self.struct_ops):
                maps = self.fill_struct_ops(table, maps, functions, index, programs, places)
            else:
                relocs.program_relocs(elf, table, functions, index, where, found)
        return ObjectSpec(
            elf.name,
            self.license,
            self.version,
            programs,
            {m.name: m for m in maps},
            self.variables(places, maps),
            self.btf,
            functions,
            # Also by kind: two relocations of one instruction make no sense, but need an order.
            {number: sorted(found[number]) for number in found},
            externs,
            places,
            elf,
        )

    # Sections.

    def sort(self, section: Section) -> None:
        """Record what a section holds."""
        name, kind = section.name, section.type
        if kind in (SHT_STRTAB, SHT_SYMTAB) or name.startswith(
            (".debug", ".rel.debug", ".rel.BTF")
        ):
            return
        if name == "license":
            text = bytes(self.elf.contents(section)[: _LICENSE_LEN + 1]).partition(b"\0")[0]
            self.license = text[:_LICENSE_LEN].decode("utf-8", "backslashreplace")
        elif name == "version":
            if section.size != 4 or kind == SHT_NOBITS:
                raise self.elf.error("not four bytes", name, 0)
            self.version = int.from_bytes(self.elf.contents(section), "little")
        elif self.wants_legacy and _is_legacy(name) and kind == SHT_PROGBITS:
            self.legacy.append(section)
        elif name == "maps":
            raise self.elf.error(
                "legacy map definitions (struct bpf_map_def): define maps in section '.maps',"
                f" or have these {relocs.ON_REQUEST}",
                name,
                0,
            )
        elif name == ".maps":
            self.maps_section = section.idx
        elif name in (".BTF", ".BTF.ext"):
            if kind != SHT_PROGBITS:
                raise self.elf.error(f"section of type {kind}", name, 0)
            if name == ".BTF":
                self.btf_section = section
            else:
                self.has_btf_ext = True
        elif kind == SHT_PROGBITS and section.size:
            self.sort_progbits(section)
        elif kind == SHT_REL:
            self.sort_relocations(section)
        elif (name == ".bss" or name.startswith(".bss.")) and kind == SHT_NOBITS and section.size:
            self.data[section.idx] = "bss"
        elif name:
            log.info("obj", "%s: section %r skipped", self.elf.name, name)

    def sort_progbits(self, section: Section) -> None:
        name = section.name
        if section.flags & SHF_EXECINSTR:
            if name == ".text":
                self.text = section.idx
            self.code.append(section)
        elif name == ".data" or name.startswith(".data."):
            self.data[section.idx] = "data"
        elif name == ".rodata" or name.startswith(".rodata."):
            self.data[section.idx] = "rodata"
        elif name in _STRUCT_OPS:
            self.struct_ops.append(section)
        elif name == _ARENA:
            self.arena = section.idx
        elif name == _JUMPTABLES:
            self.jumptables = section.idx
        else:
            log.info("obj", "%s: section %r skipped", self.elf.name, name)

    def sort_relocations(self, section: Section) -> None:
        if section.info >= len(self.elf.sections) or section.entsize != 16:
            raise self.elf.error("malformed relocation section", section.name, 0)
        target = self.elf.sections[section.info]
        # Data sections also have relocations, which mean nothing here.
        if target.flags & SHF_EXECINSTR or target.name == ".maps" or target.name in _STRUCT_OPS:
            self.rels.append(section)

    def _data_sections(self) -> list[int]:
        """List the indexes of the sections that become maps, in libbpf's order."""
        return sorted(self.data)

    # Code.

    def functions(self) -> tuple[Function, ...]:
        """List all functions, by section and offset."""
        elf = self.elf
        code = {section.idx: section for section in self.code}
        left = {index: _MAX_ALIASES * section.size for index, section in code.items()}
        functions = []
        for symbol in elf.symbols:
            section = code.get(symbol.shndx)
            if section is None or symbol.type != STT_FUNC:
                continue

            def error(what: str, at: int = symbol.value, where: str = section.name) -> Exception:
                return elf.error(what, where, at)

            end = symbol.value + symbol.size
            if end > section.size:
                raise error(f"function {symbol.name!r} ends after the section")
            if not symbol.size or symbol.size % 8 or symbol.value % 8:
                raise error(
                    f"function {symbol.name!r} has {symbol.size} bytes, which is not a multiple"
                    " of 8"
                )
            left[section.idx] -= symbol.size
            if left[section.idx] < 0:
                raise error(f"functions overlap: {_MAX_ALIASES} times as long as the section")
            is_global = symbol.bind != STB_LOCAL
            functions.append(
                Function(
                    symbol.name,
                    section.idx,
                    section.name,
                    symbol.value // 8,
                    symbol.size // 8,
                    is_global,
                    is_global and symbol.visibility in (STV_HIDDEN, STV_INTERNAL),
                    elf.contents(section)[symbol.value : end],
                )
            )
        functions.sort(key=lambda f: (f.section, f.start))
        return tuple(functions)

    def programs(self, functions: tuple[Function, ...]) -> dict[str, ProgramSpec]:
        """Return the entry programs: functions outside .text.

        Static functions there are programs too, as in cilium/ebpf. libbpf refuses such objects.
        """
        found: dict[str, ProgramSpec] = {}
        for function in functions:
            if function.section == self.text:
                continue
            if function.name in found:
                raise self.elf.error(
                    f"a second program {function.name!r}",
                    function.section_name,
                    8 * function.start,
                )
            section = function.section_name.removeprefix("?")
            known = sections.find(section)
            found[function.name] = ProgramSpec(
                function.name,
                section,
                known.type if known else 0,
                known.attach_type if known else 0,
                known.prog_flags if known else 0,
                section.partition("/")[2],
                autoload=not function.section_name.startswith("?"),
                autoattach=known is not None and known.auto,
                insn_cnt=function.count,
                sec_def=known,
                function=function,
            )
        return found

    # BTF, maps, variables.

    def read_btf(self) -> Btf | None:
        section = self.btf_section
        if section is not None:
            return Btf(self.elf.contents(section), name=self.elf.name)
        needs = "BTF (compile with -g), which the object does not have"
        if self.maps_section:
            raise self.elf.error(f"map definitions need {needs}", ".maps", 0)
        if self.struct_ops:
            raise self.elf.error(f"struct_ops need {needs}", self.struct_ops[0].name, 0)
        if self.has_btf_ext:
            raise self.elf.error(f"relocations need {needs}", ".BTF.ext", 0)
        return None

    def legacy_maps(self) -> dict[tuple[int, int], MapSpec]:
        """Maps defined as ``struct bpf_map_def``, by (index of the section, offset)."""
        found: dict[tuple[int, int], MapSpec] = {}
        for section in self.legacy:
            own = sorted(
                (s for s in self.elf.symbols if s.shndx == section.idx and s.name),
                key=lambda symbol: symbol.value,
            )
            if not own:
                raise self.elf.error("legacy maps without a symbol", section.name, 0)
            ends = [*(symbol.value for symbol in own[1:]), section.size]
            for symbol, end in zip(own, ends, strict=True):
                size = symbol.size or end - symbol.value
                definition = self.elf.contents(section)[symbol.value : symbol.value + size]

                def error(
                    what: str, symbol: Symbol = symbol, section: Section = section
                ) -> ObjectFormatError:
                    text = f"legacy map {symbol.name!r}: {what}"
                    return self.elf.error(text, section.name, symbol.value)

                found[section.idx, symbol.value] = mapdefs.parse_legacy(
                    symbol.name, section.name, bytes(definition), error
                )
        return found

    def maps(
        self,
        places: dict[str, DataSection],
        externs: list[Extern],
        old: dict[tuple[int, int], MapSpec],
    ) -> tuple[list[MapSpec], list[tuple[int, int, int, MapSpec]]]:
        """Return all maps by index, and (offset, size, id of the definition, map) of .maps."""
        defined = self.user_maps(places)
        maps = [*(spec for _, _, _, spec in defined), *old.values()]
        names = {spec.name for spec in maps}
        for section_index in self._data_sections():
            maps.append(self.data_map(section_index, places, names))
            names.add(maps[-1].name)
        size = ext.kconfig_size(externs)
        if size:
            described = places.get(KCONFIG)
            maps.append(
                MapSpec(
                    KCONFIG,
                    _ARRAY,
                    4,
                    size,
                    1,
                    map_flags=BPF_F_RDONLY_PROG | BPF_F_MMAPABLE,
                    value_type_id=described.type_id if described else 0,
                    section=KCONFIG,
                    data="kconfig",
                )
            )
        maps += self.struct_ops_maps(places)
        seen: set[str] = set()
        for spec in maps:
            if spec.name in seen:
                raise self.elf.error(f"a second map {spec.name!r}", spec.section, 0)
            seen.add(spec.name)
        return maps, defined

    def user_maps(self, places: dict[str, DataSection]) -> list[tuple[int, int, int, MapSpec]]:
        if not self.maps_section or self.btf is None:
            return []
        described = places.get(".maps")
        if described is None:
            raise self.elf.error("BTF does not describe the maps", ".maps", 0)
        btf = self.btf
        return [self.user_map(btf, e.var, e.offset, e.size) for e in described.entries]

    def user_map(self, btf: Btf, var: Var, offset: int, size: int) -> tuple[int, int, int, MapSpec]:
        def error(what: str) -> ObjectFormatError:
            return self.elf.error(f"map {var.name!r}: {what}", ".maps", offset)

        if not var.name:
            raise error("the map has no name")
        if offset + size > self.elf.sections[self.maps_section].size:
            raise error("ends after the section")
        if var.linkage != Linkage.GLOBAL:
            raise error("static and extern maps are not supported")
        definition_id = btf.skip_mods_and_typedefs(var.type)
        definition = btf.type(definition_id)
        if not isinstance(definition, Struct):
            raise error("the definition is not a struct")
        if definition.size > size:
            raise error("the definition is larger than the variable")
        return offset, size, definition_id, mapdefs.parse(btf, var.name, definition, error)

    def data_map(
        self, section_index: int, places: dict[str, DataSection], taken: set[str]
    ) -> MapSpec:
        section = self.elf.sections[section_index]
        kind = self.data[section_index]
        if section.size > _INT_MAX:
            raise self.elf.error(f"{section.size} bytes do not fit in a map", section.name, 0)
        described = places.get(section.name)
        initial: bytes | None = bytes(self.elf.contents(section))
        if kind == "bss":
            self.zeros += section.size
            initial = bytes(section.size) if self.zeros <= _MAX_ZEROS else None
        flags = BPF_F_RDONLY_PROG if kind == "rodata" else 0
        if described is not None and described.has_visible:
            flags |= BPF_F_MMAPABLE
        return MapSpec(
            # Two sections may share a name, e.g. .rodata.cst16 with different flags.
            section.name if section.name not in taken else f"{section.name}#{section_index}",
            _ARRAY,
            4,
            section.size,
            1,
            map_flags=flags,
            value_type_id=described.type_id if described else 0,
            initial=initial,
            section=section.name,
            data=kind,
        )

    def struct_ops_maps(self, places: dict[str, DataSection]) -> list[MapSpec]:
        found = []
        for section in self.struct_ops:
            described = places.get(section.name)
            if described is None or self.btf is None:
                raise self.elf.error("BTF does not describe the variables", section.name, 0)
            contents = self.elf.contents(section)
            for entry in described.entries:
                type_id = self.btf.skip_mods_and_typedefs(entry.var.type)
                t = self.btf.type(type_id)
                if not isinstance(t, Struct) or not t.name:
                    raise self.elf.error(
                        f"{entry.var.name!r} is not a named struct", section.name, entry.offset
                    )
                if entry.offset + t.size > section.size:
                    raise self.elf.error(
                        f"{entry.var.name!r} ends after the section", section.name, entry.offset
                    )
                link = section.name.endswith(".link")
                found.append(
                    MapSpec(
                        entry.var.name,
                        int(MapType.BPF_MAP_TYPE_STRUCT_OPS),
                        4,
                        t.size,
                        1,
                        map_flags=BPF_F_LINK if link else 0,
                        value_type_id=type_id,
                        section=section.name,
                        struct_ops=StructOpsSpec(
                            type_id,
                            t.name,
                            bytes(contents[entry.offset : entry.offset + t.size]),
                            {},
                            link,
                        ),
                        autocreate=not section.name.startswith("?"),
                    )
                )
        return found

    def fill_slots(
        self,
        table: Section,
        maps: list[MapSpec],
        defined: list[tuple[int, int, int, MapSpec]],
        programs: dict[str, ProgramSpec],
    ) -> list[MapSpec]:
        if self.btf is None:
            return maps
        slots = relocs.slots(self.elf, self.btf, table, defined, programs, self.maps_section)
        return [replace(m, slots=tuple(slots[m.name])) if m.name in slots else m for m in maps]

    def fill_struct_ops(
        self,
        table: Section,
        maps: list[MapSpec],
        functions: tuple[Function, ...],
        index: relocs.FunctionIndex,
        programs: dict[str, ProgramSpec],
        places: dict[str, DataSection],
    ) -> list[MapSpec]:
        section = self.elf.sections[table.info].name
        described = places.get(section)
        if self.btf is None or described is None:
            return maps
        offsets = {entry.var.name: entry.offset for entry in described.entries}
        own = [(offsets[m.name], m) for m in maps if m.section == section]
        funcs = relocs.struct_ops_funcs(self.elf, self.btf, table, own, functions, index, programs)
        return [
            replace(m, struct_ops=replace(m.struct_ops, funcs=funcs[m.name]))
            if m.struct_ops is not None and m.name in funcs
            else m
            for m in maps
        ]

    def variables(
        self, places: dict[str, DataSection], maps: list[MapSpec]
    ) -> dict[str, VariableSpec]:
        """Return global variables by name. Of several static ones with one name, the first."""
        visible: dict[str, VariableSpec] = {}
        hidden: dict[str, VariableSpec] = {}
        for spec in maps:
            described = places.get(spec.section)
            if not spec.data or described is None or spec.section == KCONFIG:
                continue
            for entry in described.entries:
                into = hidden if entry.static else visible
                into.setdefault(
                    entry.var.name,
                    VariableSpec(
                        entry.var.name,
                        spec.name,
                        entry.offset,
                        entry.size,
                        entry.var.type,
                        entry.static,
                    ),
                )
        return {**hidden, **visible}
