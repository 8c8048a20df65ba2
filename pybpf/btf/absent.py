"""Say what a kernel has instead of a type, field or enumerator that it lacks."""

from __future__ import annotations

from itertools import islice

from .match import ENUM_KINDS, FIELD_KINDS, Spec, kind_name, kinds_compatible, resolve
from .names import essential_name
from .types import Enum, Enum64, Struct, Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .decode import Btf

__all__ = ["Absent", "access", "near"]

_MOST = 4  # names to show
# Comparing takes up to the product of the lengths: at most so many letters and names.
_LONGEST, _COMPARED = 128, 4000
_DEPTH = 16  # nesting of anonymous members


def access(spec: Spec) -> str:
    """Write an access as C would: ``struct inode.i_atime.tv_sec``, ``enum bpf_cmd::BPF_X``."""
    name = spec.btf.name(spec.root) or "<anon>"
    text = f"{kind_name(spec.btf.kind(spec.root))} {name}"
    if spec.kind in ENUM_KINDS and spec.accessors:
        return f"{text}::{spec.accessors[0].name}"
    if spec.kind not in FIELD_KINDS:
        return text
    for position, one in enumerate(spec.accessors):
        if one.name is not None:
            text += f".{one.name}"
        elif position or one.idx:
            text += f"[{one.idx}]"
    return text


class Absent:
    """Say what one kernel has instead of what it lacks. An object may lack much.

    :param targets: BTF of the kernel and its modules, to find near names in
    """

    def __init__(self, targets: Sequence[Btf]) -> None:
        self._targets = targets
        self._names: dict[int, list[str]] = {}  # of types, by kind
        self._said: dict[tuple[int, str], str] = {}  # of types that do not exist, by kind and name

    def instead(self, spec: Spec, candidates: Sequence[tuple[Btf, int]]) -> str:
        """Say what the kernel has if an access found nothing.

        :param spec: the access, in the program's own types
        :param candidates: the kernel's types of that name and kind
        """
        if candidates:
            return _inside(spec, candidates)
        own = spec.btf.kind(spec.root)
        name = essential_name(spec.btf.name(spec.root))
        said = self._said.get((own, name))
        if said is None:
            listed = _listed(near(name, self._type_names(own)))
            said = f"this kernel has no {kind_name(own)} {name}{listed}"
            self._said[own, name] = said
        return said

    def _type_names(self, own: int) -> list[str]:
        # All names take 25 ms.
        if own not in self._names:
            self._names[own] = [
                btf.name(i)
                for btf in islice(self._targets, 1)
                for i in btf.ids(own)
                if kinds_compatible(btf.kind(i), own)
            ]
        return self._names[own]


def _inside(spec: Spec, candidates: Sequence[tuple[Btf, int]]) -> str:
    name = essential_name(spec.btf.name(spec.root))
    kind = kind_name(spec.btf.kind(spec.root))
    if spec.kind in ENUM_KINDS and spec.accessors:
        wanted = essential_name(spec.accessors[0].name or "")
        names = [value for target, one in candidates for value in _enumerators(target, one)]
        if wanted not in names:
            return f"this kernel's {kind} {name} has no {wanted}{_listed(near(wanted, names))}"
    for target, one in candidates:
        said = _member_missing(spec, target, one)
        if said:
            return said
    return f"this kernel's {kind} {name} is laid out otherwise"


def _enumerators(btf: Btf, type_id: int) -> list[str]:
    found = resolve(btf, type_id)[1]
    return [value.name for value in found.values] if isinstance(found, (Enum, Enum64)) else []


def _member_missing(spec: Spec, btf: Btf, type_id: int) -> str:
    # Follow the names of the access as far as the target has them.
    for one in spec.accessors:
        if one.name is None:
            continue
        type_id, owner = resolve(btf, type_id)
        if not isinstance(owner, (Struct, Union)):
            return f"{btf.name(type_id) or 'the field before'} has no members: no {one.name}"
        members = dict(_members(btf, type_id, 0))
        found = members.get(one.name)
        if found is None:
            kind = kind_name(btf.kind(type_id))
            what = f"{kind} {btf.name(type_id) or '<anon>'}"
            return f"this kernel's {what} has no {one.name}{_listed(near(one.name, members))}"
        type_id = found
    return ""


def _members(btf: Btf, type_id: int, depth: int) -> Iterable[tuple[str, int]]:
    _, owner = resolve(btf, type_id)
    if not isinstance(owner, (Struct, Union)) or depth > _DEPTH:
        return
    for member in owner.members:
        if member.name:
            yield member.name, member.type
        else:
            yield from _members(btf, member.type, depth + 1)


def near(name: str, names: Iterable[str]) -> list[str]:
    """Find names that are near to `name`, best first."""
    import difflib  # lazy: only needed when something is missing

    plain = name.strip("_")
    known = [other for other in dict.fromkeys(names) if 0 < len(other) <= _LONGEST]
    inside = sorted((other for other in known if plain and plain in other), key=len)
    alike = [
        other for other in known if other[:2] == name[:2] or other.lstrip("_")[:2] == plain[:2]
    ]
    close = difflib.get_close_matches(name[:_LONGEST], alike[:_COMPARED], _MOST, 0.7)
    return list(dict.fromkeys([*inside, *close]))[:_MOST]


def _listed(names: Sequence[str]) -> str:
    return f" (near: {', '.join(names)})" if names else ""
