"""tools/trampolines.py: tables, listings, JSON and exit status, on images made without a kernel."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pybpf.kernel import lookup
from pybpf.kernel.owners import Held, Owner, Owners
from pybpf.tools.trampolines import cli as tool
from pybpf.tools.trampolines import list as list_command
from pybpf.trampoline import image as image_module
from pybpf.trampoline import registry as attached_module
from pybpf.trampoline import verify as verify_module
from pybpf.trampoline.image import TrampolineImage
from pybpf.trampoline.links import LinkReading
from pybpf.trampoline.registry import Probed, Registry
from tests.support.trampimage import KEY, PROGS, image, links
from tools.dev import start

# Links 100 to 105 put programs 10 to 15 there; two are pinned, one has no holder left.
_MINE = Held((Owner(7, "tracer"),))
KNOWN = Registry(
    attached=tuple(links()),
    probes=(
        Probed(200, 30, "kprobe.multi", 3, (("traced", "", 1), ("other", "mod", 2))),
        Probed(201, 31, "kretprobe", 1, ()),
    ),
    names={30: "many", 31: "one"},
    owners=Owners(
        {**dict.fromkeys(range(100, 103), _MINE), 103: Held(pins=("/sys/fs/bpf/a",)), 200: _MINE}
    ),
)


PAINT = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A fake clock: sleeping only advances it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[TrampolineImage]:
    """A kernel with one image, and links that agree with it."""
    found = [image()]
    monkeypatch.setattr(image_module, "images", lambda *, stale=False, facts=None: iter(found))
    monkeypatch.setattr(
        image_module,
        "image_of",
        lambda name, module="": next((i for i in found if i.function == name), None),
    )

    class Reader:
        def read(self) -> list[TrampolineImage]:
            return found

    monkeypatch.setattr(attached_module.Registry, "read", lambda facts: KNOWN)
    monkeypatch.setattr(verify_module, "ImageReader", lambda facts: Reader())
    monkeypatch.setattr(verify_module, "read_links", lambda: LinkReading(()))
    monkeypatch.setattr(verify_module, "attachments", lambda _: links())
    monkeypatch.setattr(attached_module, "time", Clock())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


def run(*args: str, out: io.StringIO | None = None) -> tuple[int, str]:
    out = out or io.StringIO()
    status = tool.main(args, out=out)
    return status, out.getvalue()


def test_list_on_a_pipe(kernel: list[TrampolineImage]) -> None:
    """Plain, uncut text: function, counts by kind, every program with its id."""
    status, text = run("list")
    assert status == 0
    heading, row = text.splitlines()[:2]
    assert heading.split() == [column.name for column in list_command.IMAGES]
    assert row.startswith("traced")
    assert "1 fsession, 2 fentry, 1 fmod_ret, 2 fexit" in row
    assert [f"{10 + n}:p{n}" in row for n in range(6)] == [True] * 6
    assert row.count("15:p5") == 1  # a session program is listed once
    assert "10,11,12:tracer(7)" in row and "13:pinned /sys/fs/bpf/a" in row
    assert "14,15:no process" in row or "15,14:no process" in row
    assert "\x1b" not in text


def test_kprobe_links_are_listed_below(kernel: list[TrampolineImage]) -> None:
    """They have no image: a table of links, with the functions the kernel tells."""
    lines = run("list")[1].splitlines()
    first = lines.index("kprobe links") + 1
    assert lines[first].split() == [column.name for column in list_command.PROBES]
    assert "traced, other [mod]" in lines[first + 1] and "tracer(7)" in lines[first + 1]
    assert "30:many" in lines[first + 1]
    assert "not told by this kernel" in lines[first + 2]
    value = json.loads(run("list", "--json")[1])
    assert [one["link"] for one in value["probes"]] == [200, 201]
    assert value["probes"][0]["owner"]["processes"] == [{"pid": 7, "name": "tracer"}]
    assert value["images"][0]["programs"][0]["owner"] is not None
    assert value["images"][0]["programs"][0]["links"]


def test_list_of_some(kernel: list[TrampolineImage]) -> None:
    """Names and globs choose images and links alike."""
    assert json.loads(run("list", "nobody*", "--json")[1])["images"] == []
    value = json.loads(run("list", "mod:oth*", "--json")[1])
    assert (len(value["images"]), [one["link"] for one in value["probes"]]) == (0, [200])
    assert len(json.loads(run("list", "vmlinux:traced", "--json")[1])["images"]) == 1


def test_list_of_names_that_are_not_traced(kernel: list[TrampolineImage]) -> None:
    """Each is named, beside how many are; a name that only a kprobe link has is found."""
    status, text = run("list", "nobody*", "traced", "ghost")
    assert status == 0
    assert "no function is traced" not in text
    assert text.splitlines()[2:4] == [
        "nobody*: not among the 1 function traced by trampoline, and not on a kprobe link",
        "ghost: not among the 1 function traced by trampoline, and not on a kprobe link",
    ]
    kernel.append(replace(image(), function="twin", key=KEY + 1))
    assert run("list", "nobody")[1].startswith("nobody: not among the 2 functions traced")
    assert run("list", "mod:other")[1].splitlines()[0] == "kprobe links"


@pytest.mark.parametrize(("hidden", "words"), [(4, "4 processes could"), (1, "1 process could")])
def test_owners_that_cannot_be_seen(
    kernel: list[TrampolineImage], monkeypatch: pytest.MonkeyPatch, hidden: int, words: str
) -> None:
    """Hidden processes are reported below the table, and "no process" is not claimed."""
    known = replace(KNOWN, owners=Owners(hidden=hidden))
    monkeypatch.setattr(attached_module.Registry, "read", lambda facts: known)
    text = run("list")[1]
    assert "not known" in text and "no process" not in text
    assert text.splitlines()[-1].startswith(f"{words} not be read")


def test_classes_of_images(kernel: list[TrampolineImage], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images that call the same in the same order: one trampoline would do."""

    class NoBtf:
        def get(self, name: str) -> None:
            return None

    monkeypatch.setattr(attached_module, "KernelBtf", NoBtf)
    kernel.append(replace(image(), function="twin", key=KEY + 1))
    kernel.append(replace(image(), function="alone", key=KEY + 2, programs=image().programs[:1]))
    lines = run("list", "--classes")[1].splitlines()
    at = lines.index("classes: 2 trampolines would do for 3 functions, the kernel makes 3")
    assert "traced, twin" in lines[at + 2] and "alone" in lines[at + 3]
    found = json.loads(run("list", "--classes", "--json")[1])["classes"]
    assert [one["functions"] for one in found["classes"]] == [["traced", "twin"], ["alone"]]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 400])
def test_list_fits_the_terminal(
    kernel: list[TrampolineImage], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """No line is longer than the terminal is wide; colours only there."""
    monkeypatch.setenv("COLUMNS", str(width))
    kernel.append(replace(image(), function="a_function_with_a_really_long_name_" * 2))
    status, text = run("list", out=Terminal())
    assert status == 0
    assert "\x1b[" in text
    plain = PAINT.sub("", text)
    assert max(map(len, plain.splitlines())) <= width
    assert ("…" in plain) == (width < 400)


def test_no_color_is_obeyed(kernel: list[TrampolineImage], monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR on a terminal: fitted, without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("list", out=Terminal())[1]


def test_list_of_nothing(kernel: list[TrampolineImage]) -> None:
    """No images is an answer, not an error; JSON stays JSON."""
    kernel.clear()
    status, text = run("list")
    assert (status, text.splitlines()[0]) == (0, "no function is traced through a trampoline")
    assert run("list", "traced")[1].startswith("no function is traced through a trampoline\n")
    assert json.loads(run("list", "--json")[1])["images"] == []


def test_dump(kernel: list[TrampolineImage]) -> None:
    """Entry bytes and every instruction with offset, bytes, text and purpose."""
    status, text = run("dump", "traced")
    assert status == 0
    lines = text.splitlines()
    assert lines[0] == "traced (vmlinux): 1 fsession, 2 fentry, 1 fmod_ret, 2 fexit"
    assert any("leads to the image" in line for line in lines)
    start = lines.index(f"bpf_trampoline_{KEY}:") + 1
    code = kernel[0].code.instructions
    assert len(lines) - start == len(code)
    for line, insn in zip(lines[start:], code, strict=True):
        assert line.startswith(f"{insn.offset:4x}: {insn.raw.hex()}")
        assert insn.comment in line
    assert any(line.endswith("; program 4: r1 = &ctx[0]") for line in lines[start:])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_dump_fits_the_terminal(
    kernel: list[TrampolineImage], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """If there is no room, the bytes are left out and comments are cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    _, text = run("dump", "traced", out=Terminal())
    assert "\x1b[" in text
    plain = [PAINT.sub("", line) for line in text.splitlines()]
    assert max(map(len, plain)) <= width
    raw = kernel[0].code.instructions[1].raw.hex()
    assert any(raw in line for line in plain) == (width >= 120)


def test_dump_by_symbol_and_module(kernel: list[TrampolineImage]) -> None:
    """The image's own symbol, and MODULE:NAME, name it too."""
    assert run("dump", f"bpf_trampoline_{KEY}")[0] == 0
    assert run("dump", "vmlinux:traced")[0] == 0


def test_dump_json(kernel: list[TrampolineImage]) -> None:
    """Everything the text has, with roles by name."""
    status, text = run("dump", "traced", "--json")
    value = json.loads(text)
    assert status == 0
    assert value["function"] == "traced"
    roles = [insn["role"] for insn in value["instructions"]]
    assert roles == [insn.role.name for insn in kernel[0].code.instructions]
    assert "".join(insn["bytes"] for insn in value["entry_code"]).startswith("f30f1efae9")


def test_dump_of_what_is_not_there(
    kernel: list[TrampolineImage],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line on stderr, status 1; a name that the kernel does not have is said to be wrong."""
    monkeypatch.setattr(lookup, "function_names", lambda facts: iter(["nobody", "vfs_read"]))
    assert run("dump", "nobody")[0] == 1
    assert "nobody has no trampoline; see: " in capsys.readouterr().err
    assert run("dump", "vmlinux:vfs_reed")[0] == 1
    said = capsys.readouterr().err
    assert "vfs_reed has no trampoline: the kernel has no such function (perhaps vfs_read)" in said


def test_dump_where_nothing_has_a_name(
    kernel: list[TrampolineImage], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without BTF, nobody knows whose image it is. It may belong to this function."""
    kernel[0] = replace(kernel[0], function="")
    assert run("dump", "nobody")[0] == 1
    said = capsys.readouterr().err
    assert "no trampoline is known to be that of nobody: 1 cannot be named" in said


def test_verify(kernel: list[TrampolineImage], monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 0 and a summary when all agrees; 1 and the findings when not."""
    status, text = run("verify")
    assert (status, text) == (0, "verified: 1 image with 7 program calls, 6 attachments\n")
    monkeypatch.setattr(verify_module, "attachments", lambda _: links()[:-1])
    status, text = run("verify", "--timeout", "0")
    assert status == 1
    assert "traced: calls a program no link names: program 15" in text
    status, text = run("verify", "--timeout", "0", "--json")
    value = json.loads(text)
    assert status == 1
    assert value["verified"] is False
    assert {finding["problem"] for finding in value["findings"]} == {"extra"}


def test_detached_and_unknown_programs_are_marked(kernel: list[TrampolineImage]) -> None:
    """A program whose slot jumps over it, and one without an id."""
    first = image().programs[1]
    gone = replace(first, call=replace(first.call, detached=True))
    unknown = replace(image().programs[2], id=None, name="", tag="")
    kernel[0] = replace(image(), programs=(gone, unknown))
    row = run("list")[1].splitlines()[1]
    assert row.endswith("10:p0(detached) ?:?  ?")
    assert len(PROGS) == 6


@pytest.mark.parametrize(
    "args",
    [
        *((), ("frobnicate",), ("dump",)),
        *(("verify", "--timeout", text) for text in ("x", "nan", "inf", "-1", "1e999")),
    ],
)
def test_usage_errors(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and a usage line."""
    with pytest.raises(SystemExit) as caught:
        tool.main(args)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_kernel_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal is reported, not thrown."""
    from pybpf.errors import DeniedByPolicy

    def refuse(**_: object) -> None:
        raise DeniedByPolicy(1, "BPF_PROG_GET_NEXT_ID", "CAP_SYS_ADMIN is missing")

    monkeypatch.setattr(image_module, "images", refuse)
    assert run("list")[0] == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "CAP_SYS_ADMIN" in error


@pytest.mark.parametrize(
    "args", [(), ("bogus/vfs_*",), ("fexit.multi",), ("fexit.multi/vfs_*", "--program", "p")]
)
def test_plan_with_wrong_arguments_is_usage(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong on every kernel: status 2 and one line, before any kernel is asked."""
    assert run("plan", *args) == (2, "")
    assert capsys.readouterr().err.count("\n") == 1


def test_an_environment_of_somebody_else_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A .venv that this user may not look into: commands that need it say what to do."""

    def refuse(*_args: object, **_kwargs: object) -> bool:
        raise PermissionError(13, "Permission denied")

    def missing(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'capstone'", name="capstone")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        start.use_venv(tmp_path)
    monkeypatch.setattr(image_module, "images", missing)
    assert run("list")[0] == 1
    assert "capstone is missing: pip install capstone" in capsys.readouterr().err
