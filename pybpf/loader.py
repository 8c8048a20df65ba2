"""From an object file to maps and programs in the kernel.

`open` only parses. It needs no privileges and gives the same result anywhere. `Object.load`
then works in libbpf's order: it loads the object's own BTF, creates the maps (filling and
freezing the data sections), relocates each wanted program against the running
kernel and loads it. If anything fails, everything made so far is closed (and
unpinned) again and the error names the object. `Object.attach` attaches what its sections
say, all or nothing.
"""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator, Mapping
from typing import IO

from . import links
from ._sys.door import give_back
from ._uapi.enums import MapType, ProgType
from .binding import Binding
from .btf import Btf
from .btf.wrapped import unwrap
from .dataclass import replace
from .errors import (
    BpfError,
    ObjectFormatError,
    PlanError,
    RelocationError,
    StateError,
    UnsupportedFeature,
)
from .globals import Globals
from .kernel.host import Facts
from .maps import Map
from .names import ByName
from .obj.reader import read_object
from .programs import Program
from .wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from .maps.structops import StructOps
    from .obj.spec import ObjectSpec

__all__ = ["Object", "open_object"]

# Most bytes of .bss sections that are too long to be kept: an open object has them in memory.
_MOST_ZEROS = 256 << 20


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
        raise TypeError(f"expected a path, bytes or a file opened in binary mode, not {kind}")
    return data, str(getattr(source, "name", ""))


def open_object(
    source: str | bytes | bytearray | memoryview | os.PathLike[str] | IO[bytes],
    kernel_btf: Btf | str | os.PathLike[str] | bytes | None = None,
    *,
    facts: Facts | None = None,
    kconfig: str | os.PathLike[str] | Mapping[str, str | int | bool] | None = None,
    legacy_maps: bool = False,
    bpf_token_path: str | os.PathLike[str] | None = None,
) -> Object:
    """Parse a compiled BPF object (ELF64, EM_BPF). Needs no privileges.

    :param source: path, bytes or binary file
    :param kernel_btf: BTF to relocate against instead of the running kernel's: a `Btf`, bytes, or
        a path; raw, in gzip, or in an ELF file such as a vmlinux of /boot or /usr/lib/debug
    :param facts: facts of the running kernel, to share them between objects
    :param kconfig: values for ``CONFIG_*`` externs: a file with the whole configuration of the
        kernel, plain or .gz; or single options, ``{"CONFIG_HZ": 250}``, which override the
        kernel's own. Needed if the kernel does not show its configuration (containers)
    :param legacy_maps: also read maps defined as ``struct bpf_map_def`` in sections ``maps``,
        ``maps/NAME`` and ``NAME/maps``, which libbpf has refused since 1.0
    :param bpf_token_path: a bpf file system that delegates rights to this container (6.9); "" for
        none. None takes the environment variable ``LIBBPF_BPF_TOKEN_PATH``, else ``/sys/fs/bpf`` if
        that delegates
    :returns: an object that owns what it loads; use it as a context manager
    :raises ObjectFormatError: if the file is malformed; it names file, section and offset
    :raises OSError: if the file cannot be read
    """
    data, name = _read(source)
    spec = read_object(data, name, legacy_maps=legacy_maps)
    zeros = [one for one in spec.maps.values() if one.data and one.initial is None]
    if (size := sum(one.value_size for one in zeros)) > _MOST_ZEROS:
        what = f"zeroed variables of {size >> 20} MiB; use an arena or a map"
        raise ObjectFormatError(what, file=name, section=zeros[-1].section, offset=0)
    btf: Btf | None = None
    if isinstance(kernel_btf, Btf):
        btf = kernel_btf
    elif kernel_btf is not None:
        blob, label = _read(kernel_btf)
        btf = Btf(unwrap(bytes(blob), label), name=label)
    token = None if bpf_token_path is None else os.fsdecode(bpf_token_path)
    return Object(spec, btf, facts, kconfig, token)


def _is_for_caller(program: Program, problem: BpfError) -> bool:
    # Not if the caller turned autoattach on or off, nor if only libbpf can attach it so far.
    if program.autoattach != program.spec.autoattach:
        return False
    return not (program.autoattach and isinstance(problem, UnsupportedFeature))


class Object:
    """Hold an opened object file and, after `load`, its maps and programs.

    `open` makes one. Change `globals` and the sizes of maps, `load`, then `attach`, which returns
    a `LinkSet`. Attaching a ``*.multi`` program gives a `MultiLink`, which lists the functions
    it is on and those it skipped. Read maps as mappings (`Map`) and events with `RingBuffer`;
    structs come as `Record`. Closing the object closes maps and programs, but not links.

    :ivar programs: mapping name -> `Program`, in the file's order; the KeyError of an unknown
        name suggests near ones
    :ivar maps: mapping name -> `Map`; data sections by section name (".bss")
    :ivar globals: the C global variables, typed from BTF
    """

    def __init__(
        self,
        spec: ObjectSpec,
        kernel_btf: Btf | None,
        facts: Facts | None,
        kconfig: str | os.PathLike[str] | Mapping[str, str | int | bool] | None = None,
        token_path: str | None = None,
    ) -> None:
        self.spec = spec
        #: What the object has in the kernel: BTF, maps and relocated code.
        self.binding = Binding(
            spec,
            facts if facts is not None else Facts(),
            kernel_btf=kernel_btf,
            has_multi=lambda: any(program.is_multi for program in self.programs.values()),
            kconfig=kconfig,
            token_path=token_path,
        )
        self.maps: Mapping[str, Map] = self.binding.maps
        self.programs: Mapping[str, Program] = ByName(
            "program",
            {name: Program(program, self.binding) for name, program in spec.programs.items()},
        )
        # Values of a big-endian object make no sense here.
        typed = replace(spec, data_sections={}) if spec.big_endian else spec
        self.globals = Globals(typed, self.maps)
        #: Members of struct_ops maps, which may be changed before loading:
        #: ``obj.struct_ops["my_ops"].init = None``.
        self.struct_ops: Mapping[str, StructOps] = ByName(
            "struct_ops map",
            {name: one.struct_ops for name, one in self.maps.items() if one.struct_ops is not None},
        )
        self._loaded = False

    @property
    def facts(self) -> Facts:
        """Return what is known of the kernel it is for."""
        return self.binding.facts

    @property
    def pin_root(self) -> str:
        """Return the directory for maps that are pinned by name. May be assigned before `load`."""
        return self.binding.pin_root

    @pin_root.setter
    def pin_root(self, path: str) -> None:
        self.binding.pin_root = path

    @property
    def btf_error(self) -> BpfError | None:
        """Return why the kernel refused the object's own BTF, None if it accepted it."""
        return self.binding.btf_error

    @property
    def name(self) -> str:
        """Return the file name as given, "" for bytes."""
        return self.spec.name

    @property
    def loaded(self) -> bool:
        return self._loaded

    # -- loading

    def load(self) -> None:
        """Create the maps and load every program with ``autoload`` set.

        Multi programs (``*.multi``) are loaded when they are attached, and so are ``freplace``
        programs whose ``target_program`` is not set. A struct_ops program is loaded if a map
        uses it, whatever its ``autoload``.

        :raises VerifierError: the verifier refused a program; ``.log`` has the whole log
        :raises RelocationError: a program refers to something this kernel lacks
        :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
        :raises StateError: it has been closed, an earlier load failed, or a program that a
            program array starts with is not loaded
        :raises BpfError: any other refusal, naming the map or program
        """
        if self._loaded:
            raise BpfError(errno.EEXIST, self.spec.name or "object", "it is already loaded")
        self.binding.keep_pins()
        try:
            self.prepare()
            for program in self.programs.values():
                if self._loads_now(program):
                    program.load()
            self._fill_program_arrays()
            self.binding.fill_struct_ops(lambda name: self.programs[name].fileno())
        except BaseException as error:
            self._close_programs()
            self.binding.undo()
            if isinstance(error, BpfError) and self.spec.name:
                error.add_context(self.spec.name)
            if isinstance(error, RelocationError):
                error.file = self.spec.name
            if isinstance(error, BpfError) and self.btf_error is not None:
                error.add_note(f"the object was loaded without its BTF: {self.btf_error}")
            raise
        self._loaded = True

    def prepare(self) -> None:
        """Load the object's BTF and create the maps, but load no program.

        Call it before loading programs one by one (`Program.load`). `load` calls it, too. A
        second call does nothing.

        :raises StateError: it has been closed, or loading it failed
        """
        self.binding.prepare()

    def _loads_now(self, program: Program) -> bool:
        # A map with a struct_ops program is useless without it, so autoload has no say, as in
        # libbpf: SEC("?struct_ops/...") is loaded if a map that is made uses it.
        wanted = program.autoload or program.type == ProgType.BPF_PROG_TYPE_STRUCT_OPS
        return wanted and not program.is_loaded_late

    def _fill_program_arrays(self) -> None:
        for bpf_map in self.maps.values():
            if bpf_map.type == MapType.BPF_MAP_TYPE_PROG_ARRAY and bpf_map.created:
                for index, name in bpf_map.spec.slots:
                    program = self.programs.get(name)
                    if program is None or not program.loaded:
                        raise StateError(
                            f"map {bpf_map.name!r}: program {name!r} of slot {index} is not loaded",
                            "set its autoload, or leave the slot out of the map's initial values",
                        )
                    bpf_map[index] = program

    # -- attaching

    def attach(self) -> links.LinkSet:
        """Attach every program with ``autoattach`` set, as its section says: all or nothing.

        Struct_ops maps with ``autoattach`` set are registered too, under their names.

        Programs whose section does not say where to attach (``xdp``, a bare ``uprobe``) are left
        to the caller. ``LinkSet.by_hand`` names each with the method to call.

        :returns: links by program name; a context manager that detaches them
        :raises BpfError: naming the program that could not be attached; or EINVAL if none of the
            sections says where to attach, naming all programs
        :raises StateError: it is not loaded, or closed
        """
        self._need_loaded()
        attached = links.LinkSet()
        try:
            for program in self.programs.values():
                if not program.autoload or not program.type:
                    continue
                if program.type == ProgType.BPF_PROG_TYPE_STRUCT_OPS:
                    continue  # attached with their map
                problem = program.attach_problem
                if problem is not None and _is_for_caller(program, problem):
                    attached.by_hand[program.name] = problem.hint or str(problem)
                elif program.autoattach:
                    attached[program.name] = program.attach()
            for bpf_map in self.maps.values():
                if bpf_map.struct_ops_value is not None and bpf_map.autoattach:
                    attached[bpf_map.name] = bpf_map.attach()
        except BaseException as error:
            attached.close()
            if isinstance(error, (BpfError, PlanError)) and self.spec.name:
                error.add_context(self.spec.name)
            raise
        if attached.by_hand and not attached:
            each = "; ".join(f"{name}: {hint}" for name, hint in attached.by_hand.items())
            what = f"{self.spec.name or 'object'}: no section says where to attach"
            raise BpfError(errno.EINVAL, what, each)
        return attached

    def _need_loaded(self) -> None:
        wanted = [p for p in self.programs.values() if p.autoload and p.type]
        if any(p.loaded or p.is_loaded_late for p in wanted) and not self.binding.closed:
            return
        if self.binding.closed or (wanted and not self._loaded):
            state = self.binding.closed_because or "not loaded yet; call load() first"
            raise StateError(self.spec.name or "object", f"it is {state}")

    # -- end

    def trim(self) -> None:
        """Let go of the kernel's types and of relocated code, and give the memory back.

        For programs that run for long once everything is attached: of the running kernel, that
        is some 10 MB. What needs them later reads and makes them again.
        """
        self.binding.forget()
        if self.facts.btf.forget():
            gc.collect()  # what was made of the types may hold them in cycles
            give_back()

    def close(self) -> None:
        """Close programs, maps and BTF. The object cannot be used afterwards.

        Links stay attached: they keep what they use.
        """
        self._close_programs()
        self.binding.close()

    def _close_programs(self) -> None:
        for program in self.programs.values():
            program.close()
        self._loaded = False

    def __enter__(self) -> Self:
        self.binding.check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Program]:
        return iter(self.programs.values())

    def __repr__(self) -> str:
        state = "closed" if self.binding.closed else "loaded" if self._loaded else "open"
        return (
            f"<Object {self.spec.name or 'bytes'}: {many(len(self.programs), 'program')}, "
            f"{many(len(self.maps), 'map')}, {state}>"
        )
