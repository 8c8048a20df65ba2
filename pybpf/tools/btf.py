"""Print BTF type information: as C, record by record, or the types of one name.

`dump` writes all types: `--format raw` (the default) one record after the other, as
`bpftool btf dump` does, so that the two can be compared with diff; `--format c`
as C declarations (a vmlinux.h). `find` prints the types of one name; NAME may be a
glob such as 'vfs_*'.

FILE is BTF as it is (also .gz), or an ELF file with a .BTF section; a module's file
under /sys/kernel/btf continues the kernel's, others may name a `--base`.
By default it is the running kernel's, /sys/kernel/btf/vmlinux.

Exit status: 0 ok, 1 no such type or a bad file, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..btf import Btf, BtfKind
from ..btf.rawdump import as_dict, raw_lines, type_lines
from ..errors import ObjectFormatError
from .entry import explain
from .inputs import KERNEL, read_btf

__all__ = ["main"]


def _find(btf: Btf, pattern: str) -> Iterator[tuple[int, Btf]]:
    # (id, the Btf it is in), own types first.
    if not any(c in pattern for c in "*?["):
        for type_id in btf.find_all(pattern):
            yield type_id, btf
        return
    import fnmatch

    layer: Btf | None = btf
    while layer is not None:
        for name, ids in layer.names().items():
            if fnmatch.fnmatchcase(name, pattern):
                for type_id in [ids] if isinstance(ids, int) else ids:
                    yield type_id, btf
        layer = layer.base


def _dump(args: argparse.Namespace) -> int:
    btf = read_btf(args.file, args.base)
    btf.validate()
    if args.format == "c":
        from ..btf.cdump import dump

        sys.stdout.write(dump(btf))
    elif args.json:
        separator = '{"types":[\n'
        for type_id, t in btf.types():
            sys.stdout.write(separator + json.dumps(as_dict(type_id, t)))
            separator = ",\n"
        sys.stdout.write(("" if separator[0] == "," else separator) + "\n]}\n")
    else:
        sys.stdout.writelines(line + "\n" for line in raw_lines(btf))
    return 0


def _show(args: argparse.Namespace) -> int:
    btf = read_btf(args.file, args.base)
    wanted = None if args.kind is None else BtfKind[args.kind.upper()]
    found = []
    for type_id, owner in _find(btf, args.name):
        t = owner.type(type_id)
        if wanted is None or t.kind == wanted:
            found.append(as_dict(type_id, t))
            if not args.json:
                sys.stdout.writelines(line + "\n" for line in type_lines(owner, type_id, t))
    if args.json:
        print(json.dumps({"types": found}))
    if not found:
        print(f"no type {args.name!r} in {args.file}", file=sys.stderr)
    return 0 if found else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="btf.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    dump = commands.add_parser("dump", help="all types")
    dump.add_argument("file", nargs="?", type=Path, default=KERNEL, metavar="FILE")
    dump.add_argument("--format", choices=("c", "raw"), default="raw")
    dump.set_defaults(run=_dump)
    find = commands.add_parser("find", help="the types of one name")
    find.add_argument("name", metavar="NAME")
    find.add_argument("file", nargs="?", type=Path, default=KERNEL, metavar="FILE")
    kinds = [kind.name.lower() for kind in BtfKind if kind]
    find.add_argument("--kind", choices=kinds, metavar="KIND", help="one of " + ", ".join(kinds))
    find.set_defaults(run=_show)
    for command in (dump, find):
        command.add_argument("--base", type=Path, metavar="FILE", help="what a split BTF continues")
        command.add_argument("--json", action="store_true", help="records as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.json and getattr(args, "format", "raw") == "c":
        parser.error("--json goes with --format raw")
    try:
        status: int = args.run(args)
        return status
    except (OSError, ObjectFormatError) as error:
        print(f"btf.py: {explain(error, args.file)}", file=sys.stderr)
        return 1
