"""What the running kernel is and can do: symbols, traceable functions, BTF, memory, features.

Each module reads one source; `host.Facts` gathers them as one lazy, immutable
snapshot that is passed along. Parsing is separate from opening files, so every
parser runs on bytes from another machine too.
"""

from __future__ import annotations

__all__: list[str] = []
