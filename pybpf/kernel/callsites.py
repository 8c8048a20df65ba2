"""Which functions of the running kernel can be traced, read from the kernel's own memory.

ftrace keeps a record of each call site and writes its list in tracefs from these records. For every
line the kernel looks up a symbol. That takes 278 million instructions for 40,000 functions, or 458
million with addresses. Reading the records takes two million. BTF says how they are laid out::

    ftrace_pages_start -> struct ftrace_page { next; records; index; ... } -> next -> ...
                                                |
                                                v
                          struct dyn_ftrace { ip; flags; ... } [index]

The kernel names a function by the first symbol at its address. For some functions we do the same
with its table of symbols. If all functions are wanted, reading ftrace's list without addresses is
faster; it has one line for each record. Either way, lines and their order are those of ftrace's
list, and call sites are known even where that list does not have them (before 6.5).

The records are read without ftrace's lock. So their number is compared with what
``dyn_ftrace_total_info`` says before and afterwards. If it differs, ftrace's list is read instead.
The same happens if kernel memory cannot be read, or if the structs are not as described above. A
wrong record does no harm, because the kernel checks every address at the attach.
"""

from __future__ import annotations

import struct
from array import array
from functools import cached_property

from .._sys.files import read
from ..btf import Btf, BtfKind
from ..btf.types import Ptr, Struct
from ..digits import decimal
from ..errors import BpfError, ObjectFormatError
from ..namedtuple import NamedTuple
from .ftrace import FtraceFunctions, Place, SplitList, tracefs
from .kcore import open_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .ftrace import Lists
    from .host import Facts
    from .kallsyms import Kallsyms
    from .kcore import KernelMemory

__all__ = ["CallSites", "Records", "read_sites", "sites_of"]

_START = "ftrace_pages_start"
_POINTER, _INT = struct.Struct("<Q"), struct.Struct("<i")
# A call site is the first instruction of a function, or comes after endbr64.
_ENDBR = 4
# No kernel has as many. So a loop of pages ends.
_MOST_PAGES, _MOST_RECORDS = 1 << 14, 1 << 21


class Records(NamedTuple):
    """Say where fields are in the kernel's records, in bytes.

    :ivar page_size: bytes of ``struct ftrace_page``
    :ivar next: offset of its pointer to the next one
    :ivar records: offset of its pointer to an array of ``struct dyn_ftrace``
    :ivar used: offset of ``index``, the number of records in use, ``int``
    :ivar size: bytes of ``struct dyn_ftrace``
    :ivar site: offset of the address of the call site, ``unsigned long``
    """

    page_size: int
    next: int
    records: int
    used: int
    size: int
    site: int

    @classmethod
    def of(cls, btf: Btf) -> Records | None:
        """Read the layout from the kernel's BTF; None if a struct or a field is missing."""
        page = btf.find("ftrace_page", BtfKind.STRUCT)
        of_page = _members(btf, page)
        pointer = btf.type(of_page["records"][1]) if "records" in of_page else None
        of_record = _members(btf, pointer.type if isinstance(pointer, Ptr) else None)
        if not {"next", "records", "index"} <= of_page.keys() or "ip" not in of_record:
            return None
        assert page is not None and isinstance(pointer, Ptr)
        return cls(
            btf.sizeof(page),
            of_page["next"][0],
            of_page["records"][0],
            of_page["index"][0],
            btf.sizeof(pointer.type),
            of_record["ip"][0],
        )


def _members(btf: Btf, type_id: int | None) -> dict[str, tuple[int, int]]:
    # Byte offset and type of each member.
    kind = btf.type(type_id) if type_id else None
    if not isinstance(kind, Struct):
        return {}
    return {m.name: (m.bit_offset // 8, m.type) for m in kind.members}


def read_sites(memory: KernelMemory, layout: Records, start: int) -> array[int] | None:
    """Read the call sites of all records, in the order of ftrace's list.

    :param start: address of the variable ``ftrace_pages_start``
    :returns: None if the records do not look as they should
    :raises BpfError: EFAULT if a pointer leads nowhere
    """
    sites = array("Q")
    words, odd = divmod(layout.size, 8)
    if odd or layout.site % 8 or layout.site >= layout.size:
        return None
    if max(layout.next + 8, layout.records + 8, layout.used + 4) > layout.page_size:
        return None
    (at,) = _POINTER.unpack(memory.read(start, 8))
    for _ in range(_MOST_PAGES):
        if not at:
            return sites
        page = memory.read(at, layout.page_size)
        (at,) = _POINTER.unpack_from(page, layout.next)
        (records,) = _POINTER.unpack_from(page, layout.records)
        (count,) = _INT.unpack_from(page, layout.used)
        if not 0 <= count <= _MOST_RECORDS - len(sites):
            return None
        if count:
            raw = array("Q", memory.read(records, count * layout.size))
            sites.extend(raw[layout.site // 8 :: words])
    return None


class CallSites:
    """Find traceable functions by the call sites in the kernel's memory, or else in ftrace's list.

    It is a `pybpf.kernel.ftrace.Source`.

    :param lists: ftrace's list
    :param symbols: gives the kernel's symbols, when they are needed
    :param read: reads the call sites from memory, in the list's order; None if that does not work
    """

    def __init__(
        self,
        lists: Lists,
        symbols: Callable[[], Kallsyms],
        read: Callable[[], array[int] | None],
    ) -> None:
        self._lists = lists
        self._load: tuple[Callable[[], Kallsyms], Callable[[], array[int] | None]] | None
        self._load = symbols, read
        self._table: Kallsyms | None = None

    @cached_property
    def _known(self) -> array[int] | None:
        assert self._load is not None
        symbols, read = self._load
        sites = read()
        self._table = None if sites is None else symbols()
        self._load = None  # both may keep the facts alive that this list belongs to
        return sites

    @cached_property
    def _sites(self) -> frozenset[int]:
        return frozenset(self._known.tolist() if self._known else ())

    def split(self) -> SplitList:
        # Names of all functions take longer to find among the symbols than to read.
        sites = self._known
        found = None if sites is None else self._lists.plain.split_at(sites)
        return self._lists.best.split() if found is None else found

    def starting(self, prefixes: Sequence[str]) -> SplitList:
        if self._known is None or self._table is None:
            return self._lists.best.starting(prefixes)
        sites = self._sites
        labels = self._table.labels_starting(
            prefixes, lambda at: at in sites or at + _ENDBR in sites
        )
        rows = {at if at in sites else at + _ENDBR: label for at, label in labels.items()}
        order = array("Q", filter(rows.__contains__, self._known))
        return SplitList(tuple(map(rows.__getitem__, order)), order)

    def places(self, names: Sequence[str]) -> list[Place]:
        if self._known is None:
            return self._lists.best.places(names)
        lines, sites = self.starting(names) if names else SplitList((), None)
        places = [
            Place(*FtraceFunctions.split(x), at) for x, at in zip(lines, sites or (), strict=True)
        ]
        return [place for place in places if place.name in names]


def sites_of(facts: Facts) -> array[int] | None:
    """Read the call sites of the running kernel. None if its memory does not tell."""
    try:
        found = facts.kallsyms.by_name(_START)
        layout = Records.of(facts.btf.vmlinux())
        if len(found) != 1 or layout is None:
            return None
        count = _count()
        with open_memory() as memory:
            sites = read_sites(memory, layout, found[0].addr)
        same = sites is not None and len(sites) == count == _count()
        return sites if same else None
    except (BpfError, ObjectFormatError, OSError):
        return None


def _count() -> int | None:
    # How many functions ftrace says that it can trace: "40328 pages:160 groups: 2".
    text = read(f"{tracefs()}/dyn_ftrace_total_info").decode("ascii", "replace")
    return decimal(text.partition(" ")[0])
