"""Who refused: the reasons behind EPERM, and paths that are on no bpf file system."""

from __future__ import annotations

from errno import E2BIG, EACCES, EINVAL, EPERM
from pathlib import Path

import pytest

from pybpf._sys import denied, lockdown
from pybpf._sys.denied import PERF_EVENT_OPEN, Circumstances, explain
from pybpf._uapi.defines import CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN
from pybpf._uapi.enums import Cmd, ProgType
from pybpf.errors import BpfError, DeniedByPolicy


def _caps(*numbers: int) -> int:
    return sum(1 << n for n in numbers)


EVERYTHING = (1 << 41) - 1


@pytest.mark.parametrize(
    ("seen", "cmd", "needs", "expected"),
    [
        (
            Circumstances(0, unprivileged_bpf_disabled=2),
            Cmd.BPF_MAP_CREATE,
            (),
            "this process lacks CAP_BPF, and kernel.unprivileged_bpf_disabled is 2",
        ),
        (
            Circumstances(0, unprivileged_bpf_disabled=0),
            Cmd.BPF_MAP_CREATE,
            (),
            "this process lacks CAP_BPF",
        ),
        (
            Circumstances(_caps(CAP_BPF)),
            Cmd.BPF_PROG_LOAD,
            (CAP_BPF, CAP_PERFMON),
            "this process lacks CAP_PERFMON",
        ),
        (
            Circumstances(_caps(CAP_BPF, CAP_PERFMON)),
            Cmd.BPF_LINK_GET_FD_BY_ID,
            (),
            "this process lacks CAP_SYS_ADMIN",
        ),
        (
            Circumstances(0, perf_event_paranoid=3),
            PERF_EVENT_OPEN,
            (),
            "this process lacks CAP_PERFMON, and kernel.perf_event_paranoid is 3",
        ),
        (
            Circumstances(EVERYTHING, initial_userns=False, lockdown="none"),
            Cmd.BPF_PROG_LOAD,
            (),
            "this process is in a user namespace, where its capabilities do not count "
            "without a BPF token (bpf_token_path)",
        ),
        (
            Circumstances(EVERYTHING, initial_userns=False),
            PERF_EVENT_OPEN,
            (),
            "this process is in a user namespace, where its capabilities do not count",
        ),
        (
            Circumstances(EVERYTHING, lockdown="confidentiality", seccomp=True),
            Cmd.BPF_PROG_LOAD,
            (),
            "kernel lockdown is in confidentiality mode",
        ),
        (
            Circumstances(EVERYTHING, seccomp=True),
            Cmd.BPF_MAP_CREATE,
            (),
            "a seccomp filter is active; the process has the capabilities",
        ),
        (
            Circumstances(EVERYTHING, lockdown="none", lsms="lockdown,capability,selinux"),
            Cmd.BPF_PROG_LOAD,
            (),
            "an LSM [lockdown,capability,selinux] or host policy: the process has the"
            " capabilities and no lockdown is active",
        ),
        (
            Circumstances(EVERYTHING),
            Cmd.BPF_PROG_LOAD,
            (),
            "an LSM or host policy: the process has the capabilities; /sys/kernel/security, which"
            " tells lockdown and LSMs, is not mounted",
        ),
        (
            Circumstances(EVERYTHING, lockdown="integrity"),
            Cmd.BPF_PROG_LOAD,
            (),
            "an LSM or host policy: the process has the capabilities; kernel lockdown is in"
            " integrity mode",
        ),
    ],
)
def test_explain(seen: Circumstances, cmd: int, needs: tuple[int, ...], expected: str) -> None:
    """The most certain reason is named, and nothing that was not seen."""
    assert explain(seen, cmd, needs) == expected


def test_cap_sys_admin_stands_in_for_the_newer_ones() -> None:
    """Since 5.8 CAP_SYS_ADMIN still counts as CAP_BPF and CAP_PERFMON, so nothing is missing."""
    admin = Circumstances(_caps(CAP_SYS_ADMIN), lockdown="none")
    for needs in ((CAP_BPF,), (CAP_BPF, CAP_PERFMON), (CAP_BPF, CAP_NET_ADMIN)):
        assert "lacks" not in explain(admin, Cmd.BPF_PROG_LOAD, needs)


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        (ProgType.BPF_PROG_TYPE_KPROBE, (CAP_BPF, CAP_PERFMON)),
        (ProgType.BPF_PROG_TYPE_TRACING, (CAP_BPF, CAP_PERFMON)),
        (ProgType.BPF_PROG_TYPE_SOCKET_FILTER, (CAP_BPF,)),
        (ProgType.BPF_PROG_TYPE_XDP, (CAP_BPF, CAP_NET_ADMIN)),
    ],
)
def test_what_a_program_type_takes(kind: int, needs: tuple[int, ...]) -> None:
    """Tracing needs CAP_PERFMON, networking CAP_NET_ADMIN, a socket filter neither."""
    assert denied.program_needs(kind) == needs


def _files(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    monkeypatch.setattr(denied, "_read", lambda path: files.get(path, ""))


def test_circumstances_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fact comes from its file."""
    _files(
        monkeypatch,
        {
            "/proc/self/status": "Name:\tx\nSeccomp:\t2\nCapEff:\t000000c000000000\n",
            "/sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
            "/sys/kernel/security/lsm": "lockdown,capability\n",
            "/proc/sys/kernel/unprivileged_bpf_disabled": "1\n",
            "/proc/sys/kernel/perf_event_paranoid": "-1\n",
        },
    )
    monkeypatch.setattr(denied, "is_first", {"user": False}.get)
    assert denied.circumstances() == Circumstances(
        caps=_caps(CAP_BPF, CAP_PERFMON),
        initial_userns=False,
        seccomp=True,
        lockdown="integrity",
        unprivileged_bpf_disabled=1,
        perf_event_paranoid=-1,
        lsms="lockdown,capability",
    )


def test_unreadable_circumstances_stay_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc and securityfs nothing is claimed of them."""
    _files(monkeypatch, {})
    monkeypatch.setattr(denied, "is_first", lambda kind: None)
    seen = denied.circumstances()
    assert seen == Circumstances(caps=0)


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
bpf /sys/fs/bpf bpf rw 0 0
tmpfs /run tmpfs rw 0 0
bpf /run/my\\040bpf bpf rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/tmp-of-nobody/x", "the path is on ext4, not on a bpf file system"),
        ("/run/pin", "the path is on tmpfs, not on a bpf file system"),
    ],
)
def test_a_path_elsewhere_is_no_policy(
    monkeypatch: pytest.MonkeyPatch, path: str, hint: str
) -> None:
    """EPERM of BPF_OBJ_PIN off bpffs says where the path is instead of blaming rights."""
    _files(monkeypatch, {"/proc/self/mounts": MOUNTS})
    error = denied.path_error(EPERM, Cmd.BPF_OBJ_PIN, path)
    assert type(error) is BpfError and error.hint == hint
    assert str(error).startswith(f"BPF_OBJ_PIN {path}: EPERM")


@pytest.mark.parametrize("path", ["/sys/fs/bpf/x", "/run/my bpf/x"])
def test_a_path_on_bpffs_is_policy(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """EPERM and EACCES on a bpf file system are about rights; other errnos stay plain."""
    _files(monkeypatch, {"/proc/self/mounts": MOUNTS})
    refusal = denied.path_error(EACCES, Cmd.BPF_OBJ_GET, path)
    assert isinstance(refusal, DeniedByPolicy) and "permissions" in refusal.hint
    assert isinstance(denied.path_error(EPERM, Cmd.BPF_OBJ_GET, path), DeniedByPolicy)
    assert denied.path_error(EINVAL, Cmd.BPF_OBJ_GET, path).hint == ""


def test_a_relative_path_is_looked_up_from_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pin path without a directory is in the current one."""
    _files(monkeypatch, {"/proc/self/mounts": f"x / ext4 rw 0 0\nt {tmp_path} tmpfs rw 0 0\n"})
    monkeypatch.chdir(tmp_path)
    assert "tmpfs" in denied.path_error(EPERM, Cmd.BPF_OBJ_PIN, "pin").hint


def test_load_hints() -> None:
    """A refusal before verification is explained by what can be known of it."""
    assert "1000001 instructions" in denied.load_hint(E2BIG, 1_000_001, 0)
    assert "older than this feature" in denied.load_hint(E2BIG, 2, 0)
    assert "no instructions" in denied.load_hint(E2BIG, 0, 0)
    assert "unknown program type" in denied.load_hint(EINVAL, 2, 0)
    assert "this target" in denied.load_hint(EINVAL, 2, 99)
    assert denied.load_hint(EPERM, 2, 99) == ""


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("confidentiality", "kernel lockdown is in confidentiality mode"),
        ("integrity", "root only"),
        ("", "root only"),
    ],
)
def test_why_a_trace_cannot_be_read(monkeypatch: pytest.MonkeyPatch, level: str, said: str) -> None:
    """Only confidentiality mode forbids reading, and it is blamed before the rights are."""
    shown = f"none [{level}]" if level else ""
    _files(monkeypatch, {"/sys/kernel/security/lockdown": shown})
    assert lockdown.read_hint("root only") == said


@pytest.mark.parametrize(
    ("caps", "said"),
    [
        ("0", "root only"),
        ("2", "the process has the capabilities"),  # CAP_DAC_OVERRIDE
        ("4", "the process has the capabilities"),  # CAP_DAC_READ_SEARCH
        ("20000", "root only"),  # CAP_SYS_RAWIO
    ],
)
def test_root_is_not_told_that_only_root_may(
    monkeypatch: pytest.MonkeyPatch, caps: str, said: str
) -> None:
    """Whoever has the rights is refused by a policy; without a reason none is made up."""
    _files(monkeypatch, {"/proc/self/status": f"CapEff:\t{caps:0>16}\n"})
    assert said in lockdown.read_hint("root only")
    assert lockdown.read_hint("") == ""
