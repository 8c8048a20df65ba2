"""The only way to the kernel's system calls: bpf(2), perf_event_open(2), descriptors."""

__all__: list[str] = []
