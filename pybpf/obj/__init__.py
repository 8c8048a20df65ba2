"""Object files: from bytes to blueprints (`reader`), from blueprints to final code (`linker`).

Pure: the same bytes and the same kernel BTF give the same result on any machine.
"""

from __future__ import annotations

__all__: list[str] = []  # import the modules by name, as needed
