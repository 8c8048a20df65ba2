"""Feed mutated inputs to every parser. `python3 -m tests.fuzz --help` says how."""
