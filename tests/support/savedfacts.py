"""Make facts of Debian's 6.12 from tests/data, as `tools/features.py --save` writes them.

Symbols, functions and types are real. There are few functions, so loading is quick.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from pybpf.features import Feature, FeatureSet
from pybpf.kernel.host import _pack

__all__ = ["FEATURES", "saved_facts"]

DATA = Path(__file__).resolve().parents[1] / "data"
F = Feature
FEATURES = frozenset(
    {F.FENTRY, F.FEXIT, F.KPROBE, F.ATTACH_COOKIE, F.FUNC_ARG_HELPERS, F.KPROBE_MULTI}
    | {F.KPROBE_SESSION}
)


def saved_facts(
    features: frozenset[Feature] = FEATURES, raw_btf: bytes | None = None
) -> dict[str, Any]:
    """Return the input of `Facts.from_json`.

    :param raw_btf: the kernel's BTF; None for the real one
    """
    real = DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz"
    raw = gzip.decompress(real.read_bytes()) if raw_btf is None else raw_btf
    return {
        "format": 1,
        "release": "6.12.107+deb13-cloud-amd64",
        "machine": "x86_64",
        "version": "#1 SMP",
        "features": FeatureSet(features).to_json(),
        "lockdown": "none",
        "capabilities": 0,
        "sysctls": {},
        "modules": [],
        "possible_cpus": [0],
        "online_cpus": [0],
        "kallsyms": _pack((DATA / "kernel/6.12.kallsyms").read_bytes()),
        "btf": {"": _pack(raw)},
        "ftrace": _pack((DATA / "kernel/6.12.ftrace").read_bytes()),
        "ftrace_sites": True,
        "blacklist": _pack((DATA / "kernel/6.12.blacklist").read_bytes()),
    }
