"""One BTF blob as it is in memory: header, strings, and where each type record is.

The type section is treated as one array of 32-bit words. A single walk over the records
finds the word offset of every type; a dict from info word to record length gives each step.
Nothing else is decoded. `pybpf.btf.inflate` makes values from records, and `pybpf.btf.decode`
answers questions about them. Both read the words and offsets here, and check names and
references as they read them (`Blob.record_name`, `Blob.reference`).
"""

from __future__ import annotations

import struct
import sys
from array import array
from functools import cached_property

from ..bulk import picked
from ..errors import ObjectFormatError
from ..wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BTF_MAGIC", "LONGEST", "Blob", "utf8"]

BTF_MAGIC = 0xEB9F
#: Longest string, in bytes. The kernel accepts names of 512; source lines may be longer. Types
#: may share strings, so without a bound a blob could have names of the square of its size.
LONGEST = 1 << 14
# So many strings are read one by one. For more, all are decoded at once.
_FEW = 64
_HEADER = struct.Struct("<HBBIIIII")
_LAYOUT_FIELDS = struct.Struct("<II")
_LAYOUT = struct.Struct("<BBH")

# Words after the 3-word struct btf_type: (fixed, per vlen), by kind.
_EXTRA_WORDS = (
    (0, 0),  # void: has only id 0; the walk rejects it elsewhere
    (1, 0),  # int
    (0, 0),  # ptr
    (3, 0),  # array
    (0, 3),  # struct
    (0, 3),  # union
    (0, 2),  # enum
    (0, 0),  # fwd
    (0, 0),  # typedef
    (0, 0),  # volatile
    (0, 0),  # const
    (0, 0),  # restrict
    (0, 0),  # func
    (0, 2),  # func_proto
    (1, 0),  # var
    (0, 3),  # datasec
    (0, 0),  # float
    (1, 0),  # decl_tag
    (0, 0),  # type_tag
    (0, 3),  # enum64
)
# Length in words of a record by the highest byte of its info word, 0 if the length varies.
_SIZES = [
    0 if each or not kind else 3 + fixed
    for kind, (fixed, each) in enumerate(_EXTRA_WORDS + ((0, 1),) * (128 - len(_EXTRA_WORDS)))
] * 2
# By info word, the lengths of the records that are most common: prototypes. A dict finds first what
# it got first, and all of its keys end in the same few bits.
_STEPS = {13 << 24 | params: 3 + 2 * params for params in range(13)}


class Blob:
    """Hold the sections of one BTF blob.

    :param data: the blob (``struct btf_header`` first), little-endian
    :param base: the blob that a split BTF continues
    :param label: file or module name, for messages
    :ivar words: the type section, as ``__u32``
    :ivar base_strings: first string offset after the base's, in bytes
    :ivar types_at: where the type section starts, in bytes
    :raises ObjectFormatError: the header or string section is malformed. A malformed type record
        raises it when `offsets` is first used
    """

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        *,
        base: Blob | None = None,
        label: str = "",
    ) -> None:
        self.label = label
        self.base = base
        view = memoryview(data).cast("B") if isinstance(data, memoryview) else memoryview(data)
        self.data = view
        if len(view) < _HEADER.size:
            raise self.error(f"{many(len(view), 'byte')} cannot hold a BTF header", 0)
        magic, version, _flags, hdr_len, type_off, type_len, str_off, str_len = _HEADER.unpack_from(
            view
        )
        if magic == 0x9FEB:
            raise self.error("big-endian BTF is not supported", 0)
        if magic != BTF_MAGIC:
            raise self.error(f"bad BTF magic {magic:#06x}", 0)
        if version != 1:
            raise self.error(f"BTF version {version} is not supported", 2)
        if sys.byteorder != "little":
            raise self.error("little-endian BTF cannot be read on a big-endian machine", 0)
        if hdr_len < _HEADER.size or hdr_len > len(view):
            raise self.error(f"bad BTF header length {hdr_len}", 4)
        if hdr_len % 4 or type_off % 4 or type_len % 4:
            raise self.error("type section is not aligned to 4 bytes", 8)
        if hdr_len + type_off + type_len > len(view):
            raise self.error("type section ends after the data", 8)
        if hdr_len + str_off + str_len > len(view):
            raise self.error("string section ends after the data", 16)
        if type_off + type_len > str_off:
            raise self.error("string section starts before the end of the type section", 16)
        self._header_len = hdr_len
        self.types_at = hdr_len + type_off
        self._strings_at = hdr_len + str_off
        self.words = view[self.types_at : self.types_at + type_len].cast("I")
        strings = view[self._strings_at : self._strings_at + str_len]
        if not strings:
            if base is None:
                raise self.error("string section is empty", 20)
        elif strings[-1]:
            raise self.error("string section does not end with a NUL", self._strings_at)
        elif base is None and strings[0]:
            raise self.error(
                "string section does not start with a NUL (split BTF without its base?)",
                self._strings_at,
            )
        self._strings = strings
        self._text: str | None = None
        self._pieces = 0  # strings that were read without decoding all of them
        self.base_strings = base.strings_end if base else 0

    @cached_property
    def records(self) -> tuple[bytes, int]:
        """Return bytes that hold the type section, for searches, and where in them it starts."""
        whole = self.data.obj
        if isinstance(whole, bytes) and len(whole) == len(self.data):
            return whole, self.types_at  # no copy
        return self.words.tobytes(), 0

    @cached_property
    def string_section(self) -> tuple[bytes, int, int]:
        """Return bytes that hold the strings, for searches; where these start there, and end."""
        whole = self.data.obj
        if isinstance(whole, bytes) and len(whole) == len(self.data):
            return whole, self._strings_at, self._strings_at + len(self._strings)  # no copy
        return bytes(self._strings), 0, len(self._strings)

    @property
    def strings(self) -> bytes:
        """Return a copy of the string section."""
        return bytes(self._strings)

    @property
    def text(self) -> str:
        """Return the strings as Latin-1. One character per byte, so offsets can be used on it."""
        if self._text is None:
            self._text = str(self._strings, "latin-1")
        return self._text

    @property
    def is_ascii(self) -> bool:
        """Tell whether the strings are ASCII."""
        return self.text.isascii()

    def error(self, what: str, offset: int | None) -> ObjectFormatError:
        """Make the exception for malformed data.

        :param offset: bytes from the start of the blob, None if no single place is wrong
        """
        return ObjectFormatError(what, file=self.label, section=".BTF", offset=offset)

    @cached_property
    def _layout(self) -> dict[int, tuple[int, int]]:
        # The optional layout section (Linux 7.x): record sizes by kind, so
        # that readers can skip kinds they do not know.
        if self._header_len < _HEADER.size + _LAYOUT_FIELDS.size:
            return self.base._layout if self.base else {}
        offset, length = _LAYOUT_FIELDS.unpack_from(self.data, _HEADER.size)
        if not length:
            return self.base._layout if self.base else {}
        start = self._header_len + offset
        if length % _LAYOUT.size or start + length > len(self.data):
            raise self.error("bad layout section", _HEADER.size)
        layout = {}
        entries = _LAYOUT.iter_unpack(self.data[start : start + length])
        for kind, (fixed, each, _flags) in enumerate(entries):
            if fixed % 4 or each % 4:
                raise self.error(f"layout of kind {kind} is not in words", start + 4 * kind)
            layout[kind] = (fixed // 4, each // 4)
        return layout

    @property
    def _kinds(self) -> bytes:
        # For each word the highest byte of the next word. Where a record starts, that is its kind.
        records, start = self.records
        return records[start + 7 : start + 4 * len(self.words) : 4]

    @cached_property
    def kinds(self) -> bytes:
        """Return the kind of every own type, each with its flag as the highest bit."""
        return bytes(picked(self._kinds, self.offsets))

    @cached_property
    def offsets(self) -> array[int]:
        """Return the word offset of every own type. Index 0 is type `start_id`."""
        words = self.words
        infos = words[1:]
        kinds, sizes = self._kinds, _SIZES
        # Record lengths in words, by info word, for the kinds whose length varies.
        steps = dict(_STEPS)
        offsets: list[int] = []  # appending to an array takes longer: it grows in small steps
        at = 0
        # The walk ends with the IndexError of the first info word after the section. A comparison
        # per record would cost a fifth more. So would a dict that fills itself.
        while True:
            try:
                while True:
                    step = sizes[kinds[at]] or steps[infos[at]]
                    offsets.append(at)
                    at += step
            except KeyError:
                steps[infos[at]] = self._step(at)
            except IndexError:
                break
        if at != len(words):
            last = offsets[-1] if at > len(words) and offsets else at
            raise self.error("type record ends after the section", self.types_at + 4 * last)
        return array("I", offsets)

    def _step(self, at: int) -> int:
        # Length in words of the record at word `at`.
        info = self.words[at + 1]
        kind = info >> 24 & 0x7F
        if 0 < kind < len(_EXTRA_WORDS):
            fixed, each = _EXTRA_WORDS[kind]
        elif kind in self._layout and kind:
            fixed, each = self._layout[kind]
        else:
            raise self.error(f"unknown BTF kind {kind}", self.types_at + 4 * at + 4)
        return 3 + fixed + (info & 0xFFFFFF) * each

    @cached_property
    def start_id(self) -> int:
        """Return the first id after the base's."""
        return self.base.nr_types if self.base else 1

    @cached_property
    def nr_types(self) -> int:
        """Count the type ids, including void and the base's."""
        return self.start_id + len(self.offsets)

    @property
    def strings_end(self) -> int:
        """Return the first string offset after this BTF, in bytes. A split BTF's strings start
        here."""
        return self.base_strings + len(self._strings)

    @property
    def raw(self) -> bytes:
        """Return the bytes of the blob."""
        return bytes(self.data)

    def locate(self, type_id: int) -> tuple[Blob, int]:
        """Find the record of a type: the blob that has it, and its word offset there.

        :raises ObjectFormatError: no such id; id 0 (void) has no record either
        """
        owner = self
        while type_id < owner.start_id:
            if owner.base is None or type_id < 1:
                raise self.error(f"type id {type_id} has no record", None)
            owner = owner.base
        try:
            return owner, owner.offsets[type_id - owner.start_id]
        except (IndexError, OverflowError):
            raise self.error(f"no type with id {type_id}", None) from None

    def bad_record(self, at: int, what: str) -> ObjectFormatError:
        """Make the exception for a malformed record at word `at`."""
        return self.error(what, self.types_at + 4 * at)

    def string(self, offset: int) -> str:
        """Read the string at a byte offset of the string section(s).

        :raises ObjectFormatError: offset outside
        """
        owner = self
        while offset < owner.base_strings and owner.base is not None:
            owner = owner.base
        offset -= owner.base_strings
        if not 0 <= offset < len(owner._strings):
            raise self.error(
                f"string offset {offset + owner.base_strings} is outside the strings", None
            )
        found = owner._string(offset)
        if found is None:
            raise self.error(f"the string at offset {offset} is longer than {LONGEST}", None)
        return found

    def _string(self, local: int) -> str | None:
        # An own string, None if it is too long.
        text = self._text
        if text is None:
            self._pieces += 1
            if self._pieces <= _FEW:
                data, start, end = self.string_section
                at = start + local
                stop = data.find(b"\0", at, min(at + LONGEST, end))
                return None if stop < 0 else data[at:stop].decode("utf-8", "backslashreplace")
            text = self.text
        stop = text.find("\0", local, local + LONGEST)
        if stop < 0:
            return None
        found = text[local:stop]
        return found if text.isascii() else utf8(found)

    def record_name(self, at: int, offset: int) -> str:
        """Read the string that the record at word `at` refers to.

        :raises ObjectFormatError: offset outside
        """
        local = offset - self.base_strings
        if local < 0:
            return self.string(offset)
        if local >= len(self._strings):
            raise self.bad_record(at, f"name offset {offset} is outside the string section")
        found = self._string(local)
        if found is None:
            raise self.bad_record(at, f"its name is longer than {LONGEST} bytes")
        return found

    def reference(self, at: int, type_id: int) -> int:
        """Check a type id that the record at word `at` refers to, and return it.

        :raises ObjectFormatError: the type does not exist
        """
        if type_id >= self.nr_types:
            raise self.bad_record(at, f"refers to type {type_id}, which does not exist")
        return type_id

    def rows(self, at: int, info: int, width: int) -> Iterator[tuple[int, ...]]:
        """Iterate over the vlen entries after the record at word `at`, each `width` words."""
        start = at + 3
        flat = self.words[start : start + (info & 0xFFFFFF) * width].tolist()
        return zip(*[iter(flat)] * width, strict=True)


def utf8(latin1: str) -> str:
    """Decode a string of `Blob.text`; bytes that are not UTF-8 become ``\\xNN``."""
    return latin1.encode("latin-1").decode("utf-8", "backslashreplace")
