"""Find out what each instruction of a BPF trampoline is for. Pure: bytes in, value out.

A trampoline is straight-line x86-64 code that ``arch_prepare_bpf_trampoline()``
(arch/x86/net/bpf_jit_comp.c) writes. It builds a frame, saves the argument registers
as the context array, runs the entry programs, perhaps calls the original
function, runs the exit programs and returns. It uses few shapes and few branches,
and all branches go forward, so one pass is enough. Capstone splits the bytes, and
`_Scanner` matches the shapes from left to right.

Stack offsets are learned, not assumed. The argument count is stored before
anything else and sits right below the context, so the first store of a constant
tells where both are. The same pass therefore works for every kernel and frame size.

Some roles cannot be told from the bytes alone: the 5-byte nop after the original
call is a per-program slot on 7.x and the release hook on 6.x. These are settled at
the end, from the whole image. An instruction that fits no shape gets `Role.UNKNOWN`,
and contradictions are listed in `DecodedImage.problems`. This decoder is used to
check the kernel, so it must not hide surprises.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..dataclass import dataclass, field, replace
from ..wording import many
from .roles import NOP5, DecodedImage, Instruction, ProgramCall, Role, Symbolizer, TrampFlag

__all__ = ["decode", "disassemble"]

_U64 = (1 << 64) - 1
_SLOT_MASK = 0xFF  # 7.x also keeps a session cookie's index in this word, above the count

# ---- disassembly -----------------------------------------------------------

_MEM = re.compile(r"(?:\w+ ptr )?\[(\w+)(?: ([+-]) (0x[0-9a-f]+|\d+))?\]$")
_WIDE = {"eax": "rax", "ebx": "rbx", "ecx": "rcx", "edx": "rdx", "esi": "rsi", "edi": "rdi"}


@dataclass(frozen=True, slots=True)
class _Raw:
    offset: int
    raw: bytes
    name: str
    ops: tuple[str, ...]
    text: str

    def mem(self, index: int) -> int | None:
        """Return the displacement of operand `index` if it is memory relative to rbp."""
        match = _MEM.match(self.ops[index]) if index < len(self.ops) else None
        if match is None or match[1] != "rbp":
            return None
        distance = int(match[3] or "0", 0)
        return -distance if match[2] == "-" else distance

    def imm(self, index: int) -> int | None:
        """Return operand `index` as an unsigned 64-bit number if it is an immediate."""
        try:
            return int(self.ops[index], 0) & _U64
        except (IndexError, ValueError):
            return None

    def is_(self, name: str, *ops: str) -> bool:
        return self.name == name and self.ops == ops

    @property
    def target(self) -> int | None:
        """Return the address a direct branch goes to."""
        if self.name == "call" or self.name.startswith("j"):
            return self.imm(0)
        return None


def _split(data: bytes, address: int) -> tuple[list[_Raw], bool]:
    """Return the instructions of an image up to its return, and whether a return was reached."""
    import capstone

    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    end = address + len(data)
    furthest = 0
    found: list[_Raw] = []
    for at, size, name, op_str in machine.disasm_lite(data, address):
        offset = (at - address) & _U64
        ops = tuple(op_str.split(", ")) if op_str else ()
        text = f"{name} {op_str}" if op_str else name
        insn = _Raw(offset, data[offset : offset + size], name, ops, text)
        found.append(insn)
        target = insn.target
        leaves = name.endswith("ret")
        if target is not None and name != "call":
            if address <= target < end:
                furthest = max(furthest, target - address)
            elif name == "jmp":
                leaves = True  # to a return thunk
        if leaves and offset >= furthest:
            return found, True
    return found, False


def disassemble(data: bytes, address: int) -> list[Instruction]:
    """Disassemble code at `address` without roles, e.g. a function's entry."""
    import capstone

    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    out = []
    for at, size, name, op_str in machine.disasm_lite(data, address & _U64):
        offset = (at - address) & _U64
        out.append(Instruction(offset, data[offset : offset + size], f"{name} {op_str}".strip()))
    return out


# ---- roles -----------------------------------------------------------------

_ARG_REGS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")


@dataclass(slots=True)
class _Program:
    """Collect the parts of one program call."""

    entered: int | None = None  # struct bpf_prog * of enter
    exited: int | None = None
    address: int | None = None
    cookie: int = 0
    ctx: int | None = None
    enter: str = ""
    stores: bool = False
    detached: bool = False
    after_orig: bool = False
    call_at: int = 0
    exit_at: int | None = None
    skips_to: int | None = None


@dataclass(slots=True)
class _Scanner:
    """Match from left to right. Each rule looks at instruction `at` and consumes what it
    recognises."""

    code: list[_Raw]
    address: int
    symbolize: Symbolizer | None
    at: int = 0
    out: list[Instruction] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    flags: TrampFlag = field(default_factory=lambda: TrampFlag(0))
    slots: int | None = None
    stack_size: int = 0
    nregs_offset: int | None = None
    ret_offset: int | None = None
    ip_offset: int | None = None
    rbx_offset: int | None = None
    run_ctx_offset: int | None = None
    ip: int | None = None
    original: int | None = None
    original_at: int | None = None
    programs: list[_Program] = field(default_factory=list)
    from_register: list[int] = field(default_factory=list)
    from_stack: list[int] = field(default_factory=list)
    restored: list[int] = field(default_factory=list)
    stored_after_orig: bool = False
    holds: list[tuple[Role, int]] = field(default_factory=list)
    fmod_targets: list[int] = field(default_factory=list)
    patched: set[int] = field(default_factory=set)

    # -- small tools --

    @property
    def ctx(self) -> int | None:
        """Return the offset of ctx[0], which is right above the argument count."""
        return None if self.nregs_offset is None else self.nregs_offset + 8

    def look(self, ahead: int = 0) -> _Raw | None:
        index = self.at + ahead
        return self.code[index] if index < len(self.code) else None

    def slot(self, displacement: int) -> int | None:
        """Return the argument slot at a stack offset, or None if there is none."""
        if self.ctx is None or self.slots is None or (displacement - self.ctx) % 8:
            return None
        slot = (displacement - self.ctx) // 8
        return slot if 0 <= slot < self.slots else None

    def name(self, target: int | None) -> str:
        if target is None or self.symbolize is None:
            return ""
        found = self.symbolize(target)
        if found is None:
            return ""
        return f"{found[0]}+{found[1]:#x}" if found[1] else found[0]

    def take(self, role: Role, count: int = 1, index: int | None = None) -> bool:
        for raw in self.code[self.at : self.at + count]:
            target = raw.target
            # A jump inside the image has no symbol worth naming.
            named = "" if raw.name.startswith("j") and role is not Role.RET else self.name(target)
            kind = Role.CALL_DEPTH if raw.name == "sar" and raw.ops[0].find("gs:") >= 0 else role
            shown = None if kind is not role else index
            self.out.append(Instruction(raw.offset, raw.raw, raw.text, kind, shown, target, named))
        self.at += count
        return True

    def constant(self, ahead: int, register: str) -> int | None:
        """Return the value if instruction `ahead` loads a constant into `register` (64-bit
        name)."""
        raw = self.look(ahead)
        if raw is None or len(raw.ops) != 2:
            return None
        if _WIDE.get(raw.ops[0], raw.ops[0]) != register:
            return None
        if raw.name == "xor":
            return 0 if raw.ops[0] == raw.ops[1] else None
        return raw.imm(1) if raw.name in ("mov", "movabs") else None

    def stored(self, ahead: int, register: str) -> int | None:
        """Return the offset if instruction `ahead` stores `register` at rbp + offset."""
        raw = self.look(ahead)
        if raw is None or raw.name != "mov" or len(raw.ops) != 2 or raw.ops[1] != register:
            return None
        return raw.mem(0)

    def loaded(self, ahead: int, register: str) -> int | None:
        """Return the offset if instruction `ahead` loads `register` from rbp + offset."""
        raw = self.look(ahead)
        if raw is None or raw.name != "mov" or len(raw.ops) != 2 or raw.ops[0] != register:
            return None
        return raw.mem(1)

    def lea(self, ahead: int, register: str) -> int | None:
        raw = self.look(ahead)
        if raw is None or raw.name != "lea" or len(raw.ops) != 2 or raw.ops[0] != register:
            return None
        return raw.mem(1)

    def call(self, ahead: int) -> tuple[int, _Raw] | None:
        """Return (instructions, the call) if a call is `ahead`, including call accounting before
        it."""
        raw = self.look(ahead)
        count = 1
        if raw is not None and raw.name == "sar" and "gs:" in raw.text:
            raw = self.look(ahead + 1)
            count = 2
        return (count, raw) if raw is not None and raw.name == "call" else None

    @property
    def program(self) -> int:
        """Return the number of the current program. Start a new one if none is open."""
        if not self.programs or self.programs[-1].exited is not None:
            self.programs.append(_Program(after_orig=self.original_at is not None))
        return len(self.programs) - 1

    # -- rules, in the order they are tried --

    def prologue(self) -> bool:
        raw = self.code[self.at]
        if self.nregs_offset is not None:
            return False
        if raw.name == "endbr64":
            return self.take(Role.ENDBR)
        if raw.name == "sar" and "gs:" in raw.text:
            return self.take(Role.CALL_DEPTH)
        if raw.is_("push", "rbp") or raw.is_("mov", "rbp", "rsp"):
            return self.take(Role.FRAME)
        if raw.name == "sub" and raw.ops[0] == "rsp" and raw.imm(1) is not None:
            self.stack_size = raw.imm(1) or 0
            return self.take(Role.FRAME)
        if raw.is_("push", "rax"):
            self.flags |= TrampFlag.TAIL_CALL_CTX
            return self.take(Role.TAIL_CALL_CNT)
        if raw.is_("push", "rbx"):
            return self.take(Role.SAVE_RBX)
        offset = self.stored(0, "rbx")
        if offset is not None:
            self.rbx_offset = offset
            return self.take(Role.SAVE_RBX)
        return False

    def constant_slot(self) -> bool:
        """Match constants stored through rax: count, ip, cleared slots, func_meta."""
        value = self.constant(0, "rax")
        offset = self.stored(1, "rax")
        if value is None or offset is None:
            return False
        if self.nregs_offset is None:
            if value >> 16:
                return False
            self.nregs_offset, self.slots = offset, value & _SLOT_MASK
            return self.take(Role.NREGS, 2)
        if offset == self.nregs_offset:
            return self.take(Role.FUNC_META, 2)
        if value == 0:
            if offset > self.nregs_offset:
                self.ret_offset = offset
                return self.take(Role.ZERO_RET, 2)
            return self.take(Role.ZERO_COOKIE, 2)
        if offset == self.nregs_offset - 8:
            self.ip_offset, self.ip = offset, value
            self.flags |= TrampFlag.IP_ARG
            return self.take(Role.IP, 2)
        return False

    def arguments(self) -> bool:
        """Match copies of arguments into the context, out of it, and onto the original's stack."""
        for register in _ARG_REGS:
            offset = self.stored(0, register)
            slot = None if offset is None else self.slot(offset)
            if slot is not None:
                self.from_register.append(slot)
                return self.take(Role.SAVE_ARG, 1, slot)
            offset = self.loaded(0, register)
            slot = None if offset is None else self.slot(offset)
            if slot is not None:
                self.restored.append(slot)
                return self.take(Role.RESTORE_ARG, 1, slot)
        source, offset = self.loaded(0, "rax"), self.stored(1, "rax")
        if source is None or source <= 0 or offset is None:
            return False
        slot = self.slot(offset)
        if slot is not None:
            self.from_stack.append(slot)
            return self.take(Role.STACK_ARG, 2 + self.clears_upper(2, offset), slot)
        number = sum(insn.role is Role.OUT_ARG for insn in self.out) // 2
        index = self.from_stack[number] if number < len(self.from_stack) else None
        return self.take(Role.OUT_ARG, 2 + self.clears_upper(2, offset), index)

    def clears_upper(self, ahead: int, offset: int) -> int:
        # A lone 4-byte stack argument has its upper half cleared after the copy.
        raw = self.look(ahead)
        if raw is None or raw.name != "mov" or raw.imm(1) != 0:
            return 0
        return 1 if raw.ops[0].startswith("dword") and raw.mem(0) == offset + 4 else 0

    def hold(self) -> bool:
        """Match __bpf_tramp_enter(image) and __bpf_tramp_exit(image)."""
        value = self.constant(0, "rdi")
        call = self.call(1)
        if value is None or call is None:
            return False
        name = self.name(call[1].target)
        if name.startswith("__bpf_prog_enter"):
            return self.enter(value, 1, call)
        role = Role.TRAMP_EXIT if self.holds else Role.TRAMP_ENTER
        if "tramp_enter" in name or "tramp_exit" in name:
            role = Role.TRAMP_ENTER if "tramp_enter" in name else Role.TRAMP_EXIT
        self.holds.append((role, value))
        return self.take(role, 1 + call[0])

    def cookie(self) -> bool:
        value, offset = self.constant(0, "rdi"), self.stored(1, "rdi")
        if value is None or offset is None or self.slot(offset) is not None:
            return False
        number = self.program
        self.programs[number].cookie = value
        self.run_ctx_offset = offset
        return self.take(Role.COOKIE, 2, number)

    def prog_enter(self) -> bool:
        value, run_ctx, call = self.constant(0, "rdi"), self.lea(1, "rsi"), self.call(2)
        if value is None or run_ctx is None or call is None:
            return False
        if self.run_ctx_offset not in (None, run_ctx):
            self.problems.append(f"run_ctx moves at +{self.code[self.at].offset:#x}")
        self.run_ctx_offset = run_ctx
        return self.enter(value, 2, call)

    def enter(self, prog: int, before: int, call: tuple[int, _Raw]) -> bool:
        number = self.program
        program = self.programs[number]
        program.entered = prog
        program.enter = self.name(call[1].target)
        return self.take(Role.PROG_ENTER, before + call[0], number)

    def skip_prog(self) -> bool:
        raw, test, jump = self.look(), self.look(1), self.look(2)
        if raw is None or test is None or jump is None:
            return False
        if not (raw.is_("mov", "rbx", "rax") and test.is_("test", "rax", "rax")):
            return False
        if jump.name != "je":
            return False
        number = self.program
        self.programs[number].skips_to = jump.target
        return self.take(Role.SKIP_PROG, 3, number)

    def run(self) -> bool:
        """Match ``lea rdi, ctx``, ``rsi = insns`` for the interpreter, and the call of the
        program."""
        offset = self.lea(0, "rdi")
        if offset is None:
            return False
        interpreted = int(self.constant(1, "rsi") is not None)
        call = self.call(1 + interpreted)
        if call is None:
            return False
        number = self.program
        program = self.programs[number]
        program.ctx = offset
        program.address = call[1].target
        self.take(Role.CTX, 1 + interpreted, number)
        program.call_at = self.code[self.at + call[0] - 1].offset
        self.take(Role.CALL_PROG, call[0], number)
        if self.stored(0, "rax") is not None and self.slot(self.stored(0, "rax") or 0) is None:
            self.ret_offset = self.stored(0, "rax")
            program.stores = True
            self.take(Role.STORE_RET, 1, number)
        return True

    def prog_exit(self) -> bool:
        value, start, run_ctx = self.constant(0, "rdi"), self.look(1), self.lea(2, "rdx")
        if value is None or start is None or not start.is_("mov", "rsi", "rbx"):
            return False
        ahead = 2 if run_ctx is None else 3  # 5.x has no run_ctx
        call = self.call(ahead)
        if call is None:
            return False
        number = self.program
        self.programs[number].exited = value
        self.programs[number].exit_at = self.code[self.at].offset
        return self.take(Role.PROG_EXIT, ahead + call[0], number)

    def fmod_test(self) -> bool:
        raw, jump = self.look(), self.look(1)
        if raw is None or jump is None or raw.name != "cmp" or raw.imm(1) != 0:
            return False
        if raw.mem(0) is None or raw.mem(0) != self.ret_offset or jump.name != "jne":
            return False
        if jump.target is not None:
            self.fmod_targets.append(jump.target - self.address)
        number = len(self.programs) - 1
        return self.take(Role.FMOD_TEST, 2, number if number >= 0 else None)

    def call_orig(self) -> bool:
        count = 0
        for register in ("rax", "rbx"):
            if self.loaded(0, register) == 8:  # the return address into the function
                count = 1
        call = self.call(count)
        if call is None or self.original_at is not None:
            return False
        raw = call[1]
        if count or raw.mem(0) == 8 or raw.target is None:
            if not count and raw.mem(0) != 8:
                return False
            self.flags |= TrampFlag.ORIG_STACK
        else:
            self.original = raw.target
        self.flags |= TrampFlag.CALL_ORIG
        self.original_at = raw.offset
        self.take(Role.CALL_ORIG, count + call[0])
        offset = self.stored(0, "rax")
        if offset is not None and self.slot(offset) is None:
            self.stored_after_orig = True
            self.ret_offset = offset
            self.take(Role.STORE_RET)
        return True

    def patchable(self) -> bool:
        """Match 5-byte nops and the jumps they become; `settle_nops` decides what each is."""
        raw = self.code[self.at]
        if raw.raw == NOP5:
            return self.take(Role.SKIP_SLOT)
        if raw.name != "jmp" or raw.target is None or len(raw.raw) != 5:
            return False
        end = self.code[-1].offset + len(self.code[-1].raw)
        if not raw.offset < raw.target - self.address < end:
            return False
        self.patched.add(raw.offset)
        return self.take(Role.SKIP_SLOT)

    def epilogue(self) -> bool:
        raw = self.code[self.at]
        if raw.is_("pop", "rbx"):
            return self.take(Role.RESTORE_RBX)
        offset = self.loaded(0, "rbx")
        if offset is not None and offset == self.rbx_offset:
            return self.take(Role.RESTORE_RBX)
        offset = self.loaded(0, "rax")
        if offset is not None and offset < 0 and self.slot(offset) is None:
            if offset == self.ret_offset:
                return self.take(Role.LOAD_RET)
            if TrampFlag.TAIL_CALL_CTX in self.flags:
                return self.take(Role.TAIL_CALL_CNT)
        if raw.name == "leave":
            return self.take(Role.LEAVE)
        if raw.name == "add" and raw.ops[0] == "rsp" and raw.imm(1) == 8:
            self.flags |= TrampFlag.SKIP_FRAME
            return self.take(Role.SKIP_FRAME)
        last = self.at == len(self.code) - 1
        if raw.name == "ret" or (last and raw.name == "jmp" and raw.target is not None):
            return self.take(Role.RET)
        return False

    def padding(self) -> bool:
        name = self.code[self.at].name
        return self.take(Role.ALIGN) if name in ("nop", "data16 nop") else False

    def scan(self) -> None:
        rules: tuple[Callable[[], bool], ...] = (
            self.prologue,
            self.constant_slot,
            self.arguments,
            self.prog_exit,
            self.prog_enter,
            self.cookie,
            self.hold,
            self.skip_prog,
            self.run,
            self.fmod_test,
            self.call_orig,
            self.patchable,
            self.epilogue,
            self.padding,
        )
        while self.at < len(self.code):
            if not any(rule() for rule in rules):
                self.take(Role.UNKNOWN)

    # -- what needs the whole image --

    def settle_nops(self) -> None:
        """Tell the slot before each program (7.x) from the one nop after the original call
        (6.x)."""
        pending = [i for i, insn in enumerate(self.out) if insn.role is Role.SKIP_SLOT]
        after_orig: int | None = None
        before_program: dict[int, int] = {}
        for i in pending:
            # A session program's func_meta may stand between its slot and its cookie.
            following = next((o for o in self.out[i + 1 :] if o.role is not Role.FUNC_META), None)
            if following is not None and following.role in (Role.COOKIE, Role.PROG_ENTER):
                before_program[following.index or 0] = i
            if self.original_at is not None and self.out[i].offset > self.original_at:
                after_orig = i if after_orig is None else after_orig
        others = [n for n, p in enumerate(self.programs) if before_program.get(n) != after_orig]
        if others:
            slots = all(n in before_program for n in others)
        else:
            slots = TrampFlag.SKIP_FRAME not in self.flags
        for i in pending:
            insn = self.out[i]
            number = next((n for n, at in before_program.items() if at == i), None)
            if slots and number is not None:
                self.out[i] = replace(insn, index=number)
                self.programs[number].detached = insn.offset in self.patched
                self.flags |= TrampFlag.SKIP_SLOTS
            elif i == after_orig and not slots:
                self.out[i] = replace(insn, role=Role.IP_AFTER_CALL)
                if insn.offset in self.patched:
                    self.flags |= TrampFlag.RELEASED
            elif insn.raw == NOP5:
                self.out[i] = replace(insn, role=Role.ALIGN)
            else:
                self.out[i] = replace(insn, role=Role.UNKNOWN)

    def kinds(self) -> tuple[ProgramCall, ...]:
        before = {p.entered for p in self.programs if not p.after_orig}
        after = {p.entered for p in self.programs if p.after_orig}
        calls = []
        for program in self.programs:
            if program.address is None and program.entered is None:
                continue
            if program.entered in before and program.entered in after:
                kind = "fsession"
            elif program.after_orig:
                kind = "fexit"
            else:
                kind = "fmod_ret" if program.stores else "fentry"
            calls.append(
                ProgramCall(
                    kind=kind,
                    phase="exit" if program.after_orig else "entry",
                    prog=program.entered or 0,
                    address=program.address or 0,
                    symbol=self.name(program.address),
                    cookie=program.cookie,
                    enter=program.enter,
                    detached=program.detached,
                    offset=program.call_at,
                )
            )
        return tuple(calls)

    def check(self, returned: bool) -> None:
        """Collect contradictions."""
        say = self.problems.append
        unknown = [insn.offset for insn in self.out if insn.role is Role.UNKNOWN]
        if unknown:
            count = many(len(unknown), "instruction")
            say(f"{count} not recognised, the first at +{unknown[0]:#x}")
        if not returned:
            say("the code ends without a return")
        if self.slots is None:
            say("the argument count is never stored")
        saved = self.from_register + self.from_stack
        if sorted(saved) != list(range(self.slots or 0)):
            say(f"{self.slots} argument slots, but saved are {saved}")
        if returned and sorted(self.restored) != sorted(self.from_register):
            say(f"registers saved {self.from_register}, given back {self.restored}")
        for number, program in enumerate(self.programs):
            self.check_program(number, program)
        if self.original_at is not None and not self.stored_after_orig:
            say("the original's return value is not kept")
        enters = [value for role, value in self.holds if role is Role.TRAMP_ENTER]
        exits = [value for role, value in self.holds if role is Role.TRAMP_EXIT]
        if returned and enters != exits:
            say("__bpf_tramp_enter and __bpf_tramp_exit do not match")
        for target in self.fmod_targets:
            if self.original_at is None or target <= self.original_at:
                say(f"fmod_ret jumps to +{target:#x}, not past the original")

    def check_program(self, number: int, program: _Program) -> None:
        say = self.problems.append
        if program.entered is None or program.address is None or program.exited is None:
            say(f"program {number}: enter, call or exit is missing")
            return
        if program.entered != program.exited:
            say(f"program {number}: enters {program.entered:#x}, exits {program.exited:#x}")
        if program.ctx != self.ctx:
            say(f"program {number}: its context is not the saved arguments")
        if program.skips_to != self.address + (program.exit_at or 0):
            say(f"program {number}: the skip does not lead to its exit")


def decode(data: bytes, address: int, symbolize: Symbolizer | None = None) -> DecodedImage:
    """Decode the trampoline at the start of `data`.

    Never fails on any bytes: what it cannot name is `Role.UNKNOWN`, what makes no sense is
    in `DecodedImage.problems`.

    :param data: code, which may run on past the image's end
    :param address: kernel address of ``data[0]``
    :param symbolize: names call targets; without it, roles come from shape alone
    """
    address &= _U64
    code, returned = _split(bytes(data), address)
    scanner = _Scanner(code, address, symbolize)
    scanner.scan()
    scanner.settle_nops()
    programs = scanner.kinds()
    scanner.check(returned)
    flags = scanner.flags
    if TrampFlag.CALL_ORIG not in flags and scanner.restored:
        flags |= TrampFlag.RESTORE_REGS
    if TrampFlag.CALL_ORIG in flags and TrampFlag.SKIP_FRAME not in flags and returned:
        flags |= TrampFlag.JMP_ENTRY
    size = code[-1].offset + len(code[-1].raw) if code else 0
    return DecodedImage(
        address=address,
        size=size,
        instructions=tuple(scanner.out),
        flags=flags,
        slots=scanner.slots or 0,
        stack_size=scanner.stack_size,
        ctx_offset=scanner.ctx,
        ret_offset=scanner.ret_offset,
        nregs_offset=scanner.nregs_offset,
        ip_offset=scanner.ip_offset,
        rbx_offset=scanner.rbx_offset,
        run_ctx_offset=scanner.run_ctx_offset,
        ip=scanner.ip,
        original=scanner.original,
        programs=programs,
        problems=tuple(scanner.problems),
        trailing=len(data) - size,
    )
