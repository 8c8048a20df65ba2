"""The import direction of style: pure code below, one door to the kernel, tools on top."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pybpf"

# Longest matching prefix gives a module's layer. A module may import modules of
# its own layer and of layers below; `_uapi` numbers may be used anywhere.
LAYERS = {
    "pybpf._lazy": 0,
    "pybpf.dataclass": 0,
    "pybpf.intenum": 0,
    "pybpf.namedtuple": 0,
    "pybpf._uapi": 0,
    "pybpf.errnos": 0,
    "pybpf.errors": 0,
    "pybpf.log": 0,
    "pybpf.features": 0,
    "pybpf.wording": 0,
    "pybpf.digits": 0,
    "pybpf.jsontext": 0,
    "pybpf.unpacking": 0,
    "pybpf.histogram": 0,
    "pybpf.symbols": 6,
    "pybpf.names": 0,
    "pybpf.bulk": 0,
    "pybpf.asm": 2,
    "pybpf.elf": 2,
    "pybpf.btf": 2,
    "pybpf.usdt": 3,
    "pybpf.obj": 3,
    "pybpf.multi.callees": 3,
    "pybpf.multi.classes": 3,
    "pybpf.multi.columns": 3,
    "pybpf.multi.cost": 3,
    "pybpf.multi.denylist": 3,
    "pybpf.multi.guard": 3,
    "pybpf.multi.mechanisms": 3,
    "pybpf.multi.options": 3,
    "pybpf.multi.plan": 3,
    "pybpf.multi.planner": 3,
    "pybpf.multi.rates": 3,
    "pybpf.multi.reasons": 3,
    "pybpf.multi.target": 3,
    "pybpf.multi.variant": 3,
    "pybpf.multi.rewrite": 3,
    "pybpf.multi.template": 3,
    "pybpf.multi.flow": 3,
    "pybpf.multi.traits": 3,
    "pybpf.trampoline.classes": 3,
    "pybpf.trampoline.decode": 3,
    "pybpf.trampoline.model": 3,
    "pybpf.trampoline.roles": 3,
    "pybpf._sys": 4,
    "pybpf.kernel": 5,
    "pybpf.kernel.functions": 3,
    "pybpf.kernel.globs": 3,
    # Its infos open programs, maps and links.
    "pybpf.kernel.objects": 8,
    "pybpf.maps": 6,
    "pybpf.binding": 6,
    "pybpf.globals": 6,
    "pybpf.stub": 6,
    "pybpf.ringbuf": 6,
    "pybpf.links": 6,
    # What touches the kernel in these two: image, registry, verify; select, resolve, engine.
    "pybpf.trampoline": 7,
    "pybpf.multi": 7,
    "pybpf.loader": 8,
    "pybpf.attaching": 8,
    "pybpf.programs": 8,
    "pybpf": 9,
    "pybpf.tools": 10,
    "pybpf.__main__": 11,
}
# Layers 0-3: same input, same result, on any machine.
PURE_LAYERS = {0, 1, 2, 3}
TOUCHES_THE_MACHINE = {"os", "subprocess", "socket", "mmap", "select", "fcntl", "resource"}

# What ctypes calls a function of a library by.
OPENS_LIBRARIES = {"CDLL", "PyDLL", "LibraryLoader", "cdll", "pydll", "pythonapi", "_dlopen"}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = _modules()


def _layer(module: str) -> int:
    prefix = module
    while prefix not in LAYERS or (prefix == "pybpf" and module != "pybpf"):
        prefix = prefix.rpartition(".")[0]
        if not prefix:
            raise AssertionError(f"{module} has no layer: add it to the table on purpose")
    return LAYERS[prefix]


@cache
def _imports(module: str, path: Path) -> set[str]:
    """Absolute names of what a module imports, `if TYPE_CHECKING` blocks left out."""
    tree = parsed(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            names.add(base)
            names.update(f"{base}.{a.name}" for a in node.names if f"{base}.{a.name}" in MODULES)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return names


def test_imports_point_down() -> None:
    """No module imports a module of a higher layer."""
    wrong = []
    for module, path in MODULES.items():
        mine = _layer(module)
        if module == "pybpf.trampoline":
            continue  # spans two layers on purpose; its names are resolved lazily
        for name in _imports(module, path) & MODULES.keys():
            if not module.startswith(name + ".") and _layer(name) > mine:
                wrong.append(f"{module}: {name} (layer {_layer(name)} > {mine})")
    assert wrong == []


def test_pure_layers_do_not_touch_the_machine() -> None:
    """Layers 0-3 import nothing that opens files, sockets or processes."""
    pure = {module: path for module, path in MODULES.items() if _layer(module) in PURE_LAYERS}
    bad = {module: _imports(module, path) & TOUCHES_THE_MACHINE for module, path in pure.items()}
    bad["pybpf.errors"] -= {"os"}  # os.strerror: words only
    assert {module: names for module, names in bad.items() if names} == {}


def _assigned(tree: ast.Module) -> set[str]:
    return {
        target.id
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def test_every_module_says_what_is_public() -> None:
    """Each module has a docstring and `__all__`, sorted out on purpose."""
    trees = {module: parsed(path) for module, path in MODULES.items()}
    assert [m for m, tree in trees.items() if not ast.get_docstring(tree)] == []
    assert [m for m, tree in trees.items() if "__all__" not in _assigned(tree)] == []


def test_one_module_opens_libc() -> None:
    """`pybpf._sys.door` is the only door: no other module gets at a C library."""
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.Attribute, ast.Name, ast.alias))
        and {getattr(node, field, None) for field in ("attr", "id", "name")} & OPENS_LIBRARIES
    }
    assert users == {"pybpf._sys.door"}


def test_tools_use_public_names_only() -> None:
    """Tools are the API's first users: no underscore module of pybpf is imported there."""
    bad = []
    tools = {name: path for name, path in MODULES.items() if name.startswith("pybpf.tools")}
    assert tools
    for path in sorted((ROOT / "tools").rglob("*.py")):
        if path.name != "gen_uapi.py":  # the generator of _uapi
            tools[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    for module, path in tools.items():
        for name in _imports(module, path):
            if name.startswith("pybpf._"):
                bad.append(f"{module}: {name}")
    assert not bad


def test_importing_the_facade_is_cheap() -> None:
    """`import pybpf` pulls in none of the heavy run-time dependencies."""
    code = (
        "import sys, pybpf, pybpf.trampoline; "
        "print(sorted({'capstone','psutil','asyncio','subprocess','argparse'}"
        " & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
