"""libbpf's own answers on the BPF objects of three Debian packages: ours must be the same.

tests/data/oracle holds what libbpf makes of each object and the sha256 of the
code it loads on Debian's 6.12 kernel. The objects are downloaded (see
tests/support/objects.py). An object that a newer package no longer has is
skipped and counted; without any download everything here is skipped, except
under CI and `make test`, where that is a failure.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pybpf.btf import Btf
from pybpf.obj.linker import LinkedProgram, Linker, LinkTarget
from pybpf.obj.reader import read_object
from pybpf.obj.spec import ObjectSpec
from pybpf.tools import bpfobj
from tests.support.objects import Packaged, Unavailable, must_have, packaged

DATA = Path(__file__).parents[1] / "data"
ORACLE = DATA / "oracle"


# 87 rows; three objects are embedded in tools of two packages and occur twice.
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (ORACLE / "objects.jsonl").read_text().splitlines()
]
# 448 of (object, program, errno, instructions, sha256 of the code or "-")
STREAMS = [
    line.split()
    for line in (ORACLE / "relocated-6.12.txt").read_text().splitlines()
    if not line.startswith("#")
]
PROGRAMS: dict[str, dict[str, tuple[int, int, str]]] = {}
for sha256, name, errno, count, code in STREAMS:
    PROGRAMS.setdefault(sha256, {})[name] = (int(errno), int(count), code)

each_row = pytest.mark.parametrize(
    "row", ROWS, ids=[f"{row['package']}-{row['origin']}-{row['sha256'][:8]}" for row in ROWS]
)


@pytest.fixture(scope="module")
def objects(request: pytest.FixtureRequest) -> dict[str, Packaged]:
    try:
        return packaged()
    except Unavailable as err:
        if must_have() or request.config.getoption("--kernel", ""):
            pytest.fail(str(err))
        pytest.skip(str(err))


def find(objects: dict[str, Packaged], row: dict[str, Any]) -> Packaged:
    found = objects.get(row["sha256"])
    if found is None:
        pytest.skip(f"{row['package']} no longer has this object")
    return found


@cache
def kernel() -> LinkTarget:
    blob = gzip.decompress((DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz").read_bytes())
    return LinkTarget(Btf(blob, name="vmlinux"), ksym_addr=lambda name: 0)


@cache
def read(found: Packaged) -> ObjectSpec:
    return read_object(found.data, found.path.name)


@cache
def linked(found: Packaged) -> dict[str, LinkedProgram]:
    """All programs that libbpf could finish, linked."""
    linker = Linker(read(found), kernel())
    wanted = PROGRAMS[found.sha256]
    return {name: linker.link(name) for name, (_, _, code) in wanted.items() if code != "-"}


def sections_only(maps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # libbpf's harness gave each object another name: compare from the dot on.
    return [
        {**m, "name": m["name"][m["name"].find(".") :]} if "." in m["name"] else m for m in maps
    ]


@each_row
def test_inspect(objects: dict[str, Packaged], row: dict[str, Any]) -> None:
    """Programs and maps: names, order, types, sizes, flags, instruction counts."""
    report = bpfobj.inspect(read(find(objects, row)))
    expected = [{k: v for k, v in p.items() if k != "flags"} for p in row["programs"]]
    assert report["programs"] == expected
    assert sections_only(report["maps"]) == sections_only(row["maps"])


@each_row
def test_relocate(objects: dict[str, Packaged], row: dict[str, Any]) -> None:
    """The final code of every program that loaded with libbpf, byte for byte."""
    found = find(objects, row)
    for name, program in linked(found).items():
        _, count, code = PROGRAMS[found.sha256][name]
        assert len(program.insns) == 8 * count, name
        assert hashlib.sha256(program.insns).hexdigest() == code, name


def test_programs_that_libbpf_cannot_finish(objects: dict[str, Packaged]) -> None:
    """Of those without final code, only the ones that need a missing kfunc fail here too."""
    btf, refused = kernel().btf, set()
    assert btf is not None
    for sha256, programs in PROGRAMS.items():
        if sha256 not in objects:
            continue
        report = bpfobj.relocate(read(objects[sha256]), btf)["programs"]
        assert list(report) == list(programs)
        for name, (errno, _, code) in programs.items():
            if report[name]["error"] is not None:
                assert errno == 22 and code == "-"
                refused.add(name)
    assert refused <= {"xdp_fwd_flow_full", "xdp_fwd_flow_direct", "xdp_fwd_flowtable_sample"}


def test_the_whole(objects: dict[str, Packaged], capsys: pytest.CaptureFixture[str]) -> None:
    """How many objects and streams are equal, masked and missing; most must be there."""
    present = [row for row in ROWS if row["sha256"] in objects]
    wanted = [(sha256, name, code) for sha256, name, _, _, code in STREAMS if code != "-"]
    equal = masked = 0
    for sha256, name, code in wanted:
        if sha256 in objects:
            program = linked(objects[sha256])[name]
            equal += hashlib.sha256(program.insns).hexdigest() == code
            masked += len(program.addresses)
    with capsys.disabled():
        print(
            f"\noracle: {len(present)} of {len(ROWS)} objects present, {equal} of {len(wanted)}"
            f" relocated streams equal, {masked} values masked"
        )
    assert (len(ROWS), len(STREAMS), len(wanted)) == (87, 448, 413)
    assert len(present) > len(ROWS) // 2
    assert equal == sum(sha256 in objects for sha256, _, _ in wanted)
