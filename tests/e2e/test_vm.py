"""`vagrant/vm` from outside: statuses, `$OUT`, time limit, a guest that dies."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.rows import ROOT

pytestmark = pytest.mark.rows("host")  # it starts the guests, so it is not for inside them


def vm(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [ROOT / "vagrant/vm", *arguments]
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)


def test_status_output_and_files_come_back(tmp_path: Path) -> None:
    """CMD's own status, its output byte for byte, and some MB of $OUT."""
    script = (
        "import hashlib, os, pybpf, random, sys\n"
        "sys.stdout.buffer.write(bytes(range(256)) * 40); sys.stdout.flush()\n"
        "data = random.Random(1).randbytes(3 << 20)\n"
        "os.mkdir(os.environ['OUT'] + '/sub')\n"
        "open(os.environ['OUT'] + '/sub/big', 'wb').write(data)\n"
        "assert os.path.exists('pyproject.toml') and os.geteuid() == 0\n"
        "sys.exit(7)\n"
    )
    done = vm("--kernel", "latest", "--out", str(tmp_path), "--", "python3", "-c", script)
    assert done.returncode == 7, done.stderr.decode()
    assert done.stdout == bytes(range(256)) * 40
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["sub", "sub/big"]
    import random

    want = random.Random(1).randbytes(3 << 20)
    got = (tmp_path / "sub/big").read_bytes()
    assert hashlib.sha256(got).digest() == hashlib.sha256(want).digest()


@pytest.mark.long
def test_files_go_in(tmp_path: Path) -> None:
    """What is under --in is under $IN: files, modes, links, folders."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/run").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "sub/run").chmod(0o755)
    (tmp_path / "link").symlink_to("sub/run")
    done = vm("--kernel", "latest", "--in", str(tmp_path), "--", "sh", "-c", "$IN/link; ls $IN")
    assert (done.returncode, done.stdout) == (0, b"ran\nlink\nsub\n"), done.stderr.decode()


@pytest.mark.long
def test_signals_have_their_default_meaning() -> None:
    """CMD ignores and blocks nothing: Ctrl-C and Ctrl-\\ end what it starts."""
    script = "grep -E 'Sig(Ign|Blk)' /proc/self/status; sleep 100 & kill -INT $$; echo alive"
    done = vm("--kernel", "latest", "--", "sh", "-c", script)
    assert done.stdout.split() == [b"SigBlk:", b"0" * 16, b"SigIgn:", b"0" * 16]
    assert done.returncode == 128 + signal.SIGINT


@pytest.mark.long
def test_time_limit_gives_124_and_what_there_is(tmp_path: Path) -> None:
    """A command that ignores SIGTERM is stopped too, and its files still come back."""
    script = "trap '' TERM; echo first; echo part >$OUT/part; while :; do sleep 1; done"
    began = time.monotonic()
    options = ("--kernel", "6.1", "--timeout", "2", "--out", str(tmp_path))
    done = vm(*options, "--", "sh", "-c", script)
    assert done.returncode == 124
    assert time.monotonic() - began < 120
    assert done.stdout == b"first\n"
    assert (tmp_path / "part").read_text() == "part\n"


def test_a_guest_that_dies_gives_125_and_the_console() -> None:
    """A panic ends the run at once and its text is shown."""
    script = "echo before; sleep 1; echo c >/proc/sysrq-trigger; sleep 1000"
    done = vm("--kernel", "6.12", "--timeout", "300", "--", "sh", "-c", script)
    assert done.returncode == 125
    assert done.stdout == b"before\n"
    assert b"Kernel panic - not syncing: sysrq triggered crash" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kernel", "5.4", "--", "true"],
        [],
        ["--timeout", "0", "--", "true"],
        ["--in", "/no/such/folder", "--", "true"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    """Usage errors say so before anything starts."""
    done = vm(*arguments)
    assert done.returncode == 2
    assert b"usage:" in done.stderr
