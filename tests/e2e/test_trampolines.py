"""Trampolines the running kernel JITs: decoded, named and verified against its links.

Programs are assembled by hand and attached through the syscall layer, so that
what is read back owes nothing to the object loader.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf._sys import link as sys_link
from pybpf._sys import prog as sys_prog
from pybpf._uapi.defines import BPF_PSEUDO_KFUNC_CALL
from pybpf._uapi.enums import AttachType, ProgType
from pybpf.asm import Insn, encode
from pybpf.asm import insn as a
from pybpf.asm import opcodes as op
from pybpf.btf import Btf, BtfKind, FuncProto
from pybpf.kernel.btf import KernelBtf
from pybpf.trampoline.image import TrampolineImage
from pybpf.trampoline.links import attachments
from pybpf.trampoline.roles import Role, TrampFlag
from pybpf.trampoline.verify import Problem
from tests.support.require import facts
from tests.support.trampolines import image_of, images, survey, verify

pytestmark = pytest.mark.first_on("6.1", "latest")

FENTRY, FEXIT = AttachType.BPF_TRACE_FENTRY, AttachType.BPF_TRACE_FEXIT
FMOD_RET, FSESSION = AttachType.BPF_MODIFY_RETURN, AttachType.BPF_TRACE_FSESSION
GET_FUNC_IP = 173
SLEEPABLE = 1 << 4  # BPF_F_SLEEPABLE
F = TrampFlag
TOOL = "tools/trampolines.py"


@pytest.fixture(scope="module")
def btf() -> Btf:
    return KernelBtf().vmlinux()


class Tracer:
    """Loads and attaches; everything is closed when the test ends."""

    def __init__(self, btf: Btf, stack: contextlib.ExitStack) -> None:
        self.btf = btf
        self.stack = stack

    def func(self, name: str) -> int:
        found = self.btf.find(name, BtfKind.FUNC)
        assert found, f"no function {name} in BTF"
        return found

    def load(
        self,
        function: str,
        attach_type: int,
        name: str,
        *,
        body: list[Insn] | None = None,
        prog_type: int = ProgType.BPF_PROG_TYPE_TRACING,
        flags: int = 0,
    ) -> sys_bpf.Fd:
        insns = [*(body or []), a.mov(0, 0), a.exit_()]
        return self.stack.enter_context(
            sys_prog.prog_load(
                prog_type,
                encode(insns),
                license="GPL",
                name=name,
                expected_attach_type=attach_type,
                attach_btf_id=self.func(function) if function else 0,
                prog_flags=flags,
            )
        )

    def attach(
        self, function: str, attach_type: int, name: str, *, cookie: int = 0, **more: object
    ) -> tuple[int, sys_bpf.Fd]:
        """Program id and link."""
        prog = self.load(function, attach_type, name, **more)  # type: ignore[arg-type]
        link = self.stack.enter_context(
            sys_link.link_create_tracing(prog.fileno(), attach_type, cookie=cookie)
        )
        return sys_bpf.prog_info(prog).id, link


@pytest.fixture
def tracer(btf: Btf) -> Iterator[Tracer]:
    with contextlib.ExitStack() as stack:
        yield Tracer(btf, stack)


def image(function: str) -> TrampolineImage:
    found = image_of(function)
    assert found is not None, f"{function} has no image"
    assert found.code.problems == ()
    assert all(insn.role is not Role.UNKNOWN for insn in found.code.instructions)
    return found


def gone(function: str) -> bool:
    """Waits until a function has no image: it outlives its links until tasks have left it."""
    end = time.monotonic() + 60
    while image_of(function) is not None:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def run(*args: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, TOOL, *args], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def is_new(row: str) -> bool:
    """Rows whose kernel enters call_orig images by jmp and has a skip slot per program."""
    return row not in ("6.1", "6.12")


def test_four_programs_on_one_function(tracer: Tracer, kernel_row: str) -> None:
    """fentry x2 and fexit x2: read back with ids, cookies, order, slots and flags; verified."""
    function = "bpf_fentry_test3"
    wanted = []
    for kind, name, cookie in (
        (FEXIT, "leave_a", 0x11),
        (FENTRY, "enter_a", 0x1_0000_0000_22),
        (FEXIT, "leave_b", 0),
        (FENTRY, "enter_b", 0x44),
    ):
        number, _ = tracer.attach(function, kind, name, cookie=cookie)
        wanted.append((number, "fentry" if kind == FENTRY else "fexit", name, cookie))
    found = image(function)
    assert (found.function, found.module) == (function, "vmlinux")
    assert found.kinds == {"fentry": 2, "fexit": 2}
    called = [(p.id, p.call.kind, p.name, p.call.cookie) for p in found.programs]
    assert sorted(called) == sorted(wanted)
    assert [kind for _, kind, _, _ in called] == ["fentry", "fentry", "fexit", "fexit"]
    assert [p.call.phase for p in found.programs] == ["entry", "entry", "exit", "exit"]
    assert (found.slots, found.code.ctx_offset, found.code.ret_offset) == (3, -32, -8)
    flags = F.CALL_ORIG | (F.JMP_ENTRY | F.SKIP_SLOTS if is_new(kernel_row) else F.SKIP_FRAME)
    assert found.flags == flags
    assert found.patched
    assert found.entry is not None
    assert found.entry.how == ("jmp" if is_new(kernel_row) else "call")
    assert found.code.original == (found.function_address or 0) + found.entry.after
    assert verify() == []


def test_tool(tracer: Tracer, kernel_row: str) -> None:
    """list, dump and verify as a user runs them, text and JSON."""
    function = "bpf_fentry_test4"
    for kind, name in ((FENTRY, "e_one"), (FENTRY, "e_two"), (FEXIT, "x_one"), (FEXIT, "x_two")):
        tracer.attach(function, kind, name)
    status, text, error = run("list")
    assert (status, error) == (0, "")
    row = next(line for line in text.splitlines() if line.startswith(function))
    assert "2 fentry, 2 fexit" in row and ":x_one" in row
    status, text, error = run("dump", function)
    assert (status, error) == (0, "")
    assert "leads to the image" in text
    assert "; return" in text and "not recognised" not in text
    assert "call the original function -> bpf_fentry_test4+0x" in text
    status, text, error = run("verify")
    assert (status, error) == (0, "")
    assert text.startswith("verified: ")
    status, text, error = run("dump", function, "--json")
    value = json.loads(text)
    assert [program["name"][:1] for program in value["programs"]] == ["e", "e", "x", "x"]
    assert {"CALL_ORIG", "CALL_PROG"} < {insn["role"] for insn in value["instructions"]}


def test_images_go_with_their_links(tracer: Tracer) -> None:
    """Closing one of three links makes a new image without it; closing all removes the image."""
    function = "bpf_fentry_test2"
    links = [tracer.attach(function, kind, f"p{kind}") for kind in (FENTRY, FEXIT)]
    links.append(tracer.attach(function, FENTRY, "late"))
    assert len(image(function).programs) == 3
    links[0][1].close()
    assert verify() == []
    assert {p.id for p in image(function).programs} == {links[1][0], links[2][0]}
    for _, link in links[1:]:
        link.close()
    assert gone(function)
    assert verify() == []
    assert function not in {one.function for one in images()}


def test_wrong_expectations_fail(tracer: Tracer) -> None:
    """verify can fail: each way of doctoring what the links say is found in a real image."""
    function = "bpf_fentry_test5"
    first, _ = tracer.attach(function, FENTRY, "enter", cookie=5)
    tracer.attach(function, FEXIT, "leave", cookie=6)
    says = attachments()
    assert verify(attached=says) == []
    mine = [one for one in says if one.program == first]
    others = [one for one in says if one.program != first]
    assert len(mine) == 1 and others

    def problems(*doctored: object) -> set[Problem]:
        attached = [*others, *doctored]
        return {finding.problem for finding in verify(attached=attached, timeout=0)}  # type: ignore[arg-type]

    (one,) = mine
    assert problems(one) == set()
    assert problems() == {Problem.EXTRA}
    assert problems(replace(one, kinds=("fexit",))) == {Problem.WRONG_PLACE}
    assert problems(replace(one, cookie=7)) == {Problem.WRONG_COOKIE}
    assert problems(replace(one, program=1 << 30)) == {Problem.EXTRA, Problem.MISSING}
    assert problems(one, replace(one, keys=(12345,))) == {Problem.NO_IMAGE}
    result = survey(attached=[], timeout=0)
    assert {finding.problem for finding in result.findings} == {Problem.ORPHAN}


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_slots_are_the_functions_arguments(tracer: Tracer, number: int) -> None:
    """bpf_fentry_test1..6 have 1..6 arguments, and ctx and ret are at the matching places."""
    function = f"bpf_fentry_test{number}"
    tracer.attach(function, FEXIT, "leave")
    found = image(function)
    assert (found.slots, found.code.ctx_offset) == (number, -8 - 8 * number)


def test_fentry_alone(tracer: Tracer, kernel_row: str) -> None:
    """A lone fentry image neither calls the original nor keeps a return value."""
    tracer.attach("bpf_fentry_test1", FENTRY, "enter")
    found = image("bpf_fentry_test1")
    assert found.flags == F.RESTORE_REGS | (F.SKIP_SLOTS if is_new(kernel_row) else F(0))
    assert found.code.ret_offset is None
    assert found.entry is not None and found.entry.how == "call"


def test_function_address_is_kept_when_asked_for(tracer: Tracer) -> None:
    """A program that calls bpf_get_func_ip makes the image carry the function's address."""
    tracer.attach("bpf_fentry_test3", FENTRY, "wants_ip", body=[a.call(GET_FUNC_IP)])
    found = image("bpf_fentry_test3")
    assert F.IP_ARG in found.flags
    assert found.code.ip == found.function_address


@pytest.mark.rows("6.12", "latest")
def test_fmod_ret(tracer: Tracer, kernel_row: str) -> None:
    """fentry, two fmod_ret and fexit on one function: in that order, with tests in between."""
    function = "bpf_modify_return_test"
    order = (FEXIT, FMOD_RET, FENTRY, FMOD_RET)
    ids = [tracer.attach(function, kind, f"p{n}")[0] for n, kind in enumerate(order)]
    found = image(function)
    assert [p.call.kind for p in found.programs] == ["fentry", "fmod_ret", "fmod_ret", "fexit"]
    assert {p.id for p in found.programs} == set(ids)
    roles = [insn.role for insn in found.code.instructions]
    assert roles.count(Role.FMOD_TEST) == 4 and Role.ZERO_RET in roles
    assert (Role.IP_AFTER_CALL in roles) != is_new(kernel_row)
    assert verify() == []


@pytest.mark.rows("6.12", "latest")
def test_sleepable_program(tracer: Tracer) -> None:
    """A sleepable program is entered through another function, which shows that it is sleepable."""
    tracer.attach("bpf_fentry_test1", FENTRY, "plain")
    number, _ = tracer.attach("bpf_fentry_test1", FENTRY, "sleeps", flags=SLEEPABLE)
    found = image("bpf_fentry_test1")
    assert {p.id for p in found.programs if p.call.sleepable} == {number}
    assert verify() == []


@pytest.mark.rows("6.12", "latest")
@pytest.mark.parametrize("slots", [7, 8])
def test_arguments_on_the_stack(tracer: Tracer, btf: Btf, slots: int) -> None:
    """Functions with more than six arguments: stack copies decoded both ways."""
    function = _with_arguments(btf, slots)
    tracer.attach(function, FENTRY, "enter")
    tracer.attach(function, FEXIT, "leave")
    found = image(function)
    assert found.slots == slots
    roles = [insn.role for insn in found.code.instructions]
    assert roles.count(Role.STACK_ARG) >= 2 * (slots - 6)
    assert roles.count(Role.OUT_ARG) == roles.count(Role.STACK_ARG)
    assert verify() == []


def _with_arguments(btf: Btf, count: int) -> str:
    """A traceable function with so many plain arguments and a value to return."""
    traceable = facts().ftrace
    plain = {BtfKind.INT, BtfKind.PTR, BtfKind.ENUM}
    for _, name, type_id in btf.funcs():
        proto = btf.type(type_id)
        assert isinstance(proto, FuncProto)
        if len(proto.params) != count or name not in traceable or name.startswith("__"):
            continue
        kinds = [btf.kind(btf.skip_mods_and_typedefs(p.type)) for p in proto.params]
        returns = proto.type and btf.kind(btf.skip_mods_and_typedefs(proto.type)) in plain
        if returns and plain.issuperset(kinds):
            return name
    raise AssertionError(f"no traceable function with {count} arguments")


def test_lsm_program(tracer: Tracer) -> None:
    """An LSM program sits where fmod_ret programs do; its link agrees.  systemd may have its own
    there."""
    number, _ = tracer.attach(
        "bpf_lsm_file_open",
        AttachType.BPF_LSM_MAC,
        "hook",
        prog_type=ProgType.BPF_PROG_TYPE_LSM,
        flags=SLEEPABLE,
    )
    (found,) = [p for p in image("bpf_lsm_file_open").programs if p.id == number]
    assert (found.call.kind, found.call.sleepable) == ("fmod_ret", True)
    assert verify() == []


@pytest.mark.rows("latest")
def test_fsession(tracer: Tracer) -> None:
    """A session program is called on both sides of the original, in one image with others."""
    function = "bpf_fentry_test3"
    session, _ = tracer.attach(function, FSESSION, "session", cookie=3)
    entry, _ = tracer.attach(function, FENTRY, "enter")
    leave, _ = tracer.attach(function, FEXIT, "leave")
    found = image(function)
    assert found.kinds == {"fsession": 1, "fentry": 1, "fexit": 1}
    assert {(p.id, p.call.phase) for p in found.programs} == {
        (session, "entry"),
        (session, "exit"),
        (entry, "entry"),
        (leave, "exit"),
    }
    assert Role.FUNC_META in {insn.role for insn in found.code.instructions}
    assert verify() == []


@pytest.mark.rows("latest")
def test_session_cookies(tracer: Tracer) -> None:
    """Session programs that keep a cookie between their runs: its slots and func_meta decoded."""
    function = "bpf_fentry_test4"
    kfunc = tracer.func("bpf_session_cookie")
    call = Insn(code=op.CALL | op.JMP, src=BPF_PSEUDO_KFUNC_CALL, imm=kfunc)
    body = [a.mov_reg(6, 1), call, a.mov_reg(1, 6), a.call(GET_FUNC_IP)]
    ids = [tracer.attach(function, FSESSION, f"s{n}", body=body)[0] for n in range(2)]
    plain, _ = tracer.attach(function, FSESSION, "s_plain")
    found = image(function)
    assert found.kinds == {"fsession": 3}
    assert {p.id for p in found.programs} == {*ids, plain}
    roles = [insn.role for insn in found.code.instructions]
    assert roles.count(Role.ZERO_COOKIE) >= 2
    assert F.IP_ARG in found.flags and found.code.ip == found.function_address
    assert verify() == []


@pytest.mark.rows("latest")
def test_tracing_multi_shares_images(tracer: Tracer) -> None:
    """One tracing_multi link on six functions, one of them also traced plainly: all verified."""
    functions = [f"bpf_fentry_test{n}" for n in range(1, 7)]
    kind = AttachType.BPF_TRACE_FEXIT_MULTI
    prog = tracer.load("", kind, "many")
    ids = [tracer.func(name) for name in functions]
    cookies = [100 + n for n in range(6)]
    tracer.stack.enter_context(
        sys_link.link_create_tracing_multi(prog.fileno(), kind, ids, cookies=cookies)
    )
    number = sys_bpf.prog_info(prog).id
    plain, _ = tracer.attach(functions[2], FENTRY, "enter")
    for name, cookie in zip(functions, cookies, strict=True):
        found = image(name)
        assert (number, "fexit", cookie) in {
            (p.id, p.call.kind, p.call.cookie) for p in found.programs
        }
    assert plain in {p.id for p in image(functions[2]).programs}
    result = survey()
    assert result.findings == ()
    # systemd may have links of its own.
    assert sum(one.program in (number, plain) for one in result.attached) == 7
