"""Build the local box: a Debian disk with every row's kernel and all that the tests need, made
only from Debian's packages.

mmdebstrap installs Debian 13 and the kernels, the same releases that `vagrant/vm` boots, into a
directory. mke2fs copies that into the one partition of a disk file. The boot loader's two parts
are written before it. Nothing is mounted and no machine is started. The box is cached under a name
made from its inputs. Beside it are the kernels with their initial RAM disks, for a machine that
boots them directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from .._vm import apt, cache, kernels
from .._vm.cache import VmError

__all__ = ["NEEDED", "Box", "as_root", "box", "die_with_parent", "note"]

HERE = Path(__file__).parent
HOOKS = HERE.parent / "box"
USERLAND = "trixie"
DISK_SIZE = 4 << 30  # bytes; the file is sparse
SECTOR = 512
FIRST_SECTOR = 2048  # first sector of the partition
KEPT_BOXES = 2
# As in vagrant/vm, so that both give the same results for a kernel.
COMMAND_LINE = (
    "net.ifnames=0 console=ttyS0 loglevel=5 panic=0 oops=panic nowatchdog "
    "rcupdate.rcu_cpu_stall_suppress=1"
)
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "openssh-server", "sudo", "ca-certificates"),
    *("iproute2", "iputils-ping", "procps", "kmod", "rsync"),
    *("initramfs-tools", "zstd", "grub-pc-bin", "grub2-common"),
)
# The requirements of pyproject.toml, by their names on PyPI. provision.sh installs the same.
PYTHON_PACKAGES = {
    "capstone": "python3-capstone",
    "psutil": "python3-psutil",
    "pyroute2": "python3-pyroute2",
    "pytest": "python3-pytest",
    "hypothesis": "python3-hypothesis",
    "prometheus-client": "python3-prometheus-client",
}
KEYS = (  # places where versions of vagrant keep its well-known public key
    "/usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub",
    "/opt/vagrant/embedded/gems/**/keys/vagrant.pub",
)
NEEDED = ("mmdebstrap", "mke2fs", "qemu-img", "dpkg-deb")

_LIBC = ctypes.CDLL(None)


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """Describe a box that was built."""

    name: str  # vagrant's name for it
    file: Path
    boot: Path  # directory of vmlinuz-RELEASE and initrd.img-RELEASE
    sha256: str  # checksum of the file
    releases: dict[str, str]  # row -> kernel release


def note(text: str) -> None:
    """Print one line for the person at the terminal."""
    print(f"build-box: {text}", file=sys.stderr, flush=True)


def die_with_parent() -> None:
    """Have this new process killed when its parent ends."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def as_root(*command: str | Path) -> list[str]:
    """Return the command, with sudo if needed."""
    words = [str(word) for word in command]
    return words if os.geteuid() == 0 else ["sudo", "-E", *words]


def public_key() -> Path:
    """Find the public half of the key that vagrant logs in with."""
    for pattern in KEYS:
        for path in sorted(Path("/").glob(pattern[1:])):
            return path
    raise VmError("vagrant's public key was not found: run vagrant/host.sh vagrant")


def box(*, update: bool = False) -> Box:
    """Return the box. Build it if the cache has none for its inputs, or on `update`."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        raise VmError(f"{', '.join(missing)} missing: run vagrant/host.sh vagrant")
    rows = kernels.rows()
    found = {name: kernels.kernel(row, update=update) for name, row in rows.items()}
    name = cache.digest(
        json.dumps([[k.row, k.release, k.version] for k in found.values()]),
        json.dumps([PACKAGES, PYTHON_PACKAGES, COMMAND_LINE]),
        *(path.read_bytes() for path in (HERE / "box.py", *sorted(HOOKS.iterdir()))),
        public_key().read_bytes(),
    )
    home = cache.root() / "boxes"
    target = home / name
    if update or not (target / "facts.json").is_file():
        with cache.locked("box.lock"):
            if update or not (target / "facts.json").is_file():
                for left in home.glob(".*"):  # left by a build that was killed
                    subprocess.run(as_root("rm", "-rf", left), check=False)
                _build(target, found)
    cache.write_atomic(home / "current", name.encode() + b"\n")
    os.utime(target / "facts.json")  # for _prune: when it was last used
    _prune(home)
    facts = json.loads((target / "facts.json").read_text())
    return Box(
        facts["name"],
        target / "pybpf.box",
        target / "boot",
        facts["sha256"],
        facts["releases"],
    )


def _prune(home: Path) -> None:
    """Delete all but the boxes that were used last."""
    by_age = sorted(home.glob("*/facts.json"), key=lambda path: path.stat().st_mtime)
    for old in by_age[:-KEPT_BOXES]:
        shutil.rmtree(old.parent, ignore_errors=True)


def sources(rows: Sequence[kernels.Row]) -> tuple[str, str]:
    """Return sources.list for userland and kernels, and preferences that keep them apart."""
    main, security = apt.mirrors()
    signed = next((f"[signed-by={k}] " for k in apt.KEYRINGS if os.path.exists(k)), "")
    suites = [USERLAND, *(suite for row in rows for suite in row.suites)]
    lines = []
    for suite in dict.fromkeys(suites):
        uri = security if suite.endswith("-security") else main
        if uri:
            lines.append(f"deb {signed}{uri} {suite} main\n")
    pins = "Package: linux-base\nPin: release n=trixie-backports\nPin-Priority: 900\n"
    for suite in dict.fromkeys(suites):
        if suite.partition("-")[0] != USERLAND:  # only kernels, by their full names
            pins += f"\nPackage: *\nPin: release n={suite}\nPin-Priority: 1\n"
    return "".join(lines), pins


def run(what: str, command: Sequence[str], log: Path, **environment: str) -> None:
    """Run one step. If it fails, its last lines are the error's text."""
    with open(log, "wb") as file:
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                check=False,
            )
        except FileNotFoundError as error:
            raise VmError(f"{error.filename} is missing: run vagrant/host.sh vagrant") from None
    if done.returncode:
        said = log.read_text(errors="replace").strip().splitlines()[-15:]
        raise VmError("\n  | ".join([f"{what} failed with status {done.returncode}:", *said]))


def _build(target: Path, found: dict[str, kernels.Kernel]) -> None:
    """Fill the directory `target`: pybpf.box, boot/, facts.json."""
    name = f"pybpf-{target.name}"
    began = time.monotonic()
    with cache.staged(target) as work, contextlib.ExitStack() as stack:
        root = work / "root"
        stack.callback(lambda: subprocess.run(as_root("rm", "-rf", root), check=False))
        _install(root, work, found)
        installed = time.monotonic()
        note(f"installed Debian and {len(found)} kernels in {installed - began:.0f} s")
        boot = work / "boot"
        boot.mkdir()
        releases = {row: kernel.release for row, kernel in found.items()}
        for release in releases.values():
            for file in (f"vmlinuz-{release}", f"initrd.img-{release}"):
                if not (root / "boot" / file).is_file():
                    raise VmError(f"the box has no /boot/{file}: its package is incomplete")
                shutil.copyfile(root / "boot" / file, boot / file)
        _disk(root, work)
        _pack(work)
        with open(work / "pybpf.box", "rb") as packed:
            checksum = hashlib.file_digest(packed, "sha256").hexdigest()
        facts = {
            "name": name,
            "sha256": checksum,
            "command_line": COMMAND_LINE,
            "releases": releases,
        }
        (work / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        for file in ("disk", "box.img", "metadata.json", "Vagrantfile", "sources", "log", "pins"):
            (work / file).unlink(missing_ok=True)
        size = (work / "pybpf.box").stat().st_size / 1e6
        note(f"packed {size:.0f} MB in {time.monotonic() - installed:.0f} s")


def _install(root: Path, work: Path, found: dict[str, kernels.Kernel]) -> None:
    rows = kernels.rows()
    lines, pins = sources(list(rows.values()))
    (work / "sources").write_text(lines)
    (work / "pins").write_text(pins)
    packages = [*PACKAGES, *PYTHON_PACKAGES.values()]
    packages += [f"linux-image-{kernel.release}={kernel.version}" for kernel in found.values()]
    options = ["--mode=root", "--variant=minbase", "--format=directory"]
    options += ['--aptopt=Acquire::Retries "3"', '--aptopt=APT::Sandbox::User "root"']
    for path in ("man", "locale", "doc", "info"):
        options.append(f"--dpkgopt=path-exclude=/usr/share/{path}/*")
    options += [
        f'--setup-hook=install -D -m 644 {work}/pins "$1"/etc/apt/preferences.d/pybpf',
        f'--essential-hook=sh {HOOKS}/essential.sh "$1"',
        f'--customize-hook=sh {HOOKS}/customize.sh "$1"',
        f"--include={','.join(packages)}",
    ]
    note("installing Debian packages into a new disk (a minute or two)")
    environment = {"VAGRANT_KEY": str(public_key()), "BOX_CMDLINE": COMMAND_LINE}
    # In a PID namespace, so that nothing continues when we are killed.
    alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc")
    command = as_root(*alone, "mmdebstrap", *options, USERLAND, root, work / "sources")
    try:
        run("mmdebstrap", command, work / "log", **environment)
    except VmError:
        said = (work / "log").read_text(errors="replace")
        for kernel in found.values():
            if f"E: Version '{kernel.version}' for" in said:
                raise VmError(
                    f"the package mirror no longer has {kernel.release} {kernel.version}, the "
                    f"kernel of row {kernel.row}: run vagrant/build-box --update"
                ) from None
        raise


def _disk(root: Path, work: Path) -> None:
    """Make a disk: partition table and grub, then one partition with the directory's files."""
    disk = work / "disk"
    with open(disk, "wb") as file:
        file.truncate(DISK_SIZE)
    start = FIRST_SECTOR * SECTOR
    # Leave out features that an old grub does not know, because it also reads the disk.
    options = ["-q", "-F", "-t", "ext4", "-L", "pybpf", "-O", "^metadata_csum_seed,^orphan_file"]
    options += ["-E", f"offset={start},lazy_itable_init=1", "-d", str(root), str(disk)]
    command = as_root("mke2fs", *options, f"{(DISK_SIZE - start) >> 10}k")
    run("mke2fs", command, work / "log")
    first = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440]
    core = (root / "boot/grub/core.img").read_bytes()
    if len(core) > start - SECTOR:
        raise VmError(f"grub's core image of {len(core)} bytes does not fit before the partition")
    with open(disk, "r+b") as file:
        file.write(master_boot_record(first, FIRST_SECTOR, DISK_SIZE // SECTOR - FIRST_SECTOR))
        file.write(core)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c"]
    convert += ["-o", "compression_type=zstd", str(disk), str(work / "box.img")]
    run("qemu-img", convert, work / "log")


def master_boot_record(code: bytes, first: int, count: int) -> bytes:
    """Make sector 0: boot code and one bootable Linux partition of `count` sectors."""
    anywhere = b"\xfe\xff\xff"  # cylinder, head, sector: the value for "too large to express"
    entry = struct.pack("<B3sB3sII", 0x80, anywhere, 0x83, anywhere, first, count)
    return code.ljust(440, b"\0") + bytes(6) + entry + bytes(48) + b"\x55\xaa"


def _pack(work: Path) -> None:
    """Make the .box: an archive of the disk and vagrant's two small files."""
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_SIZE >> 30}
    (work / "metadata.json").write_text(json.dumps(metadata) + "\n")
    (work / "Vagrantfile").write_text(
        'Vagrant.configure("2") do |config|\n'
        "  config.vm.provider(:libvirt) { |libvirt| libvirt.disk_bus = 'virtio' }\n"
        "end\n"
    )
    with tarfile.open(work / "pybpf.box", "w") as tar:
        for name in ("metadata.json", "Vagrantfile", "box.img"):
            tar.add(work / name, name)
