"""What clang makes of a context that is hard to follow: right in every lowering, or refused.

Each program of multi_shapes.bpf.c runs in the interpreter on functions of 0 to 8 slots: as written,
on the promised context, and lowered, on what the kernel gives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

import pybpf
from pybpf.asm.edit import edit
from pybpf.asm.insn import Insn
from pybpf.errors import PlanError
from pybpf.kernel.host import Facts
from pybpf.multi import rewrite
from pybpf.multi.template import Template
from tests.support.bpfvm import M64
from tests.support.savedfacts import saved_facts
from tests.support.shapes import NAMES, OBJECT, REFUSED, run
from tests.support.tracedcalls import X86_ARGS, Call, promised, registers, words


@pytest.fixture(scope="module")
def templates() -> Iterator[dict[str, Template]]:
    with pybpf.open(OBJECT, facts=Facts.from_json(saved_facts())) as obj:
        yield {name: program.template() for name, program in obj.programs.items()}


def some_calls() -> list[Call]:
    choose = random.Random(5)

    def value() -> int:
        kinds = (choose.getrandbits(64), choose.randint(0, 9), -choose.randint(1, 300) & M64)
        return choose.choice(kinds)

    return [
        Call(tuple(value() for _ in range(slots)), value() if returns else None)
        for slots in range(9)
        for returns in (True, True, True, False)
    ]


CALLS = some_calls()


@pytest.mark.parametrize("name", NAMES)
def test_every_lowering_sees_what_was_promised(templates: dict[str, Template], name: str) -> None:
    code, traits = templates[name].code, templates[name].traits
    for call in CALLS:
        returns = call.ret is not None
        shape = {"slots": call.slots, "returns": returns}
        own = words(*call.args, *([call.ret] if call.ret is not None else []))
        lowered: dict[str, Callable[[], tuple[Insn, ...]]] = {
            "direct": lambda s=shape: edit(code, rewrite.direct(code, traits, **s))[0].insns,
            "scalars": lambda s=shape: (
                edit(code, rewrite.direct(code, traits, **s, scalars=True))[0].insns
            ),
            "frame": lambda r=returns: rewrite.frame(code, traits, returns=r).insns,
        }
        for found in (True, False):
            expected = run(code.insns, promised(call), call, found=found, kprobe=False)
            for form, make in lowered.items():
                got = run(make(), own, call, found=found, kprobe=False)
                assert got == expected, (form, call)
            if call.slots <= len(X86_ARGS):
                insns = edit(code, rewrite.regs(code, traits, **shape))[0].insns
                got = run(insns, registers(call), call, found=found, kprobe=True)
                assert got == expected, ("regs", call)


def test_what_is_not_always_the_context_is_refused(templates: dict[str, Template]) -> None:
    with pytest.raises(PlanError, match=r"multi_shapes\.bpf\.c:\d+: return p\[1\];.*on one path"):
        _ = templates[REFUSED].traits
