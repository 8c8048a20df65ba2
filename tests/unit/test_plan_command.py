"""trampolines.py plan and why, for a saved kernel: on a pipe, on terminals of any width, JSON."""

from __future__ import annotations

import io
import json
import re
from argparse import Namespace
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pybpf.kernel.host import Facts
from pybpf.kernel.owners import Held, Owner, Owners
from pybpf.multi.target import Target
from pybpf.tools.trampolines import cli as tool
from pybpf.tools.trampolines import plan as plan_command
from pybpf.tools.trampolines import why as why_command
from pybpf.trampoline.links import Attached, make_key
from pybpf.trampoline.registry import Probed, Registry
from tests.support.savedfacts import saved_facts

# As the tool itself finds them.
PAINT = re.compile(r"\x1b\[[0-9;]*m")
ROOT = Path(__file__).resolve().parents[2]
WRONG = str(ROOT / "tests/data/multi_wrong.bpf.o")
MULTI = str(ROOT / "tests/data/multi.bpf.o")
COST = str(ROOT / "tests/data/multi_cost.bpf.o")
PLAIN = str(ROOT / "tests/data/fentry_args.bpf.o")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("facts") / "6.12.json"
    path.write_text(json.dumps(saved_facts()))
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """A file of facts is read and its BTF indexed once, not by each of a hundred commands."""
    with pytest.MonkeyPatch.context() as patch:
        once = cache(plan_command.read_facts)
        patch.setattr(plan_command, "read_facts", once)
        patch.setattr(why_command, "read_facts", once)
        yield


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def run(*args: str, out: io.StringIO | None = None) -> tuple[int, str]:
    out = out or io.StringIO()
    return tool.main(args, out=out), out.getvalue()


def both(facts: str, *args: str) -> tuple[str, str]:
    """The same on a pipe and on a terminal."""
    return run(*args, "--facts", facts)[1], run(*args, "--facts", facts, out=Terminal())[1]


def plain(text: str) -> list[str]:
    return [PAINT.sub("", line) for line in text.splitlines()]


def test_plan_on_a_pipe_is_the_plan_itself(facts: str) -> None:
    """Uncut, uncoloured: `str` of the plan, then what to do about the skipped."""
    status, text = run("plan", "fexit.multi/*", "--facts", facts)
    assert status == 0
    args = tool._parser("trampolines.py").parse_args(["plan", "fexit.multi/*", "--facts", facts])
    assert text.startswith(f"{plan_command.run_plan(args)}\n")
    assert "\x1b" not in text
    assert "-v adds names" in text.splitlines()[-1]


COMMANDS = [
    ("plan", "fexit.multi/*"),
    ("plan", "fexit.multi/*", "-v", "--classes"),
    ("plan", "fsession.multi/vfs_*", "--classes", "--prefer", "overhead"),
    ("why", "vfs_read", "do_exit", "vfs_reed", "__rcu_read_lock"),
]


@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize("args", COMMANDS)
def test_terminals_of_any_width(
    facts: str, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], width: int
) -> None:
    """No line runs over; what is cut says so; reasons are wrapped whole, not cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    pipe, terminal = both(facts, *args)
    lines = plain(terminal)
    assert max(map(len, lines)) <= width
    whole = pipe.splitlines()
    assert max(map(len, whole)) > 60
    assert terminal != "\n".join(lines)  # coloured
    if args[0] == "why":
        assert "…" not in terminal
        assert "".join(pipe.split()) == "".join("".join(lines).split())
    elif "--classes" not in args:
        for line in lines:
            if line.endswith("…"):
                assert any(one.startswith(line[:-1]) for one in whole)


@pytest.mark.parametrize("args", COMMANDS)
def test_a_wide_terminal_has_the_words_of_the_pipe(
    facts: str, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    """Colours add nothing and take nothing away."""
    monkeypatch.setenv("COLUMNS", "1000")
    pipe, terminal = both(facts, *args)
    assert plain(terminal) == pipe.splitlines()


def test_styles(facts: str) -> None:
    """Headings bold, reasons yellow, what is not possible red."""
    _, text = both(facts, "plan", "fexit.multi/*")
    lines = text.splitlines()
    assert lines[0].startswith("\x1b[1mreads_everything")
    assert any(re.match(r"\x1b\[33m +\d+  never returns", line) for line in lines)
    _, text = both(facts, "why", "do_exit")
    head, first, *_ = text.splitlines()
    assert head == "\x1b[2mfor a program that reads every argument and return value:\x1b[0m"
    assert first.startswith("\x1b[1mdo_exit: 1 slot, returns void")
    assert "\x1b[31m  fexit.multi: not possible\x1b[0m" in text


def test_no_color_still_fits(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    _, text = both(facts, "why", "vfs_read")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_verbose_accounts_for_everything(facts: str) -> None:
    """The plan first, each skipped function with its reason, each group; code at the end."""
    _, text = run("plan", "fexit.multi/*", "-v", "--facts", facts)
    value = json.loads(run("plan", "fexit.multi/*", "--json", "--facts", facts)[1])
    for number, group in enumerate(value["groups"]):
        assert f"group {number}: {group['mechanism']}, {group['lowering']}, exit" in text
        assert f"  image {group['images']['exit']} (exit)" in text
        assert "  functions: " + " ".join(sorted(group["labels"])) in text
    plan_text = run("plan", "fexit.multi/*", "--facts", facts)[1]
    assert text.startswith(plan_text.partition("  -v adds names")[0])
    answer, listings = text.split("\ncode of group 0: ", 1)
    assert " r0 = " not in answer and "functions: " not in listings
    skipped = answer.split("\nskipped:\n")[1].partition("\n\n")[0]
    assert len(value["skipped"]) == len(skipped.splitlines())
    assert "do_exit: never returns" in text
    listed = re.findall(r"^ +\d+: ", text, re.M)
    assert len(listed) == sum(g["insns"]["exit"] for g in value["groups"])


def test_classes_of_a_plan(facts: str) -> None:
    args = ("plan", "fexit.multi/vfs_*", "--mechanism", "trampoline", "--classes", "--facts", facts)
    _, text = run(*args)
    assert "classes: 4 trampolines would do for 10 functions, the kernel makes 10" in text
    value = json.loads(run(*args, "--json")[1])
    assert value["classes"]["trampolines"] == 4
    assert sum(len(c["functions"]) for c in value["classes"]["classes"]) == 10
    assert "classes" not in json.loads(run(*args[:4], "--facts", facts, "--json")[1])


@pytest.mark.parametrize("mechanism", ["trampoline", "kprobe_multi", "kprobe"])
def test_forced_mechanism(facts: str, mechanism: str) -> None:
    args = ("plan", "fentry.multi/vfs_*", "--mechanism", mechanism, "--json", "--facts", facts)
    status, text = run(*args)
    assert status == 0
    assert {g["mechanism"] for g in json.loads(text)["groups"]} == {mechanism}


def test_prefer(facts: str) -> None:
    """The least cost per call instead of the least time to attach."""
    plan = ("plan", "fentry.multi/*", "--json", "--facts", facts)
    quick = json.loads(run(*plan)[1])
    light = json.loads(run(*plan, "--prefer", "overhead")[1])
    assert quick["cost"]["insns_per_call"] > 129
    assert "trampoline" in {g["mechanism"] for g in light["groups"]}
    assert sum(quick["cost"][k] for k in ("attach_s", "detach_s")) < sum(
        light["cost"][k] for k in ("attach_s", "detach_s")
    )


def test_a_program_of_an_object(facts: str) -> None:
    """Its section's glob, or one given, alone or behind the same kind of section."""
    ask = ("plan", "--object", MULTI, "--program", "on_exit_ret", "--json", "--facts", facts)
    value = json.loads(run(*ask)[1])
    assert value["program"] == "on_exit_ret"
    names = {name for g in value["groups"] for name in g["targets"]}
    assert names == {f"bpf_fentry_test{n}" for n in range(1, 10)}
    for section in ("fexit.multi/vfs_f*", "?fexit.multi/vfs_f*", "vfs_f*", "?fs_f*"):
        value = json.loads(run(*ask, section)[1])
        found = {n for g in value["groups"] for n in g["targets"]}
        assert found == {"vfs_fsync", "vfs_fsync_range"}
    value = json.loads(run(*ask, "fexit.multi")[1])
    assert {name for g in value["groups"] for name in g["targets"]} == names


@pytest.mark.parametrize("section", ["fentry.multi/vfs_*", "fexit.multi.s/vfs_*", "nonsense/vfs_*"])
def test_a_section_that_is_not_the_programs(
    facts: str, capsys: pytest.CaptureFixture[str], section: str
) -> None:
    """Another kind than the program's own is wrong usage: one line with both sections."""
    ask = ("plan", section, "--object", MULTI, "--program", "on_exit_ret", "--facts", facts)
    assert run(*ask) == (2, "")
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(section) in line and "'on_exit_ret'" in line and "'fexit.multi/" in line


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["plan", "fexit.multi/do_exit"], 1, "never returns"),
        (["plan", "fexit.multi/nobody_*"], 1, "nobody_*"),
        (["plan", "--object", MULTI], 2, "choose one with --program; there are on_entry"),
        (["plan", "--object", MULTI, "--program", "nobody"], 2, "no program 'nobody'; there are"),
        (["plan", "--object", COST, "--program", "entry_0"], 2, "'fentry.multi' names no func"),
        (
            ["plan", "--object", COST, "--program", "kprobe_0", "vfs_*"],
            2,
            "not a multi program",
        ),
        (["why", "--object", MULTI, "--program", "nobody", "vfs_read"], 2, "no program 'nobody'"),
        (["why", "--program", "on_exit", "vfs_read"], 2, "--program needs --object FILE"),
        (["plan", "--object", PLAIN], 1, "no multi program"),
        (["plan", "--object", WRONG + "x", "--program", "p"], 1, "No such file"),
        (["plan", "--object", WRONG, "--program", "moves_ctx"], 1, "instruction 5"),
        (["plan", "fexit.multi/vfs_*", "--mechanism", "tracing_multi"], 1, ""),
        (["plan", "--program", "p"], 2, "--object"),
        (["plan", "raw_tp/x"], 2, "not a multi section"),
        (["why", "nobody_at_all"], 1, ""),
    ],
)
def test_exit_status(
    facts: str, capsys: pytest.CaptureFixture[str], args: list[str], status: int, words: str
) -> None:
    """1 for what cannot be done, 2 for what was asked wrongly; errors are one line."""
    assert run(*args, "--facts", facts)[0] == status
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == bool(words)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 99}'])
def test_facts_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "facts.json"
    path.write_text(content)
    for args in (("plan", "fexit.multi/x"), ("why", "x")):
        assert run(*args, "--facts", str(path))[0] == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("moves_ctx", "sum += ctx[which];"),
        ("keeps_ctx", "kept = ctx;"),
        ("copies_ctx", "bpf_map_update_elem(&values, &zero, ctx, 0);"),
    ],
)
def test_unproved_use_of_the_context(
    facts: str, capsys: pytest.CaptureFixture[str], program: str, line: str
) -> None:
    """One line: program, instruction with its text, file:line with the source, why."""
    assert run("plan", "--object", WRONG, "--program", program, "--facts", facts)[0] == 1
    said = capsys.readouterr().err
    source = Path(WRONG).with_suffix(".c").read_text().splitlines()
    (number,) = [n for n, text in enumerate(source, 1) if text.strip() == line]
    place = re.escape(f"(multi_wrong.bpf.c:{number}: {line})")
    assert re.search(rf"program '{program}': instruction \d+: .+ {place}: .+", said)
    assert said.count("\n") == 1


def test_why_names_who_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trampoline and kprobe links of a function with program names and owners; no other's."""

    class Btf:
        def object_id(self, module: str) -> int:
            return 1

    class Live:
        is_saved = False
        btf = Btf()

    key = make_key(1, 77)
    known = Registry(
        attached=(
            Attached(5, 50, (key,), ("fexit",), 0),
            Attached(6, 60, (make_key(1, 78),), ("fentry",), 0),
        ),
        probes=(
            Probed(7, 70, "kprobe.multi", 2000, (("vfs_read", "", 1), ("vfs_write", "", 2))),
            Probed(8, 80, "kprobe", 1, (("vfs_read", "mod", 1),)),
        ),
        names={50: "leave", 70: "many"},
        owners=Owners({5: Held((Owner(9, "python3"),)), 7: Held(pins=("/sys/fs/bpf/x",))}),
    )
    there = why_command._attached_to(Target("vfs_read", btf_id=77), Live(), known)  # type: ignore[arg-type]
    row = {
        "function": "vfs_read",
        "found": True,
        "slots": 4,
        "returns": "int",
        "occupied": 1,
        "max_programs": 38,
        "attached": there,
        "hooks": {"fentry.multi": {"kprobe": "yes"}},
    }
    lines = [line.text for line in why_command.why_lines([row])]
    assert lines[1:3] == [
        "  attached: program 50 leave by link 5 (fexit), python3(9)",
        "  attached: program 70 many by link 7 (kprobe.multi on 2000 functions), "
        "pinned /sys/fs/bpf/x",
    ]
    assert there[0]["owner"] == {
        "processes": [{"pid": 9, "name": "python3"}],
        "pins": [],
        "certain": True,
    }
    assert json.loads(json.dumps(there)) == there


def test_why_says_one_reason_once() -> None:
    """A reason that holds for several sections and mechanisms is one line that names them."""
    row = {
        "function": "f",
        "found": True,
        "slots": 1,
        "returns": "int",
        "occupied": 0,
        "max_programs": 38,
        "attached": [],
        "hooks": {
            "fentry.multi": {"tracing_multi": "long", "trampoline": "yes", "kprobe": "other"},
            "fexit.multi": {"tracing_multi": "long", "trampoline": "long", "kprobe": "other"},
        },
    }
    lines = [line.text for line in why_command.why_lines([row])]
    assert lines == [
        "f: 1 slot, returns int, 0 of 38 programs",
        "  fentry.multi: trampoline",
        "  fexit.multi: not possible",
        "    not tracing_multi or trampoline (fexit.multi): long",
        "    not kprobe: other",
    ]


def test_saved_facts_know_nobody(facts: str) -> None:
    args = Namespace(functions=["vfs_read"], facts=facts, object=None, program=None)
    (row,) = why_command.why(args)
    assert row["attached"] == []
    assert isinstance(plan_command.read_facts(facts), Facts)


def test_why_of_a_program_says_what_plan_does(facts: str) -> None:
    """The return value alone: kprobe.multi has it, and plan takes that."""
    ask = ("--object", MULTI, "--program", "on_exit_ret", "--facts", facts)
    text = run("why", "vfs_read", *ask)[1]
    assert "on_exit_ret (fexit.multi/" in text and ": trampoline, kprobe_multi, kprobe" in text
    assert (
        "not tracing_multi: not available on this kernel: the kernel has no tracing_multi (7.2"
        in text
    )
    assert "reads every argument" not in text
    assert "kprobe_multi" in run("plan", "vfs_read", *ask)[1]
    assert "  fexit.multi: trampoline\n" in run("why", "vfs_read", "--facts", facts)[1]


def test_functions_of_one_name_are_told_by_their_address(facts: str) -> None:
    """Each is one of several: never "BTF does not describe it"."""
    _, text = run("plan", "fexit.multi/version_show", "-v", "--facts", facts)
    lines = [line for line in text.splitlines() if line.startswith("  version_show at 0x")]
    assert len(set(lines)) == len(lines) > 1
    assert all("several functions have this name" in line for line in lines)
    assert "neither arguments nor return value" in text
    _, text = run("why", "version_show", "--facts", facts)
    assert len(re.findall(r"^version_show at 0x", text, re.M)) == len(lines)


@pytest.mark.parametrize("name", ["vmlinux:migrate_disable", "migrate_*", "nomod:foo"])
def test_what_is_skipped_is_said_once(facts: str, name: str) -> None:
    rows = json.loads(run("why", name, "--json", "--facts", facts)[1])["functions"]
    said = [row["function"] for row in rows]
    assert len(set(said)) == len(said) and not any(":" in one or "*" in one for one in said)


def test_a_module_that_is_not_loaded(facts: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "module nomod is not loaded" in run("why", "nomod:foo", "--facts", facts)[1]
    assert run("plan", "fexit.multi/nomod:*", "--facts", facts)[0] == 1
    assert "module nomod is not loaded" in capsys.readouterr().err


def test_sleepable_and_pairs_show_in_the_plan(facts: str) -> None:
    """The section's .s; of a pair both images."""
    text = run("plan", "fexit.multi.s/vfs_read", "--facts", facts)[1]
    assert text.startswith("reads_everything (fexit.multi.s): ")
    text = run("plan", "fsession.multi/vfs_read", "--facts", facts)[1]
    assert re.search(r"entry\+exit +1  image \w{16}\+\w{16}$", text, re.M)
