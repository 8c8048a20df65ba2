"""Linking: functions, references and externs of committed objects, against Debian 6.12's BTF."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from pybpf.asm import Insn, decode
from pybpf.btf import Btf, BtfKind
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import RelocationError
from pybpf.obj.linker import LinkedProgram, Linker, LinkTarget
from pybpf.obj.reader import read_object
from pybpf.obj.spec import ObjectSpec
from tests.support.elfwriter import ElfWriter, code

DATA = Path(__file__).parents[1] / "data"
EXIT = (0x95, 0, 0, 0)
CALL, LDIMM64 = 0x85, 0x18
PSEUDO_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PSEUDO_BTF_ID, PSEUDO_FUNC = 1, 1, 2, 3, 4
PSEUDO_KFUNC = 2


@cache
def kernel() -> Btf:
    path = DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz"
    return Btf(gzip.decompress(path.read_bytes()), name="vmlinux")


@cache
def read(name: str) -> ObjectSpec:
    path = DATA / f"obj_{name}.bpf.o"
    return read_object(path.read_bytes(), path.name)


def link(
    spec: ObjectSpec, program: str, target: LinkTarget, *, skip_maps: Collection[str] = ()
) -> LinkedProgram:
    return Linker(spec, target, skip_maps=skip_maps).link(program)


def linked(name: str, program: str, target: LinkTarget | None = None) -> LinkedProgram:
    return link(read(name), program, target or LinkTarget())


def calls(program: LinkedProgram) -> dict[tuple[str, int], str]:
    """(calling function, n-th reference in it) -> function referred to."""
    starts = {at: name for name, at in program.functions}
    order = sorted(starts)
    found: dict[tuple[str, int], str] = {}
    counts: dict[str, int] = {}
    for at, insn in enumerate(decode(program.insns)):
        is_func = insn.code == LDIMM64 and insn.src == PSEUDO_FUNC
        if not insn.is_subprog_call and not is_func:
            continue
        holder = starts[max(start for start in order if start <= at)]
        number = counts[holder] = counts.get(holder, 0) + 1
        found[holder, number] = starts[at + insn.imm + 1]
    return found


OBJECTS = ["arena", "data", "externs", "kconfig", "maps", "missing", "sections", "subprogs"]


@pytest.mark.parametrize("name", [n for n in OBJECTS if not read(n).needs_kernel_btf])
def test_an_object_that_needs_no_kernel_btf_is_linked_the_same(name: str) -> None:
    """`needs_kernel_btf` is right: the kernel's BTF changes nothing, so it need not be read."""

    def result(program: str, target: LinkTarget) -> object:
        try:
            return linked(name, program, target)
        except RelocationError as error:
            return str(error)

    for program in read(name).programs:
        assert result(program, LinkTarget()) == result(program, LinkTarget(kernel()))


def test_relocations_and_externs_need_the_kernels_btf() -> None:
    """A CO-RE relocation does, and so does an extern, for its type or for near names."""
    needs = {name for name in OBJECTS if read(name).needs_kernel_btf}
    assert {"externs", "missing"} <= needs and "maps" not in needs


# Functions.


def test_functions_are_appended_depth_first() -> None:
    """Each function once, where the first call to it is found, its own callees right after it."""
    names = [name for name, _ in linked("subprogs", "first").functions]
    assert names == ["first", "global_one", "middle", "leaf", "hidden_one"]
    names = [name for name, _ in linked("subprogs", "second").functions]
    assert names == ["second", "weak_one", "leaf", "global_one", "middle"]


def test_calls_reach_their_functions() -> None:
    """Every call distance leads to the start of the function that the source calls."""
    assert calls(linked("subprogs", "first")) == {
        ("first", 1): "global_one",
        ("first", 2): "leaf",
        ("first", 3): "hidden_one",
        ("global_one", 1): "middle",
        ("middle", 1): "leaf",
        ("middle", 2): "leaf",
        ("hidden_one", 1): "leaf",
    }


def test_callbacks_by_address() -> None:
    """Addresses of static and global functions become PSEUDO_FUNC distances."""
    program = linked("subprogs", "callbacks")
    assert calls(program) == {
        ("callbacks", 1): "static_callback",
        ("callbacks", 2): "global_callback",
        ("callbacks", 3): "leaf",
    }


def test_a_program_that_calls_nothing() -> None:
    """It has only its own code. Functions that are not called are never appended."""
    program = linked("subprogs", "alone")
    spec = read("subprogs").programs["alone"]
    assert program.insns == bytes(spec.function.code)
    assert program.functions == (("alone", 0),)


def test_code_of_functions_is_theirs() -> None:
    """Apart from calls, appended code is the function's own."""
    program = linked("subprogs", "first")
    by_name = {f.name: f for f in read("subprogs").functions}
    for name, at in program.functions:
        own = decode(by_name[name].code)
        copy = decode(program.insns)[at : at + len(own)]
        for mine, theirs in zip(own, copy, strict=True):
            if mine.is_subprog_call:
                assert theirs.is_subprog_call
            else:
                assert mine == theirs


def test_func_info_has_a_record_per_function() -> None:
    """bpf_func_info: instruction and BTF id of each function, the program's first."""
    program = linked("subprogs", "first")
    records = list(struct.iter_unpack("<II", program.func_info))
    btf = read("subprogs").btf
    assert btf is not None
    assert [(btf.name(i), at) for at, i in records] == list(program.functions)


def test_line_info_is_moved_along() -> None:
    """bpf_line_info: ascending, inside the code, one at the start of every function."""
    program = linked("subprogs", "second")
    offsets = [row[0] for row in struct.iter_unpack("<IIII", program.line_info)]
    assert offsets == sorted(offsets)
    assert offsets[-1] < len(program.insns) // 8
    assert {at for _, at in program.functions} <= set(offsets)
    assert (program.func_info_rec_size, program.line_info_rec_size) == (8, 16)


def test_linking_is_repeatable() -> None:
    """One linker gives the same code in any order of programs, and as a new one does."""
    linker = Linker(read("subprogs"), LinkTarget())
    forward = {name: linker.link(name) for name in read("subprogs").programs}
    backward = {name: linker.link(name) for name in reversed(list(read("subprogs").programs))}
    assert forward == backward
    assert forward["first"] == linked("subprogs", "first")


def test_exception_callback() -> None:
    """A function named by a declaration tag is appended although nothing calls it."""
    target = LinkTarget(kernel())
    names = [name for name, _ in linked("exception", "thrower", target).functions]
    assert names == ["thrower", "on_exception"]
    assert len(linked("exception", "plain", target).functions) == 1


def test_unknown_program() -> None:
    """A name that is not a program's, or that of a subprogram."""
    with pytest.raises(KeyError):
        linked("subprogs", "leaf")


def chain(length: int) -> bytes:
    """An object whose functions call each other in a row."""
    writer = ElfWriter()
    call = (CALL, PSEUDO_CALL << 4, 0, 0)
    text = writer.text(".text", code(call, EXIT) * length)
    # Function i calls function i + 1: from slot 2i to slot 2i + 2.
    body = b"".join(code((CALL, PSEUDO_CALL << 4, 0, 1), EXIT) for _ in range(length - 1)) + code(
        (0xB7, 0, 0, 0), EXIT
    )
    writer.sections[text].data = body
    for i in range(length):
        writer.symbol(f"f{i}", text, 16 * i, 16, type=2, bind=0)
    program = writer.text("socket", code((CALL, PSEUDO_CALL << 4, 0, -1), EXIT))
    writer.function("main", program, bytes(16))
    section = writer.symbol("", text, bind=0, type=3)
    writer.relocations(program, (0, 10, section))
    return writer.build()


@pytest.mark.parametrize("length", [1, 2, 5000])
def test_deep_call_chains(length: int) -> None:
    """Depth does not matter: there is no recursion limit."""
    program = link(read_object(chain(length)), "main", LinkTarget())
    assert len(program.functions) == length + 1
    assert [at for _, at in program.functions] == list(range(0, 2 * length + 2, 2))


def test_recursion_is_linked() -> None:
    """A function that calls itself is appended once; the verifier may refuse it."""
    writer = ElfWriter()
    body = code((CALL, PSEUDO_CALL << 4, 0, -1), EXIT)
    text = writer.text(".text", body)
    writer.function("again", text, body)
    program = writer.text("socket", body)
    writer.function("main", program, body)
    writer.relocations(program, (0, 10, 1))
    done = link(read_object(writer.build()), "main", LinkTarget())
    assert [i.imm for i in decode(done.insns) if i.is_subprog_call] == [1, -1]


def test_call_into_nothing() -> None:
    """A call that leads to no function names program and instruction."""
    writer = ElfWriter()
    body = code((0xB7, 0, 0, 0), (CALL, PSEUDO_CALL << 4, 0, 77), EXIT)
    writer.function("main", writer.text("socket", body), body)
    with pytest.raises(RelocationError) as caught:
        link(read_object(writer.build()), "main", LinkTarget())
    assert (caught.value.program, caught.value.insn) == ("main", 1)


def test_too_long_a_program() -> None:
    """The kernel's limit of a million instructions ends linking, not memory."""
    writer = ElfWriter()
    body = bytes(8 * 60_000)
    text = writer.text(".text", body)
    for i in range(20):  # overlapping functions, as a forged file may have them
        writer.symbol(f"f{i}", text, 8 * i, len(body) - 8 * i, type=2)
    calling = code(*((CALL, PSEUDO_CALL << 4, 0, -1) for _ in range(20)))
    program = writer.text("socket", calling)
    writer.function("main", program, calling)
    writer.relocations(program, *((8 * i, 10, i + 1) for i in range(20)))
    with pytest.raises(RelocationError, match="1,000,000"):
        link(read_object(writer.build()), "main", LinkTarget())


# Maps and data.


def test_map_references_are_numbers() -> None:
    """ldimm64 of a map: its number in libbpf's order, PSEUDO_MAP_FD, listed in map_refs."""
    program, spec = linked("maps", "use"), read("maps")
    refs = {ref.map: ref for ref in program.map_refs}
    assert list(refs) == ["by_type", "by_size", "outer", "inner_b", "jumps"]
    insns = decode(program.insns)
    for name, ref in refs.items():
        insn = insns[ref.insn]
        assert (insn.code, insn.src, ref.kind) == (LDIMM64, PSEUDO_MAP_FD, "fd")
        assert insn.imm == list(spec.maps).index(name)
        assert insns[ref.insn + 1] == Insn(0)


def test_global_variables_are_map_values() -> None:
    """ldimm64 of a variable: map number and byte offset, of static and visible ones alike."""
    program, spec = linked("data", "use"), read("data")
    insns = decode(program.insns)
    found = set()
    for ref in program.map_refs:
        insn, second = insns[ref.insn], insns[ref.insn + 1]
        assert (insn.src, ref.kind) == (PSEUDO_MAP_VALUE, "value")
        assert insn.imm == list(spec.maps).index(ref.map)
        assert second.imm == ref.offset
        found.add((ref.map, ref.offset))
    variables = {(v.map, v.offset) for v in spec.variables.values()}
    assert found - variables <= {
        (".bss", 24),
        (".rodata", 6),
        (".data", 8),
        (".rodata.str1.1", 36),
    }
    assert (".data", 12) in found and (".data.hidden", 0) in found


def test_string_literals() -> None:
    """A literal in .rodata.str1.1 is addressed by its offset in that map."""
    program = linked("data", "use")
    (ref,) = [r for r in program.map_refs if r.map == ".rodata.str1.1"]
    text = read("data").maps[".rodata.str1.1"].initial
    assert text is not None and text[ref.offset :].startswith(b"found in")


def test_maps_that_are_not_created() -> None:
    """Their references become two calls of helper 2001000000 + map number, and are named."""
    spec = read("maps")
    program = link(spec, "use", LinkTarget(), skip_maps={"outer"})
    number = list(spec.maps).index("outer")
    assert [r.map for r in program.map_refs] == ["by_type", "by_size", "inner_b", "jumps"]
    poison = Insn(CALL, 0, 0, 0, 2001000000 + number)
    assert [i for i in decode(program.insns) if i.imm > 2000000000] == [poison, poison]
    assert program.unresolved == {2001000000 + number: "map 'outer'"}


def test_arena_variables() -> None:
    """Variables in .addr_space.1 are offsets into the arena map."""
    program = linked("arena", "use")
    assert [(r.map, r.kind, r.offset) for r in program.map_refs] == [
        ("arena", "value", 4),
        ("arena", "value", 0),
    ]


# Externs.


def address(name: str) -> int | None:
    return None if "no_such" in name else 0xFFFFFFFF81234560


def test_kernel_variables() -> None:
    """Typed ones by BTF id of the variable, untyped ones by address."""
    program = linked("externs", "variables", LinkTarget(kernel(), ksym_addr=address))
    insns = decode(program.insns)
    by_id = [i.imm for i in insns if i.code == LDIMM64 and i.src == PSEUDO_BTF_ID]
    names = {kernel().name(i) for i in by_id}
    assert names == {"runqueues", "bpf_prog_active"}
    assert {kernel().kind(i) for i in by_id} == {BtfKind.VAR}
    plain = [at for at, i in enumerate(insns) if i.code == LDIMM64 and i.src == 0]
    values = {insns[at].imm & 0xFFFFFFFF | (insns[at + 1].imm & 0xFFFFFFFF) << 32 for at in plain}
    assert values == {0xFFFFFFFF81234560}


def test_weak_variables_are_zero() -> None:
    """Weak ones that no kernel has are address 0, typed or not."""
    program = linked("externs", "missing_variables", LinkTarget(kernel(), ksym_addr=address))
    insns = decode(program.insns)
    loads = [at for at, i in enumerate(insns) if i.code == LDIMM64]
    assert loads
    for at in loads:
        assert (insns[at].src, insns[at].imm, insns[at + 1].imm) == (0, 0, 0)


def test_kfunc_calls() -> None:
    """BTF id of the kernel's function, also behind a flavour; nothing from modules."""
    program = linked("externs", "kfuncs", LinkTarget(kernel()))
    called = [i for i in decode(program.insns) if i.code == CALL and i.src == PSEUDO_KFUNC]
    names = [kernel().name(i.imm) for i in called]
    assert set(names) == {"bpf_task_acquire", "bpf_task_release", "bpf_task_from_pid"}
    assert {i.off for i in called} == {0}
    assert program.kfunc_modules == ()


def test_address_of_a_kfunc() -> None:
    """bpf_ksym_exists: ldimm64 with the function's BTF id."""
    program = linked("externs", "kfuncs", LinkTarget(kernel()))
    (load,) = [i for i in decode(program.insns) if i.code == LDIMM64]
    assert load.src == PSEUDO_BTF_ID
    assert kernel().name(load.imm) == "bpf_task_from_pid"


def test_weak_kfuncs() -> None:
    """Missing, or of another prototype: address 0, calls of helper 2002000000 + extern number."""
    spec = read("externs")
    program = linked("externs", "missing_kfuncs", LinkTarget(kernel()))
    numbers = {e.name: i for i, e in enumerate(spec.externs)}
    wanted = {
        2002000000 + numbers["pybpf_no_such_kfunc"]: "kfunc 'pybpf_no_such_kfunc'",
        2002000000 + numbers["bpf_cpumask_create"]: "kfunc 'bpf_cpumask_create'",
    }
    assert kernel().find("bpf_cpumask_create", BtfKind.FUNC)
    assert program.unresolved == wanted
    poisoned = {i.imm for i in decode(program.insns) if i.code == CALL and i.imm > 2000000000}
    assert poisoned == wanted.keys()
    assert all(i.src == 0 for i in decode(program.insns) if i.imm in poisoned)


def test_externs_are_sorted_by_name() -> None:
    """The extern number in poisoned calls counts in libbpf's order."""
    names = [e.name for e in read("externs").externs]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("wants_kfunc", "'pybpf_no_such_kfunc' does not exist"),
        ("wants_variable", "'pybpf_no_such_variable' does not exist"),
        ("wants_symbol", "'pybpf_no_such_symbol' does not exist"),
        ("wants_other_type", "'bpf_prog_active': its type"),
    ],
)
def test_strong_externs_that_are_missing(program: str, says: str) -> None:
    """Only the programs that use them fail, and the error names program and instruction."""
    target = LinkTarget(kernel(), ksym_addr=address)
    with pytest.raises(RelocationError) as caught:
        linked("unresolved", program, target)
    assert says in caught.value.what
    assert caught.value.program == program
    assert caught.value.insn is not None
    assert linked("unresolved", "wants_nothing", target).insns


def test_addresses_are_not_known() -> None:
    """Without a symbol table, a strong address is an error that says so."""
    with pytest.raises(RelocationError, match="addresses are not known"):
        linked("unresolved", "wants_symbol", LinkTarget(kernel()))


def test_kernel_without_btf() -> None:
    """Typed externs need the kernel's BTF; weak ones are just missing."""
    with pytest.raises(RelocationError, match="has no BTF"):
        linked("unresolved", "wants_kfunc", LinkTarget())
    assert linked("externs", "missing_kfuncs", LinkTarget()).unresolved


def module() -> Btf:
    """A module's BTF with one kfunc of the prototype that obj_unresolved wants."""
    from pybpf.btf import Func, FuncProto, Param, Var

    split = BtfBuilder(kernel())
    number = kernel().find("int", BtfKind.INT)
    assert number is not None
    proto = split.add(FuncProto(number, (Param("x", number),)))
    split.add(Func("pybpf_no_such_kfunc", proto, 1))
    split.add(Var("pybpf_no_such_variable", number, 1))
    return Btf(split.build(), base=kernel(), name="pybpf_mod")


def test_kfunc_in_a_module() -> None:
    """Calls carry the index into fd_array, starting at 1, and name the module."""
    own = module()
    empty = Btf(BtfBuilder(kernel()).build(), base=kernel())
    target = LinkTarget(kernel(), modules={"empty": empty, "pybpf_mod": own})
    program = linked("unresolved", "wants_kfunc", target)
    (call,) = [i for i in decode(program.insns) if i.code == CALL]
    assert (call.src, call.off) == (PSEUDO_KFUNC, 1)
    assert own.name(call.imm) == "pybpf_no_such_kfunc"
    assert call.imm >= own.start_id
    assert program.kfunc_modules == ("pybpf_mod",)


def test_variable_in_a_module() -> None:
    """The second slot waits for the module BTF's fd and holds 1 until then."""
    target = LinkTarget(kernel(), modules={"pybpf_mod": module()})
    program = linked("unresolved", "wants_variable", target)
    insns = decode(program.insns)
    ((at, name),) = program.btf_fd_refs
    assert name == "pybpf_mod"
    assert (insns[at].src, insns[at + 1].imm) == (PSEUDO_BTF_ID, 1)


def test_modules_are_read_only_when_needed() -> None:
    """What vmlinux has is found without asking for any module."""

    class Untouchable(Mapping[str, Btf]):
        def __getitem__(self, name: str) -> Btf:
            raise AssertionError(f"asked for {name}")

        def __iter__(self) -> Iterator[str]:
            yield from ("one", "two")

        def __len__(self) -> int:
            return 2

    target = LinkTarget(kernel(), modules=Untouchable())
    assert linked("externs", "kfuncs", target).insns
    spec = read_object((DATA / "fentry_args.bpf.o").read_bytes())
    for name in spec.programs:
        assert link(spec, name, target).insns


def test_kconfig_values_are_map_values() -> None:
    """References to options point into the .kconfig map."""
    program, spec = linked("kconfig", "use"), read("kconfig")
    offsets = {r.offset for r in program.map_refs if r.map == ".kconfig"}
    assert offsets <= {e.offset + i for e in spec.externs for i in range(e.size)}
    assert len(offsets) == 12


def test_kernel_types_are_searched_once_for_all_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of an object that read one type share its candidates, as libbpf's do."""
    asked: list[str] = []
    find = Btf.find_essential

    def counted(self: Btf, essential: str) -> list[int]:
        asked.append(essential)
        return find(self, essential)

    monkeypatch.setattr(Btf, "find_essential", counted)
    path = DATA / "core_lines.bpf.o"
    spec = read_object(path.read_bytes(), path.name)
    target = DATA / "core_target.bpf.o"
    btf = read_object(target.read_bytes(), target.name).btf
    linker = Linker(spec, LinkTarget(btf))
    first = [linker.link(name) for name in spec.programs]
    assert asked
    asked.clear()
    assert [linker.link(name) for name in spec.programs] == first and not asked
