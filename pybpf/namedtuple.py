"""A replacement for `typing.NamedTuple`, for classes made at every start of a tool.

The standard one compiles the type of each field, which costs as much as all the rest of the class:
100 fields took 11 M instructions of a run. This one makes the same classes and keeps the types as
text. Type checkers see the standard one.

Not supported: the form that is called like a function.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    # Of a class body, what a named tuple has of its own.
    _OWN = {"__module__", "__qualname__", "__annotations__", "__doc__"}

    class _Maker(type):
        def __new__(cls, name, bases, namespace):
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = list(namespace.get("__annotations__", {}))
            defaults = [namespace[one] for one in fields if one in namespace]
            if fields[: len(fields) - len(defaults)] != [f for f in fields if f not in namespace]:
                raise TypeError("a field without a default follows one with a default")
            made = namedtuple(name, fields, defaults=defaults, module=namespace["__module__"])
            made.__qualname__ = namespace["__qualname__"]
            made.__annotations__ = namespace.get("__annotations__", {})
            if namespace.get("__doc__"):
                made.__doc__ = namespace["__doc__"]
            for key, value in namespace.items():
                if key not in _OWN and key not in fields:
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Maker):
        """Do what `typing.NamedTuple` does."""


__all__ = ["NamedTuple"]
