"""pybpf: a pure-Python, libbpf-style BPF loader with multi-function tracing that composes.

``open`` an object file, change its globals, ``load`` it, ``attach`` it; see README.

Names are imported when first used: parsing an object or a BTF blob on a machine
without Linux's bpf() needs none of the modules that call it, and ``import pybpf``
costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import errors, trampoline
    from .errors import (
        BpfError,
        DeniedByPolicy,
        ObjectFormatError,
        PlanError,
        RelocationError,
        UnsupportedFeature,
        VerifierError,
    )
    from .kernel.host import Facts
    from .links import Link, LinkSet
    from .loader import Object
    from .loader import open_object as open
    from .maps import Map, PerCpu
    from .programs import Program
    from .ringbuf import RingBuffer, RingBuffers
    from .ringbuf.perf import PerfBuffer

__version__ = "0.1.0"

# public name -> (module, name there; "" for the module itself)
_HOMES = {
    "BpfError": (".errors", "BpfError"),
    "DeniedByPolicy": (".errors", "DeniedByPolicy"),
    "Facts": (".kernel.host", "Facts"),
    "Link": (".links", "Link"),
    "LinkSet": (".links", "LinkSet"),
    "Map": (".maps", "Map"),
    "Object": (".loader", "Object"),
    "ObjectFormatError": (".errors", "ObjectFormatError"),
    "PerCpu": (".maps", "PerCpu"),
    "PerfBuffer": (".ringbuf.perf", "PerfBuffer"),
    "PlanError": (".errors", "PlanError"),
    "Program": (".programs", "Program"),
    "RelocationError": (".errors", "RelocationError"),
    "RingBuffer": (".ringbuf", "RingBuffer"),
    "RingBuffers": (".ringbuf", "RingBuffers"),
    "UnsupportedFeature": (".errors", "UnsupportedFeature"),
    "VerifierError": (".errors", "VerifierError"),
    "errors": (".errors", ""),
    "open": (".loader", "open_object"),
    "trampoline": (".trampoline", ""),
}

__all__ = [
    "BpfError",
    "DeniedByPolicy",
    "Facts",
    "Link",
    "LinkSet",
    "Map",
    "Object",
    "ObjectFormatError",
    "PerCpu",
    "PerfBuffer",
    "PlanError",
    "Program",
    "RelocationError",
    "RingBuffer",
    "RingBuffers",
    "UnsupportedFeature",
    "VerifierError",
    "__version__",
    "errors",
    "open",
    "trampoline",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pybpf' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(home[0], __name__)
    found = getattr(module, home[1]) if home[1] else module
    # Not globals(): pybpf.globals, once imported, hides it here.
    setattr(import_module(__name__), name, found)
    return found


def __dir__() -> list[str]:
    return __all__
