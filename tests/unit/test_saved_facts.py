"""Files of saved facts: one reader, one error that names the file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.errors import BpfError
from pybpf.features import Answer, Feature, FeatureSet, Support
from pybpf.kernel import ftrace
from pybpf.kernel.host import Facts
from pybpf.tools import features, inputs
from pybpf.tools.trampolines import cli as trampolines
from tests.support.savedfacts import saved_facts

COMMANDS = [
    (trampolines, ["plan", "fexit.multi/vfs_*"]),
    (trampolines, ["why", "vfs_read"]),
    (features, []),
]


@pytest.mark.parametrize(("tool", "arguments"), COMMANDS)
@pytest.mark.parametrize(
    "content",
    [b"", b"root:x:0:0::/root:/bin/sh\n", b"\x7fELF\x02\x01\xff\xfe", b"[]", b'{"format": 1}'],
)
def test_a_file_that_is_something_else(
    tool: object,
    arguments: list[str],
    content: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 1 and one line: the file, what it should be, and what is wrong."""
    path = tmp_path / "passwd"
    path.write_bytes(content)
    assert tool.main([*arguments, "--facts", str(path)]) == 1  # type: ignore[attr-defined]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: not a file that features --save wrote: " in line


@pytest.mark.parametrize(("tool", "arguments"), COMMANDS)
def test_a_file_that_is_not_there(
    tool: object, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same words in every tool."""
    assert tool.main([*arguments, "--facts", "/no/such/file"]) == 1  # type: ignore[attr-defined]
    assert capsys.readouterr().err.endswith(": /no/such/file: No such file or directory\n")


def test_saving_without_traceable_functions_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where tracefs cannot be read the file is written, with a warning that names the reason."""

    def refuse() -> None:
        raise BpfError(2, "looking for tracefs", "not mounted here")

    data = saved_facts()
    del data["ftrace"]
    facts = Facts.from_json(data | {"ftrace_error": "placeholder"})
    facts.__dict__["ftrace_error"] = ""  # as if it were the running kernel
    monkeypatch.setattr(ftrace, "open_lists", refuse)
    monkeypatch.setattr(inputs, "Facts", lambda: facts)
    path = tmp_path / "facts.json"
    assert features.main(["--save", str(path)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"features.py: {path}: plan and why cannot use it")
    assert "looking for tracefs" in line
    assert "not mounted here" in json.loads(path.read_text())["ftrace_error"]


def test_a_save_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file whole, nothing beside it, and an error that names it."""
    facts = Facts.from_json(saved_facts())
    path = tmp_path / "x.facts"
    path.write_text("old")

    def full(*names: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(features.os, "replace", full)
        with pytest.raises(OSError, match="No space") as caught:
            features._save(facts, path)
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.facts"]
    assert path.read_text() == "old"
    path.chmod(0o644)
    mask = os.umask(0)
    try:
        features._save(facts, path)
    finally:
        os.umask(mask)
    # It holds addresses of the kernel: for its owner alone, whatever the umask is.
    assert path.stat().st_mode & 0o777 == 0o600
    assert Facts.from_json(json.loads(path.read_text())).release == facts.release
    link = tmp_path / "link"
    link.symlink_to(path)
    features._save(facts, link)
    assert link.is_symlink()
    with pytest.raises(OSError, match=r"/dev/full"):
        features._save(facts, Path("/dev/full"))
    with pytest.raises(SystemExit):
        features.main(["--save", "-"])


@pytest.mark.parametrize(
    ("release", "said"), [("6.18.1", " (perhaps built without CONFIG_FPROBE)"), ("5.4.0", "")]
)
def test_the_table_says_what_a_new_kernel_perhaps_lacks(release: str, said: str) -> None:
    """The column SINCE alone would make it look too old."""
    no = Answer(Support.UNSUPPORTED, "BPF_LINK_CREATE: EOPNOTSUPP", 95)
    facts: Any = SimpleNamespace(
        features=FeatureSet({Feature.KPROBE_MULTI: no}),
        release=release,
        probes=SimpleNamespace(inconclusive={}),
    )
    rows = {row[0]: row for row in features.feature_rows(facts)}
    assert rows["kprobe.multi"][1:] == ("unsupported", "5.18", no.why + said)
    assert rows["kprobe"][1] == "unknown"
