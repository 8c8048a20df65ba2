"""Blueprints: what an object file asks for, as values.

The same file gives the same `ObjectSpec` on every machine. Nothing here depends on
a kernel. Programs and maps are in libbpf's order. Programs come by section index
and offset. Maps come as `.maps` lists them in BTF, then one per data section, then
`.kconfig`, then struct_ops. A map reference in relocated code is an index into
that order.
"""

from __future__ import annotations

from functools import cached_property

from .._uapi.defines import BPF_OBJ_NAME_LEN
from .._uapi.enums import AttachType, MapType, ProgType
from ..dataclass import dataclass, field
from ..errors import ObjectFormatError
from ..namedtuple import NamedTuple
from ..wording import uapi_word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..btf import Btf
    from ..btf.ext import BtfExt
    from ..elf import ElfFile
    from .sections import SectionDef
    from .variables import DataSection

__all__ = [
    "KCONFIG",
    "KSYMS",
    "Extern",
    "Function",
    "MapSpec",
    "ObjectSpec",
    "ProgramSpec",
    "Reloc",
    "StructOpsSpec",
    "VariableSpec",
    "object_name",
]

#: Sections of externs.
KCONFIG, KSYMS = ".kconfig", ".ksyms"


# What a relocated instruction refers to (Reloc.kind).
R_MAP = 0  # ldimm64: map `number`
R_DATA = 1  # ldimm64: `offset` bytes into the value of map `number`
R_EXTERN = 2  # ldimm64: extern `number`
R_KFUNC = 3  # call: extern `number`
R_CALL = 4  # call: function at byte `offset` (+ imm) of .text
R_FUNC = 5  # ldimm64: address of the function at byte `offset` (+ imm) of .text
R_JUMPTABLE = 6  # ldimm64: jump table at byte `offset` of .jumptables


def object_name(file: str) -> str:
    """Return libbpf's name of an object: the file name up to its first dot, at most 15
    characters."""
    return _cut(file.rpartition("/")[2].partition(".")[0], BPF_OBJ_NAME_LEN - 1)


def _cut(text: str, size: int) -> str:
    # The kernel counts bytes. An incomplete character at the end is dropped.
    return text.encode("utf-8", "surrogateescape")[:size].decode("utf-8", "ignore")


class Reloc(NamedTuple):  # a tuple, because an object may have thousands
    """Describe a relocated instruction: its slot, what it refers to (R_*), and where."""

    insn: int
    kind: int
    number: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Function:
    """Describe a function symbol in an executable section.

    :param section: index of the ELF section
    :param start: first instruction in that section, 8-byte slots
    :param count: number of instructions, 8-byte slots
    :param is_global: has global or weak binding
    :param hidden: global, but with restricted visibility: BTF calls it static
    """

    name: str
    section: int
    section_name: str
    start: int
    count: int
    is_global: bool
    hidden: bool
    code: memoryview = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """Describe an entry program.

    :param section: section name without a leading "?"
    :param type: ``enum bpf_prog_type``, 0 if the section name is unknown
    :param expected_attach_type: ``enum bpf_attach_type``
    :param flags: ``bpf_attr.prog_flags`` the section name asks for
    :param attach_to: the part after the first "/" of the section name, or ""
    :param autoload: False for ``SEC("?...")``
    :param autoattach: the section name says all that attaching needs
    :param insn_cnt: own instructions, before subprograms are appended
    :param sec_def: None if the section name is unknown
    """

    name: str
    section: str
    type: int
    expected_attach_type: int
    flags: int
    attach_to: str
    autoload: bool
    autoattach: bool
    insn_cnt: int
    sec_def: SectionDef | None
    function: Function = field(repr=False)

    @property
    def sleepable(self) -> bool:
        """Return True if it loads with BPF_F_SLEEPABLE."""
        return self.sec_def is not None and self.sec_def.sleepable

    @property
    def type_name(self) -> str:
        """Return its type as a word: ``kprobe``, ``xdp``... "" if it is unknown."""
        return uapi_word(ProgType, "BPF_PROG_TYPE_", self.type) if self.type else ""

    @property
    def attach_type_name(self) -> str:
        """Return its attach type as a word: ``trace_fentry``... "" if it has none."""
        # 0 is the attach type of only one type of program. The others have none then.
        if not self.expected_attach_type and self.type != ProgType.BPF_PROG_TYPE_CGROUP_SKB:
            return ""
        return uapi_word(AttachType, "BPF_", self.expected_attach_type)


@dataclass(frozen=True, slots=True)
class StructOpsSpec:
    """Hold the contents of a struct_ops map as in the object file.

    :param type_id: the struct, in the object's BTF
    :param funcs: program name by member name
    :param link: from `.struct_ops.link`: attached by a link
    """

    type_id: int
    type_name: str
    data: bytes
    funcs: Mapping[str, str]
    link: bool


@dataclass(frozen=True, slots=True)
class MapSpec:
    """Describe a map to create.

    :param type: ``enum bpf_map_type``
    :param key_size: bytes
    :param value_size: bytes
    :param max_entries: 0 if the loader decides (perf event arrays)
    :param map_flags: ``BPF_F_*``
    :param pinning: 0 no, 1 by name (``LIBBPF_PIN_BY_NAME``)
    :param key_type_id: id in the object's BTF, 0 if not known
    :param value_type_id: id in the object's BTF, 0 if not known
    :param inner: what the maps in a map of maps look like
    :param initial: contents of a data section's only element, or what an arena starts with;
        None for other maps and for zeros of more than 16 MiB
    :param section: ELF section that defines it
    :param data: "data", "rodata", "bss" or "kconfig" for a data section's map, else ""
    :param slots: initial (index, name of map or program) of a map of maps or a program array
    :param autocreate: False for ``SEC("?.struct_ops")``
    :param data_section: of an arena: the section with its variables, or ""
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0
    numa_node: int = 0
    map_extra: int = 0
    pinning: int = 0
    key_type_id: int = 0
    value_type_id: int = 0
    inner: MapSpec | None = None
    initial: bytes | None = field(default=None, repr=False)
    section: str = ""
    data: str = ""
    slots: tuple[tuple[int, str], ...] = ()
    struct_ops: StructOpsSpec | None = None
    autocreate: bool = True
    data_section: str = ""

    @property
    def type_name(self) -> str:
        """Return its type as a word: ``hash``, ``ringbuf``..."""
        return uapi_word(MapType, "BPF_MAP_TYPE_", self.type)

    @property
    def is_internal(self) -> bool:
        """Return True if it holds a data section."""
        return bool(self.data)

    def kernel_name(self, obj_name: str) -> str:
        """Return the name libbpf gives the map in the kernel, at most 15 characters.

        A data section's map is called after object and section. At least seven
        characters are kept for the section, and the object gets what is left of
        15. It gets nothing if the section name has a second dot.

        :param obj_name: see `object_name`
        """
        room = BPF_OBJ_NAME_LEN - 1
        if not self.data:
            return _cut(self.name, room)
        section = self.section or self.name
        suffix = _cut(section, room)
        prefix = "" if "." in section[1:] else _cut(obj_name, room - max(7, len(suffix)))
        return "".join(
            c if c in "_." or (c.isascii() and c.isalnum()) else "_" for c in prefix + suffix
        )


@dataclass(frozen=True, slots=True)
class VariableSpec:
    """Describe a global variable in a data section.

    :param map: key of its map in `ObjectSpec.maps`
    :param offset: bytes into the map's value
    :param size: bytes
    :param type_id: its type in the object's BTF
    :param static: not visible outside its C file
    """

    name: str
    map: str
    offset: int
    size: int
    type_id: int
    static: bool = False


@dataclass(frozen=True, slots=True)
class Extern:
    """Describe a symbol that the kernel, or what is known about it, must provide.

    :param section: ".ksyms" or ".kconfig"
    :param weak: may stay unresolved
    :param btf_id: VAR or FUNC in the object's BTF
    :param type_id: .ksyms: type behind modifiers; 0 for ``void``, an address from kallsyms
    :param is_func: a kfunc
    :param offset: .kconfig: bytes into the map's value
    :param size: .kconfig: bytes
    :param symbol: index of its ELF symbol
    """

    name: str
    section: str
    weak: bool
    btf_id: int
    type_id: int
    is_func: bool
    symbol: int
    offset: int = 0
    size: int = 0


@dataclass(frozen=True)
class ObjectSpec:
    """Hold what one object file asks for.

    :param name: file name as the caller gave it
    :param license: "" if the object has none
    :param version: the ``version`` section, 0 if the object has none
    :param programs: by name
    :param maps: by name; a data section's map by section name
    :param variables: by name
    :param btf: the object's BTF as the file has it
    :param functions: all functions, programs and subprograms, by section and offset
    :param relocs: relocations by number of the function, sorted by instruction
    :param externs: .kconfig first, then .ksyms, in libbpf's order
    :param data_sections: BTF's DATASECs by name, completed from ELF
    :param big_endian: the file was of that byte order: it can be inspected, not loaded
    """

    name: str
    license: str
    version: int
    programs: Mapping[str, ProgramSpec]
    maps: Mapping[str, MapSpec]
    variables: Mapping[str, VariableSpec]
    btf: Btf | None
    functions: Sequence[Function] = field(default=(), repr=False)
    relocs: Mapping[int, Sequence[Reloc]] = field(default_factory=dict, repr=False)
    externs: Sequence[Extern] = field(default=(), repr=False)
    data_sections: Mapping[str, DataSection] = field(default_factory=dict, repr=False)
    elf: ElfFile | None = field(default=None, repr=False, compare=False)
    big_endian: bool = False

    @property
    def object_name(self) -> str:
        """Return libbpf's name of the object, the prefix of data section maps in the kernel."""
        return object_name(self.name)

    @cached_property
    def map_names(self) -> tuple[str, ...]:
        """Return the names of the maps by index."""
        return tuple(self.maps)

    @cached_property
    def btf_ext(self) -> BtfExt | None:
        """Return `.BTF.ext`. It is read on first use.

        :raises ObjectFormatError: if it is malformed
        """
        from ..btf.ext import BtfExt

        section = self.elf.find(".BTF.ext") if self.elf else None
        if self.elf is None or section is None or self.btf is None:
            return None
        try:
            return BtfExt(self.elf.contents(section), self.btf)
        except ObjectFormatError as err:
            err.file = err.file or self.name
            raise

    @property
    def needs_kernel_btf(self) -> bool:
        """Tell whether linking looks anything up in the kernel's BTF.

        :raises ObjectFormatError: if `.BTF.ext` is malformed
        """
        if self.btf is None:
            return False
        if any(extern.section == KSYMS for extern in self.externs):
            return True
        return self.btf_ext is not None and bool(self.btf_ext.core_relos)

    @cached_property
    def text(self) -> int:
        """Return the index of the section that holds subprograms, 0 if there is none."""
        for function in self.functions:
            if function.section_name == ".text":
                return function.section
        return 0

    def btf_for_load(self) -> bytes | None:
        """Return the object's BTF for BPF_BTF_LOAD, completed where the compiler could not.

        :raises ObjectFormatError: if it cannot be completed
        """
        from ..btf.encode import fixup_for_load

        if self.btf is None:
            return None
        places = [(name, e) for name, s in self.data_sections.items() for e in s.entries]
        return fixup_for_load(
            self.btf,
            {name: section.size for name, section in self.data_sections.items()},
            {(name, entry.var.name): entry.offset for name, entry in places},
            static_vars={e.var.name for _, e in places if e.static and e.var.linkage},
            static_funcs={f.name for f in self.functions if f.hidden},
        )
