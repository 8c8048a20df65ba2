"""The trampoline decoder: every captured image, every shape the writer can make, any bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.trampoline.decode import decode, disassemble
from pybpf.trampoline.roles import DecodedImage, Role, TrampFlag, decode_entry
from tests.support import trampwriter as tw
from tests.support.examples import examples
from tests.support.trampdata import Captured, captured, entries
from tests.support.trampwriter import Prog, Shape, write

CASES = captured()
# One image has eight calls and session cookies; the others are of one kind each, or two.
PLAIN = [case for case in CASES if "cookies" not in case.kind]
F = TrampFlag
FUNCTION = 0xFFFFFFFF81500000
IMAGE = 0xFFFFFFFFC0400000
SYMBOLS = {
    tw.ENTER: "__bpf_prog_enter_recur",
    tw.EXIT: "__bpf_prog_exit_recur",
    tw.TRAMP_ENTER: "__bpf_tramp_enter",
    tw.TRAMP_EXIT: "__bpf_tramp_exit",
    tw.THUNK: "__x86_return_thunk",
}


def symbolize(address: int) -> tuple[str, int] | None:
    return (SYMBOLS[address], 0) if address in SYMBOLS else None


def prog(number: int, **more: int) -> Prog:
    return Prog(0xFFFFC90000000000 + 0x1000 * number, 0xFFFFFFFFC0300000 + 64 * number, **more)


def shape(kernel: str = "7.3", **more: object) -> Shape:
    return Shape(kernel=kernel, address=IMAGE, function=FUNCTION, **more)  # type: ignore[arg-type]


def decoded(of: Shape) -> DecodedImage:
    return decode(write(of), of.address, symbolize)


def labels(image: DecodedImage) -> list[str]:
    return [insn.label for insn in image.instructions]


# ---- the images three kernels made ------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_instruction_has_its_role(case: Captured) -> None:
    """Roles, one by one, of the 36 captured images; nothing unknown, nothing contradictory."""
    image = decode(case.data, case.address, case.symbols.get)
    assert labels(image) == case.roles
    assert image.problems == ()
    assert (image.size, image.trailing) == (len(case.data), 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shape_alone_is_enough(case: Captured) -> None:
    """Without a single symbol the roles are the same."""
    assert labels(decode(case.data, case.address)) == case.roles


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stops_at_the_return(case: Captured) -> None:
    """What follows an image in its page (padding, the next image) is not taken for part of it."""
    alone = decode(case.data, case.address, case.symbols.get)
    for after in (b"\xcc" * 64, bytes(64), case.data):
        image = decode(case.data + after, case.address, case.symbols.get)
        assert replace(image, trailing=0) == alone
        assert image.trailing == len(after)


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_summary(case: Captured) -> None:
    """Slots, where ctx and ret live, flags and kinds, against what was attached."""
    image = decode(case.data, case.address, case.symbols.get)
    kind = case.kind.removesuffix("-ip")
    calls_original = kind != "fentry"
    slots = {
        "bpf_fentry_test1": 1,
        "bpf_fentry_test3": 3,
        "bpf_fentry_test6": 6,
        "bpf_modify_return_test": 2,
        "FSE_decompress_wksp": 7,
        "FSE_decompress_wksp_body_bmi2": 7,
    }.get(case.function, 8)
    assert image.slots == slots
    assert image.ret_offset == (-8 if calls_original else None)
    assert image.ctx_offset == -8 * slots - (8 if calls_original else 0)
    flags = F.CALL_ORIG if calls_original else F.RESTORE_REGS
    if case.kind.endswith("-ip"):
        flags |= F.IP_ARG
        assert image.ip is not None
    if case.kernel == "7.3":
        flags |= F.SKIP_SLOTS | (F.JMP_ENTRY if calls_original else F(0))
    elif calls_original:
        flags |= F.SKIP_FRAME
    assert image.flags == flags
    assert image.kinds == dict.fromkeys(kind.split("_and_"), 1)
    assert all(call.symbol.startswith("bpf_prog_") for call in image.programs)


# A lone fentry image does not say which function it is for.
@pytest.mark.parametrize("case", [c for c in CASES if c.kind != "fentry"], ids=lambda c: c.name)
def test_patched_entry_leads_to_the_image(case: Captured) -> None:
    """The function's first bytes jump (7.3, call_orig) or call to the image's address."""
    image = decode(case.data, case.address, case.symbols.get)
    data = entries()[case.name]
    body = decode_entry(data, 0).after
    # Functions that are never called through a pointer have no landing pad on 7.3.
    assert body in ((5,) if case.kernel == "6.1" else (5, 9))
    start = image.original if image.original is not None else image.ip
    assert start is not None
    start -= body if image.original is not None else 0
    entry = decode_entry(data, start)
    assert entry.target == case.address
    assert entry.how == ("jmp" if F.JMP_ENTRY in image.flags else "call")


def test_all_captures_are_used() -> None:
    """36 images, each with roles, entry bytes and a file."""
    assert (len(CASES), len(PLAIN)) == (36, 35)
    assert {case.name for case in CASES} == set(entries())
    assert {case.kernel for case in CASES} == {"6.1", "6.12", "7.3"}


def test_session_cookies() -> None:
    """fentry, three sessions of which two keep a cookie, fexit, all in one image of 7.3."""
    (case,) = (case for case in CASES if case not in PLAIN)
    image = decode(case.data, case.address, case.symbols.get)
    order = [(call.kind, call.phase, call.symbol.rpartition("_")[2]) for call in image.programs]
    assert order == [
        ("fentry", "entry", "e"),
        ("fsession", "entry", "plain"),
        ("fsession", "entry", "s1"),
        ("fsession", "entry", "s0"),
        ("fexit", "exit", "x"),
        ("fsession", "exit", "plain"),
        ("fsession", "exit", "s1"),
        ("fsession", "exit", "s0"),
    ]
    roles = [insn.role for insn in image.instructions]
    assert roles.count(Role.ZERO_COOKIE) == 2 * 2  # two instructions for each of two cookies
    assert roles.count(Role.FUNC_META) == 2 * 5  # before each cookie program, and after the call
    assert image.flags == F.CALL_ORIG | F.IP_ARG | F.JMP_ENTRY | F.SKIP_SLOTS
    assert image.kinds == {"fentry": 1, "fsession": 3, "fexit": 1}


# ---- shapes that were not captured -------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_many_programs_in_order(kernel: str) -> None:
    """Nine programs of three kinds come out in call order with their cookies."""
    cookies = [0, 1, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1, 5, 6, 7, 8]
    progs = [prog(n, cookie=c) for n, c in enumerate(cookies)]
    image = decoded(
        shape(
            kernel,
            registers=4,
            entry=tuple(progs[:3]),
            fmod=tuple(progs[3:6]),
            exit=tuple(progs[6:]),
        )
    )
    assert image.problems == ()
    assert image.kinds == {"fentry": 3, "fmod_ret": 3, "fexit": 3}
    assert [call.prog for call in image.programs] == [p.prog for p in progs]
    assert [call.address for call in image.programs] == [p.code for p in progs]
    assert [call.cookie for call in image.programs] == cookies
    hook = Role.IP_AFTER_CALL in {insn.role for insn in image.instructions}
    assert hook == (kernel != "7.3")
    assert (F.SKIP_SLOTS in image.flags) == (kernel == "7.3")


def test_session_counts_once() -> None:
    """A session program runs twice in one image and is one program."""
    image = decoded(shape(session=(prog(1), prog(2)), entry=(prog(3),), exit=(prog(4),)))
    assert image.problems == ()
    assert image.kinds == {"fsession": 2, "fentry": 1, "fexit": 1}
    assert [(c.kind, c.phase) for c in image.programs] == [
        ("fsession", "entry"),
        ("fsession", "entry"),
        ("fentry", "entry"),
        ("fsession", "exit"),
        ("fsession", "exit"),
        ("fexit", "exit"),
    ]


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_return_thunk_ends_the_image(kernel: str) -> None:
    """`jmp __x86_return_thunk` is the return on CPUs that need one."""
    of = shape(kernel, exit=(prog(1),), thunk=True)
    image = decode(write(of) + b"\xcc" * 64, of.address, symbolize)
    last = image.instructions[-1]
    assert (last.role, last.symbol) == (Role.RET, "__x86_return_thunk")
    assert (image.problems, image.trailing) == ((), 64)


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_call_depth_accounting(kernel: str) -> None:
    """The counter a call-depth-tracking kernel puts before each call keeps its own role."""
    image = decoded(shape(kernel, entry=(prog(1),), exit=(prog(2),), depth=True))
    assert image.problems == ()
    calls = sum(insn.text.startswith("call ") for insn in image.instructions)
    assert sum(insn.role is Role.CALL_DEPTH for insn in image.instructions) == calls + 1


@pytest.mark.parametrize("code", ["488b5d08ffd3", "488b4508ffd0", "ff5508"])
def test_original_found_through_the_stack(code: str) -> None:
    """The three ways kernels call the original when a live patch shares the function."""
    of = shape("6.12", exit=(prog(1),), orig_stack=True)
    data = write(of)
    written = bytes.fromhex("488b5d08ffd3")
    assert data.count(written) == 1
    at = data.index(written)
    # Later calls are relative to where they stand, so a shorter form is padded in front.
    new = bytes.fromhex(code).rjust(len(written), b"\x90")
    image = decode(data[:at] + new + data[at + len(written) :], of.address, symbolize)
    assert F.ORIG_STACK in image.flags and F.CALL_ORIG in image.flags
    assert image.original is None
    assert all(insn.role is not Role.UNKNOWN for insn in image.instructions)


@pytest.mark.parametrize(
    ("name", "sleepable"),
    [
        ("__bpf_prog_enter_recur", False),
        ("__bpf_prog_enter", False),
        ("__bpf_prog_enter_lsm_cgroup", False),
        ("__bpf_prog_enter_sleepable", True),
        ("__bpf_prog_enter_sleepable_recur", True),
    ],
)
def test_enter_variants(name: str, sleepable: bool) -> None:
    """Each enter function of the kernel is one; the sleepable ones are said to be."""
    at = 0xFFFFFFFF81900000
    of = shape(entry=(prog(1, enter=at),))
    image = decode(write(of), of.address, lambda a: (name, 0) if a == at else symbolize(a))
    assert image.problems == ()
    assert [call.sleepable for call in image.programs] == [sleepable]
    enter = [i for i in image.instructions if i.role is Role.PROG_ENTER][-1]
    assert enter.symbol == name


def test_detached_program_is_told() -> None:
    """A skip slot that has become a jump marks the program as no longer run."""
    gone = replace(prog(2), detached=True)
    image = decoded(shape(entry=(prog(1),), exit=(gone, prog(3))))
    assert image.problems == ()
    assert [call.detached for call in image.programs] == [False, True, False]


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_released_image_is_told(kernel: str) -> None:
    """6.x: the nop after the original call is a jump once the image is being released."""
    held = decoded(shape(kernel, entry=(prog(1),), exit=(prog(2),)))
    released = decoded(shape(kernel, entry=(prog(1),), exit=(prog(2),), released=True))
    assert F.RELEASED not in held.flags
    assert F.RELEASED in released.flags
    assert labels(released) == labels(held)
    assert not any(call.detached for call in released.programs)


def test_half_argument_on_the_stack() -> None:
    """The store that clears the upper half of a lone 4-byte stack argument belongs to it."""
    image = decoded(shape(registers=6, on_stack=1, half_arg=True, exit=(prog(1),)))
    assert image.problems == ()
    assert labels(image).count("STACK_ARG(6)") == 3
    assert labels(image).count("OUT_ARG(6)") == 3


SHAPES = st.builds(
    lambda kernel, registers, on_stack, counts, ip, thunk, depth, cookies: (
        lambda progs: shape(
            kernel,
            registers=registers,
            on_stack=on_stack if registers == 6 and kernel != "6.1" else 0,
            entry=tuple(progs[: counts[0]]),
            fmod=tuple(progs[10 : 10 + counts[1]]),
            exit=tuple(progs[20 : 20 + counts[2]]),
            session=tuple(progs[30 : 30 + counts[3]]) if kernel == "7.3" else (),
            ip=ip,
            thunk=thunk,
            depth=depth,
        )
    )([prog(n, cookie=cookies[n % len(cookies)]) for n in range(40)]),
    kernel=st.sampled_from(["6.1", "6.12", "7.3"]),
    registers=st.integers(0, 6),
    on_stack=st.integers(0, 6),
    counts=st.tuples(*[st.integers(0, 4)] * 4),
    ip=st.booleans(),
    thunk=st.booleans(),
    depth=st.booleans(),
    cookies=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=4),
)


@settings(max_examples=examples(150), deadline=None)
@given(SHAPES)
def test_any_shape_comes_back(of: Shape) -> None:
    """decode(write(shape)) says the shape: slots, kinds, order, cookies, flags, ip."""
    image = decoded(of)
    assert image.problems == ()
    assert image.slots == of.registers + of.on_stack
    order = of.session + of.entry + of.fmod + of.session + of.exit
    assert [(c.prog, c.address, c.cookie) for c in image.programs] == [
        (p.prog, p.code, p.cookie) for p in order
    ]
    wanted = {
        "fentry": len(of.entry),
        "fmod_ret": len(of.fmod),
        "fexit": len(of.exit),
        "fsession": len(of.session),
    }
    assert image.kinds == {kind: count for kind, count in wanted.items() if count}
    assert image.ip == (of.function if of.ip else None)
    call_orig = bool(of.fmod or of.exit or of.session)
    assert (F.CALL_ORIG in image.flags) == call_orig
    assert image.original == (of.function + 9 if call_orig else None)


# ---- contradictions and nonsense ---------------------------------------------


def _doctored(old: str, new: str, which: int = 0) -> DecodedImage:
    of = shape("6.12", registers=2, entry=(prog(1),), exit=(prog(2),))
    data = write(of)
    needle, patch = bytes.fromhex(old), bytes.fromhex(new)
    assert len(needle) == len(patch)
    at = -1
    for _ in range(which + 1):
        at = data.index(needle, at + 1)
    return decode(data[:at] + patch + data[at + len(patch) :], of.address, symbolize)


def test_doctored_images_are_reported() -> None:
    """Each kind of self-contradiction is found: the decoder does not believe what it expects."""
    assert _doctored("c9", "c9").problems == ()
    first = prog(1).prog.to_bytes(8, "little").hex()
    second = prog(2).prog.to_bytes(8, "little").hex()
    cases = [
        (_doctored(first, second, 1), "program 0: enters"),
        (_doctored("b802000000", "b803000000"), "3 argument slots"),
        (_doctored("488975f0", "488945f0"), "not recognised"),  # rsi not saved, rax instead
        (_doctored("488b75f0", "90909090"), "given back"),
        (_doctored("488d7de8", "488d7df0"), "context is not"),
        (_doctored("7409", "740a"), "skip does not lead"),
        (_doctored("4883c408c3", "4883c40890"), "without a return"),
    ]
    for image, words in cases:
        assert any(words in problem for problem in image.problems), (words, image.problems)


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=400), st.integers(0, (1 << 64) - 1))
def test_random_bytes_never_raise(data: bytes, address: int) -> None:
    """Any bytes at any address give a value whose parts add up, with problems named."""
    image = decode(data, address)
    assert image.size + image.trailing == len(data)
    assert b"".join(insn.raw for insn in image.instructions) == data[: image.size]
    assert image.problems
    decode_entry(data, address)
    disassemble(data, address)


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_mutated_images_never_raise(data: st.DataObject) -> None:
    """A damaged real image is decoded as far as it goes; the bytes stay accounted for."""
    case = data.draw(st.sampled_from(CASES))
    code = bytearray(case.data)
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(code) - 1), st.integers(0, 255)), max_size=6)
    ):
        code[at] = value
    code = code[: data.draw(st.integers(0, len(code)))]
    image = decode(bytes(code), case.address, case.symbols.get)
    assert b"".join(insn.raw for insn in image.instructions) == code[: image.size]
    assert image.size + image.trailing == len(code)


@settings(max_examples=examples(100), deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_truncated_image_is_never_healthy(case: Captured, data: st.DataObject) -> None:
    """An image cut anywhere before its return is reported as such."""
    cut = data.draw(st.integers(0, len(case.data) - 1))
    assert decode(case.data[:cut], case.address, case.symbols.get).problems


# ---- function entries ---------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "how", "offset", "after"),
    [
        ("f30f1efa0f1f440000", "nop", 4, 9),
        ("0f1f440000554889e5", "nop", 0, 5),
        ("660f1f00e8fbffffff", "call", 4, 9),
        ("e9fbffffff", "jmp", 0, 5),
        ("554889e54157415641", "other", 0, 0),
        ("f30f1efae8", "other", 4, 4),
        ("", "other", 0, 0),
    ],
)
def test_entries(data: str, how: str, offset: int, after: int) -> None:
    """Each form of a function's first bytes, cut-off ones included."""
    entry = decode_entry(bytes.fromhex(data), 0x1000)
    assert (entry.how, entry.offset, entry.after) == (how, offset, after)
    if how in ("call", "jmp"):
        assert entry.target == 0x1000 + offset  # displacement -5: to itself


def test_flag_names_are_the_kernels_words() -> None:
    """Names in JSON and tables."""
    assert (F.CALL_ORIG | F.SKIP_FRAME).names == ("call_orig", "skip_frame")
    assert F(0).names == ()
