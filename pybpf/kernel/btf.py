"""BTF of the running kernel and its modules, and their kernel objects.

The types come from /sys/kernel/btf: ``vmlinux`` whole, each module as split
BTF on top of it. Loading a program for a module's function needs the kernel's
own BTF *object* instead: a file descriptor found by walking object ids and
comparing names. An object id also is the upper half of a trampoline's key.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from .._sys import bpf as sys_bpf
from ..btf import Btf
from ..errors import UnsupportedFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._sys.fd import Fd

__all__ = ["BtfObject", "KernelBtf", "module", "modules", "objects", "vmlinux"]

#: Where the kernel shows its BTF.
DIRECTORY = "/sys/kernel/btf"
VMLINUX = "vmlinux"
_NOT_LOADED = "not loaded, or built without BTF"
# A module may be reloaded while its BTF object is looked up; nobody reloads it faster than that.
_LOOKUPS = 3


@dataclass(frozen=True, slots=True)
class BtfObject:
    """One BTF object the kernel holds.

    :param id: object id (``bpf_btf_info.id``)
    :param name: ``vmlinux``, a module's name, or what user space gave; "" if unnamed
    :param kernel: made by the kernel itself, not loaded by a process
    """

    id: int
    name: str
    kernel: bool


def _read(path: str) -> bytes:
    # sysfs gives at most a page per read(2) but tells the size beforehand, so
    # readall fills one buffer of the right size. (Mapping the file, possible
    # since 6.16, would save a millisecond and cost a descriptor for as long as
    # the types live.)
    with open(path, "rb", buffering=0) as stream:
        return stream.readall()


def vmlinux(path: str = f"{DIRECTORY}/{VMLINUX}") -> Btf:
    """BTF of the running kernel; parsed anew at each call, see `KernelBtf`.

    :raises UnsupportedFeature: if the kernel has none (CONFIG_DEBUG_INFO_BTF)
    """
    try:
        data = _read(path)
    except FileNotFoundError:
        raise UnsupportedFeature("vmlinux BTF", "5.4", "CONFIG_DEBUG_INFO_BTF is off") from None
    return Btf(data, name=VMLINUX)


def modules(directory: str = DIRECTORY) -> list[str]:
    """Loaded modules that have BTF, sorted; empty if the kernel shows none."""
    try:
        return sorted(name for name in os.listdir(directory) if name != VMLINUX)
    except FileNotFoundError:
        return []


def module(name: str, base: Btf | None = None, directory: str = DIRECTORY) -> Btf:
    """BTF of a loaded module, split on top of `base` (vmlinux if None).

    :raises UnsupportedFeature: if that module has no BTF or is not loaded
    """
    if name == VMLINUX:
        return vmlinux(f"{directory}/{VMLINUX}") if base is None else base
    try:
        if "/" in name:
            raise FileNotFoundError(errno.ENOENT, name)
        data = _read(f"{directory}/{name}")
    except OSError as error:
        # ENODEV: the module went between open(2) and read(2).
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        raise UnsupportedFeature(f"BTF of module {name!r}", "5.11", _NOT_LOADED) from None
    return Btf(data, base=base or vmlinux(f"{directory}/{VMLINUX}"), name=name)


def objects() -> Iterator[BtfObject]:
    """Give the BTF objects the kernel holds now, by ascending id.

    One that goes or is still being made meanwhile is left out.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    for number, fd in sys_bpf.walk("btf"):
        if fd is not None:
            info = sys_bpf.btf_info(fd)
            yield BtfObject(number, info.name, info.kernel_btf)


class KernelBtf:
    """The running kernel's BTF, each object read and parsed once.

    "" and ``vmlinux`` mean the kernel itself. Modules that come and go after
    the first question about them are not noticed.
    """

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._directory = directory
        self._parsed: dict[str, Btf | None] = {}
        self._ids: dict[str, int] | None = None

    def vmlinux(self) -> Btf:
        """BTF of the kernel itself.

        :raises UnsupportedFeature: if it has none
        """
        found = self._parsed.get("")
        if found is None:
            found = self._parsed[""] = vmlinux(f"{self._directory}/{VMLINUX}")
        return found

    def modules(self) -> list[str]:
        """Loaded modules that have BTF, sorted."""
        return modules(self._directory)

    def module(self, name: str) -> Btf:
        """BTF of a module.

        :raises UnsupportedFeature: if it has none
        """
        if name in ("", VMLINUX):
            return self.vmlinux()
        found = self._parsed.get(name)
        if found is None:
            found = self._parsed[name] = module(name, self.vmlinux(), self._directory)
        return found

    def get(self, name: str) -> Btf | None:
        """As `module`, None instead of the error."""
        name = "" if name == VMLINUX else name
        if name not in self._parsed:
            try:
                return self.module(name)
            except UnsupportedFeature:
                self._parsed[name] = None
        return self._parsed[name]

    def object_id(self, name: str) -> int:
        """Kernel object id of a module's BTF, of vmlinux for "".

        :raises UnsupportedFeature: if the kernel holds no such object
        """
        if self._ids is None:
            self._ids = {o.name: o.id for o in objects() if o.kernel}
        found = self._ids.get(name or VMLINUX)
        if found is None:
            raise UnsupportedFeature(f"BTF object of {name or VMLINUX!r}", "5.11", _NOT_LOADED)
        return found

    def fd(self, name: str) -> Fd:
        """Open a module's BTF object; the caller owns the descriptor.

        :raises UnsupportedFeature: if the kernel holds no such object
        """
        for _ in range(_LOOKUPS):
            fd = sys_bpf.open_by_id("btf", self.object_id(name))
            if fd is not None:
                return fd
            self._ids = None  # unloaded or reloaded meanwhile; then it has another id
        raise UnsupportedFeature(f"BTF object of {name or VMLINUX!r}", "5.11", _NOT_LOADED)
