"""Golden listings: what they leave out, and what they must show."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pybpf.trampoline.decode import decode
from pybpf.trampoline.image import ImageProgram, LoadedProgram, TrampolineImage
from tests.support.golden import difference, normalise
from tests.support.trampdata import Captured, captured
from tests.support.trampimage import FUNCTION, IMAGE, LOADED, PROGS, image
from tests.support.trampwriter import Prog, Shape

EXIT_ONLY = Shape(kernel="6.12", address=IMAGE, function=FUNCTION, exit=(PROGS[4],))
FULL = Shape(
    kernel="7.3",
    address=IMAGE,
    function=FUNCTION,
    registers=3,
    on_stack=2,
    entry=tuple(PROGS[:2]),
    fmod=(PROGS[2],),
    exit=tuple(PROGS[3:5]),
    ip=True,
)
EXPECTED = """\
traced (vmlinux): 1 fexit
entry    jmp at traced+0x4 to the image
flags    call_orig, skip_frame, jmp_entry
frame    1 argument slots, 48 bytes, ctx at rbp-16, ret at rbp-8
program  leave: fexit (exit), cookie 0x4

     push    rbp                          ; build the frame
     mov     rbp, rsp
     sub     rsp, 0x30
     mov     [rbp-0x20], rbx              ; save rbx
     mov     eax, 1                       ; number of argument slots into ctx[-1]
     mov     [rbp-0x18], rax
     mov     [rbp-0x10], rdi              ; argument register into the context: ctx[0]
     movabs  rdi, <image>                 ; hold the image: __bpf_tramp_enter(image)
     call    __bpf_tramp_enter
     mov     rdi, [rbp-0x10]              ; argument register back from the context: ctx[0]
     call    traced+0x9                   ; call the original function
     mov     [rbp-8], rax                 ; rax into the return value slot
     nop     dword ptr [rax+rax]          ; nop that releasing the image turns into a jump to its end
     mov     edi, 4                       ; leave: attach cookie into run_ctx
     mov     [rbp-0x30], rdi
     movabs  rdi, <prog leave>            ; leave: enter(prog, &run_ctx)
     lea     rsi, [rbp-0x30]
     call    __bpf_prog_enter_recur
     mov     rbx, rax                     ; leave: enter said 0: skip the program
     test    rax, rax
     je      L1
     lea     rdi, [rbp-0x10]              ; leave: r1 = &ctx[0]
     call    <code leave>                 ; leave: run the program
L1:  movabs  rdi, <prog leave>            ; leave: exit(prog, start, &run_ctx)
     mov     rsi, rbx
     lea     rdx, [rbp-0x30]
     call    __bpf_prog_exit_recur
     movabs  rdi, <image>                 ; release the image: __bpf_tramp_exit(image)
     call    __bpf_tramp_exit
     mov     rax, [rbp-8]                 ; return value slot into rax
     mov     rbx, [rbp-0x20]              ; restore rbx
     leave                                ; drop the frame
     add     rsp, 8                       ; drop the return address into the traced function
     ret                                  ; return
"""  # noqa: E501


def test_a_listing() -> None:
    """Word for word: facts, labels, names for addresses, purposes in a column."""
    assert normalise(image(EXIT_ONLY), {"p4": "leave"}) == EXPECTED


def moved(shape: Shape) -> tuple[Shape, list[LoadedProgram]]:
    """The same programs and image as another boot has them: addresses, ids and tags differ."""

    def move(prog: Prog) -> Prog:
        return replace(prog, prog=prog.prog + 0x7_1234_5000, code=prog.code + 0x8880)

    loaded = [
        replace(
            p, id=p.id + 70, tag="f" * 16, ranges=tuple((at + 0x8880, 61) for at, _ in p.ranges)
        )
        for p in LOADED
    ]
    shape = replace(
        shape,
        address=shape.address + 0x12340,
        function=shape.function + 0x77770,
        image=shape.image + 0x5500,
        entry=tuple(map(move, shape.entry)),
        fmod=tuple(map(move, shape.fmod)),
        exit=tuple(map(move, shape.exit)),
    )
    return shape, loaded


@pytest.mark.parametrize("shape", [EXIT_ONLY, FULL])
def test_another_boot_gives_the_same_listing(shape: Shape) -> None:
    """Addresses, ids, tags and sizes of programs leave no trace."""
    first = normalise(image(shape))
    other, loaded = moved(shape)
    again = image(other, loaded)
    assert again.address != IMAGE and again.programs[0].id != 10
    assert normalise(again) == first
    assert not re.search(r"[0-9a-f]{9}", first)
    assert difference(first, first, "a", "b") == ""


@pytest.mark.parametrize("shape", [EXIT_ONLY, FULL])
def test_mitigations_of_the_cpu_do_not_show(shape: Shape) -> None:
    """Return thunks and call depth accounting belong to the machine, not to the row."""
    other = image(replace(shape, thunk=True, depth=True))
    assert any(insn.role.name == "CALL_DEPTH" for insn in other.code.instructions)
    assert normalise(other) == normalise(image(shape))


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"registers": 4}, ["+     mov     [rbp-0x20], rcx"]),
        ({"ip": False}, ["-     mov     rax, <traced>"]),
        ({"exit": (PROGS[4], PROGS[3])}, ["+program  p4: fexit (exit), cookie 0x4"]),
        ({"exit": (replace(PROGS[3], cookie=99), PROGS[4])}, ["+     mov     edi, 0x63"]),
        ({"fmod": ()}, ["-     cmp     [rbp-8], 0", "-     jne     L4"]),
        ({"body": 5}, ["-     call    traced+0x9", "+     call    traced+0x5"]),
        ({"half_arg": True}, ["+     mov     dword ptr [rbp-0x14], 0"]),
        ({"orig_stack": True}, ["+     call    rbx"]),
        ({"kernel": "6.12"}, ["-     nop     dword ptr [rax+rax]"]),
    ],
)
def test_other_code_shows(change: dict[str, object], lines: list[str]) -> None:
    """Whatever the code generator may do differently is a line of the difference."""
    other = normalise(image(replace(FULL, **change)))  # type: ignore[arg-type]
    text = difference(normalise(image(FULL)), other, "golden", "here").splitlines()
    assert text[:2] == ["--- golden", "+++ here"]
    for line in lines:
        assert any(one.startswith(line) for one in text), "\n".join(text)


def captured_image(one: Captured) -> TrampolineImage:
    """An image that a kernel wrote, as reading it from that kernel would give it."""
    starts = [at - past for at, (name, past) in one.symbols.items() if name == one.function]
    code = decode(one.data, one.address, one.symbols.get)
    programs = tuple(
        ImageProgram(call, n, f"p{n}", "0" * 16) for n, call in enumerate(code.programs)
    )
    start = starts[0] if starts else None
    return TrampolineImage(1, one.function, "vmlinux", start, None, (), "", code, programs)


@pytest.mark.parametrize("one", captured(), ids=lambda one: one.name)
def test_real_images_leave_no_address(one: Captured) -> None:
    """Machine code of three kernels: every address has become a name."""
    text = normalise(captured_image(one))
    assert len(text.splitlines()) > len(one.data) // 6
    assert not re.search(r"0x[0-9a-f]{9}", text.replace("0x8000000000000", "")), text
    assert text.count("<code p") == len(set(re.findall(r"program  (p\d+)", text)))
