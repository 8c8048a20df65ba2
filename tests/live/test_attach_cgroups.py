"""Programs of cgroups, of every section: they run for what a process of the cgroup does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pybpf
from pybpf._sys import prog as sys_prog
from pybpf.errors import BpfError
from pybpf.maps import Map
from pybpf.obj.sections import SECTIONS
from tests.live.test_attach_by_hand import PACKETS, SENDER
from tests.live.test_attach_net import CGROUP, OBJECT
from tests.support.counting import counted, counting

pytestmark = pytest.mark.first_on("host", "6.12")

# Joins the cgroup, then does what each kind of program is asked about. Says which families exist.
EVERYTHING = r"""
import json, os, socket, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
done = ["unix"]
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    try:
        inbox = socket.socket(family, socket.SOCK_DGRAM)
        inbox.bind((host, 0))
    except OSError:
        continue
    done.append("4" if family == socket.AF_INET else "6")
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.sendto(b"x", inbox.getsockname())
    inbox.recvfrom(10)
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind((host, 0))
    server.listen()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    client = socket.socket(family, socket.SOCK_STREAM)
    client.connect(server.getsockname())
    client.getpeername()
    for one in (inbox, sender, server, client):
        one.close()
name = "\0pybpf-%d-" % os.getpid()
inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
inbox.bind(name + "inbox")
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.bind(name + "sender")
sender.sendto(b"x", inbox.getsockname())
inbox.recvfrom(10)
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(name + "server")
server.listen()
client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
client.connect(name + "server")
client.getpeername()
open("/proc/sys/kernel/ostype").read()
open("/dev/null").close()
print(json.dumps(done))
"""
FAMILIES = {"4": "IPv4", "6": "IPv6"}


def act(cgroup: Path) -> list[str]:
    """Do everything in a process of the cgroup; the families that this machine has."""
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, str(cgroup)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "section",
    [row.prefix for row in SECTIONS.values() if row.how == "cgroup" and not row.attach_btf],
)
def test_every_section(section: str, cgroup: Path, runs: Map) -> None:
    """It runs for what a process of the cgroup does, is what the link says, and stops."""
    row = SECTIONS[section]
    with pybpf.open(OBJECT) as obj:
        program = obj.programs["on_egress"]
        program.type, program.expected_attach_type = row.type, row.attach_type
        try:
            program._fd = sys_prog.prog_load(
                row.type, counting(runs, 1), expected_attach_type=row.attach_type
            )
        except BpfError as error:
            pytest.skip(f"this kernel does not support these programs: {error}")
        with program.attach_cgroup(cgroup) as link:
            assert link.info().attach_type == row.attach_type
            families = act(cgroup)
        if section[-1] in FAMILIES and section[-1] not in families:
            pytest.skip(f"this machine has no {FAMILIES[section[-1]]}")
        seen = counted(runs)
        assert seen > 0
        act(cgroup)
        assert counted(runs) == seen


@pytest.mark.parametrize("mode", ["link", "multi", "override", "exclusive"])
def test_modes(cgroup: Path, mode: str) -> None:
    """With and without a link: it runs for processes in the cgroup and stops after close()."""
    with pybpf.open(OBJECT) as obj, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
        obj.load()
        inbox.bind(("127.0.0.1", 0))
        port = str(inbox.getsockname()[1])
        command = [sys.executable, "-c", SENDER, str(cgroup), port, str(PACKETS)]
        with obj.programs["on_egress"].attach_cgroup(cgroup, mode=mode):
            subprocess.run(command, check=True)
        subprocess.run(command, check=True)
        assert obj.maps["runs"][CGROUP] == PACKETS
        with pytest.raises(ValueError, match="mode 'some'"):
            obj.programs["on_egress"].attach_cgroup(cgroup, mode="some")
