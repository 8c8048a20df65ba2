"""The kernel modules of one moment, and whether they are still the same ones.

A module that is unloaded and loaded again may get other addresses, and its old memory may then
hold another module's functions. sysfs helps to notice: it gives the directory of each
module an inode number that it never gives again. While ``/sys/module/NAME`` has the same
number, the module was never unloaded, and what was read of it (symbols, call sites, BTF) holds.
So if the number is the same before and after a link was made, the link is on the
function whose address was read. This is true on every kernel and for every mechanism.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from .._sys.files import is_one_name, required
from ..dataclass import dataclass
from ..digits import decimal, hexadecimal
from ..errors import BpfError, ObjectFormatError

__all__ = ["LoadedModule", "ModuleList", "number", "parse", "read"]

_LIST = "/proc/modules"
_DIRECTORY = "/sys/module"
_LIVE = "Live"


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """Describe one loaded module.

    :param name: its name
    :param size: bytes of kernel memory
    :param state: ``Live``, ``Loading`` or ``Unloading``
    :param address: load address, 0 if addresses are hidden
    :param number: inode number of its sysfs directory, 0 if sysfs does not tell
    """

    name: str
    size: int = 0
    state: str = _LIVE
    address: int = 0
    number: int = 0


class ModuleList(Mapping[str, LoadedModule]):
    """Map names to the modules that were loaded at one moment. Immutable and comparable."""

    __slots__ = ("_modules",)

    def __init__(self, modules: Iterable[LoadedModule] = ()) -> None:
        self._modules = {module.name: module for module in modules}

    def __getitem__(self, name: str) -> LoadedModule:
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __repr__(self) -> str:
        return f"<ModuleList of {len(self)}: {' '.join(sorted(self))}>"

    def lost(
        self, names: Iterable[str], *, directory: str = _DIRECTORY, listing: str = _LIST
    ) -> set[str]:
        """Find the modules that changed, so that what was read of them no longer holds.

        A module counts as lost if it was not loaded then, was not ready (``Loading`` and
        ``Unloading`` modules free memory), is gone now, or was reloaded.

        :param names: modules to check; "" is the kernel itself, which never moves
        """
        out: set[str] = set()
        now: ModuleList | None = None
        for name in names:
            if not name:
                continue
            known = self._modules.get(name)
            if known is None or known.state != _LIVE:
                out.add(name)
            elif known.number:
                if number(name, directory) != known.number:
                    out.add(name)
            else:  # no sysfs: only the list itself can be compared
                now = read(listing, directory) if now is None else now
                if now.get(name) != known:
                    out.add(name)
        return out


def number(name: str, directory: str = _DIRECTORY) -> int:
    """Return the inode number of a loaded module's sysfs directory, 0 if there is none."""
    if not is_one_name(name):
        return 0
    try:
        return os.stat(f"{directory}/{name}").st_ino
    except OSError:
        return 0


def parse(text: str) -> tuple[LoadedModule, ...]:
    """Parse the text of ``/proc/modules``: NAME SIZE REFS USERS STATE ADDRESS.

    :raises ObjectFormatError: if a line has another form
    """
    out = []
    offset = 0
    for line in text.split("\n"):
        words = line.split(" ")
        size = decimal(words[1]) if len(words) > 5 else None
        address = hexadecimal(words[5]) if len(words) > 5 else None
        if size is not None and address is not None:
            out.append(LoadedModule(words[0], size, words[4], address))
        elif line.strip():
            what = f"not a module: {line[:80].rstrip()!r}"
            raise ObjectFormatError(what, file=_LIST, offset=offset)
        offset += len(line) + 1
    return tuple(out)


def read(listing: str = _LIST, directory: str = _DIRECTORY) -> ModuleList:
    """Read which modules are loaded now. There are none if the kernel was built without modules.

    :raises BpfError: if /proc is not mounted
    """
    try:
        text = required(listing, "the list of loaded modules").decode("utf-8", "surrogateescape")
    except BpfError:
        if os.path.exists(os.path.join(os.path.dirname(listing), "self")):
            return ModuleList()  # CONFIG_MODULES is off
        raise
    return ModuleList(
        LoadedModule(m.name, m.size, m.state, m.address, number(m.name, directory))
        for m in parse(text)
    )
