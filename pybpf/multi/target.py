"""`Target`: one kernel function, as the planner sees it."""

from __future__ import annotations

from ..dataclass import dataclass
from ..kernel.functions import KernelFunction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..trampoline.model import Model

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target(KernelFunction):
    """Describe one kernel function, and what else attaching to it needs to know.

    :param unique: no other function of this module has its name
    :param kprobe: it is not on the kprobe blacklist
    :param occupied: number of programs its trampoline already holds
    :param may_sleep: the kernel lets sleepable programs run on it; None if that is not known
    """

    unique: bool = True
    kprobe: bool = True
    occupied: int = 0
    may_sleep: bool | None = None

    @property
    def prototype(self) -> Model | None:
        """Return the model if it is certainly this function's, otherwise None.

        If several functions share the name, a BTF id may be that of another one. A model without
        an id is then the one that all of them have.
        """
        return self.model if self.unique or self.btf_id is None else None
