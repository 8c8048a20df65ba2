"""A clone of retsnoop: which kernel function failed a system call, and on what path.

`cli` reads the command line, `select` (in pybpf) finds the
functions, `attach` puts the BPF programs of retsnoop.bpf.c on them, `events`
decodes what those send, `sessions` puts it together, `stacks` and `render` make
text of it. Everything from `events` to `render` is pure.
"""

__all__: list[str] = []
