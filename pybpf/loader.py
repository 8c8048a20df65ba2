"""From an object file to maps and programs in the kernel.

`open` only parses: no privileges, same result anywhere. `Object.load` then, in
libbpf's order, loads the object's own BTF, creates the maps (filling and
freezing the data sections), relocates each wanted program against the running
kernel and loads it. Whatever fails, everything made so far is closed (and
unpinned) again and the error names the object. `Object.attach` attaches what its sections say, all
or nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import IO, TYPE_CHECKING

from ._sys import bpf as sys_bpf
from ._sys.files import is_one_name
from ._uapi.enums import MapType
from .btf import Btf
from .btf.encode import BTF_FEATURES, sanitize
from .errors import (
    BpfError,
    DeniedByPolicy,
    ObjectFormatError,
    RelocationError,
    UnsupportedFeature,
)
from .globals import Globals
from .kernel.config import kernel_config, version_code
from .kernel.host import Facts, SavedBtf
from .links import LinkSet
from .maps import Map
from .names import ByName
from .obj.externs import kconfig_values
from .obj.linker import LinkedProgram, Linker, LinkTarget
from .obj.reader import read_object
from .programs import Prepared, Program

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ._sys.fd import Fd
    from .kernel.btf import KernelBtf
    from .multi.programs import MultiPrograms
    from .obj.spec import ObjectSpec, ProgramSpec

__all__ = ["Object", "open_object"]

PIN_ROOT = "/sys/fs/bpf"
_PIN_BY_NAME = 1  # LIBBPF_PIN_BY_NAME


def _read(
    source: str | bytes | bytearray | memoryview | os.PathLike[str] | IO[bytes],
) -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), ""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        with open(path, "rb") as file:
            return file.read(), path
    data = source.read() if hasattr(source, "read") else None
    if not isinstance(data, bytes):
        kind = type(source).__name__
        raise TypeError(f"a path, bytes or a file opened in binary mode is needed, not {kind}")
    return data, str(getattr(source, "name", ""))


def open_object(
    source: str | bytes | bytearray | memoryview | os.PathLike[str] | IO[bytes],
    kernel_btf: Btf | str | os.PathLike[str] | bytes | None = None,
    *,
    facts: Facts | None = None,
) -> Object:
    """Parse a compiled BPF object (ELF64, EM_BPF). Needs no privileges.

    :param source: path, bytes or binary file
    :param kernel_btf: BTF to relocate against instead of the running kernel's: a `Btf`, raw
        bytes, or a path to a raw blob
    :param facts: what is known of the running kernel, to share it between objects
    :returns: an object that owns what it will load; use it as a context manager
    :raises ObjectFormatError: naming file, section and offset
    :raises OSError: if the file cannot be read
    """
    data, name = _read(source)
    spec = read_object(data, name)
    btf: Btf | None = None
    if isinstance(kernel_btf, Btf):
        btf = kernel_btf
    elif kernel_btf is not None:
        blob, label = _read(kernel_btf)
        btf = Btf(blob, name=label)
    return Object(spec, btf, facts)


class _ModuleBtfs(Mapping[str, Btf]):
    # Modules' BTF, read when somebody looks.
    def __init__(self, kernel: KernelBtf | SavedBtf) -> None:
        self._kernel = kernel

    @property
    def _names(self) -> list[str]:
        return [name for name in self._kernel.modules() if name != "vmlinux"]

    def __getitem__(self, name: str) -> Btf:
        found = self._kernel.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _is_for_caller(program: Program, problem: BpfError) -> bool:
    # Neither what the caller turned on or off, nor what libbpf attaches and pybpf does not yet.
    if program.autoattach != program.spec.autoattach:
        return False
    return not (program.autoattach and isinstance(problem, UnsupportedFeature))


class Object:
    """An opened object file and, after `load`, its maps and programs.

    `open` makes one. Change `globals` and maps' sizes, `load`, then `attach`, which gives a
    `LinkSet`; a ``*.multi`` program that is attached is a `MultiLink`, with the functions it is
    on and those it left out. Read maps as mappings (`Map`) and events with `RingBuffer`: structs
    come as `Record`. Closing it closes maps and programs, and leaves links alone.

    :ivar programs: mapping name -> `Program`, in the file's order; the KeyError of an unknown
        name suggests near ones
    :ivar maps: mapping name -> `Map`; data sections by section name (".bss")
    :ivar globals: the C global variables, typed from BTF
    """

    def __init__(self, spec: ObjectSpec, kernel_btf: Btf | None, facts: Facts | None) -> None:
        self.spec = spec
        self.facts = facts if facts is not None else Facts()
        self._kernel_btf = kernel_btf
        self._fds = ExitStack()
        self._btf_fd: Fd | None = None
        self._module_fds: dict[str, tuple[int, Fd]] = {}  # with the number of the module's BTF
        self._linked: dict[str, LinkedProgram] = {}
        self._loaded = False
        self._prepared = False
        self._closed = False
        self._pinned_now: list[Map] = []  # by the running `load` or `prepare`
        #: Why the kernel refused the object's own BTF, None if it took it.
        self.btf_error: BpfError | None = None
        self.programs: Mapping[str, Program] = ByName(
            "program", {name: Program(program, self) for name, program in spec.programs.items()}
        )
        self.maps: Mapping[str, Map] = ByName(
            "map", {name: Map(map_spec, spec.btf) for name, map_spec in spec.maps.items()}
        )
        self.globals = Globals(spec, self.maps)
        #: Where maps that ask to be pinned by name go.
        self.pin_root = PIN_ROOT

    @property
    def name(self) -> str:
        """File name as given, "" for bytes."""
        return self.spec.name

    @property
    def loaded(self) -> bool:
        return self._loaded

    @property
    def btf_fd(self) -> int:
        """Descriptor of the object's own BTF in the kernel, 0 if it has none there."""
        return self._btf_fd.fileno() if self._btf_fd is not None else 0

    # -- loading

    def load(self) -> None:
        """Create the maps and load every program with ``autoload`` set.

        Multi programs (``*.multi``) are loaded when they are attached.

        :raises VerifierError: the verifier refused a program; ``.log`` has all it said
        :raises RelocationError: a program refers to something this kernel lacks
        :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
        :raises BpfError: any other refusal, naming the map or program
        """
        if self._loaded:
            raise BpfError(errno.EEXIST, self.spec.name or "object", "it is loaded already")
        self._pinned_now.clear()
        try:
            for bpf_map in self.maps.values():
                if bpf_map.spec.struct_ops is not None and bpf_map.spec.autocreate:
                    what = f"map {bpf_map.name!r}: loading struct_ops"
                    raise UnsupportedFeature(what, by="pybpf yet")
            self.prepare()
            for program in self.programs.values():
                if program.autoload and not program.is_multi:
                    program.load()
            self._fill_program_arrays()
        except BaseException as error:
            self._undo()
            if isinstance(error, BpfError) and self.spec.name:
                error.add_context(self.spec.name)
            if isinstance(error, RelocationError):
                error.file = self.spec.name
            if isinstance(error, BpfError) and self.btf_error is not None:
                error.add_note(f"the object was loaded without its BTF: {self.btf_error}")
            raise
        self._loaded = True

    def prepare(self) -> None:
        """Load the object's BTF and create the maps, but no program. Once; `load` does it.

        For loading programs one by one (`Program.load`).

        :raises BpfError: EBADF: it has been closed
        """
        if self._closed:
            raise BpfError(errno.EBADF, "using the object", "it is closed; open it again")
        if self._prepared:
            return
        self._pinned_now.clear()
        try:
            self._fill_kconfig()
            self._load_btf()
            self._create_maps()
        except BaseException:
            self._undo()
            raise
        self._prepared = True

    def _undo(self) -> None:
        while self._pinned_now:
            with suppress(OSError):  # somebody may have removed it
                self._pinned_now.pop().unpin()
        self.close()

    def _fill_kconfig(self) -> None:
        for bpf_map in self.maps.values():
            if bpf_map.spec.data == "kconfig" and self.spec.btf is not None:
                target = self.link_target
                bpf_map.initial = bytearray(
                    kconfig_values(
                        self.spec.externs,
                        self.spec.btf,
                        virtual=target.virtual_kconfig,
                        config=target.config,
                    )
                )

    @cached_property
    def _btf_and_twins(self) -> tuple[bytes | None, Mapping[int, int]]:
        # What BPF_BTF_LOAD takes. A plan has the twins' ids in it, perhaps before the blob is
        # loaded, so both come from here; `sanitize` keeps ids.
        blob = self.spec.btf_for_load()
        if blob is None or not any(program.is_multi for program in self.programs.values()):
            return blob, {}
        from .btf.twins import add_static_twins

        return add_static_twins(blob)

    @property
    def static_twins(self) -> Mapping[int, int]:
        """BTF id of each FUNC -> id of its twin with static linkage (multi programs only)."""
        return self._btf_and_twins[1]

    def _load_btf(self) -> None:
        blob, _ = self._btf_and_twins
        if blob is None:
            return
        # An older kernel may not know what a newer clang writes: take it away, newest first.
        features = list(BTF_FEATURES)
        for known in range(len(features), -1, -1):
            older = sanitize(blob, features[:known])
            if older == blob and known < len(features):
                continue
            try:
                self._btf_fd = self._fds.enter_context(sys_bpf.btf_load(older))
            except DeniedByPolicy:
                raise
            except BpfError as error:
                self.btf_error = self.btf_error or error
            else:
                self.btf_error = None
                return
        # libbpf goes on without too: only some map types cannot do without.

    def _pin_path(self, bpf_map: Map) -> str:
        # Where a map that asks to be pinned by its name goes. A name comes from the object, so
        # it may be anything; what is pinned stays right below `pin_root`.
        if bpf_map.pin_path:
            return bpf_map.pin_path
        name = bpf_map.name
        why = ""
        if not is_one_name(name):
            why = "it is a path, not the name of a file"
        elif "." in name:
            why = "a bpf file system takes no name with a dot in it"
        if why:
            raise ObjectFormatError(
                f"map {name!r} asks to be pinned by its name: {why}; "
                "rename it, or set the map's pin_path before loading",
                file=self.spec.name,
            )
        return f"{self.pin_root}/{name}"

    def _create_maps(self) -> None:
        btf_fd = self.btf_fd
        for bpf_map in self.maps.values():
            if bpf_map.spec.pinning == _PIN_BY_NAME and bpf_map.spec.autocreate:
                self._pin_path(bpf_map)  # before anything is made
        for bpf_map in self.maps.values():
            if not bpf_map.spec.autocreate or bpf_map.created:
                continue
            if bpf_map.spec.struct_ops is None:  # `load` refuses those; programs may do without
                self._create_map(bpf_map, btf_fd)
        for bpf_map in self.maps.values():
            if bpf_map.type != MapType.BPF_MAP_TYPE_PROG_ARRAY and bpf_map.created:
                for index, name in bpf_map.spec.slots:
                    bpf_map[index] = self.maps[name]

    def _create_map(self, bpf_map: Map, btf_fd: int) -> None:
        path = ""
        if bpf_map.spec.pinning == _PIN_BY_NAME:
            path = self._pin_path(bpf_map)
            try:
                pinned = sys_bpf.obj_get(path)
            except BpfError as error:
                if error.errno != errno.ENOENT:
                    raise
            else:
                with pinned:
                    wrong = bpf_map.differences(pinned)
                    if wrong:
                        raise BpfError(
                            errno.EINVAL,
                            f"map {bpf_map.name!r} pinned at {path}",
                            f"it differs from the object's: {', '.join(wrong)}",
                        )
                    bpf_map.reuse_fd(pinned)
                return
        kernel_name = bpf_map.spec.kernel_name(self.spec.object_name)
        bpf_map.create(name=kernel_name, btf_fd=btf_fd)
        if path:
            bpf_map.pin(path)
            self._pinned_now.append(bpf_map)

    def _fill_program_arrays(self) -> None:
        for bpf_map in self.maps.values():
            if bpf_map.type == MapType.BPF_MAP_TYPE_PROG_ARRAY and bpf_map.created:
                for index, name in bpf_map.spec.slots:
                    program = self.programs.get(name)
                    if program is not None and program.loaded:
                        bpf_map[index] = program

    # -- what programs ask (`pybpf.programs.Host`)

    def linked(self, name: str) -> LinkedProgram:
        """A program's relocated instructions, map references as indexes.

        :raises RelocationError: it refers to something this kernel lacks
        """
        done = self._linked.get(name)
        if done is None:
            done = self._linked[name] = self._linker.link(name)
        return done

    @cached_property
    def _linker(self) -> Linker:
        skip = [m.name for m in self.maps.values() if not m.spec.autocreate]
        return Linker(self.spec, self.link_target, skip_maps=skip)

    @cached_property
    def link_target(self) -> LinkTarget:
        """What linking needs to know of the kernel."""
        facts = self.facts
        needs_btf = self.spec.btf is not None
        modules: Mapping[str, Btf] = {}
        if self._kernel_btf is not None:
            btf: Btf | None = self._kernel_btf
        else:
            btf = facts.btf.vmlinux() if needs_btf else None
            modules = _ModuleBtfs(facts.btf)
        virtual = any(e.section == ".kconfig" for e in self.spec.externs)
        return LinkTarget(
            btf,
            modules,
            ksym_addr=self._ksym_address,
            kernel_version=version_code(os.uname().release) if virtual else 0,
            config=kernel_config() if virtual else (),
            has_syscall_wrapper=bool(virtual and facts.kallsyms.by_name("__x64_sys_bpf")),
        )

    def _ksym_address(self, name: str) -> int | None:
        symbols = self.facts.kallsyms.by_name(name)
        if len({s.addr for s in symbols}) > 1:
            raise RelocationError(f"extern {name!r}: {len(symbols)} kernel symbols have that name")
        return symbols[0].addr if symbols else None

    def prepare_program(self, spec: ProgramSpec) -> Prepared:
        """Relocated program with descriptors filled in, as BPF_PROG_LOAD takes it.

        :raises UnsupportedFeature: the object's facts are saved ones, of another kernel or boot
        """
        self.require_running()
        self.prepare()
        linked = self.linked(spec.name)
        info = self._btf_fd is not None
        return Prepared(
            self._with_fds(linked),
            self.spec.license,
            self.btf_fd,
            linked.func_info if info else b"",
            linked.func_info_rec_size if info and linked.func_info else 0,
            linked.line_info if info else b"",
            linked.line_info_rec_size if info and linked.line_info else 0,
            (0, *(self.module_fd(m) for m in linked.kfunc_modules)) if linked.kfunc_modules else (),
            self.spec.version,
        )

    def _with_fds(self, linked: LinkedProgram) -> bytes:
        # The imm field of a slot is its last four bytes.
        out = bytearray(linked.insns)
        for ref in linked.map_refs:
            at = 8 * ref.insn + 4
            out[at : at + 4] = self.maps[ref.map].fileno().to_bytes(4, "little")
        for insn, module in linked.btf_fd_refs:
            at = 8 * (insn + 1) + 4  # the second slot of the ldimm64
            out[at : at + 4] = self.module_fd(module).to_bytes(4, "little")
        return bytes(out)

    def require_running(self) -> None:
        """Check that what is known of the kernel is of the one that runs here.

        :raises UnsupportedFeature: the object's facts are saved ones
        """
        if self.facts.is_saved:
            raise UnsupportedFeature("loading", by="facts saved on another machine")

    def module_fd(self, module: str) -> int:
        """Descriptor of a kernel module's BTF, kept open as long as this object.

        When the module has been loaded anew, it is that of the new one.

        :raises UnsupportedFeature: if the module is not loaded, or has no BTF
        """
        kernel = self.facts.btf
        if isinstance(kernel, SavedBtf):
            raise UnsupportedFeature("loading", by="facts saved on another machine")
        number, fd = self._module_fds.get(module, (0, None))
        if fd is None or number != kernel.number(module):
            if fd is not None:
                fd.close()
            number = kernel.number(module)
            fd = self._fds.enter_context(kernel.fd(module))
            self._module_fds[module] = (number, fd)
        return fd.fileno()

    # -- multi programs (`pybpf.multi.programs`, imported when first used: it is much code)

    @cached_property
    def multi(self) -> MultiPrograms:
        """What plans, loads and attaches this object's ``*.multi`` programs."""
        from .multi.programs import MultiPrograms

        return MultiPrograms(self)

    # -- attaching

    def attach(self) -> LinkSet:
        """Attach every program with ``autoattach`` set, as its section says: all or nothing.

        Programs whose section does not say where to attach (``xdp``, a bare ``uprobe``) are left
        to the caller; ``LinkSet.by_hand`` names each with the method to call.

        :returns: links by program name; a context manager that detaches them
        :raises BpfError: naming the program that could not be attached; EINVAL if the sections
            of none say where, naming all of them
        """
        links = LinkSet()
        try:
            for program in self.programs.values():
                if not program.autoload or not program.type:
                    continue
                problem = program.attach_problem
                if problem is not None and _is_for_caller(program, problem):
                    links.by_hand[program.name] = problem.hint or str(problem)
                elif program.autoattach:
                    links[program.name] = program.attach()
        except BaseException as error:
            links.close()
            if isinstance(error, BpfError) and self.spec.name:
                error.add_context(self.spec.name)
            raise
        if links.by_hand and not links:
            each = "; ".join(f"{name}: {hint}" for name, hint in links.by_hand.items())
            what = f"{self.spec.name or 'object'}: no section says where to attach"
            raise BpfError(errno.EINVAL, what, each)
        return links

    # -- end

    def close(self) -> None:
        """Close programs, maps and BTF, for good.

        Links are not touched: they keep what they use.
        """
        for program in self.programs.values():
            program.close()
        for bpf_map in self.maps.values():
            bpf_map.close()
        self._fds.close()
        self._module_fds.clear()
        self._btf_fd = None
        self._loaded = self._prepared = False
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Program]:
        return iter(self.programs.values())

    def __repr__(self) -> str:
        state = "closed" if self._closed else "loaded" if self._loaded else "open"
        return (
            f"<Object {self.spec.name or 'bytes'}: {len(self.programs)} programs, "
            f"{len(self.maps)} maps, {state}>"
        )
