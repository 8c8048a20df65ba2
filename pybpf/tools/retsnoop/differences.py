"""What differs from the original retsnoop, with the reasons: for the man page and for errors."""

from __future__ import annotations

__all__ = ["DIFFERENCES", "reason"]

#: What the original retsnoop takes or does, and this one does not: the reasons, for the man page.
DIFFERENCES = (
    (
        "--debug bpf",
        "not here: the BPF program prints nothing; --json -T has all that it sends",
    ),
    (
        "--debug multi-kprobe",
        "does nothing: functions that a link refuses are always found and left out",
    ),
    (
        "--stacks-map-size, --ringbuf-map-size",
        "not here: remains of an old version; -C bpf.ringbuf-size is what counts",
    ),
    (
        "-C args.max-total-args-size",
        "at most 16384, not 65536: a record is made in per-CPU memory, at most 32 KiB a map",
    ),
    (
        "-C args.max-sized-arg-size, -C args.max-str-arg-size",
        "at most 8192, not 16384, for the same reason",
    ),
    ("-M", "is not the default where fentry.multi exists, because that costs less per call"),
    ("-p, -P", "also take ids of threads"),
    ("-J", "also takes globs"),
    ("--help", "goes to standard output; exit statuses are 1 and 2, not numbers of errors"),
)


def reason(option: str) -> str:
    """Return why an option of the original differs here, "" if it does not."""
    return next((why for terms, why in DIFFERENCES if option in terms.split(", ")), "")
