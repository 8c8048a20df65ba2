"""Links without a kernel: closed, detached, pinned; one or many."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf._sys import denied
from pybpf._sys import link as sys_link
from pybpf._sys.fd import Fd
from pybpf._uapi.defines import CAP_BPF, CAP_NET_ADMIN
from pybpf.errors import BpfError, DeniedByPolicy
from pybpf.kernel.kallsyms import Kallsyms
from pybpf.links import Link, LinkSet, PerfLink, kprobe
from pybpf.links import cgroup as cgroup_module
from pybpf.links.link import Request


def null(what: str = "link") -> Fd:
    return Fd(os.open(os.devnull, os.O_RDONLY), what)


@pytest.fixture
def detached(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """BPF_LINK_DETACH works; the descriptors it was called with."""
    seen: list[int] = []
    monkeypatch.setattr(sys_link, "link_detach", seen.append)
    return seen


@pytest.fixture
def closing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has no BPF_LINK_DETACH for these links (tracing, kprobe ...)."""

    def refuse(fd: int) -> None:
        raise BpfError(errno.EOPNOTSUPP, "BPF_LINK_DETACH")

    monkeypatch.setattr(sys_link, "link_detach", refuse)


@pytest.fixture
def pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins are plain files."""
    monkeypatch.setattr(sys_bpf, "obj_pin", lambda fd, path: Path(path).touch())


def test_what_is_logged_of_a_link(caplog: pytest.LogCaptureFixture) -> None:
    """When it is opened and when it is closed, once each, and what it is attached to."""
    with caplog.at_level("DEBUG", "pybpf.links"), Link(null(), "fentry/vfs_read") as link:
        link.close()
    assert caplog.messages == ["opened fentry/vfs_read", "closed fentry/vfs_read"]


def test_detach_uses_the_kernels(detached: list[int]) -> None:
    """Once, and the descriptor is released as well."""
    link = Link(null(), "xdp on v0")
    number = link.fileno()
    assert link.attached
    link.detach()
    assert detached == [number] and not link.attached and link.closed
    link.detach()
    link.close()
    assert detached == [number]


@pytest.mark.usefixtures("closing_only", "pinning")
def test_detach_closes_where_the_kernel_has_none(tmp_path: Path) -> None:
    """Never EOPNOTSUPP; pins would keep it attached, so they go too."""
    link = PerfLink(null(), null("event"), "kprobe/x")
    link.pin(tmp_path / "one")
    link.pin(str(tmp_path / "two"))
    (tmp_path / "one").unlink()  # somebody else did
    link.detach()
    assert link.closed and not list(tmp_path.iterdir())
    link.detach()


@pytest.mark.usefixtures("pinning")
def test_detach_with_the_kernels_leaves_pins(detached: list[int], tmp_path: Path) -> None:
    """They hold a link that is attached to nothing."""
    link = Link(null(), "xdp on v0")
    link.pin(tmp_path / "pin")
    link.detach()
    assert (tmp_path / "pin").exists()


@pytest.mark.usefixtures("pinning")
def test_close_leaves_pins(detached: list[int], tmp_path: Path) -> None:
    """Closing is not detaching: what is pinned stays attached."""
    link = Link(null(), "x")
    link.pin(tmp_path / "pin")
    link.close()
    assert (tmp_path / "pin").exists() and detached == []


def test_another_error_of_detach_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only EOPNOTSUPP means that there is no such thing for this kind."""

    def refuse(fd: int) -> None:
        raise BpfError(errno.EPERM, "BPF_LINK_DETACH")

    monkeypatch.setattr(sys_link, "link_detach", refuse)
    with Link(null(), "x") as link:
        with pytest.raises(BpfError, match="EPERM"):
            link.detach()
        assert link.attached


@pytest.mark.usefixtures("closing_only")
def test_a_set_detaches_last_first_and_stays_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every link is tried; the first error is raised afterwards."""
    order: list[str] = []
    close = Link.close

    def closing(self: Link) -> None:
        order.append(self.what)
        close(self)
        if self.what == "b":
            raise OSError("b fails")

    monkeypatch.setattr(Link, "close", closing)
    links = LinkSet()
    for name in "abc":
        links[name] = Link(null(), name)
    assert links.attached
    with pytest.raises(OSError, match="b fails"):
        links.detach()
    assert order == ["c", "b", "a"] and list(links) == ["a", "b", "c"] and not links.attached
    with pytest.raises(OSError, match="b fails"):
        links.close()
    assert not links


@pytest.mark.parametrize(
    ("caps", "hint"),
    [
        (1 << CAP_BPF, "this process lacks CAP_NET_ADMIN"),
        (1 << CAP_BPF | 1 << CAP_NET_ADMIN, "a cgroup above, or another program here, does not"),
    ],
)
def test_who_refused_a_cgroup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caps: int, hint: str
) -> None:
    """EPERM is a missing capability first, then what is attached there."""

    def refuse(*args: object, **more: object) -> Link:
        raise BpfError(errno.EPERM, "BPF_LINK_CREATE")

    monkeypatch.setattr(denied, "circumstances", lambda: denied.Circumstances(caps))
    monkeypatch.setattr(cgroup_module, "attach_to_fd", refuse)
    with null() as program, pytest.raises(BpfError) as caught:
        cgroup_module.attach_cgroup(program, tmp_path, 1)
    assert caught.value.hint.startswith(hint)


@pytest.fixture
def syscalls(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Attach to ``ksyscall/NAME`` on a kernel that has three entries. What became of it."""
    entries = {"__x64_sys_getpgid", "__se_sys_getpgid", "sys_ni_call"}

    def open_kprobe(function: str, *args: object, **how: object) -> str:
        if function not in entries:
            raise BpfError(errno.ENOENT, "perf_event_open")
        return function

    def attach(name: str) -> str:
        program = SimpleNamespace(fileno=lambda: 3)
        symbols = Kallsyms("".join(f"ffffffff81000000 T {entry}\n" for entry in sorted(entries)))
        facts = SimpleNamespace(kallsyms=symbols)
        return kprobe.syscall_by_section(Request(program, "ksyscall", name, 0, False, 7, facts))

    monkeypatch.setattr(kprobe.perf, "open_kprobe", open_kprobe)
    monkeypatch.setattr(kprobe, "attach_perf_event", lambda program, event, **how: event)
    return attach


def test_a_system_call_needs_no_symbols(
    syscalls: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel knows its entries. A user without CAP_SYSLOG cannot read them."""
    monkeypatch.delattr(Kallsyms, "by_name")
    monkeypatch.delattr(Kallsyms, "find_prefix")
    assert syscalls("getpgid") == "__x64_sys_getpgid"
    assert syscalls("ni_call") == "sys_ni_call"


def test_an_unknown_system_call(
    syscalls: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near names come from the symbols, if they may be read. Other refusals stay as they are."""
    with pytest.raises(BpfError, match=r"system call 'getpgidd': ENOENT.*near: getpgid\)$"):
        syscalls("getpgidd")

    def hidden(self: Kallsyms, prefix: str) -> None:
        raise DeniedByPolicy(errno.EPERM, "kernel addresses")

    monkeypatch.setattr(Kallsyms, "find_prefix", hidden)
    with pytest.raises(BpfError, match=r"system call 'getpgidd': ENOENT: [^(]*$"):
        syscalls("getpgidd")

    def refuse(*args: object, **how: object) -> None:
        raise DeniedByPolicy(errno.EACCES, "perf_event_open")

    monkeypatch.setattr(kprobe.perf, "open_kprobe", refuse)
    with pytest.raises(DeniedByPolicy, match="kprobe/__x64_sys_getpgid"):
        syscalls("getpgid")
