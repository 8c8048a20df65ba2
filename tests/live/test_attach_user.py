"""USDT probes and uprobe.multi links on a library that the test builds: they really run."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.elf import ElfFile
from pybpf.errors import BpfError, UnsupportedFeature
from pybpf.features import Feature
from pybpf.links import binary
from tests.support.require import probes as kernel_probes
from tests.support.require import require

# Guests have no compiler for the library.
pytestmark = pytest.mark.rows("host")

OBJECT = Path(__file__).parents[1] / "data" / "attach_user.bpf.o"

# A static probe as systemtap's sys/sdt.h makes them: a nop, and a note beside the code.
SOURCE = r"""
#define PROBE(provider, name, semaphore, arguments, ...)                                        \
    __asm__ volatile(                                                                           \
        "990: nop\n"                                                                            \
        ".pushsection .note.stapsdt,\"?\",\"note\"\n"                                           \
        ".balign 4\n .4byte 992f-991f, 994f-993f, 3\n"                                          \
        "991: .asciz \"stapsdt\"\n"                                                             \
        "992: .balign 4\n"                                                                      \
        "993: .8byte 990b\n .8byte _.stapsdt.base\n .8byte " semaphore "\n"                     \
        ".asciz \"" provider "\"\n .asciz \"" name "\"\n .asciz \"" arguments "\"\n"            \
        "994: .balign 4\n .popsection\n"                                                        \
        ".ifndef _.stapsdt.base\n"                                                              \
        ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"                 \
        ".weak _.stapsdt.base\n .hidden _.stapsdt.base\n"                                       \
        "_.stapsdt.base: .space 1\n .size _.stapsdt.base, 1\n .popsection\n .endif\n"           \
        :: __VA_ARGS__)

unsigned short watched __attribute__((section(".probes"), visibility("hidden")));
int is_watched(void) { return watched; }

void sell(int count, long price, signed char grade, long *stock, long at)
{
    PROBE("shop", "sold", "watched",
          "-4@%%edi 8@%%rsi -1@%%dl 8@8(%%rcx) 8@(%%rcx,%%r8,8) -4@$-7 8f@%%xmm0", "m"(watched));
}
static inline __attribute__((always_inline)) void twice(long value)
{
    PROBE("shop", "inlined", "0", "8@%[v]", [v] "r"(value));
}
void first(void) { twice(11); }
void second(void) { twice(22); }
void bare(void) { PROBE("shop", "bare", "0", "", "r"(0)); }
int step_one(void) { return 1; }
int step_two(void) { return 2; }
int other(void) { return 3; }
static __attribute__((noinline, used)) int hidden_step(void) { return 4; }
int (*pointer)(void) = hidden_step;
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("usdt")
    (where / "probes.c").write_text(SOURCE)
    command = ["clang-19", "-shared", "-fPIC", "-O1", "-o", "libprobes.so", "probes.c"]
    subprocess.run(command, cwd=where, check=True)
    return where


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    monkeypatch.chdir(folder)
    return ctypes.CDLL(str(folder / "libprobes.so"))


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT) as one:
        one.globals.my_tgid = os.getpid()
        multi = kernel_probes().answer(Feature.UPROBE_MULTI).ok
        one.programs["on_entry"].autoload = one.programs["on_return"].autoload = multi
        one.maps["__bpf_usdt_specs"].max_entries = 2
        one.load()
        yield one


def sell(library: ctypes.CDLL) -> None:
    stock = (ctypes.c_long * 4)(100, 200, 300, 400)
    library.sell(
        ctypes.c_int(-5), ctypes.c_long(1 << 40), ctypes.c_byte(-3), stock, ctypes.c_long(3)
    )


def test_arguments_of_every_form(obj: pybpf.Object, library: ctypes.CDLL, folder: Path) -> None:
    """Constants, registers, memory at one and two registers, signed or not; what cannot be read
    is an error of that argument alone. After close() nothing runs."""
    sell(library)
    with obj.programs["on_probe"].attach_usdt("./libprobes.so", "shop", "sold", cookie=77):
        assert library.is_watched() == 1
        sell(library)
        sell(library)
    assert library.is_watched() == 0
    sell(library)
    seen = obj.globals.probe
    assert (seen.hits, seen.cookie, seen.count) == (2, 77, 7)
    assert list(seen.args)[:6] == [-5, 1 << 40, -3, 200, 400, -7]
    assert list(seen.errors)[:8] == [0, 0, 0, 0, 0, 0, -22, -2]


def test_by_section(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """SEC("usdt/BINARY:PROVIDER:NAME"), with a cookie."""
    with obj.programs["on_named"].attach(cookie=5) as link:
        sell(library)
        assert link.attached
    sell(library)
    assert (obj.globals.named.hits, obj.globals.named.cookie) == (1, 5)


def test_a_probe_that_was_inlined(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """All its places are attached to, each with its own arguments; entries of the map that two
    places share are used once and free again after close()."""
    program = obj.programs["on_probe"]
    with program.attach_usdt("./libprobes.so", "shop", "inlined") as link:
        assert len(link) == 2
        library.first()
        assert obj.globals.probe.args[0] == 11
        library.second()
        assert obj.globals.probe.args[0] == 22
    assert obj.globals.probe.hits == 2
    for _ in range(3):  # more than the map has entries
        program.attach_usdt("./libprobes.so", "shop", "bare", pid=os.getpid()).close()
    with program.attach_usdt("./libprobes.so", "shop", "bare", pid=os.getpid()) as link:
        library.bare()
        link.detach()
        library.bare()
    assert (obj.globals.probe.hits, obj.globals.probe.count) == (3, 0)


def test_more_kinds_of_arguments_than_entries(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """One error that says what to change; what was attached is closed again."""
    attach = obj.programs["on_probe"].attach_usdt
    with attach("./libprobes.so", "shop", "bare"):
        with (
            attach("./libprobes.so", "shop", "sold"),
            pytest.raises(BpfError, match=r"more than 2 kinds of USDT arguments.*max_entries"),
        ):
            attach("./libprobes.so", "shop", "inlined")
        library.first()
        attach("./libprobes.so", "shop", "inlined").close()
    assert obj.globals.probe.hits == 0


def test_only_in_one_process(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """With the pid of another process this one is not seen."""
    with (
        subprocess.Popen(["sleep", "60"]) as other,
        obj.programs["on_probe"].attach_usdt("./libprobes.so", "shop", "bare", other.pid),
    ):
        library.bare()
        other.kill()
    assert obj.globals.probe.hits == 0


def test_wrong_names(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """One error that names the file and the probe, and what there is."""
    attach = obj.programs["on_probe"].attach_usdt
    with pytest.raises(BpfError, match=r"program 'on_probe'.*probe shop:sol .*near: shop:sold"):
        attach("./libprobes.so", "shop", "sol")
    with pytest.raises(BpfError, match="it has: shop:sold, shop:inlined, shop:bare"):
        attach("./libprobes.so", "x", "y")
    subprocess.run(["clang-19", "-shared", "-o", "libempty.so", "-x", "c", os.devnull], check=True)
    with pytest.raises(BpfError, match="the file has no USDT probes"):
        attach("./libempty.so", "x", "y")
    with pytest.raises(BpfError, match=r"'./libprobe.so'.*near: libprobes.so"):
        attach("./libprobe.so", "shop", "sold")


def test_uprobe_multi_by_section(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """One link on the functions that the glob means, with one cookie; none after close()."""
    require(Feature.UPROBE_MULTI)
    with obj.programs["on_entry"].attach(cookie=1000) as link:
        info = link.info()
        assert info.count == 2 and info.name.endswith("libprobes.so")
        library.step_one()
        library.step_two()
        library.other()
    library.step_one()
    assert (obj.globals.entries, obj.globals.cookies) == (2, 2000)


def test_uprobe_multi_by_names(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """Names with a cookie for each; return probes."""
    require(Feature.UPROBE_MULTI)
    names = ["step_two", "other"]
    with (
        obj.programs["on_entry"].attach_uprobe_multi("./libprobes.so", names, cookies=[1, 100]),
        obj.programs["on_return"].attach_uprobe_multi("./libprobes.so", names),
    ):
        library.step_one()
        library.step_two()
        library.other()
    assert (obj.globals.entries, obj.globals.cookies, obj.globals.returns) == (2, 101, 2)


def test_uprobe_multi_of_this_process(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    """pid=0 is the caller, as for a single uprobe. For the kernel it is no limit."""
    require(Feature.UPROBE_MULTI)
    with obj.programs["on_entry"].attach_uprobe_multi("./libprobes.so", "step_*", pid=0) as link:
        assert link.info().pid == os.getpid()


def test_uprobe_multi_of_nothing(obj: pybpf.Object, library: ctypes.CDLL) -> None:
    require(Feature.UPROBE_MULTI)
    with pytest.raises(BpfError, match=r"functions 'step_one1\*' of .*near: step_one"):
        obj.programs["on_entry"].attach_uprobe_multi("./libprobes.so", "step_one1*")
    with pytest.raises(ValueError, match="1 cookie for 2 functions"):
        obj.programs["on_entry"].attach_uprobe_multi("./libprobes.so", "step_*", cookies=[1])


def test_uprobe_session(library: ctypes.CDLL) -> None:
    """One program at entry and at return (6.13); refused by name where there are none."""
    with pybpf.open(OBJECT) as obj:
        obj.globals.my_tgid = os.getpid()
        program = obj.programs["on_both"]
        program.autoload = True
        for other in obj.programs.values():
            other.autoload = other is program
        try:
            obj.load()
        except BpfError:
            pytest.skip("this kernel has no bpf_session_is_return for uprobes")
        try:
            link = program.attach_uprobe_multi("./libprobes.so", "step_*")
        except UnsupportedFeature as error:
            pytest.skip(str(error))
        with link:
            library.step_one()
            library.step_two()
        library.step_one()
        assert (obj.globals.session_entries, obj.globals.session_returns) == (2, 2)


def test_functions_of_a_stripped_library(
    obj: pybpf.Object, library: ctypes.CDLL, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A static function is found in the separate debug file, by its name or the build id."""
    commands = (
        ["objcopy", "--only-keep-debug", "libprobes.so", "libstripped.debug"],
        ["objcopy", "--strip-all", "libprobes.so", "libstripped.so"],
    )
    for command in commands:
        subprocess.run(command, check=True)
    place = binary.find_place("./libprobes.so", "hidden_step")
    with pytest.raises(BpfError, match=r"'hidden_step' of './libstripped.so'"):
        binary.find_place("./libstripped.so", "hidden_step")
    elf = ElfFile((folder / "libstripped.so").read_bytes(), any_machine=True)
    number = bytes(elf.contents(elf.find(".note.gnu.build-id")))[16:].hex()  # type: ignore[arg-type]
    kept = folder / "debug" / ".build-id" / number[:2]
    kept.mkdir(parents=True)
    (folder / "libstripped.debug").rename(kept / f"{number[2:]}.debug")
    found = binary.debug_file(elf, "./libstripped.so", str(folder / "debug"))
    assert found is not None and "hidden_step" in {symbol.name for symbol in found.symbols}
    monkeypatch.setattr(binary, "DEBUG_FOLDER", str(folder / "debug"))
    assert binary.find_place("./libstripped.so", "hidden_step").offset == place.offset


@pytest.mark.parametrize("build_id", ["sha1", "none"])
def test_a_debug_file_of_another_build_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, build_id: str
) -> None:
    """Its addresses are of other code: a uprobe there would hit the middle of an instruction."""
    monkeypatch.chdir(folder)
    source = (folder / "probes.c").read_text()
    for name, more in (("old", "int more(int a) { return a * 77; }\n"), ("new", "")):
        (folder / f"{name}.c").write_text(more + source)
        command = ["clang-19", "-shared", "-fPIC", "-O1", f"-Wl,--build-id={build_id}"]
        subprocess.run([*command, "-o", f"{name}.so", f"{name}.c"], check=True)
        subprocess.run(["objcopy", "--only-keep-debug", f"{name}.so", f"{name}.debug"], check=True)
    place = binary.find_place("./new.so", "hidden_step")
    shutil.copy("new.debug", "lib.debug")
    link = ["objcopy", "--strip-all", "--add-gnu-debuglink=lib.debug", "new.so", "stripped.so"]
    subprocess.run(link, check=True)
    assert binary.find_place("./stripped.so", "hidden_step").offset == place.offset
    shutil.copy("old.debug", "lib.debug")
    with pytest.raises(BpfError, match=r"'hidden_step' of './stripped.so'"):
        binary.find_place("./stripped.so", "hidden_step")
