"""Read the command line of `vagrant/e2e`."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .._vm import kernels, qemu
from .._vm.cache import VmError
from . import abreast, box, inside
from .machine import CHECKOUT, DIED, Failure, Setting, note

__all__ = ["main"]

DESCRIPTION = """\
Bring up the Vagrant machine on a kernel row, run the end-to-end tests in it, bring the results
back and destroy the machine. The exit status is pytest's; 124 means a time limit, 125 that the
machine did not come up or died."""
EPILOG = """\
Words after `--` go to pytest instead of the default tests: `vagrant/e2e 6.12 -- tests/live -x`.
Results are in --out: junit.xml, files that the tests left under $OUT, console.log and vagrant.log.
It needs root or sudo. libvirtd, its network and vagrant run in the run's own namespaces, so
nothing of them is left, however the run ends."""
TESTS = ("tests/e2e", "tests/live")
SHORT = ("-m", "not long")  # as in `make test`
TOOLS: tuple[str, ...] = (
    *("vagrant", "libvirtd", "virtlogd", "virsh", "dnsmasq", "iptables"),
    *("rsync", "ssh", "ip", "mount", "unshare"),
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options. Usage errors exit with status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    rows = kernels.rows()
    parser = argparse.ArgumentParser(
        prog="vagrant/e2e",
        usage="%(prog)s [options] [ROW|all] [-- PYTEST-ARGUMENTS]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "row",
        nargs="?",
        choices=[*rows, "all"],
        default="all",
        help="kernel row (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=CHECKOUT / ".vagrant-out",
        help="directory for results, in DIR/ROW (default: .vagrant-out)",
    )
    parser.add_argument(
        "--long", action="store_true", help="also run the long tests that `make test` leaves out"
    )
    parser.add_argument(
        "--grub", action="store_true", help="boot the kernel by the box's grub, not by libvirt"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=7200,
        metavar="S",
        help="time limit for one row's tests, in seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        default=min(2, os.cpu_count() or 1),
        help="number of machines at once, with 2 GiB of memory each (default: %(default)s)",
    )
    parser.add_argument(
        "--setup", action="store_true", help="only install and build what is missing"
    )
    options, more = parser.parse_known_args(words[:at])
    if more:
        parser.error(
            f"unexpected argument {' '.join(more)}: give one row or all; "
            "put pytest's arguments after --"
        )
    options.tests = words[at + 1 :]
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more")
    if not 0 < options.timeout < math.inf:
        parser.error("--timeout must be a number of seconds more than 0")
    return options


def set_up() -> str:
    """Install what is missing and return QEMU's path."""
    path, missing = "", [tool for tool in TOOLS + box.NEEDED if not shutil.which(tool)]
    missing += [name for name in inside.PRIVATE if not os.path.isdir(name)]
    try:
        path = qemu.qemu_command()
    except VmError as error:
        missing.append(str(error))
    if missing:
        note(f"setting up: {', '.join(missing)}")
        script = CHECKOUT / "vagrant/host.sh"
        if subprocess.run(
            [script, "vm", "vagrant"], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        ).returncode:
            raise Failure("vagrant/host.sh vm vagrant failed, see above")
        path = qemu.qemu_command()
    return path


def check(made: box.Box, row: str) -> str:
    """Check that the box is complete. Return the release of the row's kernel."""
    with open(made.file, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != made.sha256:
            raise Failure(f"the box {made.file} is broken: run vagrant/build-box --update")
    release = made.releases.get(row, "")
    for name in ("vmlinuz", "initrd.img"):
        if not release or not (made.boot / f"{name}-{release}").is_file():
            raise Failure(f"the box has no {name} of row {row}: run vagrant/build-box --update")
    return release


def prepare(row: kernels.Row, emulator: str, made: box.Box, options: argparse.Namespace) -> Setting:
    """Decide what one row's machine is and runs. Empty its directory for results."""
    release = check(made, row.name)
    accel = os.environ.get("PYBPF_ACCEL") or (
        "kvm" if qemu.kvm_works(emulator, kernels.kernel(row)) else "tcg"
    )
    out = Path(options.out).absolute() / row.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tests = options.tests or [*TESTS, *([] if options.long else SHORT)]
    boot = "grub" if options.grub else "direct"
    note(f"== row {row.name}: {release}, {accel}, {boot} boot; results in {out}")
    return Setting(row.name, release, accel, boot, str(out), options.timeout, tuple(tests))


def interrupt(number: int, frame: object) -> None:
    """End the machine when a signal ends us."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vagrant/e2e` and return its exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    rows = kernels.rows()
    chosen = list(rows) if options.row == "all" else [options.row]
    statuses: dict[str, int] = {}
    try:
        emulator = set_up()
        made = box.box()
        if options.setup:
            return 0
        statuses = abreast.run(
            chosen, options.jobs, lambda name: prepare(rows[name], emulator, made, options)
        )
    except VmError as error:
        note(str(error))
        return DIED
    except Failure as failure:
        note(str(failure))
        return failure.status
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    failed = {name: statuses[name] for name in chosen if statuses[name]}
    if len(chosen) > 1:
        for name, status in failed.items():
            note(f"row {name} failed with status {status}")
    return next(iter(failed.values()), 0)
