"""Read the command line of `vagrant/build-box`."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence

from .._vm.cache import VmError
from .box import Box, as_root, box, note

__all__ = ["main"]

BOOT = "/var/lib/libvirt/images/pybpf"  # Vagrantfile looks here, and libvirt's user may read it


def install(made: Box) -> None:
    """Copy the kernels to a place where a libvirtd of another user can read them."""
    files = sorted(made.boot.iterdir())
    command = as_root("install", "-D", "-m", "644", "-t", BOOT, *files)
    if subprocess.run(command, check=False).returncode:
        raise VmError(f"the kernels could not be copied to {BOOT}, see above")
    note(f"kernels are in {BOOT}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vagrant/build-box` and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="vagrant/build-box",
        description="Build the local Vagrant box from Debian packages, unless it is already built, "
        "and print its file name.",
        epilog="The box is kept below ~/.cache/pybpf/boxes ($PYBPF_CACHE). Use it with "
        "`BOX=local vagrant up`.",
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help=f"also copy the kernels to {BOOT}, for `vagrant up` with the system's libvirtd",
    )
    parser.add_argument(
        "--update", action="store_true", help="look for newer kernels, and build the box again"
    )
    options = parser.parse_args(arguments)
    try:
        made = box(update=options.update)
        if options.install:
            install(made)
    except VmError as error:
        note(str(error))
        return 1
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    for row, release in made.releases.items():
        note(f"row {row}: {release}")
    print(made.file)
    return 0
