"""The programs of tests/data/multi_shapes.bpf.c, and how they run in the interpreter."""

from __future__ import annotations

from pathlib import Path

from pybpf.asm.insn import Insn
from pybpf.obj.reader import read_object
from tests.support.bpfvm import Vm
from tests.support.tracedcalls import COOKIE, Call, helpers

__all__ = ["NAMES", "OBJECT", "REFUSED", "run"]

OBJECT = Path(__file__).parents[1] / "data" / "multi_shapes.bpf.o"
#: The program that must be refused.
REFUSED = "not_always_the_context"
LOOKUP, FOR_EACH, LOOP = 1, 164, 181
# The number of the map with the results, and the place of the one that `helpers` gives.
SPEC = read_object(OBJECT.read_bytes())
RESULTS = next(i for i, name in enumerate(SPEC.map_names) if name.endswith(".bss"))
PLACE = 8 * (COOKIE & 15)
#: Programs, without the one that must be refused.
NAMES = [name for name in SPEC.programs if name != REFUSED]


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
