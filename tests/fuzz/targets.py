"""The parsers, each with its seeds, what changes them, and all that is done with what they read.

A target takes the bytes of an input and either returns or raises one of pybpf's documented
errors, which must name what they are about. To add a target, add a row to `TARGETS`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from pybpf.errors import BpfError, ObjectFormatError, PlanError, RelocationError
from tests.fuzz.engine import Change, change_bytes, change_text
from tests.fuzz.shapes import change_btf, change_elf, change_facts, packed

__all__ = ["TARGETS", "Target", "Wrong", "attempt"]

DATA = Path(__file__).resolve().parents[1] / "data"
_KERNEL_BTF = DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz"
_DOCUMENTED = (ObjectFormatError, RelocationError, PlanError, BpfError)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Wrong(Exception):
    """Report a parser that returned something it never may."""


@dataclass(frozen=True)
class Target:
    """Describe one parser.

    :param seeds: returns inputs that it accepts
    :param run: does all that is done with an input
    :param change: makes one change to an input
    """

    name: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], None]
    change: Change


def attempt(target: Target, data: bytes) -> None:
    """Run a target. Its documented errors are fine if they say what they are about.

    :raises Wrong: an error without a file, or a value that makes no sense
    """
    try:
        target.run(data)
    except ObjectFormatError as error:
        if not error.file:
            raise Wrong(f"an error without a file: {error}") from error
    except _DOCUMENTED:
        pass


def _fine(ask: Callable[[], Any]) -> Any:
    # One of several questions to a thing that was read: its error does not end the others.
    try:
        return ask()
    except ObjectFormatError as error:
        if not error.file:
            raise Wrong(f"an error without a file: {error}") from error
    except _DOCUMENTED:
        pass
    return None


# -- seeds


def _objects() -> list[bytes]:
    return [path.read_bytes() for path in sorted(DATA.glob("*.o"))]


@cache
def _kernel_btf() -> bytes:
    return gzip.decompress(_KERNEL_BTF.read_bytes())


def _section(data: bytes, name: str) -> bytes:
    from pybpf.elf import ElfFile

    elf = ElfFile(data, "seed")
    found = elf.find(name)
    return bytes(elf.contents(found)) if found is not None else b""


def _btfs() -> list[bytes]:
    found = [_section(data, ".BTF") for data in _objects() if data[5] == 1]
    return [*filter(None, found), _cycles(), _deep()]


def _record(kind: int, size_or_type: int, *more: int, name: int = 0, vlen: int = 0) -> bytes:
    info = kind << 24 | vlen
    return struct.pack(f"<{3 + len(more)}I", name, info, size_or_type, *more)


def _blob(types: bytes, strings: bytes = b"\0a\0b\0int\0") -> bytes:
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return head + types + strings


def _cycles() -> bytes:
    # An int; an array, a variable, a typedef, a pointer and a struct, each of itself.
    return _blob(
        _record(1, 4, 32, name=5)
        + _record(3, 0, 2, 1, 3)
        + _record(14, 3, 0, name=1)
        + _record(8, 4, name=1)
        + _record(2, 5)
        + _record(4, 4, 3, 6, 0, name=3, vlen=1)
        + _record(13, 7, 1, 7, vlen=1)
    )


def _deep() -> bytes:
    # Structs without a name, each with two of the one before.
    types = _record(1, 4, 32, name=5)
    for number in range(1, 40):
        types += _record(4, 0, 1, number, 0, 3, number, 0, vlen=2)
    return _blob(types + _record(4, 0, 1, 40, 0, name=1, vlen=1))


def _lines(pattern: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in sorted((DATA / "kernel").glob(pattern))]


def _kallsyms_seeds() -> list[bytes]:
    # The last is long enough to be searched by halving.
    lines = [f"{0xFFFFFFFF81000000 + 64 * n:016x} T function_{n}\n" for n in range(2400)]
    lines += [f"{0xFFFFFFFFC0000000 + 64 * n:016x} t module_{n}\t[m]\n" for n in range(20)]
    lines += [f"{0xFFFFFFFFC1000000 + n:016x} t bpf_trampoline_{n}\t[bpf]\n" for n in range(9)]
    return [*_lines("*.kallsyms")(), "".join(lines).encode()]


def _with_addresses() -> list[bytes]:
    return [
        b"ffffffff81000000 startup\nffffffff81000040 vfs_read\nffffffffc0000004 nf_x [nf]\n"
        b"ffffffff81000050 __ftrace_invalid_address___4\n"
    ]


# -- objects and types


def _run_elf(data: bytes) -> None:
    from pybpf.elf import SHT_REL, ElfFile
    from pybpf.links.binary import _debug_names
    from pybpf.symbols import _Functions
    from pybpf.usdt import parse_arguments, probes

    elf = ElfFile(data, "x.o", any_machine=True)
    for section in elf.sections:
        elf.contents(section)
        elf.find(section.name)
        if section.type == SHT_REL:
            _fine(lambda section=section: elf.relocations(section))
    symbols = _fine(lambda: elf.symbols) or []
    _fine(lambda: elf.dynamic_symbols)
    for symbol in symbols[:50]:
        _fine(lambda symbol=symbol: elf.file_offset(symbol.value))
    list(_debug_names(elf, "/nonexistent/x.o", "/nonexistent"))
    functions = _fine(lambda: _Functions(elf, "/nonexistent/x.o"))
    if functions is not None:
        functions.at(0x1000)
    for probe in _fine(lambda: probes(elf)) or ():
        _fine(lambda probe=probe: parse_arguments(probe.arguments, elf.machine, "x.o"))


def _run_open(data: bytes) -> None:
    # An object before it is loaded, as a caller sees it.
    import io

    import pybpf

    file = io.BytesIO(data)
    file.name = "x.o"  # type: ignore[attr-defined]
    with pybpf.open(file) as obj:
        for program in obj.programs.values():
            str(program)
        for one in obj.maps.values():
            str(one)
        for name in obj.globals:
            try:
                value = _fine(lambda name=name: obj.globals[name])
            except AttributeError as error:  # documented
                if "several variables" not in str(error):
                    raise
                continue
            if value is not None:
                _fine(lambda name=name, value=value: setattr(obj.globals, name, value))


def _run_object(data: bytes) -> None:
    from pybpf.asm import decode
    from pybpf.asm.text import listing
    from pybpf.globals import Variable
    from pybpf.obj.externs import kconfig_values
    from pybpf.obj.linker import Linker, LinkTarget
    from pybpf.obj.missing import missing
    from pybpf.obj.reader import read_object

    spec = read_object(data, "x.o", legacy_maps=True)
    target = LinkTarget(ksym_addr=lambda name: 0)
    linker = Linker(spec, target)
    for name in spec.programs:
        linked = _fine(lambda name=name: linker.link(name))
        if linked is not None:
            missing(linked, spec)
            _fine(lambda linked=linked: list(listing(decode(linked.insns[:4096]))))
    _fine(spec.btf_for_load)
    for one in spec.maps.values():
        one.kernel_name(spec.object_name)
    if spec.btf is None:
        return
    btf = spec.btf
    _fine(lambda: kconfig_values(spec.externs, btf, ["CONFIG_BPF=y"], target.virtual_kconfig))
    for section in spec.data_sections.values():
        for entry in section.entries[:50]:
            one = Variable(
                entry.var.name, section.name, entry.offset, entry.size, entry.var.type, btf, _MAP
            )
            value = _fine(one.get)
            if value is not None:
                _fine(lambda one=one, value=value: one.set(value))


class _Holder:
    # What a variable asks of its map before the object is loaded.
    created = closed = False
    value_size = 1 << 16

    @property
    def spec(self) -> _Holder:
        return self

    @property
    def initial(self) -> bytearray:
        return bytearray(1 << 16)


_MAP: Any = _Holder()


def _run_inspect(data: bytes) -> None:
    import io

    from pybpf.obj.reader import read_object
    from pybpf.tools.bpfobj import _print_inspect, inspect

    spec = read_object(data, "x.o", legacy_maps=True)
    json.loads(json.dumps(inspect(spec)))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        _print_inspect(spec)
    if _CONTROL.search(out.getvalue()):
        raise Wrong("a control character was printed")


def _run_btf(data: bytes) -> None:
    from pybpf.btf import Btf
    from pybpf.btf.rawdump import as_dict, raw_lines
    from pybpf.btf.types import FuncProto
    from pybpf.trampoline.model import Models

    btf = Btf(data, name="x.btf")
    _fine(btf.validate)
    for line in _fine(lambda: list(raw_lines(btf))) or ():
        str(line)
    _fine(lambda: list(btf.funcs()))
    for name in ("int", "a", "b", "task_struct"):
        for ask in (btf.find, btf.find_all, btf.find_essential):
            _fine(lambda ask=ask, name=name: ask(name))
    models = Models(btf)
    for type_id in range(btf.nr_types):
        _fine(lambda type_id=type_id: btf.sizeof(type_id))
        _fine(lambda type_id=type_id: btf.alignof(type_id))
        t = _fine(lambda type_id=type_id: btf.type(type_id))
        if t is not None and type_id % 16 == 0:
            json.dumps(as_dict(type_id, t))
        if isinstance(t, FuncProto):
            _fine(lambda type_id=type_id: models.of(type_id))
    models.of_each(range(btf.nr_types))


def _run_btf_c(data: bytes) -> None:
    from pybpf.btf import Btf
    from pybpf.btf.cdump import dump

    btf = Btf(data, name="x.btf")
    _fine(lambda: dump(btf))


def _run_btf_edit(data: bytes) -> None:
    from pybpf.btf import Btf
    from pybpf.btf.encode import Editor
    from pybpf.btf.twins import add_static_twins
    from pybpf.btf.types import Int

    btf = Btf(data, name="x.btf")
    with contextlib.suppress(ObjectFormatError):  # it is given what was read before
        add_static_twins(data)
    editor = Editor(btf)
    _fine(lambda: editor.add(Int("int", 4, 32)))
    made = _fine(editor.build)
    if made is not None:
        Btf(made, name="made").validate()


def _run_values(data: bytes) -> None:
    from pybpf.btf import Btf
    from pybpf.btf.values import codec

    btf = Btf(data, name="x.btf")
    for type_id in _some_types(btf):
        made = _fine(lambda type_id=type_id: codec(btf, type_id))
        if made is None or made.size > 1 << 16:
            continue
        for fill in (b"\0", b"\xff"):
            raw = fill * made.size
            value = made.decode(raw)
            json.dumps(_values_shown(value))
            made.encode(value)
            if made.size and not made.encode(raw) == raw:
                raise Wrong("bytes do not survive")
        if made.size:
            list(made.iter_unpack(bytes(2 * made.size)))


def _some_types(btf: Any) -> list[int]:
    # Codecs are compiled, which takes a while: not of every type of every input.
    count = btf.nr_types
    return sorted(Random(count + len(btf.raw)).sample(range(count), min(count, 24)))


def _values_shown(value: Any) -> Any:
    from pybpf.btf.record import plain

    return plain(value)


@cache
def _core_local() -> tuple[Any, Any, bytes]:
    from pybpf.btf import Btf
    from pybpf.btf.ext import BtfExt

    data = (DATA / "core_kinds.bpf.o").read_bytes()
    btf = Btf(_section(data, ".BTF"), name="core_kinds.bpf.o")
    return btf, BtfExt(_section(data, ".BTF.ext"), btf), data


def _run_c_values(data: bytes) -> None:
    # As retsnoop shows arguments.
    from pybpf.btf import Btf
    from pybpf.tools.retsnoop.cvalues import c_text
    from pybpf.tools.retsnoop.probes import raw_parameters

    btf = Btf(data, name="kernel")
    for type_id in range(1, btf.nr_types):
        for raw in (b"\1" * 200, b"\xff" * 7):
            text = _fine(lambda type_id=type_id, raw=raw: c_text(btf, type_id, raw))
            if text is not None and _CONTROL.search(text):
                raise Wrong("a control character is shown")
    _fine(lambda: raw_parameters(btf, "x"))


def _run_core(data: bytes) -> None:
    # A kernel's types that are changed, for a program that is not.
    from pybpf.btf import Btf
    from pybpf.obj.linker import Linker, LinkTarget
    from pybpf.obj.missing import missing
    from pybpf.obj.reader import read_object

    spec = read_object(_core_local()[2], "x.o")
    linker = Linker(spec, LinkTarget(Btf(data, name="kernel"), ksym_addr=lambda name: 0))
    for name in spec.programs:
        linked = _fine(lambda name=name: linker.link(name))
        if linked is not None:
            list(map(str, missing(linked, spec)))


def _core_seeds() -> list[bytes]:
    names = ("core_target.bpf.o", "core_kinds.bpf.o", "core_lines.bpf.o")
    return [_section((DATA / name).read_bytes(), ".BTF") for name in names]


def _run_core_object(data: bytes) -> None:
    # A program that is changed, for a kernel's types that are not.
    from pybpf.obj.linker import Linker, LinkTarget
    from pybpf.obj.missing import missing
    from pybpf.obj.reader import read_object

    spec = read_object(data, "x.o")
    linker = Linker(spec, LinkTarget(_core_target(), ksym_addr=lambda name: 0))
    for name in spec.programs:
        linked = _fine(lambda name=name: linker.link(name))
        if linked is not None:
            list(map(str, missing(linked, spec)))


@cache
def _core_target() -> Any:
    from pybpf.btf import Btf

    data = (DATA / "core_target.bpf.o").read_bytes()
    return Btf(_section(data, ".BTF"), name="kernel")


def _core_objects() -> list[bytes]:
    return [(DATA / f"{name}.bpf.o").read_bytes() for name in ("core_kinds", "core_lines")]


def _run_btf_ext(data: bytes) -> None:
    from pybpf.btf.ext import BtfExt

    ext = BtfExt(data, _core_local()[0])
    _fine(lambda: ext.func_info)
    _fine(lambda: ext.line_info)
    _fine(lambda: ext.core_relos)


def _run_struct_ops(data: bytes) -> None:
    from pybpf.btf import Btf, BtfKind
    from pybpf.obj.structops import lay_out

    btf = Btf(data, name="kernel")
    for type_id in btf.ids(BtfKind.STRUCT):
        if btf.name(type_id):
            _fine(lambda type_id=type_id: lay_out("m", btf, type_id, bytes(64), {"a": "p"}, btf))


def _struct_ops_seeds() -> list[bytes]:
    names = ("obj_struct_ops.bpf.o", "attach_struct_ops.bpf.o")
    strings = b"\0tcp_ops\0bpf_struct_ops_tcp_ops\0a\0b\0int\0state\0data\0"
    types = (
        _record(1, 4, 32, name=strings.index(b"int"))
        + _record(13, 0)
        + _record(2, 2)
        + _record(
            4, 16, strings.index(b"a\0b"), 3, 0, strings.index(b"b\0i"), 1, 64, name=1, vlen=2
        )
        + _record(
            4, 24, strings.index(b"state"), 1, 0, strings.index(b"data"), 4, 64, name=9, vlen=2
        )
    )
    return [_blob(types, strings)] + [_section((DATA / n).read_bytes(), ".BTF") for n in names]


# -- texts of the kernel


def _run_kallsyms(data: bytes) -> None:
    from pybpf.kernel.kallsyms import Kallsyms

    symbols = Kallsyms(data)
    for ask in (
        lambda: len(symbols),
        lambda: symbols.hidden,
        lambda: symbols.by_name("vfs_read"),
        lambda: symbols.find_prefix("bpf"),
        lambda: symbols.named({"vfs_read", "do_rmdir"}),
        symbols.trampolines,
        lambda: [symbols.lookup(a) for a in (0, 1 << 63, (1 << 64) - 1)],
        *(lambda a=a: symbols.lookup(0xFFFFFFFF81000000 + 64 * a + 5) for a in range(0, 1950, 150)),
        lambda: symbols.at(0xFFFFFFFF81000000),
        symbols.require_addresses,
        lambda: symbols.times("vfs_read"),
        lambda: list(symbols),
    ):
        _fine(ask)
    again = Kallsyms(data, before=symbols)
    _fine(lambda: again.lookup(0xFFFFFFFF81000100))
    if again.text.encode("utf-8", "surrogateescape").rstrip(b"\n") != data.rstrip(b"\n"):
        raise Wrong("the text of the table changed")


def _run_ftrace(data: bytes) -> None:
    from pybpf.kernel.ftrace import parse_functions
    from pybpf.kernel.globs import Matcher, parse_pattern

    for with_addresses in (False, True):
        for first in range(2):
            functions = parse_functions(data, with_addresses=with_addresses)
            asks = [
                lambda f=functions: f.places("vfs_read"),
                lambda f=functions: f.named(["vfs_read", "vfs_write", "do_rmdir"]),
                lambda f=functions: (f.lines, f.sites, len(f), list(f)),
                lambda f=functions: (f.modules(), f.names(), f.to_text()),
                lambda f=functions: Matcher(
                    [parse_pattern("*_r*d*"), parse_pattern("n*")]
                ).positions(f),
                lambda f=functions: f.is_site_of(0, 0) if len(f) else None,
            ]
            for ask in asks if not first else reversed(asks):
                _fine(ask)


def _run_blacklist(data: bytes) -> None:
    from pybpf.kernel.ftrace import parse_blacklist

    found = parse_blacklist(data)
    found.covers(0xFFFFFFFF81000000)
    found.refused(["a", "vfs_read"], [0, 0xFFFFFFFF81000000])
    parse_blacklist(found.to_text().encode("utf-8", "surrogateescape"))


def _run_words(data: bytes) -> None:
    # Small texts of /proc and /sys, one a line: the first byte says which.
    from pybpf._sys.cpus import parse_cpus
    from pybpf._sys.files import find_tracefs
    from pybpf.kernel.config import version_code
    from pybpf.kernel.lockdown import parse_lockdown
    from pybpf.kernel.modules import parse
    from pybpf.kernel.owners import parse_fdinfo
    from pybpf.wording import plain

    text = data.decode("utf-8", "surrogateescape")
    if _CONTROL.search(plain(text)):
        raise Wrong("a control character is shown")
    for one in _fine(lambda: parse(text)) or ():
        if one.address >> 64 or one.size < 0:
            raise Wrong("an address of more than 64 bits")
    try:
        parse_cpus(text)
    except ValueError as error:
        if not str(error).startswith("not a CPU list"):
            raise
    for kind in ("link", "prog", "map", "btf"):
        parse_fdinfo(text, kind)
    find_tracefs(text)
    parse_lockdown(text)
    version_code(text)


def _run_maps(data: bytes) -> None:
    from pybpf.symbols import parse_maps

    for part in parse_maps(data.decode("utf-8", "surrogateescape"), "/proc/1/maps"):
        if not 0 <= part.start < part.end < 1 << 65:
            raise Wrong("an impossible part")


def _run_globs(data: bytes) -> None:
    from pybpf.kernel.ftrace import FtraceFunctions
    from pybpf.kernel.globs import Matcher, parse_pattern

    text = data.decode("utf-8", "surrogateescape")[:600]
    lines = ("a" * 500, "vfs_read", "ab" * 120 + " [nf]", "__x64_sys_" + "a_" * 100)
    matcher = Matcher([parse_pattern(text)])
    matcher.positions(FtraceFunctions(lines))


def _run_kconfig(data: bytes) -> None:
    from pybpf.kernel.config import config_lines
    from pybpf.obj.externs import kconfig_values

    spec = _kconfig_object()
    lines = config_lines(data, "config")
    assert spec.btf is not None
    _fine(lambda: kconfig_values(spec.externs, spec.btf, lines, {"LINUX_KERNEL_VERSION": 1 << 18}))


@cache
def _kconfig_object() -> Any:
    from pybpf.obj.reader import read_object

    return read_object((DATA / "obj_kconfig.bpf.o").read_bytes(), "x.o")


def _kconfig_seeds() -> list[bytes]:
    names = [extern.name for extern in _kconfig_object().externs]
    values = ("y", "m", "n", "1000", "-1", "0x7f", '"text"', "65536", '""')
    text = "".join(f"{name}={values[i % len(values)]}\n" for i, name in enumerate(names)).encode()
    return [*[text, gzip.compress(text, mtime=0)] * 8, _bomb()]


def _run_usdt(data: bytes) -> None:
    from pybpf.usdt import parse_arguments

    text = data.decode("utf-8", "surrogateescape")
    for machine in (22, 62, 183, 243):
        for one in _fine(lambda machine=machine: parse_arguments(text, machine, "x")) or ():
            if not 0 <= one.value < 1 << 64:
                raise Wrong("a value of more than 64 bits")


# -- memory and records


def _run_kcore(data: bytes) -> None:
    import tempfile

    from pybpf.kernel.kcore import Kcore, parse_segments

    segments = parse_segments(data)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with Kcore(file.name) as memory:
            places = [0, 1, (1 << 64) - 1, *(start for start, _, _ in segments[:8])]
            for address in places:
                _fine(lambda address=address: memory.read(address, 64))


def _kcore_seeds() -> list[bytes]:
    head = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
    rows = [(0xFFFFFFFF81000000, 4096, 512), (0xFFFF888000000000, 1 << 30, 1024)]
    raw = head.pack(b"\x7fELF", 2, 1, 1, 0, 0, 4, 62, 1, 0, 64, 0, 0, 64, 56, len(rows), 0, 0, 0)
    for address, size, offset in rows:
        raw += struct.pack("<IIQQQQQQ", 1, 7, offset, address, 0, size, size, 4096)
    return [raw.ljust(5000, b"\xcc")]


def _run_ringbuf(data: bytes) -> None:
    from pybpf.ringbuf.records import bytes_decoder, scan, struct_decoder

    data = data.ljust(8, b"\0")[: len(data) // 8 * 8 or 8]
    view = memoryview(bytearray(data))
    words = view.cast("I")
    for limit in (1 << 62, 3):
        found = _fine(lambda limit=limit: scan(words, 0, len(data), limit=limit))
        if found is not None:
            out: list[Any] = []
            bytes_decoder()(view, found.runs, out)
            if len(out) != found.records:
                raise Wrong("a record is missing")
            try:
                struct_decoder(struct.Struct("<Q"))(view, found.runs, [])
            except ValueError as error:
                if "but its type takes" not in str(error):
                    raise


def _run_perfbuf(data: bytes) -> None:
    from pybpf.ringbuf.perf import scan_perf
    from pybpf.ringbuf.records import bytes_decoder

    data = data[: len(data) // 8 * 8]
    view = memoryview(bytearray(data + bytes(8)))
    found = scan_perf(view)
    out: list[Any] = []
    bytes_decoder()(view, found.runs, out)
    if len(out) != found.records:
        raise Wrong("a record is missing")


def _ring_seeds() -> list[bytes]:
    records = b"".join(struct.pack("<II", n, 0) + bytes(n + 7 & ~7) for n in (8, 8, 8, 24, 5, 16))
    return [records * 4, struct.pack("<II8x", 8 | 1 << 30, 0) * 3 + records]


def _perf_seeds() -> list[bytes]:
    sample = struct.pack("<IHHI", 9, 0, 24, 12) + bytes(12)
    lost = struct.pack("<IHHQQ", 2, 0, 24, 1, 7)
    return [sample * 9 + lost + sample, lost + sample * 2]


def _run_retsnoop(data: bytes) -> None:
    from pybpf.tools.retsnoop.events import decode
    from pybpf.tools.retsnoop.sessions import Collector

    collector = Collector()
    for _ in range(2):
        collector.feed(decode(data))


def _run_format(data: bytes) -> None:
    from pybpf.tools.retsnoop.probes import parse_format, tracepoint_size

    tracepoint_size(parse_format(data.decode("utf-8", "surrogateescape")))


_FORMAT = b"""\
name: sched_switch
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:__data_loc char[] name;\toffset:24;\tsize:4;\tsigned:1;
"""


def _retsnoop_seeds() -> list[bytes]:
    frames = struct.pack("<IIQq", 1, 1, 500, -2) * 3
    end = struct.pack(
        "<IIiIQQIIIIIIII16s16s", 4, 1, 77, 1, 9, 99, 77, 77, *[0] * 4, 3, 0, b"a", b"b"
    )
    return [
        struct.pack("<IIiIIIQq", 1, 1, 77, 0, 5, 1, 1000, 0),
        struct.pack("<IIiI4Q", 3, 1, 77, 32, 1, 2, 3, 4),
        end + frames,
        struct.pack("<IIiIIIiIQ8x", 7, 1, 77, 0, 5, 24, 8, 0, 1),
        struct.pack("<IIiI6Q", 10, 1, 77, 48, *range(6)),
        struct.pack("<IIiIII16x", 9, 1, 77, 0, 5, 16),
    ]


def _run_trampoline(data: bytes) -> None:
    from pybpf.trampoline.decode import decode
    from pybpf.trampoline.roles import decode_entry

    for address in (0xFFFFFFFFC0400000, 0, (1 << 64) - 8):
        image = decode(data, address, lambda target: ("__bpf_prog_enter", 0))
        for instruction in image.instructions:
            str(instruction.label), str(instruction.comment)
        decode_entry(data, address)


def _trampolines() -> list[bytes]:
    return [path.read_bytes() for path in sorted((DATA / "trampolines").glob("*.bin"))]


def _run_verifier(data: bytes) -> None:
    from pybpf._sys.verifier import said_something, summary

    log = data.decode("utf-8", "replace")
    said_something(log)
    if summary(log).count("\n") > 32:
        raise Wrong("a long summary")


_LOG = b"""\
func#0 @0
Live regs before insn:
0: R1=ctx() R10=fp0
; int x = *(int *)ctx; @ a.bpf.c:12
0: (79) r2 = *(u64 *)(r1 +0)          ; R1=ctx() R2=scalar()
1: (79) r0 = *(u64 *)(r2 +8)
R2 invalid mem access 'scalar'
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""
_REPORT = b"""\
0: (85) call unknown#195896080
Verification failed: invalid call
Source context:
  a.bpf.c:12
Instruction context:
  0: (85) call unknown#195896080
Causal path:
  0
"""


# -- saved facts, and a plan made from them


def _facts_seeds() -> list[bytes]:
    from tests.support.savedfacts import saved_facts

    small = saved_facts(raw_btf=_core_seeds()[0])
    addresses = small | {"ftrace": packed(_with_addresses()[0]), "ftrace_sites": True}
    return [json.dumps(small).encode(), json.dumps(addresses).encode()]


def _run_facts(data: bytes) -> None:
    import tempfile

    from pybpf.multi.resolve import plan
    from pybpf.tools.inputs import read_facts
    from pybpf.tools.trampolines.plan import default_program

    with tempfile.NamedTemporaryFile(prefix="facts") as file:
        file.write(data)
        file.flush()
        facts = read_facts(file.name)
    for glob in ("vfs_*", "do_rmdir"):
        template, _ = default_program(f"fexit.multi/{glob}")
        made = _fine(lambda template=template, glob=glob: plan(template, glob, facts))
        if made is not None:
            str(made)
            json.loads(made.to_json())
    _fine(lambda: facts.btf.vmlinux().nr_types)


def _run_wrapped(data: bytes) -> None:
    # BTF in whatever it is wrapped in.
    import tempfile

    from pybpf.tools.inputs import read_btf

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        read_btf(Path(file.name)).validate()


def _wrapped_seeds() -> list[bytes]:
    blob = _core_seeds()[0]
    seeds = [blob, gzip.compress(blob, mtime=0), (DATA / "core_lines.bpf.o").read_bytes()]
    return [*seeds * 8, _bomb()]


@cache
def _bomb() -> bytes:
    # 80 MB of zeros in 80 KB.
    made = zlib.compressobj(9, wbits=31)
    parts = [made.compress(bytes(1 << 20)) for _ in range(80)]
    return b"".join([*parts, made.flush()])


_MODULES = b"""\
nf_conntrack 163840 2 nf_nat,xt_state, Live 0xffffffffc0400000
dummy 16384 0 - Live 0xffffffffc0500000 (OE)
"""
_FDINFO = b"pos:\t0\nflags:\t02000000\nlink_type:\ttracing\nlink_id:\t12\nprog_id:\t7\nmap_id:\t9\n"
_MOUNTS = (
    b"tracefs /sys/kernel/tracing tracefs rw 0 0\ndebugfs /sys/kernel/d\\040bug debugfs rw 0 0\n"
)
_MAPS = b"""\
55d0a0000000-55d0a0001000 r-xp 00001000 08:01 123                        /usr/bin/a b (deleted)
7f0000000000-7f0000002000 r-xp 00000000 00:00 0                          [vdso]
7f1000000000-7f1000002000 rw-p 00000000 00:00 0
"""

TARGETS = {
    target.name: target
    for target in (
        Target("elf", _objects, _run_elf, change_elf),
        Target("object", _objects, _run_object, change_elf),
        Target("open", _objects, _run_open, change_elf),
        Target("inspect", _objects, _run_inspect, change_elf),
        Target("btf", _btfs, _run_btf, change_btf),
        Target("btf-c", _btfs, _run_btf_c, change_btf),
        Target("btf-edit", _btfs, _run_btf_edit, change_btf),
        Target("values", _btfs, _run_values, change_btf),
        Target("c-values", _btfs, _run_c_values, change_btf),
        Target("tp-format", lambda: [_FORMAT], _run_format, change_text),
        Target("wrapped", _wrapped_seeds, _run_wrapped, change_bytes),
        Target(
            "btf-ext", lambda: [_section(_core_local()[2], ".BTF.ext")], _run_btf_ext, change_bytes
        ),
        Target("core", _core_seeds, _run_core, change_btf),
        Target("core-object", _core_objects, _run_core_object, change_elf),
        Target("struct-ops", _struct_ops_seeds, _run_struct_ops, change_btf),
        Target("facts", _facts_seeds, _run_facts, change_facts),
        Target("kallsyms", _kallsyms_seeds, _run_kallsyms, change_text),
        Target(
            "ftrace", lambda: _lines("*.ftrace")() + _with_addresses(), _run_ftrace, change_text
        ),
        Target("blacklist", _lines("*.blacklist"), _run_blacklist, change_text),
        Target(
            "words",
            lambda: [_MODULES, _FDINFO, _MOUNTS, b"0-3,8-11\n", b"none [integrity]", b"6.12.107-x"],
            _run_words,
            change_text,
        ),
        Target("maps", lambda: [_MAPS], _run_maps, change_text),
        Target(
            "globs",
            lambda: [b"vfs_*", b"*a*b?c* [nf_*]", b"nf:*_x", b"*a*a*a*b"],
            _run_globs,
            change_text,
        ),
        Target("kconfig", _kconfig_seeds, _run_kconfig, change_text),
        Target(
            "usdt",
            lambda: [
                b"-4@%eax 8@-8(%rbp) 8@(%rax,%rdx,8) -4@$5 8@x(%rip) 4f@%xmm0",
                b"-4@x0 8@[sp, 16] 8@[x1] -4@5",
                b"-4@a0 8@16(sp) -4@5",
                b"-4@%r2 8@160(%r15) -4@5",
            ],
            _run_usdt,
            change_text,
        ),
        Target("kcore", _kcore_seeds, _run_kcore, change_bytes),
        Target("ringbuf", _ring_seeds, _run_ringbuf, change_bytes),
        Target("perfbuf", _perf_seeds, _run_perfbuf, change_bytes),
        Target("retsnoop", _retsnoop_seeds, _run_retsnoop, change_bytes),
        Target("trampoline", _trampolines, _run_trampoline, change_bytes),
        Target("verifier", lambda: [_LOG, _REPORT], _run_verifier, change_text),
    )
}
