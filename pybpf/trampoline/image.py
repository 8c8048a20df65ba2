"""Read and decode the trampoline images the kernel has now.

Each image has a line ``bpf_trampoline_<key>`` in /proc/kallsyms. The key names
the traced function. For a kernel function it is BTF object id << 32 | 0x80000000 |
BTF id (kernel/bpf/trampoline.c: ``bpf_trampoline_compute_key()``). For a function of
another BPF program it is program id << 32 | BTF id. While a program is being
attached or detached, the old image and the new one have the same name, and the one
listed last is the newest. The bytes come from kernel memory. Programs are identified
by the address ranges of their machine code (``jited_ksyms`` of their info). The
traced function's own first bytes say whether they lead to the image.

`collect` works on the sources it is given and touches nothing itself. `images`
passes it the running kernel.
"""

from __future__ import annotations

import errno
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from .._sys import bpf as sys_bpf
from ..dataclass import dataclass
from ..errors import BpfError
from ..kernel import kallsyms, kcore
from ..kernel.btf import KernelBtf, objects
from .decode import decode, disassemble
from .links import split_key
from .roles import DecodedImage, Entry, Instruction, ProgramCall, TrampFlag, decode_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf
    from ..kernel.host import Facts

__all__ = [
    "ImageProgram",
    "ImageReader",
    "LoadedProgram",
    "TrampolineImage",
    "collect",
    "image_of",
    "images",
    "loaded_programs",
]

_PAGE = 4096  # also the largest image: the JIT refuses more (E2BIG)
_ENTRY_BYTES = 16
# How often to read a function's image that is being replaced, and the seconds between.
_READINGS = 5
_PAUSE = 0.05
_BODY_OFFSETS = (5, 9)  # where a function continues after its patched bytes

Read = Callable[[int, int], bytes]
"""(address, bytes) -> kernel memory; `BpfError` if it is not mapped."""
Names = Callable[[int], "tuple[str, str]"]
"""Trampoline key -> (function, module); "" for a part that is not known."""


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """Describe a loaded BPF program, as far as images need it.

    :param tag: 16 hex digits
    :param ranges: (address, bytes) of its functions' machine code, main first
    :param type: ``enum bpf_prog_type``
    :param maps: ids of the maps it uses
    """

    id: int
    name: str
    tag: str
    type: int
    ranges: tuple[tuple[int, int], ...]
    maps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageProgram:
    """Describe one call of a program in an image.

    :param call: what the machine code says
    :param id: program id, or None if no loaded program has code at that address
    :param maps: ids of the maps it uses. Programs with the same tag but other maps are
        different programs.
    """

    call: ProgramCall
    id: int | None
    name: str
    tag: str
    maps: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON. Addresses are hex text: JSON numbers end at 2**53."""
        return {
            "id": self.id,
            "name": self.name,
            "tag": self.tag,
            "kind": self.call.kind,
            "phase": self.call.phase,
            "address": f"{self.call.address:#x}",
            "symbol": self.call.symbol,
            "cookie": self.call.cookie,
            "sleepable": self.call.sleepable,
            "detached": self.call.detached,
        }


@dataclass(frozen=True, slots=True)
class TrampolineImage:
    """Describe one trampoline image of the running kernel.

    :param key: see `split_key`
    :param function: traced function, or "" if its BTF could not be read
    :param module: its module, ``vmlinux`` for the kernel itself, ``prog ID`` for a program
    :param function_address: where it starts, or None if no symbol says
    :param entry: how its first bytes are patched, or None
    :param entry_code: those bytes, as instructions
    :param entry_symbol: symbol the patched entry leads to, or ""
    :param current: it is the newest image of its key; an older one is being released
    """

    key: int
    function: str
    module: str
    function_address: int | None
    entry: Entry | None
    entry_code: tuple[Instruction, ...]
    entry_symbol: str
    code: DecodedImage
    programs: tuple[ImageProgram, ...]
    current: bool = True

    @property
    def address(self) -> int:
        """Return the kernel address of the image."""
        return self.code.address

    @property
    def symbol(self) -> str:
        """Return its name in kallsyms."""
        return f"bpf_trampoline_{self.key}"

    @property
    def size(self) -> int:
        """Return the size of its code in bytes."""
        return self.code.size

    @property
    def slots(self) -> int:
        """Return the number of argument slots (8 bytes each) it saves."""
        return self.code.slots

    @property
    def flags(self) -> TrampFlag:
        """Return how it was built. JMP_ENTRY is taken from the patched entry if that is known."""
        flags = self.code.flags
        if self.entry is None or not self.patched:
            return flags
        return flags & ~TrampFlag.JMP_ENTRY | (
            TrampFlag.JMP_ENTRY if self.entry.how == "jmp" else TrampFlag(0)
        )

    @property
    def kinds(self) -> dict[str, int]:
        """Count the programs of each kind: fentry, fmod_ret, fexit, fsession."""
        return self.code.kinds

    @property
    def unsettled(self) -> bool:
        """Return True if it was changing or being released when it was read. Read it again."""
        return bool(self.code.problems) or any(
            one.id is None and not one.call.detached for one in self.programs
        )

    @property
    def patched(self) -> bool:
        """Return True if the traced function's entry leads straight to this image."""
        return self.entry is not None and self.entry.target == self.address

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON. Addresses are hex text."""
        code, entry = self.code, self.entry
        return {
            "key": self.key,
            "function": self.function,
            "module": self.module,
            "function_address": _hex(self.function_address),
            "address": f"{self.address:#x}",
            "size": self.size,
            "slots": self.slots,
            "stack_size": code.stack_size,
            "ctx_offset": code.ctx_offset,
            "ret_offset": code.ret_offset,
            "flags": list(self.flags.names),
            "kinds": self.kinds,
            "programs": [program.to_dict() for program in self.programs],
            "entry": None
            if entry is None
            else {
                "how": entry.how,
                "offset": entry.offset,
                "target": _hex(entry.target),
                "symbol": self.entry_symbol,
            },
            "current": self.current,
            "problems": list(code.problems),
        }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"


class _CodeMap:
    """Find the program at an address of machine code."""

    def __init__(self, programs: Iterable[LoadedProgram]) -> None:
        self._rows = sorted(
            (start, start + max(length, 1), program.id, program)
            for program in programs
            for start, length in program.ranges
        )
        self._starts = [row[0] for row in self._rows]

    def find(self, address: int) -> LoadedProgram | None:
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._rows[at][1]:
            return None
        return self._rows[at][3]


def _read_image(read: Read, address: int) -> bytes:
    """Read the bytes an image at `address` can have, as far as they are mapped."""
    page_end = (address | (_PAGE - 1)) + 1
    data = read(address, page_end - address)
    if address + _PAGE > page_end:
        with suppress(BpfError):  # this may be the last mapped page
            data += read(page_end, address + _PAGE - page_end)
    return data


class _Symbols:
    """Name what images call, without sorting the whole symbol table by address.

    Nearly every call goes to one of a few helpers, to a program, or to a place shortly
    after a traced function's start.
    """

    def __init__(self, table: kallsyms.Kallsyms) -> None:
        self._table = table
        self._exact: dict[int, str] = {}
        for prefix in ("__bpf_prog_e", "__bpf_tramp_e", "__x86_return_thunk", "bpf_prog_"):
            self.add(table.find_prefix(prefix))

    def add(self, symbols: Iterable[kallsyms.Symbol]) -> None:
        for symbol in symbols:
            self._exact.setdefault(symbol.addr, symbol.name)

    def __call__(self, address: int) -> tuple[str, int] | None:
        for offset in (0, *_BODY_OFFSETS):
            name = self._exact.get(address - offset)
            if name is not None:
                return name, offset
        found = self._table.lookup(address)
        return None if found is None else (found[0].name, found[1])


def _locate(read: Read, candidates: Iterable[int], code: DecodedImage) -> tuple[int | None, bytes]:
    """Return the traced function's start and first bytes. Of several candidates, take the one
    that fits."""
    found: list[tuple[int, int, bytes]] = []
    for start in candidates:
        try:
            data = read(start, _ENTRY_BYTES)
        except BpfError:
            continue
        entry = decode_entry(data, start)
        fits = (
            2 * (entry.target == code.address)
            + (code.original == start + entry.after)
            + (code.ip == start)
        )
        found.append((-fits, start, data))
    if not found:
        return None, b""
    _, address, data = min(found)
    return address, data


def collect(
    symbols: kallsyms.Kallsyms,
    read: Read,
    loaded: Iterable[LoadedProgram],
    names: Names,
    *,
    only: Callable[[int, str, str], bool] | None = None,
    stale: bool = False,
    lost: Callable[[kallsyms.Symbol], object] = lambda _: None,
) -> list[TrampolineImage]:
    """Decode every image that `symbols` lists.

    :param read: kernel memory
    :param loaded: programs of the kernel, to name what the images call
    :param names: gives function and module of a key
    :param only: (key, function, module) -> whether to read that image at all
    :param stale: also return older images of a key that has a newer one
    :param lost: called with each image that was listed but released before it was read
    """
    programs = {program.id: program for program in loaded}
    # If the list shrinks while it is read, it may name an image twice.
    listed = list(dict.fromkeys(symbols.trampolines()))
    newest = {key: symbol.addr for key, symbol in listed}
    by_code = _CodeMap(programs.values())
    symbolize = _Symbols(symbols)
    out = []
    for key, symbol in listed:
        current = newest[key] == symbol.addr
        if not (current or stale):
            continue
        function, module = names(key)
        if only is not None and not only(key, function, module):
            continue
        target = programs.get(key >> 32) if split_key(key)[2] else None
        if target is not None:
            candidates = [start for start, _ in target.ranges]
        else:
            owner = "" if module == "vmlinux" else module
            named = [one for one in symbols.by_name(function) if one.module == owner]
            symbolize.add(named)
            candidates = [one.addr for one in named]
        try:
            data = _read_image(read, symbol.addr)
        except BpfError:
            data = b""
        if not any(data):  # unmapped memory may also read as zeros
            lost(symbol)
            continue
        code = decode(data, symbol.addr, symbolize)
        address, first = _locate(read, candidates, code)
        entry = decode_entry(first, address) if address is not None else None
        leads = None
        if entry is not None and entry.target is not None:
            here = entry.target == symbol.addr
            leads = (symbol.name, 0) if here else symbolize(entry.target)
        out.append(
            TrampolineImage(
                key=key,
                function=function,
                module=module,
                function_address=address,
                entry=entry,
                entry_code=tuple(disassemble(first, address or 0)),
                entry_symbol=leads[0] if leads is not None else "",
                code=code,
                programs=tuple(_name(call, by_code) for call in code.programs),
                current=current,
            )
        )
    return out


def _name(call: ProgramCall, by_code: _CodeMap) -> ImageProgram:
    program = by_code.find(call.address)
    if program is not None:
        return ImageProgram(call, program.id, program.name, program.tag, program.maps)
    # The symbol still gives tag and name: bpf_prog_<16 hex digits>_<name>.
    prefix, _, rest = call.symbol.partition("bpf_prog_")
    tag, _, name = rest.partition("_")
    return ImageProgram(call, None, name, tag) if not prefix else ImageProgram(call, None, "", "")


# ---- the running kernel -------------------------------------------------------


def loaded_programs() -> list[LoadedProgram]:
    """Read every BPF program of the kernel, by id. One that is unloaded meanwhile is left out.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    out = []
    for number, fd in sys_bpf.walk("prog"):
        if fd is None:
            continue
        try:
            info = sys_bpf.prog_info(fd)
        except BpfError as error:
            # The program was offloaded to a network card that was removed. No image calls it.
            if error.errno != errno.ENODEV:
                raise
            continue
        ranges = tuple(zip(info.jited_ksyms, info.jited_func_lens, strict=False))
        out.append(LoadedProgram(number, info.name, info.tag, info.type, ranges, info.map_ids))
    return out


class ImageReader:
    """Read the running kernel's images as often as needed. BTF and symbols are kept in between.

    :param facts: facts of the running kernel, if you have them; BTF names the functions
    """

    def __init__(self, facts: Facts | None = None) -> None:
        self._btf = KernelBtf() if facts is None else facts.btf
        self._symbols = None if facts is None else facts.kallsyms
        self._modules: dict[int, str] = {}
        self._programs: dict[int, str] = {}
        #: Images that were listed but released before the last `read` reached them.
        self.lost: list[kallsyms.Symbol] = []

    def _names(self, key: int) -> tuple[str, str]:
        obj, btf_id, is_program = split_key(key)
        if is_program:
            return self._programs.get(obj, ""), f"prog {obj}"
        if obj not in self._modules:
            self._modules = {found.id: found.name for found in objects() if found.kernel}
        module = self._modules.get(obj, "")
        btf: Btf | None = self._btf.get(module) if module else None
        if btf is None or not 0 < btf_id < btf.nr_types:
            return "", module
        return btf.name(btf_id), module

    def read(
        self, *, only: Callable[[int, str, str], bool] | None = None, stale: bool = False
    ) -> list[TrampolineImage]:
        """Read the images of this moment. The parameters are those of `collect`.

        :raises DeniedByPolicy: if kernel addresses or memory may not be read
        """
        self.lost = []
        symbols = self._symbols = kallsyms.read(before=self._symbols)
        if not symbols.trampolines():
            return []
        loaded = loaded_programs()
        self._programs = {program.id: program.name for program in loaded}
        with kcore.open_memory() as memory:
            return collect(
                symbols,
                memory.read,
                loaded,
                self._names,
                only=only,
                stale=stale,
                lost=self.lost.append,
            )


def images(*, stale: bool = False, facts: Facts | None = None) -> Iterator[TrampolineImage]:
    """Read the trampoline images the kernel has at this moment, oldest first.

    :param stale: also return images that a newer one of the same function has replaced
    :param facts: facts of the running kernel; its BTF and symbols are then not read again
    :raises DeniedByPolicy: if kernel addresses or memory may not be read
    """
    return iter(ImageReader(facts).read(stale=stale))


def image_of(
    function: str, module: str = "", *, facts: Facts | None = None
) -> TrampolineImage | None:
    """Read the newest image for one function. Return None if nothing traces it.

    :param function: name in its BTF
    :param module: its module; "" takes the first that fits
    :param facts: as for `images`
    :raises DeniedByPolicy: if kernel addresses or memory may not be read
    """
    reader = ImageReader(facts)

    def wanted(_: int, name: str, owner: str) -> bool:
        return name == function and module in ("", owner)

    found = reader.read(only=wanted)
    for _ in range(_READINGS - 1):
        if found and not found[0].unsettled:
            break
        if not found and not reader.lost:
            return None
        time.sleep(_PAUSE)
        found = reader.read(only=wanted)
    return found[0] if found else None
