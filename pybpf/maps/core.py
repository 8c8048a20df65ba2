"""`Map`: one BPF map, from its blueprint to its closing.

Theory of operation. Before it is created, a map is a set of parameters that may
still be changed (``max_entries``, sizes, flags, the initial contents of a data
section). `create`, `reuse_fd` or a ``from_*`` constructor gives it an fd. From then on the
parameters are fixed and the mapping operations of `Entries` work. Keys
and values are typed from BTF if the blueprint has types of the right size.
Array indices and file descriptors are always ints. Everything else is `bytes`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from typing import Any

from .. import log
from .._sys import bpf
from .._sys.fd import Fd
from .._sys.mapping import FixedMapping
from .._uapi.enums import MapFlag, MapType
from ..errors import BpfError, StateError
from ..obj.mapdefs import ring_size
from ..obj.maptypes import ADDED_FLAGS, LRUS, NO_BTF, NO_KEYS, OUTER, RINGS
from ..wording import many, object_name, uapi_word
from .entries import Entries
from .fields import BytesField, NoKeyField
from .kinds import key_field, value_field
from .percpu import possible_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf
    from ..links import Link
    from ..obj.spec import MapSpec
    from .structops import StructOps

__all__ = ["Map"]

T = MapType

_SETTABLE = frozenset(
    {
        *("type", "key_size", "value_size", "max_entries", "map_flags", "numa_node", "map_extra"),
        "autocreate",
    }
)


class Map(Entries):
    """Handle one BPF map: a mutable mapping over typed keys and values, once created.

    :param spec: what to create
    :param btf: BTF with the types that `spec` refers to; None leaves keys and values untyped

    ``raw`` is the same mapping over `bytes`. A map owns its fd (and its memory
    mapping): `close` it or use it as a context manager.
    """

    type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    numa_node: int
    map_extra: int
    #: False: loading the object does not create it, and programs must not reach its uses.
    autocreate: bool

    def __init__(self, spec: MapSpec, btf: Btf | None = None) -> None:
        self._fd: Fd | None = None
        self._token_fd = 0
        self.spec = spec
        self.btf = btf
        #: Name in the object file. The kernel's own name is in `info`.
        self.name = spec.name
        for setting in _SETTABLE:
            setattr(self, setting, getattr(spec, setting))
        #: Initial contents of a data section's map. They may be edited before it is created.
        self.initial: bytearray | None = None
        if spec.data:
            # Not via `bytes`: that would take twice the memory.
            self.initial = bytearray(spec.value_size if spec.initial is None else spec.initial)
        elif spec.data_section:
            self.initial = bytearray(spec.initial or b"")
        #: Path where it is pinned, or None. If it is assigned before loading, the map that is
        #: pinned there is used; if there is none, the new map is pinned there.
        self.pin_path: str | None = None
        #: errno if the kernel refused the map's BTF types, 0 if it accepted them.
        self.btf_refused = 0
        #: Members of a struct_ops map, to be changed before it is loaded; None for other maps.
        self.struct_ops: StructOps | None = None
        if spec.struct_ops is not None and btf is not None:
            from .structops import StructOps  # 2 ms, with the types of values

            self.struct_ops = StructOps(spec.name, spec.struct_ops, btf)
        #: False: attaching the object leaves out this struct_ops map; `attach` attaches it.
        self.autoattach = True
        #: What a loaded struct_ops map holds, with the descriptors of its programs.
        self.struct_ops_value: bytes | None = None
        self._closed = False
        self._memory: mmap.mmap | FixedMapping | None = None
        self._raw: _Raw | None = None
        nothing = BytesField(0)
        super().__init__(spec.name, spec.type, spec.max_entries, nothing, nothing)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTABLE and getattr(self, "_fd", None) is not None:
            raise AttributeError(f"map {self.name!r} exists: its {name} can no longer be changed")
        if name == "value_size" and getattr(self, "initial", None) is not None and self.spec.data:
            self._give_size(value)
        super().__setattr__(name, value)

    def _give_size(self, size: Any) -> None:
        # Of a data section that is not created yet: its contents are cut, or get zeros at the end.
        if not isinstance(size, int) or not 0 < size < 1 << 32:
            raise ValueError(f"map {self.name!r}: value_size {size!r} is not a size in bytes")
        assert self.initial is not None
        del self.initial[size:]
        self.initial.extend(bytes(size - len(self.initial)))

    # -- creation --------------------------------------------------------------

    @classmethod
    def create_new(
        cls,
        map_type: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        *,
        name: str = "",
        map_flags: int = 0,
        inner: Map | None = None,
        numa_node: int = 0,
        map_extra: int = 0,
    ) -> Map:
        """Create a map without an object file.

        :param map_type: ``enum bpf_map_type``
        :param key_size: bytes
        :param value_size: bytes
        :param inner: pattern for the maps in a map of maps
        :raises BpfError: the kernel refuses; its hint names the likely reason
        """
        from ..obj.spec import MapSpec

        spec = MapSpec(
            name=name,
            type=map_type,
            key_size=key_size,
            value_size=value_size,
            max_entries=max_entries,
            map_flags=map_flags,
            numa_node=numa_node,
            map_extra=map_extra,
        )
        made = cls(spec)
        made.create(name=name, inner=inner)
        return made

    @classmethod
    def from_fd(cls, fd: int | Fd, *, btf: Btf | None = None) -> Map:
        """Use a map that already exists. `fd` is duplicated and still belongs to the caller.

        The value of a data section (.rodata, .data, .bss) is a record of its variables.

        :param btf: BTF with the types of keys and values; None asks the kernel for the BTF
            that the map was made with. Without either, keys and values are `bytes`
        """
        from ..obj.spec import MapSpec

        number = fd if isinstance(fd, int) else fd.fileno()
        info = bpf.map_info(number)
        if btf is None:
            btf = _types_of(info)
        typed = btf is not None
        spec = MapSpec(
            info.name,
            info.type,
            info.key_size,
            info.value_size,
            info.max_entries,
            map_flags=info.map_flags,
            map_extra=info.map_extra,
            key_type_id=info.btf_key_type_id if typed else 0,
            value_type_id=(info.btf_value_type_id or info.btf_vmlinux_value_type_id)
            if typed
            else 0,
        )
        made = cls(spec, btf)
        made.reuse_fd(fd)
        return made

    @classmethod
    def from_id(cls, map_id: int, *, btf: Btf | None = None) -> Map:
        """Open a map by its kernel-wide id (BPF_MAP_GET_FD_BY_ID).

        :param btf: as in `from_fd`
        :raises DeniedByPolicy: without CAP_SYS_ADMIN
        :raises BpfError: ENOENT if no map has that id
        """
        with bpf.get_fd_by_id("map", map_id) as fd:
            return cls.from_fd(fd, btf=btf)

    @classmethod
    def from_pinned(cls, path: str | os.PathLike[str], *, btf: Btf | None = None) -> Map:
        """Open a map that is pinned in a bpf file system (BPF_OBJ_GET).

        :param btf: as in `from_fd`
        :raises BpfError: ENOENT if nothing is pinned there, EINVAL if it is not a map
        """
        with bpf.obj_get(os.fspath(path), "map") as fd:
            made = cls.from_fd(fd, btf=btf)
        made.pin_path = os.fspath(path)
        return made

    def create(
        self,
        *,
        name: str | None = None,
        btf_fd: int = 0,
        inner: Map | None = None,
        btf_vmlinux_value_type_id: int = 0,
        value_type_btf_obj_fd: int = 0,
        token_fd: int = 0,
    ) -> None:
        """Create the map in the kernel. Fill it if it is a data section's, freeze it if read-only.

        :param name: the kernel's name for it; None takes the blueprint's. It is cut to 15
            characters, and characters that the kernel does not allow become "_"
        :param btf_fd: descriptor of the object's BTF; if the kernel refuses the map with its BTF
            types, it is created without them and the errno is kept in `btf_refused`
        :param inner: pattern for the maps in a map of maps; None makes one from the blueprint
        :param btf_vmlinux_value_type_id: of a struct_ops map: the kernel's value struct
        :param value_type_btf_obj_fd: of the module's BTF that has it, 0 for the kernel's own
        :param token_fd: a BPF token to create it and its inner maps with, 0 for none
        :raises BpfError: the kernel refuses; its hint names the likely reason
        """
        if self._fd is not None:
            raise BpfError(errno.EEXIST, f"map {self.name!r}", "the map already exists")
        self._token_fd = token_fd
        pattern: Map | None = None
        if inner is None and self.type in OUTER and self.spec.inner is not None:
            inner = pattern = self.new_inner(btf_fd=btf_fd)
        try:
            fd = self._create(
                object_name(self.name if name is None else name),
                btf_fd if self.type not in NO_BTF else 0,
                inner,
                btf_vmlinux_value_type_id,
                value_type_btf_obj_fd,
            )
        finally:
            if pattern is not None:
                pattern.close()
        self._adopt(fd)
        log.debug("maps", "created %r: %s, %d entries", self.name, self.type_name, self.max_entries)
        if self.initial is not None or self.type == T.BPF_MAP_TYPE_ARENA:
            try:
                self._fill()
            except BaseException:
                self.close()
                raise

    def _create(
        self, name: str, btf_fd: int, inner: Map | None, struct_ops_type: int, module_fd: int
    ) -> Fd:
        if self.type in RINGS:
            self.max_entries = ring_size(self.max_entries, mmap.PAGESIZE)
        elif self.type == T.BPF_MAP_TYPE_PERF_EVENT_ARRAY and not self.max_entries:
            self.max_entries = possible_cpus()
        typed = bool(btf_fd and (self.spec.key_type_id or self.spec.value_type_id))
        try:
            return self._map_create(name, btf_fd if typed else 0, inner, struct_ops_type, module_fd)
        except BpfError as err:
            if not typed or struct_ops_type or err.errno == errno.EPERM:
                raise self._explained(err, inner) from None
            first = err
        try:
            fd = self._map_create(name, 0, inner, struct_ops_type, module_fd)
        except BpfError as err:
            raise self._explained(err, inner) from first
        self.btf_refused = first.errno or 0
        return fd

    def _map_create(
        self, name: str, btf_fd: int, inner: Map | None, struct_ops_type: int, module_fd: int
    ) -> Fd:
        # A struct_ops map has the kernel's type; the object's BTF must be there all the same.
        typed = bool(btf_fd) and not struct_ops_type
        return bpf.map_create(
            self.type,
            key_size=self.key_size,
            value_size=self.value_size,
            max_entries=self.max_entries,
            name=name,
            map_flags=self.map_flags,
            inner_map_fd=inner.fileno() if inner is not None else 0,
            numa_node=self.numa_node,
            btf_fd=btf_fd,
            btf_key_type_id=self.spec.key_type_id if typed else 0,
            btf_value_type_id=self.spec.value_type_id if typed else 0,
            map_extra=self.map_extra,
            token_fd=self._token_fd,
            btf_vmlinux_value_type_id=struct_ops_type,
            value_type_btf_obj_fd=module_fd,
        )

    def _explained(self, err: BpfError, inner: Map | None) -> BpfError:
        from .hints import explain  # only for errors

        err.add_context(f"map {self.name!r}")
        err.hint = err.hint or explain(
            err.errno or 0,
            self.type,
            self.key_size,
            self.value_size,
            self.max_entries,
            self.map_flags,
            inner=inner is not None,
        )
        return err

    def _fill(self) -> None:
        if self.type == T.BPF_MAP_TYPE_ARENA:
            # Programs are only loaded with an arena whose address in this process is known.
            with self.memory() as memory:
                data = bytes(self.initial or b"")
                if len(data) > len(memory):
                    hint = f"its variables take {len(data)}: raise max_entries (pages)"
                    what = f"map {self.name!r}: an arena of {len(memory)} bytes"
                    raise BpfError(errno.E2BIG, what, hint)
                if data.strip(b"\0"):
                    memory[: len(data)] = data
            return
        assert self.initial is not None
        # A new map contains only zeros.
        if self.initial.strip(b"\0"):
            self.raw[bytes(4)] = bytes(self.initial)
        if self.spec.data in ("rodata", "kconfig"):
            self.freeze()

    def new_inner(self, *, name: str | None = None, btf_fd: int = 0) -> Map:
        """Create an inner map as the blueprint of this map of maps describes it.

        The caller owns it. ``outer[key] = inner`` stores it.
        """
        if self.spec.inner is None:
            raise BpfError(errno.EINVAL, f"map {self.name!r}", "it has no inner map description")
        inner = Map(self.spec.inner, self.btf)
        inner.create(name=name, btf_fd=btf_fd, token_fd=self._token_fd)
        return inner

    def reuse_fd(self, fd: int | Fd) -> None:
        """Use a map that already exists instead of creating one.

        :param fd: is duplicated and still belongs to the caller
        """
        if self._fd is not None:
            raise BpfError(errno.EEXIST, f"map {self.name!r}", "the map already exists")
        number = fd if isinstance(fd, int) else fd.fileno()
        info = bpf.map_info(number)
        self.type = info.type
        self.key_size = info.key_size
        self.value_size = info.value_size
        self.max_entries = info.max_entries
        self.map_flags = info.map_flags
        self.map_extra = info.map_extra
        self.name = self.name or info.name
        self._adopt(_dup(number))

    def _adopt(self, fd: Fd) -> None:
        self._fd = fd
        self._closed = False
        self._name, self._kind, self._entries = self.name, self.type, self.max_entries
        self._pool = []
        spec = self.spec
        try:
            self._bind(
                key_field(self.type, self.key_size, self.btf, spec.key_type_id),
                value_field(
                    self.type,
                    self.value_size,
                    self.map_flags,
                    self.btf,
                    spec.value_type_id,
                    sections=not spec.data,
                ),
            )
        except BaseException:
            self.close()
            raise

    # -- types ---------------------------------------------------------------

    @property
    def raw(self) -> Entries:
        """Return the same mapping over `bytes`.

        A per-CPU value holds the values of all possible CPUs, each padded to 8 bytes.
        """
        if self._raw is None:
            self.fileno()
            self._raw = _Raw(self, self._key.size, self._value.size)
        return self._raw

    @property
    def type_name(self) -> str:
        """Return its type as a word: ``hash``, ``ringbuf``..."""
        return uapi_word(MapType, "BPF_MAP_TYPE_", self.type)

    # -- life ----------------------------------------------------------------

    @property
    def fd(self) -> Fd:
        """Return the map's fd, owned by this object.

        :raises StateError: before creation and after `close`
        """
        if self._fd is None:
            state = (
                "closed; open it again"
                if self._closed
                else "not created yet; load its object first"
            )
            raise StateError(f"map {self.name!r}", f"it is {state}")
        return self._fd

    def fileno(self) -> int:
        return self.fd.fileno()

    @property
    def created(self) -> bool:
        """Return True if it has an fd."""
        return self._fd is not None

    @property
    def closed(self) -> bool:
        """Return True after `close`."""
        return self._closed

    def close(self) -> None:
        """Close the fd and the memory mapping. Closing again does nothing.

        The kernel keeps the map while programs, other fds or a pin use it.
        """
        self._pool = []
        if self._raw is not None:
            self._raw._pool = []
            self._raw = None
        self._unmap()
        self._closed = True
        if self._fd is not None:
            fd, self._fd = self._fd, None
            fd.close()

    def _unmap(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            # If a view still exists, the memory is unmapped when it goes.
            with contextlib.suppress(BufferError):
                memory.close()

    def __enter__(self) -> Map:
        if self._closed:
            self.fileno()  # says so
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not created"
        if self._fd is not None:
            state = f"fd {self._fd.fileno()}"
        entries = many(self.max_entries, "entry", "entries")
        sizes = f"{self.key_size}+{self.value_size} bytes, {entries}"
        return f"<Map {self.name!r}: {self.type_name}, {sizes}, {state}>"

    # -- the map as a whole --------------------------------------------------

    def info(self) -> Any:
        """Return ``struct bpf_map_info``: id, kernel name, sizes, flags."""
        return bpf.map_info(self.fileno())

    def attach(self) -> Link:
        """Register a struct_ops map with the kernel. Closing the link unregisters it.

        :raises BpfError: EINVAL for a map of another kind, before the object is loaded, or if the
            kernel needs a member that is not set; EEXIST if that name is already registered
        """
        from ..links.struct_ops import attach_struct_ops

        return attach_struct_ops(self, self._registered())

    def publish(self) -> None:
        """Write the value of a struct_ops map without registering it; for `Link.update`."""
        from ..links.struct_ops import publish

        publish(self, self._registered())

    def _registered(self) -> bytes:
        if self.struct_ops_value is None:
            hint = "only struct_ops maps of a loaded object are attached"
            raise BpfError(errno.EINVAL, f"map {self.name!r} ({self.type_name})", hint)
        return self.struct_ops_value

    def freeze(self) -> None:
        """Make the map read-only for user space, permanently (BPF_MAP_FREEZE).

        :raises BpfError: EBUSY while a view from `memory` exists, because it could be written
        """
        self._unmap()
        bpf.map_freeze(self.fileno())

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Give the map a name in a bpf file system, which keeps it alive (BPF_OBJ_PIN).

        If only the last folder of the path is missing, it is made.

        :raises BpfError: EEXIST if the path exists, EPERM if it is not in a bpf file system
        """
        bpf.obj_pin(self.fileno(), os.fspath(path))
        self.pin_path = os.fspath(path)

    def unpin(self) -> None:
        """Remove the name that `pin` gave."""
        if self.pin_path is None:
            raise BpfError(errno.ENOENT, f"map {self.name!r}", "it is not pinned")
        os.unlink(self.pin_path)
        self.pin_path = None

    def differences(self, fd: int | Fd) -> list[str]:
        """List the differences that keep the map behind `fd` from replacing this blueprint.

        :returns: one text per parameter that differs; [] if `reuse_fd` may be used
        """
        info = bpf.map_info(fd if isinstance(fd, int) else fd.fileno())
        added = ADDED_FLAGS[T(self.type)] if self.type in ADDED_FLAGS else 0
        wanted = {
            "type": (
                self.type_name,
                uapi_word(MapType, "BPF_MAP_TYPE_", info.type),
            ),
            "key_size": (self.key_size, info.key_size),
            "value_size": (self.value_size, info.value_size),
            "max_entries": (self._kept_entries(), info.max_entries),
            "map_flags": (self.map_flags | added, info.map_flags),
            "map_extra": (self.map_extra, info.map_extra),
        }
        return [
            f"{name} is {has}, not {want}" for name, (want, has) in wanted.items() if want != has
        ]

    def _kept_entries(self) -> int:
        # What the kernel (and, before it, the loader) makes of `max_entries`.
        if self.type in RINGS:
            return ring_size(self.max_entries, mmap.PAGESIZE)
        if self.type == T.BPF_MAP_TYPE_PERF_EVENT_ARRAY:
            return self.max_entries or possible_cpus()
        if self.type in LRUS and self.map_flags & MapFlag.BPF_F_NO_COMMON_LRU:
            return -(-self.max_entries // possible_cpus()) * possible_cpus()  # a list per CPU
        return self.max_entries

    def memory(self) -> memoryview:
        """Map the values of an array with ``BPF_F_MMAPABLE``, or an arena, as programs see them.

        Element `i` starts at ``i`` times the value size rounded up to 8 bytes. The view is
        read-only if user space may not write to the map. It is valid until `close`.

        :raises BpfError: the map cannot be mapped
        """
        if self._memory is None:
            self._memory = self._mmap(self._length())
        if isinstance(self._memory, FixedMapping):
            return self._memory.view()
        return memoryview(self._memory)

    def _length(self) -> int:
        if self.type == T.BPF_MAP_TYPE_ARENA:
            return self.max_entries * mmap.PAGESIZE
        length = ((self.value_size + 7) & ~7) * self.max_entries
        return -(-length // mmap.PAGESIZE) * mmap.PAGESIZE

    def _mmap(self, length: int) -> mmap.mmap | FixedMapping:
        number = self.fileno()
        if self.type == T.BPF_MAP_TYPE_ARENA and self.map_extra:
            return FixedMapping(self.fd, length, self.map_extra)
        if not self.map_flags & MapFlag.BPF_F_MMAPABLE:
            raise BpfError(
                errno.EINVAL, f"map {self.name!r}: mmap", "it has no BPF_F_MMAPABLE flag"
            )
        # Frozen maps and those with BPF_F_RDONLY_PROG cannot be mapped for writing.
        with contextlib.suppress(OSError):
            return mmap.mmap(number, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        try:
            return mmap.mmap(number, length, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as err:
            raise BpfError(err.errno or errno.EINVAL, f"map {self.name!r}: mmap") from None


class _Raw(Entries):
    # The same map over bytes. It shares the fd.

    def __init__(self, owner: Map, key_size: int, value_size: int) -> None:
        self._owner = owner
        super().__init__(
            owner.name,
            owner.type,
            owner.max_entries,
            NoKeyField(owner.type) if owner.type in NO_KEYS else BytesField(key_size),
            BytesField(value_size),
        )

    def fileno(self) -> int:
        return self._owner.fileno()

    def __repr__(self) -> str:
        return f"<raw view of {self._owner!r}>"


def _types_of(info: bpf.MapInfo) -> Btf | None:
    # Returns the BTF that a map was made with. None if it has none or we may not read it.
    from ..kernel import btf as kernel_btf

    try:
        if info.btf_vmlinux_value_type_id:
            return kernel_btf.vmlinux()
        return kernel_btf.from_id(info.btf_id) if info.btf_id else None
    except BpfError:
        return None


def _dup(number: int) -> Fd:
    import fcntl

    try:
        return Fd(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3), "map")
    except OSError as err:
        raise BpfError(err.errno or errno.EBADF, "dup of a map's fd") from None
