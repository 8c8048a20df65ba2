"""The symbol table parser on pasted samples: names, owners, aliases, addresses, bad input."""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf._sys import files
from pybpf.errors import DeniedByPolicy, ObjectFormatError
from pybpf.kernel import kallsyms
from pybpf.kernel.kallsyms import Kallsyms, Symbol
from tests.support.examples import examples

SAMPLE = b"""\
0000000000000000 A fixed_percpu_data
000000000001f000 A cpu_tss_rw
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81001000 t p_start
ffffffff81002000 T bpf_fentry_test1
ffffffff81002010 t p_start
ffffffff81002020 d __do_sys_getegid16
ffffffff81003000 t __do_sys_getegid16
ffffffff81003000 T __ia32_sys_getegid16
ffffffff81003000 T __x64_sys_getegid16
ffffffff82000000 D jiffies
ffffffff82000100 W weak_one
ffffffffc0a00000 t kvm_init\t[kvm]
ffffffffc0a00080 t p_start\t[kvm]
ffffffffc0800000 t ext4_init\t[ext4]
ffffffffc0300000 t ftrace_trampoline\t[__builtin__ftrace]
ffffffffc0100040 t bpf_prog_6deef7357e7b4530\t[bpf]
ffffffffc0100140 t bpf_prog_6deef7357e7b4530_on_exit\t[bpf]
ffffffffc0101000 t bpf_trampoline_6442507451\t[bpf]
ffffffffc0102000 t bpf_trampoline_6442507451\t[bpf]
ffffffffc0103000 t bpf_dispatcher_xdp\t[bpf]
"""


@pytest.fixture
def table() -> Kallsyms:
    return kallsyms.parse(SAMPLE)


def test_one_line_in_full(table: Kallsyms) -> None:
    """Every column of a line with an owner and of one without."""
    assert table.by_name("kvm_init") == [Symbol("kvm_init", 0xFFFFFFFFC0A00000, "t", "kvm")]
    assert table.by_name("bpf_fentry_test1") == [
        Symbol("bpf_fentry_test1", 0xFFFFFFFF81002000, "T", "")
    ]


def test_iteration_keeps_file_order(table: Kallsyms) -> None:
    lines = SAMPLE.decode().splitlines()
    assert len(table) == len(lines)
    assert [s.name for s in table] == [line.split()[2] for line in lines]


def test_names_of_functions_are_those_of_the_symbols(table: Kallsyms) -> None:
    names = list(table.function_names())
    assert names == [one.name for one in table if one.is_function]
    assert {"weak_one", "kvm_init", "_stext"} <= set(names) and "jiffies" not in names


def test_a_stream_is_read_to_its_end() -> None:
    assert len(kallsyms.parse(io.BytesIO(SAMPLE))) == SAMPLE.count(b"\n")


def test_ambiguous_name_gives_every_address(table: Kallsyms) -> None:
    """A static function's name repeats, in the kernel and in a module."""
    found = table.by_name("p_start")
    assert [s.addr for s in found] == [0xFFFFFFFF81001000, 0xFFFFFFFF81002010, 0xFFFFFFFFC0A00080]
    assert [s.module for s in found] == ["", "", "kvm"]


def test_same_name_other_type(table: Kallsyms) -> None:
    """Data and functions share the name space; the type letter tells them apart."""
    assert [(s.type, s.is_function) for s in table.by_name("__do_sys_getegid16")] == [
        ("d", False),
        ("t", True),
    ]


@pytest.mark.parametrize("name", ["", "p_star", "_start", "start", "kvm", "p start", "p_start\n"])
def test_only_whole_names_match(table: Kallsyms, name: str) -> None:
    """Parts of names, owners and text with blanks never match."""
    assert table.by_name(name) == []


def test_search_and_dictionary_agree(table: Kallsyms) -> None:
    """The first answers come from a text search, later ones from a dictionary: same answers."""
    names = sorted({s.name for s in table})
    by_search = {name: Kallsyms(SAMPLE).by_name(name) for name in names}
    table.expect(1 << 20)
    assert {name: table.by_name(name) for name in names} == by_search
    asked_often = Kallsyms(SAMPLE)
    for _ in range(3):
        assert {name: asked_often.by_name(name) for name in names} == by_search


@pytest.mark.parametrize(
    ("addr", "name", "offset"),
    [
        (0xFFFFFFFF81002000, "bpf_fentry_test1", 0),
        (0xFFFFFFFF81002004, "bpf_fentry_test1", 4),
        (0xFFFFFFFF81000FFF, "_stext", 0xFFF),
        # modules are not in address order in the file
        (0xFFFFFFFFC0800010, "ext4_init", 0x10),
        (0xFFFFFFFFC0300000, "ftrace_trampoline", 0),
        # aliases: the first function, not the data symbol before it
        (0xFFFFFFFF81003000, "__do_sys_getegid16", 0),
    ],
)
def test_address_to_symbol(table: Kallsyms, addr: int, name: str, offset: int) -> None:
    found = table.lookup(addr)
    assert found is not None
    assert (found[0].name, found[1]) == (name, offset)


@pytest.mark.parametrize("addr", [0, 0x7FFF_0000_0000, -1, 1 << 64, 0xFFFFFFFFFFFFFFFF])
def test_addresses_of_nobody(table: Kallsyms, addr: int) -> None:
    """User addresses, nonsense, and what is far past the last symbol have no symbol."""
    assert table.lookup(addr) is None


def test_a_function_is_preferred_to_data_at_one_address() -> None:
    text = b"ffffffff81000000 d marker\nffffffff81000000 T work\n"
    found = Kallsyms(text).lookup(0xFFFFFFFF81000002)
    assert found is not None
    assert found[0].name == "work"


def test_bpf_in_the_page_of_a_function_that_is_gone() -> None:
    """ftrace lists what a module ran once and freed; a trampoline that got the page is not it."""
    text = (
        "ffffffffc0a00000 t other\t[other]\n"
        "ffffffffc0346000 t nf_defrag_init\t[nf_defrag_ipv4]\n"
        "ffffffffc0346040 t second_init\t[nf_defrag_ipv4]\n"
        "ffffffffc0347000 t third_init\t[nf_defrag_ipv4]\n"
        "ffffffffc0346000 t bpf_trampoline_6442507451\t[bpf]\n"
        "ffffffffc0a00000 t kprobe_insn_page\t[__builtin__kprobes]\n"
    )
    table = Kallsyms(text)

    def name(addr: int) -> tuple[str, int] | None:
        found = table.lookup(addr)
        return found and (found[0].name, found[1])

    assert name(0xFFFFFFFFC0346000) == ("bpf_trampoline_6442507451", 0)
    assert name(0xFFFFFFFFC034603F) == ("bpf_trampoline_6442507451", 0x3F)
    assert name(0xFFFFFFFFC034607E) == ("bpf_trampoline_6442507451", 0x7E)
    assert name(0xFFFFFFFFC0347010) == ("third_init", 0x10)
    assert name(0xFFFFFFFFC0A00000) == ("kprobe_insn_page", 0)


def large(steps: list[int]) -> str:
    """The kernel's own symbols, in address order: more than are split for one question."""
    addrs = list(itertools.accumulate((steps * 4000)[:4000], initial=0xFFFFFFFF81000000))
    return "".join([f"{addr:016x} t function_{n}\n" for n, addr in enumerate(addrs)])


@settings(max_examples=examples(20), deadline=None)
@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=9),
    st.lists(st.integers(-5000, 30_000_000), max_size=20),
)
def test_bisected_text_and_sorted_table_agree(steps: list[int], asked: list[int]) -> None:
    """An address leads to the same symbols whether the text is bisected or was sorted."""
    text = large(steps) + "ffffffffc0a00000 t kvm_init\t[kvm]\n"
    bisected, table = Kallsyms(text), Kallsyms(text)
    table._stretches[0]._bisections = 0
    addrs = sorted({int(line[:16], 16) for line in text.splitlines()})
    for more in asked:
        addr = 0xFFFFFFFF81000000 + more
        assert bisected.lookup(addr) == table.lookup(addr)
        assert bisected.at(addr) == table.at(addr)
        following = next(iter(addrs[bisect.bisect_right(addrs, addr) :]), None)
        assert bisected.above(addr) == table.above(addr) == following
    assert bisected._stretches[0]._columns is None


def test_text_that_is_not_in_order_is_sorted() -> None:
    """Bisecting is not tried on a text whose sample is not in order."""
    lines = large([16]).splitlines(keepends=True)
    table = Kallsyms("".join(lines[2000:] + lines[:2000]))
    assert table._stretches[0]._bisections == 0
    found = table.lookup(0xFFFFFFFF81000000 + 16 * 7 + 3)
    assert found is not None and (found[0].name, found[1]) == ("function_7", 3)


def test_a_bad_line_met_by_bisecting_is_named() -> None:
    lines = large([16]).splitlines(keepends=True)
    lines[2000] = "not a symbol at all\n"
    table = Kallsyms("".join(lines))
    with pytest.raises(ObjectFormatError, match="not an address: 'not a symbol at '"):
        for number in range(1900, 2100):
            table.lookup(0xFFFFFFFF81000000 + 16 * number)


def test_many_names_are_looked_up_in_an_index_at_once() -> None:
    """Who says how many names will be asked gets the dictionary before the first search."""
    few, many = Kallsyms(SAMPLE), Kallsyms(SAMPLE)
    few.expect(3)
    many.expect(1000)
    assert few.by_name("jiffies") == many.by_name("jiffies")
    assert few._stretches[0]._names is None
    assert many._stretches[0]._names is not None


@given(st.sets(st.sampled_from([*{line.split()[2] for line in SAMPLE.decode().splitlines()}, "x"])))
def test_columns_of_some_names_are_their_symbols(names: set[str]) -> None:
    """A pass over the text gives what the look-up of each name gives, in file order."""
    table = kallsyms.parse(SAMPLE)
    columns = table.named(names)
    assert all(stretch._columns is None for stretch in table._stretches)
    rows = zip(columns.names, columns.addrs, columns.types, columns.modules, strict=True)
    assert [Symbol(*row) for row in rows] == [s for s in table if s.name in names]


def test_aliases(table: Kallsyms) -> None:
    names = [s.name for s in table.at(0xFFFFFFFF81003000)]
    assert names == ["__do_sys_getegid16", "__ia32_sys_getegid16", "__x64_sys_getegid16"]
    assert table.at(0xFFFFFFFF81003001) == []


def test_trampolines(table: Kallsyms) -> None:
    """Images are listed with their key, both of one that is being replaced, newest last."""
    images = table.trampolines()
    assert [key for key, _ in images] == [6442507451, 6442507451]
    assert images[-1][1].addr == 0xFFFFFFFFC0102000


def test_no_newline_at_the_end() -> None:
    """A cut-off last line still counts."""
    table = Kallsyms(SAMPLE.rstrip(b"\n"))
    assert [s.name for s in table.by_name("bpf_dispatcher_xdp")] == ["bpf_dispatcher_xdp"]


def test_hidden_addresses_are_an_error_with_a_hint() -> None:
    """kptr_restrict shows zeros: no question about addresses is answered with 0."""
    hidden = Kallsyms(b"".join(b"0" * 16 + line[16:] for line in SAMPLE.splitlines(True)))
    assert hidden.hidden
    for ask in (
        lambda: hidden.by_name("jiffies"),
        lambda: hidden.lookup(0xFFFFFFFF81002000),
        lambda: hidden.find_prefix("bpf_"),
        lambda: hidden.named({"jiffies"}),
    ):
        with pytest.raises(DeniedByPolicy, match="kptr_restrict"):
            ask()


def test_per_cpu_symbols_near_zero_are_not_hidden(table: Kallsyms) -> None:
    assert not table.hidden
    assert [s.addr for s in table.by_name("fixed_percpu_data")] == [0]


def test_an_empty_table_is_no_answer() -> None:
    """Containers put /dev/null over /proc/kallsyms. An empty file does not prove anything."""
    table = Kallsyms(b"")
    assert len(table) == 0 and table.hidden
    for ask in (lambda: table.by_name("x"), lambda: table.lookup(1 << 63), table.trampolines):
        with pytest.raises(DeniedByPolicy, match="the file is empty"):
            ask()


@pytest.mark.parametrize(
    ("line", "offset"),
    [
        (b"ffffffff8100zz00 T bad\n", 41),
        (b"ffffffff81000 T short\n", 41),
        (b"ffffffff81000000T nospace\n", 41),
        (b"ffffffff81000000 T \n", 41),
        (b"\n", 41),
    ],
)
def test_a_bad_line_is_named(line: bytes, offset: int) -> None:
    table = Kallsyms(b"ffffffff81000000 T " + b"a" * 21 + b"\n" + line)
    with pytest.raises(ObjectFormatError) as caught:
        table.lookup(0xFFFFFFFF81000000)
        list(table)
    assert caught.value.offset == offset


LINES = SAMPLE.decode().splitlines(keepends=True)


def answers(table: Kallsyms) -> list[object]:
    """All that a table can say, asked twice and more so that every index is made."""
    symbols = list(table)
    addrs = {s.addr + more for s in symbols for more in (-1, 0, 1, 64)}
    found: list[object] = [len(table), table.text, table.trampolines(), symbols]
    for addr in sorted(addrs):
        found += [table.lookup(addr), table.at(addr)]
    for _ in range(2):
        found += [table.by_name(s.name) for s in symbols]
    return found


@given(
    st.lists(st.sampled_from(LINES), unique=True, max_size=12),
    st.lists(st.sampled_from(LINES), unique=True, max_size=12),
)
def test_a_table_read_again_is_one_read_for_the_first_time(
    first: list[str], then: list[str]
) -> None:
    """Whatever was there before: symbols may come, go, or be others altogether."""
    always = "ffffffff81000000 T _stext\n"
    before = Kallsyms(always + "".join(first))
    answers(before)
    text = always + "".join(then)
    assert answers(Kallsyms(text, before)) == answers(Kallsyms(text))
    with tempfile.NamedTemporaryFile("w") as file, pytest.MonkeyPatch.context() as patch:
        file.write(text)
        file.flush()
        patch.setattr(files, "_CHUNK", 7)
        assert answers(kallsyms.read(file.name, before=before)) == answers(Kallsyms(text))


def test_the_kernels_own_symbols_are_not_kept_twice_while_reading(tmp_path: Path) -> None:
    """Only what follows them is; memory for a whole table is not needed."""
    own = b"".join(b"%016x T f%07d\n" % (0xFFFFFFFF81000000 + 16 * i, i) for i in range(40_000))
    path = tmp_path / "kallsyms"
    path.write_bytes(own + b"ffffffffc0104000 t one\t[bpf]\n")
    before = kallsyms.read(str(path))
    path.write_bytes(own + b"ffffffffc0105000 t two\t[bpf]\n")
    tracemalloc.start()
    after = kallsyms.read(str(path), before=before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after._stretches[0] is before._stretches[0] and [s.name for s in after][-1] == "two"
    assert peak < len(own) // 2


def test_what_the_kernel_listed_first_is_not_split_again() -> None:
    """Programs come and go at the end of the table: what was made of the rest is kept."""
    before = kallsyms.parse(SAMPLE)
    before.lookup(0xFFFFFFFF81002004)
    more = SAMPLE + b"ffffffffc0104000 t bpf_trampoline_6442507452\t[bpf]\n"
    after = Kallsyms(more, before)
    assert after._stretches[0] is before._stretches[0]
    assert [key for key, _ in after.trampolines()][-1] == 6442507452
    moved = Kallsyms(SAMPLE.replace(b"ffffffff8100", b"ffffffff8200"), before)
    assert moved._stretches[0] is not before._stretches[0]


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: SAMPLE + t.encode()))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    """Whatever the text, only the two documented errors come out."""
    table = Kallsyms(data)
    for ask in (
        lambda: list(table),
        lambda: table.lookup(0xFFFFFFFF81002004),
        lambda: table.by_name("p_start"),
        lambda: table.find_prefix("bpf_"),
        table.trampolines,
    ):
        with contextlib.suppress(ObjectFormatError, DeniedByPolicy):
            ask()
