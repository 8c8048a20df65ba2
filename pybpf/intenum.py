"""A replacement for `enum.IntEnum`, for the kernel's numbers that every start of a tool needs.

The standard class takes 10 us for each member, so the 300 of `pybpf._uapi.enums` took a third
of the import of all pybpf. This one takes 0.5 us. Members are ints with a ``name``; a class can be
called with a number, indexed by a name, and gives its members in order. Type checkers see the
standard one.

Not supported: values that are not ints, ``auto()``, methods of one member, and `enum`'s functions.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import IntEnum
else:

    class _Kind(type):
        # A class keeps its members by name and by number in the standard class's attributes. A
        # second name of a number is the first one's member.

        def __new__(cls, name, bases, namespace):
            numbers = {n: v for n, v in namespace.items() if n[0] != "_" and type(v) is int}
            rest = {n: v for n, v in namespace.items() if n not in numbers}
            made = super().__new__(cls, name, bases, rest)
            made.__members__, made._value2member_map_ = {}, {}
            for member_name, number in numbers.items():
                member = made._value2member_map_.get(number)
                if member is None:
                    member = made._value2member_map_[number] = int.__new__(made, number)
                    member.name = member_name
                made.__members__[member_name] = member
                setattr(made, member_name, member)
            return made

        def __call__(cls, number):
            member = cls._value2member_map_.get(number)
            if member is None:
                raise ValueError(f"{number!r} is not a valid {cls.__name__}")
            return member

        def __getitem__(cls, name):
            return cls.__members__[name]

        def __iter__(cls):
            return iter(cls._value2member_map_.values())

        def __len__(cls):
            return len(cls._value2member_map_)

        def __contains__(cls, number):
            return number in cls._value2member_map_

    class IntEnum(int, metaclass=_Kind):
        """Do what `enum.IntEnum` does."""

        @property
        def value(self):
            """Return the number."""
            return int(self)

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {int(self)}>"

        def __str__(self):
            return int.__repr__(self)

        def __reduce__(self):
            return type(self), (int(self),)


__all__ = ["IntEnum"]
