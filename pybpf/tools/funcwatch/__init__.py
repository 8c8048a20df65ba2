"""Count calls, errors and latency of kernel functions, day and night, beside other tracers.

`cli` reads the command line, `functions` numbers the functions, `attach` attaches the program of
funcwatch.bpf.c to them, `reader` reads its maps once per interval, and `run` calls these in
order. `counts`, `records` and `text` are pure: numbers in, values and text out.
"""

__all__: list[str] = []
