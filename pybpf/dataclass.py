"""A replacement for `dataclasses.dataclass`, for classes made at every start of a tool.

The standard decorator compiles five methods for each class when its module is imported: 0.48 ms
each. Importing `dataclasses` itself takes 10 to 20 ms (it imports `inspect`). A process that
loads a small object makes 60 such classes, which was more than half of its start time. This
decorator takes 0.03 ms: the methods are shared closures, and ``__init__`` is compiled when so many
instances are made that this pays. The classes behave the same and count as dataclasses
(`dataclasses.fields`, `replace` and `asdict` work on them). Type checkers see the standard one.

Not supported: ``InitVar``, ``KW_ONLY``, ``hash=`` and ``metadata=`` of fields, ``unsafe_hash``,
``weakref_slot``, and a docstring made from the signature.
"""

from __future__ import annotations

import operator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    _MISSING = object()
    # Instances that a class makes without a compiled __init__: compiling one takes 0.1 ms, and
    # filling an instance field by field 3 us.
    _FEW = 16
    # Name of the class attribute that keeps the `_Field` values.
    _FIELDS = "__pybpf_fields__"

    class _Field:
        __slots__ = ("compare", "default", "factory", "init", "kw_only", "name", "repr", "type")

        def __init__(self, default, factory, init, repr, compare, kw_only):
            self.default = default
            self.factory = factory
            self.init = init
            self.repr = repr
            self.compare = compare
            self.kw_only = kw_only

    def field(
        *,
        default=_MISSING,
        default_factory=_MISSING,
        init=True,
        repr=True,
        compare=True,
        kw_only=None,
    ):
        """Do what `dataclasses.field` does."""
        return _Field(default, default_factory, init, repr, compare, kw_only)

    def replace(instance, /, **changes):
        """Do what `dataclasses.replace` does."""
        for one in getattr(type(instance), _FIELDS).values():
            if not one.init:
                if one.name in changes:
                    raise ValueError(
                        f"field {one.name} is declared with init=False, it cannot be specified "
                        "with replace()"
                    )
            elif one.name not in changes:
                changes[one.name] = getattr(instance, one.name)
        return type(instance)(**changes)

    def dataclass(
        cls=None, /, *, repr=True, eq=True, order=False, frozen=False, slots=False, kw_only=False
    ):
        """Do what `dataclasses.dataclass` does."""

        def wrap(cls):
            return _make(cls, repr, eq, order, frozen, slots, kw_only)

        return wrap if cls is None else wrap(cls)

    def _make(cls, repr, eq, order, frozen, slots, kw_only):
        fields = {}
        for base in reversed(cls.__mro__[1:]):
            fields.update(base.__dict__.get(_FIELDS, {}))
        namespace = dict(cls.__dict__)
        own = []
        for name, kind in namespace.get("__annotations__", {}).items():
            if isinstance(kind, str) and kind.startswith(("ClassVar", "typing.ClassVar")):
                continue
            default = namespace.get(name, _MISSING)
            one = default if isinstance(default, _Field) else field(default=default)
            if isinstance(one.default, (list, dict, set)):
                raise ValueError(f"mutable default for field {name}: use default_factory")
            one.name, one.type = name, kind
            if one.kw_only is None:
                one.kw_only = kw_only
            fields[name] = one
            own.append(name)
            # A default stays as a class attribute, but only without slots.
            namespace.pop(name, None)
            if one.default is not _MISSING and not slots:
                namespace[name] = one.default
        namespace[_FIELDS] = fields
        namespace["__dataclass_fields__"] = _StandardFields()
        namespace.setdefault(
            "__match_args__",
            tuple([f.name for f in fields.values() if f.init and not f.kw_only]),
        )
        if repr:
            namespace.setdefault("__repr__", _repr)
        if eq and "__eq__" not in namespace:
            namespace["__eq__"] = _comparing(fields, "__eq__")
        if order:
            for name in ("__lt__", "__le__", "__gt__", "__ge__"):
                namespace[name] = _comparing(fields, name)
        # Python sets __hash__ = None in a class that defines only __eq__.
        if eq and cls.__dict__.get("__hash__") is None:
            namespace["__hash__"] = _hash(fields) if frozen else None
        if slots:
            inherited = {name for base in cls.__mro__[1:] for name in _slots(base)}
            namespace["__slots__"] = tuple([name for name in own if name not in inherited])
            namespace.pop("__dict__", None)
            namespace.pop("__weakref__", None)
            if frozen:
                namespace["__getstate__"], namespace["__setstate__"] = _getstate, _setstate
            made = type(cls)(cls.__name__, cls.__bases__, namespace)
            made.__qualname__ = cls.__qualname__
        else:
            made = cls
            for name in own:
                if name in cls.__dict__ and name not in namespace:
                    delattr(cls, name)
            for name, value in namespace.items():
                if name not in ("__dict__", "__weakref__") and cls.__dict__.get(name) is not value:
                    setattr(cls, name, value)
        if frozen:
            made.__setattr__, made.__delattr__ = _frozen(made, frozenset(fields))
        if "__init__" not in cls.__dict__:
            made.__init__ = _first_init(made, fields, frozen)
        return made

    def _slots(cls):
        slots = cls.__dict__.get("__slots__", ())
        return (slots,) if isinstance(slots, str) else slots

    def _first_init(cls, fields, frozen):
        left = _FEW
        put = object.__setattr__ if frozen else setattr

        def __init__(self, /, *args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0 or not _fill(self, fields, put, args, kwargs):
                cls.__init__ = _init(cls, list(fields.values()), frozen)
                cls.__init__(self, *args, **kwargs)

        return __init__

    def _fill(self, fields, put, args, kwargs):
        # Does what a compiled __init__ does. Returns False, with no field set, for arguments that
        # do not fit: a compiled one has Python's words for that.
        positional = [name for name, one in fields.items() if one.init and not one.kw_only]
        values = dict(zip(positional, args))  # noqa: B905  the rest has defaults
        if len(args) > len(positional) or values.keys() & kwargs.keys():
            return False
        values |= kwargs
        for name, one in fields.items():
            if name in values:
                if not one.init:
                    return False
            elif one.factory is not _MISSING:
                values[name] = one.factory()
            elif one.default is not _MISSING:
                values[name] = one.default
            elif one.init:
                return False
        if not values.keys() <= fields.keys():
            return False
        for name, value in values.items():
            put(self, name, value)
        if hasattr(type(self), "__post_init__"):
            self.__post_init__()
        return True

    def _init(cls, fields, frozen):
        given = [f for f in fields if f.init]
        ordered = [f for f in given if not f.kw_only]
        named = [f for f in given if f.kw_only]
        names = {"_MISSING": _MISSING, "_set": object.__setattr__}
        parameters = []
        body = []
        required = True
        for one in (*ordered, *named):
            if one is (named or [None])[0]:
                parameters.append("*")
            if one.default is _MISSING and one.factory is _MISSING:
                if not required and not one.kw_only:
                    raise TypeError(f"non-default argument {one.name!r} follows default argument")
                parameters.append(one.name)
            else:
                required = False
                names[f"_default_{one.name}"] = _MISSING if one.default is _MISSING else one.default
                parameters.append(f"{one.name}=_default_{one.name}")
        for one in fields:
            value = one.name
            if one.factory is not _MISSING:
                names[f"_factory_{one.name}"] = one.factory
                made = f"_factory_{one.name}()"
                value = f"{made} if {one.name} is _MISSING else {one.name}" if one.init else made
            elif not one.init:
                if one.default is _MISSING:
                    continue
                names[f"_default_{one.name}"] = one.default
                value = f"_default_{one.name}"
            slot = cls.__dict__.get(one.name) if frozen else None
            if hasattr(type(slot), "__set__"):  # a slot's descriptor: faster than object's way
                names[f"_set_{one.name}"] = slot.__set__
                body.append(f"_set_{one.name}(self, {value})")
            elif frozen:
                body.append(f"_set(self, {one.name!r}, {value})")
            else:
                body.append(f"self.{one.name} = {value}")
        if hasattr(cls, "__post_init__"):
            body.append("self.__post_init__()")
        text = f"def __init__({', '.join(['self', *parameters])}):\n "
        exec(text + ("\n ".join(body) or "pass"), names)
        made = names["__init__"]
        made.__qualname__ = f"{cls.__qualname__}.__init__"
        return made

    def _repr(self):
        shown = [f.name for f in getattr(type(self), _FIELDS).values() if f.repr]
        values = ", ".join([f"{name}={getattr(self, name)!r}" for name in shown])
        return f"{type(self).__qualname__}({values})"

    def _key(fields):
        # The compared values of an instance, as one value that compares and hashes like them.
        names = [f.name for f in fields.values() if f.compare]
        return operator.attrgetter(*names) if names else lambda _: ()

    def _comparing(fields, name):
        key = _key(fields)
        compare = getattr(operator, name)

        def method(self, other):
            if other.__class__ is not self.__class__:
                return NotImplemented
            return compare(key(self), key(other))

        method.__name__ = name
        return method

    def _hash(fields):
        key = _key(fields)

        def __hash__(self):
            return hash(key(self))

        return __hash__

    def _frozen(cls, names):
        def __setattr__(self, name, value):
            if type(self) is cls or name in names:
                raise _frozen_error(f"cannot assign to field {name!r}")
            super(cls, self).__setattr__(name, value)

        def __delattr__(self, name):
            if type(self) is cls or name in names:
                raise _frozen_error(f"cannot delete field {name!r}")
            super(cls, self).__delattr__(name)

        return __setattr__, __delattr__

    def _frozen_error(text):
        from dataclasses import (
            FrozenInstanceError,
        )  # lazy: the import takes 10 ms

        return FrozenInstanceError(text)

    def _getstate(self):
        return [getattr(self, name) for name in getattr(type(self), _FIELDS)]

    def _setstate(self, state):
        for name, value in zip(getattr(type(self), _FIELDS), state, strict=True):
            object.__setattr__(self, name, value)

    class _StandardFields:
        """Make ``__dataclass_fields__``, the mark of a dataclass, when it is first read."""

        def __get__(self, instance, owner):
            import dataclasses  # only if it is read: the import takes 10 ms

            missing = dataclasses.MISSING
            fields = []
            for one in getattr(owner, _FIELDS).values():
                standard = dataclasses.field(
                    default=missing if one.default is _MISSING else one.default,
                    default_factory=missing if one.factory is _MISSING else one.factory,
                    init=one.init,
                    repr=one.repr,
                    compare=one.compare,
                    kw_only=one.kw_only,
                )
                fields.append((one.name, one.type, standard))
            made = dataclasses.make_dataclass(owner.__name__, fields).__dataclass_fields__
            owner.__dataclass_fields__ = made  # making them takes 2 ms
            return made


__all__ = ["dataclass", "field", "replace"]
