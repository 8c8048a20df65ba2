"""Import the names of a package when they are first used.

``import pybpf`` then costs next to nothing, and reading BTF on a machine without bpf(2) loads
nothing that calls it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["lazy", "load"]


def load(home: str, package: str) -> Any:
    """Import a module, or a name of it.

    :param home: ``.module:name``, or ``.module:`` for the module itself; a module without a
        leading dot is not of `package`
    :param package: what a leading dot stands for
    """
    from importlib import import_module

    where, _, name = home.partition(":")
    module = import_module(where, package)
    return getattr(module, name) if name else module


def lazy(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package.

    :param package: its ``__name__``
    :param homes: public name -> module that defines it, relative to the package: ``.loader``,
        or ``.loader:open_object`` if it has another name there, or ``.errors:`` for the
        module itself
    """

    def __getattr__(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = load(home if ":" in home else f"{home}:{name}", package)
        # From now on, a submodule of the same name (pybpf.globals) does not hide it.
        setattr(sys.modules[package], name, found)
        return found

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__
