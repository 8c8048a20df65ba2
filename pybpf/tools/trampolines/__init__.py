"""The trampolines of the running kernel: list, dump and verify them, plan more, explain refusals.

`cli` reads the command line. Each other module is one command.
"""

__all__: list[str] = []
