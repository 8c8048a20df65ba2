"""Source lines in retsnoop, read by drgn from a small file that stands in for vmlinux."""

from __future__ import annotations

import builtins
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

import pybpf
from pybpf.errors import PlanError
from pybpf.tools.retsnoop import debuginfo, jsonlines, render, sources, stacks
from pybpf.tools.retsnoop.debuginfo import DebugInfo, Line, NoDebugInfo
from pybpf.tools.retsnoop.events import Frame
from pybpf.tools.retsnoop.functions import Flag, Function
from pybpf.tools.retsnoop.options import parse
from pybpf.tools.retsnoop.stacks import Place
from tests.support.stacklines import stack_lines

FILE = Path(__file__).resolve().parents[1] / "data/source_lines.elf"
IDENTITY = "45186057e914156a53d5093a605a4978275af2d2"
TEXT = 0xFFFFFFFFA1200000  # where the kernel runs, not where it was linked
MAY_OPEN, DO_SYSCALL = TEXT, TEXT + 0x10
#: Formats and offsets in an ELF header: where its segments are described, size and number.
SEGMENTS = (("<Q", 0x20), ("<H", 0x36), ("<H", 0x38))
FITS = (Line("may_open", "fs/namei.c", 103), Line("fits", "include/linux/lookup.h", 12))


def notes(identity: str) -> bytes:
    """Two notes, as /sys/kernel/notes has them."""
    xen = struct.pack("=3I", 4, 5, 6) + b"Xen\0" + b"linux\0\0\0"
    return xen + struct.pack("=3I", 4, 20, 3) + b"GNU\0" + bytes.fromhex(identity)


@pytest.fixture
def info() -> DebugInfo:
    return debuginfo.find(str(FILE), "6.1.0", notes(IDENTITY), lambda: TEXT)


def test_lines_of_a_kernel_that_moved(info: DebugInfo) -> None:
    """Outermost function first; an address of no code has none."""
    assert info.lines(MAY_OPEN) == FITS
    assert info.lines(DO_SYSCALL + 2) == (Line("do_syscall", "arch/x86/entry/common.c", 203),)
    assert info.lines(TEXT - 1) == info.lines(TEXT + 0x10000) == info.lines(0) == ()
    hidden = DebugInfo(str(FILE), "", lambda: None)
    assert hidden.lines(MAY_OPEN) == ()


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("fs/open.c", "fs/open.c"),
        ("./fs/../mm/slab.c", "mm/slab.c"),
        ("../../fs/open.c", "fs/open.c"),
        ("/home/me/kernel/net/linux/arch/x86/kernel/head_64.S", "arch/x86/kernel/head_64.S"),
        ("/build/linux-6.1/lib/memcpy.c", "lib/memcpy.c"),
        ("/build/libs/x.c", "/build/libs/x.c"),
        ("", ""),
    ],
)
def test_paths_are_cut_at_the_top_of_the_tree(path: str, short: str) -> None:
    assert debuginfo.source_path(path) == short


def test_a_file_of_another_kernel_is_refused() -> None:
    """Its lines would be wrong, and nobody would see it."""
    other = "00" * 20
    with pytest.raises(NoDebugInfo, match=f"is of another kernel: .*{IDENTITY}.*{other}") as caught:
        debuginfo.find(str(FILE), "6.1.0", notes(other), lambda: TEXT)
    assert caught.value.file == str(FILE)


def test_files_that_have_none(tmp_path: Path) -> None:
    """Each is named with what it lacks."""
    for path, says in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "directory"),
        (Path(__file__), "no debug information|not an ELF"),
        (Path("/bin/true"), "no debug information"),
        (FILE.with_name("core_kinds.bpf.o"), "debug information|no symbol _text"),
    ):
        with pytest.raises(NoDebugInfo, match=says) as caught:
            DebugInfo(str(path), "", lambda: TEXT)
        assert str(path) in str(caught.value)


def test_it_is_found_where_debuginfod_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And if it is nowhere, the text says how to get it."""
    monkeypatch.delenv("DEBUGINFOD_CACHE_PATH", raising=False)
    place = tmp_path / ".cache/debuginfod_client" / IDENTITY
    place.mkdir(parents=True)
    with pytest.raises(NoDebugInfo, match="of no-such-release was found") as caught:
        debuginfo.find("", "no-such-release", notes(IDENTITY), lambda: TEXT, str(tmp_path))
    assert caught.value.file == ""
    (place / "debuginfo").write_bytes(FILE.read_bytes())
    found = debuginfo.find("", "no-such-release", notes(IDENTITY), lambda: TEXT, str(tmp_path))
    assert found.path == str(place / "debuginfo") and found.lines(MAY_OPEN) == FITS


def test_without_drgn_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if name == "drgn":
            raise ImportError(name)
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NoDebugInfo, match=r"drgn cannot be used \(drgn\): .*pybpf\[dwarf\]"):
        DebugInfo(str(FILE), "", lambda: TEXT)
    with pytest.raises(NoDebugInfo, match="/no/such: No such file"):  # that is to mend first
        DebugInfo("/no/such", "", lambda: TEXT)


def test_a_file_whose_segments_are_gone(tmp_path: Path) -> None:
    """As debug files have them that were split off: drgn would load it elsewhere."""
    data = bytearray(FILE.read_bytes())
    headers, size, count = (struct.unpack_from(f, data, at)[0] for f, at in SEGMENTS)
    # One more segment at 0, as the per-CPU data of a kernel is, in the place of the stack's.
    last = headers + size * (count - 1)
    struct.pack_into("<IIQQQQQQ", data, last, 1, 6, 0, 0, 0, 0, 0x1000, 0x1000)
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    assert DebugInfo(str(path), IDENTITY, lambda: TEXT).lines(MAY_OPEN) == FITS


# -- in stacks ----------------------------------------------------------------

FUNCTIONS = [Function(0, "may_open", addr=MAY_OPEN, flags=Flag.ENTRY | Flag.SIGNEXT, ret_size=4)]


def rows(lines: debuginfo.DebugInfo) -> list[stacks.Row]:
    places = [
        Place(0x1234),
        Place(0xFFFFFFFFC0000010, "f", "nf_tables", 0xFFFFFFFFC0000000),
        Place(DO_SYSCALL + 7, "entry_SYSCALL", start=DO_SYSCALL),
        Place(MAY_OPEN + 1, "may_open.isra.0", start=MAY_OPEN),
        Place(MAY_OPEN + 2, "bpf_trampoline_1", start=MAY_OPEN, filtered=True),
    ]
    return list(
        stacks.merge(
            stacks.with_lines(places, lines.lines), (Frame(0, True, 156000, -2),), FUNCTIONS
        )
    )


def test_the_layout_of_lines_and_inlined_functions(info: DebugInfo) -> None:
    """As the original prints them: the DWARF name where it differs, inlined calls below."""
    text = list(stack_lines(rows(info), render.Style()))
    assert [line.rstrip() for line in text] == [
        "                    0x1234",
        "                    f+0x10 [nf_tables]",
        "                    entry_SYSCALL+0x7     (do_syscall @ arch/x86/entry/common.c:203)",
        "   156us [-ENOENT]  may_open.isra.0+0x1   (fs/namei.c:103)",
        "                    . fits                (include/linux/lookup.h:12)",
        "                    bpf_trampoline_1+0x2",
    ]
    assert len({len(line) for line in text}) == 1  # padded, as the original's


def test_lines_in_json(info: DebugInfo) -> None:
    place = stacks.with_lines([Place(MAY_OPEN + 1, "may_open", start=MAY_OPEN)], info.lines)[0]
    assert jsonlines._place(place)["source"] == [
        {"function": "may_open", "file": "fs/namei.c", "line": 103},
        {"function": "fits", "file": "include/linux/lookup.h", "line": 12},
    ]


def test_modes(info: DebugInfo) -> None:
    """-s is the line alone, -ss the inlined calls as well, -sn nothing."""
    for text, expected in (("", FITS), ("-ss", FITS), ("-s", FITS[1:])):
        lines = sources.lines_of(parse(["-e", "f", *text.split()]), info)
        assert lines is not None and lines(MAY_OPEN) == expected
    assert sources.lines_of(parse(["-e", "f", "-sn"]), info) is None
    assert sources.lines_of(parse(["-e", "f"]), None) is None


def test_globs_of_source_paths(info: DebugInfo) -> None:
    """The file of the code counts, not that of a call inlined at its start."""
    functions = [("may_open", MAY_OPEN), ("do_syscall", DO_SYSCALL), ("unknown", 0x1000)]
    for glob, names in (
        ("fs/namei.c", ["may_open"]),
        ("*.c", ["may_open", "do_syscall"]),
        ("arch/*", ["do_syscall"]),
        ("fs/nam", []),
        ("include/*", []),
    ):
        assert list(sources.written_in(glob, info, functions)) == names


def test_a_source_glob_becomes_names(info: DebugInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that need not match, as some may be denied. One that matches nothing ends the run."""
    monkeypatch.setattr(
        sources, "traceable", lambda _: [("may_open", MAY_OPEN), ("do_syscall", DO_SYSCALL)]
    )
    said: list[str] = []
    options = parse(["-e", "a", "-e", ":*.c", "-e", "z", "-a", ":arch/*", "-d", ":fs/*"])
    sources.by_name(options, info, pybpf.Facts(), lambda text, _: said.append(text))
    assert options.entry == ["a", "z"] and options.soft_entry == ["may_open", "do_syscall"]
    assert options.allow == [] and options.soft_allow == ["do_syscall"]
    assert options.deny == ["may_open"]
    assert said == [":*.c: 2 functions.", ":arch/*: 1 function.", ":fs/*: 1 function."]
    with pytest.raises(PlanError, match=r":mm/.*written there"):
        sources.by_name(parse(["-e", ":mm/*"]), info, pybpf.Facts(), lambda *_: None)
