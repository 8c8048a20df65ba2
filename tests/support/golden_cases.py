"""The trampolines that golden listings are kept of, and where a case has none: as data.

A case is a kernel function and the programs put on it, in that order. A row lacks a case when
vagrant/rows.json says that it lacks a feature the case needs, or when `Case.refused` holds the
errno its kernel gives instead; nothing else excuses a missing golden listing.
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
# Stable over kernels: called from other files, so that no compiler changes its arguments.
SEVEN = "ip6_xmit"

_NEEDS = {
    "fentry": Feature.FENTRY,
    "fexit": Feature.FEXIT,
    "fmod_ret": Feature.FMOD_RET,
    "fsession": Feature.FSESSION,
}


@dataclass(frozen=True, slots=True)
class Put:
    """One program to attach.

    :param kind: fentry, fexit, fmod_ret or fsession
    :param name: what listings call it; "" means its kind
    :param ip: it calls bpf_get_func_ip
    :param keeps: a session program that keeps a cookie between its two runs
    :param mechanism: "" for a plain program of the kind; a multi program is put there by
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
        """What listings call it."""
        return self.name or (f"{self.kind}.multi" if self.mechanism else self.kind)


@dataclass(frozen=True, slots=True)
class Case:
    """Programs on one function.

    :param refused: row -> errno of attaching there
    """

    name: str
    function: str
    puts: tuple[Put, ...]
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[Feature, ...]:
        """What the kernel must have."""
        found = [Feature.FENTRY]
        for put in self.puts:
            if put.mechanism == "tracing_multi":
                found.append(Feature.TRACING_MULTI)
            elif not put.mechanism:  # a clone is what the kernel has: a session may be a pair
                found.append(_NEEDS[put.kind])
            if put.cookie:
                found.append(Feature.TRACING_COOKIE)
        return tuple(dict.fromkeys(found))


def _clone(kind: str, cookie: int = 0) -> Put:
    return Put(kind, cookie=cookie, mechanism="trampoline")


def _multi(kind: str, cookie: int = 0) -> Put:
    return Put(kind, cookie=cookie, mechanism="tracing_multi")


_TEST = "bpf_fentry_test{}".format  # (1) to (6): so many arguments
_PAIR = (Put("fentry"), Put("fexit"))
CASES = (
    *(Case(f"fentry_{slots}", _TEST(slots), (Put("fentry"),)) for slots in (1, 3, 6)),
    *(Case(f"fexit_{slots}", _TEST(slots), (Put("fexit"),)) for slots in (1, 3, 6)),
    # 6.1 carries what is in registers only.
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
    """The cases to try on a row, those together whose functions differ."""
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
    """Why a row has no such trampoline; "" if it has."""
    missing = [one.value for one in case.needs if one.value in rows.lacks(row)]
    if missing:
        return f"{row} lacks {', '.join(missing)}"
    errno = case.refused.get(row)
    return f"{row} refuses to attach it with errno {errno}" if errno else ""


def golden_path(row: str, name: str) -> Path:
    """Where a case's golden listing of a row is."""
    return GOLDEN / row / f"{name}.lst"


def expected() -> set[Path]:
    """The golden listings that there must be, and no others."""
    return {
        golden_path(row, case.name)
        for row in rows.names()
        for case in CASES
        if not absence(case, row)
    }


def present() -> set[Path]:
    """The golden listings that there are."""
    return set(GOLDEN.glob("*/*.lst"))
