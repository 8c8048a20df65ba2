"""tools/bpfobj.py as a command: output, errors and exit status."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.btf import Btf
from pybpf.btf.encode import BtfBuilder
from pybpf.obj.linker import Linker, LinkTarget
from pybpf.obj.missing import missing
from pybpf.obj.reader import read_object
from pybpf.tools import bpfobj
from pybpf.tools.inputs import read_btf
from tests.support.elfwriter import ElfWriter
from tools.dev.build_bpf import map_definitions

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
BTF = DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "bpfobj.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_inspect_json() -> None:
    """The pinned shape: programs and maps with UAPI numbers, nothing else."""
    done = run("inspect", DATA / "obj_data.bpf.o", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["programs"] == [
        {"name": "use", "section": "socket", "type": 1, "expected_attach_type": 0, "insns": 81}
    ]
    assert report["maps"][0] == {
        "name": "obj_data.data",
        "type": 2,
        "key_size": 4,
        "value_size": 16,
        "max_entries": 1,
        "map_flags": 1024,
    }


def test_inspect_text() -> None:
    """Columns for people, and a note where a program cannot be attached or named."""
    done = run("inspect", DATA / "obj_sections.bpf.o")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[1].split()[:3] == ["PROGRAM", "SECTION", "TYPE"]
    assert any(line.startswith("not_loaded") and "not loaded" in line for line in lines)
    assert any("unknown section name" in line for line in lines)
    assert any("call attach_xdp(interface)" in line for line in lines)
    assert lines == [line.rstrip() for line in lines]


def test_inspect_text_has_names() -> None:
    """Types of programs, attach types and types of maps, as bpftool writes them; no numbers."""
    lines = run("inspect", DATA / "multi.bpf.o").stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["on_exit"][2:4] == ["tracing", "trace_fexit_multi"]
    assert rows["exit_ret"][2] == "hash" and rows["multi.rodata"][2] == "array"
    rows = {
        line.split()[0]: line.split()
        for line in run("inspect", DATA / "attach_by_hand.bpf.o").stdout.splitlines()
    }
    assert rows["on_uprobe"][2:4] == ["kprobe", "-"]
    assert rows["on_egress"][2:4] == ["cgroup_skb", "cgroup_inet_egress"]
    assert rows["on_xdp"][2:4] == ["xdp", "xdp"]


def test_inspect_text_of_a_section_that_nobody_knows() -> None:
    lines = run("inspect", DATA / "obj_sections.bpf.o").stdout.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("unknown ")]
    assert row[2:4] == ["-", "-"]


@pytest.mark.parametrize("form", ["gz", "raw", "elf"])
def test_relocate_json(form: str, tmp_path: Path) -> None:
    """Code in hex, from BTF in each of its three forms."""
    btf = BTF
    if form != "gz":
        raw = gzip.decompress(BTF.read_bytes())
        btf = tmp_path / "btf"
        writer = ElfWriter(machine=62, type=2)
        writer.section(".BTF", raw)
        btf.write_bytes(raw if form == "raw" else writer.build())
    done = run("relocate", DATA / "obj_unresolved.bpf.o", "--btf", btf, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    programs = json.loads(done.stdout)["programs"]
    assert list(programs)[-1] == "wants_nothing"
    assert programs["wants_nothing"] == {"insns": "b4000000000000009500000000000000", "error": None}
    assert programs["wants_kfunc"]["insns"] == ""
    assert "pybpf_no_such_kfunc" in programs["wants_kfunc"]["error"]
    assert programs["wants_symbol"]["error"] is None  # an address: 0, whatever the kernel


def test_relocate_text() -> None:
    """A listing per program, or the reason why there is none."""
    done = run("relocate", DATA / "obj_unresolved.bpf.o", "--btf", BTF)
    assert "wants_nothing: 2 instructions" in done.stdout
    assert "exit" in done.stdout
    assert "does not exist in the kernel" in done.stdout


def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "short.o"
    path.write_bytes((DATA / "obj_data.bpf.o").read_bytes()[:1000])
    return path


def test_what_multi_sessions_do_without() -> None:
    """A kernel without sessions lacks their kfuncs. Which side it is, pybpf tells the programs of
    a pair itself; a cookie is missing."""
    file = ROOT / "pybpf" / "tools" / "funcwatch" / "funcwatch.bpf.o"
    spec, older = read_object(file.read_bytes(), file.name), Btf(BtfBuilder().build())
    lacking = missing(Linker(spec, LinkTarget(older)).link("watch"), spec)
    assert any("bpf_session_is_return" in one.what for one in lacking)
    (said,) = bpfobj.relocate(spec, older)["programs"]["watch"]["missing"]
    assert "bpf_session_cookie" in said


def test_bad_object(tmp_path: Path) -> None:
    """One line that names tool, file, section and offset; exit status 1."""
    path = truncated(tmp_path)
    done = run("inspect", path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bpfobj.py: {path}: section ")
    assert "offset 0x" in line


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"\x1f\x8b broken", "gzip"), (b"nonsense", "BTF"), (None, "No such file")],
)
def test_bad_btf(content: bytes | None, says: str, tmp_path: Path) -> None:
    """A file that is not BTF gives one line and exit status 1."""
    path = tmp_path / "btf"
    if content is not None:
        path.write_bytes(content)
    done = run("relocate", DATA / "obj_data.bpf.o", "--btf", path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert says in line and str(path) in line


def test_elf_without_btf(tmp_path: Path) -> None:
    """An ELF file without section .BTF."""
    path = tmp_path / "vmlinux"
    path.write_bytes(ElfWriter(machine=62, type=2).build())
    done = run("relocate", DATA / "obj_data.bpf.o", "--btf", path)
    assert done.returncode == 1
    assert ".BTF" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("inspect",), ("relocate", "x.o"), ("explode", "x.o"), ("inspect", "x.o", "--no")],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    """Wrong arguments: exit status 2."""
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_help() -> None:
    """--help names the commands and the exit status."""
    done = run("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("inspect", "relocate", "load", "exit status"))


def test_missing_file() -> None:
    """A file that is not there: one line, exit status 1."""
    done = run("inspect", "/no/such/file.o")
    assert done.returncode == 1
    assert done.stderr == "bpfobj.py: /no/such/file.o: No such file or directory\n"


def test_functions_without_a_process() -> None:
    """What the command prints, as values."""
    path = DATA / "obj_maps.bpf.o"
    spec = read_object(path.read_bytes(), str(path))
    report = bpfobj.inspect(spec)
    assert [m["name"] for m in report["maps"]][:3] == ["inner_b", "inner_a", "outer"]
    code = bpfobj.relocate(spec, read_btf(BTF))
    assert list(code["programs"]) == list(spec.programs)


def test_build_check_takes_refused_objects() -> None:
    """build_bpf.py --check meets objects that are there to be refused."""
    refused = map_definitions((DATA / "obj_legacy.bpf.o").read_bytes())
    assert "legacy" in refused[""]


def test_inspect_shows_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the object have the values of --kconfig FILE; a wrong file is one error."""
    config = tmp_path / "config"
    config.write_text('CONFIG_BPF=y\nCONFIG_VIRTIO=m\nCONFIG_DEFAULT_HOSTNAME="h"\n')
    file = str(DATA / "obj_kconfig.bpf.o")
    assert bpfobj.main(["inspect", file, "--kconfig", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines if line.startswith("CONFIG_"))
    assert shown["CONFIG_BPF"] == "y" and shown["CONFIG_VIRTIO"] == "m"
    assert shown["CONFIG_DEFAULT_HOSTNAME"] == '"h"'
    assert shown["CONFIG_NR_CPUS"] == "not set: needed"
    assert shown["CONFIG_PYBPF_MISSING"] == "not set"
    for command in ("inspect", "load"):
        assert bpfobj.main([command, file, "--kconfig", str(tmp_path / "none")]) == 1
        assert "kernel configuration" in capsys.readouterr().err
