"""Find out whether the calls of a multi program may run functions that can be traced.

A helper is a kernel function like any other, and so is what it calls. A program
attached to one of these runs again inside its own call. For one loaded program
the kernel stops that at the first step (``prog->active``, one flag per CPU). For
many clones of it nothing does, see `guard`. So this module says what a program's
calls can reach:

- `INLINE`: nothing. The verifier or the JIT writes the helper out, or the helper
  is in kernel/trace, which is built without ftrace's hooks, or it is on our deny
  list. This is true of every kernel since 6.1.
- `LEAVES`: the helper's own function and nothing else.
- every other helper and kfunc: anything. A tail call runs another program, so it also
  counts as anything. So do helpers that take callbacks.

The verifier also writes out a look-up in an array map; `traits` does not count
it as a call. Reading through a bad kernel pointer takes a page
fault, whose handlers can be traced. But the JIT checks for null and user addresses
first, so programs do not get there by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from .traits import CtxHelper, Traits

__all__ = ["INLINE", "LEAVES", "THROW", "calls_traceable", "leaf_functions"]

#: Helpers that run no function that can be traced (UAPI ``enum bpf_func_id``).
INLINE: frozenset[int] = frozenset(
    {
        8,  # get_smp_processor_id: on the deny list
        35,  # get_current_task: kernel/trace/bpf_trace.c, like all below without a comment
        118,  # jiffies64: written out by the verifier
        158,  # get_current_task_btf
        175,  # task_pt_regs
        CtxHelper.get_func_ip,
        CtxHelper.get_attach_cookie,
        CtxHelper.get_func_arg,
        CtxHelper.get_func_ret,
        CtxHelper.get_func_arg_cnt,
    }
)
#: Helpers that run one function that can be traced, their own.
LEAVES: Mapping[int, str] = {
    14: "bpf_get_current_pid_tgid",
    42: "bpf_get_numa_node_id",
    153: "bpf_per_cpu_ptr",
    154: "bpf_this_cpu_ptr",
}
# kfuncs that the verifier writes out, or that are in kernel/trace.
_INLINE_KFUNCS = frozenset(
    {"bpf_session_is_return", "bpf_session_cookie", "bpf_cast_to_kern_ctx", "bpf_rdonly_cast"}
)
#: The kfunc that ends a program at any depth.
THROW = "bpf_throw"


def calls_traceable(traits: Traits) -> bool:
    """Return True if the program's calls may run functions that can be traced."""
    known = INLINE | LEAVES.keys()
    return not (traits.called <= known and traits.called_kfuncs <= _INLINE_KFUNCS)


def leaf_functions(traits: Traits) -> frozenset[str]:
    """Return the kernel functions that its calls run and that call nothing else."""
    return frozenset(LEAVES[helper] for helper in traits.called & LEAVES.keys())
