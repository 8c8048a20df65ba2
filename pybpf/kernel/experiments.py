"""The experiments: one for each feature, which shows whether the kernel has it.

An experiment goes as far as the first step whose success proves the feature. For some features
that is the link: an old kernel loads a program whose attach type it does not know, and only the
link fails (kprobe.session on 6.1). If a link that must fail tells as much, nothing is attached,
because undoing an attachment waits for the whole machine. Otherwise the program is attached to
``bpf_fentry_test1``, a function that only test runs call.

An experiment returns if the kernel has the feature; what it returns says more about it. Otherwise
it raises the kernel's refusal, and `pybpf.kernel.probes` says what that means.
"""

from __future__ import annotations

import ctypes
import errno
from array import array
from collections.abc import Callable, Set

from .._sys import bpf as sys_bpf
from .._sys import link as sys_link
from .._sys import prog as sys_prog
from .._sys.fd import Fd
from .._uapi import structs
from .._uapi.defines import BPF_F_SLEEPABLE, BPF_PSEUDO_KFUNC_CALL
from .._uapi.enums import AttachType, Cmd, MapFlag, MapType, ProgType
from .._uapi.helpers import Helper
from ..asm import insn as asm
from ..asm import opcodes as op
from ..btf import BtfKind
from ..btf import types as bt
from ..btf.encode import BtfBuilder
from ..errnos import name_of
from ..errors import BpfError, UnsupportedFeature, VerifierError
from ..features import Answer, Feature, Support

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..asm.insn import Insn
    from .probes import ProbeCache


__all__ = ["EXPERIMENTS", "reason"]

# Functions of net/bpf/test_run.c that only BPF_PROG_TEST_RUN calls.
_TEST_FUNCTION = "bpf_fentry_test1"
# A tracepoint that almost never fires.
_QUIET_TRACEPOINT = "sched_kthread_stop"

# A tracepoint that does not exist.
_NO_TRACEPOINT = "pybpf_no_such_tracepoint"
# An address where no process has memory. A kernel that knows an attach type first checks the
# program and the flags, then reads the list of functions, so it answers EFAULT. A kernel that does
# not know it answers EINVAL or EOPNOTSUPP.
_NOWHERE = 8
# Nothing has this number: no network interface, no descriptor.
_NOTHING = 0x7FFFFFFF
# Functions that make ftrace's direct calls, in 6.1 and in 7.3.
_DIRECT_CALLS = ("register_ftrace_direct", "update_ftrace_direct_add")
# Structures that hold the cookie of a tracing link, in 6.1 and in 7.3.
_COOKIE_OWNERS = ("bpf_tramp_link", "bpf_tramp_node")

_RETURN_0 = (asm.mov(op.R0, 0), asm.exit_())


def reason(error: BpfError) -> str:
    """Say in one line why an experiment failed."""
    number = error.errno or 0
    name = name_of(number) or str(number)
    text = f"{error.doing}: {name}" if error.doing else name
    return f"{text} ({error.hint})" if error.hint else text


# -- loading small programs ------------------------------------------------


def _load(
    probe: ProbeCache, kind: ProgType, insns: tuple[Insn, ...] = _RETURN_0, **more: Any
) -> Fd:
    code, token = asm.encode(insns), probe.token_fd
    return sys_prog.prog_load(kind, code, name="pybpf_probe", token_fd=token, **more)


def _tracing(
    probe: ProbeCache,
    attach: AttachType,
    target: str = _TEST_FUNCTION,
    insns: tuple[Insn, ...] = _RETURN_0,
    *,
    kind: BtfKind = BtfKind.FUNC,
    flags: int = 0,
) -> Fd:
    return _load(
        probe,
        ProgType.BPF_PROG_TYPE_TRACING,
        insns,
        expected_attach_type=attach,
        attach_btf_id=probe.type_id(target, kind),
        prog_flags=flags,
    )


def _with_helper(helper: Helper, *before: Insn) -> tuple[Insn, ...]:
    return (*before, asm.call(helper), *_RETURN_0)


# -- trampolines -----------------------------------------------------------


def _fentry(probe: ProbeCache) -> str:
    # Without ftrace's direct calls, programs load but do not attach. If BTF lists the function
    # that makes such calls, they are supported, and nothing has to be attached to find out. On
    # 6.x detaching alone takes 150 ms.
    with _tracing(probe, AttachType.BPF_TRACE_FENTRY) as program:
        direct = [name for name in _DIRECT_CALLS if probe.has_type(name)]
        if not direct:
            return _fentry_link(probe, program)
        # The kernel refuses this link in any case, but it asks a policy on links first.
        _must_fail(
            {errno.EINVAL},
            lambda: sys_link.link_create_tracing(
                program, AttachType.BPF_TRACE_FENTRY, target_btf_id=1
            ),
        )
    return f"loaded, and ftrace has {direct[0]}"


def _fentry_link(probe: ProbeCache, program: Fd) -> str:
    # The link carries a cookie if possible, so one attach answers two questions.
    try:
        link = sys_link.link_create_tracing(program, AttachType.BPF_TRACE_FENTRY, cookie=1)
    except BpfError as error:
        if error.errno not in (errno.EINVAL, errno.E2BIG):
            raise
        # Before 5.19 this is the only way, and it has no cookie.
        try:
            with sys_link.raw_tracepoint_open(program, None):
                pass
        except BpfError as second:
            if second.errno != errno.E2BIG:
                raise
            # Others filled the test function's trampoline. So trampolines work.
            known = Answer(Support.SUPPORTED, "a full trampoline")
            probe.set_known(Feature.TRACING_COOKIE, known)
            return "a trampoline is full"
        no = Answer(Support.UNSUPPORTED, reason(error), error.errno or 0)
        probe.set_known(Feature.TRACING_COOKIE, no)
        return "attached by BPF_RAW_TRACEPOINT_OPEN"
    link.close()
    probe.set_known(Feature.TRACING_COOKIE, Answer(Support.SUPPORTED, "linked with a cookie"))
    return "attached"


def _tracing_cookie(probe: ProbeCache) -> str:
    probe.needs(Feature.FENTRY)
    for owner in _COOKIE_OWNERS:
        if probe.has_member(owner, "cookie"):
            return f"struct {owner} has a cookie"
    with _tracing(probe, AttachType.BPF_TRACE_FENTRY) as program:
        _fentry_link(probe, program)
    found = probe.answer(Feature.TRACING_COOKIE)  # the attach has recorded the answer
    if not found.ok:
        raise UnsupportedFeature(Feature.TRACING_COOKIE.value, hint=found.why)
    return found.why


def _fexit(probe: ProbeCache) -> None:
    _tracing(probe, AttachType.BPF_TRACE_FEXIT).close()
    probe.needs(Feature.FENTRY)


def _fmod_ret(probe: ProbeCache) -> str:
    # Security hooks may always be modified; others only with error injection.
    target = "security_bpf" if probe.has_type("security_bpf") else "bpf_modify_return_test"
    _tracing(probe, AttachType.BPF_MODIFY_RETURN, target).close()
    probe.needs(Feature.FENTRY)
    return f"loaded for {target}"


def _fsession(probe: ProbeCache) -> None:
    _tracing(probe, AttachType.BPF_TRACE_FSESSION).close()
    probe.needs(Feature.FENTRY)


def _sleepable(probe: ProbeCache) -> str:
    # Which functions may sleep depends on the configuration. Use the first that works.
    targets = [_TEST_FUNCTION, "__x64_sys_getpgid", "bpf_modify_return_test"]
    refused: VerifierError | None = None
    for target in targets:
        if not probe.has_type(target):
            continue
        try:
            _tracing(probe, AttachType.BPF_TRACE_FENTRY, target, flags=BPF_F_SLEEPABLE).close()
        except VerifierError as error:
            refused = error
            continue
        return f"loaded for {target}"
    if refused is not None:
        raise refused
    raise UnsupportedFeature("sleepable fentry", hint="no function to try it on")


def _tracing_test_run(probe: ProbeCache) -> None:
    with _tracing(probe, AttachType.BPF_TRACE_FENTRY) as program:
        sys_prog.prog_test_run(program)


def _lsm(probe: ProbeCache) -> None:
    _load(
        probe,
        ProgType.BPF_PROG_TYPE_LSM,
        expected_attach_type=AttachType.BPF_LSM_MAC,
        attach_btf_id=probe.type_id("bpf_lsm_file_open"),
    ).close()


# -- one link, many functions ----------------------------------------------


def _multi_program(probe: ProbeCache) -> Fd:
    return _load(
        probe,
        ProgType.BPF_PROG_TYPE_TRACING,
        expected_attach_type=AttachType.BPF_TRACE_FENTRY_MULTI,
    )


def _tracing_multi(probe: ProbeCache) -> str:
    with _multi_program(probe) as program:
        attach = AttachType.BPF_TRACE_FENTRY_MULTI
        request = structs.LinkCreateTracingMulti(prog_fd=program.fileno(), attach_type=attach)
        request.tracing_multi.ids = _NOWHERE
        request.tracing_multi.cnt = 1
        return _expect(errno.EFAULT, Cmd.BPF_LINK_CREATE, request)


def _tracing_multi_info(probe: ProbeCache) -> str:
    teller = "bpf_tracing_multi_link_fill_link_info"
    if probe.has_type(teller):
        probe.needs(Feature.TRACING_MULTI)
        return f"the kernel has {teller}"
    with (
        _multi_program(probe) as program,
        sys_link.link_create_tracing_multi(
            program, AttachType.BPF_TRACE_FENTRY_MULTI, [probe.type_id(_TEST_FUNCTION)]
        ) as link,
    ):
        # 7.2 does not write this part of the structure.
        info = structs.LinkInfo()
        ids = array("I", [0])
        part = info.tracing_multi
        part.ids = ids.buffer_info()[0]
        part.count = 1
        request = structs.GetInfo(
            bpf_fd=link.fileno(), info_len=ctypes.sizeof(info), info=ctypes.addressof(info)
        )
        sys_bpf.bpf(Cmd.BPF_OBJ_GET_INFO_BY_FD, request)
        if ids[0] != probe.type_id(_TEST_FUNCTION):
            raise UnsupportedFeature(
                Feature.TRACING_MULTI_INFO.value, hint="the link info does not name the function"
            )
    return "the link info names the function"


def _kprobe_multi_link(probe: ProbeCache, attach: AttachType) -> str:
    with _load(probe, ProgType.BPF_PROG_TYPE_KPROBE, expected_attach_type=attach) as program:
        request = structs.LinkCreateKprobeMulti(prog_fd=program.fileno(), attach_type=attach)
        request.kprobe_multi.addrs = _NOWHERE
        request.kprobe_multi.cnt = 1
        return _expect(errno.EFAULT, Cmd.BPF_LINK_CREATE, request)


def _kprobe_multi(probe: ProbeCache) -> str:
    return _kprobe_multi_link(probe, AttachType.BPF_TRACE_KPROBE_MULTI)


def _kprobe_session(probe: ProbeCache) -> str:
    return _kprobe_multi_link(probe, AttachType.BPF_TRACE_KPROBE_SESSION)


def _uprobe_multi(probe: ProbeCache) -> str:
    return _uprobe_multi_link(probe, AttachType.BPF_TRACE_UPROBE_MULTI)


def _uprobe_session(probe: ProbeCache) -> str:
    return _uprobe_multi_link(probe, AttachType.BPF_TRACE_UPROBE_SESSION)


def _uprobe_multi_link(probe: ProbeCache, attach: AttachType) -> str:
    # "/" is not a regular file. A kernel that gets as far as opening it answers EBADF.
    path = ctypes.create_string_buffer(b"/")
    offsets = array("Q", [0])
    with _load(probe, ProgType.BPF_PROG_TYPE_KPROBE, expected_attach_type=attach) as program:
        request = structs.LinkCreateUprobeMulti(prog_fd=program.fileno(), attach_type=attach)
        request.uprobe_multi.path = ctypes.addressof(path)
        request.uprobe_multi.offsets = offsets.buffer_info()[0]
        request.uprobe_multi.cnt = 1
        return _expect(errno.EBADF, Cmd.BPF_LINK_CREATE, request)


def _interface_link(
    probe: ProbeCache, kind: Callable[..., ctypes.Structure], attach: AttachType
) -> str:
    # A kernel with such links looks for the interface next, and there is none with this number.
    with _load(probe, ProgType.BPF_PROG_TYPE_SCHED_CLS) as program:
        number = program.fileno()
        request = kind(prog_fd=number, target_ifindex=_NOTHING, attach_type=attach)
        return _expect(errno.ENODEV, Cmd.BPF_LINK_CREATE, request)


def _tcx(probe: ProbeCache) -> str:
    return _interface_link(probe, structs.LinkCreateTcx, AttachType.BPF_TCX_INGRESS)


def _netkit(probe: ProbeCache) -> str:
    return _interface_link(probe, structs.LinkCreateNetkit, AttachType.BPF_NETKIT_PRIMARY)


def _netfilter(probe: ProbeCache) -> str:
    attach = AttachType.BPF_NETFILTER
    with _load(probe, ProgType.BPF_PROG_TYPE_NETFILTER, expected_attach_type=attach) as program:
        request = structs.LinkCreateNetfilter(prog_fd=program.fileno(), attach_type=attach)
        request.netfilter.pf = 99  # no family of protocols has this number
        return _expect(errno.EAFNOSUPPORT, Cmd.BPF_LINK_CREATE, request)


def _sockmap_link(probe: ProbeCache) -> str:
    attach = AttachType.BPF_SK_MSG_VERDICT
    with _load(probe, ProgType.BPF_PROG_TYPE_SK_MSG, expected_attach_type=attach) as program:
        request = structs.LinkCreate(
            prog_fd=program.fileno(), target_fd=_NOTHING, attach_type=attach
        )
        return _expect(errno.EBADF, Cmd.BPF_LINK_CREATE, request)


def _struct_ops_link(probe: ProbeCache) -> str:
    # The command fails in the same way with and without such links, so BTF has to tell.
    maker = "bpf_struct_ops_link_create"
    if not probe.has_type(maker):
        raise UnsupportedFeature("struct_ops links", hint=f"the kernel has no {maker}")
    return f"the kernel has {maker}"


def _expect(number: int, cmd: Cmd, request: ctypes.Structure) -> str:
    """Run a command that must fail, in the way only a kernel with the feature does."""
    text = _must_fail({number}, lambda: Fd(sys_bpf.bpf(cmd, request), "probe"))
    return text and f"{cmd.name}: {text}"


def _must_fail(numbers: Set[int], call: Callable[[], Fd]) -> str:
    """Make a call that must fail with one of these errors. Others are raised.

    :return: the error in words, "" if the call succeeded unexpectedly
    """
    try:
        call().close()
    except BpfError as error:
        if error.errno is None or error.errno not in numbers:
            raise
        return f"{errno.errorcode[error.errno]}, as expected"
    return ""


# -- other ways in ---------------------------------------------------------


def _kprobe(probe: ProbeCache) -> str:
    # The kernel checks the policy on kprobes before it looks for a function at this
    # address. It would refuse an unknown name before either.
    from .._sys import perf as sys_perf

    _load(probe, ProgType.BPF_PROG_TYPE_KPROBE).close()
    return _must_fail({errno.ENOENT, errno.EINVAL}, lambda: sys_perf.open_kprobe(None, 1))


def _perf_link_cookie(probe: ProbeCache) -> None:
    # Any perf event will do. One that counts nothing costs nothing.
    from .._sys import perf as sys_perf
    from .._uapi.perf import PerfEventAttr, PerfSw, PerfType

    attr = PerfEventAttr(
        type=PerfType.PERF_TYPE_SOFTWARE, config=PerfSw.PERF_COUNT_SW_DUMMY, sample_period=1 << 40
    )
    with (
        _load(probe, ProgType.BPF_PROG_TYPE_PERF_EVENT) as program,
        sys_perf.perf_event_open(attr, cpu=0, doing="dummy event") as event,
        sys_link.link_create_perf_event(program, event, cookie=1),
    ):
        pass


def _raw_tracepoint(probe: ProbeCache, cookie: int = 0) -> str:
    # The kernel looks for the tracepoint after it has checked everything else.
    with _load(probe, ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT) as program:
        return _must_fail(
            {errno.ENOENT},
            lambda: sys_link.raw_tracepoint_open(program, _NO_TRACEPOINT, cookie=cookie),
        )


def _raw_tp(probe: ProbeCache) -> str:
    return _raw_tracepoint(probe)


def _raw_tp_cookie(probe: ProbeCache) -> str:
    return _raw_tracepoint(probe, cookie=1)


def _tp_btf(probe: ProbeCache) -> None:
    _tracing(
        probe,
        AttachType.BPF_TRACE_RAW_TP,
        f"btf_trace_{_QUIET_TRACEPOINT}",
        kind=BtfKind.TYPEDEF,
    ).close()


def _iter(probe: ProbeCache) -> None:
    _tracing(probe, AttachType.BPF_TRACE_ITER, "bpf_iter_bpf_map").close()


def _syscall(probe: ProbeCache) -> None:
    with _load(probe, ProgType.BPF_PROG_TYPE_SYSCALL, prog_flags=BPF_F_SLEEPABLE) as program:
        sys_prog.prog_test_run(program)


def _raw_tp_test_run(probe: ProbeCache) -> None:
    with _load(probe, ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT) as program:
        sys_prog.prog_test_run(program)


# -- helpers and calls -----------------------------------------------------


def _kprobe_helper(probe: ProbeCache, helper: Helper, *before: Insn) -> None:
    _load(probe, ProgType.BPF_PROG_TYPE_KPROBE, _with_helper(helper, *before)).close()


def _get_func_ip(probe: ProbeCache) -> None:
    _kprobe_helper(probe, Helper.BPF_FUNC_get_func_ip)


def _attach_cookie(probe: ProbeCache) -> None:
    _kprobe_helper(probe, Helper.BPF_FUNC_get_attach_cookie)


def _func_arg_helpers(probe: ProbeCache) -> None:
    insns = _with_helper(Helper.BPF_FUNC_get_func_arg_cnt)
    _tracing(probe, AttachType.BPF_TRACE_FENTRY, insns=insns).close()


def _branch_snapshot(probe: ProbeCache) -> None:
    _kprobe_helper(
        probe,
        Helper.BPF_FUNC_get_branch_snapshot,
        asm.mov_reg(op.R1, op.R10),
        asm.alu(op.ADD, op.R1, -24),  # one struct perf_branch_entry
        asm.mov(op.R2, 24),
        asm.mov(op.R3, 0),
    )


def _probe_read_kernel(probe: ProbeCache) -> None:
    _kprobe_helper(
        probe,
        Helper.BPF_FUNC_probe_read_kernel,
        asm.mov_reg(op.R1, op.R10),
        asm.alu(op.ADD, op.R1, -8),
        asm.mov(op.R2, 8),
        asm.mov(op.R3, 0),
    )


def _kfunc(probe: ProbeCache) -> str:
    def call(name: str) -> Insn:
        return asm.Insn(op.JMP | op.CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, probe.type_id(name))

    if probe.has_type("bpf_rcu_read_unlock"):  # 6.2
        used = "bpf_rcu_read_lock"
        insns: tuple[Insn, ...] = (call(used), call("bpf_rcu_read_unlock"), *_RETURN_0)
    else:
        used = "bpf_lookup_system_key"  # 6.1
        release = (asm.jmp(op.JEQ, op.R0, 0, 2), asm.mov_reg(op.R1, op.R0), call("bpf_key_put"))
        insns = (asm.mov(op.R1, 0), call(used), *release, *_RETURN_0)
    _tracing(probe, AttachType.BPF_TRACE_ITER, "bpf_iter_bpf_map", insns).close()
    return f"loaded with a call of {used}"


# -- maps ------------------------------------------------------------------


def _map(
    probe: ProbeCache, kind: MapType, key: int, value: int, entries: int, flags: int = 0
) -> Fd:
    return sys_bpf.map_create(
        kind,
        key_size=key,
        value_size=value,
        max_entries=entries,
        name="pybpf_probe",
        map_flags=flags,
        token_fd=probe.token_fd,
    )


def _ringbuf(probe: ProbeCache) -> None:
    _map(probe, MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, 1 << 16).close()


def _user_ringbuf(probe: ProbeCache) -> None:
    _map(probe, MapType.BPF_MAP_TYPE_USER_RINGBUF, 0, 0, 1 << 16).close()


def _arena(probe: ProbeCache) -> None:
    _map(probe, MapType.BPF_MAP_TYPE_ARENA, 0, 0, 1, MapFlag.BPF_F_MMAPABLE).close()


def _mmapable(probe: ProbeCache) -> None:
    _map(probe, MapType.BPF_MAP_TYPE_ARRAY, 4, 8, 1, MapFlag.BPF_F_MMAPABLE).close()


def _batch(kind: MapType, key: int = 4, flags: int = 0) -> Callable[[ProbeCache], None]:
    def probe_batch(probe: ProbeCache) -> None:
        # A batch of zero entries: the kernel first looks for the map type's function.
        with _map(probe, kind, key, 8, 1, flags) as found:
            request = structs.MapBatch(map_fd=found.fileno(), count=0)
            keys = ctypes.create_string_buffer(64)
            request.out_batch = request.keys = request.values = ctypes.addressof(keys)
            sys_bpf.bpf(Cmd.BPF_MAP_LOOKUP_BATCH, request)

    return probe_batch


# -- BTF -------------------------------------------------------------------


def _vmlinux_btf(probe: ProbeCache) -> None:
    probe.type_id("task_struct", BtfKind.STRUCT)


def _load_types(probe: ProbeCache, *types: bt.Type) -> Fd:
    builder = BtfBuilder()
    for one in types:
        builder.add(one)
    return sys_bpf.btf_load(builder.build(), token_fd=probe.token_fd)


_INT = bt.Int("int", 4, 32, encoding=1)  # always id 1


def _btf_kind(*types: bt.Type) -> Callable[[ProbeCache], None]:
    def probe_kind(probe: ProbeCache) -> None:
        _load_types(probe, _INT, *types).close()

    return probe_kind


def _module_btf(probe: ProbeCache) -> None:
    # It came together with names of BTF objects. Older kernels answer E2BIG to such a query.
    with _load_types(probe, _INT) as fd:
        name = ctypes.create_string_buffer(64)
        info = structs.BtfInfo(name=ctypes.addressof(name), name_len=len(name))
        request = structs.GetInfo(
            bpf_fd=fd.fileno(), info_len=ctypes.sizeof(info), info=ctypes.addressof(info)
        )
        sys_bpf.bpf(Cmd.BPF_OBJ_GET_INFO_BY_FD, request)


def _token(probe: ProbeCache) -> str:
    request = structs.TokenCreate(bpffs_fd=0xFFFFFFFF)
    return _expect(errno.EBADF, Cmd.BPF_TOKEN_CREATE, request)


EXPERIMENTS: dict[Feature, Callable[[ProbeCache], str | None]] = {
    Feature.FENTRY: _fentry,
    Feature.FEXIT: _fexit,
    Feature.FMOD_RET: _fmod_ret,
    Feature.FSESSION: _fsession,
    Feature.SLEEPABLE: _sleepable,
    Feature.TRACING_COOKIE: _tracing_cookie,
    Feature.TRACING_TEST_RUN: _tracing_test_run,
    Feature.LSM: _lsm,
    Feature.TRACING_MULTI: _tracing_multi,
    Feature.TRACING_MULTI_INFO: _tracing_multi_info,
    Feature.KPROBE_MULTI: _kprobe_multi,
    Feature.KPROBE_SESSION: _kprobe_session,
    Feature.UPROBE_MULTI: _uprobe_multi,
    Feature.UPROBE_SESSION: _uprobe_session,
    Feature.KPROBE: _kprobe,
    Feature.PERF_LINK_COOKIE: _perf_link_cookie,
    Feature.RAW_TP: _raw_tp,
    Feature.RAW_TP_COOKIE: _raw_tp_cookie,
    Feature.TP_BTF: _tp_btf,
    Feature.ITER: _iter,
    Feature.SYSCALL: _syscall,
    Feature.TCX: _tcx,
    Feature.NETKIT: _netkit,
    Feature.NETFILTER: _netfilter,
    Feature.SOCKMAP_LINK: _sockmap_link,
    Feature.STRUCT_OPS_LINK: _struct_ops_link,
    Feature.RAW_TP_TEST_RUN: _raw_tp_test_run,
    Feature.GET_FUNC_IP: _get_func_ip,
    Feature.FUNC_ARG_HELPERS: _func_arg_helpers,
    Feature.ATTACH_COOKIE: _attach_cookie,
    Feature.BRANCH_SNAPSHOT: _branch_snapshot,
    Feature.PROBE_READ_KERNEL: _probe_read_kernel,
    Feature.KFUNC: _kfunc,
    Feature.RINGBUF: _ringbuf,
    Feature.USER_RINGBUF: _user_ringbuf,
    Feature.ARENA: _arena,
    Feature.MMAPABLE_ARRAY: _mmapable,
    Feature.BATCH_HASH: _batch(MapType.BPF_MAP_TYPE_HASH),
    Feature.BATCH_LRU_HASH: _batch(MapType.BPF_MAP_TYPE_LRU_HASH),
    Feature.BATCH_PERCPU_HASH: _batch(MapType.BPF_MAP_TYPE_PERCPU_HASH),
    Feature.BATCH_ARRAY: _batch(MapType.BPF_MAP_TYPE_ARRAY),
    Feature.BATCH_PERCPU_ARRAY: _batch(MapType.BPF_MAP_TYPE_PERCPU_ARRAY),
    Feature.BATCH_LPM_TRIE: _batch(MapType.BPF_MAP_TYPE_LPM_TRIE, 8, MapFlag.BPF_F_NO_PREALLOC),
    Feature.VMLINUX_BTF: _vmlinux_btf,
    Feature.MODULE_BTF: _module_btf,
    Feature.BTF_FUNC: _btf_kind(bt.FuncProto(0), bt.Func("f", 2)),
    Feature.BTF_DATASEC: _btf_kind(
        bt.Var("v", 1), bt.Datasec(".data", 4, (bt.VarSecinfo(2, 0, 4),))
    ),
    Feature.BTF_FUNC_GLOBAL: _btf_kind(bt.FuncProto(0), bt.Func("f", 2, bt.Linkage.GLOBAL)),
    Feature.BTF_FLOAT: _btf_kind(bt.Float("float", 4)),
    Feature.BTF_DECL_TAG: _btf_kind(bt.Var("v", 1), bt.DeclTag("tag", 2)),
    Feature.BTF_TYPE_TAG: _btf_kind(bt.TypeTag("tag", 1), bt.Ptr(2)),
    Feature.BTF_ENUM64: _btf_kind(bt.Enum64("e", 8, (bt.EnumValue("big", 1 << 40),))),
    Feature.BTF_QMARK_DATASEC: _btf_kind(
        bt.Var("v", 1), bt.Datasec("?.data", 4, (bt.VarSecinfo(2, 0, 4),))
    ),
    Feature.BPF_TOKEN: _token,
}
