"""pybpf: a pure-Python, libbpf-style BPF loader with multi-function tracing that composes.

``open`` an object file, change its globals, ``load`` it, ``attach`` it; see README.

A name is imported when it is first used, and so are the public modules: ``pybpf.kernel`` needs no
import of its own. ``import pybpf`` therefore costs next to nothing, and parsing an object or a
BTF blob on a machine without Linux's bpf() loads none of the modules that call it.
"""

from __future__ import annotations

from ._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import (
        asm,
        btf,
        elf,
        errors,
        features,
        histogram,
        jsontext,
        kernel,
        multi,
        symbols,
        trampoline,
        wording,
    )
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
    "asm",
    "btf",
    "elf",
    "errors",
    "features",
    "histogram",
    "jsontext",
    "kernel",
    "multi",
    "open",
    "symbols",
    "trampoline",
    "wording",
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
        "asm": ".asm:",
        "btf": ".btf:",
        "elf": ".elf:",
        "errors": ".errors:",
        "features": ".features:",
        "histogram": ".histogram:",
        "jsontext": ".jsontext:",
        "kernel": ".kernel:",
        "multi": ".multi:",
        "open": ".loader:open_object",
        "symbols": ".symbols:",
        "trampoline": ".trampoline:",
        "wording": ".wording:",
    },
)
