"""Values of the kernel's configuration: every form of option, its layout and its refusals."""

from __future__ import annotations

import gzip
import struct
from functools import cache
from pathlib import Path

import pytest

import pybpf
from pybpf.errors import BpfError, RelocationError
from pybpf.kernel import config
from pybpf.kernel.config import (
    Config,
    config_files,
    kernel_config,
    read_config,
    true_release,
    version_code,
)
from pybpf.obj.externs import kconfig_size, kconfig_values
from pybpf.obj.linker import LinkTarget
from pybpf.obj.reader import read_object
from pybpf.obj.spec import ObjectSpec

DATA = Path(__file__).parents[1] / "data"
VIRTUAL = LinkTarget(kernel_version=0x060C6B, has_syscall_wrapper=False).virtual_kconfig
CONFIG = {
    "CONFIG_BPF": "y",
    "CONFIG_VIRTIO": "m",
    "CONFIG_OVERLAY_FS": "m",
    "CONFIG_NR_CPUS": "8192",
    "CONFIG_PHYSICAL_START": "0x1000000",
    "CONFIG_DEFAULT_HOSTNAME": '"(none)"',
}


@cache
def read() -> ObjectSpec:
    return read_object((DATA / "obj_kconfig.bpf.o").read_bytes())


def values(**changes: str | None) -> dict[str, bytes]:
    """Contents of the map by extern, with some options changed (None: not set)."""
    options = {name: changes.get(name, CONFIG.get(name)) for name in {**CONFIG, **changes}}
    lines = ["# CONFIG_FOO is not set\n", "\n", "CONFIG_OTHER=y\n"]
    lines += [f"{name}={value}\n" for name, value in options.items() if value is not None]
    spec = read()
    assert spec.btf is not None
    data = kconfig_values(spec.externs, spec.btf, lines, VIRTUAL)
    assert len(data) == kconfig_size(spec.externs) == spec.maps[".kconfig"].value_size
    return {e.name: data[e.offset : e.offset + e.size] for e in spec.externs}


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def test_layout() -> None:
    """By falling alignment, then size, then name, each aligned: libbpf's offsets."""
    assert [(e.name, e.offset, e.size) for e in read().externs] == [
        ("CONFIG_PHYSICAL_START", 0, 8),
        ("CONFIG_PYBPF_NEGATIVE", 8, 8),
        ("LINUX_UNKNOWN_VALUE", 16, 8),
        ("CONFIG_VIRTIO", 24, 4),
        ("LINUX_KERNEL_VERSION", 28, 4),
        ("CONFIG_NR_CPUS", 32, 2),
        ("CONFIG_BPF", 34, 1),
        ("CONFIG_OVERLAY_FS", 35, 1),
        ("CONFIG_PYBPF_MISSING", 36, 1),
        ("LINUX_HAS_BPF_COOKIE", 37, 1),
        ("LINUX_HAS_SYSCALL_WRAPPER", 38, 1),
        ("CONFIG_DEFAULT_HOSTNAME", 39, 5),
    ]


def test_the_map() -> None:
    """One read-only, mmap-able array after the data sections, without initial contents."""
    spec = read().maps[".kconfig"]
    assert (spec.data, spec.value_size, spec.map_flags) == ("kconfig", 44, 1 << 7 | 1 << 10)
    assert list(read().maps)[-1] == ".kconfig"
    assert spec.kernel_name("libbpf_tool") == "libbpf_.kconfig"


def test_virtual_values() -> None:
    """LINUX_*: kernel version, what libbpf probes, and 0 for unknown weak ones."""
    found = values()
    assert number(found["LINUX_KERNEL_VERSION"]) == 0x060C6B
    assert number(found["LINUX_HAS_BPF_COOKIE"]) == 1
    assert number(found["LINUX_HAS_SYSCALL_WRAPPER"]) == 0
    assert number(found["LINUX_UNKNOWN_VALUE"]) == 0


def test_options_of_every_form() -> None:
    """bool, tristate, char, integers and a string, as the configuration file writes them."""
    found = values(CONFIG_PYBPF_NEGATIVE="-5")
    assert found["CONFIG_BPF"] == b"\1"
    assert number(found["CONFIG_VIRTIO"]) == 2  # TRI_MODULE
    assert found["CONFIG_OVERLAY_FS"] == b"m"
    assert number(found["CONFIG_NR_CPUS"]) == 8192
    assert number(found["CONFIG_PHYSICAL_START"]) == 0x1000000
    assert struct.unpack("<q", found["CONFIG_PYBPF_NEGATIVE"]) == (-5,)


@pytest.mark.parametrize(("value", "is_set"), [("y", b"\1"), ("n", b"\0")])
def test_bool(value: str, is_set: bytes) -> None:
    """y and n are bools, m is not."""
    assert values(CONFIG_BPF=value)["CONFIG_BPF"] == is_set


@pytest.mark.parametrize(("value", "tri"), [("n", 0), ("y", 1), ("m", 2)])
def test_tristate(value: str, tri: int) -> None:
    """enum libbpf_tristate."""
    assert number(values(CONFIG_VIRTIO=value)["CONFIG_VIRTIO"]) == tri


@pytest.mark.parametrize(
    ("text", "stored"), [("", b"\0\0\0\0\0"), ("abcd", b"abcd\0"), ("abcdefgh", b"abcd\0")]
)
def test_strings_keep_their_nul(text: str, stored: bytes) -> None:
    """Quotes go, what does not fit goes, the NUL stays."""
    assert values(CONFIG_DEFAULT_HOSTNAME=f'"{text}"')["CONFIG_DEFAULT_HOSTNAME"] == stored


def test_weak_options_default_to_zero() -> None:
    """A weak option that is not set is zero."""
    found = values()
    assert found["CONFIG_PYBPF_MISSING"] == b"\0"
    assert number(found["CONFIG_PYBPF_NEGATIVE"]) == 0


def test_strong_option_that_is_not_set() -> None:
    """A strong one is an error that names it."""
    with pytest.raises(RelocationError, match=r"CONFIG_NR_CPUS.*not set"):
        values(CONFIG_NR_CPUS=None)


def test_first_line_counts() -> None:
    """A second line for one option is ignored, as libbpf does."""
    spec = read()
    assert spec.btf is not None
    lines = [f"{name}={value}" for name, value in CONFIG.items()]
    data = kconfig_values(spec.externs, spec.btf, [*lines, "CONFIG_NR_CPUS=7"], VIRTUAL)
    (extern,) = [e for e in spec.externs if e.name == "CONFIG_NR_CPUS"]
    assert number(data[extern.offset : extern.offset + 2]) == 8192


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONFIG_BPF", "m"),
        ("CONFIG_BPF", "1"),
        ("CONFIG_BPF", '"y"'),
        ("CONFIG_VIRTIO", "3"),
        ("CONFIG_NR_CPUS", "65536"),
        ("CONFIG_NR_CPUS", "-1"),
        ("CONFIG_NR_CPUS", "y"),
        ("CONFIG_NR_CPUS", "many"),
        ("CONFIG_PYBPF_NEGATIVE", "-9223372036854775809"),
        ("CONFIG_DEFAULT_HOSTNAME", "y"),
        ("CONFIG_DEFAULT_HOSTNAME", '"open'),
        ("CONFIG_DEFAULT_HOSTNAME", '"'),
    ],
)
def test_values_that_do_not_fit(name: str, value: str) -> None:
    """A value of another form or out of range is refused, not cut."""
    with pytest.raises(RelocationError, match=f"{name}.*does not fit"):
        values(**{name: value})


def test_unknown_strong_name() -> None:
    """A virtual name that is not defined and not weak."""
    spec = read()
    assert spec.btf is not None
    virtual = {"LINUX_HAS_BPF_COOKIE": 1, "LINUX_HAS_SYSCALL_WRAPPER": 1}
    with pytest.raises(RelocationError, match="LINUX_KERNEL_VERSION"):
        kconfig_values(spec.externs, spec.btf, [], virtual)


def test_no_options_no_configuration() -> None:
    """Without CONFIG_* externs the configuration is not even read."""

    def never() -> object:
        raise AssertionError("read")
        yield

    spec = read()
    assert spec.btf is not None
    only = [e for e in spec.externs if e.name.startswith("LINUX_")]
    kconfig_values(only, spec.btf, never(), VIRTUAL)  # type: ignore[arg-type]


UNKNOWN = "the configuration cannot be read (/boot/config-1, /proc/config.gz)"


@pytest.mark.parametrize("name", ["CONFIG_BPF", "CONFIG_PYBPF_MISSING"])
def test_unknown_is_not_no(name: str) -> None:
    """Where the configuration cannot be read no option is taken for unset, weak or not: the
    error names the option, the files looked for and what to give instead."""
    spec = read()
    assert spec.btf is not None
    only = [e for e in spec.externs if e.name == name]
    with pytest.raises(RelocationError, match=rf"{name}.*cannot be read \(/boot.*kconfig="):
        kconfig_values(only, spec.btf, [], VIRTUAL, UNKNOWN)
    given = kconfig_values(only, spec.btf, [f"{name}=y"], VIRTUAL, UNKNOWN)
    assert given[only[0].offset] == 1


def test_where_a_configuration_is_looked_for(tmp_path: Path) -> None:
    """The first file that can be read, plain or compressed; if there is none, it is unknown."""
    plain, packed = tmp_path / "config", tmp_path / "config.gz"
    missing = str(tmp_path / "missing")
    found = kernel_config([missing])
    assert found.lines == () and missing in found.unknown
    packed.write_bytes(gzip.compress(b"CONFIG_A=m\n"))
    assert kernel_config([missing, str(packed)]) == Config(("CONFIG_A=m",))
    plain.write_text("# x\nCONFIG_A=y\n")
    assert kernel_config([str(plain), str(packed)]).lines[1] == "CONFIG_A=y"
    assert "/lib/modules/6.1/config" in config_files("6.1")
    assert config_files("../x") == ["/proc/config.gz"]


def test_a_configuration_that_is_given(tmp_path: Path) -> None:
    """A file is the whole configuration; single options go before the kernel's own, and leave
    what they do not name as unknown as it was."""
    missing = [str(tmp_path / "missing")]
    file = tmp_path / "given"
    file.write_text("CONFIG_A=y\n")
    assert read_config(file, missing) == Config(("CONFIG_A=y",))
    options = {"CONFIG_A": True, "CONFIG_B": 250, "CONFIG_C": "m", "CONFIG_D": "text"}
    mixed = read_config(options, missing)
    assert mixed.lines == ("CONFIG_A=y", "CONFIG_B=250", "CONFIG_C=m", 'CONFIG_D="text"')
    assert mixed.unknown
    assert read_config({"CONFIG_A": False}, [str(file)]).lines == ("CONFIG_A=n", "CONFIG_A=y")
    with pytest.raises(ValueError, match="'HZ' does not begin with CONFIG_"):
        read_config({"HZ": 1})
    with pytest.raises(BpfError, match="missing': ENOENT"):
        read_config(missing[0])
    file.write_text("nothing\n")
    with pytest.raises(BpfError, match="no line CONFIG_NAME=VALUE"):
        read_config(file)


def test_an_object_without_a_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is refused before anything is made; with kconfig= its values are the given ones."""
    monkeypatch.setattr(config, "config_files", lambda release: [str(tmp_path / "missing")])
    for options in (None, {**CONFIG, "CONFIG_NR_CPUS": 77}):
        with (
            pybpf.open(DATA / "obj_kconfig.bpf.o", kconfig=options) as obj,
            pytest.raises(RelocationError, match=r"CONFIG_\w+.*missing.*kconfig="),
        ):
            obj.binding._fill_kconfig()
    given = tmp_path / "config"
    given.write_text("".join(f"{name}={value}\n" for name, value in CONFIG.items()))
    with pybpf.open(DATA / "obj_kconfig.bpf.o", kconfig=given) as obj:
        obj.binding._fill_kconfig()
        initial = obj.maps[".kconfig"].initial
        assert initial is not None and number(bytes(initial[32:34])) == 8192


@pytest.mark.parametrize(
    ("release", "version", "signature", "expected"),
    [
        ("6.12.118+deb13-cloud-amd64", "#1 SMP Debian 6.12.118-1 (2026-11-01)", "", (6, 12, 118)),
        ("6.1.0-49-cloud-amd64", "#1 SMP Debian 6.1.174-1 (2026-05-26)", "", (6, 1, 174)),
        (
            "5.15.0-91-generic",
            "#101-Ubuntu SMP",
            "Ubuntu 5.15.0-91.101-generic 5.15.131\n",
            (5, 15, 131),
        ),
        ("7.3.4", "#1 SMP PREEMPT", "", (7, 3, 4)),
        ("6.18.44-fc-v669", "#1 Debianish", "garbage", (6, 18, 44)),
        ("5.4.300", "", "", (5, 4, 255)),
    ],
)
def test_version_of_a_distribution(
    release: str, version: str, signature: str, expected: tuple[int, int, int]
) -> None:
    """LINUX_KERNEL_VERSION is what the kernel was built as, not the name of its package."""
    major, minor, patch = expected
    code = version_code(true_release(release, version, signature))
    assert code == major << 16 | minor << 8 | patch
