"""What all tools do when their output goes nowhere, by the statuses and words they end with."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.errors import ObjectFormatError
from pybpf.tools.entry import explain
from pybpf.wording import plain

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
BTF = str(DATA / "core_target.bpf.o")
OBJECT = str(DATA / "obj_data.bpf.o")

TOOLS = [
    ("btf.py", "dump", BTF),
    ("btf.py", "dump", BTF, "--format", "c"),
    ("btf.py", "--help"),
    ("bpfobj.py", "inspect", OBJECT),
    ("bpfobj.py", "inspect", OBJECT, "--json"),
    ("features.py", "--help"),
    ("trampolines.py", "--help"),
    ("retsnoop", "--help"),
    ("retsnoop", "--version"),
    ("build.py", "--help"),
    ("dev/demo.py", "--help"),
    ("dev/build_bpf.py", "--help"),
    ("dev/gen_uapi.py", "--help"),
]


def test_text_cannot_steer_a_terminal() -> None:
    """Control characters, line ends, bytes that are not UTF-8 and direction marks are escaped."""
    assert plain("vfs_read → ok") == "vfs_read → ok"
    assert plain("a\x1b[2Jb\nc\x9bd\x7f") == r"a\x1b[2Jb\nc\x9bd\x7f"
    assert plain(b"\xff\xe2\x80\xae".decode(errors="surrogateescape")) == r"\xff\u202e"
    assert plain("two\n\tlines\r\x1b", lines=True) == "two\n\tlines" + r"\r\x1b"
    assert explain(ObjectFormatError("bad \x1b]0;title\x07")) == r"bad \x1b]0;title\x07"
    error = OSError(2, "No such file or directory", "a\x1b[31m")
    assert explain(error) == r"a\x1b[31m: No such file or directory"


UNBUFFERED = """
import os, sys
from pybpf.tools.entry import run
def main():
    sys.stdout.write("a")
    os.write(1, b"b")
    return 3
run("x", main)
"""


def run(tool: tuple[str, ...], redirection: str) -> subprocess.CompletedProcess[str]:
    """A tool as a shell runs it with a redirection behind it."""
    name, *arguments = tool
    words = [sys.executable, str(ROOT / "tools" / name), *arguments]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("tool", TOOLS, ids=" ".join)
def test_a_full_disk(tool: tuple[str, ...]) -> None:
    """Status 1 and one line that blames standard output, not a file that was read."""
    done = run(tool, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == f"{Path(tool[0]).name}: standard output: No space left on device\n"


@pytest.mark.parametrize("tool", TOOLS, ids=" ".join)
def test_output_that_is_closed(tool: tuple[str, ...]) -> None:
    """The same for `>&-`; no file that is opened takes its place."""
    done = run(tool, ">&-")
    assert done.returncode == 1
    assert done.stderr == f"{Path(tool[0]).name}: standard output: Bad file descriptor\n"


@pytest.mark.parametrize("tool", TOOLS, ids=" ".join)
def test_a_reader_that_went_away(tool: tuple[str, ...]) -> None:
    """Not a word, and the status a shell shows for SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    name, *arguments = tool
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / name), *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_unbuffered_output() -> None:
    """`python3 -u` is heeded: what is written is there at once."""
    done = subprocess.run(
        [sys.executable, "-c", UNBUFFERED],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "ab", "")


PARTS = """
import sys
from pybpf.tools.entry import run
def main():
    sys.stdout.write("x" * 300_000)
    return 0
run("x", main)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_the_kernel_takes_in_parts(unbuffered: str, tmp_path: Path) -> None:
    """A file that grows to its limit: an error, not a short file and status 0."""
    out = tmp_path / "out"
    with out.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", PARTS],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "x: standard output: File too large\n")
    assert out.stat().st_size == 100_000


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_does_not_block(unbuffered: str) -> None:
    """A pipe that another program made non-blocking gets everything, once there is room."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(
        [sys.executable, "-c", PARTS],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)},
        stdout=writing,
    ) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            assert file.read() == b"x" * 300_000
    assert process.returncode == 0


def test_everything_closed() -> None:
    """Without any stream a tool still ends in its own way, and writes into nothing it opened."""
    assert run(("btf.py", "find", "no_such", BTF), "<&- >&- 2>&-").returncode == 1
    assert run(("btf.py", "find", "point", BTF), "2>&-").stdout.startswith("[17] STRUCT")


FOLDERS = [ROOT / "tools", ROOT / "tools/dev"]
SCRIPTS = [p for folder in FOLDERS for p in sorted(folder.glob("*.py"))]
STARTED = [p for p in SCRIPTS if p.read_text().startswith("#!")]


@pytest.mark.parametrize("path", STARTED, ids=lambda path: path.name)
def test_a_tool_runs_by_its_name(path: Path) -> None:
    """As README writes them, from anywhere: what has a first line for it may be executed."""
    done = subprocess.run(
        [path, "--help"], cwd="/", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_readme_calls_what_can_be_called() -> None:
    """Every tools/NAME.py in README's table of tools is one of those."""
    shown = re.findall(r"^\| .* \| `(tools/\S+\.py)` \|", (ROOT / "README.md").read_text(), re.M)
    assert shown and {ROOT / name for name in shown} <= set(STARTED)


ASCII = """
from pybpf.tools.entry import run
def main():
    print("cut\\N{HORIZONTAL ELLIPSIS}")
    return 0
run("x", main)
"""


def test_a_terminal_without_the_character() -> None:
    """ASCII only: a question mark for it, not an end of the output."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env |= {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        [sys.executable, "-c", ASCII], capture_output=True, env=env, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"cut?\n", b"")


def own(text: str) -> subprocess.CompletedProcess[str]:
    """A process of a few lines that may import the entry."""
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("print('done')", 0, ""),
        ("open('/no/such')", 1, "-c: /no/such: No such file or directory\n"),
        ("raise ObjectFormatError('no object')", 1, "-c: no object\n"),
        ("os.kill(os.getpid(), signal.SIGINT); signal.pause()", 130, ""),
        ("sys.exit('what is wrong')", 1, "what is wrong\n"),
    ],
)
def test_a_tool_of_one_file_ends_as_the_others(line: str, status: int, said: str) -> None:
    done = own(
        "import os, signal, sys\nfrom pybpf.errors import ObjectFormatError\n"
        f"from pybpf.tools.entry import script\ndef main(_):\n    {line}\n"
        "script(main, 'usage', float, last=1)\n"
    )
    assert (done.returncode, done.stderr) == (status, said)


EXAMPLES = sorted(path.name for path in (ROOT / "tools/examples").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_say_how_they_are_used(name: str) -> None:
    """--help is answered, and wrong arguments are refused, before anything is attached."""
    path = str(ROOT / "tools/examples" / name)
    wrong = ["a", "b", "c", "d", "e"]
    for words, status in (["--help"], 0), (wrong, 2):
        done = subprocess.run(
            [sys.executable, path, *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stderr if status else done.stdout
        assert done.returncode == status and f"``{name} " in said, said
        assert "Traceback" not in done.stderr


def test_arguments_of_a_tool_of_one_file() -> None:
    """They are made what `main` takes; the last may be left out."""
    run = "from pybpf.tools.entry import script\nimport sys\nsys.argv = {}\n"
    run += "script(lambda *found: print(found), 'usage', str, int, float, last=60)\n"
    for words, said in (["a", "7"], "('a', 7, 60)\n"), (["a", "7", "1.5"], "('a', 7, 1.5)\n"):
        assert own(run.format(["x", *words])).stdout == said
    for words in ["a"], ["a", "b"], ["a", "7", "1", "2"]:
        done = own(run.format(["x", *words]))
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.endswith("usage\n")


def test_an_interrupt_while_python_ends_has_no_traceback() -> None:
    """The tool is done by then: it dies of the signal, as it would without Python."""
    done = own(
        "import atexit, os, signal\nfrom pybpf.tools.entry import run\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\nrun('x', lambda: 0)\n"
    )
    assert (done.returncode, done.stderr) == (-2, "")
