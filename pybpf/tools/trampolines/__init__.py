"""The trampolines of the running kernel: list, dump and verify them, plan more, tell why not.

`cli` reads the command line; each other module is one command.
"""

__all__: list[str] = []
