"""Programs: BPF_PROG_LOAD with its verifier log, and BPF_PROG_TEST_RUN.

The functions follow the rules of `pybpf._sys.bpf`.
"""

from __future__ import annotations

from array import array
from errno import EAGAIN, EMFILE, ENFILE, ENOSPC

from .._uapi import structs as s
from .._uapi.enums import Cmd, MapFlag
from ..errors import DeniedByPolicy, VerifierError
from ..namedtuple import NamedTuple
from .door import LOG_FIRST, LOG_MOST, address, bpf, error, fileno, log_text, object_name, try_bpf
from .fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .door import HasFileno

__all__ = ["RunOutput", "prog_bind_map", "prog_load", "prog_test_run"]

# BPF_PROG_LOAD fails with EAGAIN if a signal came during verification. libbpf tries as often.
_LOAD_ATTEMPTS = 5


def prog_load(
    prog_type: int,
    insns: bytes,
    *,
    license: str = "GPL",
    name: str = "",
    expected_attach_type: int = 0,
    prog_flags: int = 0,
    kern_version: int = 0,
    attach_btf_id: int = 0,
    attach_btf_obj_fd: int | HasFileno = 0,
    attach_prog_fd: int | HasFileno = 0,
    prog_btf_fd: int | HasFileno = 0,
    func_info: bytes = b"",
    func_info_rec_size: int = 0,
    line_info: bytes = b"",
    line_info_rec_size: int = 0,
    fd_array: Sequence[int] = (),
    prog_ifindex: int = 0,
    token_fd: int | HasFileno = 0,
    log_level: int = 0,
    on_log: Callable[[str], object] | None = None,
) -> Fd:
    """Call BPF_PROG_LOAD without a log; ask for the verifier's log only after a refusal.

    :param prog_type: ``enum bpf_prog_type``
    :param insns: packed ``struct bpf_insn``
    :param name: cut to 15 bytes
    :param expected_attach_type: ``enum bpf_attach_type``
    :param func_info: packed ``struct bpf_func_info`` of `func_info_rec_size` bytes each
    :param line_info: packed ``struct bpf_line_info`` likewise
    :param fd_array: descriptors that instructions refer to by index
    :param token_fd: a BPF token, 0 for none
    :param log_level: ``BPF_LOG_*``, to get a log also if the load succeeds
    :param on_log: called with that log
    :raises VerifierError: the verifier refused
    :raises DeniedByPolicy: EPERM or EACCES before the verifier said anything; or a lockdown took
        a helper from the program: ``__cause__`` is then the verifier's error
    :raises BpfError: refused for another reason; the hint guesses which
    """
    fds = array("i", fd_array)
    license_text = license.encode() + b"\0"
    attr = s.ProgLoad(
        prog_type=prog_type,
        insn_cnt=len(insns) // 8,
        insns=address(insns),
        license=address(license_text),
        prog_flags=prog_flags | (MapFlag.BPF_F_TOKEN_FD if token_fd else 0),
        kern_version=kern_version,
        prog_name=object_name(name),
        prog_ifindex=prog_ifindex,
        expected_attach_type=expected_attach_type,
        prog_btf_fd=fileno(prog_btf_fd),
        func_info_rec_size=func_info_rec_size,
        func_info=address(func_info),
        func_info_cnt=len(func_info) // func_info_rec_size if func_info_rec_size else 0,
        line_info_rec_size=line_info_rec_size,
        line_info=address(line_info),
        line_info_cnt=len(line_info) // line_info_rec_size if line_info_rec_size else 0,
        attach_btf_id=attach_btf_id,
        attach_prog_fd=fileno(attach_prog_fd) or fileno(attach_btf_obj_fd),
        fd_array=address(fds),
        prog_token_fd=fileno(token_fd),
    )
    log, truncated = "", False
    if log_level:
        result, log, truncated = _load_with_log(attr, log_level)
    else:
        result = _load(attr)
    errno = max(-result, 0)
    if errno in (EMFILE, ENFILE):
        # Not the program's fault, so no log. No descriptor is left to import a module with.
        raise error(errno, Cmd.BPF_PROG_LOAD, f"BPF_PROG_LOAD {name!r}")
    if errno and not log_level:
        # The first refusal is the one that counts: a log that does not fit is refused, too.
        result, log, truncated = _load_with_log(attr, 1)
    if result >= 0:
        if on_log is not None and log:
            on_log(log)
        return Fd(result, f"program {name!r}")
    from .verifier import said_something, summary

    if said_something(log):
        from .lockdown import locked_helper

        verdict = VerifierError(errno, name, log, summary(log), truncated)
        if hint := locked_helper(verdict.summary):
            raise DeniedByPolicy(errno, f"BPF_PROG_LOAD {name!r}", hint) from verdict
        raise verdict
    from .denied import load_hint, program_needs

    refusal = error(
        errno,
        Cmd.BPF_PROG_LOAD,
        f"BPF_PROG_LOAD {name!r}",
        needs=program_needs(prog_type),
        token=bool(token_fd),
    )
    refusal.hint = refusal.hint or load_hint(errno, attr.insn_cnt, attach_btf_id)
    raise refusal


def _load(attr: s.ProgLoad) -> int:
    for _ in range(_LOAD_ATTEMPTS):
        result = try_bpf(Cmd.BPF_PROG_LOAD, attr)
        if result != -EAGAIN:
            break
    return result


def _load_with_log(attr: s.ProgLoad, level: int) -> tuple[int, str, bool]:
    # Returns result, log, and whether some of it is missing. Grows the buffer until the log fits.
    size = LOG_FIRST
    while True:
        log = bytearray(size)
        attr.log_level, attr.log_size, attr.log_buf = level, size, address(log)
        attr.log_true_size = 0
        result = _load(attr)
        full = result == -ENOSPC
        if not full or size >= LOG_MOST:
            return result, log_text(log), full
        # 6.4 and newer say how much the log takes. For older kernels, guess.
        size = min(max(attr.log_true_size, 4 * size), LOG_MOST)


def prog_bind_map(program: int | HasFileno, where: int | HasFileno) -> None:
    """Call BPF_PROG_BIND_MAP (5.10): a program keeps a map that its code does not use.

    :raises BpfError: if the kernel refuses
    """
    request = s.ProgBindMap(prog_fd=fileno(program), map_fd=fileno(where))
    bpf(Cmd.BPF_PROG_BIND_MAP, request)


class RunOutput(NamedTuple):
    """Hold the results of BPF_PROG_TEST_RUN.

    :ivar retval: ``__u32``, what the program returned
    :ivar duration: mean time of one run, ns
    :ivar data_out: packet after the run
    :ivar ctx_out: context after the run
    """

    retval: int
    duration: int
    data_out: bytes
    ctx_out: bytes


def prog_test_run(
    fd: int | HasFileno,
    *,
    data_in: bytes | None = None,
    data_out_size: int = 0,
    ctx_in: bytes | None = None,
    ctx_out_size: int = 0,
    repeat: int = 0,
    flags: int = 0,
    cpu: int = 0,
    batch_size: int = 0,
) -> RunOutput:
    """Call BPF_PROG_TEST_RUN.

    :param data_in: packet
    :param data_out_size: bytes of room for the packet afterwards; more than needed is fine
    :param ctx_in: context struct
    :param ctx_out_size: bytes of room for the context afterwards. BPF_PROG_TYPE_SYSCALL
        allows none: it changes the context in place, which is returned as ``ctx_out``
    :param repeat: number of runs; types that can only run once accept only 0 and 1
    :raises BpfError: ENOTSUPP (524) if the type cannot be run this way, EINVAL for a combination
        that it does not accept, ENOSPC if an output did not fit
    """
    data, ctx = bytearray(data_in or b""), bytearray(ctx_in or b"")
    data_out, ctx_out = bytearray(data_out_size), bytearray(ctx_out_size)
    attr = s.ProgTestRun(
        prog_fd=fileno(fd),
        data_size_in=len(data),
        data_size_out=data_out_size,
        data_in=address(data),
        data_out=address(data_out),
        # 0 means once for every type. Some types refuse any other number.
        repeat=repeat if repeat > 1 else 0,
        ctx_size_in=len(ctx),
        ctx_size_out=ctx_out_size,
        ctx_in=address(ctx),
        ctx_out=address(ctx_out),
        flags=flags,
        cpu=cpu,
        batch_size=batch_size,
    )
    bpf(Cmd.BPF_PROG_TEST_RUN, attr)
    return RunOutput(
        attr.retval,
        attr.duration,
        bytes(data_out[: attr.data_size_out]),
        bytes(ctx_out[: attr.ctx_size_out] if ctx_out_size else ctx),
    )
