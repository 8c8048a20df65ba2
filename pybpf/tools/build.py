"""`pybpf build`: compile BPF objects from C, with clang, our headers and a vmlinux.h made from
BTF."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..dataclass import dataclass
from ..errors import ObjectFormatError
from ..wording import plain
from .entry import explain
from .pages import Page, page_of
from .parsers import About, Example, Parser
from .progress import Waiting
from .screen import many

__all__ = ["HEADERS", "BuildError", "Compiler", "find_clang", "main", "page", "write_vmlinux"]

_KERNEL = Path("/sys/kernel/btf/vmlinux")
#: Where pybpf.h and kernel.h are.
HEADERS = Path(__file__).resolve().parents[1] / "include"

_STATUSES = ((0, "ok"), (1, "failed"), (2, "wrong arguments"))
_ABOUT = About(
    "BPF objects from C, made with clang and a vmlinux.h from BTF",
    """\
FILE may include pybpf.h and vmlinux.h. pybpf.h comes with pybpf and has helpers, map and
section macros, and CO-RE reads, under the names of libbpf. Sources that include <bpf/...> get
it as well, if libbpf's headers are not installed. vmlinux.h has all types of a kernel. It is
made from BTF if FILE includes it and there is none beside FILE. Include vmlinux.h first.

The object has BTF and no other debug information. It is read back after compiling.""",
    (
        Example("trace.bpf.c", "trace.bpf.o beside the source"),
        Example(
            "trace.bpf.c -o /tmp/trace.o -DDEBUG=1", "an object elsewhere, with a macro defined"
        ),
        Example(
            "trace.bpf.c --btf vmlinux-6.1", "an object built with vmlinux.h of another kernel"
        ),
    ),
    _STATUSES,
)
# The kernel's names of machines, for -D__TARGET_ARCH_.
_ARCHES = {"x86_64": "x86", "aarch64": "arm64", "ppc64le": "powerpc", "s390x": "s390"}
_FLAGS = ("-target", "bpf", "-O2", "-g", "-std=gnu11", "-Wall")


class BuildError(Exception):
    """Report that an object cannot be made. The text says why."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """Describe a clang that compiles for BPF.

    :param path: path of the program
    :param strip: llvm-strip of the same version, None if there is none
    """

    path: str
    strip: str | None


def find_clang(name: str | None = None) -> Compiler:
    """Find a clang with a BPF target.

    :param name: program to use; by default ``clang``, or else the newest ``clang-N``
    :raises BuildError: if there is none, or it cannot compile for BPF
    """
    import shutil
    import subprocess

    names = [name] if name else ["clang", *_versioned()]
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        if name:
            raise BuildError(f"{name}: program not found")
        raise BuildError("no clang on PATH; install it (Debian: apt install clang llvm)")
    done = subprocess.run([path, "--print-targets"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{path} --print-targets failed: {done.stderr.strip()}")
    if not re.search(r"^\s*bpf\s", done.stdout, re.M):
        raise BuildError(f"{path} cannot compile for BPF; try another (Debian: apt install clang)")
    suffix = re.search(r"-\d+$", os.path.basename(path))
    strips = [f"llvm-strip{suffix[0]}" if suffix else "llvm-strip", "llvm-strip"]
    return Compiler(path, next(filter(None, map(shutil.which, strips)), None))


def _versioned() -> list[str]:
    # clang-19 before clang-18.
    found: set[int] = set()
    for folder in os.get_exec_path():
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        found.update(int(m[1]) for m in map(re.compile(r"clang-(\d+)").fullmatch, names) if m)
    return [f"clang-{number}" for number in sorted(found, reverse=True)]


def write_vmlinux(btf: Path, target: Path) -> None:
    """Write the types of a kernel as C declarations.

    :param btf: raw BTF, or an ELF file with BTF
    :raises OSError: a file cannot be read or written
    :raises ObjectFormatError: the file holds no BTF
    """
    from ..btf.cdump import dump
    from .inputs import read_btf

    guard = "#ifdef PYBPF_H\n#error include vmlinux.h before pybpf.h\n#endif\n"
    target.write_text(guard + dump(read_btf(btf)))


def _include_flags(args: argparse.Namespace) -> list[str]:
    flags = [f"-I{path}" for path in args.include]
    flags += [f"-D{macro}" for macro in args.define]
    flags += [f"-I{HEADERS}", "-idirafter", f"{HEADERS}/libbpf"]  # libbpf's own go first
    machine = os.uname().machine
    flags.append(f"-D__TARGET_ARCH_{_ARCHES.get(machine, machine)}")
    # With -target bpf clang does not look there, and <linux/types.h> needs it.
    own = Path(f"/usr/include/{machine}-linux-gnu")
    return [*flags, "-idirafter", str(own)] if own.is_dir() else flags


def _missing_headers(compiler: Compiler, source: Path, flags: Sequence[str]) -> set[str]:
    import subprocess

    # -MG lists a missing header by the name in the source.
    command = [compiler.path, *_FLAGS, *flags, "-w", "-M", "-MG", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = done.stdout.replace("\\\n", " ").split()[1:]
    return {name for name in names if not os.path.exists(name)}


def build(source: Path, target: Path, compiler: Compiler, args: argparse.Namespace) -> str:
    """Compile one file and read the object back. If that fails, the old object stays.

    :returns: what is in it, for people
    :raises BuildError: clang refuses it, or the object cannot be loaded
    :raises OSError: a file cannot be read or written
    """
    import subprocess
    import tempfile

    from ..obj.reader import read_object

    with open(source, "rb"):
        pass  # raises the error that names the file
    flags = _include_flags(args)
    with tempfile.TemporaryDirectory(prefix="pybpf-build-") as name:
        scratch = Path(name)
        missing = _missing_headers(compiler, source, flags)
        if "vmlinux.h" in missing:
            with Waiting(f"writing vmlinux.h from {args.btf}", sys.stderr):
                write_vmlinux(args.btf, scratch / "vmlinux.h")
            flags.append(f"-I{scratch}")
        made = scratch / "object.o"
        command = [compiler.path, *_FLAGS, f"-mcpu={args.cpu}", *flags, "-c", str(source)]
        if subprocess.run([*command, "-o", str(made)], check=False).returncode:
            raise BuildError(f"{source}: clang reports errors, see above{_hint(missing)}")
        if compiler.strip:
            subprocess.run([compiler.strip, "-g", str(made)], check=True)
        data = made.read_bytes()
        try:
            spec = read_object(data, str(target))
        except ObjectFormatError as error:
            raise BuildError(f"clang made an object that cannot be loaded: {error}") from None
        _write(target, data)
    return f"{many(len(spec.programs), 'program')}, {many(len(spec.maps), 'map')}"


def _hint(missing: set[str]) -> str:
    if any(name.startswith("bpf/") for name in missing):
        return "; use pybpf.h instead of that, or install libbpf's headers (libbpf-dev)"
    return ""


def _write(target: Path, data: bytes) -> None:
    if target.exists() and not target.is_file():
        target.write_bytes(data)  # a device, a pipe
        return
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(target)) from None


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT)
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="C source, FILE.bpf.c")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        help="object to write (default: beside the source, FILE.bpf.o)",
    )
    parser.add_argument(
        "-I",
        "--include",
        metavar="DIR",
        action="append",
        default=[],
        help="directory with headers, before pybpf's own; may be repeated",
    )
    parser.add_argument(
        "-D",
        "--define",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="macro to define; may be repeated",
    )
    parser.add_argument(
        "--btf",
        metavar="BTF",
        type=Path,
        default=_KERNEL,
        help="file with the BTF to make vmlinux.h from (default: the running kernel's)",
    )
    parser.add_argument(
        "--clang",
        metavar="CLANG",
        help="compiler to use (default: clang, or else the newest clang-N)",
    )
    parser.add_argument(
        "--cpu",
        choices=["v1", "v2", "v3", "v4"],
        default="v3",
        help="BPF instruction set; v3 runs on every supported kernel (default: %(default)s)",
    )
    return parser


def page(prog: str) -> Page:
    """Return the command line as data."""
    return page_of(_parser(prog))


def main(argv: Sequence[str] | None = None, prog: str = "build.py") -> int:
    """Run the tool and return its exit status."""
    parser = _parser(prog)
    args = parser.parse_args(argv)
    if args.output and len(args.files) > 1:
        parser.error("-o needs exactly one FILE")
    for source in args.files:
        if source.suffix == ".o":
            parser.error(f"{source} is an object, not C source")
    try:
        compiler = find_clang(args.clang)
        for source in args.files:
            target = args.output or source.with_suffix(".o")
            print(plain(f"{target}: {build(source, target, compiler, args)}"), flush=True)
    except BuildError as error:
        print(f"{prog}: {plain(str(error), lines=True)}", file=sys.stderr)
        return 1
    except (OSError, ObjectFormatError) as error:
        print(f"{prog}: {explain(error)}", file=sys.stderr)
        return 1
    return 0
