"""From a blueprint and a kernel's types to the code of one program.

A program calls functions of .text that the compiler put elsewhere. Linking
copies the program's code, appends each function it reaches once, depth first in
the order of the calls, and rewrites call distances. Then it applies what depends
on the kernel: CO-RE relocations, kernel variables and kfuncs by BTF id, and
addresses by name. Map references become map numbers, because no map exists yet.

The bytes are those libbpf would load for the program, including its quirks. An
unresolved weak variable is address 0. An unresolved weak kfunc is a call of helper
2002000000 + number of the extern. A map that is not created is a call of helper
2001000000 + number of the map. The verifier accepts these calls only in dead code.

Nothing here asks a kernel anything: `LinkTarget` has all that is needed.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import chain

from .._uapi import defines as uapi
from ..asm.opcodes import CALL, JMP, LDIMM64
from ..btf import Btf, BtfKind, DeclTag, Func, FuncProto, Linkage, Var
from ..btf.core import CandidateCache, relocate, types_compatible
from ..btf.names import essential_name
from ..dataclass import dataclass, field
from ..errors import ObjectFormatError, RelocationError
from .relocs import FunctionIndex
from .spec import (
    KCONFIG,
    KSYMS,
    R_CALL,
    R_DATA,
    R_EXTERN,
    R_FUNC,
    R_JUMPTABLE,
    R_KFUNC,
    R_MAP,
    Extern,
    Function,
    ObjectSpec,
    Reloc,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import TypeVar

    from ..btf.core import CoreResult
    from ..btf.ext import CoreRelo

    _Row = TypeVar("_Row")

__all__ = ["LinkTarget", "LinkedProgram", "Linker", "MapRef", "Resolved"]

FUNC_INFO_SIZE = 8  # struct bpf_func_info
LINE_INFO_SIZE = 16  # struct bpf_line_info
POISONED_MAP = 2001000000
POISONED_KFUNC = 2002000000
# The kernel refuses longer programs (BPF_COMPLEXITY_LIMIT_INSNS).
MAX_INSNS = 1_000_000

_SLOT = struct.Struct("<BBhi")
_IMM = struct.Struct("<i")
_CALL = JMP | CALL


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Hold what linking has to know about a kernel.

    :param btf: its BTF; None if it has none or it is not needed
    :param modules: BTF of modules by name, split from `btf`; may be read on demand
    :param ksym_addr: returns the address of a kernel symbol, None if it does not exist;
        raises RelocationError if there are several. None: addresses are not known.
    :param kernel_version: ``LINUX_VERSION_CODE``
    :param has_bpf_cookie: value of ``LINUX_HAS_BPF_COOKIE``
    :param has_syscall_wrapper: value of ``LINUX_HAS_SYSCALL_WRAPPER``
    """

    btf: Btf | None = None
    modules: Mapping[str, Btf] = field(default_factory=dict)
    ksym_addr: Callable[[str], int | None] | None = None
    kernel_version: int = 0
    has_bpf_cookie: bool = True
    has_syscall_wrapper: bool = True

    @property
    def virtual_kconfig(self) -> dict[str, int]:
        """Return the .kconfig values that do not come from a configuration file."""
        return {
            "LINUX_KERNEL_VERSION": self.kernel_version,
            "LINUX_HAS_BPF_COOKIE": self.has_bpf_cookie,
            "LINUX_HAS_SYSCALL_WRAPPER": self.has_syscall_wrapper,
        }


@dataclass(frozen=True, slots=True)
class MapRef:
    """Describe a map reference in linked code.

    :param insn: index of the ldimm64, in 8-byte slots
    :param map: name of the map
    :param kind: "fd", or "value" for an address in the map's only value
    :param offset: bytes into the value
    """

    insn: int
    map: str
    kind: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Resolved:
    """Hold what an extern resolved to.

    :param btf_id: VAR or FUNC in the kernel's or a module's BTF, 0 if unresolved
    :param module: name of the module, "" for the kernel itself
    :param address: from kallsyms, 0 if unresolved
    """

    btf_id: int = 0
    module: str = ""
    address: int = 0


@dataclass(frozen=True, slots=True)
class LinkedProgram:
    """Hold the code of one program for one kernel.

    :param insns: instructions, with map numbers instead of map fds. References to a module's
        BTF are fd 1 in ldimm64, and index into `kfunc_modules` + 1 in calls.
    :param map_refs: the instructions that need a map's fd
    :param btf_fd_refs: (index of an ldimm64, module) that need a module BTF's fd in
        their second slot
    :param addresses: (index of an ldimm64, symbol) that hold a kernel address, which
        changes with every boot
    :param kfunc_modules: fd_array[1:], names of modules
    :param func_info: ``struct bpf_func_info`` records, empty if not known
    :param line_info: ``struct bpf_line_info`` records, empty if not known
    :param functions: (name, first instruction) of each function, the program first
    :param core: one result per CO-RE relocation
    :param unresolved: weak externs and maps behind poisoned instructions: helper number -> name
    :param kfunc_args: instruction of each kfunc call, resolved or not -> arguments it takes
    :param kfunc_names: instruction of each kfunc call, resolved or not -> its name
    """

    name: str
    insns: bytes
    map_refs: tuple[MapRef, ...] = ()
    btf_fd_refs: tuple[tuple[int, str], ...] = ()
    addresses: tuple[tuple[int, str], ...] = ()
    kfunc_modules: tuple[str, ...] = ()
    func_info: bytes = b""
    line_info: bytes = b""
    func_info_rec_size: int = FUNC_INFO_SIZE
    line_info_rec_size: int = LINE_INFO_SIZE
    functions: tuple[tuple[str, int], ...] = ()
    core: tuple[CoreResult, ...] = ()
    unresolved: Mapping[int, str] = field(default_factory=dict)
    kfunc_args: Mapping[int, int] = field(default_factory=dict)
    kfunc_names: Mapping[int, str] = field(default_factory=dict)


class Linker:
    """Link the programs of one object for one kernel. Externs are looked up once."""

    def __init__(
        self, spec: ObjectSpec, kernel: LinkTarget, *, skip_maps: Collection[str] = ()
    ) -> None:
        self.spec = spec
        self.kernel = kernel
        self.skip_maps = skip_maps
        self._index = FunctionIndex(spec.functions)
        self._resolved: dict[int, Resolved | None] = {}
        self._candidates: CandidateCache | None = None
        self._known: dict[int, list[str]] = {}  # names of the kernel by BtfKind, for errors

    def candidates(self, local: Btf) -> CandidateCache:
        """Return the candidates for the object's types, found once for all programs."""
        if self._candidates is None:
            self._candidates = CandidateCache(local, _Targets(self.kernel))
        return self._candidates

    # Externs.

    def resolve(self, number: int) -> Resolved | None:
        """Find an extern of .ksyms in this kernel. None for a weak one that does not exist.

        :param number: index in `ObjectSpec.externs`
        :raises RelocationError: a strong one does not exist, or its type does not fit
        """
        if number not in self._resolved:
            self._resolved[number] = self._resolve(self.spec.externs[number])
        return self._resolved[number]

    @property
    def depends_on_modules(self) -> bool:
        """Tell whether what it found may change when modules come, go or move.

        A name that was missing may later be in a module, and an address may be a module's.
        """
        return any(r is None or r.module or r.address for r in self._resolved.values())

    def _resolve(self, extern: Extern) -> Resolved | None:
        if extern.type_id or extern.is_func:
            found = self._by_btf(extern)
        else:
            find = self.kernel.ksym_addr
            if find is None and not extern.weak:
                raise RelocationError(f"extern {extern.name!r}: kernel addresses are not known")
            address = find(extern.name) if find is not None else None
            found = Resolved(address=address) if address is not None else None
        if found is None and not extern.weak:
            what = "kfunc" if extern.is_func else "extern"
            hint = self._near(extern)
            raise RelocationError(f"{what} {extern.name!r} does not exist in the kernel{hint}")
        return found

    def _near(self, extern: Extern) -> str:
        # Kernel functions or variables of a name that comes near.
        btf = self.kernel.btf
        if btf is None:
            return ""
        from ..btf.absent import near  # only for errors

        kind = BtfKind.FUNC if extern.is_func else BtfKind.VAR
        if kind not in self._known:  # an object may lack many, and all names take 30 ms
            self._known[kind] = [btf.name(one) for one in btf.ids(kind)]
        found = near(essential_name(extern.name), self._known[kind])
        return f" (near: {', '.join(found)})" if found else ""

    def _by_btf(self, extern: Extern) -> Resolved | None:
        kernel, local = self.kernel, self.spec.btf
        if kernel.btf is None or local is None:
            if extern.weak:
                return None
            raise RelocationError(f"extern {extern.name!r}: the kernel has no BTF")
        name = essential_name(extern.name) if extern.is_func else extern.name
        kind = BtfKind.FUNC if extern.is_func else BtfKind.VAR
        places = chain([("", kernel.btf)], kernel.modules.items())
        hits = ((module, btf, btf.find(name, kind)) for module, btf in places)
        module, btf, found = next((hit for hit in hits if hit[2]), ("", kernel.btf, None))
        if not found:
            return None
        symbol = btf.type(found)
        assert isinstance(symbol, (Var, Func))
        theirs = symbol.type if extern.is_func else btf.skip_mods_and_typedefs(symbol.type)
        if not types_compatible(local, extern.type_id, btf, theirs):
            if extern.weak and extern.is_func:
                return None
            raise RelocationError(f"extern {extern.name!r}: its type is not that of the kernel's")
        return Resolved(btf_id=found, module=module)

    @cached_property
    def kfunc_modules(self) -> tuple[str, ...]:
        """List the modules with kfuncs that the object calls, in the order of the externs."""
        found: dict[str, None] = {}
        for number, extern in enumerate(self.spec.externs):
            if extern.section == KSYMS and extern.is_func:
                try:
                    resolved = self.resolve(number)
                except RelocationError:
                    continue  # the program that needs it will say so
                if resolved is not None and resolved.module:
                    found[resolved.module] = None
        return tuple(found)

    @cached_property
    def exception_callbacks(self) -> dict[str, list[str]]:
        """Read the names of exception callbacks by program from declaration tags in BTF."""
        btf, prefix = self.spec.btf, "exception_callback:"
        found: dict[str, list[str]] = {}
        if btf is None:
            return found
        for tag_id in btf.ids(BtfKind.DECL_TAG):
            tag = btf.type(tag_id)
            if not isinstance(tag, DeclTag) or tag.component_idx != -1:
                continue
            if not tag.name.startswith(prefix):
                continue
            func = btf.type(tag.type)
            if not isinstance(func, Func) or func.linkage != Linkage.GLOBAL:
                raise RelocationError(f"{tag.name!r} tags something that is not a program")
            found.setdefault(func.name, []).append(tag.name.removeprefix(prefix))
        return found

    @cached_property
    def core_relos(self) -> dict[str, tuple[list[int], list[CoreRelo]]]:
        """Return CO-RE relocations by section, with their byte offsets, ascending."""
        btf_ext = self.spec.btf_ext
        return _by_offset(btf_ext.core_relos, lambda relo: relo.insn_off) if btf_ext else {}

    @cached_property
    def func_info(self) -> dict[str, tuple[list[int], list[tuple[int, int]]]]:
        """Return func_info by section, with byte offsets, ascending."""
        btf_ext = self.spec.btf_ext
        return _by_offset(btf_ext.func_info, lambda row: row[0]) if btf_ext else {}

    @cached_property
    def line_info(self) -> dict[str, tuple[list[int], list[tuple[int, int, int, int]]]]:
        """Return line_info by section, with byte offsets, ascending."""
        btf_ext = self.spec.btf_ext
        return _by_offset(btf_ext.line_info, lambda row: row[0]) if btf_ext else {}

    # Programs.

    def link(self, name: str) -> LinkedProgram:
        """Link the code and records of a program.

        :raises RelocationError: something it refers to does not exist or does not fit
        :raises KeyError: if the program does not exist
        """
        program = self.spec.programs[name]
        main = self._index.find(program.function.section, program.function.start)
        if main is None or self.spec.functions[main].name != name:
            # If two symbols have one address, both have the same code.
            main = self.spec.functions.index(program.function)
        try:
            image = _Image(self, name)
            image.append(main)
            image.append_exception_callback(main)
            core = image.apply_core()
            image.apply_references()
            func_info, line_info = image.debug_info()
        except (RelocationError, ObjectFormatError) as err:
            if isinstance(err, RelocationError):
                err.program = err.program or name
                err.source = err.source or image.source(err.insn)
            raise
        return LinkedProgram(
            name,
            bytes(image.code),
            tuple(image.map_refs),
            tuple(image.btf_fd_refs),
            tuple(image.addresses),
            self.kfunc_modules if image.calls_module else (),
            func_info,
            line_info,
            functions=tuple(
                (self.spec.functions[number].name, at) for number, at in image.position.items()
            ),
            core=tuple(core),
            unresolved=image.unresolved,
            kfunc_args=image.kfunc_args,
            kfunc_names=image.kfunc_names,
        )


class _Image:
    """Collect the code of a program."""

    def __init__(self, linker: Linker, program: str) -> None:
        self.linker = linker
        self.spec = linker.spec
        self.program = program
        self.code = bytearray()
        self.position: dict[int, int] = {}  # first instruction by function number
        self.map_refs: list[MapRef] = []
        self.btf_fd_refs: list[tuple[int, str]] = []
        self.addresses: list[tuple[int, str]] = []
        self.calls_module = False
        self.unresolved: dict[int, str] = {}
        self.kfunc_args: dict[int, int] = {}
        self.kfunc_names: dict[int, str] = {}

    def error(self, what: str, insn: int) -> RelocationError:
        return RelocationError(what, program=self.program, insn=insn)

    # Functions.

    def append(self, number: int) -> None:
        """Append a function and, depth first, the functions it calls that are still missing."""
        # A generator per function replaces recursion, because a forged
        # object could nest calls without limit.
        stack = [self._calls(number)]
        while stack:
            called = next(stack[-1], None)
            if called is None:
                stack.pop()
            elif called not in self.position:
                stack.append(self._calls(called))

    def _calls(self, number: int) -> Iterator[int]:
        """Copy a function; yield each function it refers to, then fix the reference."""
        function = self.spec.functions[number]
        start = len(self.code) // 8
        if start + function.count > MAX_INSNS:
            raise RelocationError("more than 1,000,000 instructions", program=self.program)
        self.position[number] = start
        self.code += function.code
        relocs = {reloc.insn: reloc for reloc in self.spec.relocs.get(number, ())}
        for insn, opcode in enumerate(bytes(function.code[::8])):
            reloc = relocs.get(insn)
            if opcode == _CALL:
                registers, off = self._registers(start + insn)
                if registers != uapi.BPF_PSEUDO_CALL << 4 or off:
                    continue
                if reloc is not None and reloc.kind == R_KFUNC:
                    continue
            elif opcode != LDIMM64 or reloc is None or reloc.kind != R_FUNC:
                continue
            called = self._called(function, insn, opcode, reloc)
            yield called
            if opcode == LDIMM64:
                self.code[8 * (start + insn) + 1] |= uapi.BPF_PSEUDO_FUNC << 4
            _IMM.pack_into(
                self.code,
                8 * (start + insn) + 4,
                self.position[called] - (start + insn) - 1,
            )

    def _registers(self, insn: int) -> tuple[int, int]:
        _, registers, off, _ = _SLOT.unpack_from(self.code, 8 * insn)
        return registers, off

    def _called(self, function: Function, insn: int, opcode: int, reloc: Reloc | None) -> int:
        """Return the number of the function that a call or address refers to."""
        (imm,) = _IMM.unpack_from(function.code, 8 * insn + 4)
        if reloc is None:
            # A static function of the same section has no relocation, only a distance.
            target = function.start + insn + imm + 1
        elif reloc.kind == R_CALL:
            target = reloc.offset // 8 + imm + 1
        elif reloc.kind == R_FUNC and opcode == LDIMM64:
            target = (reloc.offset + imm) // 8
        else:
            raise self.error(f"function {function.name!r} calls something else", insn)
        found = self.linker._index.find(self.spec.text, target) if self.spec.text else None
        if found is None:
            raise self.error(f"function {function.name!r} calls no function of .text", insn)
        return found

    def append_exception_callback(self, main: int) -> None:
        """Append the function that a declaration tag of the program names, if there is one."""
        callbacks = self.linker.exception_callbacks.get(self.spec.functions[main].name, ())
        if len(callbacks) != 1:
            return  # several: the verifier refuses them itself
        (callback,) = callbacks
        for number, function in enumerate(self.spec.functions):
            if function.section == self.spec.text and function.name == callback:
                if not function.is_global or function.hidden:
                    raise RelocationError(f"exception callback {callback!r} is not global")
                if number not in self.position:
                    self.append(number)
                return
        raise RelocationError(f"no exception callback {callback!r}")

    # Relocations.

    def apply_core(self) -> list[CoreResult]:
        """Apply CO-RE relocations of all functions, in the order of .BTF.ext."""
        spec, kernel = self.spec, self.linker.kernel
        todo = []
        placed: dict[str, list[tuple[Function, int]]] = {}
        for number, at in self.position.items():
            function = spec.functions[number]
            placed.setdefault(function.section_name, []).append((function, at))
        tables = self.linker.core_relos
        for section in tables if len(placed) > 1 else placed:
            offsets, relos = tables.get(section, ([], []))
            for function, at in placed.get(section, ()):
                first, end = _span(function, offsets)
                shift = 8 * (at - function.start)
                todo += [(relo.insn_off + shift, relo) for relo in relos[first:end]]
        if not todo or spec.btf is None:
            return []
        return relocate(
            self.code,
            todo,
            spec.btf,
            _Targets(kernel),
            program=self.program,
            cache=self.linker.candidates(spec.btf),
        )

    def apply_references(self) -> None:
        """Fill in references to maps, kernel variables and kfuncs."""
        for number, start in self.position.items():
            for reloc in self.spec.relocs.get(number, ()):
                self._refer(start + reloc.insn, reloc)

    def _refer(self, insn: int, reloc: Reloc) -> None:
        if reloc.kind == R_MAP:
            self._put_map(insn, reloc.number, uapi.BPF_PSEUDO_MAP_FD)
        elif reloc.kind == R_DATA:
            (addend,) = _IMM.unpack_from(self.code, 8 * insn + 4)
            offset = addend + reloc.offset & 0xFFFFFFFF
            self._put_map(insn, reloc.number, uapi.BPF_PSEUDO_MAP_VALUE, offset)
        elif reloc.kind == R_EXTERN:
            self._put_extern(insn, reloc.number)
        elif reloc.kind == R_KFUNC:
            self._put_kfunc(insn, reloc.number)
        elif reloc.kind == R_JUMPTABLE:
            raise self.error("jump tables (.jumptables) are not supported", insn)

    def _put_map(self, insn: int, index: int, pseudo: int, offset: int | None = None) -> None:
        name = self.spec.map_names[index]
        if name in self.linker.skip_maps or not self.spec.maps[name].autocreate:
            self._poison(insn, 2, POISONED_MAP + index, f"map {name!r}")
            return
        at = 8 * insn
        self.code[at + 1] = self.code[at + 1] & 0x0F | pseudo << 4
        _IMM.pack_into(self.code, at + 4, index)
        if offset is None:
            self.map_refs.append(MapRef(insn, name, "fd"))
        else:
            self.code[at + 12 : at + 16] = offset.to_bytes(4, "little")
            self.map_refs.append(MapRef(insn, name, "value", offset))

    def _put_extern(self, insn: int, number: int) -> None:
        extern = self.spec.externs[number]
        at = 8 * insn
        if extern.section == KCONFIG:
            index = self.spec.map_names.index(KCONFIG)
            self._put_map(insn, index, uapi.BPF_PSEUDO_MAP_VALUE, extern.offset)
            return
        found = self._resolve(insn, number)
        low, high = 0, 0
        if found is not None and found.btf_id:
            self.code[at + 1] = self.code[at + 1] & 0x0F | uapi.BPF_PSEUDO_BTF_ID << 4
            low = found.btf_id
            if found.module:
                high = 1
                self.btf_fd_refs.append((insn, found.module))
        elif found is not None:
            low, high = found.address & 0xFFFFFFFF, found.address >> 32
            self.addresses.append((insn, extern.name))
        self.code[at + 4 : at + 8] = low.to_bytes(4, "little")
        self.code[at + 12 : at + 16] = high.to_bytes(4, "little")

    def _put_kfunc(self, insn: int, number: int) -> None:
        self.kfunc_args[insn] = self._arguments(number)
        self.kfunc_names[insn] = essential_name(self.spec.externs[number].name)
        found = self._resolve(insn, number)
        if found is None:
            name = self.spec.externs[number].name
            self._poison(insn, 1, POISONED_KFUNC + number, f"kfunc {name!r}")
            return
        index = 0
        if found.module:
            index = self.linker.kfunc_modules.index(found.module) + 1
            self.calls_module = True
        _, registers, _, _ = _SLOT.unpack_from(self.code, 8 * insn)
        _SLOT.pack_into(
            self.code,
            8 * insn,
            _CALL,
            registers & 0x0F | uapi.BPF_PSEUDO_KFUNC_CALL << 4,
            index,
            found.btf_id,
        )

    def _arguments(self, number: int) -> int:
        btf = self.spec.btf
        assert btf is not None  # an extern needs BTF
        func = btf.type(self.spec.externs[number].btf_id)
        proto = btf.type(func.type) if isinstance(func, Func) else None
        return len(proto.params) if isinstance(proto, FuncProto) else 5

    def _resolve(self, insn: int, number: int) -> Resolved | None:
        try:
            return self.linker.resolve(number)
        except RelocationError as err:
            raise self.error(err.what, insn) from None

    def _poison(self, insn: int, slots: int, helper: int, what: str) -> None:
        # Writes calls of a helper that does not exist. That is fine in code that is never reached.
        for slot in range(insn, insn + slots):
            _SLOT.pack_into(self.code, 8 * slot, _CALL, 0, 0, helper)
        self.unresolved[helper] = what

    # Debug information.

    def source(self, insn: int | None) -> str:
        """Source line of an instruction, "" if it is not known."""
        from .missing import source_line  # only for errors

        if insn is None:
            return ""
        try:
            return source_line(self.debug_info()[1], self.spec.btf, insn)
        except (RelocationError, ObjectFormatError):
            return ""

    def debug_info(self) -> tuple[bytes, bytes]:
        """Return func_info and line_info of all functions, the program's first.

        Without records for the program itself none are returned. Missing
        records of a subprogram are an error, because the kernel requires all or nothing.
        """
        return (
            self._records("func_info", self.linker.func_info, struct.Struct("<II")),
            self._records("line_info", self.linker.line_info, struct.Struct("<IIII")),
        )

    def _records(
        self,
        what: str,
        table: Mapping[str, tuple[list[int], Sequence[tuple[int, ...]]]],
        record: struct.Struct,
    ) -> bytes:
        out = bytearray()
        for number, at in self.position.items():
            function = self.spec.functions[number]
            offsets, rows = table.get(function.section_name, ([], ()))
            first, end = _span(function, offsets)
            if first == end:
                if not out:
                    return b""
                raise RelocationError(f"no {what} of function {function.name!r} in .BTF.ext")
            for row in rows[first:end]:
                out += record.pack(row[0] // 8 - function.start + at, *row[1:])
        return bytes(out)


class _Targets(Sequence[Btf]):
    """Hold the kernel's BTF, then those of modules, which are only read if needed."""

    def __init__(self, kernel: LinkTarget) -> None:
        self._kernel = kernel

    def __iter__(self) -> Iterator[Btf]:
        if self._kernel.btf is not None:
            yield self._kernel.btf
            yield from self._kernel.modules.values()

    def __len__(self) -> int:
        return 1 + len(self._kernel.modules) if self._kernel.btf is not None else 0

    def __getitem__(self, index: int) -> Btf:  # type: ignore[override]  # never sliced
        return list(self)[index]


def _by_offset(
    table: Mapping[str, list[_Row]], offset: Callable[[_Row], int]
) -> dict[str, tuple[list[int], list[_Row]]]:
    # Sorted, so that a function's records are a slice. The compiler already sorts them.
    found = {}
    for section, rows in table.items():
        rows = sorted(rows, key=offset)
        found[section] = ([offset(row) for row in rows], rows)
    return found


def _span(function: Function, offsets: list[int]) -> tuple[int, int]:
    """Find the slice of a section's sorted records that belongs to one function."""
    first = bisect_left(offsets, 8 * function.start)
    return first, bisect_left(offsets, 8 * (function.start + function.count), first)
