"""Build the guest's userland: busybox, the host's Debian Python and our Python dependencies, as
one compressed initramfs.

The same image serves every kernel row. It needs no root to build and no kernel modules to boot.
It is cached under a name made from everything that goes into it. The checkout is not in it: each
run adds a small archive of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from . import cache, cpio
from .cache import VmError

__all__ = ["image", "requirements"]

CHECKOUT = Path(__file__).parent.parent.parent
PYTHON = "/usr/bin/python3"  # Debian's own: a relocated or user-built one may miss its libraries
KEPT_IMAGES = 4
SOURCE = "/src"  # path of the checkout in the guest
SKIP_STDLIB = re.compile(
    r"__pycache__|test|tests|idlelib|idle_test|tkinter|lib2to3|ensurepip|turtledemo|pydoc_data|config-.*|"
    r"dist-packages|site-packages|.*\.a"
)


def requirements() -> list[str]:
    """Read from `pyproject.toml` what the package needs to run and to be tested."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    return [*project["project"]["dependencies"], *project["dependency-groups"]["test"]]


def image() -> Path:
    """Return the image file. Build it first if its inputs have changed."""
    python = _python_facts()
    busybox = shutil.which("busybox")
    if not busybox or not shutil.which("zstd"):
        raise VmError("busybox and zstd are needed: run vagrant/host.sh vm")
    here = Path(__file__).parent
    name = cache.digest(
        json.dumps([requirements(), python, _identity(busybox)]),
        *((here / f).read_bytes() for f in ("image.py", "cpio.py")),
        (CHECKOUT / "vagrant/guest/init").read_bytes(),
    )
    target = cache.root() / "images" / name
    if not (target / "image").is_file():
        with cache.locked():
            if not (target / "image").is_file():
                print("vm: building the guest image", file=sys.stderr, flush=True)
                with cache.staged(target) as work:
                    _build(work, python, Path(busybox))
                _prune(target.parent)
    os.utime(target / "image")  # for _prune: when it was last used
    return target / "image"


def _prune(images: Path) -> None:
    """Delete all but the few images that were used last."""
    by_age = sorted(images.glob("*/image"), key=lambda path: path.stat().st_mtime)
    for old in by_age[:-KEPT_IMAGES]:
        shutil.rmtree(old.parent, ignore_errors=True)


def _identity(path: str) -> list[str | int]:
    """Return enough to notice that a host file was upgraded."""
    status = os.stat(path)
    return [os.path.realpath(path), status.st_size, status.st_mtime_ns]


def _python_facts() -> dict[str, object]:
    """Ask the host's Debian Python for its paths."""
    if not os.path.exists(PYTHON):
        raise VmError(f"{PYTHON} is missing: run vagrant/host.sh python")
    code = (
        "import json, site, sys, sysconfig; print(json.dumps({"
        "'version': sys.version, 'info': list(sys.version_info[:2]),"
        "'stdlib': sysconfig.get_path('stdlib'), 'site': site.getsitepackages()[0]}))"
    )
    text = subprocess.run([PYTHON, "-I", "-c", code], check=True, capture_output=True).stdout
    facts: dict[str, object] = json.loads(text)
    if facts["info"] < [3, 11]:  # type: ignore[operator]
        raise VmError(f"{PYTHON} is {facts['version']}: Python 3.11 or newer is needed")
    facts["binary"] = _identity(PYTHON)
    return facts


def _libraries(files: Iterable[Path], inside: Path) -> dict[str, Path]:
    """Find the host libraries that files need, by the loader's path. `inside` is the image's
    tree."""
    found: dict[str, Path] = {}
    text = subprocess.run(
        ["ldd", *files], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    ).stdout
    for line in text.splitlines():
        match = re.match(r"\s+(?:\S+ => )?(/\S+) \(0x", line)
        if match:
            path = Path(match[1])
            if path.is_relative_to(inside):
                continue  # a wheel's own library is already in the image
            found[os.path.join(os.path.realpath(path.parent), path.name)] = path
    return found


def _wheels(into: Path, scratch: Path) -> None:
    """Install our Python dependencies into a directory, with the pip of a temporary environment."""
    venv = scratch / "venv"
    try:
        subprocess.run(
            [PYTHON, "-m", "venv", venv], check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
    except subprocess.CalledProcessError as error:
        raise VmError(
            f"{PYTHON} -m venv failed: run vagrant/host.sh python\n{error.stderr}"
        ) from None
    command = [
        str(venv / "bin/python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "-q",
    ]
    done = subprocess.run(
        [*command, "--no-compile", "--only-binary=:all:", "--target", into, *requirements()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise VmError(f"pip could not get the guest's packages: {done.stderr[-2000:]}")


def _rewrite_asserts(packages: Path, scratch: Path) -> None:
    """Let pytest rewrite plugins now. Otherwise every start of an emulated guest does it (7 s).

    The byte code names the source's time, which is 0 in the guest.
    """
    for source in packages.rglob("*.py"):
        os.utime(source, (0, 0))
    tests = scratch / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text(
        "import hypothesis, hypothesis.stateful, hypothesis.strategies\n"
        "@hypothesis.given(hypothesis.strategies.binary())\ndef test_it(x): pass\n"
    )
    subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        env={**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": ""},
        cwd=tests,
        capture_output=True,
        check=False,  # a failure only costs time
    )


def _build(work: Path, python: dict[str, object], busybox: Path) -> None:
    stdlib, site = str(python["stdlib"]), str(python["site"])
    with tempfile.TemporaryDirectory(dir=work) as name:
        scratch = Path(name)
        root = scratch / "root"
        packages = root / site.lstrip("/")
        packages.mkdir(parents=True)
        _wheels(packages, scratch)
        (packages / "pybpf-checkout.pth").write_text(SOURCE + "\n")
        shutil.copytree(
            stdlib,
            root / stdlib.lstrip("/"),
            symlinks=False,
            ignore_dangling_symlinks=True,
            dirs_exist_ok=True,
            ignore=lambda at, names: {n for n in names if SKIP_STDLIB.fullmatch(n)},
        )
        compile_all = ["-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"]
        subprocess.run(
            [PYTHON, *compile_all, "-s", root, "-p", "/", root],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )  # some packages have test files that do not compile
        _rewrite_asserts(packages, scratch)
        binaries = [Path(os.path.realpath(PYTHON)), *root.rglob("*.so"), *root.rglob("*.so.*")]
        libraries = _libraries([*binaries, busybox], root)
        with open(scratch / "cpio", "wb") as out:
            writer = cpio.Writer(out)
            for directory in (
                "dev",
                "proc",
                "sys",
                "run",
                "root",
                "etc",
                "out",
                "usr/bin",
                "usr/lib",
            ):
                writer.directory(directory)
            writer.directory("tmp", 0o1777)
            for link in ("bin", "sbin", "lib", "lib64"):
                writer.directory(f"usr/{link}")
                writer.symlink(link, f"usr/{link}")
            writer.character_device("dev/console", 5, 1)
            writer.character_device("dev/null", 1, 3, 0o666)
            writer.copy(CHECKOUT / "vagrant/guest/init", "init")
            writer.file("usr/bin/busybox", busybox.read_bytes(), 0o755)
            writer.file("usr/bin/python3", Path(os.path.realpath(PYTHON)).read_bytes(), 0o755)
            writer.symlink(f"usr/bin/{os.path.basename(os.path.realpath(PYTHON))}", "python3")
            writer.symlink("usr/bin/python", "python3")
            for place, library in libraries.items():
                writer.file(place, library.read_bytes(), 0o755)
            writer.file(
                "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
            )
            writer.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
            writer.file("etc/hosts", b"127.0.0.1 localhost vm\n")
            cpio.add_tree(writer, root / "usr", "usr")
            writer.close()
        subprocess.run(
            ["zstd", "-q", "-9", "-T0", scratch / "cpio", "-o", work / "image"],
            check=True,
            stdin=subprocess.DEVNULL,
        )
