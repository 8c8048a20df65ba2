"""A fake kernel that answers bpf(2) and perf_event_open(2) with Python functions."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pybpf._sys import door
from pybpf._uapi import structs
from pybpf._uapi.defines import SYS_BPF, SYS_PERF_EVENT_OPEN
from pybpf._uapi.enums import Cmd
from pybpf._uapi.perf import PerfEventAttr

__all__ = ["FakeKernel", "read_bytes"]

# Command -> structure to read its attr with.
_ATTRS: dict[int, Any] = {
    Cmd.BPF_MAP_CREATE: structs.MapCreate,
    Cmd.BPF_MAP_LOOKUP_ELEM: structs.MapElem,
    Cmd.BPF_MAP_UPDATE_ELEM: structs.MapElem,
    Cmd.BPF_MAP_DELETE_ELEM: structs.MapElem,
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: structs.MapElem,
    Cmd.BPF_MAP_GET_NEXT_KEY: structs.MapElem,
    Cmd.BPF_MAP_FREEZE: structs.MapElem,
    Cmd.BPF_MAP_LOOKUP_BATCH: structs.MapBatch,
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH: structs.MapBatch,
    Cmd.BPF_MAP_UPDATE_BATCH: structs.MapBatch,
    Cmd.BPF_MAP_DELETE_BATCH: structs.MapBatch,
    Cmd.BPF_PROG_LOAD: structs.ProgLoad,
    Cmd.BPF_PROG_TEST_RUN: structs.ProgTestRun,
    Cmd.BPF_BTF_LOAD: structs.BtfLoad,
    Cmd.BPF_OBJ_PIN: structs.Obj,
    Cmd.BPF_OBJ_GET: structs.Obj,
    Cmd.BPF_OBJ_GET_INFO_BY_FD: structs.GetInfo,
    Cmd.BPF_PROG_GET_NEXT_ID: structs.GetId,
    Cmd.BPF_PROG_GET_FD_BY_ID: structs.GetId,
    Cmd.BPF_LINK_UPDATE: structs.LinkUpdate,
    Cmd.BPF_RAW_TRACEPOINT_OPEN: structs.RawTracepointOpen,
}


def read_bytes(address: int, size: int) -> bytes:
    """Read what the caller put at an address that it gave to the kernel."""
    return ctypes.string_at(address, size) if size else b""


class FakeKernel:
    """Replace the system calls. ``on[cmd]`` gets the attr and returns a result or -errno.

    ``calls`` has (cmd, size) of each call. `attrs` chooses another structure for a command.
    ``on_perf`` answers perf_event_open(2).
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on: dict[int, Callable[[Any], int]] = {}
        self.on_perf: Callable[[Any], int] = lambda attr: self.fd()
        self.attrs = dict(_ATTRS)
        self.calls: list[tuple[int, int]] = []
        self.common: list[Any] = []
        monkeypatch.setattr(door, "_syscall", self)
        monkeypatch.setattr(door, "prepare", self.prepare)

    def __call__(self, number: int, *arguments: int) -> int:
        if number == SYS_PERF_EVENT_OPEN:
            return self._answer(self.on_perf(PerfEventAttr.from_address(arguments[0])))
        assert number == SYS_BPF
        cmd, attr, size, common, _ = arguments
        self.calls.append((cmd, size))
        self.common.append(structs.CommonAttr.from_address(common) if common else None)
        kind = self.attrs[cmd & ~Cmd.BPF_COMMON_ATTRS]
        assert size <= ctypes.sizeof(kind)
        return self._answer(self.on[cmd](kind.from_address(attr)))

    def prepare(self, cmd: int, attr: Any, size: int = 0) -> Callable[[], int]:
        """Make what `door.prepare` makes, for this kernel."""
        size = size or ctypes.sizeof(attr)
        return partial(self, SYS_BPF, int(cmd), ctypes.addressof(attr), size, 0, 0)

    @staticmethod
    def _answer(result: int) -> int:
        if result < 0:
            ctypes.set_errno(-result)
            return -1
        return result

    @staticmethod
    def fd() -> int:
        """Open a real descriptor, so that closing it is a real close."""
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
