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
``dyn_ftrace_total_info`` says before and afterwards. Lines of a list and records belong together
only if the records are the same after the list was read, because a module may have gone and come
back meanwhile. In all other cases ftrace's list is read with its addresses. The same happens if
kernel memory cannot be read, or if the structs are not as described above.

Where /proc/kcore cannot be read, a small BPF program reads the memory (`pybpf.kernel.kcore`).
"""

from __future__ import annotations

import struct
from array import array
from functools import cached_property

from .._sys.files import read
from ..btf import Btf, BtfKind
from ..btf.types import Ptr, Struct
from ..digits import decimal
from ..errors import ObjectFormatError
from ..namedtuple import NamedTuple
from .ftrace import FtraceFunctions, Place, SplitList, tracefs
from .functions import ENDBR
from .kcore import open_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from .ftrace import Lists
    from .host import Facts
    from .kallsyms import Kallsyms
    from .kcore import KernelMemory

    #: Reads the call sites from memory, in the list's order; None if that does not work.
    ReadSites: TypeAlias = Callable[[], array[int] | None]

__all__ = ["CallSites", "Records", "SiteReader", "find_sites", "read_sites"]

_START = "ftrace_pages_start"
_POINTER, _INT = struct.Struct("<Q"), struct.Struct("<i")
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


class _Sources(NamedTuple):
    # How to get symbols and call sites. Both may refer to the facts that the list belongs to.
    symbols: Callable[[], Kallsyms]
    find: Callable[[], ReadSites | None]


class _Known(NamedTuple):
    # Call sites in the list's order, the symbols, and how to read the sites again.
    sites: array[int]
    table: Kallsyms
    again: ReadSites


class CallSites:
    """Find traceable functions by the call sites in the kernel's memory, or else in ftrace's list.

    It is a `pybpf.kernel.ftrace.Source`.

    :param lists: ftrace's list
    :param symbols: gives the kernel's symbols, when they are needed
    :param find: finds where the call sites are, when they are needed; None if memory does not tell
    """

    def __init__(
        self,
        lists: Lists,
        symbols: Callable[[], Kallsyms],
        find: Callable[[], ReadSites | None],
    ) -> None:
        self._lists = lists
        self._state: _Sources | _Known | None = _Sources(symbols, find)

    def _known(self) -> _Known | None:
        # Threads that come at once may both read. Each gets an answer.
        state = self._state
        if isinstance(state, _Sources):
            read = state.find()
            sites = None if read is None else read()
            known = None if read is None or sites is None else _Known(sites, state.symbols(), read)
            self._state = state = known
        return state

    @cached_property
    def _sites(self) -> frozenset[int]:
        known = self._known()
        return frozenset(known.sites.tolist() if known else ())

    def split(self) -> SplitList:
        # Names of all functions take longer to find among the symbols than to read.
        known = self._known()
        found = None if known is None else self._lists.plain.split_at(known.sites)
        # The lines may be as many as before and yet be those of other functions.
        if known is None or found is None or known.again() != known.sites:
            return self._lists.best.split()
        return found

    def starting(self, prefixes: Sequence[str]) -> SplitList:
        known = self._known()
        if known is None:
            return self._lists.best.starting(prefixes)
        return self._listed(known, known.table.labels_starting(prefixes, self._sites, ENDBR))

    def places(self, names: Sequence[str]) -> list[Place]:
        known = self._known()
        if known is None:
            return self._lists.best.places(names)
        rows = self._listed(known, known.table.labels_named(names, self._sites, ENDBR))
        places = zip(rows.lines, rows.sites or (), strict=True)
        return [Place(*FtraceFunctions.split(line), site) for line, site in places]

    @staticmethod
    def _listed(known: _Known, labels: dict[int, str]) -> SplitList:
        order = array("Q", filter(labels.__contains__, known.sites))
        return SplitList(tuple(map(labels.__getitem__, order)), order)


class SiteReader(NamedTuple):
    """Read the call sites of the running kernel.

    :ivar layout: of the kernel's records
    :ivar start: address of the variable ``ftrace_pages_start``
    """

    layout: Records
    start: int

    def read(self) -> array[int] | None:
        """Read them in the order of ftrace's list; None if memory does not tell."""
        try:
            count = _count()
            with open_memory() as memory:
                sites = read_sites(memory, self.layout, self.start)
            same = sites is not None and len(sites) == count == _count()
            return sites if same else None
        except OSError:  # also a BpfError
            return None


def find_sites(facts: Facts) -> ReadSites | None:
    """Find where the running kernel keeps its call sites.

    :returns: reads them; it keeps nothing of the facts. None if the kernel keeps them otherwise
    """
    try:
        found = facts.kallsyms.by_name(_START)
        layout = Records.of(facts.btf.vmlinux())
    except (OSError, ObjectFormatError):
        return None
    return SiteReader(layout, found[0].addr).read if len(found) == 1 and layout else None


def _count() -> int | None:
    # How many functions ftrace says that it can trace: "40328 pages:160 groups: 2".
    text = read(f"{tracefs()}/dyn_ftrace_total_info").decode("ascii", "replace")
    return decimal(text.partition(" ")[0])
