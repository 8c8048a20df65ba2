"""pybpf.btf.cdump and rawdump, tools/btf.py: text against bpftool's and clang's view of it."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.btf import (
    Array,
    Btf,
    BtfKind,
    Const,
    DeclTag,
    Enum,
    Enum64,
    EnumValue,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Restrict,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Unknown,
    Volatile,
)
from pybpf.btf.cdump import dump
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.rawdump import raw_lines, type_lines
from pybpf.elf import ElfFile
from pybpf.errors import ObjectFormatError
from pybpf.obj.reader import read_object
from pybpf.tools import btf as tool
from pybpf.tools.build import HEADERS
from pybpf.tools.inputs import read_btf
from tests.support.examples import examples

DATA = Path(__file__).parents[1] / "data"
TOOL = str(Path(__file__).parents[2] / "tools/btf.py")
BLOB = DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz"
# sha256 of `bpftool btf dump file BLOB format raw` (bpftool 7.1.0).
BPFTOOL_RAW = "ca3f9a09511238580707a65338f4c237adcc8ed5294c33aad9305f550a5290a9"

CLANG = shutil.which("clang-19")
needs_clang = pytest.mark.skipif(CLANG is None, reason="clang-19 is not installed")


@pytest.fixture(scope="module")
def vmlinux() -> Btf:
    return Btf(gzip.decompress(BLOB.read_bytes()))


def blob(*types: Type) -> Btf:
    builder = BtfBuilder()
    for t in types:
        builder.add(t)
    return Btf(builder.build())


INT = Int("int", 4, 32, 0, 1)
CHAR = Int("char", 1, 8, 0, 1)


def c_of(*types: Type) -> str:
    """Only the declarations, on single spaces."""
    text = dump(blob(*types))
    body = text.split("#endif\n", 1)[1].rsplit("#ifndef", 1)[0]
    return " ".join(body.split())


def test_raw_dump_is_bpftools(vmlinux: Btf) -> None:
    """The whole kernel, record by record, in bpftool's very text."""
    digest = hashlib.sha256()
    for line in raw_lines(vmlinux):
        digest.update(line.encode() + b"\n")
    assert digest.hexdigest() == BPFTOOL_RAW


@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
@pytest.mark.parametrize("name", sorted(p.name for p in DATA.glob("core_*.bpf.o")))
def test_raw_dump_of_objects_is_the_installed_bpftools(name: str) -> None:
    """Objects' own BTF (enum64, extern, datasec) too, against the bpftool that is here."""
    run = subprocess.run(
        ["bpftool", "btf", "dump", "file", DATA / name], capture_output=True, text=True, check=True
    )
    assert list(raw_lines(read_btf(DATA / name))) == run.stdout.splitlines()


def test_raw_lines_of_unknown_kinds() -> None:
    """What we do not know is listed, not dropped."""
    assert list(type_lines(blob(INT), 3, Unknown("x", 25))) == ["[3] UNKNOWN25 'x'"]


@pytest.mark.parametrize(
    ("types", "want"),
    [
        (
            (INT, Typedef("a", 3), Ptr(4), Const(5), Volatile(1)),
            "typedef const volatile int *a;",
        ),
        ((INT, Const(3), Ptr(1), Typedef("p", 2)), "typedef int * const p;"),
        ((INT, Restrict(3), Ptr(4), Const(1), Typedef("p", 2)), "typedef const int * restrict p;"),
        ((INT, Array(1, 1, 3), Array(2, 1, 2), Typedef("g", 3)), "typedef int g[2][3];"),
        ((INT, Array(1, 1, 3), Ptr(2), Typedef("g", 3)), "typedef int (*g)[3];"),
        ((INT, Const(3), Array(1, 1, 3), Typedef("g", 2)), "typedef const int g[3];"),
        (
            (INT, FuncProto(1, (Param("", 1), Param("", 0))), Ptr(2), Typedef("f", 3)),
            "typedef int (*f)(int, ...);",
        ),
        ((FuncProto(0), Typedef("f", 1)), "typedef void f(void);"),
        ((FuncProto(0, (Param("", 0),)), Typedef("f", 1)), "typedef void f();"),
        (
            (INT, FuncProto(4), Array(5, 1, 2), Ptr(1), Ptr(2), Typedef("t", 3)),
            "typedef int *(*t[2])(void);",
        ),
        ((INT, TypeTag("user", 1), Ptr(2), Typedef("u", 3)), "typedef int *u;"),
        ((Fwd("f"), Ptr(1), Typedef("p", 2)), "struct f; typedef struct f *p;"),
        ((Fwd("f", True), Ptr(1), Typedef("p", 2)), "union f; typedef union f *p;"),
        ((Enum("e", 4),), "enum e;"),
        (
            (Enum("e", 1, (EnumValue("A", 1),)),),
            "enum e { A = 1, } __attribute__((mode(QI)));",
        ),
        (
            (Enum64("e", 8, (EnumValue("A", 1 << 40), EnumValue("B", 1))),),
            "enum e { A = 1099511627776ULL, B = 1ULL, };",
        ),
        (
            (Enum64("e", 8, (EnumValue("A", -1),), True),),
            "enum e { A = -1LL, } __attribute__((mode(DI)));",
        ),
        ((Enum("", 4, (EnumValue("X", 0),)),), "enum { X = 0, };"),
        ((Enum("", 4, (EnumValue("X", 0),)), Typedef("t", 1)), "typedef enum { X = 0, } t;"),
        ((Float("float", 4), Typedef("f", 1)), "typedef float f;"),
        (
            (INT, Typedef("x", 1), Enum("e", 4, (EnumValue("x", 0),)), Typedef("x", 1)),
            "typedef int x; enum e { x___3 = 0, }; typedef int x___2;",
        ),
        ((INT, Struct("a-b", 4, (Member("c.d", 1, 0),))), "struct a_b { int c_d; };"),
        (
            (
                INT,
                Struct("s", 4, (Member("a", 1, 0),)),
                Struct("s", 8, (Member("a", 4, 0),)),
                Ptr(2),
            ),
            "struct s { int a; }; struct s___2 { struct s *a; };",
        ),
        # A struct by value first, by pointer only declared.
        (
            (
                INT,
                Struct("outer", 16, (Member("in", 3, 0), Member("p", 4, 64))),
                Struct("inner", 4, (Member("a", 1, 0),)),
                Ptr(5),
                Struct("other", 4, (Member("a", 1, 0),)),
            ),
            "struct inner { int a; }; struct other; struct outer { struct inner in; "
            "struct other *p; }; struct other { int a; };",
        ),
        # A typedef that was only mentioned becomes complete when it is used by value.
        (
            (
                INT,
                Ptr(4),
                Struct("first", 16, (Member("p", 2, 0), Member("v", 4, 64)), False),
                Typedef("later_t", 5),
                Struct("later", 8, (Member("up", 6, 0),)),
                Ptr(3),
            ),
            "struct later; typedef struct later later_t; struct first; "
            "struct later { struct first *up; }; struct first { later_t *p; later_t v; };",
        ),
        # Anonymous members in place.
        (
            (
                INT,
                Union("", 4, (Member("a", 1, 0), Member("b", 1, 0))),
                Struct("s", 4, (Member("", 2, 0),)),
            ),
            "struct s { union { int a; int b; }; };",
        ),
        ((INT, Func("f", 3), FuncProto(1)), ""),
    ],
)  # fmt: skip
def test_declarations(types: tuple[Type, ...], want: str) -> None:
    """Declarators, qualifiers, order and names come out as C wants them."""
    assert c_of(*types) == want


@pytest.mark.parametrize(
    ("types", "want"),
    [
        ((INT, Struct("s", 12, (Member("a", 1, 64),))), "long : 64; int a;"),
        ((INT, CHAR, Struct("s", 8, (Member("a", 2, 0), Member("b", 1, 32)))), "char a; int b;"),
        ((INT, CHAR, Struct("s", 4, (Member("a", 2, 0), Member("b", 2, 16)))), None),
        ((INT, CHAR, Struct("s", 5, (Member("a", 2, 0), Member("b", 1, 8)))), "packed"),
        ((INT, Struct("s", 4, (Member("a", 1, 0, 3), Member("b", 1, 8, 4)), True)), "char : 5;"),
        ((INT, Struct("s", 8, (Member("a", 1, 0, 3), Member("b", 1, 32, 4)), True)), "short : 16;"),
        ((INT, Struct("s", 4, (Member("a", 1, 2, 3),), True)), "char : 2; int a : 3;"),
        ((INT, Struct("s", 64, (Member("a", 1, 0),))), "int : 32; long : 64;"),
        ((INT, Struct("s", 4096, (Member("a", 1, 0), Member("b", 1, 8192)))), "__gap_4[1020];"),
        ((INT, Union("s", 64, (Member("a", 1, 0),))), "char __padding[64];"),
        ((INT, Struct("s", 5, (Member("a", 1, 0, 30), Member("b", 1, 30, 8)), True)), "packed"),
        (
            (
                INT,
                Union("", 8, (Member("a", 1, 0),)),
                Union("", 8, (Member("b", 1, 0),)),
                Struct("s", 16, (Member("", 2, 0), Member("", 3, 64))),
            ),
            "char __padding___2[8];",
        ),
    ],
)
def test_gaps(types: tuple[Type, ...], want: str | None) -> None:
    """Gaps are filled, closer layouts are packed, and clang gives every field its place."""
    text = c_of(*types)
    if want is not None:
        assert want in text
    if CLANG:
        compare_layouts(blob(*types), {"s"})


def compare_layouts(btf: Btf, names: set[str]) -> None:
    """Compile the declarations of some structs and compare what clang's own BTF says of them."""
    ids = [i for i, t in btf.types() if isinstance(t, (Struct, Union)) and t.name in names]
    uses = "".join(f"{type(btf.type(i)).__name__.lower()} {btf.name(i)} f{i};\n" for i in ids)
    source = f"{dump(btf, ids)}\nstruct all_of_them {{\n{uses}}} all_of_them;\n"
    command = [str(CLANG), "-target", "bpf", "-g", "-O2", "-x", "c", "-c", "-o", "/dev/stdout", "-"]
    run = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    assert not run.returncode, run.stderr.decode()
    elf = ElfFile(run.stdout)
    section = elf.find(".BTF")
    assert section
    theirs = Btf(elf.contents(section))
    assert ids
    for i in ids:
        t = btf.type(i)
        assert isinstance(t, (Struct, Union))
        other = theirs.find(t.name, t.kind)
        assert other is not None, t.name
        assert theirs.sizeof(other) == t.size, t.name
        mine = [m for m in fields(btf, i) if not m[0].startswith(("__padding", "__gap_"))]
        assert [
            m for m in fields(theirs, other) if not m[0].startswith(("__padding", "__gap_"))
        ] == mine, t.name


def fields(btf: Btf, type_id: int, base: int = 0) -> list[tuple[str, int, int, int]]:
    found = []
    t = btf.type(type_id)
    assert isinstance(t, (Struct, Union))
    for m in t.members:
        inner = btf.skip_mods_and_typedefs(m.type)
        if m.name:
            found.append((m.name, base + m.bit_offset, m.bitfield_size, btf.sizeof(m.type)))
        elif btf.kind(inner) in (BtfKind.STRUCT, BtfKind.UNION):
            found += fields(btf, inner, base + m.bit_offset)
    return found


@needs_clang
def test_the_kernels_header_compiles(vmlinux: Btf) -> None:
    """clang takes all of the 6.12 kernel's types for BPF, with no error and no warning."""
    text = dump(vmlinux)
    command = [str(CLANG), "-target", "bpf", "-fsyntax-only", "-Wall", "-Werror", "-x", "c", "-"]
    run = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    assert not run.returncode, run.stderr.decode()[:2000]
    assert text.count("struct task_struct {") == 1


def test_prototypes_of_kfuncs() -> None:
    """Functions with the tag are declared once each, as bpftool does; others are not, nor are
    names that are types here."""
    pointer = Struct("s", 4, (Member("x", 1, 0),))
    text = dump(
        blob(
            INT,
            pointer,
            Ptr(2),
            FuncProto(3, (Param("x", 1), Param("s", 3), Param("", 0))),
            FuncProto(0, ()),
            Func("bpf_one", 4),
            Func("bpf_two", 5),
            Func("other", 5),
            Func("taken", 5),
            Typedef("taken", 1),
            *(DeclTag("bpf_kfunc", target, -1) for target in (7, 6, 6, 9)),
            DeclTag("bpf_fastcall", 8, -1),
            Func("while", 5),
            FuncProto(0, (Param("", 0), Param("x", 1))),
            Func("bpf_dots_first", 17),
            FuncProto(0, (Param("taken", 1), Param("y", 10), Param("int", 1))),
            Func("bpf_names", 19),
            FuncProto(0, (Param("x", 6),)),
            Func("bpf_of_a_function", 21),
            *(DeclTag("bpf_kfunc", target, -1) for target in (16, 18, 20, 22)),
            DeclTag("bpf_kfunc", 8, 0),
        )
    )
    declared = [line for line in text.splitlines() if line.startswith("extern")]
    assert declared == [
        "extern void bpf_names(int, taken y, int) __weak __ksym;",
        "extern struct s *bpf_one(int x, struct s *s, ...) __weak __ksym;",
        "extern void bpf_two(void) __weak __ksym;",
    ]
    assert "kfunc" not in dump(blob(INT, FuncProto(0, ()), Func("f", 2))).lower()


KFUNCS = """
%s
#include "pybpf.h"
char LICENSE[] SEC("license") = "GPL";
SEC("tp_btf/sys_enter")
int on_enter(void *ctx)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (task)
		bpf_task_release(task);
	return 0;
}
"""
OWN = """
extern struct task_struct *bpf_task_from_pid(unsigned long pid) __attribute__((section(".ksyms")));
extern void bpf_task_release(void *task) __attribute__((section(".ksyms")));
"""


@needs_clang
@pytest.mark.parametrize("own", ["", OWN], ids=["vmlinux.h's", "own"])
def test_programs_call_kfuncs_that_vmlinux_h_declares(
    vmlinux: Btf, tmp_path: Path, own: str
) -> None:
    """Beside pybpf.h, without a warning; one that declares them otherwise turns them off."""
    source, made = tmp_path / "a.bpf.c", tmp_path / "a.bpf.o"
    off = "#define BPF_NO_KFUNC_PROTOTYPES\n" if own else ""
    source.write_text(off + dump(vmlinux) + KFUNCS % own)
    flags = ["-g", "-O2", "-target", "bpf", "-Wall", "-Werror", "-Wno-unused-function"]
    run = subprocess.run(
        [str(CLANG), *flags, f"-I{HEADERS}", "-c", str(source), "-o", str(made)],
        capture_output=True,
        check=False,
    )
    assert not run.returncode, run.stderr.decode()[:2000]
    externs = {one.name for one in read_object(made.read_bytes()).externs}
    assert externs == {"bpf_task_from_pid", "bpf_task_release"}


@needs_clang
def test_kernel_structs_keep_their_layout(vmlinux: Btf) -> None:
    """clang lays a sample of the kernel's structs out as BTF says, bit-fields included."""
    names = {"task_struct", "sk_buff", "file", "inode", "mm_struct", "tcphdr", "warn_args"}
    for i in [*vmlinux.ids(BtfKind.STRUCT)[::70], *vmlinux.ids(BtfKind.UNION)[::40]]:
        name = vmlinux.name(i)
        if name and len(vmlinux.find_all(name)) == 1:
            names.add(name)
    assert len(names) > 80
    compare_layouts(vmlinux, names)


def test_forged_types_end() -> None:
    """Structs inside themselves, endless chains and absurd nesting are errors, not hangs."""
    for types in (
        [Struct("s", 4, (Member("a", 1, 0),))],
        [Struct("s", 4, (Member("a", 2, 0),)), Const(2)],
        [Typedef("a", 2), Typedef("b", 1)],
        [Typedef("a", 2), Ptr(2)],
        [Struct(f"s{i}", 4, (Member("a", i + 2, 0),)) for i in range(300)] + [INT],
        [Struct("s", 4, (Member("a", 0, 0),))],
        [Array(0, 0, 0), Struct("s", 4, (Member("a", 1, 0, 3),), True)],
        [Struct("e", 0), Struct("s", 4, (Member("a", 1, 0, 3),), True)],
    ):
        with pytest.raises(ObjectFormatError) as err:
            dump(blob(*types))
        assert err.value.section == ".BTF"


SEED = blob(
    INT,
    CHAR,
    Array(2, 1, 16),
    Enum("e", 4, (EnumValue("A", 0), EnumValue("B", 5))),
    Struct("p", 8, (Member("x", 1, 0), Member("y", 4, 32))),
    Ptr(5),
    FuncProto(1, (Param("a", 6), Param("b", 3))),
    Ptr(7),
    Typedef("fn", 8),
    Union("", 8, (Member("l", 5, 0), Member("f", 9, 0))),
    Struct("s", 40, (Member("", 10, 0), Member("n", 3, 64), Member("b", 1, 192, 5)), True),
    Const(11),
    Typedef("cs", 12),
    Fwd("f"),
    Enum64("big", 8, (EnumValue("C", 1 << 33),)),
).raw


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(st.integers(24, len(SEED) - 1), st.integers(0, 255)), max_size=6))
def test_mutations(edits: list[tuple[int, int]]) -> None:
    """Forged BTF prints or is refused, in C and raw."""
    data = bytearray(SEED)
    for at, value in edits:
        data[at] = value
    start = time.process_time()
    try:
        btf = Btf(bytes(data))
        for _ in raw_lines(btf):
            pass
        assert len(dump(btf)) < 1 << 20
    except ObjectFormatError as err:
        assert err.section == ".BTF"
    assert time.process_time() - start < 2


# The tool.


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOL, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


OBJECT = DATA / "core_target.bpf.o"


def test_tool_dump(capsys: pytest.CaptureFixture[str]) -> None:
    """dump reads ELF, raw and gzip files; JSON has the same records."""
    assert tool.main(["dump", str(OBJECT)]) == 0
    text = capsys.readouterr().out
    assert "[17] STRUCT 'point' size=16 vlen=3\n\t'z' type_id=10 bits_offset=0\n" in text
    assert tool.main(["dump", str(OBJECT), "--json"]) == 0
    types = json.loads(capsys.readouterr().out)["types"]
    assert len(types) == text.count("\n[") + 1
    assert types[16]["name"] == "point" and types[16]["members"][2]["bit_offset"] == 80
    assert tool.main(["dump", str(OBJECT), "--format", "c"]) == 0
    assert "struct point {\n\tlong z;\n\tshort y;\n\tshort x;\n};\n" in capsys.readouterr().out


def test_tool_find(capsys: pytest.CaptureFixture[str]) -> None:
    """find prints every type of a name or glob, also from .btf.gz; none is status 1."""
    assert tool.main(["find", "twofold*", str(OBJECT)]) == 0
    out = capsys.readouterr().out
    assert "STRUCT 'twofold'" in out and "STRUCT 'twofold___other'" in out
    assert tool.main(["find", "vfs_read", str(BLOB), "--kind", "func", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["types"]
    assert (found["kind"], found["name"], found["linkage"]) == ("FUNC", "vfs_read", 0)
    assert tool.main(["find", "nothing_of_this_name", str(OBJECT)]) == 1
    assert "no type 'nothing_of_this_name'" in capsys.readouterr().err
    assert tool.main(["find", "twofolt", str(OBJECT)]) == 1
    assert "no type 'twofolt'" in (text := capsys.readouterr().err) and "near: twofold" in text
    assert tool.main(["find", "point", str(OBJECT), "--kind", "union"]) == 1
    assert "no union 'point'" in (text := capsys.readouterr().err) and "it is a struct" in text


def test_tool_reads_split_btf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--base gives a module's BTF what it continues."""
    base = blob(INT)
    builder = BtfBuilder(base)
    builder.add(Typedef("mod_t", 1))
    (tmp_path / "base").write_bytes(base.raw)
    (tmp_path / "mod").write_bytes(builder.build())
    args = [str(tmp_path / "mod"), "--base", str(tmp_path / "base")]
    assert tool.main(["dump", *args]) == 0
    assert capsys.readouterr().out == "[2] TYPEDEF 'mod_t' type_id=1\n"
    assert tool.main(["find", "int", *args]) == 0
    assert capsys.readouterr().out.startswith("[1] INT 'int'")
    assert tool.main(["find", "*t*", *args]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_tool_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad files are one line and status 1, bad usage is status 2."""
    bad = {
        "text": b"hello, this is no BTF at all",
        "elf": b"\x7fELF\x02\x01" + bytes(100),
        "cut": OBJECT.read_bytes()[:200],
        "be": b"\x7fELF\x02\x02" + bytes(100),
        "gz": BLOB.read_bytes()[:1000],
        "empty": b"",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        assert tool.main(["dump", str(tmp_path / name)]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and name in err
    assert tool.main(["dump", str(tmp_path / "absent")]) == 1
    assert "No such file" in capsys.readouterr().err
    for usage in ([], ["dump", "--format", "xml"], ["dump", "--json", "--format", "c"], ["find"]):
        with pytest.raises(SystemExit) as stop:
            tool.main(usage)
        assert stop.value.code == 2


def test_tool_as_a_process() -> None:
    """Run by path from anywhere, with --help, and into a pipe that closes early."""
    assert run("--help").returncode == 0 and "vmlinux.h" in run("--help").stdout
    assert run("find", "point", OBJECT).stdout.startswith("[17] STRUCT 'point'")
    command = f"{sys.executable} {TOOL} dump {BLOB} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (
        done.stdout
        == "[1] INT 'long unsigned int' size=8 bits_offset=0 nr_bits=64 encoding=(none)\n"
    )
    assert done.stderr == ""
