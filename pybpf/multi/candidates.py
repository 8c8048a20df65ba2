"""Functions that globs matched and that have one address: one by one, or in columns."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

from ..dataclass import dataclass, field
from ..kernel.functions import KernelFunction
from .columns import Made
from .reasons import Reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf
    from ..kernel.ftrace import FtraceFunctions, KprobeBlacklist
    from ..kernel.kallsyms import Kallsyms

__all__ = ["Ask", "BtfFacts", "Candidate", "CandidateColumns", "Candidates", "SelectFacts"]

#: Gives the address of the kernel's own function of a name; None if it cannot be told for sure.
Ask = Callable[[str], int | None]


class BtfFacts(Protocol):
    """Stand for a source of BTF."""

    def get(self, module: str) -> Btf | None:
        """Return the BTF of a module, "" for the kernel itself. None if it has none."""


class SelectFacts(Protocol):
    """Stand for what `select` needs to know of a kernel, such as `pybpf.kernel.host.Facts`."""

    @property
    def ftrace(self) -> FtraceFunctions: ...

    @property
    def kallsyms(self) -> Kallsyms: ...

    @property
    def btf(self) -> BtfFacts: ...

    @property
    def kprobe_blacklist(self) -> KprobeBlacklist | None: ...


@dataclass(frozen=True, slots=True)
class Candidate(KernelFunction):
    """Describe a function that can be attached to by its address. ftrace and kallsyms name it.

    Its `name` may be a compiler's copy such as ``foo.isra.0``. Its `address` is the start of the
    function, not its call site. Its `model` is not looked up yet.

    :param no_btf: why `btf_id` is None
    :param unique: only this address has the name, so the kernel can look it up by name
    :param kprobe: perf kprobes are allowed on it (kprobe.multi does not ask)
    :param entry: matched by an entry glob
    :param proto: id of the prototype that all functions of this name have, if several share it
        and BTF tells; otherwise 0. Such a function has no `btf_id`, because the kernel would look
        up the name
    """

    no_btf: Reason | None = None
    unique: bool = True
    kprobe: bool = True
    entry: bool = False
    proto: int = 0


@dataclass(slots=True, eq=False)
class CandidateColumns:
    """Hold the fields of `Candidate`, a list for each, all of one length. BTF id 0 means none.

    :ivar protos: ids of their prototypes, 0 if BTF does not describe them
    """

    names: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    addresses: array[int] = field(default_factory=lambda: array("Q"))
    unique: bytearray = field(default_factory=bytearray)
    entry: bytearray = field(default_factory=bytearray)
    btf_ids: array[int] = field(default_factory=lambda: array("I"))
    no_btf: list[Reason | None] = field(default_factory=list)
    protos: array[int] = field(default_factory=lambda: array("I"))
    kprobe: bytearray = field(default_factory=bytearray)

    def candidate(self, at: int) -> Candidate:
        """Make the candidate of a row."""
        return Candidate(
            self.names[at],
            self.modules[at],
            self.addresses[at],
            self.btf_ids[at] or None,
            no_btf=self.no_btf[at],
            unique=bool(self.unique[at]),
            kprobe=bool(self.kprobe[at]),
            entry=bool(self.entry[at]),
            proto=0 if self.unique[at] else self.protos[at],
        )

    def take(self, rows: Sequence[int]) -> CandidateColumns:
        """Return some of the rows."""
        return CandidateColumns(
            [self.names[i] for i in rows],
            [self.modules[i] for i in rows],
            array("Q", [self.addresses[i] for i in rows]),
            bytearray([self.unique[i] for i in rows]),
            bytearray([self.entry[i] for i in rows]),
            array("I", [self.btf_ids[i] for i in rows]),
            [self.no_btf[i] for i in rows],
            array("I", [self.protos[i] for i in rows]),
            bytearray([self.kprobe[i] for i in rows]),
        )


class Candidates(Made[Candidate]):
    """Hold candidates as rows of columns.

    :param columns: must not change any more
    """

    __slots__ = ("columns",)

    def __init__(self, columns: CandidateColumns) -> None:
        self.columns = columns
        super().__init__(len(columns.names), columns.candidate)
