"""A function of the kernel, as all parts of pybpf describe it."""

from __future__ import annotations

from ..dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..trampoline.model import Model

__all__ = ["ENDBR", "SITE_OFFSETS", "KernelFunction", "is_site_of", "label"]

#: Bytes of endbr64, which may be a function's first instruction.
ENDBR = 4
#: How many bytes after the function's address its call site may be. (With call padding the site is
#: still at the symbol.)
SITE_OFFSETS = frozenset(range(ENDBR + 1))


def label(name: str, module: str) -> str:
    """Name a function for people: ``name``, or ``name [module]``.

    :param module: kernel module, "" for the kernel itself
    """
    return f"{name} [{module}]" if module else name


def is_site_of(site: int, address: int) -> bool:
    """Tell whether `site` is the call site of the function at `address`."""
    return site - address in SITE_OFFSETS


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """Describe one kernel function.

    :param module: kernel module, "" for the kernel itself
    :param address: address of its first instruction, 0 if not known
    :param btf_id: BTF_KIND_FUNC in the module's or the kernel's BTF, None if it has none
    :param model: calling model, None if BTF does not describe it
    """

    name: str
    module: str = ""
    address: int = 0
    btf_id: int | None = None
    model: Model | None = None

    @property
    def label(self) -> str:
        """Return ``name`` or ``name [module]``."""
        return label(self.name, self.module)
