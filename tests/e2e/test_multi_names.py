"""Functions that share a name never share a cookie silently. An address tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.features import Feature
from pybpf.kernel.ftrace import FtraceFunctions
from tests.support.require import facts

DATA = Path(__file__).resolve().parents[1] / "data"
#: Three static functions of every kernel: of /proc/PID/maps, /proc/PID/mounts, /proc/modules.
NAME = "m_start"
MECHANISMS = [
    pytest.param("kprobe", marks=pytest.mark.needs(Feature.ATTACH_COOKIE)),
    pytest.param("kprobe_multi", marks=pytest.mark.needs(Feature.KPROBE_MULTI)),
]


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "multi_names.bpf.o", facts=facts()) as opened:
        opened.load()
        yield opened


def addresses(obj: pybpf.Object) -> list[int]:
    found = [s.addr for s in obj.facts.kallsyms.by_name(NAME) if s.is_function and not s.module]
    assert len(found) >= 2
    functions: FtraceFunctions = obj.facts.ftrace
    assert functions.positions(NAME)
    return found


def ran(obj: pybpf.Object, path: str) -> dict[int, int]:
    """Runs by cookie while a file is read 50 times, of those with at least 50."""
    before = dict(obj.maps["runs"].items())
    for _ in range(50):
        Path(path).read_bytes()
    after = dict(obj.maps["runs"].items())
    return {c: n - before[c] for c, n in after.items() if n - before[c] >= 50}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_has_its_own_cookie(
    obj: pybpf.Object, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By NAME@ADDRESS: what reads /proc/self/maps and what reads mounts count apart."""
    at = addresses(obj)
    names = [f"{NAME}@{address:#x}" for address in at]
    cookies = list(range(1, len(at) + 1))
    program = obj.programs["by_cookie"]
    with program.attach_multi(names, mechanism=mechanism, cookies=cookies) as link:
        assert {t.address for t in link.targets} <= set(at)
        (maps,) = ran(obj, "/proc/self/maps")
        (mounts,) = ran(obj, "/proc/self/mounts")
        assert maps != mounts
    assert caplog.messages == []
    # One of them alone, as a glob's place would be: only its own runs are counted.
    with program.attach_multi(names[maps - 1], mechanism=mechanism, cookies=9):
        assert set(ran(obj, "/proc/self/maps")) == {9}
        assert ran(obj, "/proc/self/mounts") == {}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_by_name_they_share_it_and_people_are_told(
    obj: pybpf.Object, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If all functions of a name are attached to, the warning names each."""
    program = obj.programs["by_cookie"]
    try:
        link = program.attach_multi([NAME, "vfs_read"], mechanism=mechanism, cookies=[1, 2])
    except pybpf.PlanError as error:
        pytest.fail(str(error))
    with link:
        attached = {t.address for t in link.targets if t.name == NAME}
        if len(attached) > 1:
            (said,) = caplog.messages
            assert all(f"{NAME} at {address:#x}" in said for address in attached)
            assert "tells them apart" in said
        else:  # 6.1 does not tell which of them can be traced
            assert NAME in {s.name for s in link.skipped}
            assert caplog.messages == []
