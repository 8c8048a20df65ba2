"""How runs of vagrant/e2e end, for real: minutes each, so `make vagrant-test` only.

A run that is killed must leave no process, network interface, mount or namespace; a guest that dies
must be one message.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rows import ROOT

LIMIT = 1200.0  # seconds to reach a point; a loaded machine takes several times the usual
SETTLE = 60.0  # seconds for the kernel to end what is left
ROW = "6.12"


def namespaces(kind: str) -> set[str]:
    """Those that some process is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(process / "ns" / kind))
        except OSError:
            continue  # it ended meanwhile
    return found


def processes(known: set[str]) -> set[str]:
    """Those in a network that is not among the known ones, by id and name."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            if os.readlink(process / "ns/net") not in known:
                found.add(f"{process.name} {name}")
        except OSError:
            continue  # it ended meanwhile
    return found


def traces() -> dict[str, object]:
    """All that a run must not change on this machine."""
    return {
        "links": sorted(os.listdir("/sys/class/net")),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "mounts": Path("/proc/self/mounts").read_text(),
        "kvm": os.stat("/dev/kvm").st_rdev if os.path.exists("/dev/kvm") else None,
        "libvirt": sorted(str(p) for p in Path("/var/lib/libvirt").rglob("*")),
        "run": os.path.exists("/run/libvirt"),
        "temporary": sorted(p.name for p in Path("/tmp").glob("*vagrant*") if p.is_file()),
    }


def start(tmp_path: Path, *tests: str) -> subprocess.Popen[bytes]:
    """vagrant/e2e in the background; its output in `said`."""
    with open(tmp_path / "said", "wb") as said:
        return subprocess.Popen(
            [ROOT / "vagrant/e2e", ROW, "--out", tmp_path / "out", "--", *tests],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def daemons_run(inside: set[str], said: str) -> bool:
    return any("libvirtd" in each for each in inside)


def machine_boots(inside: set[str], said: str) -> bool:
    return any("qemu" in each for each in inside)


def suite_runs(inside: set[str], said: str) -> bool:
    return "test session starts" in said


@pytest.mark.parametrize("point", [daemons_run, machine_boots, suite_runs])
def test_a_run_that_is_killed_leaves_nothing(
    tmp_path: Path, point: Callable[[set[str], str], bool]
) -> None:
    """SIGKILL, so that no code of ours clears up."""
    before, known = traces(), namespaces("net")
    process = start(tmp_path, "tests/e2e/test_guest.py", "tests/e2e/test_attach.py")
    try:
        end = time.monotonic() + LIMIT
        while not point(processes(known), said := (tmp_path / "said").read_text()):
            assert process.poll() is None, f"it ended before it was killed: {said}"
            assert time.monotonic() < end, f"it did not get there: {said}"
            time.sleep(0.2)
        assert processes(known), "it has no network of its own"
        assert traces() == before, "it changed the machine while it ran"
        process.kill()
        process.wait()
        end = time.monotonic() + SETTLE
        while (left := processes(known)) and time.monotonic() < end:
            time.sleep(0.2)
        assert not left
        assert namespaces("net") <= known
        assert traces() == before
    finally:
        process.kill()
        process.wait()


def test_a_guest_that_dies_is_one_message(tmp_path: Path) -> None:
    """Status 125 and the panic's own words."""
    known = namespaces("net")
    process = start(tmp_path, "tests/vagrant/panics.py")
    assert process.wait(LIMIT) == 125
    said = (tmp_path / "said").read_text()
    lines = [line for line in said.splitlines() if line.startswith("e2e: row") and "died" in line]
    assert lines == [f"e2e: row {ROW}: the guest died: its kernel panicked"]
    assert "Kernel panic - not syncing: sysrq triggered crash" in said
    assert not processes(known)
