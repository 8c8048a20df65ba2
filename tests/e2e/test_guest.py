"""The guest itself: conditions that every other test relies on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.features import Feature, Support
from tests.support import rows
from tests.support.kernellog import KernelLog
from tests.support.require import probes
from tests.support.rows import ROOT


def test_it_is_the_row_that_was_asked_for(kernel_row: str) -> None:
    """The kernel's release begins with the row's name, so no row passes for another."""
    release = platform.release()
    if kernel_row == "latest":
        assert tuple(int(n) for n in release.split(".")[:2]) >= (7, 2)
    else:
        assert release.startswith(kernel_row + ".")


@pytest.mark.parametrize(
    "mount", ["/proc", "/sys", "/sys/kernel/tracing", "/sys/kernel/debug", "/sys/fs/bpf", "/tmp"]
)
def test_file_systems_are_mounted(mount: str) -> None:
    """Tools need these."""
    assert os.path.ismount(mount)


def test_tracing_is_open() -> None:
    """Root, kernel addresses readable, no lockdown: policy never decides a test here."""
    assert os.geteuid() == 0
    assert not Path("/proc/kallsyms").read_text(errors="replace").startswith("0" * 16 + " t")
    assert Path("/sys/kernel/btf/vmlinux").stat().st_size > 1_000_000
    assert "[none]" in Path("/sys/kernel/security/lockdown").read_text()


def test_everyday_commands_fail_as_they_should() -> None:
    """The commands that the demonstrations trace."""
    done = subprocess.run(["cat", "/no/such/file"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No such file" in done.stderr
    done = subprocess.run(["rmdir", "/no/such/dir"], capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_the_rows_table_tells_the_truth(kernel_row: str) -> None:
    """The kernel lacks exactly what vagrant/rows.json says."""
    answers = probes().all()
    assert not probes().inconclusive
    assert set(answers) == set(Feature)
    found = {f.value: a.support for f, a in answers.items() if not a.ok}
    assert found == dict.fromkeys(rows.lacks(kernel_row), Support.UNSUPPORTED)


COMPLAINS = """
from tests.support.kernellog import kernel_log

def test_it():
    with open("/dev/kmsg", "w") as log:
        print("<6>WARNING: at the tests' own wish", file=log)  # seen once its line ends
"""


@pytest.mark.first_on("6.12")
def test_a_complaint_of_the_kernel_fails_the_test_that_it_comes_in(
    tmp_path: Path, kernel_log: KernelLog
) -> None:
    """A line in /dev/kmsg is enough. Its priority keeps it off the console, which is also read."""
    kernel_log.expect("at the tests' own wish", "this test writes it")
    file = tmp_path / "test_it.py"
    file.write_text(COMPLAINS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            tmp_path,
            file,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 1 error" in done.stdout
    assert "WARNING: at the tests' own wish" in done.stdout


@pytest.mark.parametrize("module", ["dummy", "loop", "nf_conntrack", "veth"])
def test_modules_load_and_have_types(module: str) -> None:
    """A few modules can be loaded for tests of module functions, with their BTF."""
    done = subprocess.run(["modprobe", module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(f"/sys/kernel/btf/{module}").stat().st_size > 0
