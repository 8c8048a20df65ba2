"""Explain EPERM and EACCES: who refused, as far as the process can see.

The kernel gives the same errno for a missing capability, a lockdown, a sysctl, a
seccomp filter and a security module. `circumstances` reads what can be
known, once and only when something was refused. `explain` turns it into one
sentence, the most certain reason first.
"""

from __future__ import annotations

import os
from errno import E2BIG, EACCES, EINVAL, ENOENT, EPERM

from .._uapi.defines import CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYSLOG
from .._uapi.enums import Cmd
from .._uapi.enums import ProgType as T
from ..digits import hexadecimal, number
from ..errors import BpfError, DeniedByPolicy
from ..namedtuple import NamedTuple
from .files import parse_mounts
from .namespaces import is_first

__all__ = [
    "PERF_EVENT_OPEN",
    "Circumstances",
    "by_policy",
    "circumstances",
    "denied",
    "explain",
    "lacking",
    "load_hint",
    "path_error",
    "program_needs",
]

MAX_INSNS = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS, include/linux/bpf.h

#: Stands for perf_event_open(2) where a ``bpf_cmd`` is expected.
PERF_EVENT_OPEN = -1

_CAPS = {
    CAP_BPF: "CAP_BPF",
    CAP_PERFMON: "CAP_PERFMON",
    CAP_NET_ADMIN: "CAP_NET_ADMIN",
    CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
    CAP_SYSLOG: "CAP_SYSLOG",
}
# Capabilities a command checks before anything else (kernel/bpf/syscall.c). The caller passes
# those that depend on the program or map type.
_NEEDS: dict[int, tuple[int, ...]] = {
    PERF_EVENT_OPEN: (CAP_PERFMON,),
    Cmd.BPF_MAP_CREATE: (CAP_BPF,),
    Cmd.BPF_PROG_LOAD: (CAP_BPF,),
    Cmd.BPF_BTF_LOAD: (CAP_BPF,),
    Cmd.BPF_PROG_GET_NEXT_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_MAP_GET_NEXT_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_BTF_GET_NEXT_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_LINK_GET_NEXT_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_PROG_GET_FD_BY_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_MAP_GET_FD_BY_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_BTF_GET_FD_BY_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_LINK_GET_FD_BY_ID: (CAP_SYS_ADMIN,),
    Cmd.BPF_TASK_FD_QUERY: (CAP_SYS_ADMIN,),
    Cmd.BPF_ENABLE_STATS: (CAP_SYS_ADMIN,),
    Cmd.BPF_RAW_TRACEPOINT_OPEN: (CAP_BPF, CAP_PERFMON),
    Cmd.BPF_LINK_CREATE: (CAP_BPF,),
    Cmd.BPF_ITER_CREATE: (CAP_BPF,),
}


_TRACING = frozenset(
    {
        T.BPF_PROG_TYPE_KPROBE,
        T.BPF_PROG_TYPE_TRACEPOINT,
        T.BPF_PROG_TYPE_PERF_EVENT,
        T.BPF_PROG_TYPE_RAW_TRACEPOINT,
        T.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
        T.BPF_PROG_TYPE_TRACING,
        T.BPF_PROG_TYPE_LSM,
        T.BPF_PROG_TYPE_STRUCT_OPS,
        T.BPF_PROG_TYPE_EXT,
    }
)
_UNPRIVILEGED = frozenset(
    {
        T.BPF_PROG_TYPE_SOCKET_FILTER,
        T.BPF_PROG_TYPE_CGROUP_SKB,
        T.BPF_PROG_TYPE_SK_REUSEPORT,
        T.BPF_PROG_TYPE_CGROUP_DEVICE,
        T.BPF_PROG_TYPE_CGROUP_SYSCTL,
        T.BPF_PROG_TYPE_SYSCALL,
    }
)


# Options of a bpf file system that a token comes from, for each command that takes tokens.
_DELEGATED: dict[int, str] = {
    Cmd.BPF_MAP_CREATE: "delegate_cmds=map_create, delegate_maps= with the map's type",
    Cmd.BPF_BTF_LOAD: "delegate_cmds=btf_load",
    Cmd.BPF_PROG_LOAD: "delegate_cmds=prog_load, delegate_progs= with the program's type, "
    "delegate_attachs= with its attach type",
}


class Circumstances(NamedTuple):
    """Hold what a process can find out about its own rights.

    :ivar caps: effective capabilities, bit n = capability number n
    :ivar initial_userns: False in a user namespace, where capabilities do not count here
    :ivar seccomp: a seccomp filter is active
    :ivar lockdown: ``none``, ``integrity``, ``confidentiality``, or "" if not known
    :ivar unprivileged_bpf_disabled: the sysctl, or None if not readable
    :ivar perf_event_paranoid: the sysctl, or None if not readable
    :ivar lsms: active security modules, or "" if not known
    """

    caps: int
    initial_userns: bool = True
    seccomp: bool = False
    lockdown: str = ""
    unprivileged_bpf_disabled: int | None = None
    perf_event_paranoid: int | None = None
    lsms: str = ""


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 65536).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _number(path: str) -> int | None:
    return number(_read(path).strip())


def circumstances() -> Circumstances:
    """Read them from /proc and /sys. What cannot be read stays unknown."""
    status = dict(
        line.split(":", 1) for line in _read("/proc/self/status").split("\n") if ":" in line
    )
    lockdown = _read("/sys/kernel/security/lockdown")
    chosen = lockdown.partition("[")[2].partition("]")[0]
    return Circumstances(
        caps=hexadecimal(status.get("CapEff", "").strip()) or 0,
        initial_userns=is_first("user") is not False,
        seccomp=status.get("Seccomp", "0").strip() == "2",
        lockdown=chosen,
        unprivileged_bpf_disabled=_number("/proc/sys/kernel/unprivileged_bpf_disabled"),
        perf_event_paranoid=_number("/proc/sys/kernel/perf_event_paranoid"),
        lsms=_read("/sys/kernel/security/lsm").strip(),
    )


def _missing(caps: int, needs: tuple[int, ...]) -> list[str]:
    # CAP_SYS_ADMIN replaces CAP_BPF and CAP_PERFMON, as in the kernel's bpf_capable() and
    # perfmon_capable(). It replaces CAP_NET_ADMIN only in bpf_net_capable(), so here too.
    admin = caps >> CAP_SYS_ADMIN & 1
    return [_CAPS.get(n, f"capability {n}") for n in needs if not (caps >> n & 1 or admin)]


def lacking(*needs: int) -> str:
    """Say which of these ``CAP_*`` numbers this process does not have, "" if it has all."""
    missing = _missing(circumstances().caps, needs)
    return f"this process lacks {' and '.join(missing)}" if missing else ""


def explain(
    seen: Circumstances, cmd: int, needs: tuple[int, ...] = (), *, token: bool = False
) -> str:
    """Say in one sentence which capability, lockdown, sysctl or policy refused `cmd`.

    :param cmd: ``enum bpf_cmd`` or `PERF_EVENT_OPEN`
    :param needs: ``CAP_*`` numbers it requires; by default those of the command
    :param token: it was called with a BPF token
    """
    missing = _missing(seen.caps, needs or _NEEDS.get(cmd, ()))
    if missing:
        text = f"this process lacks {' and '.join(missing)}"
        if cmd == PERF_EVENT_OPEN and seen.perf_event_paranoid is not None:
            return f"{text}, and kernel.perf_event_paranoid is {seen.perf_event_paranoid}"
        if cmd in (Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD) and seen.unprivileged_bpf_disabled:
            value = seen.unprivileged_bpf_disabled
            return f"{text}, and kernel.unprivileged_bpf_disabled is {value}"
        return text
    if token and cmd in _DELEGATED:
        return f"the BPF token does not allow it; these may lack it: {_DELEGATED[cmd]}"
    policy = by_policy(seen)
    if not seen.initial_userns and cmd in _DELEGATED:
        return f"{policy} without a BPF token (bpf_token_path)"
    return policy


def by_policy(seen: Circumstances) -> str:
    """Say what may have refused a process that has the capabilities."""
    if not seen.initial_userns:
        return "this process is in a user namespace, where its capabilities do not count"
    if seen.lockdown == "confidentiality":
        return "kernel lockdown is in confidentiality mode"
    if seen.seccomp:
        return "a seccomp filter is active; the process has the capabilities"
    modules = f" [{seen.lsms}]" if seen.lsms else ""
    text = f"an LSM{modules} or host policy: the process has the capabilities"
    if not seen.lockdown and not seen.lsms:
        return f"{text}; /sys/kernel/security, which tells lockdown and LSMs, is not mounted"
    if seen.lockdown == "integrity":
        return f"{text}; kernel lockdown is in integrity mode"
    return f"{text} and no lockdown is active" if seen.lockdown == "none" else text


def file_system(path: str) -> str:
    """Return the type of the file system of a path's folder, ``bpf`` or ``ext4``.

    :returns: "" if it is not known
    """
    path = os.path.realpath(os.path.dirname(path) or ".")
    best, kind = "", ""
    for mount in parse_mounts(_read("/proc/self/mounts")):
        inside = path == mount.path or path.startswith(mount.path.rstrip("/") + "/")
        if inside and len(mount.path) >= len(best):
            best, kind = mount.path, mount.kind
    return kind


def denied(
    errno: int, doing: str, cmd: int, needs: tuple[int, ...] = (), *, token: bool = False
) -> DeniedByPolicy:
    """Make the exception for EPERM or EACCES of `cmd`. For the parameters see `explain`."""
    return DeniedByPolicy(errno, doing, explain(circumstances(), cmd, needs, token=token))


def path_error(errno: int, cmd: Cmd, path: str) -> BpfError:
    """Make the exception for a refused BPF_OBJ_PIN or BPF_OBJ_GET."""
    doing = f"{cmd.name} {path}"
    if errno in (EPERM, EACCES, EINVAL, ENOENT):
        kind = file_system(path)
        if kind and kind != "bpf":
            return BpfError(errno, doing, f"the path is on {kind}, not on a bpf file system")
        if errno == EPERM and kind == "bpf" and "." in os.path.basename(path):
            # bpf_lookup(), kernel/bpf/inode.c: "reserved for future use"
            return BpfError(errno, doing, "a bpf file system allows no dot in a name")
    if errno == EACCES:
        return DeniedByPolicy(errno, doing, "the permissions of the path forbid it")
    if errno == EPERM:
        return denied(errno, doing, cmd)
    return BpfError(errno, doing)


def program_needs(prog_type: int) -> tuple[int, ...]:
    """List the ``CAP_*`` numbers BPF_PROG_LOAD requires for a program type (is_perfmon_prog_type
    and is_net_admin_prog_type in kernel/bpf/syscall.c)."""
    if prog_type in _TRACING:
        return CAP_BPF, CAP_PERFMON
    if prog_type in _UNPRIVILEGED:
        return (CAP_BPF,)
    return CAP_BPF, CAP_NET_ADMIN


def load_hint(errno: int, insn_cnt: int, attach_btf_id: int) -> str:
    """Say what a refusal before verification may mean, "" if not known."""
    if errno == E2BIG and insn_cnt > MAX_INSNS:
        return f"{insn_cnt} instructions, but the kernel allows {MAX_INSNS}"
    if errno == E2BIG and insn_cnt:
        return "the kernel does not know one of the attributes: it is older than this feature"
    if not insn_cnt:
        return "the program has no instructions"
    if errno == EINVAL and not attach_btf_id:
        return "the verifier did not start: unknown program type, attach type or flag, or no target"
    if errno == EINVAL:
        return "the verifier did not start: it does not allow this target, or an attribute"
    return ""
