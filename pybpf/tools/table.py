"""The tools of the command `pybpf`. To add a tool, add a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from ..dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from .pages import Page

__all__ = ["TOOLS", "Tool", "find"]


@dataclass(frozen=True, slots=True)
class Tool:
    """Describe a tool. Its module is imported when it is run.

    The module has ``main(argv, prog)``, which returns the exit status, and ``page(prog)``.

    :param name: the word after ``pybpf``
    :param module: module within ``pybpf.tools``
    :param summary: one line, as in the tool's own ``--help``
    """

    name: str
    module: str
    summary: str

    def load_main(self) -> Callable[[Sequence[str], str], int]:
        """Import the module and return its ``main``."""
        main: Callable[[Sequence[str], str], int] = self._module().main
        return main

    def load_page(self) -> Page:
        """Import the module and return its command line as data."""
        page: Page = self._module().page(f"pybpf {self.name}")
        return page

    def _module(self) -> ModuleType:
        return import_module(f".{self.module}", __package__)


TOOLS = (
    Tool("retsnoop", "retsnoop.cli", "the kernel function that failed, and its stack"),
    Tool("funcwatch", "funcwatch.cli", "calls, errors and latency of kernel functions"),
    Tool("trampolines", "trampolines.cli", "BPF trampolines: existing ones, and plans for more"),
    Tool("obj", "bpfobj", "BPF object files, and the objects that the kernel holds"),
    Tool("btf", "btf", "BTF type information, as C, as records, or by name"),
    Tool("features", "features", "what the running kernel can do for BPF tracing"),
    Tool("build", "build", "BPF objects from C, made with clang and a vmlinux.h from BTF"),
    Tool("completion", "completion", "shell completion for pybpf and its tools"),
    Tool("man", "manpages", "manual pages of pybpf and its tools, as roff"),
)


def find(name: str) -> Tool | None:
    """Find the tool with this name, None if there is none."""
    return next((tool for tool in TOOLS if tool.name == name), None)
