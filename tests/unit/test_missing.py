"""What a program asks of a kernel in vain is named: before loading, and in the verifier's error."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pybpf.btf import Btf
from pybpf.btf.absent import near
from pybpf.errors import RelocationError
from pybpf.obj.linker import Linker, LinkTarget
from pybpf.obj.missing import explain, missing
from pybpf.obj.reader import read_object
from pybpf.obj.spec import ObjectSpec

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
BTF = DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz"

WANTED = {
    "wants_field": (
        "struct task_struct.pidx",
        "this kernel's struct task_struct has no pidx",
        "pid",
    ),
    "wants_type": (
        "struct task_structe.pid",
        "this kernel has no struct task_structe",
        "task_struct",
    ),
    "wants_enumerator": (
        "enum bpf_cmd::BPF_MAP_CREATES",
        "this kernel's enum bpf_cmd has no BPF_MAP_CREATES",
        "BPF_MAP_CREATE",
    ),
}


@cache
def spec() -> ObjectSpec:
    return read_object((DATA / "obj_missing.bpf.o").read_bytes())


@cache
def linker() -> Linker:
    btf = Btf(gzip.decompress(BTF.read_bytes()), name="vmlinux")
    return Linker(spec(), LinkTarget(btf, ksym_addr=lambda name: 0))


@pytest.mark.parametrize("name", WANTED)
def test_what_is_missing_and_what_there_is(name: str) -> None:
    """The access as C has it, what the kernel has instead, near names, the source line."""
    what, instead, close = WANTED[name]
    (found,) = missing(linker().link(name), spec())
    assert found.what == what
    assert found.instead.startswith(instead) and close in found.instead.split("near: ")[1]
    assert re.fullmatch(r"obj_missing\.bpf\.c:\d+: .+", found.source)
    log = f"; source @ x.c:1\n{found.insn}: (85) call unknown#195896080\ninvalid func unknown\n"
    assert explain(linker().link(name), spec(), log) == found


def test_a_weak_kfunc() -> None:
    (found,) = missing(linker().link("wants_kfunc"), spec())
    assert found.what == "kfunc 'bpf_task_acquirer'"
    assert "bpf_task_acquirer(ctx);" in str(found)


def test_a_strong_kfunc() -> None:
    """The error has the source line and near names."""
    with pytest.raises(
        RelocationError,
        match=r"kfunc 'bpf_task_releaser' does not exist.*near: bpf_task_release.*"
        r"\(at obj_missing.bpf.c:\d+: bpf_task_releaser\(ctx\);\)",
    ):
        linker().link("wants_strong_kfunc")


def test_other_refusals_are_not_explained_by_it() -> None:
    """A program that asks first lacks things too, and is refused for another reason."""
    program = linker().link("asks_first")
    assert {one.what for one in missing(program, spec())} == {
        "struct task_struct.pidx",
        "kfunc 'bpf_task_acquirer'",
    }
    assert explain(program, spec(), "5: (79) r0 = *(u64 *)(r0 +0)\nR0 invalid\n") is None
    assert explain(program, spec(), "5: (85) call unknown#77\n") is None
    assert explain(program, spec(), "0: (85) call unknown#195896080\n") is None


@pytest.mark.parametrize("command", ["inspect", "relocate"])
def test_shown_before_loading(command: str) -> None:
    more = ["--btf", str(BTF)] if command == "relocate" else []
    if command == "inspect" and not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.skip("the running kernel has no BTF")
    done = subprocess.run(
        [sys.executable, "tools/bpfobj.py", command, str(DATA / "obj_missing.bpf.o"), *more],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for what, instead, _ in WANTED.values():
        assert f"{what}: {instead}" in done.stdout
    assert "kfunc 'bpf_task_releaser' does not exist in the kernel" in done.stdout


def test_near_names() -> None:
    """Names that hold it come first, then those that are spelt alike."""
    names = ["i_ctime_nsec", "i_atime_sec", "__i_atime"]
    assert near("i_atime", names)[:2] == ["__i_atime", "i_atime_sec"]
    assert near("zebra", ["inode"]) == []
