"""Counts calls, errors and latency of kernel functions, day and night, beside everyone else.

`cli` reads the command line, `functions` numbers the functions, `attach` puts the program of
funcwatch.bpf.c on them, `reader` reads its maps once an interval, `run` does one after the
other. `counts`, `records` and `text` are pure: numbers in, values and text out.
"""

__all__: list[str] = []
