"""The maps of a recursion guard: flags shared by an object's links, and misses of one link."""

from __future__ import annotations

from collections.abc import Iterable

from .._sys import bpf as sys_bpf
from .._sys.element import Element, last_errno
from .._uapi.enums import MapType
from ..errors import BpfError
from .guard import FLAGS, MISSES, SLOT_SIZE, mask_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.fd import Fd

__all__ = ["GuardMaps", "make_flags"]


def _make(name: str, cpus: Iterable[int], token_fd: int) -> Fd:
    size = SLOT_SIZE * (mask_of(max(cpus, default=0) + 1) + 1)
    return sys_bpf.map_create(
        MapType.BPF_MAP_TYPE_ARRAY,
        key_size=4,
        value_size=size,
        max_entries=1,
        name=name,
        token_fd=token_fd,
    )


def make_flags(cpus: Iterable[int], token_fd: int = 0) -> Fd:
    """Create the flags that all links of an object take (BPF_MAP_CREATE).

    :param cpus: numbers of all possible CPUs
    :param token_fd: a BPF token, 0 for none
    """
    return _make("pybpf_running", cpus, token_fd)


class GuardMaps:
    """Hold the maps that the guard's code uses, and count how often it found the flag taken.

    :ivar mask: limits a CPU number to the maps' size
    """

    def __init__(self, flags: Fd, cpus: tuple[int, ...], token_fd: int = 0) -> None:
        """Create the map of misses.

        :param flags: from `make_flags`; still belongs to the caller
        :param cpus: numbers of all possible CPUs, as for `make_flags`
        :param token_fd: a BPF token, 0 for none
        """
        self.mask = mask_of(max(cpus, default=0) + 1)
        self._flags = flags
        self._misses = _make("pybpf_missed", cpus, token_fd)
        # The key stays 0, because the array has only one entry.
        self._entry = Element(self._misses.fileno(), 4, SLOT_SIZE * (self.mask + 1))
        self._last = 0

    @property
    def maps(self) -> dict[int, int]:
        """Return descriptors by the map numbers used in the code."""
        return {FLAGS: self._flags.fileno(), MISSES: self._misses.fileno()}

    @property
    def misses(self) -> int:
        """Count the runs that found another copy of the program running on their CPU.

        After `close`, return the last value.

        :raises BpfError: if the kernel refuses
        """
        if not self._misses.closed:
            if self._entry.lookup() < 0:
                raise BpfError(last_errno(), "BPF_MAP_LOOKUP_ELEM of the map of pybpf_missed")
            self._last = sum(self._entry.value.cast("Q")[:: SLOT_SIZE // 8])
        return self._last

    def close(self) -> None:
        """Read the misses for the last time and close the map. May be called again."""
        try:
            _ = self.misses
        finally:
            self._misses.close()
