"""List the BPF objects that this process holds, as the kernel sees it."""

from __future__ import annotations

import os

__all__ = ["bpf_descriptors"]


def bpf_descriptors() -> set[tuple[int, str]]:
    """Return (number, kind) of every open descriptor of a BPF object or perf event."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            what = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own descriptor
        if what.startswith("anon_inode:") and ("bpf" in what or "btf" in what or "perf" in what):
            found.add((int(name), what.removeprefix("anon_inode:")))
    return found
