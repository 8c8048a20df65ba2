"""BPF maps as Python mappings.

`Map` is one map, `PerCpu` a value of a per-CPU map.
"""

from __future__ import annotations

from .core import Map
from .entries import Entries
from .percpu import PerCpu, possible_cpus

__all__ = ["Entries", "Map", "PerCpu", "possible_cpus"]
