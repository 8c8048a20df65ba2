"""Recognize what a kernel lockdown refused without saying so.

In confidentiality mode, programs may not call the helpers that read kernel memory. The kernel does
not answer EPERM. Instead, its verifier says that it does not know the helper.
"""

from __future__ import annotations

import re

from .._uapi.defines import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
from .._uapi.helpers import Helper
from . import denied

__all__ = ["locked_helper", "read_hint"]

_CONFIDENTIAL = "confidentiality"
# Who has one of them may open what only root may read.
_ROOTS = (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)
# Levels that take a helper from programs (bpf_base_func_proto in kernel/bpf/helpers.c and
# bpf_tracing_func_proto in kernel/trace/bpf_trace.c).
_LOCKED: dict[int, tuple[str, ...]] = {
    Helper.BPF_FUNC_probe_read: (_CONFIDENTIAL,),
    Helper.BPF_FUNC_probe_read_str: (_CONFIDENTIAL,),
    Helper.BPF_FUNC_probe_read_kernel: (_CONFIDENTIAL,),
    Helper.BPF_FUNC_probe_read_kernel_str: (_CONFIDENTIAL,),
    Helper.BPF_FUNC_probe_write_user: ("integrity", _CONFIDENTIAL),
}
# What the verifier says of a helper that a program may not call; the second since 6.11.
_REFUSED = re.compile(r"(?:unknown func|cannot use helper) (\w+)#(\d+)")


def locked_helper(said: str) -> str:
    """Say which helper a lockdown took from a refused program, "" if none.

    :param said: the lines of the verifier's log that matter
    """
    found = _REFUSED.search(said)
    levels = _LOCKED.get(int(found[2])) if found else None
    if not found or not levels:
        return ""
    level = denied.circumstances().lockdown
    if level not in levels:
        return ""
    return f"kernel lockdown is in {level} mode, where programs cannot call {found[1]}"


def read_hint(lacking: str, rights: tuple[int, ...] = _ROOTS) -> str:
    """Say why a file with the kernel's memory or traces could not be opened.

    :param lacking: what to say to a process without the rights; "" if they do not matter
    :param rights: ``CAP_*`` numbers, each of which lets a process open the file
    """
    now = denied.circumstances()
    if now.lockdown == _CONFIDENTIAL:
        return f"kernel lockdown is in {_CONFIDENTIAL} mode"
    if lacking and any(now.caps >> right & 1 for right in rights):
        return denied.by_policy(now)
    return lacking
