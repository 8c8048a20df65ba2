"""Ready-made sets of globs for ``-c``. Our own choice, with retsnoop's names."""

from __future__ import annotations

from ...dataclass import dataclass

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Hold globs of one subject. Unlike those of ``-e``, none of them has to match."""

    entry: tuple[str, ...]
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    # bpf(2): which check refused a map, a program or a link?
    "bpf": Preset(
        entry=("*_sys_bpf",),
        allow=(
            "__sys_bpf",
            "bpf_check*",
            "bpf_*alloc*",
            "bpf_link_*",
            "bpf_map_*",
            "bpf_obj_*",
            "bpf_prog_*",
            "bpf_raw_tp_*",
            "bpf_trampoline_*",
            "bpf_tracing_*",
            "btf_*",
            "check_*",
            "do_check*",
            "link_create",
            "map_create",
            "map_*_elem",
            "array_map_*",
            "htab_map_*",
            "security_bpf*",
        ),
        deny=("bpf_get_*", "bpf_probe_read*", "bpf_ringbuf_*", "bpf_map_*_elem_*", "*_destroy*"),
    ),
    # perf_event_open(2) and the ioctls of its descriptors.
    "perf": Preset(
        entry=("*_sys_perf_event_open", "perf_ioctl"),
        allow=("perf_event_*", "perf_*alloc*", "perf_init_*", "perf_kprobe_*", "perf_uprobe_*"),
        deny=("perf_event_task_*", "perf_event_update_*", "perf_event_*sched*"),
    ),
}
