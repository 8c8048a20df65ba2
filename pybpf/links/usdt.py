"""Links on user statically defined tracepoints (USDT).

Theory of operation. A probe is a place in a binary like any other: each of its nops gets a
uprobe, with the probe's semaphore as reference counter. The arguments are in different registers
at each place, and a program cannot parse text. So ``usdt.h`` (ours and libbpf's) has a map
``__bpf_usdt_specs`` that describes the arguments in numbers. The cookie of each uprobe is an
index into this map. The fields of an entry are read from the object's own BTF, so every version
of that header works. Places with the same arguments share an entry. A program without the map can
be attached too, but it cannot ask for arguments, and its cookie is the caller's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..dataclass import dataclass
from ..elf import ElfFile
from ..errors import BpfError, ObjectFormatError
from ..usdt import ARG_SIB, ARG_UNREADABLE, MAX_ARGS, Argument, Probe, parse_arguments, probes
from ..wording import many
from .binary import find_binary, open_elf
from .link import HasFd, LinkSet, Request, near, need
from .uprobe import attach_uprobe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..maps import Map

__all__ = ["SPECS", "UsdtLink", "UsdtSpecs", "attach_usdt", "by_section"]

#: Name of the map that says where arguments are.
SPECS = "__bpf_usdt_specs"


class UsdtSpecs:
    """Hold the entries of one object's map of arguments, and count their users.

    :param maps: the object's maps
    """

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._map = maps.get(SPECS)
        self._entries: dict[tuple[str, int], int] = {}
        self._uses: dict[int, int] = {}

    @property
    def exists(self) -> bool:
        """Return True if the object has the map."""
        return self._map is not None

    def take(self, text: str, cookie: int, arguments: list[Argument]) -> int:
        """Fill an entry, or share one with the same contents. `give_back` releases it.

        :param text: the arguments, as in the note
        :raises BpfError: ENOSPC if the map is full
        """
        assert self._map is not None
        key = (text, cookie)
        number = self._entries.get(key)
        if number is None:
            free = (n for n in range(self._map.max_entries) if n not in self._uses)
            number = next(free, -1)
            if number < 0:
                hint = f"set maps[{SPECS!r}].max_entries before loading"
                what = f"more than {many(self._map.max_entries, 'kind')} of USDT arguments"
                raise BpfError(errno.ENOSPC, what, hint)
            self._map[number] = _spec(self._map, arguments, cookie)
            self._entries[key] = number
        self._uses[number] = self._uses.get(number, 0) + 1
        return number

    def give_back(self, number: int) -> None:
        """Release what `take` gave."""
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._uses[number]
            self._entries = {key: one for key, one in self._entries.items() if one != number}


def _spec(specs: Map, arguments: list[Argument], cookie: int) -> dict[str, Any]:
    # struct __bpf_usdt_spec, with the fields that the object's BTF has.
    try:
        example = specs[0]
        fields = set(example.args[0]._fields)
        room = len(example.args)
    except (AttributeError, IndexError, KeyError):
        hint = "the object needs BTF, and usdt.h of pybpf or libbpf"
        raise BpfError(errno.EINVAL, f"map {SPECS!r}", hint) from None
    scaled = {"idx_reg_off", "scale_bitshift"} <= fields
    values = []
    for argument in arguments[:room]:
        value = {
            "val_off": argument.value,
            "arg_type": argument.type,
            "reg_off": argument.register,
            "arg_signed": argument.signed,
            "arg_bitshift": argument.bitshift,
        }
        if argument.type == ARG_SIB and scaled:
            value |= {"idx_reg_off": argument.index, "scale_bitshift": argument.scale}
        elif argument.type == ARG_SIB:
            value["arg_type"] = ARG_UNREADABLE
        values.append(value)
    values += [{} for _ in range(room - len(values))]
    return {"args": values, "usdt_cookie": cookie, "arg_cnt": min(len(arguments), room)}


class UsdtLink(LinkSet):
    """Hold the links on all places of one probe. Closing closes all.

    :ivar what: what is attached where, for messages
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self._release: list[Callable[[], None]] = []

    def on_end(self, release: Callable[[], None]) -> None:
        """Call `end` once, when the links are closed or detached."""
        self._release.append(release)

    def detach(self) -> None:
        """Undo every attachment."""
        try:
            super().detach()
        finally:
            self._end()

    def close(self) -> None:
        """Detach everything and forget it."""
        try:
            super().close()
        finally:
            self._end()

    def _end(self) -> None:
        while self._release:
            self._release.pop()()

    def __repr__(self) -> str:
        state = f"{many(len(self), 'place')}" if self.attached else "closed"
        return f"<UsdtLink {self.what}: {state}>"


@dataclass(frozen=True, slots=True)
class _Place:
    # Offsets in the file, bytes.
    offset: int
    semaphore: int
    probe: Probe


def attach_usdt(
    program: HasFd,
    specs: UsdtSpecs,
    binary: str | os.PathLike[str],
    provider: str,
    name: str,
    *,
    pid: int | None = None,
    cookie: int = 0,
) -> UsdtLink:
    """Attach to a USDT probe of an executable or library, at every place where it was inlined.

    :param specs: those of the program's object
    :param binary: path, or name as `pybpf.links.binary.find_binary` takes it
    :param provider: ``python``, ``libc``
    :param name: ``gc__start``
    :param pid: only in this process; None for all, 0 for the caller's
    :param cookie: ``__u64`` for bpf_usdt_cookie
    :raises TypeError: if an argument has another type
    :raises ObjectFormatError: if the file is not ELF64, or its notes are malformed
    :raises BpfError: ENOENT if the file or probe does not exist, with near names
    """
    need(binary, (str, os.PathLike), "binary", "a path or the name of a library or program")
    need(provider, str, "provider")
    need(name, str, "name of a probe")
    need(pid, (int, type(None)), "pid")
    path = find_binary(binary)
    what = f"usdt/{path}:{provider}:{name}"
    elf = open_elf(path)
    made = UsdtLink(what)
    try:
        for place in _places(elf, path, provider, name):
            number = cookie
            if specs.exists:
                arguments = parse_arguments(place.probe.arguments, elf.machine, path)
                number = specs.take(place.probe.arguments, cookie, arguments)
                made.on_end(lambda taken=number: specs.give_back(taken))  # type: ignore[misc]
            made[f"{path}+{place.offset:#x}"] = attach_uprobe(
                program,
                path,
                place.offset,
                pid=pid,
                ref_ctr_offset=place.semaphore,
                cookie=number,
            )
    except BaseException as error:
        made.close()
        if isinstance(error, BpfError):
            error.add_context(what)
        raise
    return made


def _places(elf: ElfFile, path: str, provider: str, name: str) -> list[_Place]:
    known = probes(elf)
    found = [one for one in known if (one.provider, one.name) == (provider, name)]
    if not found:
        names = dict.fromkeys(f"{one.provider}:{one.name}" for one in known)
        hint = near(f"{provider}:{name}", names) or _listed(list(names))
        raise BpfError(errno.ENOENT, f"probe {provider}:{name} of {path!r}", hint)
    places: dict[int, _Place] = {}
    for one in found:
        offset = elf.file_offset(one.address)
        semaphore = elf.file_offset(one.semaphore) if one.semaphore else 0
        if offset is None or semaphore is None:
            at = one.address if offset is None else one.semaphore
            raise ObjectFormatError(
                f"probe {provider}:{name} at {at:#x}, which no segment loads",
                file=path,
                section=".note.stapsdt",
            )
        # Functions that a linker merged have a note each, for one place. It is hit once.
        places.setdefault(offset, _Place(offset, semaphore, one))
    return list(places.values())


def _listed(names: list[str]) -> str:
    if not names:
        return "the file has no USDT probes"
    more = f" and {len(names) - MAX_ARGS} more" if len(names) > MAX_ARGS else ""
    return f"it has: {', '.join(names[:MAX_ARGS])}{more}"


def by_section(request: Request) -> UsdtLink:
    """Attach ``usdt/BINARY:PROVIDER:NAME``.

    :raises BpfError: EINVAL if the target has another form
    """
    parts = request.target.rsplit(":", 2)
    if len(parts) != 3 or not all(parts):
        hint = "write BINARY:PROVIDER:NAME, or call attach_usdt(binary, provider, name)"
        raise BpfError(errno.EINVAL, f"{request.target!r} is not BINARY:PROVIDER:NAME", hint)
    return request.program.attach_usdt(*parts, cookie=request.cookie)
