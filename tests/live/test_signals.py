"""Signals that come while the kernel works for us."""

from __future__ import annotations

import signal

import pytest

from pybpf._sys.info import prog_info
from pybpf._sys.prog import prog_load
from pybpf._uapi.enums import ProgType
from pybpf.asm import encode
from pybpf.asm.insn import exit_, mov
from pybpf.errors import BpfError
from pybpf.programs import Program


def test_a_signal_between_two_runs() -> None:
    """Runs are not repeated behind the caller's back: the error says that some were done."""
    code = encode([mov(0, 1), exit_()])
    former = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        with (
            prog_load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, code) as fd,
            Program.from_id(prog_info(fd).id) as program,
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            with pytest.raises(BpfError, match=r"EINTR.*some of the runs were done"):
                program.test_run(bytes(64), repeat=2**31 - 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
