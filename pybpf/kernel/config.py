"""The running kernel's build configuration and version, as ``.kconfig`` externs want them."""

from __future__ import annotations

import os
import re

from .._sys.files import is_one_name

__all__ = ["kernel_config", "version_code"]


def version_code(release: str) -> int:
    """Make LINUX_VERSION_CODE of a release, e.g. 0x60c6b of ``6.12.107-cloud-amd64``.

    Source: include/generated/uapi/linux/version.h.
    """
    numbers = [int(n) for n in re.findall(r"\d+", release)[:3]]
    major, minor, patch = (numbers + [0, 0, 0])[:3]
    return major << 16 | minor << 8 | min(patch, 255)


def kernel_config() -> list[str]:
    """Read the lines ``CONFIG_NAME=VALUE`` of the running kernel; empty if it shows none."""
    import gzip

    release = os.uname().release
    shown = [f"/boot/config-{release}"] if is_one_name(release) else []
    for path in (*shown, "/proc/config.gz"):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            continue
        text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        return text.decode(errors="replace").splitlines()
    return []
