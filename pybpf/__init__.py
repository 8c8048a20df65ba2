"""pybpf: a pure-Python, libbpf-style BPF loader with multi-function tracing that composes.

``open`` an object file, change its globals, ``load`` it, ``attach`` it; see README.

A name is imported when it is first used. ``import pybpf`` therefore costs next to
nothing, and parsing an object or a BTF blob on a machine without Linux's bpf() loads
none of the modules that call it.
"""

from __future__ import annotations

from ._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import errors, trampoline
    from .btf.values import CharArray, Record
    from .errors import (
        BpfError,
        DeniedByPolicy,
        ObjectFormatError,
        PlanError,
        RelocationError,
        StateError,
        UnsupportedFeature,
        VerifierError,
    )
    from .kernel.host import Facts
    from .links import Link, LinkSet
    from .loader import Object
    from .loader import open_object as open
    from .maps import Map, PerCpu
    from .multi.link import MultiLink
    from .programs import Program
    from .ringbuf import RingBuffer, RingBuffers, UserRingBuffer
    from .ringbuf.perf import PerfBuffer

__version__ = "0.1.0"

__all__ = [
    "BpfError",
    "CharArray",
    "DeniedByPolicy",
    "Facts",
    "Link",
    "LinkSet",
    "Map",
    "MultiLink",
    "Object",
    "ObjectFormatError",
    "PerCpu",
    "PerfBuffer",
    "PlanError",
    "Program",
    "Record",
    "RelocationError",
    "RingBuffer",
    "RingBuffers",
    "StateError",
    "UnsupportedFeature",
    "UserRingBuffer",
    "VerifierError",
    "__version__",
    "errors",
    "open",
    "trampoline",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BpfError": ".errors",
        "CharArray": ".btf.values",
        "DeniedByPolicy": ".errors",
        "Facts": ".kernel.host",
        "Link": ".links",
        "LinkSet": ".links",
        "Map": ".maps",
        "MultiLink": ".multi.link",
        "Object": ".loader",
        "ObjectFormatError": ".errors",
        "PerCpu": ".maps",
        "PerfBuffer": ".ringbuf.perf",
        "PlanError": ".errors",
        "Program": ".programs",
        "Record": ".btf.values",
        "RelocationError": ".errors",
        "RingBuffer": ".ringbuf",
        "RingBuffers": ".ringbuf",
        "StateError": ".errors",
        "UnsupportedFeature": ".errors",
        "UserRingBuffer": ".ringbuf",
        "VerifierError": ".errors",
        "errors": ".errors:",
        "open": ".loader:open_object",
        "trampoline": ".trampoline:",
    },
)
