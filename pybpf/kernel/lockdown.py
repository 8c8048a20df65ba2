"""Policies that make a capable kernel answer EPERM: lockdown, sysctls, capabilities.

These are facts for tables and saved snapshots. The explanation in a
`DeniedByPolicy` is made where the refusal happened, in `pybpf._sys`.
"""

from __future__ import annotations

from enum import Enum

from ..dataclass import dataclass
from ..digits import hexadecimal, number

__all__ = ["Lockdown", "Policy", "parse_lockdown", "read_policy"]


class Lockdown(Enum):
    """State of ``/sys/kernel/security/lockdown``. UNKNOWN if securityfs does not tell."""

    NONE = "none"
    INTEGRITY = "integrity"
    CONFIDENTIALITY = "confidentiality"
    UNKNOWN = "unknown"


#: What `read_policy` reads below /proc/sys.
SYSCTLS = (
    "kernel/kptr_restrict",
    "kernel/unprivileged_bpf_disabled",
    "kernel/perf_event_paranoid",
    "kernel/bpf_stats_enabled",
    "kernel/ftrace_enabled",
    "kernel/dmesg_restrict",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/bpf_jit_kallsyms",
    "debug/kprobes-optimization",
)


def parse_lockdown(text: str) -> Lockdown:
    """Parse the bracketed word in ``none [integrity] confidentiality``."""
    _, bracket, rest = text.partition("[")
    word = rest.partition("]")[0] if bracket else ""
    try:
        return Lockdown(word)
    except ValueError:
        return Lockdown.UNKNOWN


@dataclass(frozen=True, slots=True)
class Policy:
    """Hold the policies that may forbid an action.

    :param lockdown: lockdown level
    :param effective: this process's effective capability mask, ``CapEff``
    :param sysctls: integer sysctls by name, ``kernel.kptr_restrict``...; only
        those that exist
    """

    lockdown: Lockdown
    effective: int
    sysctls: tuple[tuple[str, int], ...] = ()

    def sysctl(self, name: str) -> int | None:
        """Return the value of one sysctl, None if this kernel does not have it."""
        return dict(self.sysctls).get(name)


def _text(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.readall().decode("ascii", "replace").strip()
    except OSError:
        return ""


def read_policy() -> Policy:
    """Read the policies of this machine as this process sees them. Never fails."""
    effective = 0
    for line in _text("/proc/self/status").split("\n"):
        if line.startswith("CapEff:"):
            effective = hexadecimal(line.partition(":")[2].strip()) or 0
    sysctls = []
    for path in SYSCTLS:
        value = number(_text(f"/proc/sys/{path}"))
        if value is not None:
            sysctls.append((path.replace("/", "."), value))
    lockdown = parse_lockdown(_text("/sys/kernel/security/lockdown"))
    return Policy(lockdown, effective, tuple(sysctls))
