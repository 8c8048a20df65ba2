"""Cookies: the values that bpf_get_attach_cookie gives, function by function.

A caller gives one cookie for all functions, one for each named function, or a function that
computes it. Several functions may have one name: static functions, and functions of
modules. A cookie for such a name goes to all of them, and a warning says so. A target or
``NAME@ADDRESS`` means exactly one of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import PlanError
from ..kernel.globs import parse_pattern
from .candidates import Candidate
from .select import split_address
from .target import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .resolve import Item

__all__ = ["Cookies", "cookie_function", "shared_cookies"]

#: One for all, one per named function in order, by name or target, or computed.
Cookies = int | Sequence[int] | Mapping[str, int] | Mapping[Target, int] | Callable[[Target], int]

# What a name means: module (None: any), function, address (None: any).
_Who = tuple[str | None, str, int | None]


class _Named:
    # Cookies by name: a function from a target to its cookie, 0 for functions not named.
    def __init__(self, pairs: Iterable[tuple[Item, int]]) -> None:
        self.known: dict[_Who, int] = {}
        for item, cookie in pairs:
            if self.known.setdefault(_who(item), cookie) != cookie:
                raise PlanError(f"{item!r} is named twice, with different cookies")
        # A function named with its address may have moved, because its module was reloaded.
        exact = [who for who in self.known if who[2] is not None]
        places = Counter((module, name) for module, name, _ in exact)
        self._only = {who[:2]: who for who in exact if places[who[:2]] == 1}

    def who(self, target: Target) -> _Who | None:
        module, name = target.module, target.name
        for address in (target.address, None):
            for who in ((module, name, address), (None, name, address)):
                if who in self.known:
                    return who
        return self._only.get((module, name))

    def __call__(self, target: Target) -> int:
        who = self.who(target)
        return 0 if who is None else self.known[who]


def cookie_function(
    cookies: Cookies | None, asked: str | Sequence[Item]
) -> Callable[[Target], int] | None:
    """Make a function from a target to its cookie. None if no cookies were requested.

    :param asked: what the caller named, for a sequence of cookies
    :raises PlanError: if a cookie is for a glob, or does not belong to a function
    """
    if cookies is None or callable(cookies):
        return cookies
    if isinstance(cookies, int):
        value = cookies
        return lambda target: value
    if isinstance(cookies, Mapping):
        return _Named(cookies.items())
    if isinstance(asked, str) or len(asked) != len(cookies):
        raise PlanError("a sequence of cookies needs as many functions, named one by one")
    return _Named(zip(asked, cookies, strict=True))


def shared_cookies(cookies: Callable[[Target], int] | None, targets: Iterable[Target]) -> str:
    """Say which functions share a cookie because they share the name that it was given for.

    :param cookies: what `cookie_function` made
    :returns: one line, "" if there are none
    """
    if not isinstance(cookies, _Named):
        return ""
    by: defaultdict[_Who, list[Target]] = defaultdict(list)
    for target in targets:
        who = cookies.who(target)
        if who is not None and who[2] is None:
            by[who].append(target)
    shared = {who: same for who, same in by.items() if len(same) > 1}
    if not shared:
        return ""
    said = [
        f"{cookies.known[who]} by " + " and ".join(f"{t.label} at {t.address:#x}" for t in same)
        for who, same in list(shared.items())[:3]
    ]
    more = f", and {len(shared) - 3} more" if len(shared) > 3 else ""
    return (
        f"functions with the same name share a cookie: {'; '.join(said)}{more} "
        "(a Target or NAME@ADDRESS tells them apart)"
    )


def _who(item: Item) -> _Who:
    if isinstance(item, Candidate):
        return (item.module, item.name, item.address)
    if isinstance(item, Target):
        return (item.module, item.name, item.address or None)
    text, address = split_address(item)
    pattern = parse_pattern(text)
    if not pattern.is_exact:
        raise PlanError(
            f"a cookie for {item!r}: {item!r} is a glob, which may mean many functions; "
            "name them, or give one cookie for all or a function of the target"
        )
    return (pattern.owner, pattern.name, address)
