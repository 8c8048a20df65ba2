"""The infos of links on traced functions (BPF_OBJ_GET_INFO_BY_FD)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from pybpf._sys import bpf, perf
from pybpf._sys import link as sys_link
from pybpf._sys import prog as sys_prog
from pybpf._sys.fd import Fd
from pybpf._uapi.enums import AttachType, LinkType, ProgType
from pybpf._uapi.enums import PerfEventType as P
from pybpf.btf import Btf, BtfKind
from pybpf.errors import BpfError, VerifierError

A = AttachType
RETURN_0 = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def _ids(*names: str) -> list[int]:
    btf = Btf(Path("/sys/kernel/btf/vmlinux").read_bytes(), name="vmlinux")
    found = [btf.find(name, BtfKind.FUNC) for name in names]
    return [number for number in found if number is not None]


def _addresses(*names: str) -> list[int]:
    found = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, name = line.split()[:3]
        if name in names:
            found[name] = int(address, 16)
    return [found[name] for name in names]


def _tracing(attach_type: int, function_id: int = 0) -> Fd:
    return sys_prog.prog_load(
        ProgType.BPF_PROG_TYPE_TRACING,
        RETURN_0,
        name="traced",
        expected_attach_type=attach_type,
        attach_btf_id=function_id,
    )


@pytest.mark.needs("fentry", "fexit")
@pytest.mark.parametrize("attach_type", [A.BPF_TRACE_FENTRY, A.BPF_TRACE_FEXIT])
def test_tracing_link(attach_type: int) -> None:
    """The link names the function's BTF id in vmlinux, the program and, on 7.x, the cookie."""
    (function,) = _ids("bpf_fentry_test1")
    with (
        _tracing(attach_type, function) as program,
        sys_link.link_create_tracing(program, attach_type, cookie=0xABCD) as link,
    ):
        got = bpf.link_info(link)
        facts = bpf.prog_info(program)
    assert (got.type, got.attach_type) == (LinkType.BPF_LINK_TYPE_TRACING, attach_type)
    assert (got.target_obj_id, got.target_btf_id, got.prog_id) == (1, function, facts.id)
    assert (facts.attach_btf_obj_id, facts.attach_btf_id) == (1, function)
    assert got.cookie in (0, 0xABCD)


@pytest.mark.needs("fentry")
def test_a_function_that_does_not_exist() -> None:
    """An id that is not a function gives a VerifierError with the kernel's sentence."""
    with pytest.raises(VerifierError, match="not a function"):
        _tracing(A.BPF_TRACE_FENTRY, 1)


@pytest.mark.rows("latest")
@pytest.mark.needs("tracing_multi")
@pytest.mark.parametrize(
    "attach_type",
    [A.BPF_TRACE_FENTRY_MULTI, A.BPF_TRACE_FEXIT_MULTI, A.BPF_TRACE_FSESSION_MULTI],
)
def test_tracing_multi_link(attach_type: int) -> None:
    """Ids come back ascending, with each one's cookie and address beside it."""
    names = ("bpf_fentry_test3", "bpf_fentry_test1", "bpf_fentry_test2")
    ids, addresses = _ids(*names), _addresses(*names)
    cookies = [33, 11, 22]
    with (
        _tracing(attach_type) as program,
        sys_link.link_create_tracing_multi(program, attach_type, ids, cookies) as link,
    ):
        got = bpf.link_info(link)
    assert (got.type, got.attach_type) == (LinkType.BPF_LINK_TYPE_TRACING_MULTI, attach_type)
    assert (got.count, got.btf_obj_id) == (3, 1)
    expected = sorted(zip(ids, cookies, addresses, strict=True))
    assert list(zip(got.ids, got.cookies, strict=True)) == [(i, c) for i, c, _ in expected]
    # The place ftrace patches: after endbr64, where the function has one.
    for seen, (_, _, start) in zip(got.addrs, expected, strict=True):
        assert seen - start in (0, 4)


@pytest.mark.rows("latest")
@pytest.mark.needs("tracing_multi")
def test_tracing_multi_of_an_id_twice() -> None:
    """The kernel refuses the whole link, and the error says how many functions it was for."""
    (function,) = _ids("bpf_fentry_test1")
    with (
        _tracing(A.BPF_TRACE_FENTRY_MULTI) as program,
        pytest.raises(BpfError, match=r"BPF_TRACE_FENTRY_MULTI, 2 functions\): EINVAL"),
    ):
        sys_link.link_create_tracing_multi(program, A.BPF_TRACE_FENTRY_MULTI, [function, function])


@pytest.mark.needs("kprobe")
@pytest.mark.parametrize("by_name", [True, False])
def test_kprobe_link(by_name: bool) -> None:
    """A kprobe by name with offset or by address; 6.6 and newer name the place."""
    (start,) = _addresses("vfs_statx")
    with (
        perf.open_kprobe("vfs_statx" if by_name else None, 0 if by_name else start) as event,
        sys_prog.prog_load(ProgType.BPF_PROG_TYPE_KPROBE, RETURN_0, name="kp") as program,
        sys_link.link_create_perf_event(program, event, 77) as link,
    ):
        got = bpf.link_info(link)
    assert got.type == LinkType.BPF_LINK_TYPE_PERF_EVENT
    if got.perf_type:
        assert got.perf_type == P.BPF_PERF_EVENT_KPROBE
        assert got.addr in (start, start + 4) or not by_name
        assert got.name == ("vfs_statx" if by_name else "") or got.addr == start


@pytest.mark.needs("kprobe.multi")
def test_kprobe_multi_link() -> None:
    """6.6 and newer list the addresses; later ones the cookies too, each beside its function."""
    names: Sequence[str] = ("vfs_write", "vfs_read")
    with (
        sys_prog.prog_load(
            ProgType.BPF_PROG_TYPE_KPROBE,
            RETURN_0,
            name="km",
            expected_attach_type=A.BPF_TRACE_KPROBE_MULTI,
        ) as program,
        sys_link.link_create_kprobe_multi(program, syms=names, cookies=[1, 2]) as link,
    ):
        got = bpf.link_info(link)
    expected = dict(zip(_addresses(*names), (1, 2), strict=True))
    assert got.count == 2
    pairs = dict(zip(got.addrs, got.cookies, strict=True))
    assert {min(expected, key=lambda a, s=seen: abs(a - s)): c for seen, c in pairs.items()} == (
        expected
    )


@pytest.mark.needs("fentry")
def test_a_bad_target_of_a_link_says_enotsupp() -> None:
    """524 is in no errno table; the message still has its name."""
    assert "ENOTSUPP" in str(BpfError(524, "BPF_LINK_CREATE"))
    (function,) = _ids("bpf_fentry_test1")
    with _tracing(A.BPF_TRACE_FENTRY, function) as program, pytest.raises(BpfError) as caught:
        sys_link.link_create_tracing(program, A.BPF_TRACE_FEXIT)
    assert caught.value.errno == errno.EINVAL
