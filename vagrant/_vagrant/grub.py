"""In the machine: install a row's kernel and make it the one that grub boots, on any Debian box.

    python3 -B vagrant/_vagrant/grub.py ROW

The metapackage has one name in all suites. So the row's real package and version are looked up as
in `vagrant/vm`, in a private list of that row's suites, and apt then installs files. The
default is the full menu id of the kernel, submenu first, because grub takes a bare release, which
begins with a digit, for the number of an entry. If another kernel runs now, /run/pybpf-reboot is
left.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vagrant._vm import kernels
from vagrant._vm.apt import Suite
from vagrant._vm.cache import VmError

__all__ = ["main", "menu_id"]

CHOICE = Path("/etc/default/grub.d/pybpf.cfg")
KERNEL = Path("/etc/pybpf-kernel")  # the release that should run
REBOOT = Path("/run/pybpf-reboot")
MENU = Path("/boot/grub/grub.cfg")
ENTRY = re.compile(r"^\s*(menuentry|submenu) .*?\$menuentry_id_option '([^']+)' *\{", re.M)


def menu_id(menu: str, release: str) -> str | None:
    """Find GRUB_DEFAULT for `release`: "SUBMENU>ENTRY", or "ENTRY" if it is in no submenu.

    :param menu: text of a grub.cfg written by grub-mkconfig
    """
    submenu = ""
    for kind, name in ENTRY.findall(menu):
        if kind == "submenu":
            submenu = name
        elif name.startswith(f"gnulinux-{release}-advanced-"):
            return f"{submenu}>{name}" if submenu else name
    return None


def installed(row: kernels.Row) -> str | None:
    """Return the release of the row's kernel if the box came with one."""
    wanted = re.compile(r"([7-9]|\d\d)\." if row.name == "latest" else re.escape(row.name) + r"\.")
    found = [
        path.name.removeprefix("vmlinuz-")
        for path in sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"))
        if wanted.match(path.name.removeprefix("vmlinuz-"))
    ]
    return found[-1] if found else None


def parts(fields: dict[str, str]) -> list[str]:
    """List the packages that a kernel is split into, from the control fields of one of them."""
    return re.findall(r"\b(linux-(?:base|binary|modules)-\d[a-z0-9.+-]*) \(=", _depends(fields))


def least_base(fields: dict[str, str]) -> str | None:
    """Return the version of linux-base that a kernel's package needs. Only its suite may have
    it."""
    found = re.search(r"\blinux-base \(>= ([^)]+)\)", _depends(fields))
    return found[1] if found else None


def _depends(fields: dict[str, str]) -> str:
    return f"{fields.get('Pre-Depends', '')}, {fields.get('Depends', '')}"


def has_base(least: str) -> bool:
    """Tell whether the machine's linux-base is new enough."""
    query = ["dpkg-query", "-W", "-f", "${Version}", "linux-base"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    compare = ["dpkg", "--compare-versions", done.stdout or "0", "ge", least]
    return subprocess.run(compare, check=False).returncode == 0


def install(row: kernels.Row) -> str:
    """Install the row's kernel and return its release."""
    subprocess.run(["apt-get", "-q", "update"], check=False)  # makes the mirrors known
    suite = Suite(row.name, row.suites)
    suite.update()
    real = kernels.dependency(suite.show(row.package), r"linux-image-\d.*")
    if not real:
        raise VmError(f"{row.package} of row {row.name} depends on no linux-image package")
    image = real[0]
    needed: dict[str, str] = {}  # package -> version
    pending = [image]
    while pending:
        package = pending.pop()
        fields = suite.show(package)
        if package in needed or "Version" not in fields:
            continue
        needed[package] = fields["Version"]
        pending += parts(fields)
        if (least := least_base(fields)) and not has_base(least):
            pending.append("linux-base")
    with tempfile.TemporaryDirectory(prefix="pybpf-kernel-") as name:
        files = [suite.download(p, version, Path(name)) for p, version in needed.items()]
        Path(name).chmod(0o755)
        command = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600"]
        command += ["-o", "APT::Sandbox::User=root", "install", "--no-install-recommends"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run([*command, *files], env=environment, check=False)
        if done.returncode:
            raise VmError(f"apt-get could not install {', '.join(needed)}, see above")
    return image.removeprefix("linux-image-")


def choose(release: str) -> None:
    """Make grub boot `release` by default."""
    before = CHOICE.read_text() if CHOICE.exists() else ""
    for _ in range(2):  # the first menu gives the id
        subprocess.run(["update-grub"], check=True, stderr=subprocess.DEVNULL)
        name = menu_id(MENU.read_text(), release)
        if not name:
            raise VmError(
                f"grub's menu has no entry for {release}: is /boot/vmlinuz-{release} there?"
            )
        text = f"# Written by pybpf's vagrant/provision.sh.\nGRUB_DEFAULT='{name}'\n"
        if text == before:
            return
        CHOICE.parent.mkdir(exist_ok=True)
        CHOICE.write_text(text)
        before = text


def main(arguments: list[str]) -> int:
    """Install and choose the row's kernel. Return 0 if the next boot is that kernel."""
    row = kernels.rows()[arguments[0]]
    try:
        release = installed(row) or install(row)
        choose(release)
    except VmError as error:
        print(f"grub: {error}", file=sys.stderr)
        return 1
    KERNEL.write_text(f"{release}\n")
    if os.uname().release == release:
        REBOOT.unlink(missing_ok=True)
    else:
        print(f"grub: row {row.name}: {release} from the next boot on")
        REBOOT.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
