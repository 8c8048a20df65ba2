"""`Facts`: what is known of one kernel, gathered on demand and passed along.

Nothing is read until it is asked for and nothing is read twice, so a snapshot
is as cheap as what is used of it. It never changes afterwards: a plan made
from it can be made again. There is no global one; whoever needs facts is given
some. They can be saved whole (`to_json`) and loaded elsewhere, to plan or to
look into a bug report on a machine that has another kernel.

Modules come and go, and with them symbols, traceable functions and BTF. So facts
are of one moment, the one at which their list of modules was read. `Facts.hold`
tells whether that moment is still the present, and `Facts.current` gives facts of
the present: the same ones while they hold, else new ones that take over whatever
belongs to the kernel itself, which never moves.
"""

from __future__ import annotations

import errno
import os
from functools import cached_property

from .._sys.cpus import cpus
from ..btf import Btf
from ..errors import BpfError, UnsupportedFeature
from ..features import FeatureSet
from . import ftrace as _ftrace
from . import kallsyms as _kallsyms
from . import modules as _modules
from .btf import KernelBtf
from .ftrace import FtraceFunctions, KprobeBlacklist, parse_blacklist, parse_functions
from .kallsyms import Kallsyms
from .lockdown import Lockdown, Policy, read_policy
from .modules import LoadedModule, ModuleList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..features import Feature
    from .probes import ProbeCache

__all__ = ["Facts", "SavedBtf"]

_FORMAT = 1

#: What one snapshot takes over from another of the same kernel.
_OF_THE_KERNEL = (
    "release",
    "machine",
    "version",
    "policy",
    "btf",
    "probes",
    "features",
    "possible_cpus",
    "rlimits",
    "_newest",
)


class SavedBtf:
    """BTF of a kernel that is not running here: raw bytes by module, "" for vmlinux."""

    def __init__(self, raw: dict[str, bytes]) -> None:
        self._raw = raw
        self._parsed: dict[str, Btf] = {}

    def vmlinux(self) -> Btf:
        """BTF of the kernel itself.

        :raises UnsupportedFeature: if it was not saved
        """
        return self.module("")

    def modules(self) -> list[str]:
        """Modules whose BTF was saved, sorted."""
        return sorted(name for name in self._raw if name)

    def module(self, name: str) -> Btf:
        """BTF of a module.

        :raises UnsupportedFeature: if it was not saved
        """
        found = self.get(name)
        if found is None:
            raise UnsupportedFeature(f"BTF of {name or 'vmlinux'!r}", hint="not in the saved facts")
        return found

    def number(self, name: str) -> int:
        """1 for what was saved, 0 for other modules: saved BTF never changes."""
        return int(("" if name == "vmlinux" else name) in self._raw)

    def get(self, name: str) -> Btf | None:
        """As `module`, None instead of the error."""
        name = "" if name == "vmlinux" else name
        raw = self._raw.get(name)
        if raw is None:
            return None
        if name not in self._parsed:
            base = self.get("") if name else None
            self._parsed[name] = Btf(raw, base=base, name=name or "vmlinux")
        return self._parsed[name]


class Facts:
    """What is known of one kernel; immutable, filled in as it is asked for.

    ``Facts()`` is about the running kernel.
    """

    def __init__(self) -> None:
        name = os.uname()
        self._set(release=name.release, machine=name.machine, version=name.version, _newest=[self])

    release: str  #: ``uname -r``; for people, never for decisions
    machine: str  #: ``uname -m``
    version: str  #: ``uname -v``
    #: Of saved facts: why they have no traceable functions, "" if they do.
    ftrace_error = ""
    _newest: list[Facts]  #: one box for all snapshots of this kernel, with the newest in it
    _old_kallsyms: Kallsyms | None = None  #: for what the kernel itself keeps in a newer one

    @classmethod
    def read(cls) -> Facts:
        """Facts of the running kernel."""
        return cls()

    def _set(self, **values: object) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"facts do not change: {name}")

    def __repr__(self) -> str:
        return f"<Facts of {self.release} {self.machine}>"

    @property
    def is_saved(self) -> bool:
        """True if these facts come from a file, not from the kernel below."""
        return isinstance(self.btf, SavedBtf)

    @cached_property
    def policy(self) -> Policy:
        """Lockdown level, this process's capabilities, sysctls."""
        return read_policy()

    @property
    def lockdown(self) -> Lockdown:
        """The lockdown level; UNKNOWN if securityfs is not mounted."""
        return self.policy.lockdown

    # -- the moment

    @cached_property
    def loaded(self) -> ModuleList:
        """The modules that are loaded at the moment these facts are of.

        :raises BpfError: if /proc is not mounted
        """
        return _modules.read()

    def hold(self) -> bool:
        """Tell whether no module has come, gone or moved since these facts were read.

        Saved facts are of a moment for good, and so hold for the kernel they are of.
        """
        return self.is_saved or "loaded" not in self.__dict__ or self.loaded == _modules.read()

    def current(self) -> Facts:
        """Facts of this moment: these or later ones if they still hold, else new ones.

        New ones read again only what modules change, when it is asked for. Reading the list of
        modules takes well below a millisecond.

        :raises BpfError: if /proc is not mounted
        """
        if self.is_saved:
            return self
        newest = self._newest[0]
        if newest.hold():
            return newest
        later = Facts.__new__(Facts)
        later._set(**{n: v for n, v in newest.__dict__.items() if n in _OF_THE_KERNEL})
        later._set(_old_kallsyms=newest.__dict__.get("kallsyms", newest._old_kallsyms))
        self._newest[0] = later
        return later

    # -- symbols and functions

    @cached_property
    def kallsyms(self) -> Kallsyms:
        """The symbol table.

        :raises BpfError: if /proc is not mounted
        """
        _ = self.loaded  # the moment comes first
        return _kallsyms.read(before=self._old_kallsyms)

    @cached_property
    def ftrace(self) -> FtraceFunctions:
        """The traceable functions.

        :raises BpfError: as `pybpf.kernel.ftrace.tracefs` does; of saved facts: it did so then
        """
        if self.ftrace_error:
            doing = "traceable functions are not among the saved facts"
            raise BpfError(errno.ENODATA, doing, f"when they were saved: {self.ftrace_error}")
        _ = self.loaded
        return _ftrace.read_functions()

    @cached_property
    def kprobe_blacklist(self) -> KprobeBlacklist | None:
        """What kprobes refuse, None if the kernel does not tell."""
        _ = self.loaded
        return _ftrace.read_blacklist()

    @cached_property
    def btf(self) -> KernelBtf | SavedBtf:
        """Types of the kernel and its modules."""
        return KernelBtf()

    @cached_property
    def probes(self) -> ProbeCache:
        """Feature probes of this kernel; asks only for what is wanted."""
        from .probes import ProbeCache  # much to import for those who never ask

        return ProbeCache(self.btf, self.policy)

    @cached_property
    def features(self) -> FeatureSet:
        """Answers of every probe. Takes about a second on a slow machine."""
        return self.probes.all()

    def supports(self, feature: Feature) -> bool:
        """True only if a probe (run now, if it was not yet) says so."""
        return self.probes.supports(feature)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Loaded modules, with or without BTF, sorted.

        :raises BpfError: if /proc is not mounted
        """
        return tuple(sorted(self.loaded))

    @cached_property
    def possible_cpus(self) -> tuple[int, ...]:
        """CPUs that may ever exist: per-CPU map values have one slot for each.

        :raises BpfError: if sysfs is not mounted
        """
        return cpus("possible")

    @cached_property
    def online_cpus(self) -> tuple[int, ...]:
        """CPUs that run now.

        :raises BpfError: if sysfs is not mounted
        """
        return cpus("online")

    @cached_property
    def rlimits(self) -> dict[str, tuple[int, int]]:
        """(soft, hard) of ``nofile`` (descriptors) and ``memlock`` (bytes); -1 is no limit."""
        import resource

        return {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
            "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK),
        }

    # -- saving ------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Everything planning needs, as plain values: some megabytes of JSON.

        What this process may not read is left out and missing after loading; for the traceable
        functions, without which nothing can be planned, the reason is kept (`ftrace_error`).
        """
        saved: dict[str, Any] = {
            "format": _FORMAT,
            "release": self.release,
            "machine": self.machine,
            "version": self.version,
            "features": self.features.to_json(),
            "lockdown": self.lockdown.value,
            "capabilities": self.policy.effective,
            "sysctls": dict(self.policy.sysctls),
            "modules": list(self.modules),
            "possible_cpus": list(self.possible_cpus),
            "online_cpus": list(self.online_cpus),
            "kallsyms": _pack(self.kallsyms.text.encode("utf-8", "surrogateescape")),
            "btf": {},
        }
        try:
            saved["ftrace"] = _pack(self.ftrace.to_text().encode("utf-8", "surrogateescape"))
            saved["ftrace_sites"] = self.ftrace.sites is not None
        except BpfError as error:
            saved["ftrace_error"] = self.ftrace_error or str(error)
        if self.kprobe_blacklist is not None:
            saved["blacklist"] = _pack(self.kprobe_blacklist.to_text().encode())
        for name in ["", *self.btf.modules()]:
            btf = self.btf.get(name)
            if btf is not None:
                saved["btf"][name] = _pack(btf.raw)
        return saved

    @classmethod
    def from_json(cls, data: object) -> Facts:
        """Facts that `to_json` saved.

        :raises ValueError: if `data` has another shape
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(f"saved facts: an object with format {_FORMAT} is wanted")
        from .probes import ProbeCache

        facts = cls.__new__(cls)
        try:
            policy = Policy(
                Lockdown(data["lockdown"]),
                int(data["capabilities"]),
                tuple((str(k), int(v)) for k, v in data["sysctls"].items()),
            )
            features = FeatureSet.from_json(data["features"])
            btf = SavedBtf({str(name): _unpack(raw) for name, raw in data["btf"].items()})
            facts._set(
                release=str(data["release"]),
                machine=str(data["machine"]),
                version=str(data["version"]),
                policy=policy,
                features=features,
                probes=ProbeCache(btf, policy, known=features, can_ask=False),
                loaded=ModuleList(LoadedModule(str(name)) for name in data["modules"]),
                possible_cpus=tuple(int(cpu) for cpu in data["possible_cpus"]),
                online_cpus=tuple(int(cpu) for cpu in data["online_cpus"]),
                rlimits={},
                kallsyms=Kallsyms(_unpack(data["kallsyms"])),
                btf=btf,
                kprobe_blacklist=None,
            )
            if "ftrace" in data:
                text = _unpack(data["ftrace"])
                sites = bool(data["ftrace_sites"])
                facts._set(ftrace=parse_functions(text, with_addresses=sites))
            else:
                facts._set(ftrace_error=str(data["ftrace_error"]))
            if "blacklist" in data:
                facts._set(kprobe_blacklist=parse_blacklist(_unpack(data["blacklist"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"saved facts: {error!r}") from None
        return facts


def _pack(data: bytes) -> str:
    import base64
    import zlib

    return base64.b64encode(zlib.compress(data, 2)).decode()


def _unpack(text: object) -> bytes:
    import base64
    import zlib

    if not isinstance(text, str):
        raise ValueError("saved facts: text is wanted")
    try:
        return zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(f"saved facts: {error}") from None
