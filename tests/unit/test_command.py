"""The command behind --: held back until released, its status as shells have it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from pybpf.tools.command import CANNOT_RUN, Command, find


def sh(script: str) -> Command:
    path = find("sh")
    assert path is not None
    return Command(path, ["sh", "-c", script], "tool")


def test_runs_only_when_started(tmp_path: Path) -> None:
    """Nothing of the command happens before `start`, all of it afterwards."""
    mark = tmp_path / "mark"
    command = sh(f"echo done > {mark}; exit 7")
    time.sleep(0.05)
    assert command.poll() is None
    assert not mark.exists()
    command.start()
    assert command.wait() == 7
    assert mark.read_text() == "done\n"
    assert command.poll() == 7
    command.close()


@pytest.mark.parametrize("aside", [False, True])
def test_where_its_output_goes(capfd: pytest.CaptureFixture[str], aside: bool) -> None:
    """To standard error if standard output is for records."""
    path = find("sh")
    assert path is not None
    command = Command(path, ["sh", "-c", "echo said; echo blamed >&2"], "tool", aside=aside)
    command.start()
    assert command.wait() == 0
    command.close()
    assert capfd.readouterr() == (("", "said\nblamed\n") if aside else ("said\n", "blamed\n"))


def test_it_waits_when_it_was_made() -> None:
    """What it does before it waits is not a call of the command, and is over by then."""
    for _ in range(20):
        command = sh("exit 0")
        try:
            state = Path(f"/proc/{command.pid}/stat").read_text().rpartition(") ")[2][0]
        finally:
            command.close()
        assert state == "S"


def test_never_started() -> None:
    """Closing lets a command that was held back end without running."""
    command = sh("exit 0")
    command.close()
    assert command.status == CANNOT_RUN
    command.close()


def test_killed_by_a_signal() -> None:
    """A signal gives 128 plus its number; one sent after the end goes nowhere."""
    command = sh("sleep 60")
    command.start()
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    command.signal(signal.SIGTERM)
    command.close()


def test_file_that_cannot_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A program that execve() refuses says why, status 126."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    command = Command(str(broken), [str(broken)], "tool")
    command.start()
    assert command.wait() == CANNOT_RUN
    command.close()
    assert "broken: Exec format error" in capfd.readouterr().err


def test_find() -> None:
    """Names are looked up in PATH; what is not there is None."""
    assert find("no-such-program-at-all") is None
    assert find("/no/such/file") is None
