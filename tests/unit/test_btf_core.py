"""pybpf.btf.core: every CO-RE kind against types that differ, in values, bytes and errors."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.asm.insn import decode
from pybpf.btf import (
    Array,
    Btf,
    BtfKind,
    Const,
    Enum,
    Enum64,
    EnumValue,
    Float,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
    Type,
    Typedef,
    Union,
)
from pybpf.btf.core import POISON_IMM, CandidateCache, CoreKind, CoreResult, relocate
from pybpf.btf.encode import BtfBuilder
from pybpf.btf.ext import BtfExt, CoreRelo
from pybpf.btf.names import essential_name
from pybpf.elf import ElfFile
from pybpf.errors import ObjectFormatError, RelocationError
from tests.support.bpfvm import Vm, VmFault
from tests.support.examples import examples

DATA = Path(__file__).parents[1] / "data"
POISON = struct.pack("<BBhi", 0x85, 0, 0, POISON_IMM)


class Object:
    """The parts of an object file that CO-RE needs."""

    def __init__(self, name: str) -> None:
        elf = ElfFile((DATA / name).read_bytes(), name)

        def part(section: str) -> bytes:
            found = elf.find(section)
            return bytes(elf.contents(found)) if found else b""

        self.part = part
        self.btf = Btf(part(".BTF"), name=name)
        self.ext_blob = part(".BTF.ext")

    @property
    def ext(self) -> BtfExt:
        return BtfExt(self.ext_blob, self.btf)

    def relocated(self, program: str, targets: Sequence[Btf]) -> tuple[bytes, list[CoreResult]]:
        section = f"raw_tp/{program}"
        code = bytearray(self.part(section))
        relos = [(r.insn_off, r) for r in self.ext.core_relos[section]]
        results = relocate(code, relos, self.btf, targets, program=program)
        return bytes(code), results


KINDS = Object("core_kinds.bpf.o")
TARGET = Object("core_target.bpf.o")

# What libbpf HEAD of 2026-07-30 makes of the same programs with core_target.bpf.o as
# btf_custom_path: first 16 digits of the stream's sha256.
LIBBPF = {
    "fields": "b68a9569977a7736",
    "arrays": "87c59085f8a1b470",
    "stores": "f3e8dfca94322993",
    "bitfields": "9e7c16b57926d5ed",
    "exists": "cc4c856061ee75e1",
    "wrong_width": "ddb891665d9fdd23",
    "gone": "ddb891665d9fdd23",
    "types": "45d22a9a3c36b100",
    "id_local": "fd5bae35ad6c1d14",
    "id_kernel": "acdb2d265b7368b8",
    "enums": "3bdc927ad0b1e5a1",
    "agreed": "d426f38590f9064f",
    "narrowed": "3de0d39f99f73b7e",
}


def test_sources_cover_every_kind() -> None:
    """core_kinds.bpf.c exercises all 13 kinds, so the tests below do."""
    seen = {r.kind for relos in KINDS.ext.core_relos.values() for r in relos}
    assert seen == set(CoreKind) == set(range(13))


@pytest.mark.parametrize("program", LIBBPF)
def test_streams_are_libbpfs(program: str) -> None:
    """Each relocated stream is byte for byte what libbpf makes of it."""
    code, _ = KINDS.relocated(program, [TARGET.btf])
    assert hashlib.sha256(code).hexdigest()[:16] == LIBBPF[program]


@pytest.mark.parametrize(
    "program", ["fields", "arrays", "stores", "bitfields", "exists", "types", "enums", "narrowed"]
)
def test_programs_find_their_values(program: str) -> None:
    """Run on an instance of the target's types, the relocated program reads the right values."""
    code, _ = KINDS.relocated(program, [TARGET.btf])
    vm = Vm(decode(code))
    line = vm.run(vm.map(TARGET.part(".data")))
    assert line == 0, f"core_kinds.bpf.c:{line}"


def test_ids() -> None:
    """TYPE_ID_LOCAL is the object's own id, TYPE_ID_TARGET the kernel's."""
    for program, want in [
        ("id_local", KINDS.btf.find("point___again", BtfKind.STRUCT)),
        ("id_kernel", TARGET.btf.find("point", BtfKind.STRUCT)),
    ]:
        code, results = KINDS.relocated(program, [TARGET.btf])
        assert Vm(decode(code)).run(0) == want == results[0].value


@pytest.mark.parametrize("program", ["gone", "wrong_width"])
def test_unresolvable_instructions_are_poisoned(program: str) -> None:
    """What cannot be read right becomes a call that cannot be made, and says why."""
    code, (result,) = KINDS.relocated(program, [TARGET.btf])
    assert code[:8] == POISON and result.poisoned and result.reason
    assert "struct shape___mine" in result.local
    assert bool(result.target) == (program == "wrong_width")
    with pytest.raises(VmFault, match="195896080"):
        Vm(decode(code)).run(0)


def test_both_slots_of_a_64_bit_load_are_poisoned() -> None:
    """A poisoned ldimm64 leaves no half instruction behind."""
    code, results = KINDS.relocated("enums", [TARGET.btf])
    (bad,) = [r for r in results if r.poisoned]
    assert bad.kind == CoreKind.ENUMVAL_VALUE
    assert code[bad.offset : bad.offset + 16] == POISON * 2


def test_ambiguity_is_refused_by_name() -> None:
    """Two candidates that disagree fail the load and are both named."""
    with pytest.raises(RelocationError, match=r"ambiguous.*twofold\.moved.*twofold___other") as err:
        KINDS.relocated("ambiguous", [TARGET.btf])
    assert err.value.program == "ambiguous" and err.value.insn == 0


def test_pruned_candidates_stay_pruned_in_one_load() -> None:
    """With a shared cache, an earlier program's relocation can settle a later one's."""
    cache = CandidateCache(KINDS.btf, [TARGET.btf])
    for program, want in [("narrowed", None), ("ambiguous", 4)]:
        code = bytearray(KINDS.part(f"raw_tp/{program}"))
        relos = [(r.insn_off, r) for r in KINDS.ext.core_relos[f"raw_tp/{program}"]]
        results = relocate(code, relos, KINDS.btf, [TARGET.btf], program=program, cache=cache)
        assert want is None or results[0].value == want


def test_no_target_at_all() -> None:
    """Without any kernel BTF, existence is 0 and the rest is poisoned; nothing raises."""
    for program in LIBBPF:
        code, results = KINDS.relocated(program, [])
        assert all(r.poisoned or r.value == 0 for r in results if r.kind != CoreKind.TYPE_ID_LOCAL)
        assert len(code) == len(KINDS.part(f"raw_tp/{program}"))


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("task_struct", "task_struct"),
        ("task_struct___old", "task_struct"),
        ("a___b___c", "a___b"),
        ("a____b", "a____b"),
        ("a___", "a___"),
        ("___a", "___a"),
        ("a___b____", "a"),
        ("x___y", "x"),
        ("_____", "_____"),
        ("", ""),
        ("a___b_____c", "a"),
    ],
)
def test_essential_names(name: str, essential: str) -> None:
    """Only three underscores between other characters make a flavour; the last one counts."""
    assert essential_name(name) == essential


# Small hand-made pairs of types.


def blob(*types: Type, base: Btf | None = None) -> Btf:
    builder = BtfBuilder(base)
    for t in types:
        builder.add(t)
    return Btf(builder.build(), base=base)


INT = Int("int", 4, 32, 0, 1)
UINT = Int("unsigned int", 4, 32)
LONG = Int("unsigned long", 8, 64)
MOV = 0xB7
LDXW = 0x61
LDIMM64 = 0x18


def insn(code: int, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, 0x00 if code == LDIMM64 else 0x10, off, imm)


def one(
    local: Btf,
    targets: Sequence[Btf],
    kind: int,
    access: str = "0:0",
    code: bytes = b"",
    type_id: int = 2,
) -> CoreResult:
    """Relocate one instruction; by default a move that holds what it should."""
    text = bytearray(code or insn(MOV, imm=0))
    return relocate(text, [(0, CoreRelo(0, type_id, access, kind))], local, targets, program="p")[0]


def struct_s(*members: Member, size: int = 8) -> Struct:
    return Struct("s", size, members)


def test_modules_are_asked_only_if_the_kernel_has_no_candidate() -> None:
    """The kernel's own type wins over a module's; module types count when it has none."""
    local = blob(INT, struct_s(Member("f", 1, 0)), Struct("m", 4, (Member("f", 1, 0),)))
    vmlinux = blob(INT, struct_s(Member("f", 1, 32)))
    mod1 = blob(struct_s(Member("f", 1, 64)), Struct("m", 16, (Member("f", 1, 96),)), base=vmlinux)
    mod2 = blob(struct_s(Member("f", 1, 128)), base=vmlinux)
    targets = [vmlinux, mod1, mod2]
    assert one(local, targets, 0).value == 4
    assert one(local, targets, 0, type_id=3).value == 12
    assert one(local, targets, 7, "0", type_id=3).value == mod1.find("m")
    # A split BTF as the only target brings its base along.
    assert one(local, [mod1], 7, "0", type_id=3).value == mod1.find("m")
    with pytest.raises(RelocationError, match="ambiguous"):
        one(local, [mod1], 0)
    # Modules that disagree are ambiguous too.
    other = blob(Struct("m", 16, (Member("f", 1, 64),)), base=vmlinux)
    with pytest.raises(RelocationError, match="ambiguous"):
        one(local, [vmlinux, mod1, other], 0, type_id=3)


def test_an_access_is_decided_again_after_candidates_were_dropped() -> None:
    """It names a target that is left, and the accesses between do not matter otherwise."""
    a, b = Member("a", 1, 0), Member("b", 1, 32)
    local = blob(INT, struct_s(a, b))
    target = blob(INT, Struct("s", 4, (a,)), Struct("s___more", 8, (a, b)))
    cache = CandidateCache(local, [target])
    found = []
    for access in ("0:0", "0:0", "0:1", "0:0"):
        code = bytearray(insn(MOV, imm=4 if access == "0:1" else 0))
        relo = CoreRelo(0, 2, access, CoreKind.FIELD_BYTE_OFFSET)
        (result,) = relocate(code, [(0, relo)], local, [target], program="p", cache=cache)
        found.append((result.value, result.target.partition(" @")[0]))
    assert [value for value, _ in found] == [0, 0, 4, 0]
    assert ["[2] struct s." in text for _, text in found] == [True, True, False, False]


def test_candidates_have_the_kind_of_the_local_type() -> None:
    """A struct is not a candidate for a union or typedef of its name. enum and enum64 are
    mutual."""
    local = blob(
        INT,
        struct_s(Member("f", 1, 0)),
        Union("s", 4, (Member("f", 1, 0),)),
        Typedef("s", 2),
        Enum("e", 4, (EnumValue("A", 0),)),
    )
    target = blob(LONG, Struct("s", 24), Typedef("s", 1), Enum64("e", 8, (EnumValue("A", 1),)))
    exists = [one(local, [target], 8, "0", insn(MOV, imm=1), i).value for i in (2, 3, 4, 5)]
    # The typedef's target type differs in kind, so it is not compatible.
    assert exists == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("local_type", "target_type", "compatible"),
    [
        (INT, LONG, True),
        (Int("odd", 4, 8, 8), INT, False),
        (Float("float", 4), Float("double", 8), True),
        (Float("float", 4), INT, False),
        (Ptr(0), Ptr(1), True),
        (Ptr(0), LONG, False),
        (Enum("e", 4), Enum("e___2", 4), True),
        (Enum("e", 4), Enum("f", 4), False),
        (Enum("", 4), Enum("f", 4), True),
        (Enum("e", 4), Enum64("e", 8), True),
        (Struct("a", 4), Union("b", 8), True),
        (Array(1, 1, 3), Array(1, 1, 5), True),
        (Array(1, 1, 3), INT, False),
        (Const(1), Typedef("u32", 1), True),
    ],
)
def test_field_compatibility(local_type: Type, target_type: Type, compatible: bool) -> None:
    """Fields exist in the target only if reading them as the local type makes sense."""
    local = blob(INT, struct_s(Member("f", 3, 0)), local_type)
    target = blob(INT, struct_s(Member("f", 3, 0)), target_type)
    assert one(local, [target], 2, code=insn(MOV, imm=1)).value == compatible


def test_members_are_found_through_anonymous_ones() -> None:
    """Either side may nest a field in anonymous structs and unions; offsets add up."""
    flat = blob(INT, struct_s(Member("f", 1, 32)))
    nested = blob(
        INT,
        struct_s(Member("g", 1, 0), Member("", 3, 64), size=24),
        Union("", 16, (Member("h", 1, 0), Member("", 4, 0))),
        Struct("", 16, (Member("x", 1, 0), Member("f", 1, 64))),
    )
    assert one(flat, [nested], 0, code=insn(MOV, imm=4)).value == 16
    assert one(nested, [flat], 0, "0:1:1:1", insn(MOV, imm=16)).value == 4
    assert one(nested, [nested], 0, "0:1:1:1", insn(MOV, imm=16)).value == 16
    assert "(0:1:1:1 @ offset 16)" in one(flat, [nested], 0, code=insn(MOV, imm=4)).target


def test_load_width_follows_the_target() -> None:
    """Unsigned integers and pointers change the access size, signed ones poison it."""
    narrow = blob(UINT, struct_s(Member("f", 1, 32)))
    wide = blob(LONG, struct_s(Member("f", 1, 64), size=16))
    code = bytearray(insn(LDXW, off=4))
    relocate(code, [(0, CoreRelo(0, 2, "0:0", 0))], narrow, [wide], program="p")
    assert bytes(code) == insn(0x79, off=8)
    signed = blob(INT, struct_s(Member("f", 1, 32)))
    assert one(signed, [wide], 0, code=insn(LDXW, off=4)).poisoned
    # An address computation is not an access: no width to get wrong.
    assert one(signed, [wide], 0, code=insn(MOV, imm=4)).value == 8


@pytest.mark.parametrize(
    ("kind", "access", "code", "text"),
    [
        (0, "0:0", insn(MOV, imm=7), "holds 7"),
        (0, "0:0", insn(LDXW, off=7), "holds 7"),
        (0, "0:0", insn(0xBF), "without an immediate"),
        (0, "0:0", insn(0x05), "code 0x05"),
        (0, "0:0", insn(LDIMM64), "code 0x18"),
        (0, "0:0", insn(LDIMM64) + insn(0, off=1), "unexpected form"),
        (0, "0:0", insn(LDIMM64, imm=3) + struct.pack("<Q", 0), "holds 3"),
        (0, "0:0", insn(0x79, off=0), "accesses 8 bytes"),
        (0, "", b"", "access string"),
        (0, ":", b"", "access string"),
        (0, "0:", b"", "access string"),
        (0, "0:-1", b"", "access string"),
        (0, "0:x", b"", "access string"),
        (0, "0:9", b"", "names no member"),
        (0, "0:0:0", b"", "walks into a int"),
        (0, "0" + ":0" * 64, b"", "too deeply"),
        (0, "99999999999", b"", "access string"),
        (8, "0:0", b"", "access string"),
        (10, "0", b"", "no enumerator"),
        (13, "0", b"", "kind 13"),
        (-1, "0", b"", "kind -1"),
        (3, "0", b"", "array element"),
        (3, "0:1", b"", "integer type"),
        (0, "0:2:5", b"", "leaves an array"),
    ],
)
def test_bad_relocations(kind: int, access: str, code: bytes, text: str) -> None:
    """Records and instructions that do not fit together are errors of that instruction."""
    local = blob(
        UINT,
        Struct(
            "s", 20, (Member("f", 1, 0), Member("b", 3, 32, 3), Member("a", 4, 64)), True
        ),
        Ptr(0),
        Array(1, 1, 3),
    )  # fmt: skip
    target = blob(
        LONG,
        Struct(
            "s", 40, (Member("f", 1, 0), Member("b", 1, 64, 3), Member("a", 3, 128)), True
        ),
        Array(1, 1, 3),
    )  # fmt: skip
    with pytest.raises(RelocationError, match=text) as err:
        one(local, [target], kind, access, code)
    assert err.value.program == "p" and err.value.insn == 0 and "#0" in str(err.value)


def test_bad_type_ids_and_offsets() -> None:
    """A record that names no type or no instruction is an error, not a crash."""
    btf = blob(INT, struct_s(Member("f", 1, 0)), Struct("", 4, (Member("f", 1, 0),)))
    with pytest.raises(RelocationError, match="type"):
        one(btf, [btf], 0, type_id=77)
    with pytest.raises(RelocationError, match="anonymous"):
        one(btf, [btf], 0, type_id=3)
    with pytest.raises(RelocationError, match="anonymous"):
        one(btf, [btf], 8, "0", type_id=0)
    for at in (-8, 4, 8):
        with pytest.raises(RelocationError, match="not the start of an instruction"):
            relocate(bytearray(8), [(at, CoreRelo(0, 2, "0:0", 0))], btf, [btf], program="p")


def test_offset_too_large_for_a_load() -> None:
    """Load offsets have 16 bits; a larger one cannot be patched in."""
    local = blob(INT, struct_s(Member("f", 1, 0)))
    far = blob(INT, struct_s(Member("f", 1, 8 * 40000), size=40004))
    with pytest.raises(RelocationError, match="40000 does not fit"):
        one(local, [far], 0, code=insn(LDXW))
    assert one(local, [far], 0).value == 40000


def test_bitfield_across_64_bits() -> None:
    """A bit-field that no aligned 64-bit load covers is an error of its own."""
    local = blob(LONG, Struct("s", 16, (Member("f", 1, 0, 8),), True))
    across = blob(LONG, Struct("s", 16, (Member("f", 1, 60, 8),), True))
    with pytest.raises(RelocationError, match="64-bit load"):
        one(local, [across], 1, code=insn(MOV, imm=8))


def test_forged_nesting_terminates() -> None:
    """Structs that contain themselves, directly or in a web, end in an error, quickly."""
    local = blob(INT, struct_s(Member("f", 1, 0)))
    itself = blob(INT, struct_s(Member("", 2, 0), Member("", 2, 0)))
    web = [Struct("", 8, (Member("", i + 1, 0), Member("", i + 1, 0))) for i in range(3, 60)]
    start = time.process_time()
    with pytest.raises(RelocationError, match="too deeply"):
        one(local, [itself], 0)
    deep = blob(INT, struct_s(Member("", 3, 0)), *web, INT)
    assert one(local, [deep], 2, code=insn(MOV, imm=1)).value == 0
    match_web = [
        Struct("w", 8, (Member("a", i + 1, 0), Member("b", i + 1, 0))) for i in range(2, 28)
    ]
    both = blob(INT, Struct("w", 8, (Member("a", 3, 0),)), *match_web[1:], INT)
    assert one(both, [both], 12, "0", insn(MOV, imm=1)).value == 1
    assert time.process_time() - start < 2


PROTO = (FuncProto(1, (Param("a", 1),)),)


@pytest.mark.parametrize(
    ("local_type", "target_type", "compatible", "matches"),
    [
        (Ptr(1), Ptr(1), True, True),
        (Ptr(1), Ptr(0), False, False),
        (Array(1, 1, 3), Array(1, 1, 4), True, False),
        (FuncProto(1, (Param("a", 1),)), FuncProto(1, (Param("b", 1),)), True, True),
        (FuncProto(1, (Param("a", 1),)), FuncProto(0, (Param("a", 1),)), False, False),
        (FuncProto(0), FuncProto(0, (Param("a", 1),)), False, False),
        (FuncProto(0, (Param("", 4),)), FuncProto(0, (Param("", 1),)), False, False),
        (Fwd("f"), Fwd("f"), True, True),
        (Fwd("f"), Fwd("f", True), True, False),
        (Fwd("f"), Fwd("g"), True, False),
        (Int("int", 4, 32), Int("int", 4, 32, 0, 1), True, False),
        (Int("int", 8, 64, 0, 1), INT, True, False),
        (Int("int", 4, 8, 4, 1), INT, False, True),
        (Enum("e", 4, (EnumValue("A", 1),)), Enum64("e", 8, (EnumValue("A", 1),)), True, False),
        (
            Enum("e", 4, (EnumValue("A", 1),)),
            Enum("e", 4, (EnumValue("B", 1), EnumValue("A___x", 7))),
            True,
            True,
        ),
        (Enum("e", 4, (EnumValue("A", 1),)), Enum("e", 4, (EnumValue("B", 1),)), True, False),
        (Float("float", 4), Float("float", 4), False, False),
        (Struct("x", 4), Union("x", 4), False, False),
    ],
)
def test_type_relations(
    local_type: Type, target_type: Type, compatible: bool, matches: bool
) -> None:
    """TYPE_EXISTS and TYPE_MATCHES on typedefs of one name over differing types."""
    local = blob(INT, Typedef("t", 3), local_type, Ptr(1))
    target = blob(INT, Typedef("t", 3), target_type, Ptr(1))
    assert one(local, [target], 8, "0", insn(MOV, imm=1)).value == compatible
    assert one(local, [target], 12, "0", insn(MOV, imm=1)).value == matches


@pytest.mark.parametrize(
    ("local_type", "target_type", "matches"),
    [
        (Struct("x", 4, (Member("a", 1, 0),)), Struct("x", 4), True),
        (Struct("x", 4), Fwd("x"), True),
        (Struct("x", 4), Fwd("x", True), False),
        (Union("x", 4), Fwd("x", True), True),
        (Fwd("x"), Struct("x", 4), True),
        (Fwd("x", True), Union("x", 4), True),
        (Fwd("x"), Union("x", 4), False),
        (Struct("x", 4), Struct("y", 4), False),
        (Struct("x", 4), Union("x", 4), False),
    ],
)
def test_matches_behind_a_pointer(local_type: Type, target_type: Type, matches: bool) -> None:
    """What a pointer points to matches by name and kind only; declarations stand for types."""
    local = blob(INT, struct_s(Member("p", 3, 0)), Ptr(4), local_type)
    target = blob(INT, struct_s(Member("p", 3, 0)), Ptr(4), target_type)
    assert one(local, [target], 12, "0", insn(MOV, imm=1)).value == matches


def test_negative_and_large_enumerators() -> None:
    """64-bit loads get the sign-extended or the full value."""
    local = blob(INT, Enum("e", 4, (EnumValue("A", 3),)))
    code = bytearray(insn(LDIMM64, imm=3) + struct.pack("<Q", 0))
    for target, want in [
        (Enum("e", 4, (EnumValue("A", -2),), True), -2),
        (Enum64("e", 8, (EnumValue("A", 2**63),)), 2**63),
        (Enum64("e", 8, (EnumValue("A", -(2**40)),), True), -(2**40)),
    ]:
        text = bytearray(code)
        relocate(text, [(0, CoreRelo(0, 2, "0", 11))], local, [blob(INT, target)], program="p")
        low, high = struct.unpack_from("<I", text, 4)[0], struct.unpack_from("<I", text, 12)[0]
        assert low | high << 32 == want & (1 << 64) - 1


# Real and random types.


@pytest.fixture(scope="module")
def vmlinux() -> Btf:
    return Btf(gzip.decompress((DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz").read_bytes()))


def test_against_itself_every_kernel_field_keeps_its_place(vmlinux: Btf) -> None:
    """CO-RE of the kernel's own structs on the same kernel is the identity."""
    checked = 0
    for type_id in vmlinux.ids(BtfKind.STRUCT)[::40]:
        t = vmlinux.type(type_id)
        assert isinstance(t, Struct)
        if not t.name or "___" in t.name or vmlinux.find_all(t.name, BtfKind.STRUCT) != [type_id]:
            continue
        size = CoreRelo(0, type_id, "0", CoreKind.TYPE_SIZE)
        relos = [(0, size)]
        code = bytearray(insn(MOV, imm=t.size))
        for i, member in enumerate(t.members):
            if member.name and not member.bitfield_size:
                relos.append((len(code), CoreRelo(0, type_id, f"0:{i}", CoreKind(0))))
                code += insn(MOV, imm=member.bit_offset // 8)
        before = bytes(code)
        results = relocate(code, relos, vmlinux, [vmlinux], program="p")
        assert bytes(code) == before and not any(r.poisoned for r in results)
        checked += len(results)
    assert checked > 500


FIELD_TYPES = (INT, LONG, Ptr(0), Array(2, 1, 4), Float("double", 8), Enum("e", 4), Union("u", 8))
FIELD_SIZES = (4, 8, 8, 32, 8, 4, 8)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_shuffled_structs(fields: list[tuple[int, int]], rng: object) -> None:
    """Whatever order and padding the target has, each field is found where it is."""
    local_members = []
    at = 0
    for number, (which, _) in enumerate(fields):
        local_members.append(Member(f"f{number}", which + 1, at * 8))
        at += FIELD_SIZES[which]
    order = list(enumerate(fields))
    rng.shuffle(order)  # type: ignore[attr-defined]
    target_members, places = [], {}
    where = 0
    for number, (which, gap) in order:
        where += gap * 8
        places[number] = where
        target_members.append(Member(f"f{number}", which + 1, where * 8))
        where += FIELD_SIZES[which]
    local = blob(*FIELD_TYPES, Struct("s", at, tuple(local_members)))
    target = blob(*FIELD_TYPES, Struct("s___new", where, tuple(target_members)))
    for number in range(len(fields)):
        code = insn(MOV, imm=local_members[number].bit_offset // 8)
        result = one(local, [target], 0, f"0:{number}", code, type_id=8)
        assert result.value == places[number] and not result.poisoned


@settings(max_examples=examples(80), deadline=None)
@given(
    st.sampled_from(["ext", "local", "target"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_mutated_objects(which: str, edits: list[tuple[int, int]]) -> None:
    """Forged type information gives answers or pybpf's errors, in bounded time."""
    blobs = {
        "ext": bytearray(KINDS.ext_blob),
        "local": bytearray(KINDS.btf.raw),
        "target": bytearray(TARGET.btf.raw),
    }
    for at, value in edits:
        blobs[which][at % len(blobs[which])] = value
    start = time.process_time()
    try:
        local, target = Btf(blobs["local"]), Btf(blobs["target"])
        relos = BtfExt(blobs["ext"], local).core_relos
    except ObjectFormatError:
        return
    for section, records in relos.items():
        code = bytearray(KINDS.part(section) or bytes(64))
        with contextlib.suppress(ObjectFormatError, RelocationError):
            relocate(code, [(r.insn_off, r) for r in records], local, [target], program=section)
    assert time.process_time() - start < 2
