"""Names are whatever somebody chose: none of them controls the terminal or breaks the JSON."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpf.btf.encode import BtfBuilder
from pybpf.btf.types import Enum, EnumValue, Func, FuncProto, Int, Member, Param, Struct, Typedef
from pybpf.dataclass import replace
from pybpf.jsontext import dumps
from pybpf.kernel.host import _pack
from pybpf.kernel.owners import Held, Owner
from pybpf.symbols import fold
from pybpf.tools import bpfobj, btf, features, kernelobj
from pybpf.tools.funcwatch.counts import Counts
from pybpf.tools.funcwatch.functions import Function
from pybpf.tools.funcwatch.output import JsonOutput, Report, TextOutput
from pybpf.tools.retsnoop import jsonlines
from pybpf.tools.trampolines import cli as trampolines
from tests.support.examples import examples
from tests.support.savedfacts import saved_facts
from tests.support.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
# C0 without line end and tab, DEL, C1, line and paragraph separators, bytes that are not UTF-8.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\ud800-\udfff]")
EVIL = "\x1b[2J\x9b\x7f\u202e\r\x07"


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text.encode("utf-8")
    assert not CONTROL.search(text)
    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # no half characters
    return value


# -- the one way to write JSON, and the ways to write text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=3), inner)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
@settings(max_examples=examples(600))
def test_json_of_anything_is_json(value: Any, compact: bool) -> None:
    """Whatever the names and numbers, a strict reader takes it, and a terminal shows it."""
    strict(dumps(value, compact=compact))
    strict(dumps(value, indent=2).replace("\n", " "))


def test_json_keeps_what_json_has() -> None:
    """Ordinary values survive a round trip; NaN becomes null, and stray bytes are escaped."""
    value = {"a": [1, -(1 << 70), 1.5, None, True, "é\U0001f600\n"], "b": {}}
    assert json.loads(dumps(value)) == value
    assert json.loads(dumps([float("nan"), "a\udcffb", "\ud800"])) == [None, "a\\xffb", "\\ud800"]


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("pybpf", "tools/examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), parsed(path)


def test_only_one_module_writes_json() -> None:
    """All others call it: `json.dumps` writes NaN, and half characters."""
    found = [
        name
        for name, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("dumps", "dump")
        and isinstance(node.value, ast.Name)
        and node.value.id == "json"
    ]
    assert set(found) == {"pybpf/jsontext.py"}


# What makes text safe, or gives text that has no names in it.
SAFE_CALLS = {"plain", "explain", "dumps", "many", "len", "hex", "strftime"}
SAFE_NAMES = {"prog", "args.prog", "self._tool", "name"}
# Places that print what is safe for another reason, by file and function.
CHECKED = {
    ("bpfobj.py", "_print_inspect"): "_table passes cells through plain",
    ("bpfobj.py", "_print_kconfig"): "_table passes cells through plain",
    ("bpfobj.py", "_print_missing"): "the lines went through plain",
    ("bpfobj.py", "_print_relocate"): "instructions as text have no names",
    ("btf.py", "_dump"): "identifiers of C; lines go through _shown",
    ("btf.py", "_show"): "lines go through _shown",
    ("completion.py", "main"): "our own words",
    ("manpages.py", "main"): "our own words",
    ("main.py", "main"): "our own words, and repr",
    ("progress.py", "__call__"): "our own words",
    ("features.py", "main"): "lines go through plain, errors through explain",
    ("entry.py", "run"): "a message of the system",
    ("entry.py", "script"): "the usage is our own words; errors go through explain",
    ("entry.py", "guarded"): "the same print, seen from the function inside",
    ("screen.py", "line"): "the gate itself: its callers are checked",
    ("screen.py", "show"): "the text went through plain",
    ("screen.py", "table"): "the cells went through plain",
    ("dump.py", "_listing"): "instructions as text; comments went through plain",
    ("verify.py", "verify_images"): "counts",
    ("cli.py", "_fail"): "texts went through explain",
    ("cli.py", "main"): "our own words; errors through plain",
    ("run.py", "emit_json"): "jsonlines.line is dumps",
    ("show.py", "__call__"): "jsonlines.line is dumps; session_text is tested with such names",
}


def _is_safe(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.JoinedStr():
            return all(_is_safe(part) for part in node.values)
        case ast.FormattedValue():
            return node.conversion == ord("r") or _is_safe(node.value)
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name in SAFE_CALLS or (
                name == "paint" and _is_safe(node.args[0]) and _is_safe(node.args[1])
            )
        case ast.BinOp():
            return _is_safe(node.left) and _is_safe(node.right)
        case ast.IfExp():
            return _is_safe(node.body) and _is_safe(node.orelse)
        case ast.Name() | ast.Attribute():
            return ast.unparse(node) in SAFE_NAMES
        case _:
            return False


def _writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    text = ast.unparse(node.func)
    return text in ("print", "screen.line", "self.line") or bool(
        re.fullmatch(r"sys\.std(out|err)\.(write|writelines)", text)
    )


def test_every_place_that_prints_makes_its_text_safe() -> None:
    """A new print in a tool passes its names through `plain`, or is named here with a reason."""
    bare = set()
    for path in sorted((ROOT / "pybpf/tools").rglob("*.py")):
        for function in ast.walk(parsed(path)):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if _writes(node) and not all(map(_is_safe, node.args)):  # type: ignore[attr-defined]
                    bare.add((path.name, function.name))
    assert bare == set(CHECKED)


# -- tool by tool


@pytest.fixture
def evil_object(tmp_path: Path) -> Path:
    """An object whose programs, maps, sections and types are called like terminal commands."""
    data = (DATA / "obj_maps.bpf.o").read_bytes()
    names = set(re.findall(rb"(?<=\0)[a-z_]{5,}(?=\0)", data))
    keep = rb"license|maps|values?|type|max_entries|(key|value)_size|pinning|map_flags|map_extra"
    for name in names:
        if not re.fullmatch(rb"numa_node|" + keep, name):
            data = data.replace(b"\0" + name + b"\0", b"\0\x1b\xff" + name[2:] + b"\0")
    path = tmp_path / "evil.bpf.o"
    path.write_bytes(data)
    return path


def test_objects(evil_object: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`obj inspect` and `obj relocate`."""
    target = str(DATA / "core_target.bpf.o")
    for command in (["inspect"], ["relocate", "--btf", target]):
        assert bpfobj.main([*command, str(evil_object)]) == 0
        text = capsys.readouterr().out
        assert r"\x1b" in text
        assert not CONTROL.search(text)
        assert bpfobj.main([*command, str(evil_object), "--json"]) == 0
        text = capsys.readouterr().out
        assert "\\u001b" in text
        strict(text)


@pytest.fixture
def evil_btf(tmp_path: Path) -> Path:
    """BTF of which every name is hostile."""
    builder = BtfBuilder()
    number = builder.add(Int(f"i{EVIL}", 4, 32))
    builder.add(Struct(f"s{EVIL}", 4, (Member(f"m{EVIL}", number, 0),)))
    builder.add(Enum(f"e{EVIL}", 4, (EnumValue(f"v{EVIL}", 1),)))
    builder.add(Typedef(f"t{EVIL}", number))
    proto = builder.add(FuncProto(number, (Param(f"p{EVIL}", number),)))
    builder.add(Func(f"f{EVIL}", proto, 0))
    path = tmp_path / "evil.btf"
    path.write_bytes(builder.build())
    return path


def test_types(evil_btf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`btf dump` in each form, and `btf find`."""
    for command in (["dump"], ["dump", "--format", "c"], ["find", "*"]):
        status = btf.main([*command, str(evil_btf)])
        text = capsys.readouterr().out
        assert status == 0
        assert text
        assert not CONTROL.search(text)
    for command in (["dump"], ["find", "*"]):
        assert btf.main([*command, str(evil_btf), "--json"]) == 0
        strict(capsys.readouterr().out)
    assert btf.main(["find", f"x{EVIL}", str(evil_btf)]) == 1
    assert not CONTROL.search(capsys.readouterr().err)


@pytest.fixture
def evil_facts(tmp_path: Path) -> Path:
    """Facts of a kernel whose release, symbols and refusals are hostile."""
    facts = saved_facts(raw_btf=b"")
    builder = BtfBuilder()
    number = builder.add(Int("int", 4, 32))
    proto = builder.add(FuncProto(number, ()))
    builder.add(Func(f"vfs_{EVIL}", proto, 0))
    builder.add(Func("vfs_read", proto, 0))
    names = (f"vfs_{EVIL}", "vfs_\udcff", "vfs_read")
    lines = [f"ffffffff8100{n}000 T {name}\n" for n, name in enumerate(names)]
    facts |= {
        "release": f"6{EVIL}",
        "version": f"v{EVIL}",
        "modules": [f"m{EVIL}"],
        "ftrace_sites": False,
        "btf": {"": _pack(builder.build())},
        "kallsyms": _pack("".join(lines).encode("utf-8", "surrogateescape")),
        "ftrace": _pack("".join(f"{n}\n" for n in names).encode("utf-8", "surrogateescape")),
    }
    facts["features"] = {
        name: entry | {"support": "denied", "why": f"w{EVIL}"}
        for name, entry in facts["features"].items()
    } | {"fexit": facts["features"]["fexit"]}
    path = tmp_path / "evil.facts"
    path.write_text(json.dumps(facts))
    return path


def test_facts_and_plans(evil_facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`trampolines plan` and `why`, and `features`, of another kernel."""
    commands = (
        (trampolines.main, ["plan", "fexit.multi/vfs_*", "-v"]),
        (trampolines.main, ["plan", "fexit.multi/vfs_*", "-v", "--classes"]),
        (trampolines.main, ["why", f"vfs_{EVIL}", f"x{EVIL}"]),
        (features.main, []),
    )
    for main, command in commands:
        for more in ([], ["--json"]):
            main([*command, "--facts", str(evil_facts), *more])  # type: ignore[operator]
            shown = capsys.readouterr()
            assert shown.out, (command, more)
            assert not CONTROL.search(shown.err)
            if more:
                strict(shown.out)
            assert not CONTROL.search(shown.out)


class _Info(SimpleNamespace):
    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "target": self.target}


def test_lists_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`obj list`: names of programs, maps, links and BTF, and of who holds them."""
    for kind in kernelobj.KINDS:
        fields = dict.fromkeys(("name", "target", "tag", "type"), f"x{EVIL}�")
        held = Held((Owner(1, f"x{EVIL}�"),), (f"/x{EVIL}�",))
        keepers = {"owners": held, "link_owners": replace(held, owners=(Owner(2, EVIL),))}
        numbers = dict.fromkeys(("id", "flags", "size", "key_size", "value_size", "max_entries"), 1)
        numbers |= {"memory": 1, "frozen": 0, "xlated_size": 8}
        info = _Info(**fields, **numbers, **keepers, maps=(), program=1, attach_type="a")
        monkeypatch.setattr(kernelobj, "_infos", lambda _kind, info=info: [info])
        for as_json in (False, True):
            assert kernelobj.run_list(SimpleNamespace(kind=kind, json=as_json)) == 0  # type: ignore[arg-type]
            text = capsys.readouterr().out
            assert not CONTROL.search(text)
            if as_json:
                strict(text)


def test_funcwatch_lines() -> None:
    """`funcwatch` in a pipe, as text and as JSON."""
    rows = [(Function(0, f"f{EVIL}\udcff", f"m{EVIL}"), Counts(3, 2, 1, max_ns=5))]
    for kind in (TextOutput, JsonOutput):
        out = io.StringIO()
        output = kind(out, 10)
        report = Report(rows, 1.0, 1.0)
        output.interval(report)
        output.total(report)
        assert out.getvalue()
        assert not CONTROL.search(out.getvalue())
        if kind is JsonOutput:
            assert [strict(line)["calls"] for line in out.getvalue().splitlines()] == [3, 3]


def test_retsnoop_json_lines() -> None:
    """Its text is tested in test_retsnoop_text.py."""
    line = jsonlines.line({"comm": f"a{EVIL}\udcff", "x": float("nan")})
    assert line.endswith("\n")
    assert strict(line)["comm"].endswith("\\xff")


def test_folded_stacks() -> None:
    """A line end in a name does not begin another stack."""
    assert fold({("b;\n", f"a{EVIL}"): 2}) == ["a\\x1b[2J\\x9b\\x7f\\u202e\\r\\x07;b:\\n 2"]
