"""The ftrace list, the kprobe blacklist and the search for tracefs, on pasted samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf._sys.files import find_tracefs
from pybpf.errors import ObjectFormatError
from pybpf.kernel.ftrace import (
    FtraceFunctions,
    ListText,
    Place,
    parse_blacklist,
    parse_functions,
)
from pybpf.kernel.functions import label

PLAIN = b"""\
__traceiter_initcall_level
do_one_initcall
__ftrace_invalid_address___64
p_start
p_start
foo.isra.0
kvm_init [kvm]
p_start [kvm]
"""

ADDRS = b"""\
ffffffff81000004 __traceiter_initcall_level
ffffffff81000104 do_one_initcall
ffffffff81000140 __ftrace_invalid_address___64
ffffffff81002014 p_start
ffffffffc0a00004 kvm_init [kvm]
"""


def test_names_and_modules_in_order() -> None:
    """Each line gives a name and a module; places that are gone are dropped."""
    assert list(parse_functions(PLAIN)) == [
        ("__traceiter_initcall_level", ""),
        ("do_one_initcall", ""),
        ("p_start", ""),
        ("p_start", ""),
        ("foo.isra.0", ""),
        ("kvm_init", "kvm"),
        ("p_start", "kvm"),
    ]


def test_lookup_by_name() -> None:
    functions = parse_functions(PLAIN)
    assert "do_one_initcall" in functions
    assert "kvm_init" in functions
    assert "__ftrace_invalid_address___64" not in functions
    assert functions.positions("p_start") == (2, 3, 6)
    assert functions.positions("nobody") == ()
    assert functions.modules() == ["kvm"]
    assert functions.names().count("p_start") == 1


def test_addresses_tell_which_static_is_meant() -> None:
    """With the 6.5 file a line belongs to the function at its address, or 4 before (endbr64)."""
    functions = parse_functions(ADDRS, with_addresses=True)
    assert len(functions) == 4
    (at,) = functions.positions("p_start")
    assert functions.is_site_of(at, 0xFFFFFFFF81002010)
    assert functions.is_site_of(at, 0xFFFFFFFF81002014)
    assert not functions.is_site_of(at, 0xFFFFFFFF81001000)
    assert not functions.is_site_of(at, 0xFFFFFFFF81002018)


def test_without_addresses_nothing_is_claimed() -> None:
    functions = parse_functions(PLAIN)
    assert functions.sites is None
    assert functions.is_site_of(0, 0xFFFFFFFF81000000) is None


def test_hidden_addresses_count_as_unknown() -> None:
    hidden = b"".join(b"0" * 16 + line[16:] for line in ADDRS.splitlines(True))
    functions = parse_functions(hidden, with_addresses=True)
    assert functions.sites is None
    assert "p_start" in functions


def test_a_line_without_address_is_an_error() -> None:
    with pytest.raises(ObjectFormatError) as caught:
        len(parse_functions(b"ffffffff81000004 a\nxyz b\n", with_addresses=True))
    assert caught.value.offset == 19


def test_one_site_per_line_is_demanded() -> None:
    with pytest.raises(ValueError, match="call site"):
        FtraceFunctions(("a", "b"), (1,))


@given(st.binary(max_size=100), st.booleans())
def test_garbage_lists(data: bytes, with_addresses: bool) -> None:
    """Any bytes give a list or the one documented error."""
    functions = parse_functions(data, with_addresses=with_addresses)
    try:
        functions.places("a")
        assert all(isinstance(name, str) for name, _ in functions)
    except ObjectFormatError:
        return
    functions.modules()


NAMES = st.sampled_from(["a", "ab", "b", "a.isra.0", "__ftrace_invalid_address___4", "[a]", "m"])


def text_of(lines: list[tuple[str, str, int]], with_addresses: bool) -> bytes:
    """The kernel's list of these functions."""
    texts = [label(name, module) for name, module, _ in lines]
    if with_addresses:
        texts = [f"{at:016x} {text}" for text, (_, _, at) in zip(texts, lines, strict=True)]
    return "".join([f"{text}\n" for text in texts]).encode()


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["", "m", "a"]), st.integers(1, 2**64 - 1))),
    st.booleans(),
)
def test_a_search_finds_what_the_split_list_has(
    lines: list[tuple[str, str, int]], with_addresses: bool
) -> None:
    """A name has the same places whether the text is searched or was split and indexed."""
    data = text_of(lines, with_addresses)
    split = parse_functions(data, with_addresses=with_addresses)
    assert len(split) == sum(not name.startswith("__ftrace") for name, _, _ in lines)
    for name in ("a", "ab", "b", "a.isra.0", "__ftrace_invalid_address___4", "m", "", "x"):
        fresh = parse_functions(data, with_addresses=with_addresses)
        want = [
            Place(n, module, at if with_addresses else None)
            for n, module, at in lines
            if n == name and not n.startswith("__ftrace")
        ]
        assert fresh.places(name) == split.places(name) == want
        assert (name in fresh) == (name in split) == bool(want)


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["", "m", "a"]), st.integers(1, 2**64 - 1))),
    st.sets(st.sampled_from(["a", "ab", "a.", "b", "m", "x", "__", "[a"]), min_size=1),
    st.booleans(),
)
def test_beginnings_are_found_in_the_text(
    lines: list[tuple[str, str, int]], prefixes: set[str], with_addresses: bool
) -> None:
    """What a search for beginnings finds are those lines of the split list, in its order."""
    data = text_of(lines, with_addresses)
    split = parse_functions(data, with_addresses=with_addresses)
    want = [i for i, line in enumerate(split.lines) if line.startswith(tuple(prefixes))]
    fresh = parse_functions(data, with_addresses=with_addresses)
    some = fresh.starting(sorted(prefixes))
    assert fresh._columns is None
    assert list(some.lines) == [split.lines[i] for i in want]
    if with_addresses and want:
        assert some.sites is not None and split.sites is not None
        assert list(some.sites) == [split.sites[i] for i in want]
    assert split.starting(sorted(prefixes)) is split


@given(st.lists(st.tuples(st.text("0123456789abcdefx ", max_size=18), NAMES), max_size=4))
def test_addresses_in_bulk_are_those_of_each_line(lines: list[tuple[str, str]]) -> None:
    """Lines that differ from the usual form give what each of them gives alone, or the error."""

    def parsed(text: str) -> list[tuple[str, int]] | None:
        functions = parse_functions(text.encode(), with_addresses=True)
        try:
            return list(zip(functions.lines, functions.sites or (), strict=False))
        except ObjectFormatError:
            return None

    each = [parsed(f"{head} {name}\n") for head, name in lines]
    whole = parsed("".join([f"{head} {name}\n" for head, name in lines]))
    if None in each:
        assert whole is None
    elif all(each):
        assert whole == [place for one in each for place in one or ()]


def test_a_list_is_read_when_it_is_needed() -> None:
    """It is read once, whatever is asked of it."""
    read: list[bytes] = []

    def reader() -> bytes:
        read.append(ADDRS)
        return ADDRS

    functions = FtraceFunctions.of(ListText(reader, with_addresses=True))
    assert not read
    assert functions.starting(["p_"]).lines == ("p_start",)
    assert functions.places("kvm_init") == [Place("kvm_init", "kvm", 0xFFFFFFFFC0A00004)]
    assert len(functions) == 4
    assert len(read) == 1


def test_one_name_does_not_split_the_list() -> None:
    """Names are searched for in the text until so many are asked for that an index pays."""
    functions = parse_functions(ADDRS, with_addresses=True)
    assert functions.places("kvm_init") == [Place("kvm_init", "kvm", 0xFFFFFFFFC0A00004)]
    assert functions._columns is None
    functions.named(f"no_such_{i}" for i in range(100))
    assert functions.places("p_start") == [Place("p_start", "", 0xFFFFFFFF81002014)]
    assert functions._columns is not None


BLACKLIST = b"""\
0xffffffff81c00000-0xffffffff81c00080\tasm_exc_divide_error
0xffffffff81e01000-0xffffffff81e01020\tdo_int3 [kvm]
"""


def test_blacklist_by_name_and_address() -> None:
    blacklist = parse_blacklist(BLACKLIST)
    assert len(blacklist) == 2
    assert "asm_exc_divide_error" in blacklist
    assert "do_int3" in blacklist
    assert "vfs_read" not in blacklist
    assert blacklist.covers(0xFFFFFFFF81C0007F)
    assert not blacklist.covers(0xFFFFFFFF81C00080)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=8), st.integers(0, 90))
def test_ranges_may_nest_and_overlap(ranges: list[tuple[int, int]], addr: int) -> None:
    """The union of ranges answers as a look at each of them would."""
    text = "".join(f"{start:#x}-{start + size:#x}\tname\n" for start, size in ranges)
    expected = any(start <= addr < start + size for start, size in ranges)
    assert parse_blacklist(text.encode()).covers(addr) == expected


def test_bad_blacklist() -> None:
    with pytest.raises(ObjectFormatError) as caught:
        parse_blacklist(BLACKLIST + b"nonsense\n")
    assert caught.value.offset == len(BLACKLIST)


MOUNTS = """\
proc /proc proc rw 0 0
debugfs /sys/kernel/debug debugfs rw 0 0
nodev /mnt/odd\\040place tracefs rw 0 0
tracefs /sys/kernel/tracing tracefs rw 0 0
tracefs /sys/kernel/debug/tracing tracefs rw 0 0
short
"""


def test_tracefs_places_best_first() -> None:
    """The standard mount comes first, paths are unescaped, debugfs counts as a last resort."""
    assert find_tracefs(MOUNTS) == [
        "/sys/kernel/tracing",
        "/mnt/odd place",
        "/sys/kernel/debug/tracing",
    ]
    assert find_tracefs("debugfs /d debugfs rw 0 0\n") == ["/d/tracing"]
    assert find_tracefs("") == []
