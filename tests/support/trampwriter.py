"""Write trampoline images the way the three kernels do, so that tests can make any shape.

`tests/unit/test_trampoline_writer.py` proves that it is right: with the parameters of each
captured image, it returns exactly the bytes that the kernel wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ENTER", "EXIT", "TRAMP_ENTER", "TRAMP_EXIT", "Prog", "Shape", "write"]

ENTER = 0xFFFFFFFF81200000
EXIT = 0xFFFFFFFF81200100
TRAMP_ENTER = 0xFFFFFFFF81200200
TRAMP_EXIT = 0xFFFFFFFF81200300
THUNK = 0xFFFFFFFF81200400

_NOP5 = bytes.fromhex("0f1f440000")
_NOP_SIZES = (
    "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000",
    "0f1f840000000000", "2e0f1f840000000000", "662e0f1f840000000000", "66662e0f1f840000000000",
)  # fmt: skip
_NOPS = [bytes.fromhex(text) for text in _NOP_SIZES]
# modrm register numbers: rdi rsi rdx rcx r8 r9 (with REX.R for the last two)
_ARGS = ((0x48, 7), (0x48, 6), (0x48, 2), (0x48, 1), (0x4C, 0), (0x4C, 1))
_RAX, _RBX, _RSI, _RDX, _RDI = 0, 3, 6, 2, 7


@dataclass(frozen=True)
class Prog:
    """Describe one program: its ``struct bpf_prog *``, its code, its cookie."""

    prog: int
    code: int
    cookie: int = 0
    enter: int = ENTER
    exit: int = EXIT
    detached: bool = False


@dataclass(frozen=True)
class Shape:
    """Hold the parameters of an image. `kernel` is ``6.1``, ``6.12`` or ``7.3``."""

    kernel: str
    address: int
    function: int
    registers: int = 1
    on_stack: int = 0
    entry: tuple[Prog, ...] = ()
    fmod: tuple[Prog, ...] = ()
    exit: tuple[Prog, ...] = ()
    session: tuple[Prog, ...] = ()
    ip: bool = False
    body: int = 9  # where the function's body starts after the patched bytes
    orig_stack: bool = False
    thunk: bool = False
    depth: bool = False
    released: bool = False
    half_arg: bool = False
    image: int = 0xFFFF888100000400
    tramp_enter: int = TRAMP_ENTER
    tramp_exit: int = TRAMP_EXIT


@dataclass
class _Writer:
    shape: Shape
    out: bytearray = field(default_factory=bytearray)

    @property
    def here(self) -> int:
        return self.shape.address + len(self.out)

    def hex(self, text: str) -> None:
        self.out += bytes.fromhex(text)

    def rbp(self, rex: int, opcode: int, reg: int, off: int) -> None:
        """Write an instruction with a [rbp + off] operand."""
        self.out += bytes((rex, opcode))
        if -128 <= off < 128:
            self.out += bytes((0x45 | reg << 3,)) + off.to_bytes(1, "little", signed=True)
        else:
            self.out += bytes((0x85 | reg << 3,)) + off.to_bytes(4, "little", signed=True)

    def store(self, reg: int, off: int) -> None:
        self.rbp(0x48, 0x89, reg, off)

    def load(self, reg: int, off: int) -> None:
        self.rbp(0x48, 0x8B, reg, off)

    def lea(self, reg: int, off: int) -> None:
        self.rbp(0x48, 0x8D, reg, off)

    def const(self, reg: int, value: int) -> None:
        if value == 0:
            self.out += bytes((0x31, 0xC0 | reg << 3 | reg))
        elif value < 1 << 32:
            self.out += bytes((0xB8 | reg,)) + value.to_bytes(4, "little")
        elif self.shape.kernel != "6.1" and value >> 31 == (1 << 33) - 1:
            self.out += bytes((0x48, 0xC7, 0xC0 | reg))
            self.out += (value & 0xFFFFFFFF).to_bytes(4, "little")
        else:
            self.out += bytes((0x48, 0xB8 | reg)) + value.to_bytes(8, "little")

    def branch(self, opcode: int, target: int) -> None:
        displacement = target - (self.here + 5)
        self.out += bytes((opcode,)) + displacement.to_bytes(4, "little", signed=True)

    def call(self, target: int) -> None:
        if self.shape.depth:
            self.hex("6548c13c254056030005")  # sarq $5, %gs:pcpu_hot.call_depth
        self.branch(0xE8, target)


def write(shape: Shape) -> bytes:
    """Return the bytes of an image of this shape."""
    w = _Writer(shape)
    new = shape.kernel == "7.3"
    call_orig = bool(shape.fmod or shape.exit or shape.session)
    slots = shape.registers + shape.on_stack
    # -- the frame, downward from rbp
    used = 8 if call_orig else 0
    used += 8 * slots
    regs = used
    used += 8
    nregs = used
    if shape.ip:
        used += 8
    ip = used
    if shape.kernel != "6.1":
        used += 8
    rbx = used
    used += 16
    run_ctx = used
    if call_orig and shape.on_stack:
        used += 8 * shape.on_stack
        if (used % 16 == 0) != new:
            used += 8
    outgoing = used
    if shape.depth:
        w.hex("6548c13c254056030005")
    w.hex("55 4889e5")
    if used < 128:
        w.out += bytes((0x48, 0x83, 0xEC, used))
    else:
        w.out += bytes((0x48, 0x81, 0xEC)) + used.to_bytes(4, "little")
    if shape.kernel == "6.1":
        w.hex("53")
    else:
        w.store(_RBX, -rbx)
    w.const(_RAX, slots)
    w.store(_RAX, -nregs)
    if shape.ip:
        w.const(_RAX, shape.function)
        w.store(_RAX, -ip)
    # -- arguments
    for slot in range(shape.registers):
        rex, reg = _ARGS[slot]
        w.rbp(rex, 0x89, reg, -regs + 8 * slot)
    above = 16 if new and call_orig else 24

    def stack_arguments(base: int) -> None:
        for i in range(shape.on_stack):
            w.load(_RAX, above + 8 * i)
            w.store(_RAX, base + 8 * i)
        if shape.half_arg:
            w.out += bytes((0xC7, 0x45)) + (base + 4).to_bytes(1, "little", signed=True)
            w.out += bytes(4)

    stack_arguments(-regs + 8 * shape.registers)
    if call_orig:
        w.const(_RDI, shape.image)
        w.call(shape.tramp_enter)

    def zero_ret() -> None:
        w.const(_RAX, 0)
        w.store(_RAX, -8)

    def run(prog: Prog, keeps: bool) -> None:
        slot = len(w.out)
        if new:
            w.out += _NOP5
        w.const(_RDI, prog.cookie)
        w.store(_RDI, -run_ctx)
        w.const(_RDI, prog.prog)
        w.lea(_RSI, -run_ctx)
        w.call(prog.enter)
        w.hex("4889c3 4885c0 7400")
        skip = len(w.out)
        w.lea(_RDI, -regs)
        w.call(prog.code)
        if keeps:
            w.store(_RAX, -8)
        w.out[skip - 1] = len(w.out) - skip
        w.const(_RDI, prog.prog)
        w.hex("4889de")
        w.lea(_RDX, -run_ctx)
        w.call(prog.exit)
        if prog.detached:
            distance = len(w.out) - slot - 5
            w.out[slot : slot + 5] = b"\xe9" + distance.to_bytes(4, "little")

    def restore() -> None:
        for slot in range(shape.registers):
            rex, reg = _ARGS[slot]
            w.rbp(rex, 0x8B, reg, -regs + 8 * slot)

    if shape.session:
        zero_ret()
    for prog in shape.session + shape.entry:
        run(prog, keeps=False)
    jumps = []
    if shape.fmod:
        zero_ret()
        for prog in shape.fmod:
            run(prog, keeps=True)
            w.hex("48837df800 0f8500000000")
            jumps.append(len(w.out))
    hook = 0
    restore()
    if call_orig:
        stack_arguments(-outgoing)
        if shape.orig_stack:
            w.load(_RBX, 8)
            w.hex("ffd3")
        else:
            w.call(shape.function + shape.body)
        w.store(_RAX, -8)
        if not new:
            hook = len(w.out)
            w.out += _NOP5
        if shape.fmod:
            while len(w.out) % 16:
                w.out += _NOPS[min(-len(w.out) % 16, len(_NOPS)) - 1]
            for jump in jumps:
                w.out[jump - 4 : jump] = (len(w.out) - jump).to_bytes(4, "little")
        if shape.session:
            w.const(_RAX, slots | 1 << 63)
            w.store(_RAX, -nregs)
        for prog in shape.session + shape.exit:
            run(prog, keeps=False)
        if hook and shape.released:
            distance = len(w.out) - hook - 5
            w.out[hook : hook + 5] = b"\xe9" + distance.to_bytes(4, "little")
        w.const(_RDI, shape.image)
        w.call(shape.tramp_exit)
        w.load(_RAX, -8)
    if shape.kernel == "6.1":
        w.hex("5b")
    else:
        w.load(_RBX, -rbx)
    w.hex("c9")
    if call_orig and not new:
        w.hex("4883c408")
    if shape.thunk:
        w.branch(0xE9, THUNK)
    else:
        w.hex("c3")
    return bytes(w.out)
