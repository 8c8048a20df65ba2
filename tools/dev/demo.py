#!/usr/bin/env python3
"""`make demo`: trace a system call that really fails, and show what the kernel JITed for it.

If the kernel of the machine may trace, everything runs here. Otherwise (lockdown,
a policy, no root) the same commands run in a throw-away guest, which
vagrant/vm sets up. It shows three things: retsnoop's stack of `cat` opening a
file that does not exist, the plan of a multi program, and the trampoline of
one traced function, disassembled while it is attached.

The exit status is that of the traced command's trace, or 0 if it showed the failure.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT)]

from pybpf.tools.entry import run as run_tool  # noqa: E402

FUNCTIONS = ["-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "path_openat"]
MISSING = "/no/such/file"


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(*command: str) -> int:
    print(f"$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def may_trace() -> bool:
    """Return True if fentry programs load and attach on the running kernel."""
    from pybpf.features import Feature
    from pybpf.kernel.host import Facts

    return Facts().supports(Feature.FENTRY)


def here() -> int:
    """Run the demonstration on the running kernel."""
    python = sys.executable
    say(f"retsnoop: why does `cat {MISSING}` fail?")
    traced = run(python, "tools/retsnoop", *FUNCTIONS, "--", "cat", MISSING)
    say("the plan: how a multi program would be attached to such functions")
    run(python, "tools/trampolines.py", "plan", "fexit.multi/do_fil?_open")
    say("the trampoline that the kernel JITed for a traced function, while it is traced")
    dump = shlex.join([python, "tools/trampolines.py", "dump", "path_openat"])
    dumped = run(
        python,
        "tools/retsnoop",
        "-F",
        *FUNCTIONS,
        "-n",
        "cat",
        "--",
        "sh",
        "-c",
        f"cat {MISSING}; {dump}",
    )
    # cat fails on purpose (1). The second run ends with the status of the dump.
    return 0 if traced == 1 and dumped == 0 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", default="6.12", help="row of vagrant/vm to use (default: 6.12)")
    parser.add_argument("--here", action="store_true", help="use the running kernel")
    args = parser.parse_args()
    if args.here or may_trace():
        return here()
    say(f"this kernel refuses tracing programs: using a guest with kernel {args.kernel}")
    vm = str(ROOT / "vagrant" / "vm")
    return run(vm, "--kernel", args.kernel, "--", "python3", "tools/dev/demo.py", "--here")


if __name__ == "__main__":
    run_tool("demo.py", main)
