"""retsnoop's arguments: what is taken of a call by its prototype, and how it reads."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from pybpf.btf import Btf, BtfKind
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.types import (
    Array,
    Const,
    Enum,
    EnumValue,
    Func,
    FuncProto,
    Int,
    Linkage,
    Member,
    Param,
    Ptr,
    Struct,
    Union,
)
from pybpf.tools.retsnoop import render
from pybpf.tools.retsnoop.args import (
    MAX_ARGS,
    Parameter,
    Take,
    arguments_text,
    pack_spec,
    parameters_of,
)
from pybpf.tools.retsnoop.cvalues import c_text, number_text, string_text
from pybpf.tools.retsnoop.events import Arg, Args, Call, Frame, Return, decode
from pybpf.tools.retsnoop.functions import Flag, Function
from pybpf.tools.retsnoop.settings import Settings
from pybpf.tools.retsnoop.stacks import Row
from tests.support.stacklines import stack_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def btf() -> Btf:
    path = ROOT / "tests" / "data" / "vmlinux-6.12.107-cloud-amd64.btf.gz"
    return Btf(gzip.decompress(path.read_bytes()))


class Made:
    """A BTF of our own, with a type for each rule."""

    def __init__(self) -> None:
        b = BtfBuilder()
        self.int = b.add(Int("int", 4, 32, encoding=1))
        self.u64 = b.add(Int("unsigned long long", 8, 64))
        self.char = b.add(Int("char", 1, 8, encoding=1))
        self.bool = b.add(Int("_Bool", 1, 8, encoding=4))
        self.u128 = b.add(Int("__int128 unsigned", 16, 128))
        self.ptr = b.add(Ptr(b.add(Const(self.int))))
        self.enum = b.add(Enum("e", 4, (EnumValue("ONE", 1), EnumValue("MINUS", -1)), signed=True))
        self.chars = b.add(Array(self.char, self.int, 6))
        self.ints = b.add(Array(self.int, self.int, 3))
        inner = (Member("a", self.int, 0), Member("b", self.int, 32))
        self.inner = b.add(Struct("inner", 8, inner))
        bits = (
            Member("x", self.int, 0, 3),
            Member("y", self.int, 3, 5),
            Member("z", self.int, 8, 24),
        )
        self.bits = b.add(Struct("bits", 4, bits, kind_flag=True))
        anon = b.add(Union("", 8, (Member("u", self.u64, 0), Member("i", self.int, 0))))
        members = (
            Member("first", self.inner, 0),
            Member("", anon, 64),
            Member("name", self.chars, 128),
            Member("p", self.ptr, 192),
        )
        self.outer = b.add(Struct("outer", 32, members))
        self.btf = Btf(b.build())

    def text(self, type_id: int, raw: bytes, **how: bool) -> str:
        return c_text(self.btf, type_id, raw, **how)


MADE = Made()


@pytest.mark.parametrize(
    ("kind", "raw", "text"),
    [
        ("int", struct.pack("<i", -5), "-5"),
        ("int", struct.pack("<i", 4 << 20), "0x400000"),
        ("int", struct.pack("<i", (4 << 20) - 1), "4194303"),
        ("u64", struct.pack("<Q", 1 << 63), "0x8000000000000000"),
        ("bool", b"\1", "true"),
        ("u128", b"\1" + bytes(15), "0x1"),
        ("ptr", bytes(8), "NULL"),
        ("ptr", struct.pack("<Q", 0xFFFF888000001000), "0xffff888000001000"),
        ("enum", struct.pack("<i", -1), "MINUS"),
        ("enum", struct.pack("<i", 7), "7"),
        ("chars", b"ab\0xyz", "['a','b']"),
        ("chars", b"abcdef", "['a','b','c','d','e','f']"),
        ("chars", b"a\x1b\0\0\0\0", "['a',27]"),
        ("ints", struct.pack("<iii", 1, 0, 3), "[1,0,3]"),
        ("ints", struct.pack("<i", 1), "[1,…]"),
        ("inner", bytes(8), "{}"),
        ("inner", struct.pack("<ii", 0, 2), "{.b=2}"),
        ("inner", struct.pack("<i", 1), "{.a=1,…}"),
        # x: 3 bits that are -1, y: 5 bits, z: 24 bits
        ("bits", struct.pack("<I", 7 | 9 << 3 | 0x1234 << 8), "{.x=-1,.y=9,.z=4660}"),
        ("bits", struct.pack("<I", 9 << 3), "{.y=9}"),
    ],
)
def test_values(kind: str, raw: bytes, text: str) -> None:
    """Each kind of type reads as documented; zero members are left out."""
    assert MADE.text(getattr(MADE, kind), raw) == text


def test_a_struct_whose_first_member_is_zero() -> None:
    """A nested struct with a zero first member is not taken for all zero (upstream's slip)."""
    raw = struct.pack("<iiQ6s2xQ", 0, 7, 3, b"hi", 0)
    assert MADE.text(MADE.outer, raw) == "{.first={.b=7},{.u=3,.i=3},.name=['h','i']}"


def test_lines() -> None:
    """Verbose: a member a line, nested ones indented further."""
    raw = struct.pack("<iiQ6s2xQ", 1, 0, 0, b"", 0x1000)
    assert MADE.text(MADE.outer, raw, lines=True) == (
        "{\n    .first = {\n        .a = 1\n    },\n    .p = 0x1000\n}"
    )


def test_strings() -> None:
    """Up to the NUL; what cannot be printed is a blank, so nothing steers the terminal."""
    assert string_text(b"/no/such\0junk") == "'/no/such'"
    assert string_text(b"a\x1b[2J\nb\0") == "'a [2J b'"
    assert string_text(b"abc", cut=True) == "'abc…'"
    assert number_text(-100) == "-100"


# -- what is taken ------------------------------------------------------------


def parameters(btf: Btf, name: str, settings: Settings | None = None) -> tuple[Parameter, ...]:
    found = btf.find(name, BtfKind.FUNC)
    assert found is not None
    function = Function(0, name, btf_id=found)
    return parameters_of(function, btf, settings or Settings())


def test_parameters_of_a_real_function(btf: Btf) -> None:
    """do_sys_openat2(int, const char *, struct open_how *): a value, a string, memory."""
    taken = [(p.name, p.take, p.slot, p.size) for p in parameters(btf, "do_sys_openat2")]
    assert taken == [
        ("dfd", Take.VALUE, 0, 0),
        ("filename", Take.STRING, 1, 256),
        ("how", Take.MEMORY, 2, 24),
    ]


def test_sizes_are_limited(btf: Btf) -> None:
    """task_struct has thousands of bytes: as many are taken as the setting says."""
    (task, *_) = parameters(btf, "wake_up_new_task", Settings(max_sized_arg_size=64))
    assert (task.take, task.size) == (Take.MEMORY, 64)


def test_registers_without_btf() -> None:
    """No prototype: the registers as they are."""
    taken = parameters_of(Function(0, "f.isra.0"), None, Settings())
    assert [(p.name, p.take, p.slot) for p in taken] == [
        (f"arg{i}", Take.VALUE, i) for i in range(6)
    ]
    assert len(pack_spec(taken)) == 4 + 4 * MAX_ARGS


def test_arguments_beyond_the_registers(btf: Btf) -> None:
    """The seventh of parse_args is on the stack: said, and not guessed."""
    taken = parameters(btf, "parse_args")
    assert [p.note for p in taken[:6]] == [""] * 6
    assert {p.note for p in taken[6:]} == {"(stack-too-far)"}


def test_variadic_functions(btf: Btf) -> None:
    """_printk(fmt, ...): as many further registers as the format asks for."""
    taken = parameters(btf, "_printk")
    assert [(p.name, p.take) for p in taken[:2]] == [("fmt", Take.STRING), ("vararg0", Take.VALUE)]
    values = [Arg(11, 1, b"%d of %s %%\0")] + [Arg(0, i) for i in range(1, 6)]
    assert arguments_text(taken, values, Settings()) == [
        ("fmt", "'%d of %s %%'"),
        ("vararg0", "1"),
        ("vararg1", "2"),
    ]
    lost = [Arg(-14, 1), *values[1:]]
    assert arguments_text(taken, lost, Settings())[1] == ("...", "(vararg)")


# -- as text ------------------------------------------------------------------

MEMORY = Parameter("how", Take.MEMORY, 2, 8, MADE.btf, MADE.inner)
STRING = Parameter("name", Take.STRING, 1, 8, MADE.btf, MADE.char)
PAIR = Parameter("pair", Take.PAIR, 0, 8, MADE.btf, MADE.inner)


@pytest.mark.parametrize(
    ("parameter", "arg", "text"),
    [
        (MEMORY, Arg(8, 0x1000, struct.pack("<ii", 5, 0)), "&{.a=5}"),
        (MEMORY, Arg(0, 0), "NULL"),
        (MEMORY, Arg(-14, (1 << 64) - 2), "-ENOENT"),
        (MEMORY, Arg(-14, 0x10), "<ERR:-EFAULT>"),
        (MEMORY, Arg(-7, 0x10), "(trunc)"),
        (STRING, Arg(4, 0x1000, b"abc\0"), "'abc'"),
        (STRING, Arg(8, 0x1000, b"abcdefg\0"), "'abcdefg…'"),
        (STRING, Arg(0, 0), "NULL"),
        (PAIR, Arg(16, 0, struct.pack("<iiQ", 0, 9, 77)), "{.b=9}"),
        (Parameter("x", Take.VALUE, 0, 0, MADE.btf, MADE.int), Arg(0, 0xFFFFFF9C), "-100"),
        (Parameter("p", Take.VALUE, 0, 0, MADE.btf, MADE.ptr), Arg(0, (1 << 64) - 22), "-EINVAL"),
        (Parameter("arg0", Take.VALUE), Arg(0, 1 << 40), "0x10000000000"),
        (Parameter("s", Take.NONE, note="(unsupp)"), Arg(-95, 0), "(unsupp)"),
    ],
)
def test_arguments(parameter: Parameter, arg: Arg, text: str) -> None:
    """Every way an argument can come out."""
    assert arguments_text([parameter], [arg], Settings()) == [(parameter.name, text)]


def test_arguments_that_had_no_room_are_told() -> None:
    """The record ends after the first of three: said once, not passed over."""
    three = [Parameter(name, Take.VALUE) for name in "abc"]
    assert arguments_text(three, [Arg(0, 5)], Settings()) == [("a", "5"), ("...", "(trunc)")]
    assert arguments_text(three, [], Settings()) == [("...", "(trunc)")]
    assert len(arguments_text(three, [Arg(0, 5)] * 3, Settings())) == 3


def test_a_number_wider_than_a_register_takes_two() -> None:
    """What follows an __int128 is in the register after both."""
    b = BtfBuilder()
    u128, u64 = b.add(Int("__int128 unsigned", 16, 128)), b.add(Int("u64", 8, 64))
    proto = b.add(FuncProto(0, (Param("wide", u128), Param("next", u64))))
    b.add(Func("f", proto, Linkage.STATIC))
    taken = parameters(Btf(b.build()), "f")
    assert [(p.take, p.slot, p.size) for p in taken] == [(Take.PAIR, 0, 16), (Take.VALUE, 2, 0)]
    wide = Arg(16, 1, struct.pack("<QQ", 1, 2))
    assert arguments_text(taken, [wide, Arg(0, 7)], Settings())[0] == ("wide", f"{2 << 64 | 1:#x}")


def test_raw_pointers_and_widths() -> None:
    """-C args.capture-raw-ptrs and args.fmt-max-arg-width."""
    arg = Arg(8, 0x1000, struct.pack("<ii", 5, 6))
    assert arguments_text([MEMORY], [arg], Settings(capture_raw_ptrs=True))[0][1] == (
        "(0x1000)&{.a=5,.b=6}"
    )
    cut = arguments_text([MEMORY], [arg], Settings(fmt_max_arg_width=6))[0][1]
    assert cut == "&{.a=…"


def test_decode_arguments() -> None:
    """A record of exact size: each argument's head, and what was read padded to 8 bytes."""
    body = struct.pack("<iIQ", 0, 0, 5) + struct.pack("<iIQ3s5x", 3, 0, 0x1000, b"ab\0")
    body += struct.pack("<iIQ", -14, 0, 0x10)
    record = struct.pack("<IIiIII", 7, 3, 812, 9, 2, len(body)) + body
    values = (Arg(0, 5), Arg(3, 0x1000, b"ab\0"), Arg(-14, 0x10))
    assert decode(record) == Args(3, 812, 9, 2, values)


# -- layouts ------------------------------------------------------------------

FUNCTIONS = [
    Function(0, "do_sys_openat2", flags=Flag.ENTRY, ret_size=8),
    Function(1, "path_openat", flags=Flag.PTR, ret_size=8),
]
TRACE = (Call(1, 8, 0, 0, 0, 0), Call(1, 8, 1, 1, 1, 0), Return(1, 8, 2, 1, 1, 159_660, -2))


def given(func: int, call: int) -> list[tuple[str, str]] | None:
    if func:
        return [("nd", "&{\n    .a = 1\n}")]
    return [("dfd", "-100"), ("filename", "'/no/such'")]


def test_compact_trace() -> None:
    """A fourth column, on the line of the call; lost records are said."""
    lines = list(render.trace_lines(TRACE[:1], 1, FUNCTIONS, given))
    assert lines == [
        "FUNCTION CALLS     RESULT  DURATION  CONTEXT",
        "----------------   ------  --------  -------",
        "→ do_sys_openat2                     dfd=-100 filename='/no/such'",
    ]
    lost = list(render.trace_lines(TRACE[:1], 1, FUNCTIONS, lambda func, call: None))
    assert lost[-1].endswith("  ... data missing ...")


def test_lines_below_the_call() -> None:
    """Multiline and verbose: under the RESULT column, each argument marked."""
    lines = list(render.trace_lines(TRACE, 3, FUNCTIONS, given, compact=False))
    at = lines[0].index("RESULT")
    assert lines[3:] == [
        f"{'':{at}}› dfd = -100",
        f"{'':{at}}› filename = '/no/such'",
        "    ↔ path_openat   [-ENOENT]  159.660us",
        f"{'':{at}}› nd = &{{",
        f"{'':{at}}      .a = 1",
        f"{'':{at}}  }}",
    ]


def test_arguments_in_the_stack() -> None:
    """Behind the source column, and below the row under RESULT."""
    rows = [Row(None, Frame(0, True, 156_000, -2, call=4), FUNCTIONS[0])]
    (line,) = stack_lines(rows, render.Style(), given)
    assert line == "!  156us [-ENOENT]  do_sys_openat2    dfd=-100 filename='/no/such'"
    _, first, _ = stack_lines(rows, render.Style(compact=False), given)
    assert first.endswith("› dfd = -100")
    assert line.index("[") == first.index("›")
