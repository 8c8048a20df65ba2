"""Probes injected with ``-J``: which ones, where they are attached, and their contexts as text.

A probe fires only inside an open session. It shows that the kernel reached its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from ...btf.types import Array, BtfKind, Func, FuncProto, Ptr, Typedef
from ...dataclass import dataclass, field
from ...digits import decimal
from ...errors import ObjectFormatError
from ...kernel.globs import glob_regex, is_glob
from ...wording import plain
from .cvalues import c_text, number_text, string_text
from .probespec import Spec
from .usage import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Link, Object
    from ...btf import Btf

__all__ = [
    "PROGRAMS",
    "Field",
    "Probe",
    "attach_probe",
    "context_text",
    "expand",
    "parse_format",
    "raw_parameters",
    "tracepoint_size",
]

#: The BPF program of each kind of probe.
PROGRAMS = {
    "kprobe": "probe_kprobe",
    "kretprobe": "probe_kprobe",
    "tp": "probe_tracepoint",
    "rawtp": "probe_raw_tp",
}
_PT_REGS = 168  # bytes of struct pt_regs, x86-64
_EXTRA = 512  # bytes after a tracepoint's fields, where its strings are
_MAX_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class Field:
    """Describe one field of a tracepoint's record.

    :param at: byte offset
    :param array: its C type is an array
    :param dynamic: ``__data_loc``: 4 bytes that say where the value is
    """

    name: str
    at: int
    size: int
    signed: bool
    text: bool = False
    array: bool = False
    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Describe one probe. Its number is its attach cookie.

    :param size: bytes of its context
    :param fields: fields of a tracepoint
    """

    number: int
    kind: str
    name: str
    category: str = ""
    offset: int = 0
    size: int = _PT_REGS
    fields: tuple[Field, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """Return the text in the trace, e.g. ``tp:sched:sched_switch``."""
        match self.kind:
            case "kprobe":
                return f"kprobe:{self.name}+{self.offset:#x}"
            case "tp":
                return f"tp:{self.category}:{self.name}"
        return f"{self.kind}:{self.name}"

    @property
    def cookie(self) -> int:
        """Return the attach cookie, ``__u64``. Never 0, as on raw tracepoints of old kernels."""
        return self.number | self.size << 32


def expand(
    specs: Sequence[Spec],
    *,
    functions: Callable[[str], Sequence[str]],
    tracepoints: Callable[[], Sequence[tuple[str, str]]],
    raw_tracepoints: Callable[[], Sequence[str]],
    describe: Callable[[Probe], Probe],
) -> list[Probe]:
    """Find the requested probes, numbered from 1.

    :param functions: returns the names of the functions that a glob matches
    :param tracepoints: returns (category, name) of all tracepoints
    :param raw_tracepoints: returns the names of all raw tracepoints
    :param describe: adds the size and fields of a context
    :raises UsageError: a glob matches nothing
    """
    out: list[Probe] = []
    for spec in specs:
        if not (is_glob(spec.name) or is_glob(spec.category)):
            found = [(spec.category, spec.name)]
        elif spec.kind == "tp":
            matches = re.compile(f"{glob_regex(spec.category)}:{glob_regex(spec.name)}").fullmatch
            found = [pair for pair in tracepoints() if matches(":".join(pair))]
        elif spec.kind == "rawtp":
            matches = re.compile(glob_regex(spec.name)).fullmatch
            found = [("", name) for name in raw_tracepoints() if matches(name)]
        else:
            found = [("", name) for name in functions(spec.name)]
        if not found:
            raise UsageError(f"-J {spec.kind}:{spec.category or spec.name}: nothing matches it")
        for category, name in found:
            probe = Probe(len(out) + 1, spec.kind, name, category, spec.offset)
            out.append(describe(probe))
    return out


def attach_probe(obj: Object, probe: Probe) -> Link:
    """Attach one probe.

    :raises BpfError: the kernel refuses it
    """
    program = obj.programs[PROGRAMS[probe.kind]]
    if probe.kind == "tp":
        return program.attach_tracepoint(probe.category, probe.name, cookie=probe.cookie)
    if probe.kind == "rawtp":
        return program.attach_raw_tp(probe.name, cookie=probe.cookie)
    retprobe = probe.kind == "kretprobe"
    return program.attach_kprobe(probe.name, probe.offset, retprobe, cookie=probe.cookie)


# -- contexts -----------------------------------------------------------------

# Characters of a line of a format file, and bytes of a record.
_MAX_LINE, _MAX_OFFSET = 512, 1 << 16
_FIELD = re.compile(
    r"\tfield:(?P<type>.*?)(?P<name>\w+)(?P<array>\[[^\]]*\])?;\toffset:(?P<at>\d+);"
    r"\tsize:(?P<size>\d+);\tsigned:(?P<signed>[01]);"
)


def parse_format(text: str) -> tuple[Field, ...]:
    """Read a tracepoint's own fields from its ``format`` file in tracefs."""
    out = []
    for line in text.split("\n"):
        found = _FIELD.match(line) if len(line) <= _MAX_LINE else None
        at = decimal(found["at"], _MAX_OFFSET) if found is not None else None
        size = decimal(found["size"], _MAX_OFFSET) if found is not None else None
        if found is None or at is None or size is None or found["name"].startswith("common_"):
            continue
        kind = found["type"].strip()
        array = bool(found["array"]) or kind.endswith("]")
        out.append(
            Field(
                found["name"],
                at,
                size,
                found["signed"] == "1",
                array and re.search(r"\bchar\b", kind) is not None,
                array,
                kind.startswith("__data_loc"),
            )
        )
    return tuple(out)


def tracepoint_size(fields: Sequence[Field]) -> int:
    """Return how many bytes of a tracepoint's context to read."""
    end = max((f.at + f.size for f in fields), default=8)
    more = _EXTRA if any(f.dynamic for f in fields) else 0
    return int(min(end + more, _MAX_CONTEXT))


def raw_parameters(btf: Btf, name: str) -> tuple[tuple[str, int], ...]:
    """Return names and BTF types of the arguments of a raw tracepoint."""
    found = btf.find(f"btf_trace_{name}", BtfKind.TYPEDEF)
    if found is None:
        return ()
    typedef = btf.type(found)
    assert isinstance(typedef, Typedef)
    pointer = btf.type(btf.skip_mods_and_typedefs(typedef.type))
    proto = btf.type(btf.skip_mods_and_typedefs(pointer.type)) if isinstance(pointer, Ptr) else None
    if not isinstance(proto, FuncProto):
        return ()
    names = [param.name for param in proto.params]
    iterating = btf.find(f"__traceiter_{name}", BtfKind.FUNC)
    if iterating is not None:
        func = btf.type(iterating)
        own = btf.type(func.type) if isinstance(func, Func) else None
        if isinstance(own, FuncProto) and len(own.params) == len(names):
            names = [param.name for param in own.params]
    # The first argument is the kernel's own.
    pairs = list(zip(names, (param.type for param in proto.params), strict=True))[1:]
    return tuple((text or f"arg{i}", type_id) for i, (text, type_id) in enumerate(pairs))


def context_text(probe: Probe, raw: bytes, btf: Btf | None) -> list[tuple[str, str]]:
    """Return names and values of a probe's context.

    :param btf: BTF of the kernel itself
    """
    if not raw:
        return [("...", "(empty)")]
    if probe.kind == "tp":
        return [(plain(f.name), _field(f, raw)) for f in probe.fields]
    if btf is None:
        return []
    try:
        if probe.kind == "rawtp":
            return list(_raw(btf, probe.name, raw))
        regs = btf.find("pt_regs", BtfKind.STRUCT)
        return [("regs", c_text(btf, regs, raw))] if regs is not None else []
    except ObjectFormatError:
        return []


def _raw(btf: Btf, name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    for number, (text, type_id) in enumerate(raw_parameters(btf, name)):
        slot = raw[8 * number : 8 * number + 8]
        t = btf.type(btf.skip_mods_and_typedefs(type_id))
        size = 8 if isinstance(t, (Ptr, Array)) else min(btf.sizeof(type_id), 8)
        yield plain(text), c_text(btf, type_id, slot[:size])


def _field(f: Field, raw: bytes) -> str:
    value = raw[f.at : f.at + f.size]
    if f.dynamic and len(value) == 4:
        where = int.from_bytes(value, "little")
        value = raw[where & 0xFFFF : (where & 0xFFFF) + (where >> 16)]
    if f.text:
        return string_text(value)
    if f.array or len(value) not in (1, 2, 4, 8):
        return f"[{value.hex(' ')}]" if value else "(empty)"
    return number_text(int.from_bytes(value, "little", signed=f.signed))
