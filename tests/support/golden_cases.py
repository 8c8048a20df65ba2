"""The trampolines with golden listings, and the rows where a case has none: as data.

A case is a kernel function and the programs attached to it, in that order. A row lacks a case if
vagrant/rows.json says that it lacks a feature the case needs, or if `Case.refused` holds the
errno that its kernel gives instead. Nothing else excuses a missing golden listing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pybpf.features import Feature
from tests.support import rows

__all__ = [
    "CASES",
    "GOLDEN",
    "Case",
    "Put",
    "absence",
    "batches",
    "expected",
    "golden_path",
    "present",
]

GOLDEN = rows.ROOT / "tests/e2e/golden"
ENOTSUPP = 524  # kernel-internal
# Stable over kernels: it is called from other files, so no compiler changes its arguments.
SEVEN = "ip6_xmit"

_NEEDS = {
    "fentry": Feature.FENTRY,
    "fexit": Feature.FEXIT,
    "fmod_ret": Feature.FMOD_RET,
    "fsession": Feature.FSESSION,
}


@dataclass(frozen=True, slots=True)
class Put:
    """Describe one program to attach.

    :param kind: fentry, fexit, fmod_ret or fsession
    :param name: name in listings; "" means its kind
    :param ip: it calls bpf_get_func_ip
    :param keeps: a session program that keeps a cookie between its two runs
    :param mechanism: "" for a plain program of the kind; a multi program is attached by
        ``trampoline`` (a clone) or ``tracing_multi``
    """

    kind: str
    name: str = ""
    cookie: int = 0
    ip: bool = False
    keeps: bool = False
    mechanism: str = ""

    @property
    def label(self) -> str:
        """Return its name in listings."""
        return self.name or (f"{self.kind}.multi" if self.mechanism else self.kind)


@dataclass(frozen=True, slots=True)
class Case:
    """Describe programs on one function.

    :param refused: row -> errno of attaching there
    """

    name: str
    function: str
    puts: tuple[Put, ...]
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[Feature, ...]:
        """Return the features that the kernel must have."""
        found = [Feature.FENTRY]
        for put in self.puts:
            if put.mechanism == "tracing_multi":
                found.append(Feature.TRACING_MULTI)
            elif not put.mechanism:  # a clone uses what the kernel has: a session may be a pair
                found.append(_NEEDS[put.kind])
            if put.cookie:
                found.append(Feature.TRACING_COOKIE)
        return tuple(dict.fromkeys(found))


def _clone(kind: str, cookie: int = 0) -> Put:
    return Put(kind, cookie=cookie, mechanism="trampoline")


def _multi(kind: str, cookie: int = 0) -> Put:
    return Put(kind, cookie=cookie, mechanism="tracing_multi")


_TEST = "bpf_fentry_test{}".format  # (1) to (6): the number of arguments
_PAIR = (Put("fentry"), Put("fexit"))
CASES = (
    *(Case(f"fentry_{slots}", _TEST(slots), (Put("fentry"),)) for slots in (1, 3, 6)),
    *(Case(f"fexit_{slots}", _TEST(slots), (Put("fexit"),)) for slots in (1, 3, 6)),
    # 6.1 only supports arguments in registers.
    *(Case(f"{kind}_7", SEVEN, (Put(kind),), {"6.1": ENOTSUPP}) for kind in ("fentry", "fexit")),
    Case("fentry_ip", _TEST(2), (Put("fentry", ip=True),)),
    Case(
        "cookies",
        _TEST(2),
        (
            Put("fentry", "fentry_small", cookie=0x22),
            Put("fentry", "fentry_large", cookie=0x1122_3344_5566_7788),
        ),
    ),
    Case(
        "fmod_ret",
        "security_task_getpgid",
        (Put("fexit"), Put("fmod_ret", "fmod_ret_1"), Put("fentry"), Put("fmod_ret", "fmod_ret_2")),
    ),
    Case("fsession", _TEST(1), (Put("fsession", cookie=3),)),
    Case("fsession_cookie", _TEST(6), (Put("fsession", keeps=True), *_PAIR)),
    Case("clone_fentry", _TEST(4), (_clone("fentry", 0x31),)),
    Case("clone_fexit", _TEST(5), (_clone("fexit", 0x32),)),
    Case("clone_fsession", _TEST(4), (_clone("fsession", 0x33),)),
    Case("multi_fentry", _TEST(4), (_multi("fentry", 0x41),)),
    Case("multi_fexit", _TEST(5), (_multi("fexit", 0x42),)),
    Case("multi_fsession", _TEST(5), (_multi("fsession", 0x43),)),
    Case("overlap_clones", _TEST(3), (*_PAIR, _clone("fentry", 0x51), _clone("fexit", 0x52))),
    Case("overlap_multi", _TEST(2), (*_PAIR, _multi("fentry", 0x61), _multi("fexit", 0x62))),
)


def batches(row: str) -> list[list[Case]]:
    """List the cases to try on a row. Cases with different functions are tried together."""
    found: list[list[Case]] = []
    for case in CASES:
        if any(one.value in rows.lacks(row) for one in case.needs):
            continue
        free = (b for b in found if case.function not in {other.function for other in b})
        batch = next(free, None)
        if batch is None:
            batch = []
            found.append(batch)
        batch.append(case)
    return found


def absence(case: Case, row: str) -> str:
    """Return why a row has no such trampoline, "" if it has."""
    missing = [one.value for one in case.needs if one.value in rows.lacks(row)]
    if missing:
        return f"{row} lacks {', '.join(missing)}"
    errno = case.refused.get(row)
    return f"{row} refuses to attach it with errno {errno}" if errno else ""


def golden_path(row: str, name: str) -> Path:
    """Return the path of a case's golden listing for a row."""
    return GOLDEN / row / f"{name}.lst"


def expected() -> set[Path]:
    """Return the golden listings that must exist. There must be no others."""
    return {
        golden_path(row, case.name)
        for row in rows.names()
        for case in CASES
        if not absence(case, row)
    }


def present() -> set[Path]:
    """Return the golden listings that exist."""
    return set(GOLDEN.glob("*/*.lst"))
