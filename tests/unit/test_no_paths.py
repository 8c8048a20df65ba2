"""Names from objects, processes and the kernel: none becomes a path, none is shown raw."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pybpf
from pybpf import binding
from pybpf._sys import denied, fd, files, perf
from pybpf._sys.files import Mount, is_one_name, parse_mounts
from pybpf._uapi.defines import CAP_BPF, CAP_PERFMON
from pybpf._uapi.enums import Cmd
from pybpf.errors import BpfError, DeniedByPolicy, ObjectFormatError, UnsupportedFeature
from pybpf.kernel.owners import Held, Owner
from pybpf.obj.reader import read_object
from pybpf.wording import plain

OBJECT = Path(__file__).parents[1] / "data" / "obj_maps.bpf.o"
PATHS = ["../secret", "..", ".", "a/b", "/etc/passwd", "", "a\0b"]


@pytest.mark.parametrize("name", PATHS)
def test_what_is_a_path(name: str) -> None:
    assert not is_one_name(name)


@pytest.mark.parametrize("name", ["a", "a.b", "...", ".a", "events", "ä"])
def test_what_is_one_name(name: str) -> None:
    assert is_one_name(name)


@given(st.text())
def test_one_name_stays_in_its_folder(name: str) -> None:
    """Joined to a folder it is right below that folder, or is refused."""
    if is_one_name(name):
        path = Path("/folder") / name
        assert path.parent == Path("/folder") and path.name == name


# -- maps that are pinned by name ------------------------------------------


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what the loader asks the kernel for."""
    asked: list[str] = []

    def ask(what: str) -> Any:
        def note(*args: object, **more: object) -> None:
            asked.append(f"{what} {args[0] if args else ''}")
            raise BpfError(errno.ENOENT, what)

        return note

    monkeypatch.setattr(binding.sys_bpf, "btf_load", ask("btf"))
    monkeypatch.setattr(binding.sys_bpf, "obj_get", ask("get"))
    monkeypatch.setattr(pybpf.Map, "create", ask("create"))
    return asked


def with_map_called(name: str) -> pybpf.Object:
    """An object whose first map is called so, and is pinned by name."""
    spec = read_object(OBJECT.read_bytes(), str(OBJECT))
    first, *rest = spec.maps.values()
    maps = {one.name: one for one in (replace(first, name=name, pinning=1), *rest)}
    return pybpf.Object(replace(spec, maps=maps), None, None)


@pytest.mark.parametrize("name", [*PATHS, "a.b", ".a"])
def test_a_map_is_pinned_below_its_root_or_not_at_all(kernel: list[str], name: str) -> None:
    """One error that names map and object, before a map is made or looked for."""
    with with_map_called(name) as obj, pytest.raises(ObjectFormatError) as caught:
        obj.prepare()
    text = str(caught.value)
    assert str(OBJECT) in text and repr(name) in text and "pin_path" in text
    assert ("dot" in text) == is_one_name(name)
    assert not [what for what in kernel if not what.startswith("btf")]


def test_a_path_that_the_caller_gives_is_the_callers(kernel: list[str]) -> None:
    with with_map_called("../secret") as obj:
        next(iter(obj.maps.values())).pin_path = "/sys/fs/bpf/mine/of_that_object"
        with pytest.raises(BpfError):
            obj.prepare()
    assert "get /sys/fs/bpf/mine/of_that_object" in kernel


def test_names_with_dots_are_not_blamed_on_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """bpffs refuses them itself, with EPERM."""
    monkeypatch.setattr(denied, "_read", lambda path: "bpf /sys/fs/bpf bpf rw 0 0\n")
    error = denied.path_error(errno.EPERM, Cmd.BPF_OBJ_PIN, "/sys/fs/bpf/a.b")
    assert type(error) is BpfError and "no dot in a name" in str(error)
    error = denied.path_error(errno.EPERM, Cmd.BPF_OBJ_PIN, "/sys/fs/bpf/ab")
    assert "dot" not in str(error)


# -- tracepoints -----------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_tracepoints(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Category and event of a section name files of tracefs, below its events."""
    monkeypatch.setattr(perf, "_read", lambda path: pytest.fail(f"{path} was read"))
    for category, event in ((name, "sched_switch"), ("sched", name)):
        with pytest.raises(BpfError, match="must be plain names"):
            perf.tracepoint_id(category, event)


def test_tracefs_that_is_not_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(perf, "_read", absent)
    monkeypatch.setattr(perf.os.path, "isdir", lambda path: False)
    with pytest.raises(BpfError, match="try: mount -t tracefs"):
        perf.tracepoint_id("sched", "sched_switch")


def test_tracefs_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is the reason, not a capability that the process has anyway."""

    def refuse(path: str) -> str:
        raise PermissionError(errno.EACCES, "no", path)

    monkeypatch.setattr(perf, "_read", refuse)
    monkeypatch.setattr(perf, "tracefs_directories", lambda: ["/sys/kernel/tracing"])
    bpf_and_perfmon = denied.Circumstances(1 << CAP_BPF | 1 << CAP_PERFMON)
    monkeypatch.setattr(denied, "circumstances", lambda: bpf_and_perfmon)
    with pytest.raises(DeniedByPolicy, match="root only: tracefs is mode 700"):
        perf.tracepoint_id("sched", "sched_switch")


def test_probes_without_sysfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a container without /sys the kernel is not blamed; elsewhere it is."""
    monkeypatch.setattr(perf, "_PMUS", "/sys/no/such/devices")
    perf.pmu.cache_clear()
    with pytest.raises(UnsupportedFeature, match="sysfs is not mounted"):
        perf.pmu("kprobe")
    monkeypatch.setattr(perf, "_PMUS", str(tmp_path))
    with pytest.raises(UnsupportedFeature, match="CONFIG_KPROBE_EVENTS"):
        perf.pmu("kprobe")


# -- mounts ----------------------------------------------------------------

ODD = r"""
none /a\040b\011c\012d\134e bpf rw 0 0
tracefs /sys/kernel/tracing tracefs rw 0 0
broken
"""


def test_mounts_with_odd_paths() -> None:
    """The kernel writes what would break the line in octal."""
    assert parse_mounts(ODD) == [
        Mount("/a b\tc\nd\\e", "bpf"),
        Mount("/sys/kernel/tracing", "tracefs"),
    ]


# -- names that are shown --------------------------------------------------


def test_names_of_processes_and_pins_are_shown_escaped() -> None:
    held = Held((Owner(7, "evil\x1b[2J\n"),), ("/sys/fs/bpf/a\nb\udcff",))
    assert str(held) == r"evil\x1b[2J\n(7) pinned /sys/fs/bpf/a\nb\xff"
    assert held.to_dict()["pins"] == ["/sys/fs/bpf/a\nb\udcff"], "JSON has its own escapes"


@given(st.text(st.characters()))
def test_what_is_shown_prints(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(text) == text or not text.isprintable()


# -- files taken for granted -----------------------------------------------


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/proc/nothing", "mount -t proc proc /proc"),
        ("/sys/nothing", "mount -t sysfs sysfs /sys"),
        ("/sys/kernel/tracing/nothing", "mount -t tracefs tracefs /sys/kernel/tracing"),
        ("/sys/kernel/debug/nothing", "mount -t debugfs debugfs /sys/kernel/debug"),
        ("/nothing/at/all", "there is no such file"),
    ],
)
def test_a_missing_file(monkeypatch: pytest.MonkeyPatch, path: str, advice: str) -> None:
    monkeypatch.setattr(files.os.path, "exists", lambda name: False)
    with pytest.raises(BpfError) as caught:
        files.required(path, "a test")
    assert f"reading {path} for a test" in str(caught.value) and advice in str(caught.value)


def test_descriptors_are_counted_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/self/fd only makes it quicker."""
    counted = fd._open_now(1024)
    monkeypatch.setattr(fd.os, "listdir", lambda path: files.read("/nothing/at/all"))
    assert fd._open_now(1024) in (counted - 1, counted)  # listing takes one
