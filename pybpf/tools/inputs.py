"""Read files for tools: BTF in any wrapping, and the saved facts of a kernel."""

from __future__ import annotations

import json
from pathlib import Path

from ..btf import Btf
from ..btf.wrapped import unwrap
from ..errors import ObjectFormatError
from ..kernel.host import Facts

__all__ = ["KERNEL", "read_btf", "read_facts"]

#: BTF of the running kernel. Modules have theirs beside it.
KERNEL = Path("/sys/kernel/btf/vmlinux")


def read_btf(path: Path, base: Path | None = None) -> Btf:
    """Read the BTF in a file: raw, in gzip, or in section .BTF of an ELF file of any machine.

    :param base: what split BTF continues; by default, for a module's file, the kernel's beside it
    :raises OSError: the file cannot be read
    :raises ObjectFormatError: it has no BTF, or malformed BTF
    """
    if base is None and path.parent == KERNEL.parent and path.name != KERNEL.name:
        base = KERNEL
    name = str(path)
    view = unwrap(path.read_bytes(), name)
    return Btf(view, base=read_btf(base) if base else None, name=name)


def read_facts(path: str | None) -> Facts:
    """Read the facts saved in a file. None means the running kernel.

    :raises OSError: the file cannot be read
    :raises ObjectFormatError: it does not contain facts
    """
    if path is None:
        return Facts()
    data = Path(path).read_bytes()
    try:
        saved = json.loads(data)
    except (ValueError, RecursionError):  # also text that is not UTF-8
        what = "not a file that features --save wrote: it is not JSON"
        raise ObjectFormatError(what, file=path) from None
    try:
        return Facts.from_json(saved)
    except (ValueError, RecursionError) as error:
        what = f"not a file that features --save wrote: {error}"
        raise ObjectFormatError(what, file=path) from None
