"""Functions that must not be traced, and functions that never return.

Every kernel has its own lists and 6.1 has neither: it accepts a fentry program
on ``__rcu_read_lock`` and hangs, and a fexit program on ``do_exit`` whose
trampoline then never ends. So these lists are ours, a superset of every
kernel's. They apply to every mechanism on every kernel. A pattern that matches
nothing on the running kernel costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..dataclass import dataclass

__all__ = ["DENY", "NORETURN", "Denied", "denied", "never_returns", "risky"]


@dataclass(frozen=True, slots=True)
class Denied:
    """Describe one rule of the deny list.

    :param pattern: function name; a final ``*`` matches any ending
    :param why: what goes wrong, in a few words
    :param source: where that is known from
    """

    pattern: str
    why: str
    source: str

    def matches(self, name: str) -> bool:
        if self.pattern.endswith("*"):
            return name.startswith(self.pattern[:-1])
        return name == self.pattern


_VERIFIER = "kernel/bpf/verifier.c: btf_id_deny"
_RETSNOOP = "retsnoop's enforced list"
_RUNTIME = "called by every trampoline or program entry"
_HANGS = "hangs 6.1 at once; left out on every kernel"
_RECURSES = "runs inside the program's own entry or exit: recursion"

#: Functions that no program is attached to.
DENY: tuple[Denied, ...] = (
    Denied("migrate_disable", _RUNTIME, _VERIFIER),
    Denied("migrate_enable", _RUNTIME, _VERIFIER),
    Denied("__migrate_disable", _RUNTIME, "kernel/sched/core.c (7.x)"),
    Denied("__migrate_enable", _RUNTIME, "kernel/sched/core.c (7.x)"),
    Denied("___migrate_enable", _RUNTIME, f"{_VERIFIER} (7.x)"),
    Denied("__rcu_read_lock*", _HANGS, f"{_VERIFIER} (6.12)"),
    Denied("__rcu_read_unlock*", _HANGS, f"{_VERIFIER} (6.12)"),
    Denied("rcu_read_lock*", _RUNTIME, _RETSNOOP),
    Denied("rcu_read_unlock*", _RUNTIME, f"{_VERIFIER}: rcu_read_unlock_strict"),
    Denied("preempt_count_add", _RECURSES, f"{_VERIFIER} (DEBUG_PREEMPT)"),
    Denied("preempt_count_sub", _RECURSES, f"{_VERIFIER} (DEBUG_PREEMPT)"),
    Denied("__bpf_prog_enter*", _RECURSES, _RETSNOOP),
    Denied("__bpf_prog_exit*", _RECURSES, _RETSNOOP),
    Denied("__bpf_tramp_enter*", _RECURSES, _RETSNOOP),
    Denied("__bpf_tramp_exit*", _RECURSES, _RETSNOOP),
    Denied("update_prog_stats", _RECURSES, _RETSNOOP),
    Denied("__update_prog_stats", _RECURSES, "kernel/bpf/trampoline.c (6.x)"),
    Denied("inc_misses_counter", _RECURSES, _RETSNOOP),
    Denied("bpf_prog_inc_misses_counter", _RECURSES, "kernel/bpf/syscall.c (6.x)"),
    Denied("bpf_prog_start_time", _RECURSES, _RETSNOOP),
    Denied("bpf_get_smp_processor_id", "a helper that programs call", _RETSNOOP),
    Denied("bpf_spin_lock", "a helper that programs call", _RETSNOOP),
    Denied("bpf_spin_unlock", "a helper that programs call", _RETSNOOP),
    Denied("arch_cpu_idle", "runs where RCU is not watching", _RETSNOOP),
    Denied("default_idle", "runs where RCU is not watching", _RETSNOOP),
)

#: Functions that never return. Nothing at their exit ever runs, and a
#: trampoline with an exit part would never see the end of its call.
#: Sources: kernel/bpf/verifier.c noreturn_deny of 6.12 and 7.3,
#: tools/objtool/noreturns.h of 6.x, and the syscall wrappers around them.
NORETURN: frozenset[str] = frozenset(
    {
        "__do_sys_exit",
        "__do_sys_exit_group",
        "__fortify_panic",
        "__ia32_sys_exit",
        "__ia32_sys_exit_group",
        "__invalid_creds",
        "__kunit_abort",
        "__module_put_and_kthread_exit",
        "__reiserfs_panic",
        "__se_sys_exit",
        "__se_sys_exit_group",
        "__stack_chk_fail",
        "__tdx_hypercall_failed",
        "__ubsan_handle_builtin_unreachable",
        "__x64_sys_exit",
        "__x64_sys_exit_group",
        "acpi_mp_play_dead",
        "arch_call_rest_init",
        "arch_cpu_idle_dead",
        "bch2_trans_in_restart_error",
        "bch2_trans_restart_error",
        "bch2_trans_unlocked_error",
        "complete_and_exit",
        "cpu_bringup_and_idle",
        "cpu_startup_entry",
        "do_exit",
        "do_group_exit",
        "do_task_dead",
        "ex_handler_msr_mce",
        "fortify_panic",
        "hlt_play_dead",
        "hv_ghcb_terminate",
        "kthread_complete_and_exit",
        "kthread_exit",
        "kunit_try_catch_throw",
        "machine_real_restart",
        "make_task_dead",
        "mpt_halt_firmware",
        "mwait_play_dead",
        "native_play_dead",
        "nmi_panic_self_stop",
        "panic",
        "panic_smp_self_stop",
        "rest_init",
        "rewind_stack_and_make_dead",
        "rust_begin_unwind",
        "rust_helper_BUG",
        "sev_es_terminate",
        "snp_abort",
        "start_kernel",
        "start_secondary",
        "stop_this_cpu",
        "usercopy_abort",
        "vpanic",
        "x86_64_start_kernel",
        "x86_64_start_reservations",
        "xen_cpu_bringup_again",
        "xen_start_kernel",
    }
)

_EXACT = {rule.pattern: rule for rule in DENY if not rule.pattern.endswith("*")}
_PREFIXED = tuple(rule for rule in DENY if rule.pattern.endswith("*"))
_PREFIXES = tuple(rule.pattern[:-1] for rule in _PREFIXED)
_EITHER = NORETURN | _EXACT.keys()


def denied(name: str) -> Denied | None:
    """Return the rule that forbids tracing `name`, or None."""
    rule = _EXACT.get(name)
    if rule is None and name.startswith(_PREFIXES):
        rule = next(r for r in _PREFIXED if r.matches(name))
    return rule


def risky(names: Sequence[str]) -> set[str]:
    """Return the names that `denied` or `never_returns` applies to."""
    found = set(_EITHER.intersection(names))
    text = "\n".join(["", *names, ""])  # one search of all names is cheaper than thousands
    for prefix in _PREFIXES:
        at = text.find(f"\n{prefix}")
        while at >= 0:
            end = text.index("\n", at + 1)
            found.add(text[at + 1 : end])
            at = text.find(f"\n{prefix}", end)
    return found


def never_returns(name: str) -> bool:
    """Return True if exit programs must not be attached to `name`."""
    return name in NORETURN
