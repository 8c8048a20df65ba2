"""The image writer of the tests writes what the kernels wrote: it may judge the decoder."""

from __future__ import annotations

import pytest

from pybpf.trampoline.decode import decode
from tests.support.trampdata import Captured, captured
from tests.support.trampwriter import Prog, Shape, write

# The writer makes no session cookies.
CASES = [case for case in captured() if "cookies" not in case.kind]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_writes_the_captured_bytes(case: Captured) -> None:
    """Same parameters, same bytes, for each of 35 images of three kernels."""
    seen = decode(case.data, case.address)
    enter, leave = case.symbol("__bpf_prog_enter"), case.symbol("__bpf_prog_exit")
    progs = tuple(Prog(call.prog, call.address, enter=enter, exit=leave) for call in seen.programs)
    kind = case.kind.removesuffix("-ip")
    # The image pointer is the one constant no symbol or decoded field gives.
    has_image = kind != "fentry" and b"\x48\xbf" in case.data
    at = case.data.find(b"\x48\xbf") + 2
    original = seen.original or 0
    shape = Shape(
        kernel=case.kernel,
        address=case.address,
        function=seen.ip if seen.ip is not None else original - (5 if case.kernel == "6.1" else 9),
        registers=min(seen.slots, 6),
        on_stack=max(seen.slots - 6, 0),
        entry=progs[:1] if kind in ("fentry", "fentry_and_fexit") else (),
        fmod=progs if kind == "fmod_ret" else (),
        exit=progs[-1:] if kind in ("fexit", "fentry_and_fexit") else (),
        session=progs[:1] if kind == "fsession" else (),
        ip=case.kind.endswith("-ip"),
        body=5 if case.kernel == "6.1" else 9,
        image=int.from_bytes(case.data[at : at + 8], "little") if has_image else 0,
        tramp_enter=case.symbol("__bpf_tramp_enter") if has_image else 0,
        tramp_exit=case.symbol("__bpf_tramp_exit") if has_image else 0,
        half_arg=b"\xc7\x45" in case.data,
    )
    assert write(shape).hex() == case.data.hex()
