"""The tools that people run. Each is a module, or a package if it has several commands.

`entry` starts and ends every tool, `screen` prints for people, `inputs` reads files.
Tools import only public modules of pybpf.
"""

__all__: list[str] = []
