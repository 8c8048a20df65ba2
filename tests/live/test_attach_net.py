"""Traffic control, netfilter, sockets, maps of sockets, perf events, freplace: they really run."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf import kernel
from pybpf._sys import prog as sys_prog
from pybpf._uapi.enums import AttachType, ProgType
from pybpf.errors import BpfError, UnsupportedFeature
from pybpf.features import Feature
from pybpf.links import LinkSet
from pybpf.links.plain import attach_plain
from pybpf.maps import Map
from tests.live.test_attach_by_hand import PACKETS, send
from tests.support.counting import counted, counting
from tests.support.fewfds import descriptors_left
from tests.support.network import Network

pytestmark = pytest.mark.first_on("host", "latest")

OBJECT = Path(__file__).parents[1] / "data" / "attach_net.bpf.o"
(TC_IN, TC_OUT, TC_FIRST, NETFILTER, FILTER, VERDICT, MESSAGE, REUSEPORT, SAMPLE, TARGET, REPLACED,
 CGROUP, ENTERED, LEFT) = range(14)  # enum way  # fmt: skip


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT) as one:
        one.globals.my_tgid = os.getpid()
        one.load()
        yield one


def attached(obj: pybpf.Object, name: str, *args: object, **more: object) -> pybpf.Link:
    """The method is the test's to name; what the kernel lacks skips."""
    try:
        link: pybpf.Link = getattr(obj.programs[name], args[0])(*args[1:], **more)  # type: ignore[call-overload]
    except UnsupportedFeature as error:
        pytest.skip(str(error))
    return link


def test_tcx(obj: pybpf.Object) -> None:
    """Each direction counts its packets while attached and none afterwards."""

    def body(inbox: socket.socket) -> None:
        runs = obj.maps["runs"]
        with attached(obj, "tc_in", "attach_tcx", "lo") as link:
            assert link.info().ifindex == 1
            assert link.info().attach_type == AttachType.BPF_TCX_INGRESS
            send(inbox)
            with obj.programs["tc_out"].attach_tcx("lo", "egress"):
                send(inbox)
        send(inbox)
        assert (runs[TC_IN], runs[TC_OUT]) == (2 * PACKETS, PACKETS)

    Network(body)


def test_tcx_places(obj: pybpf.Object) -> None:
    """Before and after a link, a program, an id, all others; the last to run is the one behind."""

    def body(inbox: socket.socket) -> None:
        program = obj.programs["tc_first"]
        with attached(obj, "tc_in", "attach_tcx", "lo") as link:
            number = obj.programs["tc_in"].info().id
            for before in (link, obj.programs["tc_in"], number, True):
                with program.attach_tcx("lo", "ingress", before=before):
                    send(inbox)
                    assert obj.globals.last == TC_IN
            for after in (link, obj.programs["tc_in"], number, True, None):
                with program.attach_tcx("lo", "ingress", after=after):
                    send(inbox)
                    assert obj.globals.last == TC_FIRST
        with pytest.raises(BpfError, match="program of before or after is not attached to lo"):
            program.attach_tcx("lo", "ingress", before=number)
        with pytest.raises(ValueError, match="either before or after"):
            program.attach_tcx("lo", "ingress", before=True, after=True)

    Network(body)


@pytest.mark.rows("host")  # the guests' kernels have clsact as a module, which they lack
@pytest.mark.parametrize("priority", [None, 7])
def test_tc(obj: pybpf.Object, priority: int | None) -> None:
    """A filter runs while attached; the qdisc goes with the filter that made it."""

    def body(inbox: socket.socket) -> None:
        runs = obj.maps["runs"]
        first = obj.programs["tc_in"].attach_tc("lo", priority=priority)
        second = obj.programs["tc_first"].attach_tc("lo", "ingress", priority=priority)
        with obj.programs["tc_out"].attach_tc("lo"):
            send(inbox)
            second.detach()
            send(inbox)
        first.close()
        send(inbox)
        assert (runs[TC_IN], runs[TC_FIRST], runs[TC_OUT]) == (2 * PACKETS, PACKETS, 2 * PACKETS)
        assert not first.attached and not second.attached
        from pyroute2 import IPRoute

        with IPRoute() as route:
            kinds = [one.get_attr("TCA_KIND") for one in route.get_qdiscs(1)]
        assert "clsact" not in kinds

    Network(body)


@pytest.mark.rows("host")
def test_tc_places(obj: pybpf.Object) -> None:
    """A priority may be shared; wrong ones are refused."""

    def body(inbox: socket.socket) -> None:
        attach = obj.programs["tc_in"].attach_tc
        with attach("lo", priority=3), attach("lo", priority=3):
            send(inbox)
        assert obj.maps["runs"][TC_IN] == 2 * PACKETS
        with pytest.raises(ValueError, match="priority 0"):
            attach("lo", priority=0)
        with pytest.raises(ValueError, match="direction 'up'"):
            attach("lo", "up")
        said = (
            r"program 'whole' \(xdp\): tc egress on lo: EINVAL: .*'xdp': call attach_xdp\(interface"
        )
        with pytest.raises(BpfError, match=said):
            obj.programs["whole"].attach_tc("lo", "egress")
        from pyroute2 import IPRoute

        with IPRoute() as route:
            assert "clsact" not in [one.get_attr("TCA_KIND") for one in route.get_qdiscs(1)]

    Network(body)


@pytest.mark.parametrize("mode", ["auto", "generic"])
def test_xdp_by_netlink(obj: pybpf.Object, mode: str) -> None:
    """It drops what comes in (XDP_DROP) while attached; a second is refused."""

    def body(inbox: socket.socket) -> None:
        whole = obj.programs["whole"]
        with whole.attach_xdp("lo", mode, link=False) as link:
            with pytest.raises(BpfError, match="xdp on lo: EBUSY"):
                whole.attach_xdp("lo", mode, link=False)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", inbox.getsockname())
            with pytest.raises(UnsupportedFeature, match=r"pin\(\) of xdp on lo"):
                link.pin("/x")
            assert obj.maps["runs"][TARGET] == 1
        send(inbox)
        assert obj.maps["runs"][TARGET] == 1

    Network(body)


def test_netkit(obj: pybpf.Object) -> None:
    """What the peer sends is seen by the program on the primary, while attached."""

    def body(inbox: socket.socket) -> None:
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        with IPRoute() as route:
            try:
                route.link("add", ifname="kit0", kind="netkit")
            except NetlinkError as error:
                pytest.skip(f"this kernel has no netkit interfaces: {error}")
            peers = [one["index"] for one in route.get_links() if one["index"] > 1]
            primary = socket.if_nametoindex("kit0")
            (peer,) = set(peers) - {primary}
            for index in (primary, peer):
                route.link("set", index=index, state="up")
            name = socket.if_indextoname(peer)
        with obj.programs["on_peer"].attach_netkit("kit0") as link:
            assert link.info().attach_type == AttachType.BPF_NETKIT_PEER
            ping(name)
            seen = obj.maps["runs"][TC_OUT]
            assert seen >= 1
        ping(name)
        assert obj.maps["runs"][TC_OUT] == seen

    Network(body)


def ping(interface: str) -> None:
    # One Ethernet frame, of a type that nobody answers.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        raw.send(bytes(12) + b"\x88\xb5" + bytes(50))


@pytest.mark.parametrize("how", ["tcx", "raw_tp", "tc"])
def test_a_program_of_another_type(obj: pybpf.Object, how: str) -> None:
    """EINVAL is the program's fault, and not taken for a kernel that is too old."""
    program = obj.programs["keep_one"]
    with pytest.raises(BpfError) as caught:
        if how == "raw_tp":
            program.attach_raw_tp("sys_enter", cookie=1)
        else:
            getattr(program, f"attach_{how}")("lo", "ingress")
    if "no clsact" in str(caught.value):
        pytest.skip(str(caught.value))
    assert caught.value.errno == errno.EINVAL
    assert "call attach_socket(" in caught.value.hint
    assert not isinstance(caught.value, UnsupportedFeature)


def test_wrong_devices_and_directions(obj: pybpf.Object) -> None:
    """One error each, naming the program where the kernel is asked."""

    def body(inbox: socket.socket) -> None:
        with pytest.raises(BpfError, match=r"'tc_in'.*'eth7': ENODEV.*there are: lo"):
            obj.programs["tc_in"].attach_tcx("eth7")
        with pytest.raises(ValueError, match="direction '': one of 'ingress', 'egress'"):
            obj.programs["tc_first"].attach_tcx("lo")
        with pytest.raises(ValueError, match="side 'x': one of 'primary', 'peer'"):
            obj.programs["on_peer"].attach_netkit("lo", "x")
        with pytest.raises(BpfError, match="netkit/peer on lo"):
            obj.programs["on_peer"].attach_netkit("lo")

    Network(body)


def test_netfilter() -> None:
    """It sees what comes in, in its family, while attached; a priority is taken once."""

    def body(inbox: socket.socket) -> None:
        with pybpf.open(OBJECT) as obj:
            obj.programs["on_hook"].autoload = True
            try:
                obj.load()
            except pybpf.BpfError as error:
                if "on_hook" in str(error):
                    pytest.skip("this kernel has no netfilter programs (6.4)")
                raise
            program = obj.programs["on_hook"]
            with program.attach_netfilter("ipv4", "input", 10) as link:
                assert (link.info().pf, link.info().hooknum, link.info().priority) == (2, 1, 10)
                send(inbox)
                with pytest.raises(BpfError, match="another program has this priority"):
                    program.attach_netfilter("ipv4", "input", 10)
            with program.attach_netfilter("ipv6", "input", -5):
                send(inbox)
            send(inbox)
            assert obj.maps["runs"][NETFILTER] == PACKETS
            with pytest.raises(ValueError, match="hook 'inpt'"):
                program.attach_netfilter("ipv4", "inpt")

    Network(body)


# UAPI <linux/if_packet.h>. Sockets of such a group get packets by the hash of their flow.
PACKET_FANOUT, PACKET_FANOUT_HASH, ETH_P_ALL = 18, 0, 3


def test_flow_dissector(runs: Map) -> None:
    """It runs when the kernel hashes packets in its network namespace, and stops after close."""

    def hashed(inbox: socket.socket) -> None:
        kind = socket.htons(ETH_P_ALL)
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind) as one,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind) as other,
        ):
            for sock in (one, other):
                sock.bind(("lo", 0))
                group = struct.pack("I", 7 | PACKET_FANOUT_HASH << 16)
                sock.setsockopt(263, PACKET_FANOUT, group)  # SOL_PACKET
            send(inbox)

    def body(inbox: socket.socket) -> None:
        kind, hook = ProgType.BPF_PROG_TYPE_FLOW_DISSECTOR, AttachType.BPF_FLOW_DISSECTOR
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        with pybpf.open(OBJECT) as obj:
            program = obj.programs["on_egress"]
            program.type, program.expected_attach_type = kind, hook
            program._fd = sys_prog.prog_load(kind, counting(runs, 0), expected_attach_type=hook)
            with program.attach_netns(own) as link:
                assert link.info().attach_type == hook
                hashed(inbox)
        seen = counted(runs)
        assert seen >= PACKETS
        hashed(inbox)
        assert counted(runs) == seen

    Network(body)


def test_socket_filter(obj: pybpf.Object) -> None:
    """It cuts what one socket receives, and no longer after close()."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        inbox.bind(("127.0.0.1", 0))
        inbox.settimeout(60)
        with obj.programs["keep_one"].attach_socket(inbox) as link:
            sender.sendto(b"hello", inbox.getsockname())
            assert len(inbox.recv(100)) == 0  # one byte of the UDP header
            with pytest.raises(UnsupportedFeature, match=r"info\(\) of socket filter on AF_INET"):
                link.info()
        sender.sendto(b"hello", inbox.getsockname())
        assert inbox.recv(100) == b"hello"
        assert obj.maps["runs"][FILTER] == 1
        with pytest.raises(BpfError, match=r"'tc_in'.*socket filter on AF_INET.*EINVAL"):
            obj.programs["tc_in"].attach_socket(inbox)
        with pytest.raises(TypeError, match="a socket expected, not int"):
            obj.programs["keep_one"].attach_socket(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["socket filter", "sockmap"])
def test_nothing_stays_attached_without_descriptors(obj: pybpf.Object, kind: str) -> None:
    """With too few free descriptors it fails, and is not attached with nobody to undo it."""
    program, sockets = obj.programs["on_verdict"], obj.maps["sockets"]
    ended = 0
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        inbox.bind(("127.0.0.1", 0))
        inbox.settimeout(60)
        for left in range(8):
            with descriptors_left(left):
                try:
                    if kind == "sockmap":
                        attach_plain(
                            program, sockets.fileno(), program.expected_attach_type
                        ).close()
                    else:
                        obj.programs["keep_one"].attach_socket(inbox).close()
                    ended += 1
                except BpfError as error:
                    assert error.errno == errno.EMFILE
            if kind == "sockmap":
                with program.attach_sockmap(sockets):  # EBUSY if one were left
                    pass
            else:
                sender.sendto(b"hello", inbox.getsockname())
                assert inbox.recv(100) == b"hello"
    assert 0 < ended < 8


def test_reuseport(obj: pybpf.Object) -> None:
    """It is asked for each packet to the group while attached."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        for sock in (inbox, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0) if sock is inbox else inbox.getsockname())
        with (
            obj.programs["on_choice"].attach_reuseport(inbox),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(b"x", inbox.getsockname())
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.sendto(b"x", inbox.getsockname())
        assert obj.maps["runs"][REUSEPORT] == 1


def connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def test_sockmap(obj: pybpf.Object) -> None:
    """A message that a socket of the map sends, and one that it receives, run the programs."""
    client, server = connection()
    runs, sockets = obj.maps["runs"], obj.maps["sockets"]
    with client, server:
        server.settimeout(60)
        with (
            obj.programs["on_message"].attach_sockmap(sockets) as link,
            obj.programs["on_verdict"].attach_sockmap(sockets),
        ):
            assert link.attached
            sockets[0], sockets[1] = client.fileno(), server.fileno()
            client.sendall(b"hello")
            assert server.recv(100) == b"hello"
            assert runs[MESSAGE] == 1 and runs[VERDICT] >= 1
            del sockets[0], sockets[1]
        counts = runs[MESSAGE], runs[VERDICT]
    client, server = connection()
    with client, server:
        sockets[0] = client.fileno()
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
    assert (runs[MESSAGE], runs[VERDICT]) == counts


def test_sockmap_of_another_kind(obj: pybpf.Object) -> None:
    with pytest.raises(BpfError, match="a sockmap or sockhash is needed, not array"):
        obj.programs["on_message"].attach_sockmap(obj.maps["runs"])
    with pytest.raises(BpfError, match=r"parser or verdict\?.*expected_attach_type"):
        obj.programs["on_either"].attach_sockmap(obj.maps["sockets"])


def burn(until: threading.Event) -> None:
    while not until.is_set():
        sum(range(1000))


def sampled(obj: pybpf.Object, more_than: int) -> int:
    """Burn CPU until the program ran more often, or a minute has passed."""
    end = time.monotonic() + 60
    while obj.maps["runs"][SAMPLE] <= more_than and time.monotonic() < end:
        sum(range(10000))
    return int(obj.maps["runs"][SAMPLE])


@pytest.mark.parametrize("how", ["cpus", "process", "period"])
def test_perf_event(obj: pybpf.Object, how: str) -> None:
    """Samples on every CPU, or of one process; with a cookie, and none after close()."""
    program = obj.programs["on_sample"]
    more = {"process": {"pid": os.getpid()}, "period": {"period": 1_000_000}}.get(how, {})
    with program.attach_perf_event("cpu-clock", 200, cookie=0xC00C1E, **more) as links:
        assert isinstance(links, LinkSet) and links.attached
        assert sampled(obj, 0) > 0
        if how == "process":
            assert f"thread {os.getpid()}" in links
        else:
            assert len(links) == len(os.sched_getaffinity(0)) or len(links) > 0
    assert obj.globals.sample_cookie == 0xC00C1E
    before = obj.maps["runs"][SAMPLE]
    for _ in range(20):
        sum(range(100000))
    assert obj.maps["runs"][SAMPLE] == before


def test_perf_event_names(obj: pybpf.Object) -> None:
    """Wrong ones are told apart, and nothing stays attached."""
    attach = obj.programs["on_sample"].attach_perf_event
    with pytest.raises(BpfError, match=r"'on_sample'.*'cpu-clok': ENOENT.*near: cpu-clock"):
        attach("cpu-clok")
    with pytest.raises(BpfError, match="process 4194304: ESRCH"):
        attach(pid=1 << 22)
    with pytest.raises(BpfError, match="a frequency in Hz, or a period"):
        attach(frequency=0)
    with pytest.raises(BpfError, match=r"of cpu 9999: .*does not exist, or is offline; there are"):
        attach(cpu=9999)
    with pytest.raises(TypeError, match="event: str expected"):
        attach(1)  # type: ignore[arg-type]


def test_freplace(obj: pybpf.Object) -> None:
    """It runs instead of the function while attached; then the function runs again."""
    whole = obj.programs["whole"]
    program = obj.programs["other_answer"]
    assert not program.loaded and program.attach_problem is not None
    assert "attach_freplace(target_program, function)" in program.attach_problem.hint
    assert whole.test_run(bytes(64)).retval == 1
    try:
        link = program.attach_freplace(whole)
    except BpfError as error:
        if error.errno == 1:
            pytest.skip(f"policy: {error}")
        raise
    with link:
        assert whole.test_run(bytes(64)).retval == 2
    assert whole.test_run(bytes(64)).retval == 1
    with program.attach_freplace(whole, "answer"):
        assert whole.test_run(bytes(64)).retval == 2
    assert (obj.maps["runs"][TARGET], obj.maps["runs"][REPLACED]) == (2, 2)


@pytest.mark.needs(Feature.FENTRY)
def test_tracing_of_a_bpf_program(obj: pybpf.Object) -> None:
    """fentry on a global function of a program, fexit on the program: once a run, while attached;
    links say of which program's function they are."""
    whole, runs = obj.programs["whole"], obj.maps["runs"]
    for name in ("on_answer", "on_whole"):
        program = obj.programs[name]
        program.target_program = whole
        program.load()
        with program.attach() as link:
            whole.test_run(bytes(64))
            (info,) = [one for one in kernel.links() if one.id == link.id]
            assert info.target == f"{program.attach_to} of program {whole.info().id}"
    whole.test_run(bytes(64))
    assert (runs[ENTERED], runs[LEFT]) == (1, 1)


def test_freplace_of_nothing(obj: pybpf.Object) -> None:
    program = obj.programs["other_answer"]
    with pytest.raises(BpfError, match=r"function 'answr' of program 'whole': ESRCH.*answer"):
        program.attach_freplace(obj.programs["whole"], "answr")
    with pytest.raises(BpfError, match="no program and function to replace"):
        program.load()
    with pytest.raises(BpfError, match="does not say which program's function"):
        program.attach()


def test_what_pybpf_does_not_attach() -> None:
    """lirc and lwt programs are refused with what to do instead."""
    from pybpf.links import table

    for how, word in (("lirc", "ir-keytable"), ("lwt", "ip route")):
        problem = table.problem(how, how, "")
        assert problem is not None and word in problem.hint
