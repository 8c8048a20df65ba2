"""Names of the kernel looked up in saved facts."""

from __future__ import annotations

import errno

import pytest

from pybpf.errors import BpfError, PlanError
from pybpf.kernel.host import Facts
from pybpf.kernel.lookup import BtfTarget, btf_target, kprobe_places
from pybpf.multi.select import select
from tests.support.savedfacts import saved_facts


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.from_json(saved_facts())


@pytest.mark.parametrize(
    "glob", ["vfs_*", "vfs_rea?", "vfs_read", "vmlinux:vfs_*", "vfs_* [vmlinux]"]
)
def test_kprobe_multi_sections_match_what_multi_programs_match(facts: Facts, glob: str) -> None:
    """A section's glob goes through the one matcher: modules may be named in it too."""
    found = kprobe_places(facts, glob).addresses
    wanted = select(facts, [glob])
    assert found and list(found) == sorted(found)
    assert {c.address for c in wanted.candidates} <= set(found)
    denied = {s.name for s in wanted.skipped}
    assert len(found) <= len(wanted.candidates) + len(denied)


def test_kprobe_places_of_nothing(facts: Facts) -> None:
    """No matching function, or none in that module, is ENOENT. A bad glob is reported as such."""
    for glob in ("no_such_function_*", "no_such_module:vfs_*"):
        with pytest.raises(BpfError, match="no traceable kernel function matches") as caught:
            kprobe_places(facts, glob)
        assert caught.value.errno == errno.ENOENT
    with pytest.raises(PlanError, match="not a function glob"):
        kprobe_places(facts, "vfs_*[")


@pytest.mark.parametrize(
    ("glob", "hint"),
    [
        ("vfs_reed", "near: vfs_read"),
        ("nosuch:vfs_read", "module 'nosuch' is not loaded; try: modprobe nosuch"),
        ("no_such_function_*", ""),
    ],
)
def test_what_helps_if_kprobe_places_finds_nothing(facts: Facts, glob: str, hint: str) -> None:
    """Near names for a wrong name, the command for a module that is not there."""
    with pytest.raises(BpfError) as caught:
        kprobe_places(facts, glob)
    assert hint in caught.value.hint if hint else not caught.value.hint


def test_btf_targets(facts: Facts) -> None:
    """A function's or tracepoint's id in BTF; an unknown name suggests near ones."""
    btf = facts.btf.vmlinux()
    for module in (None, "vmlinux"):
        assert btf_target(facts.btf, "vfs_read", module, "kernel function") == BtfTarget(
            btf.find("vfs_read") or 0
        )
    with pytest.raises(BpfError, match=r"kernel function 'vfs_raed'.*near: .*vfs_read") as caught:
        btf_target(facts.btf, "vfs_raed", None, "kernel function")
    assert caught.value.errno == errno.ESRCH
