"""Compare what multi programs saw of kernel functions with what plain kprobes saw.

The programs are those of tests/data/witness.bpf.c. Each adds up arguments and return values
by function. What a slot must hold follows only from BTF and the calling convention, not
from pybpf's models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import pybpf
from pybpf.btf import BtfKind, types
from pybpf.features import Feature
from pybpf.kernel.host import Facts
from pybpf.multi.resolve import Resolver
from pybpf.multi.target import Target

__all__ = ["PROGRAMS", "SESSION", "Function", "Program", "Witness"]

DATA = Path(__file__).resolve().parents[1] / "data"
_REGISTERS = 6
_WORD = 8


@dataclass(frozen=True)
class Program:
    """Say what one program of witness.bpf.c reads.

    :param args: argument slots it reads
    :param widths: bytes that it reads of each of them
    :param helpers: it reads through helpers, so bpf_get_func_arg_cnt is also there
    """

    name: str
    seen: str
    args: int = 0
    widths: tuple[int, ...] = (8,) * 12
    ret: bool = False
    helpers: bool = False
    last: bool = False


PROGRAMS = {
    p.name: p
    for p in (
        Program("entry_slots", "entry_slots_seen", 6),
        Program("entry_helpers", "entry_helpers_seen", 12, helpers=True),
        Program("entry_narrow", "entry_narrow_seen", 4, (4, 8, 2, 1)),
        Program("entry_last", "entry_last_seen", last=True),
        Program("exit_slots", "exit_slots_seen", 6, ret=True),
        Program("exit_helpers", "exit_helpers_seen", 12, ret=True, helpers=True),
        Program("exit_ret", "exit_ret_seen", ret=True),
        Program("std_entry", "std_entry_seen", 12, helpers=True),
        Program("std_exit", "std_exit_seen", 12, ret=True, helpers=True),
    )
}
#: Programs of a session: its two sides have a map each.
SESSION = (
    Program("session", "session_entry_seen", 2),
    Program("session", "session_exit_seen", ret=True),
)


@dataclass(frozen=True)
class Function:
    """Describe a function and where the calling convention puts its slots.

    :param number: its cookie
    :param places: for each slot: (register number, or 6 + place on the stack; bytes that count)
    :param ret: bytes of the return value that count, 0 for void
    :param struct: a parameter is a struct passed by value
    :param pointees: kinds of the types that its parameters point to
    """

    number: int
    target: Target
    places: tuple[tuple[int, int], ...]
    ret: int
    struct: bool
    pointees: frozenset[BtfKind]

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def slots(self) -> int:
        return len(self.places)


def _mask(size: int) -> int:
    return (1 << 8 * size) - 1


class Sums(NamedTuple):
    """``struct sums`` of witness.bpf.c."""

    calls: int
    args: tuple[int, ...]
    last: tuple[int, ...]
    ret: int
    nargs: int
    ip: int


_SUMS = Struct("=18Q")


class Seen:
    """Read one map of sums, as memory."""

    def __init__(self, some: Any) -> None:
        assert some.value_size == _SUMS.size
        self._memory = some.memory()

    def raw(self, number: int) -> bytes:
        return bytes(self._memory[number * _SUMS.size : (number + 1) * _SUMS.size])

    def zero(self, number: int) -> None:
        self._memory[number * _SUMS.size : (number + 1) * _SUMS.size] = bytes(_SUMS.size)

    def release(self) -> None:
        self._memory.release()

    def __getitem__(self, number: int) -> Sums:
        calls, *rest = _SUMS.unpack(self.raw(number))
        return Sums(calls, tuple(rest[:12]), tuple(rest[12:14]), *rest[14:])


class Witness:
    """Hold the opened object, the functions, and kprobes that see the truth.

    :param shared: only functions that share their names with others; without it, only the others
    """

    def __init__(
        self, names: Iterable[str], facts: Facts | None = None, *, shared: bool = False
    ) -> None:
        self.stack = ExitStack()
        self.obj = self.stack.enter_context(pybpf.open(DATA / "witness.bpf.o", facts=facts))
        self.obj.globals.my_tgid = os.getpid()
        facts = self.obj.facts
        self.batch = facts.supports(Feature.KPROBE_MULTI)
        if self.batch:
            for name in ("kprobes_entry", "kprobes_exit"):
                self.obj.programs[name].autoload = True
        self.obj.load()
        # Mapped now, so that reading them later opens nothing and makes no system calls.
        self.obj.globals.watching = 0
        self.seen = {
            name: Seen(some) for name, some in self.obj.maps.items() if name.endswith("_seen")
        }
        targets, _ = Resolver(facts).resolve(list(names), at_exit=True)
        self.functions = [
            self._function(number, target)
            for number, target in enumerate(
                t
                for t in targets
                if t.model and not t.model.obstacle and t.unique is not shared and t.kprobe
            )
        ]
        self.number = {f.target.address: f.number for f in self.functions}

    def close(self) -> None:
        for seen in self.seen.values():
            seen.release()
        self.stack.close()

    def cookie(self, target: Target) -> int:
        return self.number[target.address]

    def _function(self, number: int, target: Target) -> Function:
        btf = self.obj.facts.btf.get(target.module)
        assert btf is not None
        func_id = target.btf_id or btf.find(target.name, BtfKind.FUNC)
        assert func_id is not None
        func = btf.type(func_id)
        assert isinstance(func, types.Func)
        proto = btf.type(func.type)
        assert isinstance(proto, types.FuncProto)
        registers = stacked = 0
        places: list[tuple[int, int]] = []
        struct = False
        pointees = set()
        for param in proto.params:
            kind = btf.kind(btf.skip_mods_and_typedefs(param.type))
            size = btf.sizeof(param.type) if kind != BtfKind.PTR else _WORD
            if kind == BtfKind.PTR:
                pointer = btf.type(btf.skip_mods_and_typedefs(param.type))
                assert isinstance(pointer, types.Ptr)
                to = btf.skip_mods_and_typedefs(pointer.type)
                pointees.add(BtfKind(btf.kind(to)))
            struct |= kind in (BtfKind.STRUCT, BtfKind.UNION)
            words = (size + _WORD - 1) // _WORD
            in_registers = registers + words <= _REGISTERS
            for word in range(words):
                if in_registers:
                    place, registers = registers, registers + 1
                else:
                    place, stacked = _REGISTERS + stacked, stacked + 1
                places.append((place, min(_WORD, size - word * _WORD)))
        ret = 0
        if btf.skip_mods_and_typedefs(proto.type):
            kind = btf.kind(btf.skip_mods_and_typedefs(proto.type))
            ret = _WORD if kind == BtfKind.PTR else btf.sizeof(proto.type)
        return Function(number, target, tuple(places), ret, struct, frozenset(pointees))

    # -- the witnesses

    def watch_by_kprobes(self, functions: Sequence[Function]) -> ExitStack:
        """Attach the reference probes. The caller closes what is returned."""
        programs = self.obj.programs
        by_address = sorted(functions, key=lambda f: f.target.address)
        with ExitStack() as made:
            if self.batch:
                for name, at_return in (("kprobes_exit", True), ("kprobes_entry", False)):
                    made.enter_context(
                        programs[name].attach_kprobe_multi(
                            addrs=[f.target.address for f in by_address],
                            cookies=[f.number for f in by_address],
                            retprobe=at_return,
                        )
                    )
            else:
                for name, at_return in (("kprobe_exit", True), ("kprobe_entry", False)):
                    for function in functions:
                        made.enter_context(
                            programs[name].attach_kprobe(
                                function.name, retprobe=at_return, cookie=function.number
                            )
                        )
            return made.pop_all()

    def run(self, run: Callable[[], None], functions: Iterable[Function]) -> None:
        """Call `run` while the programs watch. What they saw of `functions` before is forgotten."""
        for some in self.seen.values():
            for f in functions:
                some.zero(f.number)
        self.obj.globals.watching = 1
        try:
            run()
        finally:
            self.obj.globals.watching = 0

    # -- comparing

    def problems(self, program: Program, functions: Iterable[Function]) -> list[str]:
        """Yield where a program saw something other than the kprobes. Empty: all is well."""
        out = []
        own_seen = self.seen[program.seen]
        entries, exits = self.seen["kprobe_entry_seen"], self.seen["kprobe_exit_seen"]
        for function in functions:
            number = function.number
            own, entry, exit_ = own_seen[number], entries[number], exits[number]
            for what, got, wanted in self._compared(program, function, own, entry, exit_):
                if got != wanted:
                    out.append(
                        f"{program.seen} of {function.name}: {what} {got:#x}, not {wanted:#x}"
                    )
        return out

    @staticmethod
    def _compared(
        program: Program, function: Function, own: Sums, entry: Sums, exit_: Sums
    ) -> Iterable[tuple[str, int, int]]:
        yield "calls", own.calls, entry.calls
        yield "returns", entry.calls, exit_.calls
        if own.calls:
            yield "ip", own.ip, function.target.address
        for slot in range(program.args):
            place, size = function.places[slot] if slot < function.slots else (0, 8)
            mask = _mask(min(size, program.widths[slot]))
            true = entry.args[place] if slot < function.slots else 0
            yield f"argument {slot}", own.args[slot] & mask, true & mask
        if program.last:
            for slot in range(2):
                true = 0
                mask = _mask(8)
                if slot < function.slots:
                    place, size = function.places[slot]
                    assert place == slot
                    true, mask = entry.last[slot], _mask(size)
                yield f"last argument {slot}", own.last[slot] & mask, true & mask
        # A helper returns what the register holds, even for a void function.
        if program.ret and (function.ret or not program.helpers):
            mask = _mask(function.ret) if function.ret else _mask(8)
            true = exit_.ret if function.ret else 0
            yield "return value", own.ret & mask, true & mask
        if program.helpers and own.calls:
            yield "argument count", own.nargs, function.slots

    def called(self, functions: Iterable[Function]) -> list[Function]:
        """Return the functions that the kprobes saw a call of in the last `run`."""
        seen = self.seen["kprobe_entry_seen"]
        return [f for f in functions if seen[f.number].calls]
