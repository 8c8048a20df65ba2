"""Source lines of the kernel's code, from the debug information (DWARF) of its vmlinux file.

drgn reads the file; the extra ``dwarf`` installs it. A file has the addresses that the linker
gave, and the kernel runs somewhere else (KASLR). The symbol ``_text`` is at the start of both,
so its two addresses tell how far all others moved. The build id tells whether the file is of
the kernel that runs: lines of another kernel would be wrong without looking wrong.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable

from ...dataclass import dataclass
from ...kernel.vmlinuxfile import build_id, places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DebugInfo", "Line", "NoDebugInfo", "find", "source_path"]

_ANYWHERE = 1 << 63
_INSTALL = "install drgn (pip install 'pybpf[dwarf]')"
#: Directories at the top of the kernel's source tree.
_TOP = frozenset(
    ("arch", "block", "certs", "crypto", "drivers", "fs", "include", "init", "io_uring", "ipc")
    + ("kernel", "lib", "mm", "net", "rust", "samples", "scripts", "security", "sound", "tools")
    + ("usr", "virt")
)


class NoDebugInfo(Exception):
    """There is no debug information of the running kernel; the text says what is missing.

    :param file: the file that cannot be used, "" if none was found
    """

    def __init__(self, text: str, file: str = "") -> None:
        super().__init__(text)
        self.file = file


@dataclass(frozen=True, slots=True)
class Line:
    """A place in the source.

    :param function: what DWARF calls the function, "" if it does not say
    :param file: path below the top of the source tree
    :param line: number of the line, 0 if not known
    """

    function: str
    file: str
    line: int


def source_path(path: str) -> str:
    """Cut a path as DWARF has it at the top of the kernel's source tree.

    Paths of assembler files are absolute, those of headers may go up and down again. Parts are
    compared whole, so that a build below ``/home/me/kernel-net`` does not end there.
    """
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
    if not path.startswith("/"):
        return "/".join(parts)
    # Nearly all of them lie in arch, and names of other directories occur above a source tree.
    known = [at for at, part in enumerate(parts) if part in _TOP]
    last = [at for at in known if parts[at] == "arch"][-1:] or known[:1]
    return "/".join(parts[last[0] :]) if last else path


class DebugInfo:
    """Debug information of the running kernel.

    :param path: a vmlinux file
    :param identity: build id of the kernel that runs, in hex; "" if it is not known
    :param text: gives the address of ``_text``, None if it is not known; asked at the first look-up
    :raises NoDebugInfo: if drgn is not installed, or the file is none, or of another kernel
    """

    def __init__(self, path: str, identity: str, text: Callable[[], int | None]) -> None:
        try:
            with open(path, "rb"):
                pass  # drgn does not say why it cannot read a file
        except OSError as error:
            raise NoDebugInfo(f"{path}: {error.strerror}", path) from None
        try:
            import drgn  # lazy: 10 MB that only runs with a vmlinux file need
        except ImportError as error:
            raise NoDebugInfo(
                f"{path} may have them, but drgn cannot be used ({error}): {_INSTALL}", path
            ) from None
        self.path = path
        self._text = text
        self._moved: int | None = None
        self._asked = False
        try:
            self._program, module = _load(drgn, path, _ANYWHERE)
            # Where drgn would load the file depends on what is left of its segments. Asked to
            # load it that much lower, it keeps the addresses of the link.
            if module.debug_file_bias:
                start = (_ANYWHERE - module.debug_file_bias) % (1 << 64)
                self._program, module = _load(drgn, path, start)
        except OSError as error:
            raise NoDebugInfo(f"{path}: {error.strerror}", path) from None
        except Exception as error:  # drgn has no class for all its errors
            raise NoDebugInfo(f"{path}: {error}", path) from None
        if module.debug_file_status != drgn.ModuleFileStatus.HAVE:
            raise NoDebugInfo(f"{path} has no debug information (DWARF)", path)
        found = module.build_id.hex() if module.build_id else ""
        if identity and found and identity != found:
            raise NoDebugInfo(
                f"{path} is of another kernel: its build id is {found}, the running kernel's is "
                f"{identity}",
                path,
            )
        try:
            self._linked: int = self._program.symbol("_text").address
        except LookupError:
            raise NoDebugInfo(f"{path} has no symbol _text, so it is no vmlinux", path) from None

    def lines(self, address: int) -> tuple[Line, ...]:
        """Find the source line of an instruction, and those of the calls that were inlined there.

        :returns: outermost function first; () if it is not known
        """
        if not self._asked:
            text, self._asked = self._text(), True
            self._moved = text - self._linked if text else None
        if self._moved is None:
            return ()
        try:
            found = self._program.source_location(address - self._moved)
        except (LookupError, ValueError, OverflowError):
            return ()
        return tuple(Line(x.name() or "", source_path(x.filename), x.line) for x in reversed(found))


def _load(drgn: Any, path: str, start: int) -> tuple[Any, Any]:
    # A program that is nothing but this file, from an address to the end of all addresses.
    program = drgn.Program()
    made = program.extra_module("vmlinux", create=True)
    module = made[0] if isinstance(made, tuple) else made
    module.address_range = (start, (1 << 64) - 1)
    module.try_file(path)
    return program, module


def find(
    path: str, release: str, notes: bytes, text: Callable[[], int | None], home: str = "~"
) -> DebugInfo:
    """Open a vmlinux file, or the first that is where they are kept.

    :param path: the file, "" to look for one
    :param release: as ``uname -r`` has it
    :param notes: contents of ``/sys/kernel/notes``
    :param text: gives the address of ``_text``, None if it is not known
    :raises NoDebugInfo: if the file is none, or none is found
    """
    identity = build_id(notes)
    if path:
        return DebugInfo(path, identity, text)
    others: list[NoDebugInfo] = []
    for place in places(release, identity, home):
        if os.path.exists(place):
            try:
                return DebugInfo(place, identity, text)
            except NoDebugInfo as error:
                others.append(error)
    if others:
        raise others[0]
    raise NoDebugInfo(
        f"no vmlinux with debug information of {release} was found (-k names one; Debian has it in "
        f"linux-image-{release}-dbg)"
    )
