"""Get packages of another Debian suite without touching the machine's own apt.

The mirrors are those in the machine's apt sources. The suite gets its own sources list, package
lists and cache, in a directory below our cache. apt checks the signatures as always.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import cache
from .cache import VmError

__all__ = ["Suite", "mirrors"]

KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Return the standard output of a command. Raise VmError with its last lines if it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise VmError(f"{command[0]} is missing: a Debian host is needed") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise VmError(f"{' '.join(command[:1])} failed ({done.returncode}): {said}")
    return done.stdout


def codename() -> str:
    """Return the host's release: "bookworm", "trixie"."""
    text = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=\"?(\w+)", text, re.M)
    if not found:
        raise VmError("/etc/os-release has no VERSION_CODENAME: a Debian host is needed")
    return found[1]


def mirrors() -> tuple[str, str | None]:
    """Find the URIs of the main and the security archive in the machine's apt settings."""
    targets = run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(RELEASE) $(COMPONENT) $(REPO_URI)",
            "Created-By: Packages",
        ]
    )
    host = codename()
    uris: dict[str, str] = {}
    for line in targets.splitlines():
        release, component, uri = line.split(maxsplit=2)
        if component == "main":
            uris.setdefault(release, uri)
    if host not in uris:
        raise VmError(f"apt's sources list no {host!r} main archive; run apt-get update first")
    return uris[host], uris.get(f"{host}-security")


class Suite:
    """Run apt-get on a few suites, with all its state in `directory`."""

    def __init__(self, name: str, suites: Sequence[str]) -> None:
        self.directory = cache.root() / "apt" / name
        for part in ("lists/partial", "archives/partial", "parts"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        main, security = mirrors()
        signed = next((f"[signed-by={k}] " for k in KEYRINGS if os.path.exists(k)), "")
        lines = []
        for suite in suites:
            uri = security if suite.endswith("-security") else main
            if uri:
                lines.append(f"deb {signed}{uri} {suite} main\n")
        cache.write_atomic(self.directory / "sources.list", "".join(lines).encode())
        at = self.directory
        self.options = [
            "-q",
            *("-o", f"Dir::Etc::SourceList={at}/sources.list"),
            *("-o", f"Dir::Etc::SourceParts={at}/parts"),
            *("-o", f"Dir::Etc::PreferencesParts={at}/parts"),
            *("-o", f"Dir::Etc::Preferences={at}/none"),
            *("-o", f"Dir::State::Lists={at}/lists"),
            *("-o", f"Dir::Cache={at}"),
            *("-o", f"Dir::Cache::Archives={at}/archives"),
            *("-o", f"Dir::State={at}"),
            *("-o", "Dir::State::Status=/dev/null"),
            *("-o", "APT::Architecture=amd64"),
            *("-o", "APT::Architectures=amd64"),
            *("-o", "APT::Sandbox::User=root"),
            *("-o", "Acquire::Languages=none"),
            *("-o", "Acquire::Retries=3"),
        ]

    def update(self) -> None:
        """Fetch the suites' package lists."""
        run(["apt-get", *self.options, "-o", "APT::Update::Error-Mode=any", "update"])

    def show(self, package: str) -> dict[str, str]:
        """Return the candidate's control fields."""
        text = run(["apt-cache", *self.options, "show", "--no-all-versions", package])
        return dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", text, re.M))

    def closure(self, package: str) -> dict[str, str]:
        """Return the versions of the package and all its dependencies, as on an empty machine."""
        options = [*self.options, "--simulate", "--no-install-recommends"]
        text = run(["apt-get", *options, "install", package])
        found = dict(re.findall(r"^Inst (\S+) \((\S+)", text, re.M))
        if package not in found:
            raise VmError(f"apt-get would not install {package}: {text.strip()[-2000:]}")
        return found

    def download(self, package: str, version: str, into: Path) -> Path:
        """Download one .deb. apt checks it against the signed lists."""
        run(["apt-get", *self.options, "download", f"{package}={version}"], cwd=into)
        found = sorted(into.glob(f"{package}_*.deb"))
        if len(found) != 1:
            raise VmError(f"apt-get download {package}={version} left {len(found)} files")
        return found[0]
