"""Find named functions by BTF alone, where the kernel hides its lists. Pure.

With CAP_BPF and CAP_PERFMON but not CAP_SYSLOG every address of /proc/kallsyms reads as 0, and
without tracefs nobody tells which functions can be traced. A trampoline needs neither: the
program is loaded for a BTF id, and the kernel finds the function. So functions given by their
exact names are taken from BTF. Their addresses, and whether ftrace can trace them, stay unknown
until the kernel answers at the attach.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..dataclass import dataclass
from ..errors import BpfError
from ..kernel.functions import label
from ..kernel.globs import VMLINUX, Pattern
from ..kernel.lookup import near_names
from .reasons import Reason, Skipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf
    from .candidates import SelectFacts

__all__ = ["Named", "hidden", "named"]


@dataclass(frozen=True, slots=True)
class Named:
    """A function that BTF describes.

    :param name: its name
    :param module: "" for the kernel itself
    :param btf_id: id in the BTF of its module
    :param proto: id of its prototype
    """

    name: str
    module: str
    btf_id: int
    proto: int


def hidden(facts: SelectFacts) -> BpfError | None:
    """Return why functions cannot be looked up in the kernel's own lists, None if they can."""
    try:
        _ = facts.ftrace
        facts.kallsyms.require_addresses()
    except BpfError as error:
        return error
    return None


def named(facts: SelectFacts, patterns: Iterable[Pattern]) -> tuple[list[Named], list[Skipped]]:
    """Find functions by their exact names in BTF.

    :param patterns: literal ones; a name without a module is one of the kernel itself
    """
    found: dict[tuple[str, str], Named] = {}
    lost: list[Skipped] = []
    for pattern in patterns:
        module = "" if pattern.module in (None, VMLINUX) else str(pattern.module)
        btf = facts.btf.get(module)
        one = _one(facts, btf, pattern.name, module)
        if isinstance(one, Skipped):
            lost.append(one)
        else:
            found[module, pattern.name] = one
    return list(found.values()), lost


def _one(facts: SelectFacts, btf: Btf | None, name: str, module: str) -> Named | Skipped:
    if btf is None:
        where = f"no /sys/kernel/btf/{module or VMLINUX}, where the kernel shows BTF"
        return Skipped(name, module, Reason.NO_BTF, where)
    table = btf.funcs_named([name])
    # For many names others come as well.
    rows = [i for i, other in enumerate(table.names) if other == name]
    if not rows:
        near = near_names(name, (s.name for s in facts.kallsyms if s.is_function))
        hint = f"perhaps {' or '.join(near)}" if near else ""
        if not module:
            hint = f"{hint}; of a module: MODULE:{name}".removeprefix("; ")
        return Skipped(name, module, Reason.NOT_FOUND, "BTF does not have it", hint)
    # The kernel looks the name up among its symbols, and takes the first.
    if len({table.protos[i] for i in rows}) > 1 or facts.kallsyms.times(label(name, module)) > 1:
        return Skipped(
            name, module, Reason.AMBIGUOUS, "the name alone does not tell which is meant"
        )
    return Named(name, module, table.ids[rows[0]], table.protos[rows[0]])
