"""User statically defined tracepoints (USDT): the notes of a binary, and where arguments are.

Theory of operation. A probe in C source (``DTRACE_PROBE2(provider, name, a, b)`` of systemtap's
``sys/sdt.h``) compiles to one ``nop`` and a note of type ``stapsdt`` in section
``.note.stapsdt``. The note has three addresses (the nop, ``.stapsdt.base`` as linked, a
semaphore or 0) and three strings (provider, name, arguments). If the binary was prelinked
later, its ``.stapsdt.base`` has moved, and all addresses with it.

The argument string consists of ``SIZE@OPERAND``. SIZE is the number of bytes, negative for
a signed value. OPERAND is what the assembler wrote: a constant, a register, or memory at a
register. Each machine has its own forms, and `_MACHINES` has a table of patterns for each.
"""

from __future__ import annotations

import re
import struct

from .dataclass import dataclass
from .digits import number
from .elf import ElfFile
from .errors import ObjectFormatError
from .wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "ARG_CONST",
    "ARG_REG",
    "ARG_REG_DEREF",
    "ARG_SIB",
    "ARG_UNREADABLE",
    "MAX_ARGS",
    "Argument",
    "Probe",
    "parse_arguments",
    "probes",
]

# enum __bpf_usdt_arg_type of usdt.h: the value itself, a register, memory at a register, memory
# at a register plus a scaled one. The last is ours: a program that asks for it gets -EINVAL.
ARG_CONST, ARG_REG, ARG_REG_DEREF, ARG_SIB, ARG_UNREADABLE = 0, 1, 2, 3, 255
#: Arguments that usdt.h has room for.
MAX_ARGS = 12

_NOTE_SECTION = ".note.stapsdt"
_NOTE_TYPE = 3  # NT_STAPSDT
_NOTE = struct.Struct("<III")
_ADDRESSES = struct.Struct("<QQQ")
_U64 = (1 << 64) - 1

EM_S390, EM_X86_64, EM_AARCH64, EM_RISCV = 22, 62, 183, 243


@dataclass(frozen=True, slots=True)
class Argument:
    """Say where one argument is when the probe is hit.

    :param type: ``ARG_*``
    :param size: bytes, 1 to 8
    :param signed: extend its sign
    :param value: the constant, or bytes to add to the address
    :param register: offset of the register in ``struct pt_regs``, bytes
    :param index: offset of the second register there, for ARG_SIB
    :param scale: power of two that the second register is multiplied by
    :param text: its text in the note
    """

    type: int
    size: int
    signed: bool
    value: int = 0
    register: int = 0
    index: int = 0
    scale: int = 0
    text: str = ""

    @property
    def bitshift(self) -> int:
        """Return the bits to shift left and right again to cut a 64-bit value to its size."""
        return 64 - 8 * self.size


@dataclass(frozen=True, slots=True)
class Probe:
    """Describe one place of a probe. A probe that is inlined has several.

    :param address: virtual address of the nop, as linked
    :param semaphore: virtual address of its semaphore (``unsigned short``), 0 if it has none
    :param arguments: the argument string of the note
    """

    provider: str
    name: str
    address: int
    semaphore: int
    arguments: str


def probes(elf: ElfFile) -> list[Probe]:
    """Read the probes of an executable or library, in the order of its notes.

    :returns: [] if it has none
    :raises ObjectFormatError: a note is malformed
    """
    section = elf.find(_NOTE_SECTION)
    if section is None:
        return []
    base = elf.find(".stapsdt.base")
    data = elf.contents(section)
    return [_probe(elf, note, base.addr if base is not None else 0) for note in _notes(elf, data)]


def _notes(elf: ElfFile, data: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at + _NOTE.size <= len(data):
        names, size, kind = _NOTE.unpack_from(data, at)
        start = at + _NOTE.size
        begin = start + (names + 3 & ~3)
        if begin + size > len(data):
            raise elf.error(f"note of {many(size, 'byte')}", _NOTE_SECTION, at)
        if kind == _NOTE_TYPE and bytes(data[start : start + names]) == b"stapsdt\0":
            yield at, data[begin : begin + size]
        at = begin + (size + 3 & ~3)


def _probe(elf: ElfFile, note: tuple[int, memoryview], base: int) -> Probe:
    at, data = note
    texts = bytes(data[_ADDRESSES.size :]).split(b"\0")
    if len(data) < _ADDRESSES.size or len(texts) < 4:
        raise elf.error("a probe without three addresses and three strings", _NOTE_SECTION, at)
    address, linked, semaphore = _ADDRESSES.unpack_from(data)
    moved = base - linked if base and linked else 0
    provider, name, arguments = (text.decode("utf-8", "surrogateescape") for text in texts[:3])
    return Probe(
        provider,
        name,
        address + moved & _U64,
        semaphore + moved & _U64 if semaphore else 0,
        arguments,
    )


# -- arguments


def _x86_registers() -> dict[str, int]:
    # struct pt_regs of x86-64, 8 bytes each, and the names of the parts of each register.
    order = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss"
    places = {name: 8 * at for at, name in enumerate(order.split())}
    names: dict[str, int] = {}
    for name in ("ax", "bx", "cx", "dx"):
        parts = (f"r{name}", f"e{name}", name, f"{name[0]}l")
        names |= dict.fromkeys(parts, places[name])
    for name in ("si", "di", "bp", "sp"):
        names |= dict.fromkeys((f"r{name}", f"e{name}", name, f"{name}l"), places[name])
    for nth in range(8, 16):
        name = f"r{nth}"
        parts = (name, f"{name}d", f"{name}w", f"{name}b")
        names |= dict.fromkeys(parts, places[name])
    names["rip"] = places["ip"]
    return names


def _arm64_registers() -> dict[str, int]:
    # struct user_pt_regs: x0 to x30, sp, pc.
    names = {f"{letter}{nth}": 8 * nth for nth in range(31) for letter in "xw"}
    return names | {"sp": 248, "pc": 256}


def _riscv_registers() -> dict[str, int]:
    # struct user_regs_struct.
    order = (
        "pc ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 "
        "s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
    )
    return {name: 8 * at for at, name in enumerate(order.split())}


def _s390_registers() -> dict[str, int]:
    # struct user_pt_regs: one argument, the PSW of 16 bytes, then the registers.
    return {f"r{nth}": 24 + 8 * nth for nth in range(16)}


_NUMBER = r"[-+]?(?:0x[0-9a-fA-F]+|[0-9]+)"
_SIZE = r"(?P<size>-?[0-9]+)(?P<float>f)?@"
# Characters of an argument string, and of it in a message. Twelve arguments take some 300.
_LONGEST, _SHOWN = 4096, 80


@dataclass(frozen=True, slots=True)
class _Machine:
    # `forms`: patterns of an operand, tried in order, with groups base, index, scale, offset,
    # const. `token`: one whole argument.
    registers: Mapping[str, int]
    forms: tuple[tuple[int, re.Pattern[str]], ...]
    token: re.Pattern[str]


def _machine(
    registers: dict[str, int], forms: dict[int, tuple[str, ...]], operand: str = r"\S+"
) -> _Machine:
    patterns = [(kind, re.compile(form)) for kind, some in forms.items() for form in some]
    return _Machine(registers, tuple(patterns), re.compile(rf"\s*{_SIZE}(?P<operand>{operand})"))


_MACHINES = {
    EM_X86_64: _machine(
        _x86_registers(),
        {
            ARG_CONST: (rf"\$(?P<const>{_NUMBER})",),
            ARG_REG: (r"%(?P<base>\w+)",),
            ARG_REG_DEREF: (rf"(?P<offset>{_NUMBER})?\(%(?P<base>\w+)\)",),
            ARG_SIB: (
                rf"(?P<offset>{_NUMBER})?\(%(?P<base>\w+),\s*%(?P<index>\w+)"
                r"(?:,\s*(?P<scale>[1248]))?\)",
            ),
        },
        r"[^\s(]*\([^)]*\)|\S+",
    ),
    EM_AARCH64: _machine(
        _arm64_registers(),
        {
            ARG_CONST: (rf"(?P<const>{_NUMBER})",),
            ARG_REG: (r"(?P<base>[a-z]\w*)",),
            ARG_REG_DEREF: (rf"\[(?P<base>[a-z]\w*)(?:,\s*#?(?P<offset>{_NUMBER}))?\]",),
        },
        r"\[[^\]]*\]|\S+",
    ),
    EM_RISCV: _machine(
        _riscv_registers(),
        {
            ARG_CONST: (rf"(?P<const>{_NUMBER})",),
            ARG_REG: (r"(?P<base>[a-z]\w*)",),
            ARG_REG_DEREF: (rf"(?P<offset>{_NUMBER})?\((?P<base>[a-z]\w*)\)",),
        },
    ),
    EM_S390: _machine(
        _s390_registers(),
        {
            ARG_CONST: (rf"(?P<const>{_NUMBER})",),
            ARG_REG: (r"%(?P<base>r\d+)",),
            ARG_REG_DEREF: (rf"(?P<offset>{_NUMBER})?\(%(?P<base>r\d+)\)",),
        },
    ),
}


def parse_arguments(text: str, machine: int = EM_X86_64, file: str = "") -> list[Argument]:
    """Parse the argument string of a note.

    An operand that no program can read (a floating point register, an address relative to the
    instruction pointer) is ARG_UNREADABLE. The others can still be read.

    :param machine: ``e_machine`` of the binary
    :param file: its name, for messages
    :raises ObjectFormatError: the machine is unknown, or the text is not made of SIZE@OPERAND
    """
    known = _MACHINES.get(machine)
    if known is None:
        raise _bad(f"USDT arguments of machine {machine} are not known", file)
    found: list[Argument] = []
    at = 0
    end = len(text.rstrip())
    if end > _LONGEST:
        raise _bad(f"USDT arguments of {many(end, 'byte')}", file)
    while at < end:
        token = known.token.match(text, at)
        if token is None:
            rest = text[at:].strip()[:_SHOWN]
            raise _bad(f"USDT arguments {text[:_SHOWN]!r}: {rest!r} is malformed", file)
        found.append(_argument(token, known, file))
        at = token.end()
    return found


def _bad(what: str, file: str) -> ObjectFormatError:
    return ObjectFormatError(what, file=file, section=_NOTE_SECTION)


def _argument(token: re.Match[str], machine: _Machine, file: str) -> Argument:
    text = token[0].strip()
    size = number(token["size"])
    if size is None or abs(size) not in (1, 2, 4, 8):
        shown = f"{token['size'][:_SHOWN]} bytes"
        raise _bad(f"USDT argument {text[:_SHOWN]!r}: a size of {shown}", file)
    unreadable = Argument(ARG_UNREADABLE, abs(size), size < 0, text=text)
    if token["float"]:
        return unreadable
    for kind, form in machine.forms:
        match = form.fullmatch(token["operand"])
        if match is None:
            continue
        part = match.groupdict()
        base, index = part.get("base"), part.get("index")
        value = number(part.get("const") or part.get("offset") or "0")
        unknown = any(name is not None and name not in machine.registers for name in (base, index))
        if unknown or value is None:
            return unreadable
        return Argument(
            kind,
            abs(size),
            size < 0,
            value=value & _U64,
            register=machine.registers[base] if base else 0,
            index=machine.registers[index] if index else 0,
            scale=(int(part.get("scale") or "1")).bit_length() - 1,
            text=text,
        )
    return unreadable
