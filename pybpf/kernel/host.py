"""`Facts`: what is known of one kernel, gathered on demand and passed along.

Nothing is read until it is needed and nothing is read twice, so a snapshot
costs only what is used of it. It never changes afterwards, so a plan made
from it can be made again. There is no global instance: code that needs facts gets
them as an argument. Facts can be saved whole (`to_json`) and loaded on another machine with
another kernel, to plan or to look into a bug report.

Modules come and go, and with them symbols, traceable functions and BTF. So facts
belong to one moment: the moment at which their list of modules was read. `Facts.hold`
tells whether nothing has changed since. `Facts.current` gives facts of
the present: the same facts while they hold, else new ones. The new ones take over whatever
belongs to the kernel itself, which never moves.
"""

from __future__ import annotations

import errno
import os
from functools import cached_property

from ..btf import Btf
from ..errors import BpfError, ObjectFormatError, UnsupportedFeature
from ..unpacking import MOST, inflate

# What reads a source is imported when it is read: loading a small object needs none, and all of
# them take 4 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..features import Feature, FeatureSet
    from .btf import KernelBtf
    from .ftrace import FtraceFunctions, KprobeBlacklist
    from .kallsyms import Kallsyms
    from .lockdown import Lockdown, Policy
    from .modules import ModuleList
    from .probes import ProbeCache

__all__ = ["Facts", "SavedBtf"]

_FORMAT = 1
_SAVED = "saved facts"  # for messages
_MOST = 2 * MOST  # bytes of all BTF together

#: What a snapshot takes over from an older one of the same kernel.
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
    """Hold BTF of a kernel that is not running here: raw bytes by module, "" for vmlinux."""

    def __init__(self, raw: dict[str, bytes]) -> None:
        self._raw = raw
        self._parsed: dict[str, Btf] = {}

    def vmlinux(self) -> Btf:
        """Return the BTF of the kernel itself.

        :raises UnsupportedFeature: if it was not saved
        """
        return self.module("")

    def modules(self) -> list[str]:
        """List the modules whose BTF was saved, sorted."""
        return sorted(name for name in self._raw if name)

    def module(self, name: str) -> Btf:
        """Return the BTF of a module.

        :raises UnsupportedFeature: if it was not saved
        """
        found = self.get(name)
        if found is None:
            raise UnsupportedFeature(f"BTF of {name or 'vmlinux'!r}", hint="not in the saved facts")
        return found

    def forget(self) -> bool:
        """Let go of what was parsed. It is parsed again when it is needed.

        :returns: True if there was any
        """
        known = bool(self._parsed)
        self._parsed.clear()
        return known

    def find(self, name: str, kind: int) -> int | None:
        """See `KernelBtf.find`.

        :raises UnsupportedFeature: if the kernel's BTF was not saved
        """
        return self.vmlinux().find(name, kind)

    def number(self, name: str) -> int:
        """Return 1 if the BTF was saved, else 0. Saved BTF never changes."""
        return int(("" if name == "vmlinux" else name) in self._raw)

    def get(self, name: str) -> Btf | None:
        """Do what `module` does, but return None instead of raising an error."""
        name = "" if name == "vmlinux" else name
        raw = self._raw.get(name)
        if raw is None:
            return None
        if name not in self._parsed:
            base = self.get("") if name else None
            self._parsed[name] = Btf(raw, base=base, name=name or "vmlinux")
        return self._parsed[name]


class Facts:
    """Hold what is known of one kernel. It is immutable and filled in on demand.

    ``Facts()`` describes the running kernel.
    """

    def __init__(self) -> None:
        name = os.uname()
        self._set(release=name.release, machine=name.machine, version=name.version, _newest=[self])

    release: str  #: ``uname -r``; for people, never for decisions
    machine: str  #: ``uname -m``
    version: str  #: ``uname -v``
    #: For saved facts: why they have no traceable functions, "" if they have them.
    ftrace_error = ""
    _newest: list[Facts]  #: one list shared by all snapshots of this kernel; it holds the newest
    _old_kallsyms: Kallsyms | None = None  #: a newer table reuses the kernel's own symbols from it

    @classmethod
    def read(cls) -> Facts:
        """Make facts of the running kernel."""
        return cls()

    def _set(self, **values: object) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"facts do not change: {name}")

    def __repr__(self) -> str:
        return f"<Facts of {self.release} {self.machine}>"

    @property
    def is_saved(self) -> bool:
        """Return True if these facts come from a file, not from the running kernel."""
        return isinstance(self.btf, SavedBtf)

    @cached_property
    def policy(self) -> Policy:
        """Return the lockdown level, this process's capabilities, and sysctls."""
        from .lockdown import read_policy

        return read_policy()

    @property
    def lockdown(self) -> Lockdown:
        """Return the lockdown level. UNKNOWN if securityfs is not mounted."""
        return self.policy.lockdown

    # -- the moment

    @cached_property
    def loaded(self) -> ModuleList:
        """Return the modules that were loaded at the moment of these facts.

        :raises BpfError: if /proc is not mounted
        """
        from . import modules

        return modules.read()

    def hold(self) -> bool:
        """Tell whether no module has come, gone or moved since these facts were read.

        Saved facts belong to one moment for good, so they always hold.
        """
        if self.is_saved or "loaded" not in self.__dict__:
            return True
        from . import modules

        return self.loaded == modules.read()

    def current(self) -> Facts:
        """Return facts of this moment: these or later ones if they still hold, else new ones.

        New facts read again only what modules change, and only when it is needed. Reading the
        list of modules takes well below a millisecond.

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
        """Return the symbol table.

        :raises BpfError: if /proc is not mounted
        """
        from . import kallsyms

        _ = self.loaded  # fixes the moment of the facts first
        return kallsyms.read(before=self._old_kallsyms)

    @cached_property
    def ftrace(self) -> FtraceFunctions:
        """Return the traceable functions. They are read when something is asked of them.

        :raises BpfError: as `pybpf.kernel.ftrace.open_lists`; saved facts raise it if reading the
            list failed when they were saved
        """
        if self.ftrace_error:
            doing = "traceable functions are not among the saved facts"
            raise BpfError(errno.ENODATA, doing, f"when they were saved: {self.ftrace_error}")
        from .callsites import CallSites, find_sites
        from .ftrace import FtraceFunctions, open_lists

        _ = self.loaded
        source = CallSites(open_lists(), lambda: self.kallsyms, lambda: find_sites(self))
        return FtraceFunctions.of(source)

    @cached_property
    def kprobe_blacklist(self) -> KprobeBlacklist | None:
        """Return what kprobes refuse, None if the kernel does not tell."""
        from . import ftrace

        _ = self.loaded
        return ftrace.read_blacklist()

    @cached_property
    def btf(self) -> KernelBtf | SavedBtf:
        """Return the types of the kernel and its modules."""
        from .btf import KernelBtf

        return KernelBtf()

    @cached_property
    def probes(self) -> ProbeCache:
        """Return the feature probes of this kernel. Each probe runs only when it is needed."""
        from .probes import ProbeCache

        return ProbeCache(self.btf)

    @cached_property
    def features(self) -> FeatureSet:
        """Run every probe and return the answers. Takes about a second on a slow machine."""
        return self.probes.all()

    def supports(self, feature: Feature) -> bool:
        """Return True only if the probe says so. The probe runs now if it has not run yet."""
        return self.probes.supports(feature)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """List the loaded modules, with or without BTF, sorted.

        :raises BpfError: if /proc is not mounted
        """
        return tuple(sorted(self.loaded))

    @cached_property
    def possible_cpus(self) -> tuple[int, ...]:
        """List the CPUs that may ever exist. A per-CPU map value has one slot for each.

        :raises BpfError: if sysfs is not mounted
        """
        from .._sys.cpus import cpus

        return cpus("possible")

    @cached_property
    def online_cpus(self) -> tuple[int, ...]:
        """List the CPUs that are online now.

        :raises BpfError: if sysfs is not mounted
        """
        from .._sys.cpus import cpus

        return cpus("online")

    @cached_property
    def rlimits(self) -> dict[str, tuple[int, int]]:
        """Return (soft, hard) of ``nofile`` (descriptors) and ``memlock`` (bytes); -1: no limit."""
        import resource

        return {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
            "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK),
        }

    # -- saving ------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return everything planning needs as plain values: some megabytes of JSON.

        What this process may not read is left out and missing after loading. The traceable
        functions are needed for any plan, so the reason is kept if they are missing
        (`ftrace_error`).
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
        """Load facts that `to_json` saved.

        :raises ObjectFormatError: if `data` has another shape
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            what = f"expected a JSON object with format {_FORMAT}"
            raise ObjectFormatError(what, file=_SAVED)
        from ..features import FeatureSet
        from .ftrace import parse_blacklist, parse_functions
        from .kallsyms import Kallsyms
        from .lockdown import Lockdown, Policy
        from .modules import LoadedModule, ModuleList
        from .probes import ProbeCache

        facts = cls.__new__(cls)
        try:
            policy = Policy(
                Lockdown(data["lockdown"]),
                int(data["capabilities"]),
                tuple((str(k), int(v)) for k, v in data["sysctls"].items()),
            )
            features = FeatureSet.from_json(data["features"])
            left = _MOST
            raw = {}
            for name, part in data["btf"].items():
                raw[str(name)] = _unpack(part, f"btf {name}", left)
                left -= len(raw[str(name)])
            btf = SavedBtf(raw)
            facts._set(
                release=str(data["release"]),
                machine=str(data["machine"]),
                version=str(data["version"]),
                policy=policy,
                features=features,
                probes=ProbeCache(btf, known=features, can_ask=False),
                loaded=ModuleList(LoadedModule(str(name)) for name in data["modules"]),
                possible_cpus=tuple(int(cpu) for cpu in data["possible_cpus"]),
                online_cpus=tuple(int(cpu) for cpu in data["online_cpus"]),
                rlimits={},
                kallsyms=Kallsyms(_unpack(data["kallsyms"], "kallsyms")),
                btf=btf,
                kprobe_blacklist=None,
            )
            if "ftrace" in data:
                text = _unpack(data["ftrace"], "ftrace")
                sites = bool(data["ftrace_sites"])
                facts._set(ftrace=parse_functions(text, with_addresses=sites))
            else:
                facts._set(ftrace_error=str(data["ftrace_error"]))
            if "blacklist" in data:
                facts._set(
                    kprobe_blacklist=parse_blacklist(_unpack(data["blacklist"], "blacklist"))
                )
        except ObjectFormatError:
            raise
        except KeyError as error:
            raise ObjectFormatError(f"no {error}", file=_SAVED) from None
        except (TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise ObjectFormatError(str(error)[:200], file=_SAVED) from None
        return facts


def _pack(data: bytes) -> str:
    import base64
    import zlib

    return base64.b64encode(zlib.compress(data, 2)).decode()


def _unpack(text: object, what: str, most: int = MOST) -> bytes:
    import base64

    if not isinstance(text, str):
        raise ObjectFormatError("expected text", file=_SAVED, section=what)
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ObjectFormatError(str(error), file=_SAVED, section=what) from None
    return inflate(raw, _SAVED, what, min(most, MOST))
