"""The tools that people run: a module each, or a package where a tool has several.

`entry` starts and ends every tool, `screen` prints for people, `inputs` reads files.
Tools import public modules of pybpf only.
"""

__all__: list[str] = []
