"""Numbers and names that the kernel would take for others are refused before a system call."""

from __future__ import annotations

import pytest

from pybpf._sys.door import c_string
from pybpf._sys.link import link_create_kprobe_multi
from pybpf._uapi import structs as s
from pybpf._uapi.perf import PerfEventAttr
from pybpf.errors import BpfError


def test_numbers_that_do_not_fit() -> None:
    """ctypes would keep their low bits: a cookie of 2**64 became 0."""
    attr = s.LinkCreatePerfEvent(prog_fd=3)
    attr.perf_event.bpf_cookie = (1 << 64) - 1
    for cookie in (1 << 64, -1):
        with pytest.raises(BpfError, match=f"cookie {cookie}: ERANGE"):
            attr.perf_event.bpf_cookie = cookie
    with pytest.raises(BpfError, match="max_entries 4294967300: ERANGE"):
        s.MapCreate(max_entries=(1 << 32) + 4)
    with pytest.raises(BpfError, match="freq 2: ERANGE"):
        PerfEventAttr(freq=2)
    assert s.MapCreate(max_entries=(1 << 32) - 1).max_entries == (1 << 32) - 1


def test_cookies_of_many() -> None:
    """The one that does not fit is named."""
    with pytest.raises(BpfError, match=f"{1 << 64} for 64 bits: ERANGE"):
        link_create_kprobe_multi(3, syms=["a", "b"], cookies=[1, 1 << 64])


def test_names_that_end_early() -> None:
    """The kernel would read `sys_enter` alone."""
    assert c_string("sys_enter") == b"sys_enter\0"
    with pytest.raises(BpfError, match=r"'sys_enter\\x00x': EINVAL.*ends at a NUL byte"):
        c_string("sys_enter\0x")
