"""``.BTF.ext``: which functions, source lines and CO-RE relocations belong to which instructions.

The section holds up to three tables (``struct btf_ext_header``). Each is a list of
blocks, one per program section, of records whose size the table states. Newer
compilers may append fields, so only the known start of a record is read.
Opening checks the block structure. Records are decoded on demand, because
a loader without BTF support in the kernel needs only the relocations.
"""

from __future__ import annotations

import struct
from functools import cached_property

from ..dataclass import dataclass
from ..errors import ObjectFormatError
from ..wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .decode import Btf

__all__ = ["BtfExt", "CoreRelo"]

_SECTION = ".BTF.ext"
_PREAMBLE = struct.Struct("<HBBI")
_TABLE = struct.Struct("<II")
_WORD = struct.Struct("<I")
_BLOCK = struct.Struct("<II")
_FUNC = struct.Struct("<II")
_LINE = struct.Struct("<IIII")
_CORE = struct.Struct("<IIII")
_MAX_ACCESS = 1024  # characters; an access has at most 64 steps


@dataclass(frozen=True, slots=True)
class CoreRelo:
    """Hold one ``struct bpf_core_relo``.

    ``insn_off`` is in bytes from the start of the section, ``type_id`` is an id in the
    object's BTF, ``access_str`` is like ``"0:1:2"``, and ``kind`` is an
    ``enum bpf_core_relo_kind``.
    """

    insn_off: int
    type_id: int
    access_str: str
    kind: int


class BtfExt:
    """Decode the ``.BTF.ext`` of an object.

    :param data: contents of the section, little-endian
    :param btf: the object's BTF, whose strings it refers to
    :raises ObjectFormatError: the section is malformed; ``.section`` is ``.BTF.ext``
    """

    def __init__(self, data: bytes | bytearray | memoryview, btf: Btf) -> None:
        self._data = bytes(data)
        self._btf = btf
        size = len(self._data)
        if size < _PREAMBLE.size:
            raise self._error(f"{many(size, 'byte')} cannot hold a header", 0)
        magic, version, flags, hdr_len = _PREAMBLE.unpack_from(self._data)
        if magic == 0x9FEB:
            raise self._error("big-endian .BTF.ext is not supported", 0)
        if magic != 0xEB9F:
            raise self._error(f"bad magic {magic:#06x}", 0)
        if version != 1 or flags:
            raise self._error(f"version {version} with flags {flags:#x} is not supported", 2)
        if hdr_len < 24 or hdr_len > size:
            raise self._error(f"bad header length {hdr_len}", 4)
        self._header_len = hdr_len
        #: Size in bytes of the records in the file, at least what `func_info` reads.
        self.func_info_rec_size, self._funcs = self._blocks("func_info", 8, _FUNC.size)
        self.line_info_rec_size, self._lines = self._blocks("line_info", 16, _LINE.size)
        self.core_relo_rec_size, self._cores = self._blocks("core_relo", 24, _CORE.size)

    def _error(self, what: str, offset: int) -> ObjectFormatError:
        return ObjectFormatError(what, file=self._btf.label, section=_SECTION, offset=offset)

    def _blocks(
        self, what: str, field: int, min_size: int
    ) -> tuple[int, list[tuple[str, int, int]]]:
        # Returns (record size, [(section name, offset of the first record, bytes of records)])
        if self._header_len < field + _TABLE.size:
            return min_size, []
        offset, length = _TABLE.unpack_from(self._data, field)
        if not length:
            return min_size, []
        at = self._header_len + offset
        end = at + length
        if at % 4 or end > len(self._data):
            raise self._error(f"{what} table is unaligned or ends after the section", field)
        if length < _WORD.size:
            raise self._error(f"{what} table has no record size", at)
        (rec_size,) = _WORD.unpack_from(self._data, at)
        if rec_size < min_size or rec_size % 4:
            raise self._error(f"bad {what} record size {rec_size}", at)
        at += _WORD.size
        if at == end:
            raise self._error(f"{what} table is empty", at)
        blocks = []
        while at < end:
            if end - at < _BLOCK.size:
                raise self._error(f"{what} block is cut off", at)
            name_off, count = _BLOCK.unpack_from(self._data, at)
            start, total = at + _BLOCK.size, count * rec_size
            if not count or total > end - start:
                raise self._error(f"{what} block claims {many(count, 'record')}", at)
            blocks.append((self._string(name_off, at), start, total))
            at = start + total
        return rec_size, blocks

    def _string(self, offset: int, at: int) -> str:
        try:
            return self._btf.string(offset)
        except ObjectFormatError:
            raise self._error(f"string offset {offset} is outside .BTF's strings", at) from None

    def _records(
        self, blocks: list[tuple[str, int, int]], rec_size: int, head: struct.Struct
    ) -> dict[str, list[tuple[int, ...]]]:
        # A struct padded to the record size reads a block in one call.
        reader = struct.Struct(f"{head.format}{rec_size - head.size}x")
        found: dict[str, list[tuple[int, ...]]] = {}
        for section, start, total in blocks:
            rows = reader.iter_unpack(memoryview(self._data)[start : start + total])
            found.setdefault(section, []).extend(rows)
        return found

    @cached_property
    def func_info(self) -> dict[str, list[tuple[int, int]]]:
        """Return by section name: (instruction offset in bytes, type id of the FUNC)."""
        rows = self._records(self._funcs, self.func_info_rec_size, _FUNC)
        return {name: [(at, t) for at, t in records] for name, records in rows.items()}

    @cached_property
    def line_info(self) -> dict[str, list[tuple[int, int, int, int]]]:
        """Return by section name: (insn offset in bytes, file name, line text, line_col).

        File name and text are string offsets; ``line_col`` is line << 10 | column.
        """
        rows = self._records(self._lines, self.line_info_rec_size, _LINE)
        return {name: [(a, b, c, d) for a, b, c, d in records] for name, records in rows.items()}

    @cached_property
    def core_relos(self) -> dict[str, list[CoreRelo]]:
        """Return the records by section name, in file order."""
        found: dict[str, list[CoreRelo]] = {}
        for section, start, total in self._cores:
            relos = found.setdefault(section, [])
            for at in range(start, start + total, self.core_relo_rec_size):
                insn_off, type_id, access, kind = _CORE.unpack_from(self._data, at)
                text = self._string(access, at)
                if len(text) > _MAX_ACCESS:
                    raise self._error(f"access string of {len(text)} characters", at)
                relos.append(CoreRelo(insn_off, type_id, text, kind))
        return found
