"""A function of the kernel, as all parts of pybpf describe it."""

from __future__ import annotations

from ..dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..trampoline.model import Model

__all__ = ["KernelFunction", "label"]


def label(name: str, module: str) -> str:
    """Name a function for people: ``name``, or ``name [module]``.

    :param module: kernel module, "" for the kernel itself
    """
    return f"{name} [{module}]" if module else name


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
