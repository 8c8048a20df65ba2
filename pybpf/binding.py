"""An object bound to a kernel: its BTF and maps there, and its code with their descriptors.

`Object` owns one `Binding` and loads its programs through it, multi programs included. A
`ProgLoad` holds what differs from load to load. What all programs of an object share (licence,
BTF, descriptors of maps and of modules' BTF) is filled in here, once for both ways of loading.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import Any, TypeVar

from . import log
from ._sys import bpf as sys_bpf
from ._sys import prog as sys_prog
from ._sys.files import is_one_name
from ._sys.token import make_token
from ._uapi.enums import MapFlag, MapType
from .btf import Btf
from .btf.encode import BTF_FEATURES, sanitize, stretch
from .dataclass import dataclass
from .errors import (
    BpfError,
    DeniedByPolicy,
    ObjectFormatError,
    RelocationError,
    StateError,
    UnsupportedFeature,
    VerifierError,
)
from .kernel.host import Facts, SavedBtf
from .kernel.lookup import BtfTarget
from .maps import Map
from .names import ByName
from .obj.externs import kconfig_values
from .obj.linker import FUNC_INFO_SIZE, LINE_INFO_SIZE, LinkedProgram, Linker, LinkTarget
from .wording import object_name

# What few objects have, struct_ops and options of the kernel, is imported where it is used: 3 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._sys.fd import Fd
    from .kernel.config import Given
    from .obj.spec import ObjectSpec
    from .obj.structops import Layout

__all__ = ["Binding", "ProgLoad"]

PIN_ROOT = "/sys/fs/bpf"
_PIN_BY_NAME = 1  # LIBBPF_PIN_BY_NAME
_METADATA = "bpf_metadata_"  # what variables are called that describe the object
_LINE = struct.Struct("<IIII")  # struct bpf_line_info: insn_off, file_name_off, line_off, line_col

_NO_TARGET = BtfTarget(0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProgLoad:
    """Hold what BPF_PROG_LOAD needs to know about one program. The object supplies the rest.

    :param name: cut to 15 bytes
    :param insns: instruction stream, 8 bytes per slot, descriptors filled in
    :param type: ``enum bpf_prog_type``
    :param attach_type: ``enum bpf_attach_type``
    :param flags: ``prog_flags``
    :param target: function or type it is loaded for
    :param func_info: packed ``struct bpf_func_info`` of `func_info_rec_size` bytes each
    :param line_info: packed ``struct bpf_line_info`` likewise
    :param fd_array: descriptors of modules' BTF whose kfuncs are called, index 0 unused
    :param log_level: ``BPF_LOG_*``
    """

    name: str
    insns: bytes
    type: int = 0
    attach_type: int = 0
    flags: int = 0
    target: BtfTarget = _NO_TARGET
    func_info: bytes = b""
    func_info_rec_size: int = FUNC_INFO_SIZE
    line_info: bytes = b""
    line_info_rec_size: int = LINE_INFO_SIZE
    fd_array: tuple[int, ...] = ()
    log_level: int = 0


class _ModuleBtfs(Mapping[str, Btf]):
    # Modules' BTF, read on first use.
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._kernel = facts.btf
        self.asked = False  # results that depend on modules must not outlive them

    def _ask(self) -> None:
        _ = self._facts.loaded  # fixes the moment of the facts first
        self.asked = True

    @property
    def _names(self) -> list[str]:
        return [name for name in self._kernel.modules() if name != "vmlinux"]

    def __getitem__(self, name: str) -> Btf:
        self._ask()
        found = self._kernel.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        self._ask()
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Binding:
    """Hold what an object has in one kernel, except its programs and links.

    :param kernel_btf: BTF to relocate against instead of the running kernel's
    :param has_multi: tells whether a program of the object is a multi program
    :param kconfig: what `read_config` takes
    :param token_path: what `make_token` takes
    :ivar facts: what is known of the kernel; newer facts may replace them
    :ivar maps: mapping name -> `Map`, in the file's order
    :ivar pin_root: directory for maps that ask to be pinned by name
    :ivar btf_error: why the kernel refused the object's own BTF, None if it accepted it
    """

    def __init__(
        self,
        spec: ObjectSpec,
        facts: Facts,
        *,
        kernel_btf: Btf | None = None,
        has_multi: Callable[[], bool] = lambda: False,
        kconfig: Given = None,
        token_path: str | None = None,
    ) -> None:
        self.spec = spec
        self.facts = facts
        self.maps: Mapping[str, Map] = ByName(
            "map", {name: Map(map_spec, spec.btf) for name, map_spec in spec.maps.items()}
        )
        self.pin_root = PIN_ROOT
        self.btf_error: BpfError | None = None
        self._kernel_btf = kernel_btf
        self._has_multi = has_multi
        self._kconfig = kconfig
        self._token_path = token_path
        self._token: Fd | None = None
        self._fds = ExitStack()
        self._btf_fd: Fd | None = None
        self._btf_has_funcs = False
        self._module_fds: dict[str, tuple[int, Fd]] = {}  # with the number of the module's BTF
        self._linked: dict[str, LinkedProgram] = {}
        #: Called by `forget`: what others made of this binding and can make again.
        self.forgetting: list[Callable[[], None]] = []
        self._shared: dict[Any, Any] = {}
        self._layouts: dict[str, tuple[Layout, str]] = {}
        self._pinned_now: list[Map] = []  # since `keep_pins`
        self._prepared = False
        #: Why it cannot be used any more, and what to do, "" while it can.
        self.closed_because = ""

    @property
    def closed(self) -> bool:
        """Return True after `close`. The binding cannot be used any more."""
        return bool(self.closed_because)

    @property
    def btf_fd(self) -> int:
        """Return the descriptor of the object's own BTF in the kernel, 0 if it has none there."""
        return self._btf_fd.fileno() if self._btf_fd is not None else 0

    @property
    def token_fd(self) -> int:
        """Return the descriptor of the BPF token that everything is loaded with, 0 if none is."""
        return self._token.fileno() if self._token is not None else 0

    def share(self, make: Callable[[Binding], T]) -> T:
        """Call ``make(self)`` once and return its result: for what all programs of an object
        share."""
        if make not in self._shared:
            self._shared[make] = make(self)
        found: T = self._shared[make]
        return found

    def keep(self, fd: Fd) -> Fd:
        """Take ownership of a descriptor. It is closed with this binding."""
        return self._fds.enter_context(fd)

    # -- BTF and maps

    def check_open(self) -> None:
        """Do nothing while it can be used.

        :raises StateError: it has been closed, or loading it failed
        """
        if self.closed:
            raise StateError(self.spec.name or "the object", f"it is {self.closed_because}")

    def prepare(self) -> None:
        """Load the object's BTF and create the maps, once.

        :raises StateError: it has been closed, or loading it failed
        :raises BpfError: the kernel's refusal
        """
        self.check_open()
        if self.spec.big_endian:
            what = f"loading {self.spec.name or 'the object'}, which is big-endian,"
            raise UnsupportedFeature(what, by="this machine", hint="compile it for bpfel")
        if self._prepared:
            return
        self.keep_pins()
        try:
            self._fill_kconfig()
            self._make_token()
            self._load_btf()
            self._create_maps()
        except BaseException:
            self.undo()
            raise
        self._prepared = True

    def keep_pins(self) -> None:
        """Keep the present pins: `undo` will not remove them."""
        self._pinned_now.clear()

    def undo(self) -> None:
        """Remove the pins made since `keep_pins`, and close."""
        while self._pinned_now:
            with suppress(OSError):  # another process may have removed it
                self._pinned_now.pop().unpin()
        self.close("closed, because loading it failed; open it again")

    def close(self, because: str = "closed; open it again") -> None:
        """Close maps and BTF, for good.

        :param because: its state, for later users
        """
        for bpf_map in self.maps.values():
            bpf_map.close()
        self._fds.close()
        self._module_fds.clear()
        self._btf_fd = self._token = None
        self._prepared = False
        self.closed_because = self.closed_because or because

    def _make_token(self) -> None:
        token = make_token(self._token_path)
        if token is not None:
            self._token = self._fds.enter_context(token)
            self.facts.probes.use_token(token)
            log.debug("obj", "loading with a BPF token")

    def _fill_kconfig(self) -> None:
        for bpf_map in self.maps.values():
            if bpf_map.spec.data == "kconfig" and self.spec.btf is not None:
                from .kernel.config import Config, read_config

                options = any(extern.name.startswith("CONFIG_") for extern in self.spec.externs)
                config = read_config(self._kconfig) if options else Config()
                bpf_map.initial = bytearray(
                    kconfig_values(
                        self.spec.externs,
                        self.spec.btf,
                        virtual=self.link_target.virtual_kconfig,
                        config=config.lines,
                        unknown=config.unknown,
                    )
                )

    @cached_property
    def _btf_and_twins(self) -> tuple[bytes | None, Mapping[int, int]]:
        # What BPF_BTF_LOAD takes. A plan contains the twins' ids, perhaps before the blob is
        # loaded, so both come from here. `sanitize` keeps ids.
        blob = self.spec.btf_for_load()
        if blob is None or not self._has_multi():
            return blob, {}
        from .btf.twins import add_static_twins

        return add_static_twins(blob)

    @property
    def static_twins(self) -> Mapping[int, int]:
        """Map the BTF id of each FUNC to its twin with static linkage (multi programs only)."""
        return self._btf_and_twins[1]

    def _load_btf(self) -> None:
        blob, _ = self._btf_and_twins
        if blob is None:
            return
        blob = stretch(blob, self._other_sizes())
        # An older kernel may not know what a newer clang writes. Remove it, newest feature first.
        features = list(BTF_FEATURES)
        for known in range(len(features), -1, -1):
            older = sanitize(blob, features[:known])
            if older == blob and known < len(features):
                continue
            try:
                made = sys_bpf.btf_load(older, token_fd=self.token_fd)
                self._btf_fd = self._fds.enter_context(made)
            except DeniedByPolicy:
                raise
            except BpfError as error:
                self.btf_error = self.btf_error or error
            else:
                self._btf_has_funcs = known > 0
                if self._btf_has_funcs:
                    self.btf_error = None
                return
        # libbpf also continues without BTF: only some map types need it.

    def _other_sizes(self) -> dict[str, int]:
        # Data sections that the caller gave another size.
        return {
            one.spec.section: one.value_size
            for one in self.maps.values()
            if one.spec.data and one.value_size != one.spec.value_size
        }

    def _pin_path(self, bpf_map: Map) -> str:
        # Where a map that asks to be pinned by its name goes. The name comes from the object and
        # may be anything, so make sure that the pin stays right below `pin_root`.
        if bpf_map.pin_path:
            return bpf_map.pin_path
        name = bpf_map.name
        why = ""
        if not is_one_name(name):
            why = "it is a path, not the name of a file"
        elif "." in name:
            why = "a bpf file system allows no dot in a name"
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
            if bpf_map.spec.pinning == _PIN_BY_NAME and bpf_map.autocreate:
                self._pin_path(bpf_map)  # check all paths before anything is created
        for bpf_map in self.maps.values():
            if not bpf_map.autocreate or bpf_map.created:
                continue
            if bpf_map.spec.struct_ops is None:
                self._create_map(bpf_map, btf_fd)
            else:
                self._create_struct_ops(bpf_map)
        for bpf_map in self.maps.values():
            if bpf_map.type != MapType.BPF_MAP_TYPE_PROG_ARRAY and bpf_map.created:
                for index, name in bpf_map.spec.slots:
                    bpf_map[index] = self.maps[name]

    # -- struct_ops

    def _layout(self, bpf_map: Map) -> tuple[Layout, str]:
        # A struct_ops map as this kernel has it, and the module whose BTF has its type.
        known = self._layouts.get(bpf_map.name)
        if known is not None:
            return known
        members, spec, local = bpf_map.struct_ops, bpf_map.spec.struct_ops, self.spec.btf
        assert members is not None and spec is not None and local is not None
        from .maps.structops import contents
        from .obj.structops import lay_out

        data, programs = contents(members)
        kernel = self.facts.btf
        for module in ("", *kernel.modules()):
            btf = kernel.vmlinux() if not module else kernel.get(module)
            if btf is None:
                continue
            found = lay_out(bpf_map.name, local, spec.type_id, data, programs, btf)
            if found is not None:
                self._layouts[bpf_map.name] = found, module
                return found, module
        raise UnsupportedFeature(
            f"map {bpf_map.name!r}: struct_ops of struct {spec.type_name}",
            hint="neither the kernel nor a loaded module has them",
        )

    def _create_struct_ops(self, bpf_map: Map) -> None:
        layout, module = self._layout(bpf_map)
        assert bpf_map.struct_ops is not None
        from .maps.structops import seal

        seal(bpf_map.struct_ops)
        bpf_map.value_size = len(layout.value)
        if module:
            bpf_map.map_flags |= MapFlag.BPF_F_VTYPE_BTF_OBJ_FD
        bpf_map.create(
            name=bpf_map.spec.kernel_name(self.spec.object_name),
            btf_fd=self.btf_fd,
            btf_vmlinux_value_type_id=layout.value_type_id,
            value_type_btf_obj_fd=self.module_fd(module) if module else 0,
            token_fd=self.token_fd,
        )

    def struct_ops_place(self, program: str) -> tuple[BtfTarget, int] | None:
        """Find what a struct_ops program is loaded for: the kernel's struct, and its member.

        :returns: None if no map that will be made uses it
        :raises RelocationError: two members use it that differ, or the kernel lacks one
        """
        found: dict[tuple[BtfTarget, int], str] = {}
        for bpf_map in self.maps.values():
            if bpf_map.struct_ops is None or not bpf_map.autocreate:
                continue
            from .maps.structops import contents

            _, programs = contents(bpf_map.struct_ops)
            for member, name in programs.items():
                if name == program:
                    layout, module = self._layout(bpf_map)
                    place = BtfTarget(layout.type_id, module), layout.slots[member].member
                    found[place] = f"{bpf_map.name}.{member}"
        if len(found) > 1:
            what = f"members {' and '.join(found.values())} need a program each"
            raise RelocationError(what, program=program)
        return next(iter(found), None)

    def fill_struct_ops(self, descriptor: Callable[[str], int]) -> None:
        """Give struct_ops maps the descriptors of their programs, for attaching.

        :param descriptor: of a loaded program, by name
        """
        for bpf_map in self.maps.values():
            if bpf_map.struct_ops is None or not bpf_map.created:
                continue
            from .maps.structops import contents

            layout, _ = self._layout(bpf_map)
            value = bytearray(layout.value)
            for member, name in contents(bpf_map.struct_ops)[1].items():
                at = layout.slots[member].offset
                value[at : at + 8] = descriptor(name).to_bytes(8, "little")
            bpf_map.struct_ops_value = bytes(value)

    def _create_map(self, bpf_map: Map, btf_fd: int) -> None:
        kernel_name = bpf_map.spec.kernel_name(self.spec.object_name)
        if bpf_map.spec.pinning != _PIN_BY_NAME and not bpf_map.pin_path:
            bpf_map.create(name=kernel_name, btf_fd=btf_fd, token_fd=self.token_fd)
            return
        path = self._pin_path(bpf_map)
        for last in (False, False, True):
            if self._take_pinned(bpf_map, path):
                return
            bpf_map.create(name=kernel_name, btf_fd=btf_fd, token_fd=self.token_fd)
            try:
                bpf_map.pin(path)
            except BpfError as error:
                # Another process that loads the same object has just pinned its map: use that one.
                if last or error.errno != errno.EEXIST:
                    raise
                bpf_map.close()
            else:
                self._pinned_now.append(bpf_map)
                return

    def _take_pinned(self, bpf_map: Map, path: str) -> bool:
        """Reuse the map that is pinned at `path`. Return False if there is none."""
        try:
            pinned = sys_bpf.obj_get(path, "map")
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        with pinned:
            wrong = bpf_map.differences(pinned)
            if wrong:
                raise BpfError(
                    errno.EINVAL,
                    f"map {bpf_map.name!r} pinned at {path}",
                    f"it differs from the object's: {', '.join(wrong)}; "
                    "remove it, or set another pin_root",
                )
            bpf_map.reuse_fd(pinned)
        bpf_map.pin_path = path
        return True

    # -- code

    def linked(self, name: str) -> LinkedProgram:
        """Return a program's relocated instructions, with map references as indexes.

        :raises RelocationError: it refers to something this kernel lacks
        """
        if self.is_stale(self._linker):
            self._linked.clear()
            del self.__dict__["_linker"]
        done = self._linked.get(name)
        if done is None:
            done = self._linked[name] = self._linker.link(name)
        return done

    def is_stale(self, linker: Linker) -> bool:
        """Return True if a linker found something in modules that were unloaded or moved since.

        In that case newer facts are taken, and what it linked has to be linked again.
        """
        target = linker.kernel
        modules = target.modules
        used = linker.depends_on_modules or (isinstance(modules, _ModuleBtfs) and modules.asked)
        if not used:
            return False
        if "link_target" in self.__dict__ and self.refresh() is not self._linked_with:
            del self.__dict__["link_target"]
        return target is not self.link_target

    def forget(self) -> None:
        """Let go of relocated code and of the types it was relocated for; see `Object.trim`."""
        self._linked.clear()
        for name in ("_linker", "link_target"):
            self.__dict__.pop(name, None)
        for forget in self.forgetting:
            forget()

    def refresh(self) -> Facts:
        """Take new facts if the present ones no longer hold."""
        self.facts = self.facts.current()
        if self._token is not None:
            self.facts.probes.use_token(self._token)
        return self.facts

    @cached_property
    def _linker(self) -> Linker:
        skip = [m.name for m in self.maps.values() if not m.autocreate]
        return Linker(self.spec, self.link_target, skip_maps=skip)

    @cached_property
    def link_target(self) -> LinkTarget:
        """Return what linking needs to know about the kernel."""
        facts = self.facts
        modules: Mapping[str, Btf] = {}
        if self._kernel_btf is not None:
            btf: Btf | None = self._kernel_btf
        else:
            btf = facts.btf.vmlinux() if self.spec.needs_kernel_btf else None
            modules = _ModuleBtfs(facts)
        virtual = any(e.section == ".kconfig" for e in self.spec.externs)
        version = 0
        if virtual:
            from .kernel.config import running_version

            version = running_version()
        self._linked_with = facts
        return LinkTarget(
            btf,
            modules,
            ksym_addr=self._ksym_address,
            kernel_version=version,
            has_syscall_wrapper=bool(virtual and facts.kallsyms.by_name("__x64_sys_bpf")),
        )

    def _ksym_address(self, name: str) -> int | None:
        symbols = self.facts.kallsyms.by_name(name)
        if len({s.addr for s in symbols}) > 1:
            raise RelocationError(f"extern {name!r}: {len(symbols)} kernel symbols have that name")
        return symbols[0].addr if symbols else None

    def relocated(self, name: str) -> ProgLoad:
        """Return a program's code for this kernel, with the descriptors of its maps and BTF.

        Loads the object's BTF and creates the maps, if that has not been done.

        :returns: a load without type, target and flags
        :raises RelocationError: it refers to something this kernel lacks
        :raises UnsupportedFeature: the facts were saved on another kernel or boot
        """
        self.require_running()
        self.prepare()
        linked = self.linked(name)
        if linked.core and log.wanted("core"):
            for one in linked.core:
                text = one.target or one.reason
                where = f"program {name!r} at byte {one.offset}"
                log.debug("core", "%s: %s: %s -> %#x", where, one.local, text, one.value)
        modules = tuple(self.module_fd(module) for module in linked.kfunc_modules)
        return ProgLoad(
            name,
            self._with_fds(linked),
            func_info=linked.func_info,
            func_info_rec_size=linked.func_info_rec_size,
            line_info=linked.line_info,
            line_info_rec_size=linked.line_info_rec_size,
            fd_array=(0, *modules) if modules else (),
        )

    def load(self, program: ProgLoad, *, on_log: Callable[[str], object] | None = None) -> Fd:
        """Load a program (BPF_PROG_LOAD).

        :param on_log: called with the verifier's log, if its ``log_level`` asks for one
        :raises VerifierError: the verifier refused it
        :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
        :raises BpfError: any other refusal
        """
        # Without functions, BTF is only for maps, as in libbpf.
        has_btf = self._btf_fd is not None and self._btf_has_funcs
        func_info = program.func_info if has_btf else b""
        line_info = program.line_info if has_btf else b""
        module = program.target.module
        log.debug("programs", "loading %r: %d instructions", program.name, len(program.insns) // 8)
        try:
            loaded = sys_prog.prog_load(
                program.type,
                program.insns,
                license=self.spec.license,
                name=object_name(program.name),
                expected_attach_type=program.attach_type,
                prog_flags=program.flags,
                kern_version=self.spec.version,
                attach_btf_id=program.target.btf_id,
                attach_btf_obj_fd=self.module_fd(module) if module else 0,
                attach_prog_fd=program.target.program,
                prog_btf_fd=self.btf_fd if has_btf else 0,
                func_info=func_info,
                func_info_rec_size=program.func_info_rec_size if func_info else 0,
                line_info=line_info,
                line_info_rec_size=program.line_info_rec_size if line_info else 0,
                fd_array=program.fd_array,
                token_fd=self.token_fd,
                log_level=program.log_level,
                on_log=on_log,
            )
        except VerifierError as error:
            self._name_source(error, program)
            raise
        for name in self._described_by:
            # bpftool shows its variables. The program works without them.
            with suppress(BpfError):
                sys_prog.prog_bind_map(loaded, self.maps[name])
        return loaded

    @cached_property
    def _described_by(self) -> frozenset[str]:
        # Maps whose variables say something about the object, for people.
        variables = self.spec.variables.values()
        return frozenset(v.map for v in variables if v.name.startswith(_METADATA))

    def _name_source(self, error: VerifierError, program: ProgLoad) -> None:
        # Kernels before 6.9 print the text of a source line, but not its file and number.
        numbers = re.findall(r"^(\d+): \(", error.summary, re.MULTILINE)
        btf, size = self.spec.btf, program.line_info_rec_size
        if not numbers or btf is None or not size:
            return
        place = None
        for at in range(0, len(program.line_info) - size + 1, size):
            insn, file, _, line = _LINE.unpack_from(program.line_info, at)
            if insn > int(numbers[-1]):
                break
            place = file, line >> 10
        with suppress(ObjectFormatError):
            if place is not None:
                error.source = f"{os.path.basename(btf.string(place[0]))}:{place[1]}"
        if error.source and error.source not in error.summary and not error.hint:
            error.hint = f"at {error.source}"

    def map_fd(self, number: int) -> int:
        """Return the descriptor of a map by its number in the object, as relocated code has it."""
        return self.maps[self.spec.map_names[number]].fileno()

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
        """Check that the facts are those of the kernel that runs here.

        :raises UnsupportedFeature: the object uses saved facts
        """
        if self.facts.is_saved:
            raise UnsupportedFeature("loading", by="facts saved on another machine")

    def module_fd(self, module: str) -> int:
        """Return the descriptor of a kernel module's BTF. It stays open as long as this object.

        If the module was loaded again meanwhile, the descriptor is that of the new one.

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
