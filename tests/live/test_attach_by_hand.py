"""XDP, cgroup and uprobe programs, attached where their sections do not say: they really run."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.errors import BpfError

OBJECT = Path(__file__).parents[1] / "data" / "attach_by_hand.bpf.o"
ON_XDP, ON_EGRESS, ON_UPROBE, ON_URETPROBE = range(4)  # enum way
PACKETS = 5

# Joins the cgroup (a socket belongs to the one it was made in), sends to a port that may be closed.
SENDER = """
import os, socket, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(int(sys.argv[3])):
        sender.sendto(b"x", ("127.0.0.1", int(sys.argv[2])))
"""


@pytest.fixture
def inbox() -> Iterator[socket.socket]:
    """A UDP socket on the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(60)
        yield made


@pytest.fixture
def obj(inbox: socket.socket) -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT) as one:
        one.globals.port = socket.htons(inbox.getsockname()[1])
        one.load()
        yield one


def send(inbox: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(PACKETS):
            sender.sendto(b"x", inbox.getsockname())
            inbox.recv(1)


def test_xdp_on_loopback(obj: pybpf.Object, inbox: socket.socket) -> None:
    """It sees each packet to our port while attached, and none afterwards."""
    lo = socket.if_nametoindex("lo")
    with obj.programs["on_xdp"].attach_xdp(lo) as link:
        assert link.info().ifindex == lo
        send(inbox)
    send(inbox)
    assert obj.maps["runs"][ON_XDP] == PACKETS


def test_one_xdp_program_per_interface(obj: pybpf.Object) -> None:
    """The second is refused by name, and the first stays."""
    lo = socket.if_nametoindex("lo")
    with obj.programs["on_xdp"].attach_xdp(lo) as link:
        with pytest.raises(BpfError, match=r"program 'on_xdp' \(xdp\): .*EBUSY"):
            obj.programs["on_xdp"].attach_xdp(lo).close()
        assert link.info().ifindex == lo


def test_egress_of_a_cgroup(obj: pybpf.Object, inbox: socket.socket, cgroup: Path) -> None:
    """It sees the packets of a process in the cgroup, and not those of this one."""
    port = str(inbox.getsockname()[1])
    command = [sys.executable, "-c", SENDER, str(cgroup), port, str(PACKETS)]
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        link = obj.programs["on_egress"].attach_cgroup(directory)
    finally:
        os.close(directory)
    with link:
        subprocess.run(command, check=True)
        send(inbox)
    subprocess.run(command, check=True)
    assert obj.maps["runs"][ON_EGRESS] == PACKETS


def place(address: int) -> tuple[str, int]:
    """File and offset in it of an address in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, _, offset, _, _, *path = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        if low <= address < high:
            return path[0], address - low + int(offset, 16)
    raise AssertionError(f"{address:#x} is not mapped")


def test_uprobe_in_libc(obj: pybpf.Object) -> None:
    """Entry and return of a function of the C library that this process calls; the cookie too."""
    function = ctypes.CDLL(None).getppid
    path, offset = place(ctypes.cast(function, ctypes.c_void_p).value or 0)
    how = {"pid": os.getpid()}
    with (
        obj.programs["on_uprobe"].attach_uprobe(path, offset, cookie=0xC00C1E, **how),
        obj.programs["on_uretprobe"].attach_uprobe(path, offset, retprobe=True, **how),
    ):
        for _ in range(3):
            assert function() == os.getppid()  # which calls it too
    function()
    runs = obj.maps["runs"]
    assert (runs[ON_UPROBE], runs[ON_URETPROBE]) == (6, 6)
    assert obj.globals.cookie == 0xC00C1E
