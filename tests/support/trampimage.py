"""Make a whole image like `pybpf.trampoline.images`, without a kernel, and its links."""

from __future__ import annotations

from collections.abc import Sequence

from pybpf.kernel.kallsyms import Kallsyms
from pybpf.trampoline.image import LoadedProgram, TrampolineImage, collect
from pybpf.trampoline.links import Attached, make_key
from tests.support.trampwriter import ENTER, EXIT, TRAMP_ENTER, TRAMP_EXIT, Prog, Shape, write

__all__ = ["FUNCTION", "IMAGE", "KEY", "KINDS", "LOADED", "PROGS", "SHIM", "image", "links"]

FUNCTION = 0xFFFFFFFF81500000
IMAGE = 0xFFFFFFFFC0400000
KEY = make_key(1, 77)
KINDS = ("fentry", "fentry", "fmod_ret", "fexit", "fexit", "fsession")
PROGS = [Prog(0xFFFFC90000000000 + 4096 * n, 0xFFFFFFFFC0300000 + 64 * n, n) for n in range(6)]
LOADED = [LoadedProgram(10 + n, f"p{n}", f"{n:016x}", 26, ((p.code, 60),)) for n, p in
          enumerate(PROGS)]  # fmt: skip
SHIM = 0xFFFFFFFF81990000


def image(
    shape: Shape | None = None, loaded: Sequence[LoadedProgram] = tuple(LOADED)
) -> TrampolineImage:
    """Make an image with two fentry, one fmod_ret, two fexit and one session program, or
    another."""
    if shape is None:
        shape = Shape(
            kernel="7.3",
            address=IMAGE,
            function=FUNCTION,
            registers=2,
            entry=tuple(PROGS[:2]),
            fmod=(PROGS[2],),
            exit=tuple(PROGS[3:5]),
            session=(PROGS[5],),
        )
    data = write(shape) + bytes(4096)
    distance = shape.address - shape.function - 9
    jump = b"\xe9" + distance.to_bytes(4, "little", signed=True)
    entry = b"\xf3\x0f\x1e\xfa" + jump + bytes(16)

    def read(address: int, size: int) -> bytes:
        here = address >= shape.address
        base, source = (shape.address, data) if here else (shape.function, entry)
        return source[address - base : address - base + size]

    table = (
        f"{shape.function:x} T traced\n{SHIM:x} T __bpf_prog_enter_lsm_cgroup\n"
        f"{ENTER:x} T __bpf_prog_enter_recur\n{EXIT:x} T __bpf_prog_exit_recur\n"
        f"{TRAMP_ENTER:x} T __bpf_tramp_enter\n{TRAMP_EXIT:x} T __bpf_tramp_exit\n"
        f"{shape.address:x} t bpf_trampoline_{KEY}\t[bpf]\n"
    )
    found = collect(Kallsyms(table), read, loaded, lambda _: ("traced", "vmlinux"))
    return found[0]


def links(key: int = KEY) -> list[Attached]:
    return [
        Attached(100 + n, 10 + n, (key,), (kind,), PROGS[n].cookie) for n, kind in enumerate(KINDS)
    ]
