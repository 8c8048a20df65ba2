"""`pybpf build`: compiles a user's program anywhere, and says what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pybpf._uapi.helper_args import HELPER_ARGS
from pybpf._uapi.helpers import Helper
from pybpf.obj.reader import read_object
from pybpf.tools import build

ROOT = Path(__file__).resolve().parents[2]
CLANG = "clang-19"
PROGRAM = """
char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

SEC("fentry/do_unlinkat")
int BPF_PROG(on_unlink, int dfd)
{
	__u32 key = dfd;
	__u64 one = VALUE;

	bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	return 0;
}
"""


def has_clang() -> bool:
    try:
        build.find_clang(CLANG)
    except build.BuildError:
        return False
    return True


needs_clang = pytest.mark.skipif(not has_clang(), reason="clang-19 is not installed")


def write(path: Path, *headers: str) -> Path:
    path.write_text("".join(f"#include {name}\n" for name in headers) + PROGRAM)
    return path


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/build.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_header_has_every_helper() -> None:
    """By its number, with as many arguments as the kernel's, so that no program declares one."""
    header = (ROOT / "pybpf/include/pybpf.h").read_text()
    declared = re.findall(r"^PYBPF_HELPER\((\d+), [^,]+, bpf_(\w+),(.*?)\);$", header, re.M | re.S)
    numbers = [int(number) for number, _, _ in declared]
    assert numbers == sorted(numbers)
    assert {name: int(number) for number, name, _ in declared} == {
        helper.name.removeprefix("BPF_FUNC_"): helper for helper in Helper if helper
    }
    for number, name, arguments in declared:
        taken = [one for one in arguments.split(",") if one.strip() not in ("void", "...")]
        assert len(taken) == HELPER_ARGS[int(number)], name


REGISTERS = """
#include "pybpf.h"
char LICENSE[] SEC("license") = "GPL";
unsigned long seen[16];
SEC("kprobe/__x64_sys_dup3")
int on_dup3(struct pt_regs *ctx)
{
	struct pt_regs *regs = PT_REGS_SYSCALL_REGS(ctx);
"""


@needs_clang
def test_every_macro_of_registers(tmp_path: Path) -> None:
    """libbpf's names for registers that are read by CO-RE, each of another register."""
    names = [f"PARM{i}_CORE{call}" for call in ("", "_SYSCALL") for i in range(1, 7)]
    names += ["RC_CORE", "SP_CORE", "IP_CORE"]
    lines = [f"\tseen[{i}] = PT_REGS_{name}(regs);\n" for i, name in enumerate(names)]
    (tmp_path / "a.bpf.c").write_text(f"{REGISTERS}{''.join(lines)}\treturn 0;\n}}\n")
    done = run("a.bpf.c", "--clang", CLANG, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    spec = read_object((tmp_path / "a.bpf.o").read_bytes())
    assert spec.btf_ext is not None
    (relos,) = spec.btf_ext.core_relos.values()
    assert len({relo.access_str for relo in relos}) == 10  # rcx and, for system calls, r10


USDT = """
#include "pybpf.h"
#include "usdt.h"
struct pair { int first; int second; };
char LICENSE[] SEC("license") = "GPL";
extern int LINUX_KERNEL_VERSION __kconfig;
long seen[3];
int first;
SEC("usdt")
int BPF_USDT(on_probe, void *where, int number, char *text)
{
	struct pair pair = { .first = number };
	int *second = &pair.second;

	seen[0] = (long)where;
	seen[1] = number;
	seen[2] = (long)text;
	first = container_of(second, struct pair, second)->first;
	return LINUX_KERNEL_VERSION >= KERNEL_VERSION(6, 1, 300);
}
"""


@needs_clang
@pytest.mark.parametrize("headers", ["", "#include <linux/bpf.h>\n", "#include <stdbool.h>\n"])
def test_beside_other_headers(tmp_path: Path, headers: str) -> None:
    """The kernel's header for user space, as small programs include it, has some of ours, too."""
    if not Path("/usr/include/linux/bpf.h").exists():
        pytest.skip("no headers of the kernel for user space")
    (tmp_path / "a.bpf.c").write_text(headers + USDT)
    folder = sysconfig.get_config_var("MULTIARCH") or ""  # of asm/types.h on Debian
    done = run("a.bpf.c", "--clang", CLANG, "-I", f"/usr/include/{folder}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    spec = read_object((tmp_path / "a.bpf.o").read_bytes())
    assert list(spec.programs) == ["on_probe"] and "__bpf_usdt_specs" in spec.maps


FOR_LIBBPF = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/usdt.bpf.h>
char LICENSE[] SEC("license") = "GPL";
struct task_struct { int pid; } __attribute__((preserve_access_index));
int seen;
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	seen = BPF_CORE_READ(task, pid) + bpf_htons(1) + __bpf_ntohs(1);
	return 0;
}
SEC("usdt")
int BPF_USDT(on_probe, int number) { seen = number; return 0; }
"""


@needs_clang
def test_sources_written_for_libbpf(tmp_path: Path) -> None:
    """They compile as they are where libbpf's headers are not installed."""
    if not Path("/usr/include/linux/bpf.h").exists():
        pytest.skip("no headers of the kernel for user space")
    system = tmp_path / "system"  # with the kernel's headers, without libbpf's
    system.mkdir()
    folder = sysconfig.get_config_var("MULTIARCH") or ""
    for name, place in (
        ("linux", "linux"),
        ("asm-generic", "asm-generic"),
        ("asm", f"{folder}/asm"),
    ):
        (system / name).symlink_to(f"/usr/include/{place}")
    (tmp_path / "a.bpf.c").write_text(FOR_LIBBPF)
    made = tmp_path / "a.bpf.o"
    flags = ("-g", "-O2", "-target", "bpf", "-D__TARGET_ARCH_x86", "-nostdlibinc")
    ours = build.HEADERS
    folders = ("-I", system, "-I", ours, "-idirafter", ours / "libbpf")
    done = subprocess.run(
        [CLANG, *flags, *folders, "-c", tmp_path / "a.bpf.c", "-o", made],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(read_object(made.read_bytes()).programs) == ["on_exit", "on_probe"]


@needs_clang
def test_a_program_anywhere(tmp_path: Path) -> None:
    """With our headers, from another directory; the object is beside the source, and loads."""
    write(tmp_path / "a.bpf.c", '"pybpf.h"')
    done = run("a.bpf.c", "-DVALUE=1", "--clang", CLANG, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a.bpf.o: 1 program, 1 map\n", "")
    spec = read_object((tmp_path / "a.bpf.o").read_bytes())
    assert list(spec.programs) == ["on_unlink"] and "counts" in spec.maps
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bpf.c", "a.bpf.o"]


@needs_clang
def test_vmlinux_h_is_made(tmp_path: Path) -> None:
    """From the BTF that is named, for a program that includes it; its types are usable."""
    source = write(tmp_path / "a.bpf.c", '"vmlinux.h"', '"extra.h"')
    target = tmp_path / "out.o"
    btf = ROOT / "tests/data/vmlinux-6.12.107-cloud-amd64.btf.gz"
    (tmp_path / "extra.h").write_text(
        '#include "pybpf.h"\n#define VALUE sizeof(struct task_struct)\n'
    )
    done = run(source, "-o", target, "--btf", btf, "--clang", CLANG, cwd=Path("/"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "on_unlink" in read_object(target.read_bytes()).programs
    assert not list(tmp_path.glob("*vmlinux*"))


@needs_clang
def test_a_vmlinux_h_of_the_user_is_used(tmp_path: Path) -> None:
    """One beside the source is taken as it is."""
    write(tmp_path / "a.bpf.c", '"vmlinux.h"', '"pybpf.h"')
    (tmp_path / "vmlinux.h").write_text("#define VALUE 7\n")
    done = run("a.bpf.c", "--btf", "/no/such/btf", "--clang", CLANG, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@needs_clang
def test_what_clang_refuses(tmp_path: Path) -> None:
    """Clang's own words, one line of ours, status 1, and the old object is still there."""
    source = write(tmp_path / "a.bpf.c", '"pybpf.h"')  # VALUE is not defined
    (tmp_path / "a.bpf.o").write_bytes(b"old")
    done = run(source, "--clang", CLANG, cwd=tmp_path)
    assert done.returncode == 1
    assert "undeclared identifier 'VALUE'" in done.stderr
    assert done.stderr.splitlines()[-1] == f"build.py: {source}: clang reports errors, see above"
    assert (tmp_path / "a.bpf.o").read_bytes() == b"old"


@needs_clang
def test_headers_of_libbpf_that_are_missing(tmp_path: Path) -> None:
    """The error says which header of ours has the same."""
    source = write(tmp_path / "a.bpf.c", "<bpf/no_such_helpers.h>")
    done = run(source, "--clang", CLANG, cwd=tmp_path)
    assert done.returncode == 1
    assert "use pybpf.h instead of that" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("/no/such.bpf.c", "--clang", "CLANG"), 1, "/no/such.bpf.c: No such file or directory"),
        (("a.bpf.c", "--clang", "/no/clang"), 1, "/no/clang: program not found"),
        (("a.bpf.o",), 2, "a.bpf.o is an object"),
        (("a.bpf.c", "b.bpf.c", "-o", "x"), 2, "-o needs exactly one FILE"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...], status: int, says: str, tmp_path: Path
) -> None:
    if "CLANG" in arguments:
        if not has_clang():
            pytest.skip("clang-19 is not installed")
        arguments = tuple(CLANG if word == "CLANG" else word for word in arguments)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert says in done.stderr


def fake(folder: Path, name: str, targets: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '  Registered Targets:'\necho '    {targets}'\n")
    path.chmod(0o755)


def test_which_clang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`clang`, else the newest clang-N; none, or one without a bpf target, is one clear error."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/no/such/folder")
    with pytest.raises(build.BuildError, match="no clang on PATH; install it"):
        build.find_clang()
    for version in (9, 18, 17):
        fake(tmp_path, f"clang-{version}", "bpf         - BPF (host endian)")
    (tmp_path / "llvm-strip-18").write_text("#!/bin/sh\n")
    (tmp_path / "llvm-strip-18").chmod(0o755)
    found = build.find_clang()
    assert found == build.Compiler(str(tmp_path / "clang-18"), str(tmp_path / "llvm-strip-18"))
    fake(tmp_path, "clang", "x86-64      - 64-bit X86")
    with pytest.raises(build.BuildError, match="clang cannot compile for BPF"):
        build.find_clang()
