"""The committed BPF objects match their sources, and the tool that says so can tell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.dev import build_bpf

ROOT = Path(__file__).resolve().parents[2]

needs_clang = pytest.mark.skipif(build_bpf.find_clang() is None, reason="clang-19 is not installed")


@needs_clang
@pytest.mark.parametrize("source", build_bpf.sources(), ids=str)
def test_committed_object_matches_its_source(source: Path) -> None:
    """clang-19 makes the committed instructions, data, relocations and maps of the source."""
    assert build_bpf.check(source) == []


def test_no_machine_paths_in_objects() -> None:
    """Objects hold no absolute path of the machine they were built on."""
    for source in build_bpf.sources():
        data = (ROOT / source).with_suffix(".o").read_bytes()
        assert str(ROOT).encode() not in data, source


@needs_clang
def test_differences_are_found(tmp_path: Path) -> None:
    """A changed constant, a changed global and a changed map are each reported."""
    base = """
#include "pybpf.h"
char LICENSE[] SEC("license") = "GPL";
int value = 5;
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4);
             __type(key, __u32); __type(value, __u64); } m SEC(".maps");
SEC("socket") int f(void *ctx) { __u32 k = 1; return bpf_map_lookup_elem(&m, &k) ? value : 7; }
"""
    objects = {}
    for name, old, new in (
        ("base", "", ""),
        ("insn", ": 7", ": 8"),
        ("data", "value = 5", "value = 6"),
        ("map", "max_entries, 4", "max_entries, 5"),
    ):
        source = tmp_path / f"{name}.bpf.c"
        source.write_text(base.replace(old, new) if old else base)
        target = source.with_suffix(".o")
        build_bpf.compile_object(source, target)
        objects[name] = target.read_bytes()

    def compare(name: str) -> list[str]:
        old, new = build_bpf.contents(objects["base"]), build_bpf.contents(objects[name])
        return list(build_bpf.differences(old, new))

    assert compare("base") == []
    assert ["instructions of 'socket'" in line for line in compare("insn")] == [True]
    assert "0x7" in compare("insn")[0] and "0x8" in compare("insn")[0]
    assert ["data of '.data'" in line for line in compare("data")] == [True]
    assert compare("map") == []
    maps = {name: build_bpf.map_definitions(objects[name]) for name in objects}
    assert maps["base"] == maps["insn"] != maps["map"]


def test_header_macros(tmp_path: Path) -> None:
    """Macros of pybpf.h: typed arguments up to 12, CO-RE chains, all compile without warnings."""
    if build_bpf.find_clang() is None:
        pytest.skip("clang-19 is not installed")
    arguments = ", ".join(f"__u64 a{i}" for i in range(12))
    source = tmp_path / "macros.bpf.c"
    source.write_text(f"""
#include "kernel.h"
char LICENSE[] SEC("license") = "GPL";
extern int CONFIG_HZ __kconfig __weak;
enum e {{ E_ONE = 1 }};
SEC("fentry/f") int BPF_PROG(none) {{ return ctx != NULL; }}
SEC("fexit/f") int BPF_PROG(many, {arguments}) {{ return a0 + a11; }}
SEC("kprobe/f") int BPF_KPROBE(six, void *a, int b, long c, char d, short e, __u64 f)
{{ return b + c + d + e + f + (a == NULL); }}
SEC("kretprobe/f") int BPF_KRETPROBE(ret, int rc) {{ return rc; }}
SEC("raw_tp/f") int BPF_PROG(core, const struct task_struct *task)
{{
	char comm[16];
	BPF_CORE_READ_INTO(&comm, task, real_parent, group_leader, comm);
	bpf_printk("%s", comm);
	if (!bpf_core_field_exists(task->pid) || !bpf_core_field_exists(struct task_struct, tgid))
		return bpf_core_enum_value(enum e, E_ONE) + bpf_core_type_size(struct task_struct);
	return BPF_CORE_READ(task, real_parent, group_leader, tgid) + CONFIG_HZ;
}}
""")
    target = source.with_suffix(".o")
    build_bpf.compile_object(source, target)
    code = build_bpf.contents(target.read_bytes()).code
    assert set(code) == {"fentry/f", "fexit/f", "kprobe/f", "kretprobe/f", "raw_tp/f"}
    # The twelfth slot of the context is read where it lies: at byte 88.
    assert any(insn.src == 1 and insn.off == 88 for insn in code["fexit/f"])


def test_usage_error() -> None:
    """An unknown option is a usage error, status 2."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/dev/build_bpf.py"), "--nope"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
