"""`list` and `why` name who attached: another process, a pin, or nobody who can be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf.features import Feature
from pybpf.kernel import owners
from tests.support.require import facts

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
BPFFS = Path("/sys/fs/bpf")

# Attaches and waits for its input to end.
TRACER = """
import sys, pybpf
with pybpf.open("tests/data/multi.bpf.o") as obj:
    with obj.programs["on_entry"].attach_multi(sys.argv[2:], mechanism=sys.argv[1]) as link:
        print(*(one.id for one in link.links), flush=True)
        sys.stdin.read()
"""


@contextmanager
def tracer(mechanism: str, *functions: str) -> Iterator[tuple[int, list[int]]]:
    """Its pid and the ids of its links."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRACER, mechanism, *functions],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        ids = [int(text) for text in process.stdout.readline().split()]
        assert ids, "the tracer ended"
        yield process.pid, ids
        process.stdin.close()
        assert process.wait() == 0


def tool(*args: str) -> str:
    return subprocess.run(
        [sys.executable, "tools/trampolines.py", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def shown(*args: str) -> Any:
    return json.loads(tool(*args, "--json"))


@pytest.mark.needs(Feature.FENTRY)
def test_trampolines_of_another_process() -> None:
    """Its clones, with its pid and name; beside one of ours."""
    function = "bpf_fentry_test3"
    with (
        tracer("trampoline", function) as (pid, (link,)),
        pybpf.open(ROOT / "tests/data/fentry_args.bpf.o", facts=facts()) as obj,
        obj.programs["entry3"].clone() as program,
        program.attach_tracing() as mine,
    ):
        value = shown("list", function)
        (image,) = value["images"]
        by_name = {p["name"]: p for p in image["programs"]}
        theirs = by_name["on_entry"]
        assert theirs["links"] == [link]
        (holder,) = theirs["owner"]["processes"]
        assert holder["pid"] == pid and holder["name"].startswith("python")
        assert [o["pid"] for o in by_name["entry3"]["owner"]["processes"]] == [os.getpid()]
        assert value["hidden_processes"] == 0
        row = tool("list", function).splitlines()[1]
        assert f"({pid})" in row and f"({os.getpid()})" in row
        (why,) = shown("why", function)["functions"]
        assert {a["link"]: a["owner"]["processes"][0]["pid"] for a in why["attached"]} == {
            link: pid,
            mine.id: os.getpid(),
        }
        assert {a["name"] for a in why["attached"]} == {"on_entry", "entry3"}


@pytest.mark.needs(Feature.KPROBE_MULTI)
def test_kprobe_multi_links() -> None:
    """They have no image. They get their own row, and `why` names them for each function."""
    on = ["bpf_fentry_test7", "bpf_fentry_test8"]  # of one model, so one link
    with tracer("kprobe_multi", *on) as (pid, (link,)):
        (row,) = shown("list", on[0])["probes"]
        assert row["link"] == link
        assert (row["kind"], row["count"], row["name"]) == ("kprobe.multi", 2, "on_entry")
        assert sorted(f["name"] for f in row["functions"]) == on
        assert [o["pid"] for o in row["owner"]["processes"]] == [pid]
        for why in shown("why", *on)["functions"]:
            assert [(a["link"], a["kinds"]) for a in why["attached"]] == [(link, ["kprobe.multi"])]
            assert why["attached"][0]["owner"]["processes"][0]["pid"] == pid


@pytest.mark.needs(Feature.TRACING_MULTI)
def test_tracing_multi_links() -> None:
    """One link on many functions is named on each."""
    on = ["bpf_fentry_test1", "bpf_fentry_test2"]
    with tracer("tracing_multi", *on) as (pid, ids):
        functions = shown("why", *on)["functions"]
        images = shown("list", *on)["images"]
        assert [why["function"] for why in functions] == sorted(i["function"] for i in images) == on
        for why in functions:
            (one,) = why["attached"]
            assert one["link"] in ids and one["owner"]["processes"][0]["pid"] == pid
            (image,) = [i for i in images if i["function"] == why["function"]]
            assert image["programs"][0]["links"] == [one["link"]]


@pytest.mark.needs(Feature.FENTRY)
def test_a_pinned_link() -> None:
    """Only a path holds it."""
    if not os.path.ismount(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    path = BPFFS / "pybpf_test_owner"
    function = "bpf_fentry_test5"
    with pybpf.open(ROOT / "tests/data/fentry_args.bpf.o", facts=facts()) as obj:
        with obj.programs["entry5"].clone() as program, program.attach_tracing() as link:
            number = link.id
            link.pin(str(path))
        try:
            assert owners.read().of_link(number).pins == (str(path),)
            row = tool("list", function).splitlines()[1]
            assert f"pinned {path}" in row
            assert str(owners.read().of_link(number)) == f"pinned {path}"
        finally:
            path.unlink()


@pytest.mark.needs(Feature.KPROBE)
def test_without_privileges_nothing_is_claimed() -> None:
    """Another user's processes cannot be read. They are counted, and "nobody" is not claimed."""
    script = (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from pybpf.kernel import owners\n"
        "found = owners.read()\n"
        "print(found.hidden, found.of_link(1 << 30))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    hidden, _, text = done.stdout.strip().partition(" ")
    assert int(hidden) > 0
    assert text == "not known"
