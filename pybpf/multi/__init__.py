"""Multi programs: plans for many functions, with code rewritten for them and attached as one."""

from __future__ import annotations

__all__: list[str] = []
