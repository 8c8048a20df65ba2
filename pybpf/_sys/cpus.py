"""Which CPUs the machine has, as sysfs lists them."""

from __future__ import annotations

from ..digits import decimal
from ..errors import ObjectFormatError
from .files import required

__all__ = ["cpus", "parse_cpus"]

# No kernel has more CPUs (NR_CPUS is at most 8192).
_MOST = 1 << 16


def parse_cpus(text: str) -> tuple[int, ...]:
    """Read a CPU list such as ``0-3,8-11``. Numbers keep its order; () for a blank text.

    The format is that of Documentation/admin-guide/cputopology.rst.

    :raises ValueError: if it is not a CPU list
    """
    numbers: list[int] = []
    for part in text.strip().split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        low = decimal(first, _MOST)
        high = decimal(last, _MOST) if dash else low
        if low is None or high is None or high < low or len(numbers) > _MOST:
            raise ValueError(f"not a CPU list: {text[:80]!r}")
        numbers += range(low, high + 1)
    return tuple(numbers)


def cpus(which: str) -> tuple[int, ...]:
    """Read the numbers of this machine's CPUs.

    :param which: ``possible`` or ``online``
    :raises BpfError: if sysfs is not mounted
    :raises ObjectFormatError: if the kernel's list is malformed
    """
    path = f"/sys/devices/system/cpu/{which}"
    text = required(path, f"the list of {which} CPUs").decode("ascii", "replace")
    try:
        found = parse_cpus(text)
    except ValueError as error:
        raise ObjectFormatError(str(error), file=path) from None
    if not found:
        raise ObjectFormatError("the list of CPUs is empty", file=path)
    return found
