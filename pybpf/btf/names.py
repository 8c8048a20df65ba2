"""Find the types of a BTF blob by name.

A name index of a kernel takes 50 ms and 15 MB, and most processes look up only a few names. So a
name is first searched for: where its string is, and which types refer to that place. Both are
C-speed searches of bytes. The type records are searched for the first name. For others, and for
types that relocations name, there is a table of all types' places. It costs as much as two or three
searches of the records, and a search of it a tenth of one. The index is built after many names were
looked up, or when a single name would need many searches. So no look-up costs more than the index
does, however short or frequent the name is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from functools import cached_property
from itertools import compress, count, islice
from operator import itemgetter

from ..bulk import picked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .blob import Blob

__all__ = ["TypeNames", "essential_name", "most_letters"]

# Searches for names before the index is built. Each costs a fiftieth of it.
_SEARCHES_BEFORE_INDEX = 24
# Most places of a name that one look-up searches the types for. Each costs as much as a name.
_PLACES_BEFORE_INDEX = 8
# Most characters of all names together, for each byte of the strings, and some more. A kernel's
# names have 0.6 for each.
_PER_BYTE, _SOME = 16, 1 << 20
# Most places that the type records themselves are searched for. Each costs half of a table of
# all types' places, which is then searched at once.
_PLACES_BEFORE_TABLE = 3
# Most places of "___" that are looked through for each name with a flavour.
_MOST_FLAVOURS = 4096
# Words of the type records that may look like one place. Names of members and parameters do.
_MOST_WORDS = 256


def most_letters(strings: str) -> int:
    """Return how long all names of a blob may be together, so that none is shared too often.

    :param strings: its string section
    """
    return _SOME + _PER_BYTE * len(strings)


def essential_name(name: str) -> str:
    """Return a type name without its CO-RE flavour: the part before the last ``X___Y``.

    X and Y are not underscores (`bpf_core_essential_name_len` of libbpf).
    """
    at = name.rfind("___")
    while at >= 0:
        # A separator has exactly three underscores and something on each side.
        if at > 0 and name[at - 1] != "_" and at + 3 < len(name) and name[at + 3] != "_":
            return name[:at]
        at = name.rfind("___", 0, at + 2)
    return name


class TypeNames:
    """Find a blob's own types by name, without those of its base.

    :param blob: blob that has the types
    """

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._searches = 0
        self._index: dict[str, int | list[int]] | None = None

    def first(self, name: str) -> Iterable[int]:
        """Iterate over the ids of the types called `name`, ascending.

        It is cheaper than `find` as the first question, if the first few answers are enough.

        :param name: not empty
        """
        if self._searches or self._index is not None:
            return self.find(name)
        self._searches += 1
        if "\0" in name:
            return []
        found = self._by_records(self._occurrences(_bytes(name) + b"\0"))
        return self._walk(name) if found is None else found

    def find(self, name: str) -> list[int]:
        """List the ids of the types called `name`, ascending.

        :param name: not empty
        """
        if "\0" in name:
            return []
        text = _bytes(name) + b"\0"
        found = None
        if not self._searches and self._index is None:
            found = self._by_records(self._occurrences(text))
        self._searches += 1
        if found is None:
            found = self._by_table(lambda: self._places(text))
        return self._indexed(name) if found is None else found

    def find_essential(self, essential: str) -> list[int]:
        """List the ids of the types, ascending, whose name without flavour is `essential`.

        :param essential: not empty
        """
        if "\0" in essential:
            return []
        same = essential_name(essential) == essential
        text = _bytes(essential)

        def places() -> set[int]:
            wanted = self._places(text + b"\0") if same else set()
            string = self._blob.string
            return wanted.union(
                x for x in self._flavoured(text) if essential_name(string(x)) == essential
            )

        self._searches += 1
        found = self._by_table(places)
        if found is None:
            names = (*([essential] if same else ()), *self._flavours.get(essential, ()))
            found = sorted([x for name in names for x in self._indexed(name)])
        return found

    def starting(self, prefixes: Iterable[str]) -> list[int] | None:
        """List the ids of the types, ascending, whose names start with one of these.

        It makes the table, which later look-ups of names use, too.

        :param prefixes: not empty
        :returns: None if names start inside longer ones, so that all have to be looked at
        """
        if self._inner:
            return None
        wanted = {x for text in prefixes for x in self._occurrences(_bytes(text), whole=True)}
        names, first = array("I", self._table), self._blob.start_id
        return list(compress(count(first), map(wanted.__contains__, names)))

    @property
    def index(self) -> dict[str, int | list[int]]:
        """Return ids by name: one id, or a list if the name has several."""
        if self._index is None:
            self._index = self._build_index()
        return self._index

    # By the index.

    def _indexed(self, name: str) -> list[int]:
        found = self.index.get(name, [])
        return [found] if isinstance(found, int) else found

    def _build_index(self) -> dict[str, int | list[int]]:
        # Usually one id per name; a list only if there are several.
        blob = self._blob
        index: dict[str, int | list[int]] = {}
        words, text = blob.words, blob.text
        plain = blob.base is None and blob.is_ascii
        end_of = text.index
        size = len(text)
        left = most_letters(text)
        for type_id, at in enumerate(blob.offsets, blob.start_id):
            offset = words[at]
            if not offset:
                continue
            if plain and offset < size:
                name = text[offset : end_of("\0", offset)]
            else:
                name = blob.record_name(at, offset)
            left -= len(name)
            if left < 0:
                raise blob.error("the names of types are too long", None)
            if name in index:
                before = index[name]
                if isinstance(before, int):
                    index[name] = [before, type_id]
                else:
                    before.append(type_id)
            else:
                index[name] = type_id
        return index

    @cached_property
    def _flavours(self) -> dict[str, list[str]]:
        # Names with a flavour by essential name.
        found: dict[str, list[str]] = {}
        for name in self.index:
            if "___" in name:
                essential = essential_name(name)
                if essential != name:
                    found.setdefault(essential, []).append(name)
        return found

    # By searching.

    def _walk(self, name: str) -> Iterator[int]:
        # If only one type is needed, a walk up to it is enough.
        wanted = set(self._occurrences(_bytes(name) + b"\0"))
        if wanted:
            words = self._blob.words
            for type_id, at in enumerate(self._blob.offsets, self._blob.start_id):
                if words[at] in wanted:
                    yield type_id

    def _by_records(self, places: Iterable[int]) -> list[int] | None:
        # Ids of the types, ascending, whose name is at one of some string offsets, searched for in
        # the type records themselves. None if there are many of these offsets, or of words that
        # look like one of them.
        wanted = list(islice(places, _PLACES_BEFORE_TABLE + 1))
        if len(wanted) > _PLACES_BEFORE_TABLE:
            return None
        blob = self._blob
        if not wanted:
            return []
        records, start = blob.records
        end = start + 4 * len(blob.words)
        offsets, ids, words = blob.offsets, set(), 0
        for place in wanted:
            key = place.to_bytes(4, "little")
            at = records.find(key, start, end)
            while at >= 0:
                word, odd = divmod(at - start, 4)
                if not odd:
                    number = bisect_left(offsets, word)
                    if number < len(offsets) and offsets[number] == word:
                        ids.add(blob.start_id + number)
                words += 1
                if words > _MOST_WORDS:
                    return None
                at = records.find(key, at + 1, end)
        return sorted(ids)

    def _by_table(self, places: Callable[[], set[int]]) -> list[int] | None:
        # Ids of the types, ascending, whose name is at one of some string offsets. None if the
        # index is cheaper: many names were looked up, or this one is at many places.
        if self._index is not None or self._searches > _SEARCHES_BEFORE_INDEX:
            return None
        wanted = places() if len(self._inner) <= _PLACES_BEFORE_INDEX else None
        if wanted is None or len(wanted) > _PLACES_BEFORE_INDEX:
            return None
        table, first, ids = self._table, self._blob.start_id, []
        for place in wanted:
            key = place.to_bytes(4, "little")
            at = table.find(key)
            while at >= 0:
                if not at % 4:
                    ids.append(first + at // 4)
                at = table.find(key, at + 1)
        return sorted(ids)

    def _flavoured(self, text: bytes) -> Iterable[int]:
        # Places of the text, and of names inside longer ones, with "___" after it.
        ends = self._underscores
        if ends is None:
            return self._places(text + b"___")
        found = [x - len(text) for x in ends]
        wanted = [x for x in found if x > 0 and self._bytes_at(x, len(text)) == text]
        before = ((x, self._bytes_at(x - 1, 1)) for x in wanted)
        inner = set(self._inner)
        return [x for x, byte in before if byte in (b"\0", b"") or x in inner]

    @cached_property
    def _underscores(self) -> list[int] | None:
        # Where "___" is in the strings. A kernel has some dozens. None if there are very many.
        found = list(islice(self._occurrences(b"___"), _MOST_FLAVOURS + 1))
        return found if len(found) <= _MOST_FLAVOURS else None

    def _places(self, text: bytes) -> set[int]:
        # Offsets of the strings, and of the names inside longer ones, that start with a text.
        found = set(self._occurrences(text, whole=True))
        found.update(x for x in self._inner if self._bytes_at(x, len(text)) == text)
        return found

    def _occurrences(self, text: bytes, *, whole: bool = False) -> Iterator[int]:
        # Where a text occurs in the strings, own and the base's. `whole`: only starts of strings.
        blob: Blob | None = self._blob
        needle = b"\0" + text if whole else text
        while blob is not None:
            data, start, end = blob.string_section
            first = blob.base_strings - start
            if whole and data.startswith(text, start, end):  # no NUL comes before those of a split
                yield first + start
            at = data.find(needle, start, end)
            while at >= 0:
                yield first + at + whole
                at = data.find(needle, at + 1, end)
            blob = blob.base

    def _bytes_at(self, place: int, count: int) -> bytes:
        blob = self._blob
        while place < blob.base_strings and blob.base is not None:
            blob = blob.base
        data, start, end = blob.string_section
        place += start - blob.base_strings
        return data[max(place, start) : min(place + count, end)]

    @property
    def _table(self) -> bytes:
        # String offset of every type's name, 4 bytes each.
        return self._tables[0]

    @property
    def _inner(self) -> list[int]:
        # Offsets of the types' names that start inside a longer string.
        return self._tables[1]

    @cached_property
    def _tables(self) -> tuple[bytes, list[int]]:
        # The table and `_inner`, made together: numbers are made once for both.
        blob = self._blob
        names = picked(blob.words, blob.offsets)
        return array("I", names).tobytes(), self._inside(names)

    def _inside(self, names: Sequence[int]) -> list[int]:
        # The names, by their offsets, that start inside a longer string ("foo" in "xfoo"). The BTF
        # of a kernel does not have them, but the format allows them.
        if self._blob.base is None and len(names) > 1:
            # The usual answer is found at C speed, which saves 10 ms.
            try:
                if not any(itemgetter(*names)(b"\0" + self._blob.strings)):
                    return []
            except IndexError:
                pass  # a name is outside the strings. Whoever reads it gets the error
        return [x for x in set(names) if x and self._bytes_at(x - 1, 1) not in (b"\0", b"")]


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
