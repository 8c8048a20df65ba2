"""`pybpf btf`: print BTF type information as C or record by record, or find types by name."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence

from ..errors import ObjectFormatError
from ..jsontext import dumps
from ..wording import plain
from .entry import explain
from .pages import Page, page_of
from .parsers import About, Example, Parser
from .progress import Waiting

# The commands import what reads BTF, so --help takes 25 ms less.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf

__all__ = ["main", "page"]

_STATUSES = ((0, "ok"), (1, "no such type, or a file that cannot be read"), (2, "wrong arguments"))
_FILE_TEXT = """\
FILE is raw BTF (also .gz), or an ELF file with a section .BTF. A module's file under
/sys/kernel/btf builds on the kernel's BTF. For other split BTF, --base names the file it
builds on."""
_ABOUT = About(
    "BTF type information, as C, as records, or by name",
    _FILE_TEXT,
    (
        Example("dump --format c > vmlinux.h", "C declarations of all types of the running kernel"),
        Example("find task_struct", "one type of the running kernel"),
        Example("find 'vfs_*' --kind func", "the functions with matching names"),
    ),
    _STATUSES,
)
_DUMP = About(
    "all types, as C declarations or record by record",
    "The records are those of `bpftool btf dump`, so diff can compare the two.",
    (Example("--format c > vmlinux.h", "C declarations of all types of the running kernel"),),
    _STATUSES,
)
_FIND = About(
    "the types with a given name",
    examples=(
        Example("task_struct", "one type of the running kernel"),
        Example("'vfs_*' --kind func", "the functions with matching names"),
    ),
    statuses=_STATUSES,
)


#: BTF of the running kernel.
_KERNEL = "/sys/kernel/btf/vmlinux"
#: Members of `pybpf.btf.BtfKind` in lower case, in their order.
KINDS = (
    *("int", "ptr", "array", "struct", "union", "enum", "fwd", "typedef", "volatile", "const"),
    *("restrict", "func", "func_proto", "var", "datasec", "float", "decl_tag", "type_tag"),
    "enum64",
)


def _find(btf: Btf, pattern: str) -> Iterator[tuple[int, Btf]]:
    # Yields (id, the Btf it is in), own types first.

    from ..kernel.globs import glob_regex, is_glob

    if not is_glob(pattern):
        for type_id in btf.find_all(pattern):
            yield type_id, btf
        return
    match = re.compile(glob_regex(pattern), re.DOTALL).fullmatch
    layer: Btf | None = btf
    while layer is not None:
        for name, ids in layer.names().items():
            if match(name):
                for type_id in [ids] if isinstance(ids, int) else ids:
                    yield type_id, btf
        layer = layer.base


def _shown(line: str) -> str:
    # The tab before a member is ours. The rest may contain anything.
    return f"\t{plain(line[1:])}\n" if line[:1] == "\t" else f"{plain(line)}\n"


def _read(args: argparse.Namespace) -> Btf:
    from pathlib import Path

    from .inputs import read_btf

    return read_btf(Path(args.file), args.base and Path(args.base))


def _dump(args: argparse.Namespace) -> int:
    from ..btf.rawdump import as_dict, raw_lines

    btf = _read(args)
    if args.format == "c":
        import gc

        from ..btf.cdump import dump

        collecting = gc.isenabled()
        gc.disable()  # it would go through all types, again and again, and free none
        try:
            with Waiting("writing declarations", sys.stderr):
                text = dump(btf)  # decodes what declarations need; functions are none
        finally:
            if collecting:
                gc.enable()
        sys.stdout.write(text)
        return 0
    btf.validate()
    if args.json:
        separator = '{"types":[\n'
        for type_id, t in btf.types():
            sys.stdout.write(separator + dumps(as_dict(type_id, t)))
            separator = ",\n"
        sys.stdout.write(("" if separator[0] == "," else separator) + "\n]}\n")
    else:
        sys.stdout.writelines(map(_shown, raw_lines(btf)))
    return 0


def _show(args: argparse.Namespace) -> int:
    from ..btf import BtfKind
    from ..btf.absent import near
    from ..btf.rawdump import as_dict, type_lines

    btf = _read(args)
    wanted = None if args.kind is None else BtfKind[args.kind.upper()]
    found = []
    for type_id, owner in _find(btf, args.name):
        t = owner.type(type_id)
        if wanted is None or t.kind == wanted:
            found.append(as_dict(type_id, t))
            if not args.json:
                sys.stdout.writelines(map(_shown, type_lines(owner, type_id, t)))
    if args.json:
        print(dumps({"types": found}))
    if not found:
        text = f"{args.prog}: no {args.kind or 'type'} {args.name!r} in {args.file}"
        others = dict.fromkeys(BtfKind(o.kind(i)).name.lower() for i, o in _find(btf, args.name))
        if others:
            text += f"; it is a {' and a '.join(others)}"
        elif names := near(args.name, btf.names()):
            text += f"; near: {', '.join(names)}"
        print(plain(text), file=sys.stderr)
    return 0 if found else 1


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT)
    dump = parser.add_command("dump", _DUMP, _dump)
    find = parser.add_command("find", _FIND, _show)
    find.add_argument("name", metavar="NAME", help="name of a type, or a glob such as 'vfs_*'")
    for command in (dump, find):
        command.add_argument(
            "file",
            nargs="?",
            default=_KERNEL,
            metavar="FILE",
            help="file with BTF: raw, .gz or ELF (default: the running kernel's)",
        )
    dump.add_argument(
        "--format", choices=("c", "raw"), default="raw", help="form of the output (default: raw)"
    )
    find.add_argument(
        "--kind",
        choices=KINDS,
        metavar="KIND",
        help=f"kind of the types to print: {', '.join(KINDS)} (default: any)",
    )
    for command in (dump, find):
        command.add_argument(
            "--base", metavar="FILE", help="file with the BTF that split BTF in FILE builds on"
        )
        command.add_argument(
            "--json", action="store_true", help="JSON output, as records, instead of text"
        )
    return parser


def page(prog: str) -> Page:
    """Return the command line as data."""
    return page_of(_parser(prog))


def main(argv: Sequence[str] | None = None, prog: str = "btf.py") -> int:
    """Run the tool and return its exit status."""
    parser = _parser(prog)
    args = parser.parse_args(argv)
    args.prog = prog
    if args.json and getattr(args, "format", "raw") == "c":
        parser.error("--json needs --format raw")
    try:
        status: int = args.run(args)
        return status
    except (OSError, ObjectFormatError) as error:
        print(f"{prog}: {explain(error, args.file)}", file=sys.stderr)
        return 1
