"""Make the hardware record branches, for bpf_get_branch_snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from .._sys.perf import open_branches
from .._uapi.perf import PerfBranch

__all__ = ["BRANCHES", "recorded_branches"]

#: Kinds of branches that can be recorded, as bits of ``enum perf_branch_sample_type``.
BRANCHES: Mapping[str, int] = {
    "any": PerfBranch.PERF_SAMPLE_BRANCH_ANY,
    "any_call": PerfBranch.PERF_SAMPLE_BRANCH_ANY_CALL,
    "any_return": PerfBranch.PERF_SAMPLE_BRANCH_ANY_RETURN,
    "cond": PerfBranch.PERF_SAMPLE_BRANCH_COND,
    "call": PerfBranch.PERF_SAMPLE_BRANCH_CALL,
    "ind_call": PerfBranch.PERF_SAMPLE_BRANCH_IND_CALL,
    "ind_jump": PerfBranch.PERF_SAMPLE_BRANCH_IND_JUMP,
    "call_stack": PerfBranch.PERF_SAMPLE_BRANCH_CALL_STACK,
    "abort_tx": PerfBranch.PERF_SAMPLE_BRANCH_ABORT_TX,
    "in_tx": PerfBranch.PERF_SAMPLE_BRANCH_IN_TX,
    "no_tx": PerfBranch.PERF_SAMPLE_BRANCH_NO_TX,
}


@contextmanager
def recorded_branches(cpus: Iterable[int], kinds: int) -> Iterator[None]:
    """Record branches of the kernel on some CPUs, until the block ends.

    :param kinds: bits of ``enum perf_branch_sample_type``, see `BRANCHES`
    :raises DeniedByPolicy: a capability or sysctl forbids it
    :raises BpfError: this machine cannot record these kinds
    """
    with ExitStack() as stack:
        for cpu in cpus:
            stack.enter_context(open_branches(cpu, kinds))
        yield
