"""Cookies: the values that bpf_get_attach_cookie gives, function by function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import PlanError
from ..kernel.globs import VMLINUX, parse_pattern
from .plan import Target
from .select import Candidate

if TYPE_CHECKING:
    from .resolve import Item

__all__ = ["Cookies", "cookie_function"]

#: One for all, one per named function in order, by name, or computed.
Cookies = int | Sequence[int] | Mapping[str, int] | Callable[[Target], int]

# Who is meant by a name: module (None: of any), function, address (None: whichever).
_Who = tuple[str | None, str, int | None]


def cookie_function(
    cookies: Cookies | None, asked: str | Sequence[Item]
) -> Callable[[Target], int] | None:
    """A function from a target to its cookie, None where nobody asked for cookies.

    :param asked: what the caller named, for a sequence of cookies
    :raises PlanError: if a cookie is for a glob, or is nobody's
    """
    if cookies is None or callable(cookies):
        return cookies
    if isinstance(cookies, int):
        value = cookies
        return lambda target: value
    if isinstance(cookies, Mapping):
        pairs: Iterable[tuple[Item, int]] = cookies.items()
    elif isinstance(asked, str) or len(asked) != len(cookies):
        raise PlanError("a sequence of cookies goes with as many functions, named one by one")
    else:
        pairs = zip(asked, cookies, strict=True)
    known: dict[_Who, int] = {}
    for item, cookie in pairs:
        if known.setdefault(_who(item), cookie) != cookie:
            raise PlanError(f"{item!r} is named twice, with different cookies")

    def cookie_of(target: Target) -> int:
        module, name = target.module, target.name
        for who in ((module, name, target.address), (module, name, None), (None, name, None)):
            if who in known:
                return known[who]
        return 0

    return cookie_of


def _who(item: Item) -> _Who:
    if isinstance(item, Candidate):
        return (item.module, item.name, item.addr)
    if isinstance(item, Target):
        return (item.module, item.name, item.address or None)
    pattern = parse_pattern(item)
    if not pattern.is_exact:
        raise PlanError(
            f"a cookie for {item!r}: {item!r} is a glob, which may mean many functions; "
            "name them, or give one cookie for all or a function of the target"
        )
    return ("" if pattern.module == VMLINUX else pattern.module, pattern.name, None)
