"""`tools/bpfobj.py load`: each program of an object, loaded by itself on this kernel."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pybpf.tools import bpfobj

DATA = Path(__file__).parents[1] / "data"


def test_programs_one_by_one() -> None:
    """Linked subprograms load; the verifier's refusal of one program leaves the others alone."""
    programs = bpfobj.load(str(DATA / "obj_subprogs.bpf.o"))["programs"]
    loaded = {name: program["ok"] for name, program in programs.items()}
    assert loaded == {"first": True, "second": True, "callbacks": False, "alone": True}
    refused = programs["callbacks"]
    assert refused["errno"] == errno.EINVAL
    assert "callback" in refused["reason"]


def test_global_data() -> None:
    """Code that refers to every kind of data section passes the verifier."""
    programs = bpfobj.load(str(DATA / "obj_data.bpf.o"))["programs"]
    assert programs == {"use": {"ok": True, "errno": 0, "reason": ""}}


def test_missing_program_type() -> None:
    """With an unknown section name the program opens but cannot load."""
    program = bpfobj.load(str(DATA / "obj_sections.bpf.o"))["programs"]["unknown"]
    assert (program["ok"], program["errno"]) == (False, errno.EINVAL)
    assert "missing program type" in program["reason"]


def test_what_is_loaded_when_attached() -> None:
    """Multi programs have no code before their functions are known, and say so."""
    program = bpfobj.load(str(DATA / "obj_sections.bpf.o"))["programs"]["multi"]
    assert not program["ok"]
    assert "not tried: " in program["reason"] and "when it is attached" in program["reason"]
    assert "plan --object FILE --program NAME" in program["reason"]


def test_output(capsys: pytest.CaptureFixture[str]) -> None:
    """The command's two forms of output; refused programs do not change the exit status."""
    path = str(DATA / "obj_subprogs.bpf.o")
    assert bpfobj.main(["load", path, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["programs"]) == ["first", "second", "callbacks", "alone"]
    assert bpfobj.main(["load", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "first: ok"
    assert any(line.startswith("callbacks: ") and "EINVAL" in line for line in lines)


def test_nothing_is_pinned() -> None:
    """Maps that ask to be pinned by name are not: a trial leaves nothing behind."""
    before = set(os.listdir("/sys/fs/bpf")) if os.path.isdir("/sys/fs/bpf") else set()
    programs = bpfobj.load(str(DATA / "obj_maps.bpf.o"))["programs"]
    assert set(programs) == {"tail_a", "tail_b", "use", "unknown_extra"}
    after = set(os.listdir("/sys/fs/bpf")) if os.path.isdir("/sys/fs/bpf") else set()
    assert "by_type" not in after - before


def test_with_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--kconfig FILE is the whole configuration: without a needed option nothing is loaded."""
    config = tmp_path / "config"
    options = ["BPF=y", "VIRTIO=m", "OVERLAY_FS=m", "NR_CPUS=64", "PHYSICAL_START=0x1000000"]
    text = "".join(f"CONFIG_{option}\n" for option in options)
    config.write_text(text)
    file = str(DATA / "obj_kconfig.bpf.o")
    assert bpfobj.main(["load", file, "--kconfig", str(config)]) == 0
    assert "'CONFIG_DEFAULT_HOSTNAME' (.kconfig): not set" in capsys.readouterr().out
    config.write_text(text + 'CONFIG_DEFAULT_HOSTNAME="h"\n')
    assert bpfobj.main(["load", file, "--kconfig", str(config)]) == 0
    assert capsys.readouterr().out == "use: ok\n"
