"""The kernel's user-space API as Python: enumerations, structures, #defines.

`enums` and `structs` are generated from a kernel's BTF, `defines` is written
by hand. Nothing here touches the kernel.
"""

__all__: list[str] = []
