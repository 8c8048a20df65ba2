"""A traced call, and what programs see of it in the interpreter: contexts and helpers."""

from __future__ import annotations

from dataclasses import dataclass

from pybpf.multi.traits import CtxHelper
from tests.support.bpfvm import M32, M64, Helper, Vm

__all__ = ["COOKIE", "IP", "X86_ARGS", "Call", "helpers", "promised", "registers", "words"]

EINVAL = -22 & M64
# rdi rsi rdx rcx r8 r9 in struct pt_regs, offsets in bytes, as the kernel's BTF has them
X86_ARGS = (112, 104, 96, 88, 72, 64)
IP, COOKIE = 0xFFFF_FFFF_8123_4560, 0x1234_5678_9ABC


@dataclass(frozen=True)
class Call:
    """One traced call: what the function got and gave."""

    args: tuple[int, ...]
    ret: int | None  # None: a void function

    @property
    def slots(self) -> int:
        return len(self.args)


def helpers(call: Call, is_ctx: int, args_by_helper: bool = True) -> dict[int, Helper]:
    """The context helpers as a 7.x kernel has them; a wrong context is a fault."""

    def check(ctx: int) -> None:
        assert ctx == is_ctx, f"helper got {ctx:#x}, the context is {is_ctx:#x}"

    def get_arg(vm: Vm, ctx: int, n: int, out: int, *_: int) -> int:
        check(ctx)
        n &= M32  # u32: clang leaves whatever is above it
        if n >= call.slots:
            return EINVAL
        vm.write(out, 8, call.args[n])
        return 0

    def get_ret(vm: Vm, ctx: int, out: int, *_: int) -> int:
        check(ctx)
        vm.write(out, 8, call.ret if call.ret is not None else 0xBAD)
        return 0

    def arg_cnt(vm: Vm, ctx: int, *_: int) -> int:
        check(ctx)
        return call.slots

    def ip(vm: Vm, ctx: int, *_: int) -> int:
        check(ctx)
        return IP

    def cookie(vm: Vm, ctx: int, *_: int) -> int:
        check(ctx)
        return COOKIE

    table: dict[int, Helper] = {
        CtxHelper.get_func_ip: ip,
        CtxHelper.get_attach_cookie: cookie,
        5: lambda vm, *_: 77,  # ktime_get_ns: clobbers r1-r5 like any helper
    }
    if args_by_helper:
        table |= {
            CtxHelper.get_func_arg: get_arg,
            CtxHelper.get_func_ret: get_ret,
            CtxHelper.get_func_arg_cnt: arg_cnt,
        }
    return table


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def promised(call: Call) -> bytes:
    """The context that a multi program sees."""
    return words(*call.args[:6], *[0] * (6 - min(6, call.slots)), call.ret or 0)


def registers(call: Call) -> bytes:
    """``struct pt_regs``, with garbage in all other registers."""
    data = bytearray(b"\xa5" * 168)
    for off, value in zip(X86_ARGS, call.args, strict=False):
        data[off : off + 8] = words(value)
    data[80:88] = words(0x5A5A if call.ret is None else call.ret)
    return bytes(data)
