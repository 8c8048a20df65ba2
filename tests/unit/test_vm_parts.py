"""The parts of vagrant/vm and of the guest runner that need no guest."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import rows
from tests.support.guests import Guests, Key, Lost, pack, unpack
from tests.support.matrix import guest_of, without_row
from tests.support.results import Results
from vagrant._vm import cache, checkout, cli, cpio, extras, image, kernels, qemu


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYBPF_CACHE", str(tmp_path / "cache"))
    return cache.root()


# -- cpio


def read_newc(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (mode, contents); as the kernel's initramfs documentation describes the form."""
    found = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = numbers[1], numbers[6], numbers[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        at = (at + 110 + length + 3) & ~3
        if name == "TRAILER!!!":
            assert len(data) % 512 == 0
            return found
        assert name not in found, f"{name} twice"
        found[name] = (mode, data[at : at + size])
        at = (at + size + 3) & ~3


def test_cpio_archive_reads_back(tmp_path: Path) -> None:
    """Files, modes, links and directories survive, and a directory comes before what is in it."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/script").write_bytes(b"#!x\n")
    (tmp_path / "d/script").chmod(0o755)
    (tmp_path / "d/link").symlink_to("script")
    out = io.BytesIO()
    writer = cpio.Writer(out)
    cpio.add_tree(writer, tmp_path / "d", "a/b")
    writer.file("a/odd", b"12345")
    writer.character_device("dev/null", 1, 3, 0o666)
    writer.close()
    found = read_newc(out.getvalue())
    assert list(found)[:2] == ["a", "a/b"]
    assert found["a/b/script"] == (stat.S_IFREG | 0o755, b"#!x\n")
    assert found["a/b/link"] == (stat.S_IFLNK | 0o777, b"script")
    assert found["a/odd"][1] == b"12345"
    assert stat.S_ISCHR(found["dev/null"][0])


# -- cache


def test_a_staged_directory_appears_whole_or_not_at_all(own_cache: Path) -> None:
    """A failure while building leaves neither the entry nor its remains."""
    with pytest.raises(OSError, match="disk full"), cache.staged(own_cache / "x" / "y") as work:
        (work / "half").write_text("")
        raise OSError("disk full")
    assert list((own_cache / "x").iterdir()) == []
    with cache.staged(own_cache / "x" / "y") as work:
        (work / "whole").write_text("1")
    assert (own_cache / "x/y/whole").read_text() == "1"


def test_the_lock_admits_one(own_cache: Path) -> None:
    """Two runs do not build one entry at the same time."""
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with cache.locked():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_cache_that_cannot_be_made_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a user without a home: says which folder and which variable moves it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYBPF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(cache.VmError, match=r"file/cache: Not a directory; set PYBPF_CACHE"):
        cache.root()


def test_digest_does_not_confuse_neighbours() -> None:
    """Where one part ends matters."""
    assert cache.digest("ab", "c") != cache.digest("a", "bc")


# -- kernels


def test_rows_are_the_ones_the_design_names() -> None:
    """Three rows in order; each kernel's gaps are words that features know."""
    from pybpf.features import Feature

    assert list(kernels.rows()) == rows.names() == ["6.1", "6.12", "latest"]
    words = {feature.value for feature in Feature}
    for name in rows.names():
        assert rows.lacks(name) <= words


def test_modules_dep_lists_needs_deepest_last(tmp_path: Path) -> None:
    """modprobe loads a line's modules from the end, so what others need must come after them."""
    base = tmp_path / "tree/lib/modules/1/kernel"
    base.mkdir(parents=True)
    for name, needs in {"a": "b,c", "b": "c", "c": "", "d": "a"}.items():
        (base / f"{name}.ko").write_bytes(b"\0depends=%s\0" % needs.encode())
    kernels._take_modules(tmp_path / "tree", "1", tmp_path / "out", ["d"])
    lines = (tmp_path / "out/modules.dep").read_text().splitlines()
    assert lines == ["a.ko: b.ko c.ko", "b.ko: c.ko", "c.ko:", "d.ko: a.ko b.ko c.ko"]


def test_a_module_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A row that cannot offer what rows.json asks for does not start."""
    (tmp_path / "lib/modules/1").mkdir(parents=True)
    with pytest.raises(cache.VmError, match="no module veth"):
        kernels._take_modules(tmp_path, "1", tmp_path / "out", ["veth"])


def test_dependency_of_a_metapackage() -> None:
    """The first dependency of the right name, with its version if it is an exact one."""
    fields = {
        "Depends": "dracut | x, linux-base (>= 4), linux-binary-7.3.4+deb13-amd64 (= 7.3.4-1)"
    }
    found = kernels.dependency(fields, r"linux-binary-\d.*")
    assert found == ("linux-binary-7.3.4+deb13-amd64", "7.3.4-1")
    assert kernels.dependency(fields, r"linux-image-\d.*") is None


# -- qemu


@pytest.mark.parametrize(
    ("said", "fine"),
    [("QEMU emulator version 7.2.22 (Debian)", False), ("QEMU emulator version 10.0.2", True)],
)
def test_an_old_qemu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, fine: bool
) -> None:
    """QEMU 7 corrupts 6.12 guests, so it must never be used silently."""
    tool = tmp_path / "qemu-system-x86_64"
    tool.write_text(f"#!/bin/sh\necho '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if fine:
        assert qemu.qemu_command() == str(tool)
    else:
        with pytest.raises(cache.VmError, match="too old"):
            qemu.qemu_command()


@pytest.mark.parametrize(
    ("data", "kept"), [(b"abc", 0), (b"ab\0", 1), (b"\0TO", 3), (b"\0TOKEN", 6), (b"\0X", 0)]
)
def test_only_a_possible_marker_is_held_back(data: bytes, kept: int) -> None:
    """Output streams at once unless its end could be the marker's beginning."""
    assert qemu._overlap(data, b"\0TOKEN ") == kept


def test_what_the_kernel_complains_of_is_found() -> None:
    """Warnings are shown even when the command succeeds."""
    console = b"[ 1.0] fine\r\n[ 2.0] WARNING: CPU: 0 PID: 1 at x.c:1\r\n"
    assert qemu.complaints(console) == ["[ 2.0] WARNING: CPU: 0 PID: 1 at x.c:1"]


# -- results


def test_an_archive_cannot_reach_outside(tmp_path: Path) -> None:
    """A hostile or broken guest writes below DIR only, and not through links."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name in ("../evil", "/abs", "good/file"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    cli.unpack(data.getvalue(), tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "out",
        "out/good",
        "out/good/file",
    ]
    assert not Path("/abs").exists()


def test_checkout_files_are_those_of_git() -> None:
    """Tracked and new files go to the guest, ignored ones do not."""
    names = {str(name) for name in checkout.files()}
    assert {"pyproject.toml", "vagrant/vm", "tests/unit/test_vm_parts.py"} <= names
    assert not any(name.startswith((".venv/", ".git/")) or "__pycache__" in name for name in names)


def test_byte_code_comes_along_and_is_made_once(own_cache: Path) -> None:
    """The guest need not compile; the host compiles a content once."""
    source = (Path("pybpf/errors.py"), (rows.ROOT / "pybpf/errors.py").read_bytes())
    found = checkout._byte_code([source], "/src")
    ((name, code),) = found.items()
    assert str(name.parent) == "pybpf/__pycache__"
    assert b"/src/pybpf/errors.py" in code
    (kept,) = [p for p in (own_cache / "pyc").rglob("*") if p.is_file()]
    made = kept.stat().st_mtime_ns
    assert checkout._byte_code([source], "/src") == found
    assert kept.stat().st_mtime_ns == made


def test_files_that_another_run_takes_away(tmp_path: Path) -> None:
    """Guests that start together prune one directory; what is gone by then is no fault."""
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")  # listed, but not there
    old = tmp_path / "old"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    checkout._prune(tmp_path)
    assert not old.exists()


def test_rewritten_tests_come_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The guest's pytest reuses what the host's rewrote, unless the Python differs."""
    monkeypatch.setattr(checkout, "CHECKOUT", tmp_path)
    monkeypatch.setattr(checkout, "_tag", lambda: "cpython-311")
    cached = tmp_path / "tests/__pycache__"
    cached.mkdir(parents=True)
    for tag in ("311-pytest-9.2.0", "313-pytest-9.2.0", "311"):
        (cached / f"test_it.cpython-{tag}.pyc").write_bytes(tag.encode())
    found = checkout._rewritten([(Path("tests/test_it.py"), b""), (Path("pybpf/elf.py"), b"")])
    name = Path("tests/__pycache__/test_it.cpython-311-pytest-9.2.0.pyc")
    assert found == {name: b"311-pytest-9.2.0"}


def test_requirements_come_from_the_project_file() -> None:
    """The guest has what users and tests need, and no linters."""
    names = image.requirements()
    assert any(name.startswith("capstone") for name in names)
    assert any(name.startswith("pytest") for name in names)
    assert not any(name.startswith("mypy") for name in names)


# -- guests of a pytest session


@pytest.mark.parametrize(
    ("nodeid", "common"),
    [
        ("tests/live/test_x.py::test_a[6.12]", "tests/live/test_x.py::test_a"),
        ("tests/live/test_x.py::test_a[host-b-6]", "tests/live/test_x.py::test_a[b-6]"),
        ("tests/live/test_x.py::test_a[b-latest]", "tests/live/test_x.py::test_a[b]"),
        ("tests/unit/test_x.py::test_a", "tests/unit/test_x.py::test_a"),
    ],
)
def test_runs_of_one_test_share_a_name(nodeid: str, common: str) -> None:
    """That is how a test skipped on every kernel is noticed."""
    assert without_row(nodeid) == common


def fake_vm(tmp_path: Path, body: str) -> Path:
    """A stand-in for vagrant/vm: gets the tests' ids as `ids`, `run` counts the starts."""
    script = tmp_path / "vm"
    script.write_text(
        "#!/usr/bin/env python3\n"
        "import json, os, sys, pathlib\n"
        f"sys.path.insert(0, {str(rows.ROOT)!r})\n"
        "from tests.support.guests import unpack\n"
        "ids = unpack(sys.argv[sys.argv.index('tests.support.guest') + 1])\n"
        f"counter = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "run = int(counter.read_text()) + 1 if counter.exists() else 1\n"
        "counter.write_text(str(run))\n"
        "def say(event, nodeid, **more):\n"
        "    line = json.dumps({'event': event, 'nodeid': nodeid, **more})\n"
        "    print('\\x1e' + line, flush=True)\n"
        "def one(nodeid):\n"
        "    say('start', nodeid)\n"
        "    say('report', nodeid, report={'run': run})\n"
        "    say('finish', nodeid)\n" + body
    )
    script.chmod(0o755)
    return script


def asked(vm: Path, *nodeids: str) -> Guests:
    guests = Guests(jobs=1, timeout=60, vm=vm, results=Results(vm.parent / "results"))
    for nodeid in nodeids:
        guests.add(Key("6.1"), nodeid)
    guests.start()
    return guests


def test_reports_of_a_guest_arrive(tmp_path: Path) -> None:
    """Every test gets its own reports; ids survive the command line."""
    ids = ["f.py::a[6.1]", "f.py::b['x y' ]", "g.py::ü"]
    assert unpack(pack(ids)) == ids
    guests = asked(fake_vm(tmp_path, "for i in ids: one(i)\n"), *ids)
    assert [guests.wait(Key("6.1"), i) for i in ids] == [[{"run": 1}]] * 3
    guests.close()


def test_files_of_guests_arrive(tmp_path: Path) -> None:
    """What is left in $OUT is kept, also of a guest that dies; a row's older files are gone."""
    body = (
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1], 'kind', '6.1')\n"
        "out.mkdir(parents=True)\n"
        "(out / f'run{run}').write_text(str(run))\n"
        "if run == 1: say('start', ids[0]); sys.exit(125)\n"
        "for i in ids: one(i)\n"
    )
    guests = asked(fake_vm(tmp_path, body), "f.py::a", "f.py::b")
    root = guests.results.root
    for row in ("6.1", "6.12"):
        (root / "kind" / row).mkdir(parents=True)
        (root / "kind" / row / "older").touch()
    guests.wait(Key("6.1"), "f.py::b")
    guests.close()
    kept = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    assert kept == ["kind/6.1/run1", "kind/6.1/run2", "kind/6.12/older"]
    assert guests.results.of("kind") == [Path("kind/6.1/run1"), Path("kind/6.1/run2")]
    assert guests.results.of("other") == []


def test_a_guest_that_dies_fails_one_test_and_the_rest_go_on(tmp_path: Path) -> None:
    """The test it died in is lost, with the guest's last words; later ones run in a new guest."""
    body = (
        "for i in ids:\n"
        "    if i.endswith('bad'): say('start', i); print('last words'); sys.exit(125)\n"
        "    one(i)\n"
    )
    guests = asked(fake_vm(tmp_path, body), "f.py::a", "f.py::bad", "f.py::c")
    key = Key("6.1")
    assert guests.wait(key, "f.py::a") == [{"run": 1}]
    with pytest.raises(Lost, match=r"(?s)status 125.*running f.py::bad.*last words"):
        guests.wait(key, "f.py::bad")
    assert guests.wait(key, "f.py::c") == [{"run": 2}]
    guests.close()


def test_what_the_kernel_complains_of_is_kept_by_row(tmp_path: Path) -> None:
    """As `vagrant/vm` prints it after a run. The matrix makes a failed test of it."""
    body = (
        "for i in ids: one(i)\n"
        "print('vm: row 6.1: the kernel complained:\\n  | ! WARNING: at x', file=sys.stderr)\n"
    )
    guests = asked(fake_vm(tmp_path, body), "f.py::a")
    guests.wait(Key("6.1"), "f.py::a")
    guests.close()
    assert guests.complaints == {"6.1": ["WARNING: at x"]}


def test_a_complaint_of_the_kernel_fails_a_run_whose_tests_passed(tmp_path: Path) -> None:
    """It is counted and named among the failures, with its row and its line."""
    body = (
        "for i in ids:\n"
        "    report = {'$report_type': 'TestReport', 'nodeid': i, 'location': ['f.py', 1, i],\n"
        "              'keywords': {}, 'outcome': 'passed', 'longrepr': None, 'when': 'call',\n"
        "              'user_properties': [], 'sections': [], 'duration': 0.0}\n"
        "    say('start', i); say('report', i, report=report); say('finish', i)\n"
        "print('vm: row 6.1: the kernel complained:\\n  | ! WARNING: at x', file=sys.stderr)\n"
    )
    vm = str(fake_vm(tmp_path, body))
    session = (
        "import sys, pathlib, pytest\nfrom tests.support.guests import Guests\n"
        f"Guests.__init__.__kwdefaults__['vm'] = pathlib.Path({vm!r})\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--kernel=6.1', '-k', 'everyday',\n"
        "                      'tests/e2e/test_guest.py']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", session], cwd=rows.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "FAILED the kernel's log of row 6.1" in done.stdout
    assert "\nWARNING: at x\n" in done.stdout


@pytest.mark.parametrize("body", ["sys.exit(0)\n", "one(ids[0])\nsys.exit(0)\n", "boom\n"])
def test_a_guest_that_ran_nothing_is_a_failure(tmp_path: Path, body: str) -> None:
    """Whatever its status, a test without a report has not passed, and nothing waits for ever."""
    guests = asked(fake_vm(tmp_path, body), "f.py::a", "f.py::b")
    with pytest.raises(Lost):
        guests.wait(Key("6.1"), "f.py::b")
    guests.close()


def test_what_a_test_asks_of_its_guest_reaches_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row, clock, programs beside the usual ones, and the seed that random tests read."""
    monkeypatch.setenv("PYBPF_SEED", "12 34")
    argv = tmp_path / "argv"
    body = f"pathlib.Path({str(argv)!r}).write_text(json.dumps(sys.argv[1:]))\none(ids[0])\n"
    results = Results(tmp_path / "results")
    guests = Guests(jobs=1, timeout=60, vm=fake_vm(tmp_path, body), results=results)
    key = Key("6.12", icount=True, extras=("bpftrace",))
    guests.add(key, "f.py::a")
    assert guests.wait(key, "f.py::a") == [{"run": 1}]
    guests.close()
    given = json.loads(argv.read_text())
    at = given.index("--")
    options, command = given[:at], given[at + 1 :]
    assert options[:2] == ["--kernel", "6.12"]
    assert "--icount" in options
    assert options[options.index("--with") + 1] == "bpftrace"
    assert command[:4] == ["env", "PYBPF_SEED=12 34", "python3", "-m"]


def test_a_file_that_changes_the_kernel_has_a_guest_for_itself() -> None:
    """Tests of one such file share a guest, with nobody else."""

    def item(file: str, *marks: str) -> Any:
        return SimpleNamespace(
            path=Path(file),
            callspec=SimpleNamespace(params={"kernel_row": "6.1"}),
            iter_markers=lambda name: iter(()),
            get_closest_marker=lambda name: name if name in marks else None,
        )

    alone = guest_of(item("a.py", "own_guest"))
    assert alone == guest_of(item("a.py", "own_guest"))
    assert alone != guest_of(item("b.py", "own_guest"))
    assert guest_of(item("a.py")) == guest_of(item("b.py")) != alone


# -- extra programs


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is missing: vagrant/host.sh vm")
def test_an_extra_program_brings_its_own_loader_and_libraries(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From packages to archive, with this machine's `true` as the package."""

    class Suite:
        def __init__(self, name: str, suites: object) -> None:
            pass

        def update(self) -> None:
            pass

        def closure(self, package: str) -> dict[str, str]:
            return {package: "1:2.3-4"}

        def download(self, package: str, version: str, into: Path) -> Path:
            tree = tmp_path / "tree"
            for name in ("libc.so.6", "ld-linux-x86-64.so.2"):
                (tree / extras.LIBRARIES).mkdir(parents=True, exist_ok=True)
                data = Path("/lib/x86_64-linux-gnu", name).read_bytes()
                (tree / extras.LIBRARIES / name).write_bytes(data)
                (tree / extras.LIBRARIES / name).chmod(0o755)
            (tree / "usr/bin").mkdir(parents=True)
            (tree / "usr/bin/true").write_bytes(Path("/bin/true").read_bytes())
            (tree / "DEBIAN").mkdir()
            (tree / "DEBIAN/control").write_text(
                "Package: coreutils\nVersion: 1:2.3-4\nArchitecture: all\n"
                "Maintainer: Nobody <nobody@localhost>\nDescription: test\n"
            )
            command = ["dpkg-deb", "-b", tree, into / f"{package}_1.deb"]
            subprocess.run(command, check=True, capture_output=True)
            return into / f"{package}_1.deb"

    monkeypatch.setattr(extras.apt, "Suite", Suite)
    monkeypatch.setitem(extras.EXTRAS, "true", extras.Extra("coreutils", ("x",), "usr/bin/true"))
    made = extras.archive("true")
    assert made.parent.name == "1_2.3-4"
    monkeypatch.setattr(extras.apt, "Suite", None)  # nothing is fetched twice
    assert extras.archive("true") == made
    found = read_newc(
        subprocess.run(["zstd", "-dcq", made], check=True, capture_output=True).stdout
    )
    assert {"opt/true/ld.so", "opt/true/true", "opt/true/lib/libc.so.6"} <= found.keys()
    mode, script = found["usr/bin/true"]
    assert mode == stat.S_IFREG | 0o755
    assert b"/opt/true/ld.so" in script and b"--library-path /opt/true/lib" in script


def test_archives_of_a_run_begin_where_the_kernel_looks(tmp_path: Path) -> None:
    """An initramfs may be several archives, each aligned to four bytes."""
    (tmp_path / "modules").mkdir()
    for name, data in (("a", b"12345"), ("b", b"MORE")):
        (tmp_path / name).write_bytes(data)
    kernel = kernels.Kernel("6.1", "6.1.0", "1", tmp_path / "vmlinuz", tmp_path / "modules")
    path = tmp_path / "initrd"
    cli.write_initrd(path, [tmp_path / "a", tmp_path / "b"], ["true"], False, kernel)
    data = path.read_bytes()
    assert data.endswith(b"12345\0\0\0MORE")
    assert data.rindex(b"12345\0\0\0MORE") % 4 == 0


# -- the command line


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x"])
def test_a_time_limit_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything starts, status 2: such a run would never end, or not begin."""
    with pytest.raises(SystemExit) as exit_:
        cli.parse(["--timeout", text, "--", "true"])
    assert exit_.value.code == 2
    assert "usage: vagrant/vm" in capsys.readouterr().err
