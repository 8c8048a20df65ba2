"""vagrant/Vagrantfile as vagrant itself reads it; no machine is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.rows import ROOT, names

# It asks no kernel, but it belongs to the host: the guests have no vagrant.
pytestmark = [pytest.mark.rows("host"), pytest.mark.unprivileged]
RELEASE = "6.12.1-cloud-amd64"


def validate(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`vagrant validate`, with a home and a cache of its own."""
    assert shutil.which("vagrant"), "vagrant is missing: make setup-vagrant"
    own = {
        "HOME": str(tmp_path),
        "VAGRANT_HOME": str(tmp_path / "vagrant.d"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot-vagrant"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "PYBPF_CACHE": str(tmp_path / "cache"),
        "PYBPF_ACCEL": "tcg",
    }
    mine = ("BOX", "KERNEL", "PYBPF_BOOT", "PYBPF_CONSOLE", "PYBPF_OWN_LIBVIRT", "VAGRANT_CWD")
    kept = {name: value for name, value in os.environ.items() if name not in mine}
    return subprocess.run(
        ["vagrant", "validate"],
        cwd=ROOT / "vagrant",
        env={**kept, **own, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def local_box(tmp_path: Path) -> Path:
    """What vagrant/build-box leaves, with a kernel of row 6.12 only."""
    home = tmp_path / "cache/boxes/abc"
    (home / "boot").mkdir(parents=True)
    (home.parent / "current").write_text("abc\n")
    facts = {"name": "pybpf-abc", "command_line": "quiet", "releases": {"6.12": RELEASE}}
    (home / "facts.json").write_text(json.dumps(facts))
    for name in ("vmlinuz", "initrd.img"):
        (home / f"boot/{name}-{RELEASE}").touch()
    return home


@pytest.mark.parametrize("kernel", ["", names()[-1]])
def test_the_public_box(tmp_path: Path, kernel: str) -> None:
    """The file is valid with a row and without."""
    done = validate(tmp_path, KERNEL=kernel)
    assert done.returncode == 0, done.stderr
    assert "Vagrantfile validated successfully" in done.stdout


@pytest.mark.parametrize("boot", ["direct", "grub"])
def test_the_local_box(tmp_path: Path, boot: str) -> None:
    """The file is valid with either way of booting."""
    local_box(tmp_path)
    done = validate(tmp_path, BOX="local", KERNEL="6.12", PYBPF_BOOT=boot)
    assert done.returncode == 0, done.stderr


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a failed run, which is one line."""
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_wrong_row_is_one_message(tmp_path: Path) -> None:
    """The error lists the rows that exist."""
    said = refusal(validate(tmp_path, KERNEL="5.4"))
    assert said == ("vagrant/Vagrantfile: KERNEL=5.4: no such row; there are 6.1, 6.12, latest")


def test_no_local_box_is_one_message(tmp_path: Path) -> None:
    """The error says how to get one."""
    said = refusal(validate(tmp_path, BOX="local"))
    assert said.endswith(f"no box below {tmp_path}/cache/boxes: run vagrant/build-box first")


def test_a_missing_kernel_is_one_message(tmp_path: Path) -> None:
    """A row that the box never had, and a file that has gone."""
    home = local_box(tmp_path)
    said = refusal(validate(tmp_path, BOX="local", KERNEL="6.1"))
    assert said.endswith("the local box has no kernel of row 6.1: run vagrant/build-box")
    (home / f"boot/initrd.img-{RELEASE}").unlink()
    said = refusal(validate(tmp_path, BOX="local", KERNEL="6.12"))
    assert said.endswith(f"boot/initrd.img-{RELEASE} is missing: run vagrant/build-box")
