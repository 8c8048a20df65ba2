"""Structures whose fields take only numbers that fit. ctypes keeps the low bits of any number."""

from __future__ import annotations

import ctypes
import errno

from ..errors import BpfError

__all__ = ["Structure", "Union"]


class _Exact:
    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if isinstance(value, int) and getattr(self, name) != value:
            raise BpfError(errno.ERANGE, f"{name.removeprefix('bpf_')} {value}")


class Structure(_Exact, ctypes.Structure):
    """Raise `BpfError` (ERANGE) if an assigned number does not fit its field."""

    __slots__ = ()


class Union(_Exact, ctypes.Union):
    """Raise `BpfError` (ERANGE) if an assigned number does not fit its field."""

    __slots__ = ()
