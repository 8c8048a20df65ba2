"""`pybpf obj list` and `pybpf obj dump-map`: show the BPF objects that the kernel holds."""

from __future__ import annotations

import errno
import sys

from ..dataclass import replace
from ..errors import BpfError
from ..jsontext import dumps
from ..wording import many
from .parsers import About, Example
from .screen import Column, Screen

# The commands import what asks the kernel, so that --help starts quickly.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from ..kernel.objects import BtfInfo, LinkInfo, MapInfo, ProgramInfo
    from ..maps import Map

__all__ = ["DUMP", "KINDS", "LIST", "dump_map", "run_dump", "run_list"]

_STATUSES = ((0, "ok"), (1, "the kernel refused, or there is no such map"), (2, "wrong arguments"))
LIST = About(
    "programs, maps, links or BTF objects that the kernel holds, with owners",
    """\
Needs root. Owners are processes that hold a descriptor, and paths in a bpf file system. "by link"
are those of the links that run a program. What neither of them keeps shows "no process": the
kernel keeps it itself, for example for a filter of traffic control.""",
    (
        Example("programs", "every loaded program"),
        Example("links --json", "every link and what it is attached to, as JSON"),
    ),
    _STATUSES,
)
DUMP = About(
    "entries of a map, given by its id or the path of its pin",
    """\
Needs root. Keys and values are typed from the BTF the map was made with; a data section (.rodata,
.data, .bss) is shown by its variables. Without BTF they are hexadecimal text. The value
of a per-CPU map is a list.""",
    (
        Example("42", "entries of map 42"),
        Example("/sys/fs/bpf/counts --json", "entries of a pinned map, as JSON"),
    ),
    _STATUSES,
)

_COLUMNS = {
    "programs": (
        Column("ID", right=True),
        Column("TYPE", 8),
        Column("NAME", 8),
        Column("TARGET", 6, 3),
        Column("TAG", drop=1),
        Column("INSNS", drop=2, right=True),
        Column("MAPS", 6, 4),
        Column("OWNERS", 10),
    ),
    "maps": (
        Column("ID", right=True),
        Column("TYPE", 8),
        Column("NAME", 8),
        Column("KEY", right=True),
        Column("VALUE", right=True),
        Column("ENTRIES", right=True),
        Column("FLAGS", drop=1),
        Column("BYTES", drop=2, right=True),
        Column("OWNERS", 10),
    ),
    "links": (
        Column("ID", right=True),
        Column("TYPE", 8),
        Column("PROGRAM", right=True),
        Column("ATTACH", 8, 1),
        Column("TARGET", 8),
        Column("OWNERS", 10),
    ),
    "btf": (
        Column("ID", right=True),
        Column("TYPE"),
        Column("NAME", 8),
        Column("BYTES", right=True),
        Column("OWNERS", 10),
    ),
}


def _program(info: ProgramInfo) -> Sequence[object]:
    maps = ",".join(map(str, info.maps))
    insns = info.xlated_size // 8
    return (info.id, info.type, info.name, info.target, info.tag, insns, maps, _keepers(info))


def _keepers(info: ProgramInfo) -> str:
    # A process that holds the program and a link of it is named once.
    own, by_link = info.owners, info.link_owners
    more = replace(by_link, owners=tuple([one for one in by_link.owners if one not in own.owners]))
    if not more:
        return str(own)
    return f"{own} by link: {more}" if own else f"by link: {more}"


def _map(info: MapInfo) -> Sequence[object]:
    flags = f"{info.flags:#x}" + (" frozen" if info.frozen else "")
    sizes = (info.key_size, info.value_size, info.max_entries)
    return (info.id, info.type, info.name, *sizes, flags, info.memory, info.owners)


def _link(info: LinkInfo) -> Sequence[object]:
    return (info.id, info.type, info.program, info.attach_type, info.target, info.owners)


def _btf(info: BtfInfo) -> Sequence[object]:
    return (info.id, info.type, info.name, info.size, info.owners)


_ROWS: Mapping[str, Callable[[Any], Sequence[object]]] = {
    "programs": _program,
    "maps": _map,
    "links": _link,
    "btf": _btf,
}
#: What can be listed.
KINDS = tuple(_COLUMNS)


def _infos(kind: str) -> Iterable[Any]:
    from ..kernel import objects

    walks: dict[str, Callable[[], Iterable[Any]]] = {
        "programs": objects.programs,
        "maps": objects.maps,
        "links": objects.links,
        "btf": objects.btfs,
    }
    return walks[kind]()


def run_list(args: argparse.Namespace) -> int:
    """Run ``list``."""
    infos = list(_infos(args.kind))
    screen = Screen.of(sys.stdout)
    if args.json:
        screen.json([info.to_dict() for info in infos])
        return 0
    row = _ROWS[args.kind]
    cells = [[str(cell) if cell != "" else "-" for cell in row(info)] for info in infos]
    screen.table(_COLUMNS[args.kind], cells)
    return 0


def dump_map(one: Map) -> list[dict[str, Any]]:
    """Read the entries of a map as JSON can have them.

    An entry has ``key`` and ``value``. Empty slots of arrays of programs, maps and the like
    are left out.

    :raises BpfError: EOPNOTSUPP for a map without readable entries (a ring buffer)
    """
    from ..obj.maptypes import KEYLESS, RINGS

    if one.type in RINGS or one.type in KEYLESS:
        hint = "reading records would remove them"
        raise BpfError(errno.EOPNOTSUPP, f"map {one.name!r} ({one.type_name})", hint)
    return [{"key": _plain(key), "value": _plain(value)} for key, value in one.items()]


def _plain(value: Any) -> Any:
    from ..btf.record import Record, UnionValue, plain
    from ..maps.percpu import PerCpu

    if isinstance(value, (bytes, bytearray, memoryview)) and not isinstance(value, UnionValue):
        return bytes(value).hex(" ")
    if isinstance(value, (list, tuple, PerCpu)) and not isinstance(value, Record):
        return [_plain(one) for one in value]
    return plain(value)


def run_dump(args: argparse.Namespace) -> int:
    """Run ``dump-map``."""
    from ..maps import Map

    opened = Map.from_pinned(args.map) if "/" in args.map else Map.from_id(_number(args.map))
    with opened as one:
        entries = dump_map(one)
    screen = Screen.of(sys.stdout)
    if args.json:
        screen.json(entries)
        return 0
    for entry in entries:
        screen.show(f"{dumps(entry['key'])}: {dumps(entry['value'])}")
    screen.show(f"{many(len(entries), 'entry', 'entries')}")
    return 0


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 < number < 1 << 32:
        hint = "give an id, as `list maps` shows it, or a path with a slash in it"
        raise BpfError(errno.EINVAL, f"map {text!r}", hint)
    return number
