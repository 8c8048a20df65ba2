"""What the running kernel is and can do: symbols, traceable functions, BTF, memory, features.

Each module reads one source. `host.Facts` gathers them as one lazy, immutable
snapshot that is passed along. Parsing is separate from opening files, so every
parser also runs on bytes from another machine. `programs`, `maps`, `links` and `btfs` list the
BPF objects the kernel holds.
"""

from __future__ import annotations

from .._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .objects import btfs, links, maps, programs, run_statistics

__all__ = ["btfs", "links", "maps", "programs", "run_statistics"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "btfs": ".objects",
        "links": ".objects",
        "maps": ".objects",
        "programs": ".objects",
        "run_statistics": ".objects",
    },
)
