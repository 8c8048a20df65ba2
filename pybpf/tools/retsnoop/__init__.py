"""A clone of retsnoop: it shows which kernel function made a system call fail, and its path there.

`cli` reads the command line, and `pybpf.multi.select` finds the functions.
`attach` attaches the BPF programs of retsnoop.bpf.c to them. `events` decodes
their records, `sessions` puts the records together, and `stacks` and `render`
turn them into text. Everything from `events` to `render` is pure.
"""

__all__: list[str] = []
