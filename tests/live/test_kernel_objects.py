"""What the kernel holds: infos with names and owners that open, and the commands that list them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf import kernel
from pybpf._uapi.enums import MapType, ProgType
from pybpf.btf import Btf
from pybpf.errors import BpfError
from pybpf.kernel import owners
from pybpf.maps.percpu import possible_cpus

pytestmark = pytest.mark.first_on("host", "latest")

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
ME = os.getpid()


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "attach_by_hand.bpf.o") as one:
        one.globals.my_tgid = ME
        one.load()
        yield one


def tool(*args: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "tools/bpfobj.py", *args], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout if not status else done.stderr


def holders(held: owners.Held) -> set[int]:
    return {owner.pid for owner in held.owners}


def test_programs(obj: pybpf.Object) -> None:
    """Each loaded program once, with names for numbers; opened, it is the same program."""
    mine = {info.name: info for info in kernel.programs() if ME in holders(info.owners)}
    info = mine["on_xdp"]
    assert set(mine) >= set(obj.programs)
    assert (info.type, info.uid) == ("xdp", os.getuid())
    assert set(info.maps) == {obj.maps["runs"].info().id, obj.maps[".rodata"].info().id}
    with info.open() as program:
        assert program.info().id == info.id == obj.programs["on_xdp"].info().id
        assert program.type == ProgType.BPF_PROG_TYPE_XDP
        assert program.test_run(bytes(64)).retval == 2  # XDP_PASS


def test_maps(obj: pybpf.Object) -> None:
    """A map that is opened by its info is typed from the BTF it was made with."""
    obj.maps["runs"][1] = 77
    number = obj.maps["runs"].info().id
    (info,) = [one for one in kernel.maps() if one.id == number]
    assert (info.type, info.name, info.max_entries) == ("array", "runs", 6)
    assert not info.frozen and info.memory > 0
    with info.open() as one:
        assert one[1] == 77
    (data,) = [one for one in kernel.maps() if one.id == obj.maps[".rodata"].info().id]
    assert data.frozen


def test_links(obj: pybpf.Object) -> None:
    """A link says what it is attached to; its owners include the path of its pin."""
    with obj.programs["on_symbol"].attach() as link:
        (info,) = [one for one in kernel.links() if one.id == link.id]
        assert info.type == "perf_event" and info.program == obj.programs["on_symbol"].info().id
        assert info.target == "perf event" or "libc.so.6+0x" in info.target
        assert ME in holders(info.owners)
        with info.open() as again:
            assert again.id == link.id
    assert info.id not in {one.id for one in kernel.links()}


def test_btfs(obj: pybpf.Object) -> None:
    """The kernel's and the object's own, both with their types."""
    found = {info.id: info for info in kernel.btfs()}
    own = found[obj.programs["on_xdp"].info().btf_id]
    assert (own.type, own.name, own.kernel) == ("user", "", False)
    types = own.open()
    assert isinstance(types, Btf) and types.find("on_xdp") is not None
    (vmlinux,) = [info for info in found.values() if info.type == "kernel"]
    assert vmlinux.name == "vmlinux" and vmlinux.kernel
    assert vmlinux.open().find("task_struct") is not None


def test_run_statistics(obj: pybpf.Object) -> None:
    """The kernel counts runs while they are on."""
    program = obj.programs["on_xdp"]
    with kernel.run_statistics():
        program.test_run(bytes(64), repeat=5)
    counted = program.info().run_cnt
    program.test_run(bytes(64), repeat=5)
    assert program.info().run_cnt == counted


def test_pinned_program(obj: pybpf.Object, bpffs: Path) -> None:
    """It is opened by its path, which its owners name."""
    obj.programs["on_xdp"].pin(bpffs / "prog")
    with pybpf.Program.from_pinned(bpffs / "prog") as program:
        assert program.info().id == obj.programs["on_xdp"].info().id
    (info,) = [one for one in kernel.programs() if one.id == obj.programs["on_xdp"].info().id]
    assert str(bpffs / "prog") in info.owners.pins
    (bpffs / "prog").unlink()


def test_a_program_that_only_its_link_keeps(obj: pybpf.Object, bpffs: Path) -> None:
    """Once its descriptor is closed, it has no owner, but its link has: the process, or a pin."""

    def found() -> tuple[Any, dict[str, Any], str]:
        (info,) = [one for one in kernel.programs() if one.id == number]
        (value,) = [v for v in json.loads(tool("list", "programs", "--json")) if v["id"] == number]
        lines = tool("list", "programs").splitlines()
        return info, value, next(line for line in lines if line.split()[0] == str(number))

    program = obj.programs["on_symbol"]
    number = program.info().id
    with program.attach() as link:
        assert isinstance(link, pybpf.Link)
        info, value, line = found()
        assert ME in holders(info.owners) and ME in holders(info.link_owners)
        assert "by link" not in line
        obj.close()
        info, value, line = found()
        assert not info.owners and ME in holders(info.link_owners)
        assert ME in {one["pid"] for one in value["link_owners"]["processes"]}
        assert f"by link: {info.link_owners}" in line and "no process" not in line
        link.pin(bpffs / "link")
    info, value, line = found()
    assert not info.owners and info.link_owners.pins == (str(bpffs / "link"),)
    assert value["link_owners"]["pins"] == [str(bpffs / "link")]
    assert f"by link: pinned {bpffs / 'link'}" in line
    (bpffs / "link").unlink()


WORDS = {"prog": "program", "map": "map", "link": "link"}


@pytest.mark.parametrize("wanted", WORDS)
@pytest.mark.parametrize("pinned", WORDS)
def test_a_pin_of_another_kind(obj: pybpf.Object, bpffs: Path, pinned: str, wanted: str) -> None:
    """What is opened as another kind than it is gives an error that says what it is."""
    path = bpffs / pinned
    opener = {"prog": pybpf.Program, "map": pybpf.Map, "link": pybpf.Link}[wanted].from_pinned
    with obj.programs["on_symbol"].attach() as link:
        assert isinstance(link, pybpf.Link)
        {"prog": obj.programs["on_xdp"], "map": obj.maps["runs"], "link": link}[pinned].pin(path)
        if wanted == pinned:
            opener(path).close()
        else:
            text = f"it is not a pinned {WORDS[wanted]} but a {WORDS[pinned]}"
            with pytest.raises(BpfError, match=text) as caught:
                opener(path)
            assert caught.value.errno == errno.EINVAL and str(path) in str(caught.value)
        path.unlink()


def test_a_link_opened_again_is_no_map(obj: pybpf.Object) -> None:
    """Its descriptor has another name in /proc than that of the link when it was made."""
    with obj.programs["on_symbol"].attach() as link:
        assert isinstance(link, pybpf.Link)
        with pybpf.Link.from_id(link.id) as again:
            for one in (link, again):
                with pytest.raises(BpfError, match="the descriptor is that of a link"):
                    pybpf.Map.from_fd(one.fileno())


@pytest.mark.parametrize("kind", ["programs", "maps", "links", "btf"])
def test_list(obj: pybpf.Object, kind: str) -> None:
    """JSON and text show the same objects, owners included."""
    with obj.programs["on_symbol"].attach() as link:
        found: list[dict[str, Any]] = json.loads(tool("list", kind, "--json"))
        lines = tool("list", kind).splitlines()
        ids = {
            "programs": obj.programs["on_xdp"].info().id,
            "maps": obj.maps["runs"].info().id,
            "links": link.id,
            "btf": obj.programs["on_xdp"].info().btf_id,
        }
    (mine,) = [one for one in found if one["id"] == ids[kind]]
    assert ME in {one["pid"] for one in mine["owners"]["processes"]}
    (line,) = [line for line in lines if line.split()[0] == str(ids[kind])]
    assert mine["type"] in line and f"({ME})" in line


def test_dump_map(obj: pybpf.Object, bpffs: Path) -> None:
    """By id and by path; typed where the map has BTF, hexadecimal text where it has none."""
    obj.maps["runs"][2] = 9
    expected = [{"key": key, "value": 9 if key == 2 else 0} for key in range(6)]
    number = str(obj.maps["runs"].info().id)
    assert json.loads(tool("dump-map", number, "--json")) == expected
    obj.maps["runs"].pin(bpffs / "runs")
    assert json.loads(tool("dump-map", str(bpffs / "runs"), "--json")) == expected
    assert "2: 9" in tool("dump-map", number).splitlines()
    (bpffs / "runs").unlink()
    with pybpf.Map.create_new(MapType.BPF_MAP_TYPE_HASH, 3, 2, 4) as plain:
        plain[b"abc"] = b"\x01\xff"
        text = tool("dump-map", str(plain.info().id), "--json")
    assert json.loads(text) == [{"key": "61 62 63", "value": "01 ff"}]


def test_dump_map_of_a_data_section(obj: pybpf.Object) -> None:
    """It is shown by its variables."""
    number = str(obj.maps[".rodata"].info().id)
    (entry,) = json.loads(tool("dump-map", number, "--json"))
    assert entry["key"] == 0 and entry["value"]["my_tgid"] == ME
    assert f'"my_tgid": {ME}' in tool("dump-map", number)


def test_dump_map_with_a_value_for_each_cpu() -> None:
    """Such a value is a list."""
    kind = MapType.BPF_MAP_TYPE_PERCPU_ARRAY
    with pybpf.Map.create_new(kind, 4, 8, 1) as runs:
        runs[bytes(4)] = [bytes([cpu + 1] * 8) for cpu in range(possible_cpus())]
        (entry,) = json.loads(tool("dump-map", str(runs.info().id), "--json"))
        shown = tool("dump-map", str(runs.info().id))
    assert entry["value"] == [" ".join([f"{cpu + 1:02x}"] * 8) for cpu in range(possible_cpus())]
    assert "01 01 01" in shown


def test_dump_map_of_what_it_cannot_read() -> None:
    """One line that names the map and says why."""
    with pybpf.Map.create_new(MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, name="ring") as ring:
        text = tool("dump-map", str(ring.info().id), status=1)
    assert "map 'ring' (ringbuf)" in text and len(text.splitlines()) == 1
    assert "give an id" in tool("dump-map", "ring", status=1)
    assert "ENOENT" in tool("dump-map", str(0x7FFFFFF0), status=1)


def test_what_an_object_says_of_itself_stays_with_its_programs() -> None:
    """bpftool shows variables ``bpf_metadata_*`` of maps that a program has, used or not."""
    with pybpf.open(DATA / "metadata.bpf.o") as obj:
        obj.load()
        (number,) = obj.programs["accept"].info().map_ids
        with pybpf.Map.from_id(number) as held:
            assert (held[0].bpf_metadata_version, held[0].bpf_metadata_build) == ("1.2", 7)
