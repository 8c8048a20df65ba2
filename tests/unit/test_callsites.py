"""Call sites in the kernel's memory give the functions that ftrace's list has."""

from __future__ import annotations

import errno
import struct
import weakref
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from pybpf.btf import Btf, BtfBuilder, types
from pybpf.errors import BpfError
from pybpf.kernel import callsites
from pybpf.kernel.callsites import CallSites, Records, find_sites, read_sites
from pybpf.kernel.ftrace import FtraceFunctions, Lists, ListText, Place, parse_functions
from pybpf.kernel.functions import label
from pybpf.kernel.kallsyms import Kallsyms, Symbol
from pybpf.kernel.kcore import KernelMemory

START = 0xFFFFFFFF81000000
VARIABLE = 0xFFFFFFFF82000000
PAGES = 0xFFFF888000001000
GONE = "__ftrace_invalid_address___20"
#: As on x86-64 kernels up to 7.x.
LAYOUT = Records(page_size=24, next=0, records=8, used=16, size=16, site=0)


class Memory(KernelMemory):
    """Kernel memory with a few ranges."""

    name = "a test's memory"

    def __init__(self, ranges: dict[int, bytes]) -> None:
        self.ranges = ranges

    def read(self, addr: int, size: int) -> bytes:
        for start, data in self.ranges.items():
            if start <= addr and addr + size <= start + len(data):
                return data[addr - start : addr - start + size]
        raise BpfError(errno.EFAULT, f"reading {size} bytes at {addr:#x}")

    def close(self) -> None:
        pass


def memory_of(groups: list[list[int]], layout: Records = LAYOUT) -> Memory:
    """Records of groups of call sites, as ftrace keeps them."""
    places = [PAGES + 0x100000 * i for i in range(len(groups))]
    ranges = {VARIABLE: struct.pack("<Q", places[0] if places else 0)}
    for place, group, after in zip(places, groups, [*places[1:], 0], strict=False):
        page = bytearray(layout.page_size)
        struct.pack_into("<Q", page, layout.next, after)
        struct.pack_into("<Q", page, layout.records, place + 0x1000)
        struct.pack_into("<i", page, layout.used, len(group))
        records = bytearray(layout.size * len(group))
        for i, site in enumerate(group):
            struct.pack_into("<Q", records, i * layout.size + layout.site, site)
        ranges[place], ranges[place + 0x1000] = bytes(page), bytes(records) or b"\0"
    return Memory(ranges)


layouts = st.sampled_from(
    [
        LAYOUT,
        LAYOUT._replace(size=24, site=8),
        Records(40, 24, 0, 12, 16, 8),
        Records(32, 8, 24, 0, 8, 0),
    ]
)


@given(st.lists(st.lists(st.integers(1, 2**64 - 1), max_size=5), max_size=4), layouts)
def test_all_records_are_read_in_order(groups: list[list[int]], layout: Records) -> None:
    """Wherever the fields are, the sites of all groups come one after the other."""
    sites = read_sites(memory_of(groups, layout), layout, VARIABLE)
    assert sites is not None and sites.tolist() == [site for group in groups for site in group]


def test_a_loop_of_pages_ends() -> None:
    memory = memory_of([[START], [START + 16]])
    memory.ranges[PAGES + 0x100000] = struct.pack("<QQi4x", PAGES, PAGES + 0x1000, 1)
    assert read_sites(memory, LAYOUT, VARIABLE) is None


@pytest.mark.parametrize("count", [-1, 1 << 30])
def test_an_impossible_number_of_records(count: int) -> None:
    memory = memory_of([[START]])
    memory.ranges[PAGES] = struct.pack("<QQi4x", 0, PAGES + 0x1000, count)
    assert read_sites(memory, LAYOUT, VARIABLE) is None


@pytest.mark.parametrize(
    "layout",
    [
        LAYOUT._replace(size=12),
        LAYOUT._replace(size=0),
        LAYOUT._replace(site=4),
        LAYOUT._replace(site=16),
        LAYOUT._replace(next=17),
        LAYOUT._replace(records=24),
        LAYOUT._replace(used=21),
    ],
)
def test_fields_that_cannot_be_there(layout: Records) -> None:
    """Not whole words, or after the end of their struct."""
    assert read_sites(memory_of([[START]]), layout, VARIABLE) is None


def kernel_btf(**fields: str) -> Btf:
    """BTF with the two structs; a field may have another name."""
    builder = BtfBuilder()
    number = builder.add(types.Int("int", 4, 32, 0, 1))
    word = builder.add(types.Int("long unsigned int", 8, 64))

    def member(name: str, kind: int, offset: int) -> types.Member:
        return types.Member(fields.get(name, name), kind, 8 * offset)

    record = builder.add(
        types.Struct("dyn_ftrace", 16, (member("ip", word, 0), member("flags", word, 8)))
    )
    to_record, to_page = builder.add(types.Ptr(record)), builder.add(types.Ptr(0))
    builder.add(
        types.Struct(
            fields.get("ftrace_page", "ftrace_page"),
            24,
            (
                member("next", to_page, 0),
                member("records", to_record, 8),
                member("index", number, 16),
                member("order", number, 20),
            ),
        )
    )
    return Btf(builder.build())


def test_the_layout_comes_from_btf() -> None:
    assert Records.of(kernel_btf()) == LAYOUT


@pytest.mark.parametrize("field", ["ftrace_page", "next", "records", "index", "ip"])
def test_a_kernel_that_names_it_otherwise(field: str) -> None:
    """Nothing is guessed: without one of the names there is no layout."""
    assert Records.of(kernel_btf(**{field: "renamed"})) is None


class Facts(SimpleNamespace):
    """What `find_sites` reads of a kernel."""


# -- the functions ---------------------------------------------------------

NAMES = ["a", "ab", "abc", "b", "a.isra.0", "s", "st"]


class Kernel:
    """Symbols, call sites and the list that the kernel would write of them."""

    def __init__(self, symbols: list[Symbol], groups: list[list[int]]) -> None:
        own = sorted([s for s in symbols if not s.module], key=lambda s: s.addr)
        self.symbols = [*own, *[s for s in symbols if s.module]]
        self.sites = array("Q", [site for group in groups for site in group])
        self.lines = [self._name(site) for site in self.sites]

    def _name(self, site: int) -> str:
        # kallsyms_lookup: of the symbols that are nearest below, the first.
        near = [s for s in self.symbols if site - 4 <= s.addr <= site]
        if not near:
            return GONE
        best = max(near, key=lambda s: s.addr)
        return label(best.name, best.module)

    def text(self, with_sites: bool) -> bytes:
        heads = [f"{site:016x} " if with_sites else "" for site in self.sites]
        return "".join(f"{h}{x}\n" for h, x in zip(heads, self.lines, strict=True)).encode()

    def kallsyms(self) -> Kallsyms:
        owners = (f"\t[{s.module}]" if s.module else "" for s in self.symbols)
        rows = zip(self.symbols, owners, strict=True)
        return Kallsyms("".join(f"{s.addr:016x} {s.type} {s.name}{o}\n" for s, o in rows))

    def functions(self, *, told: bool = True) -> FtraceFunctions:
        plain = ListText(lambda: self.text(False), with_addresses=False)
        best = ListText(lambda: self.text(True), with_addresses=True)
        read = (lambda: self.sites) if told else None
        return FtraceFunctions.of(CallSites(Lists(plain, best), self.kallsyms, lambda: read))

    def listed(self) -> FtraceFunctions:
        return parse_functions(self.text(True), with_addresses=True)


@st.composite
def made(draw: DrawFn) -> Kernel:
    """Functions 16 bytes apart, some with several names, in the kernel and in a module.

    Some symbols are 4 bytes after the start, as a label in assembly may be.
    """
    place = st.integers(0, 11)
    beyond = st.sampled_from([0, 0, 0, 4])
    row = st.tuples(place, st.sampled_from(NAMES), st.sampled_from("TtWd"), beyond)
    symbols = [
        Symbol(name, START + 16 * at + more, kind, "mod" if at > 7 else "")
        for at, name, kind, more in draw(st.lists(row, max_size=20))
    ]
    symbols.insert(0, Symbol("_text", START - 64, "T"))
    functions = draw(st.lists(place, unique=True, max_size=12))
    sites = {at: START + 16 * at + draw(st.sampled_from([0, 4])) for at in functions}
    own = sorted(site for at, site in sites.items() if at <= 7)
    return Kernel(symbols, [own, [sites[at] for at in functions if at > 7]])


@given(made(), st.booleans())
def test_the_whole_list(kernel: Kernel, told: bool) -> None:
    """Lines, order and call sites are those of the kernel's list with addresses."""
    functions, listed = kernel.functions(told=told), kernel.listed()
    assert functions.lines == listed.lines
    assert list(functions.sites or ()) == list(listed.sites or ())


@given(made(), st.sets(st.sampled_from(["a", "ab", "s", "a.", "x"]), min_size=1), st.booleans())
def test_beginnings(kernel: Kernel, prefixes: set[str], told: bool) -> None:
    """So are those whose names start so, found among the symbols."""
    some = kernel.functions(told=told).starting(sorted(prefixes))
    listed = kernel.listed()
    want = [i for i, line in enumerate(listed.lines) if line.startswith(tuple(prefixes))]
    assert list(some.lines) == [listed.lines[i] for i in want]
    assert list(some.sites or ()) == [(listed.sites or ())[i] for i in want]


@given(made(), st.lists(st.sampled_from([*NAMES, "x", "", "a b"]), max_size=4), st.booleans())
def test_exact_names(kernel: Kernel, names: list[str], told: bool) -> None:
    """So are single names, in any module, in the list's order."""
    functions, listed = kernel.functions(told=told), kernel.listed()
    assert functions.named(names) == listed.named(names)
    assert [name in functions for name in names] == [name in listed for name in names]


def test_a_list_of_another_length_is_read_with_its_addresses() -> None:
    """If a module came in between, lines and records do not belong together."""
    kernel = Kernel([Symbol("a", START, "T"), Symbol("b", START + 16, "T")], [[START, START + 16]])
    later = Kernel(kernel.symbols, [[START]])
    plain = ListText(lambda: later.text(False), with_addresses=False)
    best = ListText(lambda: later.text(True), with_addresses=True)
    source = CallSites(Lists(plain, best), kernel.kallsyms, lambda: lambda: kernel.sites)
    assert source.split() == later.listed()._split()


def test_a_list_of_other_functions_is_read_with_its_addresses() -> None:
    """If a module went and another came, lines are as many, but they are not those of before."""
    first = [Symbol("a", START, "T"), Symbol("b", START + 16, "T")]
    kernel = Kernel(first, [[START, START + 16]])
    later = Kernel([*first, Symbol("c", START + 32, "T")], [[START, START + 32]])
    plain = ListText(lambda: later.text(False), with_addresses=False)
    best = ListText(lambda: later.text(True), with_addresses=True)
    records = iter([kernel.sites, later.sites])
    source = CallSites(Lists(plain, best), kernel.kallsyms, lambda: lambda: next(records))
    assert source.split() == later.listed()._split()


@pytest.mark.parametrize("again", [None, array("Q"), array("Q", [START])])
def test_records_that_are_gone_after_the_list_was_read(again: array[int] | None) -> None:
    """Memory does not tell any more, or the records are being changed: the list's sites count."""
    symbols = [Symbol("a", START, "T"), Symbol("b", START + 16, "T")]
    kernel = Kernel(symbols, [[START, START + 16]])
    later = Kernel(symbols, [[START + 4, START + 20]])
    plain = ListText(lambda: kernel.text(False), with_addresses=False)
    best = ListText(lambda: later.text(True), with_addresses=True)
    records = iter([kernel.sites, again])
    source = CallSites(Lists(plain, best), kernel.kallsyms, lambda: lambda: next(records))
    assert source.split() == later.listed()._split()


@pytest.mark.parametrize("module", ["", "mod"])
@pytest.mark.parametrize("others", [0, 20], ids=["few", "many"])
def test_a_symbol_of_its_own_names_a_call_site(module: str, others: int) -> None:
    """Not the symbol 4 bytes before, however many functions are found with it."""
    symbols = [Symbol("_text", START - 64, "T"), Symbol("a", START, "T", module)]
    symbols.append(Symbol("b", START + 4, "T", module))
    more = [START + 16 * i for i in range(1, others + 1)]
    symbols += [Symbol(f"a{i}", at, "T", module) for i, at in enumerate(more)]
    kernel = Kernel(symbols, [[START + 4, *(at + 4 for at in more)]])
    functions = kernel.functions()
    names = [FtraceFunctions.split(line)[0] for line in functions.starting(["a"]).lines]
    assert names == [f"a{i}" for i in range(others)]
    assert functions.named(["a"]) == []
    assert functions.named(["b"]) == [Place("b", module, START + 4)]


class Holder:
    """Has a kernel's symbols and call sites, as `Facts` has."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def symbols(self) -> Kallsyms:
        return self.kernel.kallsyms()

    def find(self) -> Callable[[], array[int]]:
        sites = self.kernel.sites
        return lambda: sites


def test_whoever_holds_them_is_let_go() -> None:
    """Facts refer to their functions, and these to the facts only until they are used."""
    kernel = Kernel([Symbol("a", START, "T")], [[START]])
    plain = ListText(lambda: kernel.text(False), with_addresses=False)
    holder = Holder(kernel)
    gone = weakref.ref(holder)
    source = CallSites(Lists(plain, plain), holder.symbols, holder.find)
    del holder
    assert gone() is not None
    for _ in range(2):
        assert source.starting(["a"]).lines == ("a",)
        assert gone() is None


def test_after_an_interrupt_it_is_read_again() -> None:
    """Ctrl-C may come while memory is read. What asks next gets the functions."""
    kernel = Kernel([Symbol("a", START, "T")], [[START]])
    plain = ListText(lambda: kernel.text(False), with_addresses=False)
    answers = iter([KeyboardInterrupt, kernel.sites])

    def read() -> array[int]:
        answer = next(answers)
        if isinstance(answer, array):
            return answer
        raise answer

    source = CallSites(Lists(plain, plain), kernel.kallsyms, lambda: read)
    with pytest.raises(KeyboardInterrupt):
        source.starting(["a"])
    assert source.starting(["a"]).lines == ("a",)


def both(ask: Callable[[], object]) -> list[object]:
    """What two threads get that ask at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return [answer.result() for answer in [pool.submit(ask), pool.submit(ask)]]


def test_threads_that_read_at_once_both_get_the_functions() -> None:
    """Each reads, and none finds what the other has put away."""
    kernel = Kernel([Symbol("a", START, "T")], [[START]])
    meet = Barrier(2, timeout=10)

    def read() -> array[int]:
        meet.wait()
        return kernel.sites

    best = ListText(lambda: kernel.text(True), with_addresses=True)
    known = FtraceFunctions.of(CallSites(Lists(best, best), kernel.kallsyms, lambda: read))
    assert both(lambda: known.named(["a"])) == [[Place("a", "", START)]] * 2


# -- when memory is not trusted --------------------------------------------


def facts(symbols: str = f"{VARIABLE:016x} b ftrace_pages_start\n", **fields: str) -> Facts:
    text = f"{START:016x} T _text\n{symbols}"
    return Facts(kallsyms=Kallsyms(text), btf=SimpleNamespace(vmlinux=lambda: kernel_btf(**fields)))


def sites_of(known: Facts) -> array[int] | None:
    read = find_sites(known)  # type: ignore[arg-type]
    return read() if read else None


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the kernel says before and after: the number of its records."""
    said: list[int | None] = [2, 2]
    left = iter(said)
    monkeypatch.setattr(callsites, "_count", lambda: next(left))
    monkeypatch.setattr(
        callsites, "open_memory", lambda: memory_of([[START + 4], [START + 0x1000]])
    )
    return said


def test_records_are_trusted_if_their_number_is_right(counts: list[int | None]) -> None:
    sites = sites_of(facts())
    assert sites is not None and sites.tolist() == [START + 4, START + 0x1000]


@pytest.mark.parametrize("said", [(1, 1), (2, 3), (3, 2), (None, None)])
def test_another_number_of_records(counts: list[int | None], said: tuple[int | None, ...]) -> None:
    """More or fewer, or a change while they were read: a module came or went."""
    counts[:] = said
    assert sites_of(facts()) is None


@pytest.mark.parametrize(
    "known",
    [
        facts(""),
        facts(f"{VARIABLE:016x} b ftrace_pages_start\n" * 2),
        facts(f"{VARIABLE + 8:016x} b ftrace_pages_start\n"),
        facts(index="used"),
    ],
    ids=["no variable", "two of them", "an address that is not mapped", "another layout"],
)
def test_a_kernel_that_keeps_them_otherwise(counts: list[int | None], known: Facts) -> None:
    assert sites_of(known) is None


def test_memory_that_may_not_be_read(
    counts: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Memory:
        raise BpfError(errno.EPERM, "loading a program")

    monkeypatch.setattr(callsites, "open_memory", refused)
    assert sites_of(facts()) is None
