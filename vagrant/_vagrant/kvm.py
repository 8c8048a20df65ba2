"""The command line of `vagrant/kvm`, which tells whether KVM really works here.

A /dev/kvm that opens proves nothing. `kvm_works` boots one of our kernels under it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .._vm import kernels, qemu
from .._vm.cache import VmError

__all__ = ["main"]


def answer() -> tuple[bool, str]:
    """Return whether it works, and the reason in a few words."""
    if os.environ.get("PYBPF_KVM") in ("0", "no"):
        return False, "PYBPF_KVM says no"
    if not os.path.exists("/dev/kvm"):
        return False, "there is no /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False, "this user may not open /dev/kvm (group kvm)"
    try:
        row = next(iter(kernels.rows().values()))
        works = qemu.kvm_works(qemu.qemu_command(), kernels.kernel(row))
    except VmError as error:
        return False, f"it could not be tried: {error}"
    return works, "a kernel boots" if works else "no kernel boots under /dev/kvm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vagrant/kvm`. Return 0 if KVM works, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="vagrant/kvm",
        description="Find out whether KVM really works: boot a kernel under it, once per boot of "
        "this machine. The exit status is 0 if it works, 1 if not.",
        epilog="With PYBPF_KVM=0 the answer is no, without a trial.",
    )
    parser.parse_args(arguments)
    works, why = answer()
    print(f"kvm: {'works' if works else 'not used'}: {why}", file=sys.stderr)
    return 0 if works else 1
