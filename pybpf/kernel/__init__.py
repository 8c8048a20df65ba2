"""What the running kernel is and can do: symbols, traceable functions, BTF, memory, features.

Each module reads one source. `host.Facts` gathers them as one lazy, immutable
snapshot that is passed along. Parsing is separate from opening files, so every
parser also runs on bytes from another machine. `programs`, `maps`, `links` and `btfs` list the
BPF objects the kernel holds. `TracePipe` reads what programs print with ``bpf_printk``.
"""

from __future__ import annotations

from .._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .objects import btfs, links, maps, programs, run_statistics
    from .tracepipe import TracePipe

__all__ = ["TracePipe", "btfs", "links", "maps", "programs", "run_statistics"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "TracePipe": ".tracepipe",
        "btfs": ".objects",
        "links": ".objects",
        "maps": ".objects",
        "programs": ".objects",
        "run_statistics": ".objects",
    },
)
