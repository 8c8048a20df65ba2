"""Unpack compressed data that may be forged: a small file can hold gigabytes of zeros."""

from __future__ import annotations

import zlib

from .errors import ObjectFormatError

__all__ = ["MOST", "gunzip", "inflate"]

#: Most bytes that one piece of data is unpacked to. BTF and symbols of the largest kernels take
#: a tenth of it.
MOST = 64 << 20

_GZIP = 31  # wbits: a gzip header


def gunzip(data: bytes, file: str, most: int = MOST) -> bytes:
    """Unpack gzip data.

    :param file: name for messages
    :param most: most bytes to unpack to
    :raises ObjectFormatError: broken or cut data, or more than `most` bytes
    """
    out: list[bytes] = []
    while data:  # a gzip file may consist of several
        part, data = _unpacked(data, _GZIP, file, most, "gzip")
        out.append(part)
        most -= len(part)
        data = data.lstrip(b"\0")  # padding, as gzip allows
    return b"".join(out)


def inflate(data: bytes, file: str, section: str = "", most: int = MOST) -> bytes:
    """Unpack zlib data; as `gunzip`.

    :param section: part of the file, for messages
    """
    return _unpacked(data, zlib.MAX_WBITS, file, most, "zlib", section)[0]


def _unpacked(
    data: bytes, wbits: int, file: str, most: int, kind: str, section: str = ""
) -> tuple[bytes, bytes]:
    unpacker = zlib.decompressobj(wbits)
    try:
        out = unpacker.decompress(data, most + 1)
    except zlib.error as error:
        raise ObjectFormatError(
            f"broken {kind} data: {error}", file=file, section=section
        ) from None
    if len(out) > most:
        what = f"{kind} data of more than {most >> 20} MiB"
        raise ObjectFormatError(what, file=file, section=section)
    if not unpacker.eof:
        raise ObjectFormatError(f"{kind} data is cut short", file=file, section=section)
    return out, unpacker.unused_data
