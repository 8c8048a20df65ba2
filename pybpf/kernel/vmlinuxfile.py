"""A vmlinux file of the running kernel: where it may be, and whether it is of this kernel.

A file that is named after the release may be of another build of it. Lines and types of another
kernel would be wrong without looking wrong, so the build id decides.
"""

from __future__ import annotations

import mmap
import os
import struct

from ..errors import ObjectFormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..elf import ElfFile

__all__ = ["build_id", "find_btf", "places"]

_NT_GNU_BUILD_ID = 3
#: Sections that may have the build id. The kernel's linker script makes one of all notes.
_NOTES = (".notes", ".note.gnu.build-id")


def build_id(notes: bytes) -> str:
    """Find the build id among ELF notes, in hex; "" if none is there.

    :param notes: as ``/sys/kernel/notes`` has them, in the order of bytes of this machine
    """
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("=3I", notes, at)
        start = at + 12 + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 12 + name_size] == b"GNU\0":
            return notes[start : start + size].hex()
        at = start + (size + 3 & ~3)
    return ""


def places(release: str, identity: str, home: str = "~") -> list[str]:
    """List where distributions, kernel builds and debuginfod keep a vmlinux with debug information.

    :param release: as ``uname -r`` has it
    :param identity: build id in hex, "" if it is not known
    """
    paths = [
        f"/boot/vmlinux-{release}",
        f"/lib/modules/{release}/vmlinux-{release}",
        f"/lib/modules/{release}/vmlinux",
        f"/lib/modules/{release}/build/vmlinux",
        f"/usr/lib/modules/{release}/kernel/vmlinux",
        f"/usr/lib/debug/boot/vmlinux-{release}",
        f"/usr/lib/debug/boot/vmlinux-{release}.debug",
        f"/usr/lib/debug/lib/modules/{release}/vmlinux",
        f"/usr/lib/debug/lib/modules/{release}/vmlinux.debug",
    ]
    if identity:
        cache = os.environ.get("DEBUGINFOD_CACHE_PATH", f"{home}/.cache/debuginfod_client")
        paths += [
            f"/usr/lib/debug/.build-id/{identity[:2]}/{identity[2:]}.debug",
            f"{cache}/{identity}/debuginfo",
        ]
    return [os.path.expanduser(path) for path in paths]


def _contents(elf: ElfFile, name: str) -> bytes:
    section = elf.find(name)
    return b"" if section is None else bytes(elf.contents(section))


def find_btf(paths: Sequence[str], identity: str) -> tuple[bytes, list[str]]:
    """Find the running kernel's BTF in one of some vmlinux files.

    :param identity: build id of the running kernel in hex, "" if it is not known
    :returns: the BTF, b"" if no file of this kernel has it; and for each file that exists why it
        was not taken
    """
    refused: list[str] = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                # Files with debug information have hundreds of megabytes.
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # ValueError: an empty file
            refused.append(f"{path}: {error}")
            continue
        from ..elf import ElfFile  # few kernels need a file

        try:
            elf = ElfFile(data, path, any_machine=True)
            # Files of debug information alone have the section without its contents.
            btf, *notes = (_contents(elf, name) for name in (".BTF", *_NOTES))
            found = next(filter(None, map(build_id, notes)), "")
            if not btf:
                refused.append(f"{path} has no .BTF section")
            elif not identity:
                refused.append(
                    f"{path}: the running kernel does not say its build id (/sys/kernel/notes), so "
                    "nothing tells whether the file is of it; kernel_btf= takes it all the same"
                )
            elif found != identity:
                refused.append(f"{path} is of another build of the kernel")
            else:
                return btf, refused
        except ObjectFormatError as error:
            refused.append(str(error))
    return b"", refused
