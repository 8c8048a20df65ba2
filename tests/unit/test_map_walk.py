"""Walks over a map against a kernel that is played here: fall-backs, growing buffers, errors."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from pybpf._uapi.enums import MapType
from pybpf.errors import BpfError
from pybpf.maps import Entries, calls, entries, walk
from pybpf.maps.fields import IntField

ENOTSUPP = 524


class Kernel:
    """A hash map: entries in order of their keys, `bucket` of them cannot be split up."""

    def __init__(self, contents: dict[int, int], bucket: int = 1) -> None:
        self.contents = dict(contents)
        self.bucket = bucket
        self.no_batch: int = 0  # errno of batch commands, 0 if there are any
        self.interrupted = 0  # so many batch lookups answer EINTR
        self.errno = 0
        self.batch_calls = 0

    def answer(self, code: int) -> int:
        self.errno = code
        return -1 if code else 0


class FakeElement:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.key = memoryview(bytearray(4))
        self.next_key = memoryview(bytearray(4))
        self.value = memoryview(bytearray(8))
        self.typed_key, self.typed_value = self.key, self.value

    @property
    def number(self) -> int:
        return int(struct.unpack("=I", self.key)[0])

    def lookup(self) -> int:
        if self.number not in self.kernel.contents:
            return self.kernel.answer(errno.ENOENT)
        self.value[:] = struct.pack("=Q", self.kernel.contents[self.number])
        return 0

    def delete(self) -> int:
        gone = self.kernel.contents.pop(self.number, None)
        return self.kernel.answer(errno.ENOENT if gone is None else 0)

    def update(self) -> int:
        self.kernel.contents[self.number] = struct.unpack("=Q", self.value)[0]
        return 0

    def _after(self, keys: list[int]) -> int:
        if not keys:
            return self.kernel.answer(errno.ENOENT)
        self.next_key[:] = struct.pack("=I", min(keys))
        return 0

    def first(self) -> int:
        return self._after(list(self.kernel.contents))

    def next(self) -> int:
        if self.number not in self.kernel.contents:
            return self.first()  # a hash starts again
        return self._after([key for key in self.kernel.contents if key > self.number])


class FakeBatch:
    def __init__(self, kernel: Kernel, count: int) -> None:
        self.kernel = kernel
        self.capacity = self.count = count
        self.keys = memoryview(bytearray(4 * count))
        self.values = memoryview(bytearray(8 * count))
        self.position, self.reached = 0, 0

    def advance(self) -> None:
        self.position = self.reached

    def resume(self, other: FakeBatch) -> None:
        self.position = other.position

    def lookup(self, delete: bool = False) -> int:
        kernel = self.kernel
        kernel.batch_calls += 1
        if kernel.no_batch:
            return kernel.answer(kernel.no_batch)
        if kernel.interrupted:
            kernel.interrupted -= 1
            self.count = 0
            return kernel.answer(errno.EINTR)
        left = sorted(key for key in kernel.contents if key >= self.position)
        if left and self.count < min(kernel.bucket, len(left)):
            self.count = 0
            return kernel.answer(errno.ENOSPC)
        taken = left[: self.count // kernel.bucket * kernel.bucket]
        for i, key in enumerate(taken):
            struct.pack_into("=I", self.keys, 4 * i, key)
            struct.pack_into("=Q", self.values, 8 * i, kernel.contents[key])
            if delete:
                del kernel.contents[key]
        self.count = len(taken)
        self.reached = taken[-1] + 1 if taken else self.position
        return kernel.answer(errno.ENOENT if len(taken) == len(left) else 0)

    def lookup_and_delete(self) -> int:
        return self.lookup(delete=True)

    def update(self) -> int:
        if self.kernel.no_batch:
            return self.kernel.answer(self.kernel.no_batch)
        raise AssertionError("not played")

    delete = update


class FakeMap(Entries):
    def fileno(self) -> int:
        return 3


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel({i * 3: i for i in range(100)})
    monkeypatch.setattr(calls, "Element", lambda *_: FakeElement(made))
    for module in (walk, entries):
        monkeypatch.setattr(module, "Batch", lambda fd, key, value, count: FakeBatch(made, count))
    for module in (calls, walk, entries):
        monkeypatch.setattr(module, "last_errno", lambda: made.errno)
    return made


@pytest.fixture
def a_map(kernel: Kernel) -> FakeMap:
    return FakeMap("fake", MapType.BPF_MAP_TYPE_HASH, 200, IntField(4), IntField(8))


@pytest.mark.parametrize("batch", [None, 1, 7, 100, 1000])
@pytest.mark.parametrize("no_batch", [0, ENOTSUPP, errno.EINVAL])
def test_whole_map_with_and_without_batches(
    a_map: FakeMap, kernel: Kernel, batch: int | None, no_batch: int
) -> None:
    """The same entries come out, whatever the kernel can do and however they are cut."""
    kernel.no_batch = no_batch
    assert a_map.to_dict(batch) == dict(a_map.items(batch)) == kernel.contents
    assert list(a_map.values(batch)) == list(kernel.contents.values())
    assert list(a_map) == list(kernel.contents) and len(a_map) == 100


@pytest.mark.parametrize("no_batch", [0, ENOTSUPP])
def test_drain(a_map: FakeMap, kernel: Kernel, no_batch: int) -> None:
    kernel.no_batch = no_batch
    before = dict(kernel.contents)
    assert dict(a_map.drain(7)) == before
    assert kernel.contents == {}


def test_buffers_grow_for_a_full_bucket(a_map: FakeMap, kernel: Kernel) -> None:
    """ENOSPC in the middle of a walk: twice the room, from the same place, nothing twice."""
    kernel.bucket = 20
    assert list(a_map.items(batch=3)) == list(kernel.contents.items())


def test_growing_ends(a_map: FakeMap, kernel: Kernel) -> None:
    """A kernel that is never satisfied gets an error, not all our memory."""
    kernel.bucket = 1 << 30
    kernel.contents = {i: i for i in range(100_000)}
    with pytest.raises(BpfError) as refused:
        a_map.to_dict(batch=1)
    assert refused.value.errno == errno.ENOSPC
    assert kernel.batch_calls < 20


def test_interrupted_walk_goes_on(a_map: FakeMap, kernel: Kernel) -> None:
    kernel.interrupted = 5
    assert a_map.to_dict(batch=10) == kernel.contents
    kernel.interrupted = 1_000_000
    with pytest.raises(BpfError) as refused:
        a_map.to_dict()
    assert refused.value.errno == errno.EINTR


def test_other_errors_come_out(a_map: FakeMap, kernel: Kernel) -> None:
    kernel.no_batch = errno.EPERM
    with pytest.raises(BpfError, match="batch lookup"):
        a_map.to_dict()


def test_deleting_while_walking_key_by_key(a_map: FakeMap, kernel: Kernel) -> None:
    """The next key is known before the current one can go: every entry is seen once."""
    kernel.no_batch = ENOTSUPP
    seen = []
    for key in a_map._keys_one_by_one():
        seen.append(struct.unpack("=I", key)[0])
        del kernel.contents[seen[-1]]
    assert seen == [i * 3 for i in range(100)]


def test_walk_that_is_outrun_ends(a_map: FakeMap, kernel: Kernel) -> None:
    """If the current key always goes away, a hash starts again for ever; we do not."""
    walk_keys = a_map._keys_one_by_one()
    with pytest.raises(BpfError, match="faster than we walk"):
        for turn, _ in enumerate(walk_keys):
            # Whatever was found as the next key is gone when its turn comes.
            kernel.contents = {10 * turn + 1000: 0}


def test_update_without_batches(a_map: FakeMap, kernel: Kernel) -> None:
    """Entries are written one by one where the kernel has no batch update."""
    kernel.no_batch = ENOTSUPP
    a_map.update({1: 11, 2: 22})
    a_map.update([(4, 44)])
    assert (kernel.contents[1], kernel.contents[2], kernel.contents[4]) == (11, 22, 44)
    assert a_map.delete([1, 2, 4]) == 3
    with pytest.raises(KeyError):
        a_map.delete([1])
    with pytest.raises(BpfError, match="batch update"):
        a_map.update_packed(bytes(8), bytes(16))
    with pytest.raises(ValueError, match="an entry takes 4 and 8"):
        a_map.update_packed(bytes(8), bytes(15))


def test_errors_of_the_caller(a_map: FakeMap) -> None:
    with pytest.raises(ValueError, match="at least one"):
        a_map.to_dict(batch=0)
    with pytest.raises(TypeError, match="needs a key"):
        a_map.pop()
    assert "text" not in a_map
    codes: dict[int, Any] = {errno.E2BIG: "max_entries is 200", ENOTSUPP: "do not have this"}
    for code, words in codes.items():
        assert words in str(a_map._error("update", code))
