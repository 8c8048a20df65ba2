"""Symbols, traceable functions and BTF ids by name: ``python -m tests.bench symbols`` (root).

The peer of the symbol rows is C that reads /proc/kallsyms as libbpf does, in the same process by
turns. The rows after it compare ways that pybpf has: what one name costs against the whole list.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from pathlib import Path

from pybpf.btf import BtfKind
from pybpf.kernel import ftrace, kallsyms
from pybpf.kernel.btf import vmlinux
from pybpf.kernel.btffind import BtfFinder
from pybpf.kernel.kallsyms import Kallsyms
from tests.bench.peer import best, build, line, timed

NAME = "vfs_read"
# Names that end thousands of strings: each once took a search of all types for every string.
SHORT = ("s", "e", "u", "id", "list", "key")
HERE = Path(__file__).parent


def _once(work: Callable[[], object]) -> Callable[[], float]:
    def one() -> int:
        work()
        return 1

    return lambda: timed(one) / 1e3  # us


def _find_by_kernel() -> None:
    with BtfFinder() as finder:
        finder.find(NAME, BtfKind.FUNC)


def main() -> list[str]:
    """Rows of the report; microseconds."""
    c = build(HERE / "symbols_peer.c")
    c.find_symbol.restype = ctypes.c_ulonglong
    data = Path("/proc/kallsyms").read_bytes()
    functions = [s for s in Kallsyms(data) if s.is_function]
    addrs = [s.addr + 3 for s in random.Random(1).sample(functions, 20)]
    names = [s.name for s in random.Random(2).sample(functions, 100)]
    listed = "".join([f"{s.addr:016x} {s.name}\n" for s in functions]).encode()

    def stack() -> None:
        table = Kallsyms(data)
        for addr in addrs:
            table.lookup(addr)

    def hundred() -> None:
        table = Kallsyms(data)
        table.expect(len(names))
        for name in names:
            table.by_name(name)

    def indexed() -> None:
        table = Kallsyms(data)
        table.expect(1 << 20)
        table.by_name(NAME)

    def short() -> None:
        btf = vmlinux()
        for name in SHORT:
            btf.find_essential(name)

    def parsed() -> ftrace.FtraceFunctions:
        return ftrace.parse_functions(listed, with_addresses=True)

    sides = {
        "C": _once(lambda: c.find_symbol(NAME.encode())),
        "one": _once(lambda: kallsyms.read().by_name(NAME)),
        "index": _once(indexed),
        "stack": _once(stack),
        "hundred": _once(hundred),
        "traceable": _once(lambda: parsed().places(NAME)),
        "list": _once(lambda: len(parsed())),
        "BTF walk": _once(lambda: vmlinux().find(NAME, BtfKind.FUNC)),
        "BTF kernel": _once(_find_by_kernel),
        "BTF names": _once(lambda: vmlinux().names()),
        "BTF short": _once(short),
    }
    took = best(sides, 9)
    heads = f"{'us':<44} {'pybpf':>9} {'peer':>9}"
    return [
        f"{heads}   (C: formatted reads of /proc/kallsyms, as libbpf)",
        line("one symbol by name, the file read", took["one"], took["C"]),
        f"{heads}   (the whole list)",
        line("20 addresses; index of all names", took["stack"], took["index"], 0.1),
        line("100 names; index of all names", took["hundred"], took["index"], 1.3),
        line("one traceable function; list split", took["traceable"], took["list"], 0.3),
        line(
            "one FUNC asked of the kernel; read and walked",
            took["BTF kernel"],
            took["BTF walk"],
            0.2,
        ),
        line("types s, e, u, id, list, key; all names", took["BTF short"], took["BTF names"], 1.3),
    ]


if __name__ == "__main__":
    print("\n".join(main()))
