"""How modules of pybpf import each other: no circles, no private names of others, one style."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pybpf"


def _name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, but those of ``if TYPE_CHECKING`` blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other
                yield from _run_time(other)
        else:
            yield child
            yield from _run_time(child)


def _base(module: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parts = package[: len(package) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


@cache
def _imported(module: str) -> frozenset[str]:
    """Modules of pybpf that a module imports when it runs, at its head or in a function.

    A package that is imported on the way to a submodule does not count: what it imports itself
    does.
    """
    path = MODULES[module]
    found: set[str] = set()
    for node in _run_time(parsed(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, path, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy":
            homes = ast.literal_eval(node.args[1])
            found.update(_resolved(module, home.partition(":")[0]) for home in homes.values())
    return frozenset(found & MODULES.keys())


def _resolved(package: str, relative: str) -> str:
    dots = len(relative) - len(relative.lstrip("."))
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - dots + 1], relative.lstrip(".")])


def _circles() -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in _imported(module):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            at = stack.index(module)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1 or module in _imported(module):
                out.append(sorted(group))

    for module in MODULES:
        if module not in order:
            visit(module)
    return out


def test_no_import_circle() -> None:
    """No module reaches itself, whether it imports at its head or in a function."""
    assert _circles() == []


def test_the_graph_is_not_empty() -> None:
    """The circle test sees imports of every form that pybpf uses."""
    assert "pybpf.loader" in _imported("pybpf")  # a table of lazy names
    assert "pybpf.obj.linker" in _imported("pybpf.binding")
    assert "pybpf._sys.door" in _imported("pybpf._sys.bpf")
    assert sum(len(_imported(module)) for module in MODULES) > 400


def _private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _aliases(module: str, path: Path, tree: ast.Module) -> dict[str, str]:
    """Local name -> module it stands for, of imported modules of pybpf and tools."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = _base(module, path, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in MODULES:
                    found[alias.asname or alias.name] = inner
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and alias.name in MODULES:
                    found[alias.asname] = alias.name
    return found


def _defined(tree: ast.Module) -> set[str]:
    """Private names a module defines: functions, classes, variables, attributes, slots."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # __slots__, and names given to setattr
    return found


# Private by name, but documented as public API of the standard library.
ALLOWED = {"_fields", "_replace", "_asdict", "_make", "_value2member_map_", "_value_", "_exit"}
CHECKED = [*MODULES.values(), *sorted((ROOT / "tools").rglob("*.py"))]


def _uses_of_others(path: Path) -> list[str]:
    tree = parsed(path)
    module = _name(path)
    own = _defined(tree)
    aliases = _aliases(module, path, tree)
    bad = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _base(module, path, node).startswith("pybpf"):
            bad += [
                f"import {alias.name}"
                for alias in node.names
                if _private(alias.name)
                and f"{_base(module, path, node)}.{alias.name}" not in MODULES
                and alias.name not in {"_sys", "_uapi"}
            ]
        elif isinstance(node, ast.Attribute) and _private(node.attr) and node.attr not in ALLOWED:
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner in aliases or (node.attr not in own and owner not in ("self", "cls")):
                bad.append(f"{node.lineno}: {ast.unparse(node)}")
    return [f"{path.relative_to(ROOT)}: {use}" for use in bad]


def test_no_private_names_of_others() -> None:
    """No module imports or touches a name with an underscore that another module defines.

    Of ``self`` and ``cls`` it may: a class uses its bases.
    """
    assert [use for path in CHECKED for use in _uses_of_others(path)] == []


def _imports() -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """Every import statement of pybpf, with the module it is in."""
    for module, path in MODULES.items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield module, node


def _is_ours(name: str) -> bool:
    return name == "pybpf" or name.startswith("pybpf.")


def test_imports_are_relative() -> None:
    """Inside pybpf modules are named relatively; tools use the facade as users do."""
    bad = []
    for module, node in _imports():
        if isinstance(node, ast.ImportFrom):
            absolute = not node.level and _is_ours(node.module or "")
        else:
            ours = any(_is_ours(alias.name) for alias in node.names)
            absolute = ours and not module.startswith("pybpf.tools")
        bad += [f"{module}: {ast.unparse(node)}"] if absolute else []
    assert bad == []


def test_one_way_to_import_for_types_only() -> None:
    """``TYPE_CHECKING = False``: type checkers know it, and typing need not be imported."""
    bad = [
        f"{module}:{node.lineno}"
        for module, node in _imports()
        if isinstance(node, ast.ImportFrom)
        and node.module == "typing"
        and any(alias.name == "TYPE_CHECKING" for alias in node.names)
    ]
    assert bad == []


#: Packages that are not Python's own, and who imports them.
OTHERS = {
    "capstone": {"pybpf.trampoline.decode"},
    "psutil": {"pybpf.kernel.owners"},
    "pyroute2": {"pybpf.links.tc"},
    # Extras of tools.
    "drgn": {"pybpf.tools.retsnoop.debuginfo"},
    "prometheus_client": {"pybpf.tools.funcwatch.prometheus"},
    "opentelemetry": {"pybpf.tools.funcwatch.otlp"},
}


def test_other_packages_stay_where_they_are_needed() -> None:
    """README: opening, loading and attaching take the standard library alone, but for `tc`."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        for node in _run_time(parsed(path)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {one.partition(".")[0] for one in names} - sys.stdlib_module_names:
                found.setdefault(top, set()).add(name)
    found.pop("pybpf", None)  # the tools import it by its name
    assert found == OTHERS
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    said = (ROOT / "README.md").read_text().partition("## ")[0]
    for package in (one.partition(">")[0] for one in needed):
        assert package in OTHERS and package in said


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their file names, all in one run of `make test`."""
    names = [path.name for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert len(names) > 100
    assert [name for name in set(names) if names.count(name) > 1] == []
