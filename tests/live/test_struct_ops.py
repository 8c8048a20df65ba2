"""Struct_ops: a congestion control of TCP that the kernel calls while it is registered."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.errors import BpfError, RelocationError
from tests.support.fewfds import descriptors_left

# Links of struct_ops are of 6.4.
pytestmark = [pytest.mark.rows("host", "6.12", "latest"), pytest.mark.first_on("host", "latest")]

OBJECT = Path(__file__).parents[1] / "data" / "attach_struct_ops.bpf.o"


def loaded(obj: pybpf.Object) -> pybpf.Object:
    try:
        obj.load()
    except pybpf.DeniedByPolicy as error:
        pytest.skip(f"policy: {error}")
    return obj


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT) as one:
        yield loaded(one)


def use(name: str) -> bool:
    """Send something over a connection with this congestion control; False if there is none."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError as error:
            assert error.errno == errno.ENOENT
            return False
        client.connect(server.getsockname())
        with server.accept()[0] as other:
            client.sendall(b"x" * 1000)
            other.recv(1000)
    return True


@pytest.mark.parametrize("name", ["linked", "plain"])
def test_attach(obj: pybpf.Object, name: str) -> None:
    """By a link or by the map's value: it runs while attached, and is gone after close()."""
    with obj.maps[name].attach() as link:
        assert link.attached
        assert use(f"pybpf_{name}")
        assert obj.globals.inits == 1 and obj.globals.avoids >= 1
        if name == "linked":
            assert link.info().map_id == obj.maps[name].info().id
    assert not use(f"pybpf_{name}")
    assert obj.globals.inits == 1
    if name == "linked":
        with obj.maps[name].attach():
            assert use("pybpf_linked")


def test_closing_without_descriptors(obj: pybpf.Object) -> None:
    """A process that has used up its descriptors can still unregister."""
    link = obj.maps["plain"].attach()
    with descriptors_left(0):
        link.close()
    assert not use("pybpf_plain")


def test_by_object(obj: pybpf.Object) -> None:
    """`Object.attach` registers them under the names of their maps."""
    with obj.attach() as links:
        assert set(links) == {"linked", "plain"}
        assert use("pybpf_linked") and use("pybpf_plain")
    assert not use("pybpf_linked") and not use("pybpf_plain")
    assert not obj.programs["on_nothing"].loaded


def test_a_map_is_left_to_the_caller(obj: pybpf.Object) -> None:
    obj.maps["linked"].autoattach = False
    with obj.attach() as links:
        assert set(links) == {"plain"} and not use("pybpf_linked")
        with obj.maps["linked"].attach():
            assert use("pybpf_linked")


def test_a_link_takes_another_map(obj: pybpf.Object) -> None:
    """update() replaces one by the other of the same name without a gap."""
    with pybpf.open(OBJECT) as second:
        loaded(second)
        with obj.maps["linked"].attach() as link:
            link.update(second.maps["linked"], old=obj.maps["linked"])
            assert use("pybpf_linked")
        assert (obj.globals.inits, second.globals.inits) == (0, 1)


def test_members_are_changed_before_loading() -> None:
    """A name, a program left out: it is not loaded then; nothing can be changed afterwards."""
    with pybpf.open(OBJECT) as obj:
        members = obj.struct_ops["linked"]
        assert members.name == "pybpf_linked" and members.init == "on_init"
        members.name = "pybpf_other"
        members.release = None
        obj.struct_ops["plain"].name = b"pybpf_\0".ljust(16, b"\0")
        loaded(obj)
        assert not obj.programs["on_release"].loaded
        with pytest.raises(AttributeError, match="'linked' is loaded"):
            members.name = "x"
        with obj.maps["linked"].attach():
            assert use("pybpf_other") and not use("pybpf_linked")
        assert (obj.globals.inits, obj.globals.releases) == (1, 0)
        with pytest.raises(AttributeError, match="no member 'nam'"):
            _ = members.nam


def test_maps_decide_which_programs_are_loaded() -> None:
    """A program that a map uses is loaded without autoload, one of no map that is made is not."""
    with pybpf.open(OBJECT) as obj:
        obj.programs["on_undo"].autoload = False
        obj.programs["on_release"].autoload = False
        obj.maps["linked"].autocreate = False
        loaded(obj)
        assert obj.programs["on_undo"].loaded and not obj.programs["on_release"].loaded
        with obj.attach() as links:
            assert set(links) == {"plain"} and use("pybpf_plain")


def test_a_member_that_this_kernel_lacks() -> None:
    """Fine while it is not set; else the error names map, member and near ones."""
    with pybpf.open(OBJECT) as obj:
        obj.struct_ops["linked"].not_in_this_kernel = "on_init"
        with pytest.raises(RelocationError, match="'linked': member 'not_in_this_kernel'"):
            obj.load()


def test_a_member_that_the_kernel_needs() -> None:
    """Attaching is refused with a hint, and nothing stays registered."""
    with pybpf.open(OBJECT) as obj:
        obj.struct_ops["linked"].undo_cwnd = None
        loaded(obj)
        with pytest.raises(BpfError, match=r"struct_ops linked.*EINVAL"):
            obj.maps["linked"].attach().close()
        assert not use("pybpf_linked")


def test_only_struct_ops_maps_are_attached(obj: pybpf.Object) -> None:
    with pytest.raises(BpfError, match="only struct_ops maps of a loaded object"):
        obj.maps[".bss"].attach()
