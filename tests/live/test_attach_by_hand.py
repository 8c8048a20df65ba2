"""XDP, cgroup, netns and uprobe programs, attached by hand and by name: they really run."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf._uapi.enums import AttachType
from pybpf.errors import BpfError
from tests.support.network import Network

OBJECT = Path(__file__).parents[1] / "data" / "attach_by_hand.bpf.o"
ON_XDP, ON_EGRESS, ON_UPROBE, ON_URETPROBE, ON_LOOKUP, ON_SYMBOL = range(6)  # enum way
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
        one.globals.my_tgid = os.getpid()
        one.load()
        yield one


def send(inbox: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(PACKETS):
            sender.sendto(b"x", inbox.getsockname())
            inbox.recv(1)


@pytest.mark.parametrize("interface", ["lo", 1])
def test_xdp_by_name_or_index(obj: pybpf.Object, interface: str | int) -> None:
    """It sees each packet to our port while attached, and none after detach()."""

    def body(inbox: socket.socket) -> None:
        port = socket.htons(inbox.getsockname()[1])
        with pybpf.open(OBJECT) as one:
            one.globals.port = port
            one.load()
            with one.programs["on_xdp"].attach_xdp(interface, "generic") as link:
                assert link.info().ifindex == 1 and link.attached
                send(inbox)
                link.detach()
                assert not link.attached
                send(inbox)
                link.detach()
            with one.programs["on_xdp"].attach_xdp(interface):
                send(inbox)
            send(inbox)
            assert one.maps["runs"][ON_XDP] == 2 * PACKETS

    Network(body)


def test_one_xdp_program_per_interface(obj: pybpf.Object) -> None:
    """The second is refused by name, and the first stays."""

    def body(inbox: socket.socket) -> None:
        with obj.programs["on_xdp"].attach_xdp("lo") as link:
            with pytest.raises(BpfError, match=r"program 'on_xdp' \(xdp\): xdp on lo: .*EBUSY"):
                obj.programs["on_xdp"].attach_xdp("lo").close()
            assert link.info().ifindex == 1

    Network(body)


def test_an_interface_of_another_namespace_is_unknown(obj: pybpf.Object) -> None:
    """Names are looked up where the caller is; what there is, is named."""

    def body(inbox: socket.socket) -> None:
        with pytest.raises(BpfError, match=r"'eth0': ENODEV.*there are: lo"):
            obj.programs["on_xdp"].attach_xdp("eth0")

    Network(body)


def test_a_pinned_xdp_link(obj: pybpf.Object, bpffs: Path) -> None:
    """Closing leaves it attached, it can be opened by path and id, and detach() ends it."""

    def body(inbox: socket.socket) -> None:
        program = obj.programs["on_xdp"]
        with program.attach_xdp("lo") as link:
            number = link.id
            link.pin(bpffs / "xdp")
        with pytest.raises(BpfError, match="EBUSY"):
            program.attach_xdp("lo").close()
        with pybpf.Link.from_id(number) as by_id, pybpf.Link.from_pinned(bpffs / "xdp") as by_pin:
            assert by_id.id == by_pin.id == number and by_pin.info().ifindex == 1
            by_pin.update(program, old=program)
            by_pin.detach()
        program.attach_xdp("lo").close()
        (bpffs / "xdp").unlink()

    Network(body)


def test_sk_lookup_of_a_network_namespace(obj: pybpf.Object) -> None:
    """It runs for each packet whose socket is looked up there, and no longer after detach()."""

    def body(inbox: socket.socket) -> None:
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        link = obj.programs["on_lookup"].attach_netns(own)
        send(inbox)
        link.detach()
        send(inbox)
        with open(own, "rb") as file, obj.programs["on_lookup"].attach_netns(file):
            send(inbox)
        assert obj.maps["runs"][ON_LOOKUP] == 2 * PACKETS

    Network(body)


def test_a_file_that_is_no_network_namespace(obj: pybpf.Object) -> None:
    """There is one error that says so."""
    with pytest.raises(BpfError, match="that is not a network namespace"):
        obj.programs["on_lookup"].attach_netns("/proc/self/ns/uts")


@pytest.mark.parametrize("by", ["path", "str", "descriptor"])
def test_egress_of_a_cgroup(obj: pybpf.Object, inbox: socket.socket, cgroup: Path, by: str) -> None:
    """It sees the packets of a process in the cgroup, and not those of this one."""
    port = str(inbox.getsockname()[1])
    command = [sys.executable, "-c", SENDER, str(cgroup), port, str(PACKETS)]
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        where: Path | str | int = {"path": cgroup, "str": str(cgroup), "descriptor": directory}[by]
        link = obj.programs["on_egress"].attach_cgroup(where)
    finally:
        os.close(directory)
    subprocess.run(command, check=True)
    send(inbox)
    link.detach()
    subprocess.run(command, check=True)
    assert obj.maps["runs"][ON_EGRESS] == PACKETS


def test_a_reopened_program_is_not_attached_in_the_wrong_direction(
    obj: pybpf.Object, cgroup: Path
) -> None:
    """The kernel takes an egress filter at ingress, and does not tell which it was loaded for."""
    with pybpf.Program.from_id(obj.programs["on_egress"].info().id) as again:
        with pytest.raises(BpfError, match=r"assign .expected_attach_type: .*_EGRESS \(1\)"):
            again.attach_cgroup(cgroup)
        again.expected_attach_type = 1
        with again.attach_cgroup(cgroup) as link:
            assert link.info().attach_type == AttachType.BPF_CGROUP_INET_EGRESS
    with pybpf.Program.from_id(obj.programs["on_lookup"].info().id) as again:  # has only one
        again.attach_netns("/proc/self/ns/net").close()


def test_a_directory_that_is_no_cgroup(obj: pybpf.Object, tmp_path: Path) -> None:
    """One error that says so; and one for a name that comes near."""
    program = obj.programs["on_egress"]
    with pytest.raises(BpfError, match=r"EBADF.*not a directory of a cgroup2 file system"):
        program.attach_cgroup(tmp_path)


def test_a_cgroup_that_is_not_there(obj: pybpf.Object, cgroup: Path) -> None:
    """A misspelt name suggests near ones."""
    wrong = cgroup.with_name(cgroup.name.replace("pybpf", "pybfp"))
    with pytest.raises(BpfError, match=rf"ENOENT.*near: .*{cgroup.name}"):
        obj.programs["on_egress"].attach_cgroup(wrong)


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


def test_uprobe_by_symbol(obj: pybpf.Object) -> None:
    """A function of a library by their names; detach() ends it."""
    function = ctypes.CDLL(None).getppid
    link = obj.programs["on_uprobe"].attach_uprobe("libc.so.6", "getppid", os.getpid())
    returns = obj.programs["on_uretprobe"].attach_uprobe(
        "libc.so.6", "getppid", os.getpid(), retprobe=True
    )
    function()
    link.detach()
    returns.detach()
    function()
    runs = obj.maps["runs"]
    assert (runs[ON_UPROBE], runs[ON_URETPROBE]) == (1, 1)


def test_the_section_says_entry_or_return(obj: pybpf.Object) -> None:
    """SEC("uretprobe") is attached to the return, SEC("uprobe") to the entry; the caller may say
    otherwise."""
    for name, wanted, kind in (
        ("on_uretprobe", None, "uretprobe"),
        ("on_uretprobe", False, "uprobe"),
        ("on_uprobe", None, "uprobe"),
        ("on_uprobe", True, "uretprobe"),
    ):
        program = obj.programs[name]
        with program.attach_uprobe("libc.so.6", "getppid", os.getpid(), wanted) as link:
            # The text tells what the kernel was asked for; other tests that it does so.
            assert f"{kind}/" in str(link)


def test_uprobe_by_section(obj: pybpf.Object) -> None:
    """SEC("uprobe/libc.so.6:getppid")."""
    function = ctypes.CDLL(None).getppid
    with obj.programs["on_symbol"].attach():
        function()
    function()
    assert obj.maps["runs"][ON_SYMBOL] == 1


def test_an_object_attaches_what_it_can_and_names_the_rest(obj: pybpf.Object) -> None:
    """Each program that needs a place is listed with the method that takes one."""
    with obj.attach() as links:
        assert list(links) == ["on_symbol"]
        assert links.by_hand == {
            "on_xdp": "call attach_xdp(interface)",
            "on_egress": "call attach_cgroup(path_or_fd)",
            "on_uprobe": "call attach_uprobe(binary, symbol_or_offset), "
            "or write uprobe/BINARY:FUNCTION",
            "on_uretprobe": "call attach_uprobe(binary, symbol_or_offset), "
            "or write uretprobe/BINARY:FUNCTION",
            "on_lookup": "call attach_netns(path_or_fd)",
        }
