"""Reading objects: committed ones that clang made, and files written here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from pybpf.btf import Btf
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import ObjectFormatError
from pybpf.obj.reader import read_object
from pybpf.obj.spec import MapSpec, ObjectSpec, object_name
from tests.support.elfwriter import NOBITS, ElfWriter, code, replace_name

DATA = Path(__file__).parents[1] / "data"
MOV0, EXIT = (0xB7, 0, 0, 0), (0x95, 0, 0, 0)
PROGRAM = code(MOV0, EXIT)
RDONLY_PROG, MMAPABLE, LINK = 1 << 7, 1 << 10, 1 << 13


@cache
def read(name: str) -> ObjectSpec:
    path = DATA / f"obj_{name}.bpf.o"
    return read_object(path.read_bytes(), path.name)


def refusal(data: bytes) -> ObjectFormatError:
    with pytest.raises(ObjectFormatError) as caught:
        read_object(data, "x.o")
    assert caught.value.file == "x.o"
    return caught.value


# Programs.


def test_programs_by_section_then_offset() -> None:
    """libbpf's order: by section index, then offset; not that of the symbol table."""
    spec = read("sections")
    assert list(spec.programs) == [
        "probe_a", "probe_b", "not_loaded", "unknown", "multi", "bare_multi", "user", "frags",
    ]  # fmt: skip
    assert [p.insn_cnt for p in spec.programs.values()] == [2] * 8


def test_leading_question_mark() -> None:
    """SEC("?x") is section x with autoload off."""
    program = read("sections").programs["not_loaded"]
    assert (program.section, program.autoload) == ("kprobe/vfs_write", False)
    assert read("sections").programs["probe_a"].autoload


def test_unknown_section_name() -> None:
    """An object with an unknown section name opens, without a program type."""
    program = read("sections").programs["unknown"]
    assert (program.type, program.sec_def, program.attach_to) == (0, None, "x")
    assert not program.autoattach


def test_what_section_names_say() -> None:
    """Types, flags and targets from section names, module and path targets included."""
    programs = read("sections").programs
    multi, user, frags = programs["multi"], programs["user"], programs["frags"]
    assert (multi.type, multi.expected_attach_type, multi.attach_to) == (26, 59, "nf_tables:nft_*")
    assert multi.sleepable and multi.flags == 1 << 4
    assert (user.type, user.attach_to) == (2, "/usr/bin/env:main+0x10")
    assert (frags.type, frags.flags, frags.sleepable) == (6, 1 << 5, False)
    assert programs["bare_multi"].attach_to == ""


def test_license_and_version() -> None:
    """Both come from sections of those names; an object may lack them."""
    assert read("sections").license == "Dual MIT/GPL"
    assert read("sections").version == 0x060100
    assert (read("data").license, read("data").version) == ("GPL", 0)
    writer = ElfWriter()
    writer.function("main", writer.text("socket", PROGRAM), PROGRAM)
    assert read_object(writer.build()).license == ""


def test_long_license_is_cut() -> None:
    """63 characters at most, as libbpf's buffer."""
    writer = ElfWriter()
    writer.section("license", b"x" * 100)
    assert read_object(writer.build()).license == "x" * 63


def test_subprograms_are_no_programs() -> None:
    """Functions of .text are kept for linking but are not entry programs."""
    spec = read("subprogs")
    assert list(spec.programs) == ["first", "second", "callbacks", "alone"]
    own = {f.name: f for f in spec.functions if f.section == spec.text}
    assert {"leaf", "middle", "global_one", "hidden_one", "weak_one", "never_called"} <= own.keys()
    assert own["hidden_one"].hidden and own["hidden_one"].is_global
    assert own["weak_one"].is_global and not own["weak_one"].hidden
    assert not own["leaf"].is_global


def test_static_programs() -> None:
    """A static function outside .text is a program, also by its address in a program array."""
    spec = read_object((DATA / "obj_static.bpf.o").read_bytes())
    assert {p.name: (p.section, p.type) for p in spec.programs.values()} == {
        "hidden_program": ("socket", 1),
        "visible": ("socket", 1),
        "second_program": ("2/7", 0),
    }
    assert spec.maps["tails"].slots == ((0, "hidden_program"), (2, "second_program"))


def test_two_programs_in_one_section() -> None:
    """Each function symbol is a program; local symbols of other types are not."""
    writer = ElfWriter()
    section = writer.text("xdp", PROGRAM * 2)
    writer.function("second", section, PROGRAM, start=16)
    writer.symbol("label", section, 8, bind=0)
    writer.function("first", section, PROGRAM)
    assert list(read_object(writer.build()).programs) == ["first", "second"]


@pytest.mark.parametrize(
    ("start", "size", "says"),
    [
        (0, 24, "ends after the section"),
        (8, 16, "ends after the section"),
        (0, 0, "not a multiple of 8"),
        (0, 12, "not a multiple of 8"),
        (4, 8, "not a multiple of 8"),
        (1 << 63, 8, "ends after the section"),
        ((1 << 64) - 8, 16, "ends after the section"),
    ],
)
def test_functions_outside_their_section(start: int, size: int, says: str) -> None:
    """Function symbols are checked against the section; errors name section and offset."""
    writer = ElfWriter()
    section = writer.text("xdp", PROGRAM)
    writer.symbol("main", section, start, size, type=2)
    err = refusal(writer.build())
    assert says in err.what
    assert (err.section, err.offset) == ("xdp", start)


def test_a_name_twice() -> None:
    """Two programs of one name cannot both be found by it."""
    writer = ElfWriter()
    for section in ("xdp", "tc"):
        writer.function("main", writer.text(section, PROGRAM), PROGRAM)
    assert "second program 'main'" in refusal(writer.build()).what


def test_debug_sections_are_not_looked_at() -> None:
    """Nonsense in debug sections and their relocations does not matter."""
    writer = ElfWriter()
    writer.function("main", writer.text("xdp", PROGRAM), PROGRAM)
    debug = writer.section(".debug_info", b"\xff" * 33)
    writer.section(".rel.debug_info", b"\xff" * 33, type=9, info=debug, entsize=3)
    writer.section("unknown", b"\xff" * 7)
    assert list(read_object(writer.build()).programs) == ["main"]


def test_stripped_of_symbols() -> None:
    """Without a symbol table nothing can be found."""
    writer = ElfWriter(with_symbols=False)
    writer.text("xdp", PROGRAM)
    assert "no symbol table" in refusal(writer.build()).what


@pytest.mark.parametrize("size", [3, 5, 0])
def test_version_of_another_size(size: int) -> None:
    """A version is a u32."""
    writer = ElfWriter()
    writer.section("version", bytes(size))
    assert "four bytes" in refusal(writer.build()).what


# Data sections and variables.


def test_one_map_per_data_section() -> None:
    """Data sections become maps in section order, suffixed and BTF-less ones too."""
    maps = read("data").maps
    assert [(m.name, m.data, m.value_size) for m in maps.values()] == [
        (".data", "data", 16),
        (".rodata", "rodata", 16),
        (".data.custom", "data", 4),
        (".data.hidden", "data", 4),
        (".rodata.chosen", "rodata", 4),
        (".rodata.str1.1", "rodata", 60),
        (".bss", "bss", 36),
        (".bss.zeroed", "bss", 4),
    ]
    assert all((m.type, m.key_size, m.max_entries) == (2, 4, 1) for m in maps.values())


def test_flags_of_data_maps() -> None:
    """Read-only for .rodata; mmap-able only with a variable that is neither static nor hidden."""
    flags = {m.name: m.map_flags for m in read("data").maps.values()}
    assert flags[".data"] == flags[".bss"] == MMAPABLE
    assert flags[".rodata"] == RDONLY_PROG | MMAPABLE
    assert flags[".rodata.str1.1"] == RDONLY_PROG  # no BTF describes it
    assert flags[".data.hidden"] == 0


def test_initial_contents() -> None:
    """Contents of data sections as the compiler wrote them; zeros for .bss."""
    maps = read("data").maps
    assert maps[".data.custom"].initial == (9).to_bytes(4, "little")
    assert maps[".bss"].initial == bytes(36)
    rodata, text = maps[".rodata"].initial, maps[".rodata.str1.1"].initial
    assert rodata is not None and text is not None
    assert rodata[:4] == (100).to_bytes(4, "little") and rodata[4:9] == b"pybpf"
    assert b"found in .rodata.str1.1\0" in text


def test_variables() -> None:
    """Map, offset, size and visibility of every global; offsets come from ELF symbols."""
    variables = read("data").variables
    places = {v.name: (v.map, v.offset, v.size) for v in variables.values()}
    assert places["initial"] == (".data", 0, 4)
    assert places["origin"] == (".data", 4, 8)
    assert places["label"] == (".rodata", 4, 8)
    assert places["zeroes"] == (".bss", 8, 24)
    assert places["custom"] == (".data.custom", 0, 4)
    assert places["private_initial"] == (".data", 12, 4)
    static = {v.name for v in variables.values() if v.static}
    assert static == {"private_counter", "private_initial", "private_limit", "hidden_only"}


def test_variable_types() -> None:
    """A variable's type id leads to its C type in the object's BTF."""
    spec = read("data")
    assert spec.btf is not None
    origin = spec.variables["origin"]
    assert spec.btf.name(spec.btf.skip_mods_and_typedefs(origin.type_id)) == "point"
    assert all(spec.btf.sizeof(v.type_id) == v.size for v in spec.variables.values())


def test_sections_of_one_name() -> None:
    """Two data sections of one name are two maps, the second with its number in the key."""
    writer = ElfWriter()
    writer.section(".rodata.cst16", bytes(16))
    second = writer.section(".rodata.cst16", bytes(32))
    maps = read_object(writer.build()).maps
    assert list(maps) == [".rodata.cst16", f".rodata.cst16#{second}"]
    assert [m.value_size for m in maps.values()] == [16, 32]


def test_large_bss_is_not_spelled_out() -> None:
    """Zeros of more than 16 MiB are not materialised, and no map is larger than 2 GiB."""
    writer = ElfWriter()
    writer.section(".bss", type=NOBITS, size=1 << 30)
    spec = read_object(writer.build()).maps[".bss"]
    assert (spec.value_size, spec.initial) == (1 << 30, None)
    writer = ElfWriter()
    writer.section(".bss", type=NOBITS, size=1 << 31)
    assert "do not fit in a map" in refusal(writer.build()).what


def test_empty_sections_make_no_map() -> None:
    """clang emits empty .data and .bss sections; they are nothing."""
    writer = ElfWriter()
    writer.section(".data")
    writer.section(".bss", type=NOBITS)
    assert not read_object(writer.build()).maps


@pytest.mark.parametrize(
    ("section", "obj", "expected"),
    [
        (".rodata", "libbpf_tool", "libbpf_t.rodata"),
        (".bss", "libbpf_tool", "libbpf_t.bss"),
        (".data", "ab", "ab.data"),
        (".kconfig", "libbpf_tool", "libbpf_.kconfig"),
        (".rodata.str1.1", "libbpf_tool", ".rodata.str1.1"),
        (".rodata.abracadabra", "x", ".rodata.abracad"),
        (".rodata", "a-b c", "a_b_c.rodata"),
        (".rodata", "żółw", "___w.rodata"),
    ],
)
def test_kernel_names_of_data_maps(section: str, obj: str, expected: str) -> None:
    """Object prefix and section share 15 characters by libbpf's rule."""
    spec = MapSpec(section, 2, 4, 4, 1, section=section, data="data")
    assert spec.kernel_name(obj) == expected


def test_kernel_names_of_other_maps() -> None:
    """A user's map keeps its name, cut to what the kernel takes."""
    assert MapSpec("a_rather_long_map_name", 2, 4, 4, 1).kernel_name("x") == "a_rather_long_m"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/x/opensnoop.bpf.o", "opensnoop"),
        ("a-very-long-object-name.o", "a-very-long-obj"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_object_names(file: str, name: str) -> None:
    """File name up to its first dot, 15 characters at most."""
    assert object_name(file) == name


# Maps.


def test_maps_by_offset() -> None:
    """libbpf numbers the maps of .maps by offset in the section."""
    assert list(read("maps").maps) == [
        "inner_b", "inner_a", "outer", "jumps", "by_type", "by_size", "by_both", "ring", "bloom",
        "arena",
    ]  # fmt: skip


def test_map_members() -> None:
    """Members that clang's BTF carries, through typedefs and arrays."""
    maps = read("maps").maps
    by_type = maps["by_type"]
    assert (by_type.type, by_type.key_size, by_type.value_size) == (1, 8, 32)
    assert (by_type.max_entries, by_type.map_flags, by_type.numa_node) == (1024, 5, 0)
    assert by_type.pinning == 1
    btf = read("maps").btf
    assert btf is not None and btf.name(by_type.key_type_id) == "key_alias"
    assert (maps["by_size"].key_size, maps["by_size"].value_size) == (4, 24)
    assert maps["bloom"].map_extra == 3
    assert maps["arena"].map_extra == 0x100000000000
    assert maps["ring"].max_entries == 8192


def test_inner_maps_and_slots() -> None:
    """A map of maps has an inner definition and initial values by name."""
    outer = read("maps").maps["outer"]
    assert outer.inner is not None and outer.inner.max_entries == 2
    assert outer.slots == ((0, "inner_b"), (2, "inner_a"))


def test_program_array_slots() -> None:
    """A program array starts with the programs that its relocations name."""
    jumps = read("maps").maps["jumps"]
    assert jumps.slots == ((1, "tail_a"), (6, "tail_b"))
    assert jumps.inner is None


def test_struct_ops() -> None:
    """struct_ops variables are maps: contents, programs by member, link and autocreate."""
    maps = read("struct_ops").maps
    linked, off = maps["pybpf_cc"], maps["pybpf_off"]
    assert (linked.type, linked.value_size, linked.map_flags) == (26, 48, LINK)
    assert linked.struct_ops is not None and off.struct_ops is not None
    assert linked.struct_ops.type_name == "tcp_congestion_ops"
    assert linked.struct_ops.funcs == {"ssthresh": "ssthresh", "cong_avoid": "cong_avoid"}
    assert linked.struct_ops.data[24:36] == b"\7\0\0\0pybpf_cc"
    assert (linked.autocreate, off.autocreate) == (True, False)
    assert (off.map_flags, off.section) == (0, "?.struct_ops")
    assert off.struct_ops.funcs == {"ssthresh": "ssthresh"}


def test_legacy_maps_are_refused() -> None:
    """SEC("maps") names what to do instead."""
    err = refusal((DATA / "obj_legacy.bpf.o").read_bytes())
    assert (err.section, err.offset) == ("maps", 0)
    assert ".maps" in err.what and "legacy" in err.what


@pytest.mark.parametrize("section", ["maps/events", "lirc_mode2/maps"])
def test_other_legacy_map_sections(section: str) -> None:
    """The section names of other old loaders are refused where a program uses them."""
    writer = ElfWriter()
    body = code((0x18, 1, 0, 0), (0, 0, 0, 0), EXIT)
    program = writer.text("socket", body)
    writer.function("main", program, body)
    events = writer.symbol("events", writer.section(section, bytes(20)), 0, 20, type=1)
    writer.relocations(program, (0, 1, events))
    err = refusal(writer.build())
    assert "legacy map definition" in err.what
    assert (err.section, err.offset) == ("socket", 0)


def without_btf(name: str) -> bytes:
    return replace_name((DATA / f"obj_{name}.bpf.o").read_bytes(), ".BTF", "gone")


@pytest.mark.parametrize(
    ("name", "section"),
    [("maps", ".maps"), ("struct_ops", ".struct_ops.link"), ("sections", ".BTF.ext")],
)
def test_objects_that_lost_their_btf(name: str, section: str) -> None:
    """An object that needs BTF and has none says what needs it."""
    err = refusal(without_btf(name))
    assert "need BTF" in err.what
    assert (err.section, err.offset) == (section, 0)


def test_object_that_needs_no_btf() -> None:
    """Like libbpf, code and data open without BTF."""
    data = replace_name(without_btf("data"), ".BTF.ext", "gone.ext")
    spec = read_object(data)
    assert spec.btf is None and not spec.variables
    assert spec.maps[".data"].value_size == 16
    assert spec.maps[".data"].map_flags == 0


def test_maps_that_btf_does_not_describe() -> None:
    """A .maps section without its DATASEC."""
    writer = ElfWriter()
    writer.section(".maps", bytes(8))
    writer.section(".BTF", BtfBuilder().build())
    err = refusal(writer.build())
    assert "does not describe the maps" in err.what


def test_malformed_btf_names_the_file() -> None:
    """Errors from inside BTF carry file and section too."""
    writer = ElfWriter()
    writer.section(".BTF", b"\xff" * 40)
    err = refusal(writer.build())
    assert err.section == ".BTF" and err.offset is not None


# Relocations.


@pytest.mark.parametrize(
    ("opcode", "says"),
    [(0xB7, "opcode 0xb7"), (0x85, "outside .text"), (0x18, "undefined variable")],
)
def test_relocations_that_make_no_sense(opcode: int, says: str) -> None:
    """Wrong instructions and targets are refused when the file is read."""
    writer = ElfWriter()
    body = code((opcode, 0, 0, 0), (0, 0, 0, 0), EXIT)
    program = writer.text("socket", body)
    writer.function("main", program, body)
    nowhere = writer.symbol("x", 0, type=1)
    writer.relocations(program, (0, 1, nowhere))
    err = refusal(writer.build())
    assert says in err.what
    assert (err.section, err.offset) == ("socket", 0)


@pytest.mark.parametrize(
    ("rel", "says"),
    [
        ((4, 1, 1), "outside the instructions"),
        ((24, 1, 1), "outside the instructions"),
        ((0, 1, 99), "symbol 99"),
        ((0, 1, 2), "in section 0xfff1"),
        ((16, 1, 3), "half an instruction"),
    ],
)
def test_relocations_outside(rel: tuple[int, int, int], says: str) -> None:
    """Offsets and symbol numbers of relocations are checked."""
    writer = ElfWriter()
    body = code((0x18, 0, 0, 0), (0, 0, 0, 0), (0x18, 0, 0, 0))
    program = writer.text("socket", body)
    writer.function("main", program, body)
    writer.symbol("absolute", 0xFFF1)
    writer.symbol("data", writer.section(".data", bytes(8)), type=1)
    writer.relocations(program, rel)
    assert says in refusal(writer.build()).what


def test_relocation_of_a_helper_call() -> None:
    """A call of .text must be marked as one."""
    writer = ElfWriter()
    text = writer.text(".text", PROGRAM)
    body = code((0x85, 0, 0, 5), EXIT)
    program = writer.text("socket", body)
    writer.function("main", program, body)
    called = writer.function("called", text, PROGRAM)
    writer.relocations(program, (0, 10, called))
    assert "helper call" in refusal(writer.build()).what


@pytest.mark.parametrize(("value", "imm"), [(4, 0), (0, 4)])
def test_function_address_between_instructions(value: int, imm: int) -> None:
    """Symbol and addend of a function's address are whole instructions."""
    writer = ElfWriter()
    text = writer.text(".text", PROGRAM)
    body = code((0x18, 1, 0, imm), (0, 0, 0, 0), EXIT)
    program = writer.text("socket", body)
    writer.function("main", program, body)
    section = writer.symbol("", text, value, bind=0, type=3)
    writer.relocations(program, (0, 1, section))
    assert "into an instruction" in refusal(writer.build()).what


def test_relocations_of_data_sections_are_skipped() -> None:
    """.rel.data occurs in real objects and means nothing, however odd."""
    writer = ElfWriter()
    data = writer.section(".data", bytes(8))
    writer.relocations(data, (1234567, 2, 99))
    assert list(read_object(writer.build()).maps) == [".data"]


def test_relocations_of_code_nobody_owns() -> None:
    """Code of a weak function that a linker replaced has relocations but no symbol."""
    writer = ElfWriter()
    body = code((0x85, 0, 0, 1), EXIT)
    program = writer.text("socket", body + PROGRAM)
    writer.function("main", program, PROGRAM, start=16)
    writer.relocations(program, (0, 10, 1))
    assert read_object(writer.build()).programs["main"].insn_cnt == 2


def test_extern_without_btf() -> None:
    """An undefined symbol needs BTF to say what it is."""
    writer = ElfWriter()
    writer.symbol("bpf_something", 0)
    err = refusal(writer.build())
    assert "'bpf_something' needs BTF" in err.what


def test_extern_in_no_section() -> None:
    """A function that is only declared, without __ksym."""
    writer = ElfWriter()
    writer.section(".BTF", BtfBuilder().build())
    writer.symbol("forgotten", 0)
    what = refusal(writer.build()).what
    assert "neither .ksyms nor .kconfig; if another file defines it, link them" in what


# The whole.


def test_same_file_same_spec() -> None:
    """Reading is a function of the bytes."""
    data = (DATA / "obj_maps.bpf.o").read_bytes()
    first, second = read_object(data, "a.o"), read_object(data, "a.o")
    assert first.maps == second.maps
    assert list(first.programs.values()) == list(second.programs.values())
    assert first.functions == second.functions


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like(kind: type) -> None:
    """bytes, bytearray and memoryview are read alike."""
    data = (DATA / "obj_data.bpf.o").read_bytes()
    assert list(read_object(kind(data)).maps) == list(read("data").maps)


READABLE = [
    path
    for path in sorted(DATA.glob("obj_*.bpf.o"))
    if path.name not in ("obj_legacy.bpf.o", "obj_legacy_forms.bpf.o")  # refused on purpose
]


@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.name.removesuffix(".bpf.o"))
def test_loadable_btf(path: Path) -> None:
    """The BTF for the kernel: sizes and offsets filled in, externs turned into definitions."""
    spec = read_object(path.read_bytes(), path.name)
    blob = spec.btf_for_load()
    assert blob is not None
    done = Btf(blob)
    done.validate()
    for name, section in spec.data_sections.items():
        datasec = done.type(section.type_id)
        assert datasec.name == name
        assert datasec.size > 0  # type: ignore[attr-defined]
    for variable in spec.variables.values():
        datasec = done.type(spec.data_sections[spec.maps[variable.map].section].type_id)
        offsets = {done.name(e.type): e.offset for e in datasec.entries}  # type: ignore[attr-defined]
        assert offsets[variable.name] == variable.offset


def test_hidden_is_static_in_loadable_btf() -> None:
    """Hidden functions and variables are static for the verifier."""
    spec = read("subprogs")
    blob = spec.btf_for_load()
    assert blob is not None
    done = Btf(blob)
    linkage = {}
    for type_id, name, _ in done.funcs():
        linkage[name] = done.type(type_id).linkage  # type: ignore[attr-defined]
    assert (linkage["hidden_one"], linkage["global_one"], linkage["leaf"]) == (0, 1, 0)
