"""USDT: argument strings of four machines, and notes as they lie in a file."""

from __future__ import annotations

import contextlib
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf._sys.fd import Fd
from pybpf.elf import ElfFile
from pybpf.errors import ObjectFormatError
from pybpf.links import Link
from pybpf.links import usdt as usdt_links
from pybpf.links.usdt import UsdtSpecs
from pybpf.usdt import (
    ARG_CONST,
    ARG_REG,
    ARG_REG_DEREF,
    ARG_SIB,
    ARG_UNREADABLE,
    EM_AARCH64,
    EM_RISCV,
    EM_S390,
    EM_X86_64,
    Argument,
    parse_arguments,
    probes,
)
from tests.support.elfwriter import ElfWriter

M = (1 << 64) - 1
REGS = [
    "r15",
    "r14",
    "r13",
    "r12",
    "bp",
    "bx",
    "r11",
    "r10",
    "r9",
    "r8",
    "ax",
    "cx",
    "dx",
    "si",
    "di",
    "orig_ax",
    "ip",
    "cs",
    "flags",
    "sp",
    "ss",
]
NOTE, X86 = 7, 62


def reg(name: str) -> int:
    return 8 * REGS.index(name)


@pytest.mark.parametrize(
    ("machine", "text", "type", "size", "signed", "value", "register"),
    [
        (EM_X86_64, "-4@$-9", ARG_CONST, 4, True, -9 & M, 0),
        (EM_X86_64, "8@$0x10", ARG_CONST, 8, False, 16, 0),
        (EM_X86_64, "1@%dil", ARG_REG, 1, False, 0, reg("di")),
        (EM_X86_64, "-2@%ax", ARG_REG, 2, True, 0, reg("ax")),
        (EM_X86_64, "4@%r12d", ARG_REG, 4, False, 0, reg("r12")),
        (EM_X86_64, "8@%rsp", ARG_REG, 8, False, 0, reg("sp")),
        (EM_X86_64, "-4@-1204(%rbp)", ARG_REG_DEREF, 4, True, -1204 & M, reg("bp")),
        (EM_X86_64, "8@(%rcx)", ARG_REG_DEREF, 8, False, 0, reg("cx")),
        (EM_AARCH64, "8@x21", ARG_REG, 8, False, 0, 168),
        (EM_AARCH64, "-4@w3", ARG_REG, 4, True, 0, 24),
        (EM_AARCH64, "-4@-17", ARG_CONST, 4, True, -17 & M, 0),
        (EM_AARCH64, "8@[sp, 16]", ARG_REG_DEREF, 8, False, 16, 248),
        (EM_AARCH64, "4@[x19]", ARG_REG_DEREF, 4, False, 0, 152),
        (EM_RISCV, "-8@-88(s0)", ARG_REG_DEREF, 8, True, -88 & M, 64),
        (EM_RISCV, "4@a1", ARG_REG, 4, False, 0, 88),
        (EM_S390, "-4@%r2", ARG_REG, 4, True, 0, 40),
        (EM_S390, "8@160(%r15)", ARG_REG_DEREF, 8, False, 160, 144),
    ],
)
def test_one_argument(
    machine: int, text: str, type: int, size: int, signed: bool, value: int, register: int
) -> None:
    expected = Argument(type, size, signed, value, register, text=text)
    assert parse_arguments(text, machine) == [expected]
    assert expected.bitshift == 64 - 8 * size


@pytest.mark.parametrize(
    ("text", "index", "scale", "value"),
    [
        ("8@24(%rax,%rbx,8)", "bx", 3, 24),
        ("8@(%rax,%rdi)", "di", 0, 0),
        ("8@-8(%rax, %r9, 2)", "r9", 1, -8 & M),
    ],
)
def test_scaled_index(text: str, index: str, scale: int, value: int) -> None:
    """Base, index and scale; the blanks inside the parentheses do not end the argument."""
    (found,) = parse_arguments(text)
    assert (found.type, found.register, found.index) == (ARG_SIB, reg("ax"), reg(index))
    assert (found.scale, found.value) == (scale, value)


@pytest.mark.parametrize("text", ["8f@%xmm0", "8@%xmm1", "4@counter(%rip)", "8@%fs:0", "8@x+4"])
def test_what_a_program_cannot_read(text: str) -> None:
    """It takes its place, so that the arguments behind it keep their numbers."""
    found = parse_arguments(f"{text} -4@%edi")
    assert [one.type for one in found] == [ARG_UNREADABLE, ARG_REG]


@pytest.mark.parametrize("text", ["3@%eax", "16@%rax", "%eax", "8@", "-4@%edi x"])
def test_malformed(text: str) -> None:
    with pytest.raises(ObjectFormatError, match="USDT argument"):
        parse_arguments(text)


def test_no_arguments_and_no_machine() -> None:
    assert parse_arguments("") == parse_arguments("  ") == []
    with pytest.raises(ObjectFormatError, match="machine 8"):
        parse_arguments("8@%rax", 8)


@given(st.text(alphabet="0123456789-@%$()[], xrabdis0f:", max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Never another error, on any machine."""
    for machine in (EM_X86_64, EM_AARCH64, EM_RISCV, EM_S390):
        with contextlib.suppress(ObjectFormatError):
            parse_arguments(text, machine)


def note(provider: str, name: str, arguments: str, pc: int, base: int, semaphore: int = 0) -> bytes:
    texts = "".join(f"{text}\0" for text in (provider, name, arguments)).encode()
    desc = struct.pack("<QQQ", pc, base, semaphore) + texts
    data = struct.pack("<III", 8, len(desc), 3) + b"stapsdt\0" + desc
    return data + bytes(-len(data) % 4)


def elf_with(notes: bytes) -> ElfFile:
    writer = ElfWriter(machine=X86, type=3)
    writer.section(".note.stapsdt", notes, type=NOTE)
    return ElfFile(writer.build(), "lib.so", any_machine=True)


def test_notes() -> None:
    """In order, with what other notes lie between them."""
    other = struct.pack("<III", 4, 5, 3) + b"GNU\0" + b"hello\0\0\0"
    elf = elf_with(note("a", "b", "8@%rdi", 0x1000, 0) + other + note("a", "c", "", 0x2000, 0, 0x9))
    found = probes(elf)
    assert [(p.provider, p.name, p.address, p.semaphore, p.arguments) for p in found] == [
        ("a", "b", 0x1000, 0, "8@%rdi"),
        ("a", "c", 0x2000, 9, ""),
    ]
    assert elf.machine == EM_X86_64
    assert probes(ElfFile(ElfWriter(machine=X86).build(), any_machine=True)) == []


def test_functions_that_a_linker_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two notes for one place make one link. Both links would run the program at each hit."""
    made: list[int] = []

    def attach(program: object, path: str, offset: int, **more: object) -> Link:
        made.append(offset)
        return Link(Fd(os.open(os.devnull, os.O_RDONLY)), "uprobe")

    notes = note("a", "b", "", 0x1000, 0) + note("a", "b", "", 0x1000, 0)
    elf = elf_with(notes + note("a", "b", "", 0x1010, 0))
    monkeypatch.setattr(usdt_links, "open_elf", lambda path: elf)
    monkeypatch.setattr(usdt_links, "attach_uprobe", attach)
    monkeypatch.setattr(ElfFile, "file_offset", lambda self, address: address)
    program = Fd(os.open(os.devnull, os.O_RDONLY))
    with program, usdt_links.attach_usdt(program, UsdtSpecs({}), "/lib.so", "a", "b") as link:
        assert made == [0x1000, 0x1010] and len(link) == 2


def test_malformed_notes() -> None:
    """The error names file, section and offset."""
    good = note("a", "b", "", 1, 0)
    long = struct.pack("<III", 8, 1 << 20, 3) + b"stapsdt\0"
    for bad in (long, struct.pack("<III", 8, 4, 3) + b"stapsdt\0" + b"1234"):
        with pytest.raises(ObjectFormatError) as caught:
            probes(elf_with(good + bad))
        assert caught.value.section == ".note.stapsdt" and caught.value.offset == len(good)
