"""The kernel's symbol table, /proc/kallsyms, by name and by address.

A line is ``ADDRESS TYPE NAME``. If a module, BPF or ftrace owns the symbol, a tab
and ``[OWNER]`` follow. The table has a hundred thousand lines and most users need only a
few of them, so nothing is split until it is needed. One name is found by searching the
text (1 ms), one address by bisecting it (0.01 ms). Columns are made in C-speed steps (the hex
digits of many addresses are joined, decoded and byte-swapped together), on the first use
that needs them all. A dictionary of names is made only after several searches, or at
once if the caller says that it will look up many (`Kallsyms.expect`). The
kernel lists its own symbols first and they never change. A table that is read again therefore
reuses what was made of them and splits only the few lines after them.

Names are not unique. Static functions repeat, one address may have several names,
and while a trampoline is replaced two images have the same name (the last listed
is the newest).
"""

from __future__ import annotations

import errno
import itertools
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence, Set

from .._sys.files import required, required_after
from ..bulk import shared_prefixes
from ..digits import decimal
from ..errors import DeniedByPolicy
from .stretch import FUNCTION_TYPES, PATH, Columns, Found, Stretch, Symbol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["FUNCTION_TYPES", "Columns", "Kallsyms", "Symbol", "parse", "read"]

# No function is longer. A larger distance means that the address belongs to
# something that has no symbol (the table has no sizes). Bytes.
_MAX_OFFSET = 1 << 20
_PAGE = 4096
# A search for the beginning of names takes a quarter of a pass over all lines.
_MOST_SEARCHES = 2


def _line_with(data: bytes, words: bytes, start: int = 0) -> int:
    """Return where the first line with `words` starts, or the end of the data."""
    found = data.find(words, start)
    return len(data) if found < 0 else data.rfind(b"\n", 0, found) + 1


class Kallsyms:
    """Hold the symbol table as it was when its text was read; immutable.

    :param data: text of /proc/kallsyms
    :param before: a table read earlier. The kernel's own symbols come first and never change, so
        what was split and sorted of them is reused.
    :raises ObjectFormatError: when a line that is needed is malformed
    """

    def __init__(self, data: bytes | str, before: Kallsyms | None = None) -> None:
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        if data and not data.endswith(b"\n"):
            data += b"\n"
        # Three parts: the kernel's symbols, the modules', and what BPF and kprobes made recently.
        # Each is decoded by itself, so there is never a second copy of the whole text.
        view = memoryview(data)
        start = _line_with(data, b"\t")
        own = Stretch(_text(view[:start]), 0, core=True)
        if before is not None and before._stretches[0].text == own.text:
            own = before._stretches[0]
        self._hold(own, data, start, start)

    @classmethod
    def _continued(cls, before: Kallsyms, rest: bytes) -> Kallsyms:
        # A table with the kernel's own symbols of another one.
        if rest and not rest.endswith(b"\n"):
            rest += b"\n"
        table = cls.__new__(cls)
        own = before._stretches[0]
        table._hold(own, rest, 0, len(own.text))
        return table

    def _hold(self, own: Stretch, data: bytes, start: int, offset: int) -> None:
        # `start`: where modules begin in `data`; `offset`: and in the whole table.
        view, end = memoryview(data), _line_with(data, b"\t[bpf]\n", start)
        modules = Stretch(_text(view[start:end]), offset)
        made = Stretch(_text(view[end:]), offset + end - start)
        self._stretches: tuple[Stretch, Stretch, Stretch] = (own, modules, made)
        self._hidden: bool | None = None

    def __len__(self) -> int:
        return sum(map(len, self._stretches))

    def __iter__(self) -> Iterator[Symbol]:
        """Iterate over all symbols in file order."""
        return itertools.chain.from_iterable(self._stretches)

    def function_names(self) -> Iterator[str]:
        """Iterate over the names of functions in file order. Lines are not checked."""
        return itertools.chain.from_iterable(one.function_names() for one in self._stretches)

    @property
    def text(self) -> str:
        """Return the table as the kernel wrote it."""
        return "".join([stretch.text for stretch in self._stretches])

    @property
    def hidden(self) -> bool:
        """Return True if the kernel showed every address as zero, or no symbol at all.

        Per-CPU symbols really are near zero on x86-64. So the sign is that no
        address is in the upper half.
        """
        if self._hidden is None:
            texts = [stretch.text for stretch in self._stretches]
            self._hidden = not any(text.startswith("f") or "\nf" in text for text in texts)
        return self._hidden

    def require_addresses(self) -> None:
        """Check that this process may see the addresses.

        :raises DeniedByPolicy: if they are hidden
        """
        if not self.hidden:
            return
        hint = (
            "all read as 0: not root (CAP_SYSLOG is missing), or kernel.kptr_restrict is "
            "2; run it as root, and if that does not help: sysctl kernel.kptr_restrict=1"
        )
        if not any(stretch.text for stretch in self._stretches):
            hint = "the file is empty: a container hides it, or the kernel has no CONFIG_KALLSYMS"
        raise DeniedByPolicy(errno.EPERM, "kernel addresses of /proc/kallsyms", hint)

    # -- by name -----------------------------------------------------------

    def expect(self, names: int) -> None:
        """Say how many names will be looked up.

        Each look-up searches the text until an index pays. For many names it is made at once.
        """
        for stretch in self._stretches:
            stretch.expect(names)

    def by_name(self, name: str) -> list[Symbol]:
        """Find every symbol called `name`, in file order.

        More than one means that the name is ambiguous.

        :raises DeniedByPolicy: if addresses are hidden (kernel.kptr_restrict)
        """
        self.require_addresses()
        if not name or not name.isprintable() or " " in name:
            return []
        return [symbol for stretch in self._stretches for symbol in stretch.by_name(name)]

    def times(self, label: str) -> int:
        """Count the symbols ``NAME`` or ``NAME [MODULE]``; also where addresses are hidden."""
        line = label.replace(" [", "\t[")
        return sum(stretch.text.count(f" {line}\n") for stretch in self._stretches)

    def named(self, names: Collection[str]) -> Columns:
        """Find every symbol that has one of these names, in file order.

        It makes one pass over the text. For thousands of names that is as fast as making an
        index, and nothing is kept (the index of a kernel's names takes 26 MB). If the names start
        alike, as those that a glob matches do, the text is only searched for their beginning.

        :raises DeniedByPolicy: if addresses are hidden (kernel.kptr_restrict)
        """
        self.require_addresses()
        found = Columns([], array("Q"), [], [])
        wanted = dict(zip(names, names, strict=True))
        wanted.pop("", None)
        prefixes = shared_prefixes(wanted, _MOST_SEARCHES)
        for stretch in self._stretches:
            stretch.add_named(wanted, prefixes, found)
        return found

    def labels_starting(
        self, prefixes: Sequence[str], sites: Set[int], endbr: int
    ) -> dict[int, str]:
        """Map call sites to the labels of their functions, for names that start with a prefix.

        A label is ``NAME`` or ``NAME [OWNER]``. The kernel names a call site by the nearest symbol
        at or below it, and by the first of several at one address. So do its ``%ps`` and ftrace's
        list.

        :param prefixes: not empty
        :param sites: addresses of call sites
        :param endbr: how many bytes after its function a call site is, if not at the start
        :raises DeniedByPolicy: if addresses are hidden (kernel.kptr_restrict)
        """
        return self._labels(lambda stretch: stretch.starting(prefixes), sites, endbr)

    def labels_named(self, names: Sequence[str], sites: Set[int], endbr: int) -> dict[int, str]:
        """Do what `labels_starting` does, for functions that have one of these names."""
        some = [name for name in names if name and not any(map(name.__contains__, " \t\n"))]
        return self._labels(lambda stretch: stretch.exact(some), sites, endbr)

    def _labels(
        self, find: Callable[[Stretch], Found], sites: Set[int], endbr: int
    ) -> dict[int, str]:
        self.require_addresses()
        labels: dict[int, str] = {}
        for stretch in self._stretches:
            stretch.add_labels(find(stretch), sites, endbr, labels)
        return labels

    def find_prefix(self, prefix: str) -> list[Symbol]:
        """Find symbols whose name starts with `prefix`, in file order.

        :raises DeniedByPolicy: if addresses are hidden (kernel.kptr_restrict)
        """
        self.require_addresses()
        if not prefix or not prefix.isprintable() or " " in prefix:
            return []
        return [symbol for stretch in self._stretches for symbol in stretch.find_prefix(prefix)]

    def trampolines(self) -> list[tuple[int, Symbol]]:
        """Find the images of BPF trampolines as (key, symbol), in file order.

        The key is BTF object id << 32 | 0x80000000 | BTF id for a kernel
        function. A key listed twice is being replaced, and the last is the newest.
        """
        stem = "bpf_trampoline_"
        keys = ((decimal(symbol.name[len(stem) :]), symbol) for symbol in self.find_prefix(stem))
        return [(key, symbol) for key, symbol in keys if key is not None]

    # -- by address --------------------------------------------------------

    def lookup(self, addr: int) -> tuple[Symbol, int] | None:
        """Find the symbol that covers `addr`, and the offset into it in bytes.

        If an address has several names, the first function listed is taken, as
        the kernel does. ftrace still lists init functions of modules after their memory was
        freed. If BPF now uses that page, the BPF symbol is taken. Returns None if no symbol is
        near. The table has no sizes, so an address past the end of the last function
        before a gap is still counted as part of it, up to 1 MiB further on.
        """
        self.require_addresses()
        if not 0 <= addr < 1 << 64:
            return None
        own, modules, made = (stretch.below(addr) or 0 for stretch in self._stretches)
        start = max(own, modules, made)
        if made and (made == start or made | _PAGE - 1 == addr | _PAGE - 1):
            start, names = made, self._stretches[-1].at(made)
        else:
            names = self.at(start)
        offset = addr - start
        if not start or offset >= _MAX_OFFSET:
            return None
        if not names:  # the lines looked sorted, but they are not
            for stretch in self._stretches:
                stretch.stop_bisecting()
            return self.lookup(addr)
        symbol = next((s for s in names if s.is_function), names[0])
        return symbol, offset

    def at(self, addr: int) -> list[Symbol]:
        """Find every symbol whose address is exactly `addr` (aliases), in file order."""
        self.require_addresses()
        return [symbol for stretch in self._stretches for symbol in stretch.at(addr)]

    def above(self, addr: int) -> int | None:
        """Find the lowest symbol address above `addr`; None if there is none."""
        self.require_addresses()
        found = (stretch.above(addr) for stretch in self._stretches)
        return min((one for one in found if one is not None), default=None)


def _text(data: memoryview) -> str:
    return str(data, "utf-8", "surrogateescape")


def parse(stream: BinaryIO | bytes) -> Kallsyms:
    """Parse a symbol table from `stream` (bytes, or a binary file that is read to its end)."""
    return Kallsyms(stream if isinstance(stream, bytes) else stream.read())


def read(path: str = PATH, *, before: Kallsyms | None = None) -> Kallsyms:
    """Read the running kernel's symbol table.

    :param before: a table read earlier, as for `Kallsyms`. While its symbols are still there,
        they are not kept a second time while the file is read (15 MB).
    :raises BpfError: if the file does not exist or cannot be read; the hint says what to do
    """
    wanted_for = "the addresses of kernel functions"
    own = before._stretches[0].text if before is not None else ""
    if before is not None and own:
        rest = required_after(path, wanted_for, own)
        # A line without an owner would be one more of the kernel's own.
        if rest is not None and (not rest or b"\t" in rest.partition(b"\n")[0]):
            return Kallsyms._continued(before, rest)
    return Kallsyms(required(path, wanted_for), before)
