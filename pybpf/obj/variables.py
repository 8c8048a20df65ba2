"""Where global variables are: DATASEC records completed from ELF symbols.

clang does not write the sizes of sections and the offsets of global variables into BTF.
The ELF file has both. Files that went through a linker are already complete,
which a non-zero section size shows.
"""

from __future__ import annotations

from operator import itemgetter

from ..btf import Btf, BtfKind, Datasec, Linkage, Var
from ..dataclass import dataclass
from ..elf import STB_GLOBAL, STB_WEAK, STT_OBJECT, STV_HIDDEN, STV_INTERNAL, ElfFile
from ..namedtuple import NamedTuple
from ..wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..elf import Symbol

__all__ = ["DataSection", "Placed", "place"]

EXTERN_SECTIONS = frozenset({".kconfig", ".ksyms"})


class Placed(NamedTuple):
    """Describe a variable of a DATASEC: ``offset`` and ``size`` in bytes."""

    offset: int
    size: int
    var: Var
    static: bool


@dataclass(frozen=True, slots=True)
class DataSection:
    """Hold a DATASEC with everything filled in.

    :param type_id: the DATASEC in the object's BTF
    :param size: bytes
    :param entries: by offset
    """

    name: str
    type_id: int
    size: int
    entries: tuple[Placed, ...]

    @property
    def has_visible(self) -> bool:
        """Tell whether it holds a variable that other C files could see."""
        return any(not entry.static for entry in self.entries)


def place(elf: ElfFile, btf: Btf) -> dict[str, DataSection]:
    """Complete all DATASECs, by name. Of several with one name, the first.

    :raises ObjectFormatError: a section or symbol is missing, or a variable
        is outside its section
    """
    sections: dict[str, DataSection] = {}
    symbols: dict[str, Symbol] | None = None
    for type_id in btf.ids(BtfKind.DATASEC):
        datasec = btf.type(type_id)
        if not isinstance(datasec, Datasec) or datasec.name in sections:
            continue
        if datasec.name in EXTERN_SECTIONS:
            sections[datasec.name] = DataSection(datasec.name, type_id, datasec.size, ())
            continue
        if symbols is None:
            symbols = _objects(elf)
        sections[datasec.name] = _complete(elf, btf, type_id, datasec, symbols)
    return sections


def _objects(elf: ElfFile) -> dict[str, Symbol]:
    found: dict[str, Symbol] = {}
    for symbol in elf.symbols:
        if symbol.type == STT_OBJECT and symbol.bind in (STB_GLOBAL, STB_WEAK):
            found.setdefault(symbol.name, symbol)
    return found


def _complete(
    elf: ElfFile, btf: Btf, type_id: int, datasec: Datasec, symbols: dict[str, Symbol]
) -> DataSection:
    size = datasec.size
    if not size:
        section = elf.find(datasec.name)
        if section is None or not section.size:
            raise elf.error(f"BTF describes section {datasec.name!r}, which is empty", ".BTF", 0)
        size = section.size
    entries = []
    for entry in datasec.entries:
        var = btf.type(entry.type)
        if not isinstance(var, Var):
            raise elf.error(f"a member of {datasec.name!r} is not a variable", ".BTF", 0)
        offset, static = entry.offset, var.linkage == Linkage.STATIC
        if var.linkage not in (Linkage.STATIC, Linkage.EXTERN):
            symbol = symbols.get(var.name)
            if symbol is None:
                raise elf.error(f"no symbol for variable {var.name!r}", datasec.name, 0)
            if not datasec.size:
                offset = symbol.value
            # A hidden global is global only for the C linker.
            static = symbol.visibility in (STV_HIDDEN, STV_INTERNAL)
        if offset + entry.size > size:
            raise elf.error(
                f"variable {var.name!r} of {many(entry.size, 'byte')} ends after the section",
                datasec.name,
                offset,
            )
        entries.append(Placed(offset, entry.size, var, static))
    entries.sort(key=itemgetter(0))
    return DataSection(datasec.name, type_id, size, tuple(entries))
