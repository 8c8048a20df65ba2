"""`pybpf retsnoop`: command line in, exit status out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ...wording import plain
from ..pages import Page
from . import options, settings
from .usage import UsageError

__all__ = ["main", "page"]

USAGE = 2


def _version(verbose: int) -> str:
    import pybpf

    lines = [f"retsnoop (pybpf) v{pybpf.__version__}"]
    if verbose:
        from ...features import Feature

        facts = pybpf.Facts()
        lines.append("Feature detection:")
        for what, feature in (
            ("BPF ring buffer", Feature.RINGBUF),
            ("bpf_get_func_ip() helper", Feature.GET_FUNC_IP),
            ("bpf_get_branch_snapshot() helper", Feature.BRANCH_SNAPSHOT),
            ("BPF cookie", Feature.PERF_LINK_COOKIE),
            ("raw tracepoint cookie", Feature.RAW_TP_COOKIE),
            ("multi-attach kprobe", Feature.KPROBE_MULTI),
            ("fentry and fexit", Feature.FEXIT),
            ("fentry cookie", Feature.TRACING_COOKIE),
            ("multi-attach fentry", Feature.TRACING_MULTI),
        ):
            lines.append(f"\t{what}: {'yes' if facts.supports(feature) else 'no'}")
    return "\n".join(lines) + "\n"


def page(prog: str) -> Page:
    """Describe the command line."""
    return options.page(prog)


def main(arguments: Sequence[str] | None = None, prog: str = "retsnoop") -> int:
    """Run with `arguments`, by default those of the process.

    :returns: 0 ok, 1 failed, 2 wrong arguments, or the status of the command after ``--``
    """
    try:
        wanted = options.parse(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        text = f"retsnoop: {plain(str(error))}\n{options.usage_text(prog)}"
        sys.stderr.write(f"{text}See: {prog} --help\n")
        return USAGE
    if wanted.help:
        sys.stdout.write(
            {
                "help": lambda: options.help_text(prog),
                "usage": lambda: options.usage_text(prog),
                "config": settings.help_text,
            }[wanted.help]()
        )
        return 0
    if wanted.version:
        sys.stdout.write(_version(wanted.verbose))
        return 0
    from .run import run

    return run(wanted)
