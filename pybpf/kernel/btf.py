"""BTF of the running kernel and its modules, and their kernel objects.

The types come from /sys/kernel/btf: ``vmlinux`` as a whole, and each module as split
BTF on top of it. Loading a program for a module's function needs the kernel's
own BTF *object* instead. That is a file descriptor, found by walking object ids and
comparing names. An object id is also the upper half of a trampoline's key.

A module that is loaded again gets another BTF object with a new id. Its
file in /sys/kernel/btf gets another inode number, which sysfs never uses twice. That number
tells whether what was read before still belongs to the module that is loaded now.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress

from .._sys import bpf as sys_bpf
from .._sys.files import is_one_name
from ..btf import Btf
from ..dataclass import dataclass
from ..errors import BpfError, UnsupportedFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._sys.fd import Fd

__all__ = ["BtfObject", "KernelBtf", "from_id", "module", "modules", "objects", "vmlinux"]

#: Where the kernel shows its BTF.
DIRECTORY = "/sys/kernel/btf"
VMLINUX = "vmlinux"
_NOT_LOADED = "not loaded, or built without BTF"
# A file with more bytes is mapped.
_LARGE = 1 << 20
# Times to start again if a module is reloaded while its BTF object is looked up.
_LOOKUPS = 8


@dataclass(frozen=True, slots=True)
class BtfObject:
    """Describe one BTF object the kernel holds.

    :param id: object id (``bpf_btf_info.id``)
    :param name: ``vmlinux``, a module's name, or what user space gave; "" if unnamed
    :param kernel: made by the kernel itself, not loaded by a process
    """

    id: int
    name: str
    kernel: bool


def _read(path: str) -> tuple[bytes, int]:
    # Returns the bytes of the file and its inode number.
    with open(path, "rb", buffering=0) as stream:
        about = os.fstat(stream.fileno())
        # sysfs gives at most a page per read(2), which makes a thousand calls for a kernel's BTF.
        # It can be mapped since 6.16.
        if about.st_size >= _LARGE:
            with (
                suppress(OSError),
                mmap.mmap(stream.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped,
            ):
                return mapped[:], about.st_ino
        return stream.readall(), about.st_ino


def vmlinux(path: str = f"{DIRECTORY}/{VMLINUX}") -> Btf:
    """Read and parse the BTF of the running kernel. Each call reads it again; see `KernelBtf`.

    Where the kernel does not show its BTF, that of a vmlinux file is taken if its build id is that
    of the kernel (`pybpf.kernel.vmlinuxfile`).

    :raises UnsupportedFeature: if the kernel has none (CONFIG_DEBUG_INFO_BTF), or if sysfs,
        which shows it, is not mounted, and no file of it is found
    """
    try:
        data, _ = _read(path)
    except FileNotFoundError:
        hint = f"{path} does not exist: CONFIG_DEBUG_INFO_BTF is off, or somebody hides it"
        if path == f"{DIRECTORY}/{VMLINUX}":
            data, refused = _from_file()
            if data:
                return Btf(data, name=VMLINUX)
            hint = "; ".join([hint, *refused])
        if path.startswith("/sys/") and not os.path.isdir("/sys/kernel"):
            hint = "sysfs, which shows it, is not mounted; try: mount -t sysfs sysfs /sys"
        raise UnsupportedFeature("vmlinux BTF", "5.4", hint) from None
    return Btf(data, name=VMLINUX)


def _from_file() -> tuple[bytes, list[str]]:
    from .vmlinuxfile import build_id, find_btf, places  # few kernels need a file

    notes = b""
    with suppress(OSError), open("/sys/kernel/notes", "rb") as stream:
        notes = stream.read()
    identity = build_id(notes)
    return find_btf(places(os.uname().release, identity), identity)


def modules(directory: str = DIRECTORY) -> list[str]:
    """List the loaded modules that have BTF, sorted. Empty if the kernel shows none."""
    try:
        return sorted(name for name in os.listdir(directory) if name != VMLINUX)
    except FileNotFoundError:
        return []


def module(name: str, base: Btf | None = None, directory: str = DIRECTORY) -> Btf:
    """Read the BTF of a loaded module, split on top of `base` (vmlinux if None).

    :raises UnsupportedFeature: if that module has no BTF or is not loaded
    """
    if name == VMLINUX:
        return vmlinux(f"{directory}/{VMLINUX}") if base is None else base
    return _module(name, base, directory)[0]


def _module(name: str, base: Btf | None, directory: str) -> tuple[Btf, int]:
    # Returns the inode number of the file, too.
    try:
        if not is_one_name(name):
            raise FileNotFoundError(errno.ENOENT, name)
        data, number = _read(f"{directory}/{name}")
    except OSError as error:
        # ENODEV: the module was unloaded between open(2) and read(2).
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        raise UnsupportedFeature(f"BTF of module {name!r}", hint=_NOT_LOADED) from None
    return Btf(data, base=base or vmlinux(f"{directory}/{VMLINUX}"), name=name), number


def objects() -> Iterator[BtfObject]:
    """Yield the BTF objects the kernel holds now, by ascending id.

    An object that is still being made or is removed meanwhile is left out.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    for number, fd in sys_bpf.walk("btf"):
        if fd is not None:
            info = sys_bpf.btf_info(fd)
            yield BtfObject(number, info.name, info.kernel_btf)


def from_id(number: int, base: Btf | None = None) -> Btf:
    """Read the types of a BTF object in the kernel, by its id.

    :param base: the kernel's BTF, needed if the object is a module's; read here if None
    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    :raises BpfError: ENOENT if the object does not exist
    """
    with sys_bpf.get_fd_by_id("btf", number) as fd:
        info = sys_bpf.btf_info(fd, data=True)
    name = info.name or f"BTF id {number}"
    if not info.kernel_btf or info.name == VMLINUX:
        return Btf(info.data, name=name)
    return Btf(info.data, base=base or vmlinux(), name=name)


class KernelBtf:
    """Read the running kernel's BTF. Each object is read and parsed once.

    "" and ``vmlinux`` mean the kernel itself. A module's BTF is read again
    when the module was reloaded (see `number`), and forgotten when the module is gone.
    """

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._directory = directory
        self._vmlinux: Btf | None = None
        self._parsed: dict[str, tuple[int, Btf]] = {}  # (inode number of the file, types)
        self._ids: dict[str, tuple[int, int]] = {}  # (inode number of the file, object id)

    def vmlinux(self) -> Btf:
        """Return the BTF of the kernel itself.

        :raises UnsupportedFeature: if it has none
        """
        if self._vmlinux is None:
            self._vmlinux = vmlinux(f"{self._directory}/{VMLINUX}")
        return self._vmlinux

    def forget(self) -> bool:
        """Let go of the types. They are read again when they are needed.

        :returns: True if there were any
        """
        known = self._vmlinux is not None
        self._vmlinux = None
        self._parsed.clear()
        return known

    def find(self, name: str, kind: int) -> int | None:
        """Find the lowest id of the kernel's own types with a name and kind; None if it has none.

        As long as nobody needed the kernel's BTF itself, the kernel is asked: that takes 0.8 ms,
        reading and walking the BTF 13 ms.

        :raises UnsupportedFeature: if the kernel has no BTF
        """
        if self._vmlinux is None and self._directory == DIRECTORY:
            from .btffind import BtfFinder  # few need it

            with suppress(BpfError, ValueError):  # it may refuse, or be too old
                with BtfFinder() as finder:
                    found = finder.find(name, kind)
                # A module's type comes only if the kernel itself has none of that name.
                return None if found is None or found.module else found.btf_id
        return self.vmlinux().find(name, kind)

    def number(self, name: str) -> int:
        """Return a number for the BTF of a module. It changes each time the module is loaded.

        :returns: 0 if it is not loaded or has no BTF; 1 for the kernel itself
        """
        if name in ("", VMLINUX):
            return 1
        if not is_one_name(name):
            return 0
        try:
            return os.stat(f"{self._directory}/{name}").st_ino
        except OSError:
            return 0

    def modules(self) -> list[str]:
        """List the loaded modules that have BTF, sorted."""
        return modules(self._directory)

    def module(self, name: str) -> Btf:
        """Return the BTF of a module. It is the same `Btf` for as long as the module stays loaded.

        :raises UnsupportedFeature: if it has none, or is not loaded
        """
        if name in ("", VMLINUX):
            return self.vmlinux()
        number, found = self._parsed.get(name, (0, None))
        if found is None or number != self.number(name):
            self._parsed.pop(name, None)
            found, number = _module(name, self.vmlinux(), self._directory)
            self._parsed[name] = (number, found)
        return found

    def get(self, name: str) -> Btf | None:
        """Do what `module` does, but return None instead of raising an error."""
        try:
            return self.module(name)
        except UnsupportedFeature:
            return None

    def object_id(self, name: str) -> int:
        """Return the kernel object id of a module's BTF, or of vmlinux for "".

        :raises UnsupportedFeature: if the kernel does not hold that object
        """
        name = name or VMLINUX
        for _ in range(_LOOKUPS):
            number = self.number(name)
            known, found = self._ids.get(name, (0, 0))
            if number and known == number:
                return found
            numbers = {n: self.number(n) for n in (VMLINUX, name, *self.modules())}
            # An old object lives on while somebody holds it. The last one is the module's own.
            ids = {o.name: o.id for o in objects() if o.kernel}
            # Leave out modules that came or went meanwhile.
            same = {n: m for n, m in numbers.items() if m and m == self.number(n)}
            self._ids = {n: (m, ids[n]) for n, m in same.items() if n in ids}
            if name in self._ids:
                return self._ids[name][1]
            if self.number(name) == number:
                break
        raise UnsupportedFeature(f"BTF object of {name!r}", hint=_NOT_LOADED)

    def fd(self, name: str) -> Fd:
        """Open a module's BTF object. The caller owns the descriptor.

        :raises UnsupportedFeature: if the kernel does not hold that object
        """
        for _ in range(_LOOKUPS):
            number = self.number(name)
            fd = sys_bpf.open_by_id("btf", self.object_id(name))
            if fd is not None and self.number(name) == number:
                return fd
            if fd is not None:
                fd.close()  # the module was reloaded meanwhile
            self._ids.clear()
        raise UnsupportedFeature(f"BTF object of {name or VMLINUX!r}", hint=_NOT_LOADED)
