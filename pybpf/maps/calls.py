"""Prepared element commands of one map. All map operations use them.

Theory of operation. Single operations go through a pool of prepared `Element`s.
Popping one is atomic, so two threads never share a buffer, and one thread
never builds more than one. `Calls` needs only an fd, a type and two `Field`s, so
`Map` (typed keys and values) and `Map.raw` (bytes) share all that is built on it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from .._sys.element import Element, last_errno
from .._uapi.defines import ENOTSUPP
from ..errors import BpfError
from ..obj.maptypes import FULL_ARRAYS
from .fields import Field
from .hints import wrong_value

__all__ = ["MISSING", "NO_SUCH_COMMAND", "Calls"]

#: Answers of a kernel that lacks a command, for this type of map or entirely.
NO_SUCH_COMMAND = frozenset({ENOTSUPP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
MISSING: Any = object()


class Calls:
    """Hold one map's fd, fields and pool of prepared commands."""

    def __init__(self, name: str, kind: int, max_entries: int, key: Field, value: Field) -> None:
        self._name = name
        self._kind = kind
        self._entries = max_entries
        self._bind(key, value)
        self._pool: list[Element] = []

    def _bind(self, key: Field, value: Field) -> None:
        self._key = key
        self._value = value
        self._key_at, self._convert_key = key.at, key.convert
        self._value_at, self._convert_value = value.at, value.convert
        self._decode = value.decode

    # -- provided by the subclass -------------------------------------------

    def fileno(self) -> int:
        """Return the map's fd.

        :raises StateError: if there is none (not created yet, or closed)
        """
        raise NotImplementedError

    # -- prepared calls ------------------------------------------------------

    def _new_element(self) -> Element:
        element = Element(self.fileno(), self._key.size, self._value.size)
        element.typed_key = self._key.view(element.key)
        element.typed_value = self._value.view(element.value)
        return element

    def _fill_key(self, element: Element, key: Any) -> None:
        convert = self._convert_key
        try:
            element.typed_key[self._key_at] = key if convert is None else convert(key)
        except Exception:
            # The slow form accepts more kinds of keys and explains what it refuses.
            element.key[:] = self._key.encode(key)

    def _fill_value(self, element: Element, value: Any) -> None:
        convert = self._convert_value
        try:
            element.typed_value[self._value_at] = value if convert is None else convert(value)
        except Exception:
            element.value[:] = self._value.encode(value)

    def _error(self, doing: str, code: int) -> BpfError:
        hint = ""
        if code == errno.E2BIG:
            hint = f"the map is full: max_entries is {self._entries}"
            if self._kind in FULL_ARRAYS:
                hint = f"the index is not below max_entries, {self._entries}"
        elif code == errno.EPERM:
            hint = "the map is frozen, or its flags do not allow this from user space"
        elif code in (ENOTSUPP, errno.EOPNOTSUPP):
            hint = "maps of this type do not have this operation"
        elif code == errno.EINVAL and doing == "delete" and self._kind in FULL_ARRAYS:
            hint = "entries of an array cannot be deleted"
        elif doing == "update":
            hint = wrong_value(code, self._kind)
        return BpfError(code, f"map {self._name!r}: {doing}", hint)

    def _run(
        self,
        command: str,
        doing: str,
        key: Any = MISSING,
        value: Any = MISSING,
        flags: int = 0,
        result: Callable[[Element], None] | None = None,
    ) -> int:
        # Runs one prepared command. Returns 0 or ENOENT, and raises on anything else.
        pool = self._pool
        try:
            element = pool.pop()
        except IndexError:
            element = self._new_element()
        try:
            if key is not MISSING:
                self._fill_key(element, key)
            if value is not MISSING:
                self._fill_value(element, value)
            call: Callable[[], int] = getattr(element, command)
            if (element.with_flags(call, flags) if flags else call()) < 0:
                code = last_errno()
                if code == errno.ENOENT:
                    return code
                raise self._error(doing, code)
            if result is not None:
                result(element)
            return 0
        finally:
            pool.append(element)

    def _decoded(self, out: list[Any]) -> Callable[[Element], None]:
        return lambda element: out.append(self._decode(element.typed_value))
