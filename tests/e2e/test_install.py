"""Build the wheel, install it in a fresh environment, and use it, in guests and other Pythons.

The wheel is built without a network; its dependencies come from where pip gets them.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpf.tools import completion, manpages
from pybpf.tools.main import all_pages
from pybpf.tools.table import TOOLS
from tests.support import rows

pytestmark = pytest.mark.rows("host")  # it starts the guests, so it is not for inside them

ROOT = rows.ROOT
GUEST_PYTHON = "/usr/bin/python3"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A command that has to succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr or done.stdout
    return done  # type: ignore[no-any-return]


def pythons() -> dict[str, str]:
    """Interpreters of this machine by version: on PATH, pyenv's, Debian's; at least our own."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for version in VERSIONS:
        places = [
            shutil.which(f"python{version}"),
            *map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))),
        ]
        for place in filter(None, places):
            code = "import sys, venv, zlib; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([place, "-c", code], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                found.setdefault(version, place)
    return found


PYTHONS = pythons()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, so that nothing of an earlier build is in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pybpf", source / "pybpf", ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir")
    run(*PIP, "wheel", *options, "-w", folder, source)
    (made,) = folder.glob("*.whl")
    return made


def install(python: str, environment: Path, wheel: Path) -> Path:
    """A fresh environment with the wheel and what it requires; gives its `pybpf`."""
    run(python, "-m", "venv", "--without-pip", environment)
    run(*PIP, "--python", environment / "bin/python", "install", "--no-compile", wheel)
    return environment / "bin/pybpf"


def test_what_is_in_the_wheel(wheel: Path) -> None:
    """Every module, object and header of the package; pages and completion as they are now."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        data = f"{wheel.name.split('-py3')[0]}.data/data/share"
        pages = {
            f"{data}/man/man1/{name}": text for name, text in manpages.files(all_pages()).items()
        }
        pages[f"{data}/bash-completion/completions/pybpf"] = completion.bash(all_pages())
        for name, text in pages.items():
            assert archive.read(name).decode() == text, name
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        required = [
            line.partition(": ")[2]
            for line in archive.read(metadata).decode().splitlines()
            if line.startswith("Requires-Dist")
        ]
    wanted = {
        str(path.relative_to(ROOT))
        for kind in ("*.py", "*.h", "*.bpf.o", "py.typed")
        for path in (ROOT / "pybpf").rglob(kind)
    }
    assert wanted <= names
    others = {n for n in names - wanted if ".dist-info/" not in n}
    assert others == set(pages)
    assert len(pages) == len(TOOLS) + 2
    plain = [r for r in required if "extra ==" not in r]
    assert plain == ["capstone>=5", "psutil>=5.9", "pyroute2>=0.7"]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The guest's Python with the wheel installed: what a user of Debian would have."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    install(GUEST_PYTHON, folder, wheel)
    (packages,) = folder.glob("lib/python3*/site-packages")
    # pip compiles all packages. Here only those that the guest imports are, which is faster.
    used = [packages / name for name in ("pybpf", "capstone")]
    run(folder / "bin/python", "-m", "compileall", "-q", *used)
    yield folder


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[] if row == "latest" else pytest.mark.long) for row in rows.names()],
)
def test_retsnoop_out_of_the_wheel(environment: Path, row: str, tmp_path: Path) -> None:
    """On each row, away from any checkout: the failing system call and its error are shown."""
    trace = "pybpf retsnoop -e '*_sys_rmdir' -e do_rmdir -- rmdir /no/such/dir"
    if row == "latest":  # the kernel renamed do_rmdir
        trace = trace.replace("do_rmdir", "filename_rmdir")
    script = f"""
        rm -rf /src  # the checkout: nothing but the environment is left
        mkdir -p {environment.parent} && ln -s $IN {environment}
        cd / && export PATH={environment}/bin:$PATH
        python -c 'import pybpf; print(pybpf.__file__)'
        pybpf --version
        {trace}
        echo status $?
        pybpf trampolines plan fexit.multi/vfs_read && pybpf features >/dev/null && echo fine
    """
    out = tmp_path / "out"
    done = run(
        *(ROOT / "vagrant/vm", "--kernel", row, "--in", environment, "--out", out),
        *("--", "sh", "-c", script),
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{environment}/lib/python3")
    assert lines[1].startswith("pybpf 0.")
    assert "[-ENOENT]" in done.stdout and "rmdir" in done.stdout
    assert "status 1" in lines and lines[-1] == "fine"


@pytest.mark.parametrize("version", PYTHONS)
def test_other_pythons(version: str, wheel: Path, tmp_path: Path) -> None:
    """pip install, then every tool's --help; an object is read; completion and man are there."""
    command = install(PYTHONS[version], tmp_path / "env", wheel)
    environment = {"PATH": f"{command.parent}:{os.defpath}", "HOME": str(tmp_path)}

    def pybpf(*words: str) -> str:
        return run(command, *words, env=environment, cwd=tmp_path).stdout

    assert "retsnoop" in pybpf("--help")
    for tool in TOOLS:
        assert pybpf(tool.name, "--help").lower().startswith("usage: pybpf " + tool.name)
    shown = pybpf("obj", "inspect", str(ROOT / "tests/data/multi.bpf.o"))
    assert "fexit.multi" in shown
    btf = tmp_path / "vmlinux.btf"
    btf.write_bytes(
        gzip.decompress((ROOT / "tests/data/vmlinux-6.12.107-cloud-amd64.btf.gz").read_bytes())
    )
    assert "STRUCT 'task_struct'" in pybpf("btf", "find", "task_struct", str(btf))
    share = tmp_path / "env/share"
    assert (share / "man/man1/pybpf-retsnoop.1").read_text() == pybpf("man", "retsnoop")
    script = share / "bash-completion/completions/pybpf"
    assert script.read_text() == pybpf("completion", "bash")
    module = run(command.parent / "python", "-m", "pybpf", "--version", env=environment, cwd="/")
    assert module.stdout == pybpf("--version")
