"""Trampolines as listings: written out to read, and compared with the golden ones of the row.

Each case of tests/support/golden_cases.py is attached and its image read back. The whole listing
goes to $OUT/trampolines/ROW/CASE.lst (after a run from the host: .vm-out/trampolines/ROW), what of
it must not change to $OUT/golden/ROW/CASE.lst. See tests/e2e/golden/README.md.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf._sys import link as sys_link
from pybpf._sys import prog as sys_prog
from pybpf._uapi.defines import BPF_PSEUDO_KFUNC_CALL
from pybpf._uapi.enums import AttachType, ProgType
from pybpf.asm import Insn, encode
from pybpf.asm import insn as a
from pybpf.asm import opcodes as op
from pybpf.btf import Btf, BtfKind
from pybpf.errors import BpfError
from pybpf.tools.screen import Screen
from pybpf.tools.trampolines.dump import dump_text
from pybpf.trampoline.image import ImageReader, TrampolineImage
from pybpf.trampoline.roles import Role
from tests.support import rows
from tests.support.golden import normalise
from tests.support.golden_cases import CASES, Case, Put, absence, batches, golden_path
from tests.support.golden_files import check
from tests.support.require import facts

pytestmark = pytest.mark.rows(*rows.names())  # no other kernel has golden listings

MULTI = Path(__file__).resolve().parents[1] / "data/multi.bpf.o"
KINDS = {
    "fentry": AttachType.BPF_TRACE_FENTRY,
    "fexit": AttachType.BPF_TRACE_FEXIT,
    "fmod_ret": AttachType.BPF_MODIFY_RETURN,
    "fsession": AttachType.BPF_TRACE_FSESSION,
}
# Programs of multi.bpf.o by kind, and what listings call them.
MULTI_PROGRAMS = {"fentry": "on_entry", "fexit": "on_exit", "fsession": "on_session"}
NAMES = {program: f"{kind}.multi" for kind, program in MULTI_PROGRAMS.items()}
GET_FUNC_IP = 173


class Bench:
    """Attach cases, a batch at a time, and keep their images."""

    def __init__(self, multi: pybpf.Object, row: str) -> None:
        self.multi = multi
        self.row = row
        self.btf: Btf = multi.facts.btf.vmlinux()
        self.reader = ImageReader()
        self._found: dict[str, TrampolineImage | BpfError] = {}

    def image(self, case: Case) -> TrampolineImage:
        """The image of a case, or the error of attaching it."""
        if case.name not in self._found:
            self._run(next(batch for batch in batches(self.row) if case in batch))
        found = self._found[case.name]
        if isinstance(found, BpfError):
            raise found
        return found

    def _run(self, batch: list[Case]) -> None:
        up: dict[str, Case] = {}
        with contextlib.ExitStack() as stack:
            for case in batch:
                try:
                    for put in case.puts:
                        self.put(case.function, put, stack)
                except BpfError as error:
                    self._found[case.name] = error
                else:
                    up[case.function] = case
            for image in self.reader.read(only=lambda _, name, module: name in up):
                self._found[up[image.function].name] = image

    def func(self, name: str) -> int:
        found = self.btf.find(name, BtfKind.FUNC)
        assert found, f"no function {name} in BTF"
        return found

    def put(self, function: str, put: Put, stack: contextlib.ExitStack) -> None:
        if put.mechanism:
            multi = self.multi.programs[MULTI_PROGRAMS[put.kind]]
            stack.enter_context(
                multi.attach_multi([function], mechanism=put.mechanism, cookies=put.cookie)
            )
            return
        body: list[Insn] = []
        if put.keeps:
            cookie = self.func("bpf_session_cookie")
            body.append(Insn(code=op.CALL | op.JMP, src=BPF_PSEUDO_KFUNC_CALL, imm=cookie))
        if put.ip:
            body.append(a.call(GET_FUNC_IP))
        program = sys_prog.prog_load(
            ProgType.BPF_PROG_TYPE_TRACING,
            encode([*body, a.mov(0, 0), a.exit_()]),
            license="GPL",
            name=put.label,
            expected_attach_type=KINDS[put.kind],
            attach_btf_id=self.func(function),
        )
        stack.enter_context(program)
        link = sys_link.link_create_tracing(program.fileno(), KINDS[put.kind], cookie=put.cookie)
        stack.enter_context(link)


@pytest.fixture(scope="module")
def bench(kernel_row: str) -> Iterator[Bench]:
    with pybpf.open(MULTI, facts=facts()) as multi:
        multi.load()
        # The object keeps the flags of the recursion guard, so they are made before any test.
        with multi.programs["on_entry"].attach_multi(["bpf_fentry_test1"], mechanism="trampoline"):
            pass
        yield Bench(multi, kernel_row)


def keep(kind: str, row: str, case: Case, text: str) -> None:
    """Leave a file for the person who started the run."""
    if out := os.environ.get("OUT"):
        path = Path(out, kind, row, f"{case.name}.lst")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=pytest.mark.needs(*c.needs)) for c in CASES]
)
def test_listing(bench: Bench, case: Case, kernel_row: str, pytestconfig: pytest.Config) -> None:
    """The image is fully understood, and what the kernel wrote is what its golden listing says."""
    if kernel_row in case.refused:
        with pytest.raises(BpfError) as caught:
            bench.image(case)
        assert caught.value.errno == case.refused[kernel_row]
        return
    assert absence(case, kernel_row) == ""
    image = bench.image(case)
    whole = io.StringIO(f"# {case.name} on {platform.release()}, {platform.version()}\n\n")
    whole.seek(0, io.SEEK_END)
    dump_text(image, Screen(whole))
    keep("trampolines", kernel_row, case, whole.getvalue())
    assert image.code.problems == ()
    assert all(insn.role is not Role.UNKNOWN for insn in image.code.instructions)
    assert image.patched
    found = normalise(image, NAMES)
    keep("golden", kernel_row, case, found)
    if pytestconfig.getoption("update_golden"):
        return
    check(
        golden_path(kernel_row, case.name),
        found,
        f"kernel {platform.release()}",
        f"pytest tests/e2e/test_golden.py --kernel={kernel_row} --update-golden",
        "The kernel's code generation changed, or how pybpf reads it: check that every changed "
        "line is meant, then take the new listing with",
    )
