"""``python -m pybpf``: the command `pybpf`."""

from .tools.main import run

__all__: list[str] = []

run()
