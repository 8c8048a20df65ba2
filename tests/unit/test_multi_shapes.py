"""What clang makes of a context that is hard to follow: right in every lowering, or refused.

Each program of multi_shapes.bpf.c runs in the interpreter on functions of 0 to 8 slots: as written,
on the promised context, and lowered, on what the kernel gives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.asm.edit import edit
from pybpf.asm.insn import Insn
from pybpf.errors import PlanError
from pybpf.kernel.host import Facts
from pybpf.multi import rewrite
from pybpf.multi.template import Template
from pybpf.obj.reader import read_object
from tests.support.bpfvm import M64, Vm
from tests.support.savedfacts import saved_facts
from tests.unit.test_rewrite import COOKIE, X86_ARGS, Call, helpers

OBJECT = Path(__file__).parents[1] / "data" / "multi_shapes.bpf.o"
REFUSED = "not_always_the_context"
LOOKUP, FOR_EACH, LOOP = 1, 164, 181


# The number of the map with the results, and the place of the one that `helpers` gives.
SPEC = read_object(OBJECT.read_bytes())
RESULTS = next(i for i, name in enumerate(SPEC.map_names) if name.endswith(".bss"))
PLACE = 8 * (COOKIE & 15)
#: Programs, without the one that must be refused.
NAMES = [name for name in SPEC.programs if name != REFUSED]


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


def run(insns: tuple[Insn, ...], context: bytes, call: Call, *, found: bool, kprobe: bool) -> int:
    """Run on a context and return its result. `found`: the map has the element looked up."""
    vm = Vm(insns, budget=50_000)
    ctx, element = vm.map(context), vm.map(bytes(8))
    results = vm.maps[RESULTS] = vm.map(bytes(128))

    def loop(vm: Vm, count: int, callback: int, data: int, *_: int) -> int:
        for index in range(count):
            vm.call(callback, [index, data, 0, 0, 0], [0] * 4)
        return count

    def for_each(vm: Vm, map_: int, callback: int, data: int, *_: int) -> int:
        for _ in range(4):
            vm.call(callback, [map_, element, element, data, 0], [0] * 4)
        return 4

    vm.helpers = helpers(call, ctx, not kprobe) | {
        LOOKUP: lambda vm, *_: element if found else 0,
        LOOP: loop,
        FOR_EACH: for_each,
    }
    assert vm.run(ctx) == 0
    return vm.read(results + PLACE, 8)


def promised(call: Call) -> bytes:
    """The context that a multi program sees."""
    return words(*call.args[:6], *[0] * (6 - min(6, call.slots)), call.ret or 0)


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def registers(call: Call) -> bytes:
    """``struct pt_regs``, with garbage in all other registers."""
    data = bytearray(b"\xa5" * 168)
    for off, value in zip(X86_ARGS, call.args, strict=False):
        data[off : off + 8] = words(value)
    data[80:88] = words(0x5A5A if call.ret is None else call.ret)
    return bytes(data)


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
