"""The BPF half of retsnoop in the interpreter: calls and returns in any order, without a kernel.

`SnoopVm` runs the committed object's own instructions. The test says which function is entered or
left, by which task and when, and gets the records that the ring buffer would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pybpf
from pybpf._uapi.helpers import Helper as H
from pybpf.asm import opcodes as op
from pybpf.asm.insn import Insn
from pybpf.kernel.host import Facts
from pybpf.tools.retsnoop.events import Event, decode
from pybpf.tools.retsnoop.functions import Function
from tests.support.bpfvm import M32, M64, Vm, VmFault
from tests.support.savedfacts import saved_facts

__all__ = ["SnoopVm"]

OBJECT = Path(pybpf.__file__).parent / "tools" / "retsnoop" / "retsnoop.bpf.o"
FETCH, CMPXCHG = 1, 0xF1
FAULT = -14 & M64
MOST = 64  # elements of a map that are there


@cache
def _facts() -> Facts:
    return Facts.from_json(saved_facts())


class _Machine(Vm):
    # Knows the atomics of the tracer.
    def _step(self, slot: int, insn: Insn, regs: list[int]) -> int:
        if insn.cls == op.STX and insn.code & op.MODE_MASK == op.ATOMIC:
            size = op.SIZE_BYTES[insn.code & op.SIZE_MASK]
            where = regs[insn.dst] + insn.off
            old = self.read(where, size)
            if insn.imm == CMPXCHG:
                same = old == regs[0] & ((1 << 8 * size) - 1)
                self.write(where, size, regs[insn.src] if same else old)
                regs[0] = old
                return slot + 1
            if insn.imm & ~FETCH != op.ADD:
                raise VmFault(f"atomic {insn.imm:#x} is not modelled")
            self.write(where, size, old + regs[insn.src])
            if insn.imm & FETCH:
                regs[insn.src] = old
            return slot + 1
        return super()._step(slot, insn, regs)


class SnoopVm:
    """Hold the tracer's maps and its ring buffer.

    :param constants: variables of retsnoop.bpf.c by name
    :ivar memory: made-up memory that arguments may point to: address -> bytes
    :ivar room: records that the ring buffer still takes, None for any number
    :ivar stack: kernel stack that is given, innermost first
    """

    def __init__(self, functions: Sequence[Function], **constants: object) -> None:
        self.functions = functions
        self.now = 1000
        self.task = (10, 10)
        self.args: Sequence[int] = ()
        self.result = 0
        self.is_return = False
        self.memory: dict[int, bytes] = {}
        self.room: int | None = None
        self.stack: Sequence[int] = (0xFFFFFFFF81000010, 0xFFFFFFFF82000020, 0xFFFFFFFF83000030)
        self.records: list[Event] = []
        with pybpf.open(OBJECT, facts=_facts()) as obj:
            for name, value in {"emit_stacks": False, **constants}.items():
                setattr(obj.globals, name, value)
            obj.globals.ready = 1
            template = obj.programs["calls_with_args"].template()
            contents = [obj.maps[name].initial for name in obj.spec.map_names]
            sizes = {
                name: (obj.maps[name].value_size, obj.maps[name].max_entries)
                for name in obj.spec.map_names
            }
        vm = self.vm = _Machine(template.code.insns, self._helpers(), budget=200_000)
        for number in template.session_calls:
            vm.helpers[number] = lambda vm, *_: int(self.is_return)
        self.arrays: dict[int, tuple[int, int]] = {}
        self.places: dict[str, int] = {}
        for number, name in enumerate(obj.spec.map_names):
            size, entries = sizes[name]
            initial = contents[number]
            room = bytes(initial) if initial is not None else bytes(size * min(entries, MOST))
            at = vm.maps[number] = self.places[name] = vm.map(room or bytes(8))
            self.arrays[at] = (size, entries)
        self.ctx = vm.map(bytes(64))

    # -- what a test does

    def enter(self, func: int, *args: int, task: int | None = None) -> None:
        """Call a function."""
        self._run(func, False, task, args, 0)

    def leave(self, func: int, result: int = 0, *, task: int | None = None) -> None:
        """Return from a function, with all 64 bits of rax."""
        self._run(func, True, task, (), result)

    def taken(self) -> list[Event]:
        """Return the records since the last time."""
        out, self.records = self.records, []
        return out

    def put(self, name: str, index: int, data: bytes) -> None:
        """Write an element of an array."""
        size, _ = self.arrays[self.places[name]]
        self._write(self.vm, self.places[name] + index * size, data)

    def _run(
        self, func: int, is_return: bool, task: int | None, args: Sequence[int], result: int
    ) -> None:
        self.func, self.is_return, self.args, self.result = func, is_return, args, result & M64
        if task is not None:
            self.task = (10, task)
        self.now += 1000
        self.vm.executed = 0
        self.vm.run(self.ctx)

    # -- the kernel

    def _helpers(self) -> dict[int, Callable[..., int]]:
        return {
            H.BPF_FUNC_get_attach_cookie: lambda vm, *_: self.functions[self.func].cookie,
            H.BPF_FUNC_get_current_pid_tgid: lambda vm, *_: self.task[0] << 32 | self.task[1],
            H.BPF_FUNC_ktime_get_ns: lambda vm, *_: self.now,
            H.BPF_FUNC_get_smp_processor_id: lambda vm, *_: 0,
            H.BPF_FUNC_get_current_task: lambda vm, *_: 0,
            H.BPF_FUNC_map_lookup_elem: self._lookup,
            H.BPF_FUNC_get_current_comm: self._comm,
            H.BPF_FUNC_get_func_arg: self._arg,
            H.BPF_FUNC_get_func_ret: self._ret,
            H.BPF_FUNC_loop: self._loop,
            H.BPF_FUNC_ringbuf_output: self._output,
            H.BPF_FUNC_probe_read_kernel: self._read,
            H.BPF_FUNC_probe_read_user: lambda vm, *_: FAULT,
            H.BPF_FUNC_probe_read_kernel_str: self._read_str,
            H.BPF_FUNC_probe_read_user_str: lambda vm, *_: FAULT,
            H.BPF_FUNC_get_stack: self._stack,
            H.BPF_FUNC_get_branch_snapshot: lambda vm, *_: 0,
        }

    def _lookup(self, vm: Vm, map_: int, key: int, *_: int) -> int:
        size, entries = self.arrays[map_]
        index = vm.read(key, 4)
        return map_ + index * size if index < min(entries, MOST) else 0

    def _comm(self, vm: Vm, to: int, size: int, *_: int) -> int:
        self._write(vm, to, b"cat".ljust(size, b"\0"))
        return 0

    def _arg(self, vm: Vm, ctx: int, n: int, to: int, *_: int) -> int:
        if n & M32 >= len(self.args):
            return -22
        vm.write(to, 8, self.args[n & M32])
        return 0

    def _ret(self, vm: Vm, ctx: int, to: int, *_: int) -> int:
        vm.write(to, 8, self.result)
        return 0

    def _loop(self, vm: Vm, count: int, callback: int, data: int, *_: int) -> int:
        for index in range(count):
            if vm.call(callback, [index, data, 0, 0, 0], [0] * 4):
                return index + 1
        return count

    def _output(self, vm: Vm, ring: int, data: int, size: int, *_: int) -> int:
        if self.room is not None:
            if not self.room:
                return -11
            self.room -= 1
        self.records.append(decode(vm.read(data, size).to_bytes(size, "little")))
        return 0

    def _bytes(self, vm: Vm, size: int, source: int) -> bytes | None:
        for start, data in self.memory.items():
            if start <= source < start + len(data):
                return data[source - start : source - start + size]
        try:
            return vm.read(source, size).to_bytes(size, "little")
        except VmFault:
            return None

    def _read(self, vm: Vm, to: int, size: int, source: int, *_: int) -> int:
        data = self._bytes(vm, size & M32, source)
        if data is None or len(data) < size & M32:
            return FAULT
        self._write(vm, to, data)
        return 0

    def _read_str(self, vm: Vm, to: int, size: int, source: int, *_: int) -> int:
        data = self._bytes(vm, size & M32, source)
        if data is None:
            return FAULT
        text = data.partition(b"\0")[0][: (size & M32) - 1] + b"\0"
        self._write(vm, to, text)
        return len(text)

    def _stack(self, vm: Vm, ctx: int, to: int, size: int, flags: int, *_: int) -> int:
        for at, address in enumerate(self.stack):
            vm.write(to + 8 * at, 8, address)
        return 8 * len(self.stack)

    @staticmethod
    def _write(vm: Vm, to: int, data: bytes) -> None:
        vm.write(to, len(data), int.from_bytes(data, "little"))
