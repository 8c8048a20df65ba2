"""Facts as a value: CPU lists, lockdown words, core files' segments, saving and loading."""

from __future__ import annotations

import errno
import itertools
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf._sys.cpus import parse_cpus
from pybpf._sys.fd import Fd
from pybpf.btf import BtfKind, Int
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import BpfError, ObjectFormatError, UnsupportedFeature
from pybpf.features import Answer, Feature, FeatureSet, Support
from pybpf.kernel import btf as kernel_btf
from pybpf.kernel.btf import BtfObject, KernelBtf
from pybpf.kernel.host import Facts, SavedBtf, _pack
from pybpf.kernel.kcore import Kcore, parse_segments
from pybpf.kernel.lockdown import Lockdown, Policy, parse_lockdown
from pybpf.multi.select import select

# -- small parsers ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0\n", (0,)), ("0-3\n", (0, 1, 2, 3)), ("0-1,4,6-7\n", (0, 1, 4, 6, 7)), ("\n", ())],
)
def test_cpu_lists(text: str, cpus: tuple[int, ...]) -> None:
    """The format of Documentation/admin-guide/cputopology.rst, holes included."""
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["a", "0-", "1-x", "-1", "3-1", "0,,1", "0-1-2"])
def test_bad_cpu_lists(text: str) -> None:
    with pytest.raises(ValueError, match="not a CPU list"):
        parse_cpus(text)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("[none] integrity confidentiality\n", Lockdown.NONE),
        ("none [integrity] confidentiality\n", Lockdown.INTEGRITY),
        ("none integrity [confidentiality]\n", Lockdown.CONFIDENTIALITY),
        ("", Lockdown.UNKNOWN),
        ("none", Lockdown.UNKNOWN),
        ("[stern]", Lockdown.UNKNOWN),
    ],
)
def test_lockdown_words(text: str, level: Lockdown) -> None:
    assert parse_lockdown(text) is level


def test_sysctls_by_name() -> None:
    policy = Policy(Lockdown.NONE, 0, (("kernel.kptr_restrict", 1),))
    assert policy.sysctl("kernel.kptr_restrict") == 1
    assert policy.sysctl("kernel.absent") is None


# -- /proc/kcore -----------------------------------------------------------


def core_file(segments: list[tuple[int, int, int, int]]) -> bytes:
    """ELF64 core header and program headers: (kind, address, bytes, offset)."""
    head = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    for kind, addr, size, offset in segments:
        head += struct.pack("<IIQQQQQQ", kind, 7, offset, addr, 0, size, size, 4096)
    return head


def test_segments_of_a_core_file() -> None:
    """Loaded ranges by address; notes and empty ranges are passed over."""
    head = core_file(
        [
            (4, 0, 0x1F0, 0x238),
            (1, 0xFFFFFFFF81000000, 0x3000000, 0x7FFF81003000),
            (1, 0xFFFF888000000000, 0x1000, 0x3000),
            (1, 0xFFFFC90000000000, 0, 0x5000),
        ]
    )
    assert parse_segments(head) == [
        (0xFFFF888000000000, 0x1000, 0x3000),
        (0xFFFFFFFF81000000, 0x3000000, 0x7FFF81003000),
    ]


def test_damaged_core_files() -> None:
    good = core_file([(1, 0xFFFFFFFF81000000, 0x1000, 0x3000)])
    for bad in (b"", good[:40], b"\x7fELX" + good[4:], good[:4] + b"\x01" + good[5:], good[:-1]):
        with pytest.raises(ObjectFormatError):
            parse_segments(bad)


@given(st.binary(max_size=200))
def test_garbage_core_files(data: bytes) -> None:
    """Bytes either parse or raise the one error."""
    for head in (data, core_file([(1, 1, 1, 1)])[:64] + data):
        try:
            parse_segments(head)
        except ObjectFormatError:
            continue


# -- saving and loading ----------------------------------------------------


def _btf(name: str) -> bytes:
    builder = BtfBuilder()
    builder.add(Int(name, 4, 32))
    return builder.build()


def saved_facts(**changes: Any) -> dict[str, Any]:
    features = FeatureSet(
        {
            Feature.FENTRY: Answer(Support.SUPPORTED, "attached"),
            Feature.KPROBE_MULTI: Answer(Support.UNSUPPORTED, "BPF_LINK_CREATE: EOPNOTSUPP", 95),
        }
    )
    return {
        "format": 1,
        "release": "6.1.0-56-cloud-amd64",
        "machine": "x86_64",
        "version": "#1 SMP",
        "features": features.to_json(),
        "lockdown": "none",
        "capabilities": 0x1FF_FFFF_FFFF,
        "sysctls": {"kernel.kptr_restrict": 0},
        "modules": ["kvm"],
        "possible_cpus": [0, 1],
        "online_cpus": [0],
        "kallsyms": _pack(
            b"ffffffff81000000 T vfs_read\nffffffff81000100 T vfs_write\n"
            b"ffffffffc0000000 t kvm_init\t[kvm]\n"
        ),
        "btf": {"": _pack(_btf("int"))},
        "ftrace": _pack(b"ffffffff81000004 vfs_read\nffffffff81000104 vfs_write\n"),
        "ftrace_sites": True,
        "blacklist": _pack(b"0xffffffff81000100-0xffffffff81000200\tvfs_write\n"),
        **changes,
    }


def test_saved_facts_come_back_whole() -> None:
    """What was saved is what is loaded, and saving it again gives the same."""
    data = saved_facts()
    facts = Facts.from_json(json.loads(json.dumps(data)))
    assert facts.is_saved
    assert facts.release == "6.1.0-56-cloud-amd64"
    assert facts.lockdown is Lockdown.NONE
    assert facts.possible_cpus == (0, 1)
    assert facts.modules == ("kvm",)
    assert [s.module for s in facts.kallsyms.by_name("kvm_init")] == ["kvm"]
    assert list(facts.ftrace.sites or ()) == [0xFFFFFFFF81000004, 0xFFFFFFFF81000104]
    assert facts.kprobe_blacklist is not None
    assert "vfs_write" in facts.kprobe_blacklist
    assert facts.btf.vmlinux().find("int", BtfKind.INT) == 1
    again = facts.to_json()
    assert Facts.from_json(again).to_json() == again
    for key in ("features", "kallsyms", "ftrace", "blacklist", "btf", "sysctls"):
        assert again[key] == data[key]


def test_saved_answers_are_not_asked_again() -> None:
    """Facts of another machine never probe this one."""
    facts = Facts.from_json(saved_facts())
    assert facts.supports(Feature.FENTRY)
    assert not facts.supports(Feature.KPROBE_MULTI)
    assert not facts.supports(Feature.RINGBUF)
    with pytest.raises(UnsupportedFeature, match="not among the saved"):
        facts.probes.require(Feature.RINGBUF)


def test_selection_works_on_saved_facts() -> None:
    found = select(Facts.from_json(saved_facts()), ["vfs_*"]).candidates
    assert [(c.name, c.address & 0xFFF, c.kprobe) for c in found] == [
        ("vfs_read", 0, True),
        ("vfs_write", 0x100, False),
    ]


def test_what_could_not_be_read_is_missing_not_wrong() -> None:
    """The list of functions gives the error it gave when the facts were saved, not no functions."""
    data = saved_facts(ftrace_error="looking for tracefs: ENOENT: not mounted here")
    for key in ("ftrace", "ftrace_sites", "blacklist"):
        del data[key]
    facts = Facts.from_json(data)
    for _ in range(2):
        with pytest.raises(BpfError, match=r"saved facts.*looking for tracefs: .*not mounted here"):
            _ = facts.ftrace
    with pytest.raises(BpfError, match="looking for tracefs"):
        select(facts, ["vfs_*"])
    assert facts.kprobe_blacklist is None
    again = facts.to_json()
    assert again["ftrace_error"] == data["ftrace_error"]
    assert Facts.from_json(again).to_json() == again


def test_facts_without_functions_or_reason() -> None:
    """A file that has neither the functions nor the reason is not a facts file."""
    data = saved_facts()
    del data["ftrace"]
    with pytest.raises(ValueError, match="ftrace"):
        Facts.from_json(data)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"release": None, "kallsyms": 5},
        {"features": []},
        {"lockdown": "stern"},
        {"kallsyms": "!"},
        {"kallsyms": "AAAA"},
        {"btf": []},
        {"sysctls": {"a": "b"}},
        {"possible_cpus": None},
    ],
)
def test_facts_of_another_shape(change: dict[str, object]) -> None:
    """A file that is not a facts file gives one ValueError."""
    with pytest.raises(ValueError):
        Facts.from_json(saved_facts(**change))


def test_not_even_an_object() -> None:
    with pytest.raises(ValueError):
        Facts.from_json([])
    data = saved_facts()
    del data["modules"]
    with pytest.raises(ValueError, match="modules"):
        Facts.from_json(data)


def test_facts_do_not_change() -> None:
    facts = Facts.from_json(saved_facts())
    with pytest.raises(AttributeError):
        facts.release = "7.3"


def test_btf_that_was_not_saved() -> None:
    btf = SavedBtf({"": _btf("int"), "kvm": _btf("int")})
    assert btf.modules() == ["kvm"]
    assert btf.get("vmlinux") is btf.get("") is btf.vmlinux()
    assert btf.get("ext4") is None
    with pytest.raises(UnsupportedFeature, match="ext4"):
        btf.module("ext4")


# ---- modules that come and go while they are read --------------------------------


def test_a_module_that_goes_while_its_btf_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ENODEV of read(2) is a module that went after open(2): not loaded, not a failure."""

    def gone(path: str) -> bytes:
        raise OSError(errno.ENODEV, "No such device", path)

    monkeypatch.setattr(kernel_btf, "_read", gone)
    with pytest.raises(UnsupportedFeature, match="not loaded"):
        kernel_btf.module("dummy", directory=str(tmp_path))
    monkeypatch.setattr(KernelBtf, "vmlinux", lambda self: None)
    assert KernelBtf().get("dummy") is None


def test_a_module_that_is_reloaded_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its BTF object has another id then: looked up again, but not for ever."""
    numbers = itertools.count(10)
    opened: list[int] = []
    lasts = 12

    def objects() -> Iterator[BtfObject]:
        yield BtfObject(next(numbers), "dummy", True)

    def open_by_id(kind: str, number: int) -> Fd | None:
        opened.append(number)
        return Fd(os.open(os.devnull, os.O_RDONLY), "BTF") if number == lasts else None

    monkeypatch.setattr(kernel_btf, "objects", objects)
    monkeypatch.setattr(kernel_btf.sys_bpf, "open_by_id", open_by_id)
    (tmp_path / "dummy").touch()
    KernelBtf(str(tmp_path)).fd("dummy").close()
    assert opened == [10, 11, 12]
    lasts = 0
    with pytest.raises(UnsupportedFeature, match="dummy"):
        KernelBtf(str(tmp_path)).fd("dummy")


def test_an_empty_kcore_is_none() -> None:
    """Containers put /dev/null over /proc/kcore. There is another way to read memory then."""
    with pytest.raises(UnsupportedFeature, match="it is empty"):
        Kcore("/dev/null")
