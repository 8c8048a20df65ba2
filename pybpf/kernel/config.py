"""The running kernel's build configuration and version, as ``.kconfig`` externs need them.

A configuration that cannot be read is unknown. That is not the same as one in which nothing is
set: containers often have none of the files. A caller may then give a file, which counts as
the whole configuration, or single options, which take precedence over the kernel's own.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress

from .._sys.files import is_one_name
from ..dataclass import dataclass
from ..digits import decimal
from ..errors import BpfError, ObjectFormatError

__all__ = [
    "Config",
    "Given",
    "config_files",
    "config_lines",
    "kernel_config",
    "read_config",
    "running_version",
    "true_release",
    "version_code",
]

_SIGNATURE = "/proc/version_signature"  # of Ubuntu kernels
#: What a caller may give instead of the kernel's own configuration.
Given = str | os.PathLike[str] | Mapping[str, str | int | bool] | None


@dataclass(frozen=True, slots=True)
class Config:
    """Hold a kernel's configuration.

    :param lines: ``CONFIG_NAME=VALUE``; the first line with a name counts
    :param unknown: why an option without a line is unknown; "" if it is simply not set
    """

    lines: tuple[str, ...] = ()
    unknown: str = ""


def version_code(release: str) -> int:
    """Compute LINUX_VERSION_CODE from a release, e.g. 0x60c6b for ``6.12.107-cloud-amd64``.

    Source: include/generated/uapi/linux/version.h.
    """
    parts = [decimal(n, 255) for n in re.findall(r"[0-9]+", release)[:3]]
    numbers = [255 if n is None else n for n in parts]
    major, minor, patch = (numbers + [0, 0, 0])[:3]
    return major << 16 | minor << 8 | patch


def true_release(release: str, version: str = "", signature: str = "") -> str:
    """Find the release whose LINUX_VERSION_CODE the kernel was built with.

    Distributions that keep a name through updates (``6.1.0-49-amd64``) tell it elsewhere. The
    order is libbpf's (get_kernel_version() of libbpf_probes.c).

    :param release: as ``uname -r`` prints it
    :param version: as ``uname -v`` prints it: ``#1 SMP Debian 6.1.174-1 (2026-05-26)``
    :param signature: text of /proc/version_signature: ``Ubuntu 5.15.0-91.101-generic 5.15.131``
    """
    number = r"([0-9]+\.[0-9]+\.[0-9]+)"
    found = re.match(rf"\S+\s+\S+\s+{number}", signature) or re.search(rf"Debian {number}", version)
    return found[1] if found else release


def running_version() -> int:
    """Return LINUX_VERSION_CODE of the running kernel."""
    signature = ""
    with suppress(OSError), open(_SIGNATURE, encoding="ascii", errors="replace") as file:
        signature = file.read()
    name = os.uname()
    return version_code(true_release(name.release, name.version, signature))


def config_files(release: str) -> list[str]:
    """List the files where distributions and the kernel itself show its configuration."""
    shown = ["/proc/config.gz"]
    if is_one_name(release):
        shown = [
            f"/boot/config-{release}",
            *shown,
            f"/lib/modules/{release}/config",
            f"/usr/lib/modules/{release}/config",
            f"/lib/modules/{release}/build/.config",
        ]
    return shown


def config_lines(data: bytes, file: str) -> tuple[str, ...]:
    """Split the text of a configuration, plain or .gz, into lines.

    :param file: its name, for messages
    :raises ObjectFormatError: broken gzip data
    """
    text = data
    if data.startswith(b"\x1f\x8b"):
        from ..unpacking import gunzip  # lazy: most configurations are plain

        text = gunzip(data, file)
    return tuple(text.decode(errors="replace").removesuffix("\n").split("\n"))


def kernel_config(paths: Iterable[str] | None = None) -> Config:
    """Read the running kernel's configuration.

    :param paths: files to try; None for those of the running kernel
    """
    looked = list(paths) if paths is not None else config_files(os.uname().release)
    for path in looked:
        try:
            with open(path, "rb") as file:
                return Config(config_lines(file.read(), path))
        except (OSError, ObjectFormatError):
            continue
    return Config(unknown=f"this kernel's configuration cannot be read ({', '.join(looked)})")


def read_config(given: Given = None, paths: Iterable[str] | None = None) -> Config:
    """Read the configuration that an object is loaded with.

    :param given: a file with the whole configuration, plain or .gz; or a mapping of options,
        ``{"CONFIG_HZ": 250, "CONFIG_BPF": True}``, which override the kernel's own
    :param paths: as in `kernel_config`
    :raises BpfError: the file cannot be read, or is not a configuration
    :raises ValueError: a name of the mapping does not begin with CONFIG_
    """
    if given is None:
        return kernel_config(paths)
    if isinstance(given, Mapping):
        found = kernel_config(paths)
        return Config((*(_option(*pair) for pair in given.items()), *found.lines), found.unknown)
    path = os.fspath(given)
    what = f"kernel configuration {path!r}"
    try:
        with open(path, "rb") as file:
            lines = config_lines(file.read(), path)
    except ObjectFormatError as error:
        raise BpfError(errno.EINVAL, what, error.what) from None
    except OSError as error:
        raise BpfError(error.errno or errno.EINVAL, what) from None
    if not any(line.startswith("CONFIG_") for line in lines):
        raise BpfError(errno.EINVAL, what, "it has no line CONFIG_NAME=VALUE")
    return Config(lines)


def _option(name: str, value: str | int | bool) -> str:
    if not name.startswith("CONFIG_"):
        raise ValueError(f"kconfig: {name!r} does not begin with CONFIG_")
    if isinstance(value, bool):
        text = "y" if value else "n"
    elif isinstance(value, str) and not re.fullmatch(r'[ymn]|-?(?:0x)?[0-9a-fA-F]+|".*"', value):
        text = f'"{value}"'
    else:
        text = str(value)
    return f"{name}={text}"
