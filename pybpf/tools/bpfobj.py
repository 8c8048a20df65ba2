"""`pybpf obj`: show what is in a BPF object file, its final code, and whether it loads.

The commands for objects in the kernel (``list``, ``dump-map``) are in `kernelobj`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence

from ..errors import (
    BpfError,
    ObjectFormatError,
    PlanError,
    RelocationError,
)
from ..jsontext import dumps
from ..wording import plain
from . import kernelobj
from .entry import explain
from .pages import Page, page_of
from .parsers import About, Example, Parser

# The commands import what reads objects, so --help takes 27 ms instead of 90.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..btf import Btf
    from ..obj.spec import ObjectSpec

__all__ = ["inspect", "load", "main", "page", "relocate"]

_STATUSES = (
    (0, "report made, including what failed"),
    (1, "file cannot be read"),
    (2, "wrong arguments"),
)
_ABOUT = About(
    "BPF object files, and the objects that the kernel holds",
    examples=(
        Example("inspect trace.bpf.o", "programs and maps of an object"),
        Example("load trace.bpf.o", "result of loading each program on this kernel (needs root)"),
        Example("list links", "every link, what it is attached to and who holds it (needs root)"),
    ),
    statuses=_STATUSES,
)
_INSPECT = About(
    "programs and maps of an object file; with --json, types are UAPI numbers",
    examples=(Example("trace.bpf.o", "a table of programs and one of maps"),),
    statuses=_STATUSES,
)
_RELOCATE = About(
    "final code of each program, for the kernel with the given BTF",
    """\
Works offline and needs no privileges. Map references are positions in the order of
`inspect`. Descriptors of module BTF are 0 or 1. Addresses of kernel symbols change with
every boot, so they are 0.""",
    (Example("trace.bpf.o --btf /sys/kernel/btf/vmlinux", "code for the running kernel"),),
    _STATUSES,
)
_LOAD = About(
    "result of loading each program by itself on the running kernel",
    """\
Needs root. Values that a tool would set before it loads its object get defaults: 1024
entries for a map without a size (4096 bytes for a ring buffer, one entry per CPU for a CPU
map), and 127 frames for a map of stack traces. Multi programs (`fexit.multi` and the like)
are not tried: they are loaded when they are attached.""",
    (Example("trace.bpf.o", "ok, or the reason, for each program"),),
    _STATUSES,
)

_PYI = About(
    "types of an object's programs, maps, globals and records, as a Python stub",
    """\
Editors and type checkers then know the names and types of the object. Save the stub beside
your program. It is read under TYPE_CHECKING only; its first lines say how.""",
    (Example("trace.bpf.o -o trace_bpf.pyi", "a stub in a file"),),
    _STATUSES,
)

_KERNEL_BTF = "/sys/kernel/btf/vmlinux"

# enum bpf_map_type
PERF_EVENT_ARRAY, STACK_TRACE, CPUMAP, STRUCT_OPS, RINGBUF, USER_RINGBUF = 4, 7, 16, 26, 27, 31
SK_STORAGE, INODE_STORAGE, TASK_STORAGE, CGRP_STORAGE = 24, 28, 29, 32
# Maps whose number of entries the loader sets, or nobody.
NO_SIZE = {
    *(PERF_EVENT_ARRAY, STRUCT_OPS),
    *(SK_STORAGE, INODE_STORAGE, TASK_STORAGE, CGRP_STORAGE),
}
# A CPU map cannot have more entries than the kernel has CPUs.
STAND_INS = {RINGBUF: 4096, USER_RINGBUF: 4096, CPUMAP: os.cpu_count() or 1}
_LATE = (
    "not tried: a multi program is loaded when it is attached, in a form that depends on the "
    "functions; `trampolines plan --object FILE --program NAME` shows it"
)


def inspect(spec: ObjectSpec) -> dict[str, list[dict[str, Any]]]:
    """Return programs and maps as plain values. Data section maps have libbpf's name."""
    return {
        "programs": [
            {
                "name": program.name,
                "section": program.section,
                "type": int(program.type),
                "expected_attach_type": int(program.expected_attach_type),
                "insns": program.insn_cnt,
            }
            for program in spec.programs.values()
        ],
        "maps": [
            {
                "name": one.kernel_name(spec.object_name) if one.is_internal else one.name,
                "type": int(one.type),
                "key_size": one.key_size,
                "value_size": one.value_size,
                "max_entries": one.max_entries,
                "map_flags": one.map_flags,
            }
            for one in spec.maps.values()
        ],
    }


def relocate(spec: ObjectSpec, btf: Btf | None) -> dict[str, dict[str, dict[str, Any]]]:
    """Link each program. Return its final code in hex, or why there is none.

    ``missing`` lists what a program needs and that kernel lacks. The program can still be
    loaded if it never reaches those instructions.

    :param btf: the kernel's BTF; None if the object needs none
    """
    from ..obj.linker import Linker, LinkTarget
    from ..obj.missing import missing

    def folded(name: str) -> str:
        # Without sessions in the kernel, two programs do for one, and this is a constant in each.
        session = spec.programs[name].section.lstrip("?").startswith("fsession.multi")
        return "kfunc 'bpf_session_is_return'" if session else ""

    linker = Linker(spec, LinkTarget(btf, ksym_addr=lambda name: 0))
    programs: dict[str, dict[str, Any]] = {}
    for name in spec.programs:
        try:
            linked = linker.link(name)
            programs[name] = {"insns": linked.insns.hex(), "error": None}
            lacking = [str(one) for one in missing(linked, spec) if one.what != folded(name)]
            if lacking:
                programs[name]["missing"] = lacking
        except (RelocationError, ObjectFormatError) as err:
            programs[name] = {"insns": "", "error": str(err)}
    return {"programs": programs}


def load(
    file: str, *, legacy_maps: bool = False, kconfig: str | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the running kernel's answer for each program. The maps are made once.

    :param kconfig: file with the kernel's configuration, None for the running kernel's own
    """
    import pybpf

    programs: dict[str, dict[str, Any]] = {}
    with pybpf.open(file, legacy_maps=legacy_maps, kconfig=kconfig) as obj:
        _fill_in(obj)
        failed: dict[str, Any] | None = None
        try:
            obj.prepare()
        except (BpfError, PlanError, RelocationError, ObjectFormatError) as err:
            failed = _failure(err)
        for program in obj.programs.values():
            if failed is None and program.is_multi:
                programs[program.name] = {"ok": False, "errno": errno.EINVAL, "reason": _LATE}
            elif failed is None:
                try:
                    program.load()
                    programs[program.name] = {"ok": True, "errno": 0, "reason": ""}
                except (BpfError, PlanError, RelocationError, ObjectFormatError) as err:
                    who = f"program {program.name!r} ({program.section}): "  # its row has that
                    programs[program.name] = _failure(err, who)
            else:
                programs[program.name] = failed
    return {"programs": programs}


def _failure(err: Exception, known: str = "") -> dict[str, Any]:
    # libbpf answers EINVAL for code that it cannot complete.
    number = err.errno if isinstance(err, BpfError) else errno.EINVAL
    return {"ok": False, "errno": number or 0, "reason": str(err).removeprefix(known)}


def _fill_in(obj: Any) -> None:
    from ..dataclass import replace

    # An object's tool sets these at run time.
    for one in obj.maps.values():
        # A trial neither uses nor leaves maps in the BPF file system.
        one.spec = replace(one.spec, pinning=0)
        if one.type == STACK_TRACE and not one.value_size:
            one.value_size = 127 * 8
        if not one.max_entries and one.type not in NO_SIZE:
            one.max_entries = STAND_INS.get(one.type, 1024)


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Format columns under the first row's headings, with numbers to the right."""
    columns = []
    for cells in zip(*rows, strict=True):
        texts = [plain(str(cell)) for cell in cells]
        width = max(map(len, texts))
        to_the_right = isinstance(cells[-1], int)
        columns.append([t.rjust(width) if to_the_right else t.ljust(width) for t in texts])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _print_inspect(spec: ObjectSpec) -> None:
    from ..links.table import problem as attach_problem

    print(plain(f"{spec.name}: license {spec.license!r}"))
    if spec.programs:
        rows: list[Sequence[object]] = [("PROGRAM", "SECTION", "TYPE", "ATTACH", "INSNS", "NOTES")]
        for program in spec.programs.values():
            notes = [] if program.autoload else ["not loaded by default"]
            if program.sec_def is None:
                notes.append("unknown section name")
            else:
                problem = attach_problem(program.sec_def.how, program.section, program.attach_to)
                if problem is not None:
                    notes.append(problem.hint or "pybpf cannot attach it yet")
            rows.append(
                (
                    program.name,
                    program.section,
                    program.type_name or "-",
                    program.attach_type_name or "-",
                    program.insn_cnt,
                    ", ".join(notes),
                )
            )
        print(_table(rows))
    if spec.maps:
        rows = [("MAP", "SECTION", "TYPE", "KEY", "VALUE", "ENTRIES", "FLAGS")]
        rows += [
            (
                one.kernel_name(spec.object_name) if one.is_internal else one.name,
                one.section,
                one.type_name,
                one.key_size,
                one.value_size,
                one.max_entries,
                f"{one.map_flags:#x}",
            )
            for one in spec.maps.values()
        ]
        print(_table(rows))


def _print_kconfig(spec: ObjectSpec, kconfig: str | None) -> None:
    # The options that the object asks for, and their values in a configuration.
    options = [one for one in spec.externs if one.name.startswith("CONFIG_")]
    if not options:
        return
    from ..kernel.config import read_config

    config = read_config(kconfig)
    values = dict(line.split("=", 1) for line in reversed(config.lines) if "=" in line)
    rows = [("KCONFIG", "VALUE")]
    for one in options:
        lacking = "unknown" if config.unknown else "not set" if one.weak else "not set: needed"
        rows.append((one.name, values.get(one.name, lacking)))
    print(_table(rows))
    if config.unknown:
        print(plain(f"{config.unknown}; give --kconfig FILE"))


def _print_missing(report: dict[str, dict[str, dict[str, Any]]]) -> None:
    # What programs lack on this kernel, under the tables of `inspect`.
    lines = []
    for name, program in report["programs"].items():
        said = [program["error"]] if program["error"] is not None else program.get("missing", [])
        lines += [plain(f"{name}: {text}") for text in said]
    if lines:
        print("\nMISSING ON THIS KERNEL")
        print("\n".join(lines))


def _print_relocate(report: dict[str, dict[str, dict[str, Any]]]) -> None:
    from ..asm import decode
    from ..asm import text as asm_text
    from .screen import many

    for name, program in report["programs"].items():
        if program["error"] is not None:
            print(plain(f"{name}: {program['error']}", lines=True))
            continue
        insns = decode(bytes.fromhex(program["insns"] or ""))
        print(f"{plain(name)}: {many(len(insns), 'instruction')}")
        for text in program.get("missing", []):
            print(plain(f"  missing: {text}"))
        print("".join(f"    {row}\n" for row in asm_text.listing(insns)), end="")


def _print_load(report: dict[str, dict[str, dict[str, Any]]]) -> None:
    for name, program in report["programs"].items():
        print(plain(f"{name}: {'ok' if program['ok'] else program['reason']}", lines=True))


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT)
    for name, about, run in (
        ("inspect", _INSPECT, _run_inspect),
        ("relocate", _RELOCATE, _run_relocate),
        ("load", _LOAD, _run_load),
        ("pyi", _PYI, _run_pyi),
    ):
        command = parser.add_command(name, about, run)
        command.add_argument("file", metavar="FILE", help="BPF object file")
        if name == "pyi":
            command.add_argument("-o", metavar="OUT", help="output file (default: standard output)")
        else:
            command.add_argument("--json", action="store_true", help="JSON output instead of text")
        command.add_argument(
            "--legacy-maps",
            action="store_true",
            help="old maps (struct bpf_map_def) included, which libbpf refuses",
        )
        if name in ("inspect", "load"):
            command.add_argument(
                "--kconfig",
                metavar="FILE",
                help="file with the kernel's configuration, plain or .gz (default: this kernel's)",
            )
        if name == "relocate":
            command.add_argument(
                "--btf",
                required=True,
                metavar="BTF",
                help="file with the kernel's BTF: raw, .gz or ELF",
            )
    command = parser.add_command("list", kernelobj.LIST, kernelobj.run_list)
    command.add_argument("kind", choices=kernelobj.KINDS, help="programs, maps, links or btf")
    command.add_argument("--json", action="store_true", help="JSON output instead of text")
    command = parser.add_command("dump-map", kernelobj.DUMP, kernelobj.run_dump)
    command.add_argument("map", metavar="ID_OR_PATH", help="id of a map, or path of its pin")
    command.add_argument("--json", action="store_true", help="JSON output instead of text")
    return parser


def page(prog: str) -> Page:
    """Return the command line as data."""
    return page_of(_parser(prog))


def main(argv: Sequence[str] | None = None, prog: str = "bpfobj.py") -> int:
    """Run the tool and return its exit status."""
    args = _parser(prog).parse_args(argv)
    try:
        status: int = args.run(args)
        return status
    except (OSError, ObjectFormatError) as error:
        print(f"{prog}: {explain(error, getattr(args, 'file', ''))}", file=sys.stderr)
        return 1


def _read(args: argparse.Namespace) -> ObjectSpec:
    from ..obj.reader import read_object

    with open(args.file, "rb") as file:
        return read_object(file.read(), args.file, legacy_maps=args.legacy_maps)


def _kernel_btf() -> Btf:
    from ..kernel.btf import vmlinux  # 10 ms, with what calls the kernel

    return vmlinux()


def _print_json(report: object) -> None:
    print(dumps(report))


def _run_inspect(args: argparse.Namespace) -> int:
    spec = _read(args)
    if args.json:
        _print_json(inspect(spec))
    else:
        if spec.big_endian:
            print("big-endian: for machines of the other byte order; it can only be inspected")
        _print_inspect(spec)
        _print_kconfig(spec, args.kconfig)
        if spec.btf is not None and os.path.exists(_KERNEL_BTF):
            with contextlib.suppress(BpfError, OSError, ObjectFormatError):
                _print_missing(relocate(spec, _kernel_btf() if spec.needs_kernel_btf else None))
    return 0


def _run_relocate(args: argparse.Namespace) -> int:
    from pathlib import Path

    from .inputs import read_btf

    report = relocate(_read(args), read_btf(Path(args.btf)))
    if args.json:
        _print_json(report)
    else:
        _print_relocate(report)
    return 0


def _run_pyi(args: argparse.Namespace) -> int:
    from pathlib import Path

    from ..stub import object_stub

    text = object_stub(_read(args))
    if args.o:
        Path(args.o).write_text(text, encoding="utf-8")
    else:
        print(plain(text, lines=True), end="")
    return 0


def _run_load(args: argparse.Namespace) -> int:
    from ..kernel.config import read_config
    from .progress import Waiting

    if args.kconfig is not None:
        read_config(args.kconfig)  # a wrong file is one error, not one for each program
    with Waiting("loading programs", sys.stderr):
        report = load(args.file, legacy_maps=args.legacy_maps, kconfig=args.kconfig)
    if args.json:
        _print_json(report)
    else:
        _print_load(report)
    return 0
