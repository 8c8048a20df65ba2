"""Multi programs: plans for many functions, rewritten code, attached as one."""

from __future__ import annotations

__all__: list[str] = []
