"""The kernel's memory has the call sites that ftrace's list has, on every row."""

from __future__ import annotations

import os
import subprocess

import pytest

from pybpf.kernel.callsites import find_sites
from pybpf.kernel.ftrace import FtraceFunctions, open_lists, tracefs
from pybpf.kernel.host import Facts

pytestmark = pytest.mark.first_on("6.1", "6.12", "latest")


@pytest.mark.parametrize("module", ["", "dummy"])
def test_memory_and_list_are_the_same(module: str) -> None:
    """Names, order and addresses of all of them, of some and of one; also of a module's."""
    if module:
        subprocess.run(["modprobe", module, "numdummies=0"], check=True, capture_output=True)
    try:
        facts = Facts()
        read = find_sites(facts)
        assert read is not None
        sites = read()
        assert sites is not None and read() == sites
        lists = open_lists()
        listed = FtraceFunctions.of(lists.best)
        # 6.1 does not tell addresses.
        assert (lists.plain is lists.best) == (
            not os.path.exists(f"{tracefs()}/available_filter_functions_addrs")
        )

        for prefixes in (["vfs_"], ["s"], ["tcp_", "udp_"], ["dummy_"], ["no_such_"]):
            some = facts.ftrace.starting(prefixes)
            every = [x for x in listed.lines if x.startswith(tuple(prefixes))]
            assert list(some.lines) == every
            assert all(some.is_site_of(i, at) for i, at in enumerate(some.sites or ()))
        assert facts.ftrace.lines == listed.lines
        assert facts.ftrace.sites is not None and set(facts.ftrace.sites) <= set(sites)
        if listed.sites is not None:
            assert list(facts.ftrace.sites) == list(listed.sites)
        names = ["vfs_read", "name_show", "dummy_xmit", "no_such", "do_exit"]
        fresh = Facts().ftrace.named(names)
        assert [(p.name, p.module) for p in fresh] == [
            (p.name, p.module) for p in listed.named(names)
        ]
        assert {p.module for p in fresh} >= {module}
    finally:
        if module:
            subprocess.run(["modprobe", "-r", module], check=True, capture_output=True)
