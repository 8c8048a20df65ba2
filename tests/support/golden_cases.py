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

__all__ = ["CASES", "GOLDEN", "Case", "Put", "absence", "expected", "golden_path", "present"]

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


_THREE = "bpf_fentry_test3"
_PAIR = (Put("fentry"), Put("fexit"))
CASES = (
    *(
        Case(f"{kind}_{slots}", f"bpf_fentry_test{slots}", (Put(kind),))
        for kind in ("fentry", "fexit")
        for slots in (1, 3, 6)
    ),
    # 6.1 carries what is in registers only.
    *(Case(f"{kind}_7", SEVEN, (Put(kind),), {"6.1": ENOTSUPP}) for kind in ("fentry", "fexit")),
    Case("fentry_ip", _THREE, (Put("fentry", ip=True),)),
    Case(
        "cookies",
        _THREE,
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
    Case("fsession", _THREE, (Put("fsession", cookie=3),)),
    Case("fsession_cookie", _THREE, (Put("fsession", keeps=True), *_PAIR)),
    Case("clone_fentry", _THREE, (_clone("fentry", 0x31),)),
    Case("clone_fexit", _THREE, (_clone("fexit", 0x32),)),
    Case("clone_fsession", _THREE, (_clone("fsession", 0x33),)),
    Case("multi_fentry", _THREE, (_multi("fentry", 0x41),)),
    Case("multi_fexit", _THREE, (_multi("fexit", 0x42),)),
    Case("multi_fsession", _THREE, (_multi("fsession", 0x43),)),
    Case("overlap_clones", _THREE, (*_PAIR, _clone("fentry", 0x51), _clone("fexit", 0x52))),
    Case("overlap_multi", _THREE, (*_PAIR, _multi("fentry", 0x61), _multi("fexit", 0x62))),
)


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
