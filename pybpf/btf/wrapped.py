"""Take BTF out of what it comes in: gzip, and section .BTF of ELF files of any machine."""

from __future__ import annotations

from ..errors import ObjectFormatError

__all__ = ["unwrap"]


def unwrap(data: bytes, name: str) -> bytes | memoryview:
    """Return raw BTF.

    :param data: contents of a file: raw BTF, gzip of it, or an ELF file such as vmlinux
    :param name: name of the file, for messages
    :raises ObjectFormatError: the gzip data is broken, or the ELF file has no BTF
    """
    if data[:2] == b"\x1f\x8b":
        from ..unpacking import gunzip  # few files are packed

        data = gunzip(data, name)
    if data[:4] != b"\x7fELF":
        return data
    from ..elf import ElfFile

    elf = ElfFile(data, name, any_machine=True)
    section = elf.find(".BTF")
    if section is None:
        raise ObjectFormatError("this ELF file has no .BTF section", file=name)
    return elf.contents(section)
