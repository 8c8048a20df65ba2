"""What others wrote: it parses, or gives one documented error that names it, in bounded time."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import pybpf
from pybpf._sys.cpus import parse_cpus
from pybpf.btf import Btf
from pybpf.btf.cdump import dump
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.types import Array, FuncProto, Int, Member, Param, Ptr, Struct, Typedef, Union, Var
from pybpf.btf.values import codec
from pybpf.elf import ElfFile
from pybpf.errors import BpfError, ObjectFormatError
from pybpf.globals import Variable
from pybpf.kernel import config, ftrace, globs, host, kallsyms, kcore, modules, owners
from pybpf.kernel.config import version_code
from pybpf.kernel.tasks import tgid_of
from pybpf.obj.reader import read_object
from pybpf.symbols import parse_maps
from pybpf.tools.inputs import read_btf, read_facts
from pybpf.tools.retsnoop.cvalues import c_text
from pybpf.tools.retsnoop.probes import parse_format
from pybpf.usdt import ARG_UNREADABLE, parse_arguments
from tests.support.elfwriter import ElfWriter
from tests.support.savedfacts import saved_facts

DATA = Path(__file__).parents[1] / "data"
INT = Int("int", 4, 32)


def blob(*types: Any) -> bytes:
    builder = BtfBuilder()
    for one in types:
        builder.add(one)
    return builder.build()


def pair(of: int, name: str = "") -> Struct:
    return Struct(name, 1, (Member("a", of, 0), Member("b", of, 0)))


# -- types that contain themselves, or double


@pytest.mark.parametrize(
    "types",
    [
        [Array(1, 1, 1)],
        [INT, Array(2, 1, 3)],
        [Var("v", 1)],
        [INT, Struct("s", 4, (Member("", 2, 0),))],
        [INT, Struct("s", 4, (Member("x", 3, 0),)), Array(2, 1, 1)],
    ],
    ids=["array", "longer array", "variable", "anonymous struct", "struct and array"],
)
def test_a_type_of_itself_has_no_values(types: list[Any]) -> None:
    """Its codec is refused, naming the BTF, whichever type it is asked of."""
    btf = Btf(blob(*types), name="x.o")
    with pytest.raises(ObjectFormatError, match=r"^x\.o: .*(nested too deeply|does not end)"):
        codec(btf, len(types))


def test_types_that_double_have_no_values() -> None:
    """40 structs, each with two of the one before, would have 2**40 fields."""
    btf = Btf(blob(Struct("s", 1, ()), *(pair(n, "s") for n in range(1, 41))), name="x.o")
    with pytest.raises(ObjectFormatError, match="more than 20000 fields"):
        codec(btf, 41)


def test_types_that_double_are_not_written_as_c() -> None:
    """40 structs without a name would be written 2**40 times."""
    types = [INT, *(pair(n) for n in range(1, 41)), Struct("s", 1, (Member("x", 41, 0),))]
    with pytest.raises(ObjectFormatError, match="written too often"):
        dump(Btf(blob(*types), name="x.o"))


def test_prototypes_that_double_are_not_written_as_c() -> None:
    """40 prototypes, each with two pointers to the one before, would be followed 2**40 times."""
    types: list[Any] = [INT]
    for _ in range(40):
        types += [Ptr(len(types)), FuncProto(1, (Param("a", len(types) + 1),) * 2)]
    types += [Ptr(len(types)), Typedef("t", len(types) + 1)]
    with pytest.raises(ObjectFormatError, match="written too often"):
        dump(Btf(blob(*types), name="x.o"))


@pytest.mark.parametrize(
    "types",
    [
        [INT, Struct("e", 0, ()), Array(2, 1, 0xFFFFFFFF)],
        [INT, *(Union("u", 4, (Member("a", n, 0), Member("b", n, 0))) for n in range(1, 15))],
    ],
    ids=["of nothing", "that double"],
)
def test_values_as_c_text_are_short(types: list[Any]) -> None:
    """Four billion empty elements, and unions of 2**14 members, are not all written."""
    btf = Btf(blob(*types), name="x.o")
    assert len(c_text(btf, len(types), b"\1" * 8)) < 200_000


def test_a_format_with_hostile_numbers() -> None:
    """Fields whose place or size makes no sense are left out."""
    good = "\tfield:int a;\toffset:8;\tsize:4;\tsigned:1;\n"
    bad = [good.replace(":8", ":" + "9" * n) for n in (30, 500)] + [good.replace(":4", ":٣")]
    assert [field.at for field in parse_format("".join([*bad, good]))] == [8]


def test_the_name_of_a_task_tells_nothing_of_it() -> None:
    """A name may have what Python takes for a line end, and bytes that are not UTF-8."""
    text = "Name:\ta\x1cTgid:\t1\udcff\x85Tgid: 2\nUmask:\t0022\nTgid:\t77\nNgid:\t0\n"
    assert tgid_of(text) == 77
    assert tgid_of("Name:\tx\n") is None


def test_an_integer_of_a_megabyte_has_no_values() -> None:
    """Python would refuse to print it, which is 2,500,000 digits long."""
    with pytest.raises(ObjectFormatError, match="1048576 bytes"):
        codec(Btf(blob(Int("big", 1 << 20, 0)), name="x.o"), 1)


class _Holder:
    created = closed = False
    initial = bytearray(8)
    value_size = len(initial)


def test_a_variable_without_a_size() -> None:
    """Its bytes are empty; nothing is divided by its size."""
    btf = Btf(blob(INT), name="x.o")
    holder: Any = _Holder()
    assert Variable("v", ".data", 0, 0, 1, btf, holder).get() == b""


# -- texts


@pytest.mark.parametrize(
    "line",
    [
        "-fffffff81000000 T f",
        "0xffffff81000000 T f",
        "ffff_ffff_810000 T f",
        "٣fffffff81000000 T f",
        "+fffffff81000000 T f",
    ],
)
def test_kallsyms_takes_plain_digits_only(line: str) -> None:
    """What `int` would take is not an address of the kernel."""
    text = f"ffffffff81000010 T g\n{line}\n"
    for ask in (
        list,
        lambda symbols: symbols.lookup(0xFFFFFFFF81000010),
        lambda symbols: symbols.by_name("f"),
    ):
        with pytest.raises(ObjectFormatError, match="/proc/kallsyms: offset 0x15"):
            ask(kallsyms.Kallsyms(text))


def test_a_long_table_that_only_looks_sorted() -> None:
    """Every address is found, although the table cannot be searched by halving."""
    for seed in range(30):
        random = Random(seed)
        lines = [f"{0xFFFFFFFF81000000 + 64 * n:016x} T f_{n:06}\n" for n in range(2700)]
        for _ in range(30):
            one, other = random.randrange(2700), random.randrange(2700)
            lines[one], lines[other] = lines[other], lines[one]
        for number in random.choices(range(2700), k=12):
            found = kallsyms.Kallsyms("".join(lines)).lookup(0xFFFFFFFF81000000 + 64 * number + 5)
            assert found is not None
            assert found[1] % 64 == 5


def test_trampolines_with_odd_numbers_are_left_out() -> None:
    """Digits of other scripts and thousands of digits are not keys."""
    names = ["²", "１", "9" * 5000, "12"]
    lines = [f"ffffffffc0000000 t bpf_trampoline_{n}\t[bpf]\n" for n in names]
    found = kallsyms.Kallsyms("".join(lines)).trampolines()
    assert [key for key, _ in found] == [12]


@pytest.mark.parametrize("text", ["-1 f", "0x-1 f", "1_0 f", "1" * 17 + " f", "٣ f"])
def test_ftrace_takes_plain_digits_only(text: str) -> None:
    """As kallsyms."""
    functions = ftrace.parse_functions(
        f"ffffffff81000000 g\n{text}\n".encode(), with_addresses=True
    )
    with pytest.raises(ObjectFormatError, match="available_filter_functions_addrs: offset 0x13"):
        len(functions)


@pytest.mark.parametrize("span", ["-1-2", "0x1-0x_2", "1-" + "f" * 30, "9" * 5000 + "-1"])
def test_blacklist_takes_plain_digits_only(span: str) -> None:
    """As kallsyms."""
    with pytest.raises(ObjectFormatError, match="kprobes/blacklist: offset 0x0"):
        ftrace.parse_blacklist(f"{span}\tf\n".encode())


@pytest.mark.parametrize(
    "line", ["m -1 0 - Live 0x1", "m 1 0 - Live -0x1", "m 1_0 0 - Live 0x1", "m １ 0 - Live 0x1"]
)
def test_modules_takes_plain_digits_only(line: str) -> None:
    """As kallsyms. A character that only Python takes for a line end is part of a name."""
    with pytest.raises(ObjectFormatError, match="/proc/modules: offset 0x13"):
        modules.parse(f"a\x85 1 0 - Live 0x12\n{line}\n")


@pytest.mark.parametrize("text", ["0-99999999999", "0-" + "9" * 5000, "٣", "²", "1_0"])
def test_cpu_lists_are_short(text: str) -> None:
    """A list of 10**11 CPUs is not made."""
    with pytest.raises(ValueError, match="not a CPU list"):
        parse_cpus(text)


def test_fdinfo_without_a_plain_number_has_no_id() -> None:
    """``²`` is a digit, and not a number."""
    assert owners.parse_fdinfo("link_id:\t²\n") is None
    assert owners.parse_fdinfo("link_id:\t" + "9" * 5000) is None
    assert owners.parse_fdinfo("link_id:\t12\n") == 12


@pytest.mark.parametrize("bounds", ["1", "x-y", "-1-2", "1-2-3", "1-" + "f" * 20])
def test_maps_that_are_none(bounds: str) -> None:
    """A mapping without two addresses is refused, naming the file."""
    with pytest.raises(ObjectFormatError, match="/proc/7/maps: offset 0x0"):
        parse_maps(f"{bounds} r-xp 0 08:01 1 /bin/x\n", "/proc/7/maps")


def test_a_version_of_thousands_of_digits() -> None:
    """It counts as the highest."""
    assert version_code("9" * 5000 + ".1") == 255 << 16 | 1 << 8


@pytest.mark.parametrize("text", ["9" * 5000 + "@%eax", "4@" + "%eax " * 2000])
def test_usdt_arguments_that_are_refused(text: str) -> None:
    """Numbers and texts that no compiler writes."""
    with pytest.raises(ObjectFormatError, match="USDT argument") as caught:
        parse_arguments(text)
    assert len(str(caught.value)) < 6000


@pytest.mark.parametrize("operand", ["$010", "$" + "9" * 4000, "$0x" + "f" * 40, "08(%rax)"])
def test_usdt_operands_that_cannot_be_read(operand: str) -> None:
    """The argument is unreadable; the others are not."""
    first, second = parse_arguments(f"8@{operand} 4@%eax")
    assert first.type == ARG_UNREADABLE != second.type


def test_a_glob_of_many_stars_is_quick() -> None:
    """A section can name such a glob. Tried in all ways, it would take 10**20 steps."""
    matcher = globs.Matcher([globs.parse_pattern("*a" * 20 + "*b")])
    lines = ("a" * 400, "a" * 400 + "b", "ab" * 30 + " [m]")
    assert matcher.positions(ftrace.FtraceFunctions(lines)) == {1, 2}


# -- files


@pytest.mark.parametrize(
    "data",
    [b"\x1f\x8b\x08\0" + bytes(30), gzip.compress(b"CONFIG_X=y\n")[:-9], b"\x1f\x8b\x08"],
    ids=["forged", "cut", "short"],
)
def test_a_broken_configuration_is_unknown(tmp_path: Path, data: bytes) -> None:
    """The kernel's own is passed over; one that was given is refused."""
    path = tmp_path / "config.gz"
    path.write_bytes(data)
    assert config.kernel_config([str(path)]).unknown
    with pytest.raises(BpfError, match=r"config\.gz.*gzip"):
        config.read_config(str(path))


def bomb(wbits: int) -> bytes:
    made = zlib.compressobj(9, wbits=wbits)
    return b"".join([*(made.compress(bytes(1 << 20)) for _ in range(65)), made.flush()])


def test_data_that_grows_when_unpacked(tmp_path: Path) -> None:
    """64 KB that would be 65 MB of zeros are refused, wherever they are."""
    path = tmp_path / "bomb"
    path.write_bytes(bomb(31))
    with pytest.raises(ObjectFormatError, match="bomb: gzip data of more than 64 MiB"):
        read_btf(path)
    facts = saved_facts(raw_btf=b"") | {"kallsyms": host._pack(b"")}
    facts["ftrace"] = base64.b64encode(bomb(15)).decode()
    with pytest.raises(ObjectFormatError, match="'ftrace': zlib data of more than 64 MiB"):
        host.Facts.from_json(facts)


@pytest.mark.parametrize(
    "change",
    [
        {"capabilities": float("inf")},
        {"capabilities": float("nan")},
        {"possible_cpus": [float("inf")]},
        {"possible_cpus": [[]]},
        {"sysctls": {"a": float("-inf")}},
        {"lockdown": "?"},
        {"features": {"fentry": {"support": 7}}},
        {"modules": 5},
        {"btf": ""},
        {"kallsyms": "\udc80"},
        {"kallsyms": "===="},
    ],
)
def test_saved_facts_with_hostile_values(tmp_path: Path, change: dict[str, Any]) -> None:
    """One error that names the file."""
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(saved_facts(raw_btf=b"") | change))
    with pytest.raises(ObjectFormatError, match=r"facts\.json: not a file that features --save"):
        read_facts(str(path))


def core_file(offset: int, size: int) -> bytes:
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 7, offset, 1 << 63, 0, size, size, 4096)


@pytest.mark.parametrize(("offset", "size"), [(1 << 63, 1), ((1 << 63) - 1, 1 << 20)])
def test_kcore_with_a_huge_offset(offset: int, size: int) -> None:
    """No file is so long."""
    assert kcore.parse_segments(core_file(4096, 4096)) == [(1 << 63, 4096, 4096)]
    with pytest.raises(ObjectFormatError, match="/proc/kcore: offset 0x40: a segment"):
        kcore.parse_segments(core_file(offset, size))


def counted(read: Callable[[], object]) -> int:
    """Count the lines of Python that something takes."""
    import sys

    lines = 0

    def trace(*_: object) -> object:
        nonlocal lines
        lines += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        read()
    finally:
        sys.settrace(before)
    return lines


def test_places_in_a_file_of_many_segments() -> None:
    """A look-up does not walk over all program headers."""
    rows = [struct.pack("<IIQQQQQQ", 1, 5, 64, 4096 * n, 0, 4096, 4096, 1) for n in range(20000)]
    body = b"".join(rows)
    shoff = 64 + len(body)
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, shoff, 0, 64, 56, len(rows), 64, 2, 1)
    table = bytes(64) + struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, shoff + 128, 1, 0, 0, 1, 0)
    elf = ElfFile(head + body + table + b"\0", "x", any_machine=True)
    assert elf.file_offset(4096 * 19999 + 5) == 69
    assert elf.file_offset(4096 * 20000) is None
    assert counted(lambda: elf.file_offset(4096 * 19998)) < 30


# -- sizes that multiply


def elf_of(*sections: tuple[int, bytes, int, int]) -> bytes:
    """An ELF file for BPF with sections of (type, bytes, link, entry size), all without names."""
    body, rows = b"", bytes(64)
    for kind, data, link, entsize in (*sections, (3, b"\0", 0, 0)):
        rows += struct.pack(
            "<IIQQQQIIQQ", 0, kind, 0, 0, 64 + len(body), len(data), link, 0, 8, entsize
        )
        body += data
    count = len(rows) // 64
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack(
        "<HHIQQQIHHHHHH", 1, 247, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, count, count - 1
    )
    return head + body + rows


def test_symbols_that_share_a_long_name() -> None:
    """60,000 symbols would have 120 MB of names out of 4 KB of strings."""
    symbol = struct.pack("<IBBHQQ", 5, 0, 0, 1, 0, 0)
    strings = b"\0" + b"x" * 2000 + b"\0"
    elf = ElfFile(elf_of((2, symbol * 60_000, 2, 24), (3, strings, 0, 0)), "x.o")
    with pytest.raises(ObjectFormatError, match=r"^x\.o: .*names of symbols are too long"):
        _ = elf.symbols


def test_sections_that_share_bytes() -> None:
    """Each would become a map of its own: three times the file."""
    data = bytearray(elf_of(*[(1, bytes(4000), 0, 0)] * 4))
    (shoff,) = struct.unpack_from("<Q", data, 40)
    for index in (1, 2, 3, 4):
        struct.pack_into("<QQ", data, shoff + 64 * index + 24, 0, 15000)
    with pytest.raises(ObjectFormatError, match="sections overlap: 6"):
        read_object(bytes(data), "x.o")


def test_functions_that_share_code() -> None:
    """Each would be linked by itself: a hundred times the section."""
    writer = ElfWriter()
    text = writer.text("socket", bytes(800))
    for number in range(100):
        writer.symbol(f"f{number}", text, 0, 800, type=2)
    with pytest.raises(ObjectFormatError, match="functions overlap: 32 times"):
        read_object(writer.build(), "x.o")


def test_zeros_that_are_not_in_the_file() -> None:
    """20 sections of 10 MB each take 16 MB at most; 30 can be read, not opened."""
    writer = ElfWriter()
    for number in range(20):
        writer.section(f".bss.{number}", b"", type=8, size=10 << 20)
    spec = read_object(writer.build(), "x.o")
    kept = [one.initial for one in spec.maps.values() if one.initial is not None]
    assert len(spec.maps) == 20
    assert sum(map(len, kept)) <= 16 << 20
    for number in range(20, 30):
        writer.section(f".bss.{number}", b"", type=8, size=10 << 20)
    assert len(read_object(writer.build(), "x.o").maps) == 30
    with pytest.raises(ObjectFormatError, match="zeroed variables of 290 MiB"):
        pybpf.open(writer.build())


def test_types_that_share_a_long_name() -> None:
    """A name of 20 KB is none, and 20,000 names of 10 KB are too many."""
    strings = b"\0" + b"x" * 20_000 + b"\0"
    types = struct.pack("<III", 10_001, 7 << 24, 0)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, len(strings))
    btf = Btf(head + types + strings, name="x")
    assert len(btf.name(1)) == 10_000
    types = struct.pack("<III", 1, 7 << 24, 0)
    with pytest.raises(ObjectFormatError, match="longer than 16384"):
        Btf(head + types + strings, name="x").name(1)
    types = struct.pack("<III", 10_001, 7 << 24, 0) * 20_000
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    with pytest.raises(ObjectFormatError, match="names of types are too long"):
        Btf(head + types + strings, name="x").names()
    types = struct.pack("<III", 10_001, 12 << 24, 0) * 20_000
    with pytest.raises(ObjectFormatError, match="names of functions are too long"):
        Btf(head + types + strings, name="x").func_columns()


def test_saved_facts_with_much_btf() -> None:
    """Three parts of 60 MB each, out of 60 KB, are too much together."""
    part = zlib.compressobj(9)
    raw = b"".join([*(part.compress(bytes(1 << 20)) for _ in range(60)), part.flush()])
    packed = base64.b64encode(raw).decode()
    facts = saved_facts(raw_btf=b"") | {"btf": {"": packed, "a": packed, "b": packed}}
    with pytest.raises(ObjectFormatError, match="'btf b': zlib data of more than 8 MiB"):
        host.Facts.from_json(facts)
