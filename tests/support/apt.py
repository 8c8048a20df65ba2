"""Get Debian packages of another suite without touching the machine's apt state.

The mirror comes from the machine's own sources, so no host name is written
here. Lists and packages are kept in a folder of the caller.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class AptError(Exception):
    """Report that a package could not be fetched. Says which, and what apt answered."""


def mirror() -> str:
    """Find the URI of the machine's Debian archive.

    :raises AptError: no source lists component main of a Debian release
    """
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for path in files:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        for stanza in re.split(r"\n\s*\n", text) if path.suffix == ".sources" else []:
            fields = dict(re.findall(r"^(\S+):[ \t]*(.*)$", stanza, re.MULTILINE))
            uri = _debian(fields.get("URIs", ""), fields.get("Suites", ""), "main")
            if uri and "main" in fields.get("Components", "").split():
                return uri
        for line in text.splitlines() if path.suffix != ".sources" else []:
            words = re.sub(r"\[.*?\]", "", line).split()
            if len(words) > 3 and words[0] == "deb" and "main" in words[3:]:
                uri = _debian(words[1], words[2], "main")
                if uri:
                    return uri
    raise AptError("no Debian archive among the machine's apt sources")


def _debian(uris: str, suites: str, _component: str) -> str:
    # The main archive's path ends in /debian; security and add-on archives are elsewhere.
    for uri in uris.split():
        if uri.rstrip("/").endswith("/debian") and suites:
            return uri
    return ""


def download(packages: list[str], suite: str, work: Path) -> list[Path]:
    """Fetch packages into `work` and return their .deb files.

    :raises AptError: apt-get failed
    """
    for folder in ("lists/partial", "cache/archives/partial", "parts", "debs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "parts" / "suite.sources").write_text(
        f"Types: deb\nURIs: {mirror()}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": work / "parts",
        "Dir::State::Lists": work / "lists",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    command = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    for arguments in (["update"], ["download", *packages]):
        done = subprocess.run(
            [*command, *arguments],
            cwd=work / "debs",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise AptError(f"apt-get {' '.join(arguments)}: {done.stderr.strip()}")
    return sorted((work / "debs").glob("*.deb"))
