"""Programs: one function of an object file, loaded, run, inspected and attached.

A `Program` knows its section and what may still be changed before loading. The
`Binding` of its object relocates and loads it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

from . import links
from ._sys import bpf as sys_bpf
from ._sys import prog as sys_prog
from ._uapi.defines import ENOTSUPP
from ._uapi.enums import AttachType, ProgType
from .attaching import Attaching
from .dataclass import replace
from .errors import BpfError, PlanError, StateError, VerifierError
from .kernel.lookup import BTF_TARGETS, BtfTarget, btf_target
from .links import table
from .namedtuple import NamedTuple
from .obj.sections import attach_types, find_by_type
from .wording import many, uapi_word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from ._sys.fd import Fd
    from .binding import Binding
    from .multi.cookies import Cookies
    from .multi.link import MultiLink
    from .multi.options import Mechanisms, Progress
    from .multi.plan import Plan
    from .multi.programs import MultiPrograms
    from .multi.resolve import Asked
    from .multi.template import Template
    from .multi.variant import Lowering
    from .obj.spec import ProgramSpec

__all__ = ["Program", "RunResult"]

_MULTI = {
    AttachType.BPF_TRACE_FENTRY_MULTI,
    AttachType.BPF_TRACE_FEXIT_MULTI,
    AttachType.BPF_TRACE_FSESSION_MULTI,
}
# BPF_PROG_TEST_RUN accepts a context for these types and refuses to return one.
_CTX_IN_ONLY = frozenset(
    {
        ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT,
        ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
        ProgType.BPF_PROG_TYPE_SYSCALL,
        ProgType.BPF_PROG_TYPE_TRACING,
    }
)


# They run on a packet, of an Ethernet header at least (net/bpf/test_run.c).
_ON_PACKETS = frozenset(
    {
        ProgType.BPF_PROG_TYPE_SOCKET_FILTER,
        ProgType.BPF_PROG_TYPE_SCHED_CLS,
        ProgType.BPF_PROG_TYPE_SCHED_ACT,
        ProgType.BPF_PROG_TYPE_XDP,
        ProgType.BPF_PROG_TYPE_CGROUP_SKB,
        ProgType.BPF_PROG_TYPE_LWT_IN,
        ProgType.BPF_PROG_TYPE_LWT_OUT,
        ProgType.BPF_PROG_TYPE_LWT_XMIT,
        ProgType.BPF_PROG_TYPE_LWT_SEG6LOCAL,
        ProgType.BPF_PROG_TYPE_FLOW_DISSECTOR,
        ProgType.BPF_PROG_TYPE_NETFILTER,
    }
)
_HEADER = 14  # bytes
# Most bytes by which a program can make a packet longer: SKB_MAX_ALLOC, and MAX_SKB_FRAGS pages.
_GROWTH = 1 << 17


def _run_hint(error: int, kind: int, data: bytes | None, ctx: bytes | None) -> str:
    # What BPF_PROG_TEST_RUN of a type of program lacks, "" if that is not known.
    if error in (ENOTSUPP, errno.EOPNOTSUPP):
        return "the kernel cannot test-run programs of this type; attach it"
    if error == errno.EINTR:
        return "a signal came when some of the runs were done, and the rest is left out"
    if error != errno.EINVAL:
        return ""
    if kind in _ON_PACKETS:
        short = len(data or b"") < _HEADER
        return f"it runs on a packet: give data, at least {_HEADER} bytes" if short else ""
    if kind == ProgType.BPF_PROG_TYPE_SK_LOOKUP and ctx is None:
        return "it runs on a look-up: give ctx, a struct bpf_sk_lookup"
    if kind == ProgType.BPF_PROG_TYPE_SYSCALL and not data:
        given = many(len(ctx or b""), "byte")
        return f"it may read more context than the {given} given: give ctx, the bytes of its struct"
    if data:
        return "programs of this type take no data" + ("" if ctx else ", but may take ctx")
    return ""


class RunResult(NamedTuple):
    """Hold the results of BPF_PROG_TEST_RUN.

    :ivar retval: ``__u32``; for fmod_ret programs the low half counts side effects
    :ivar duration_ns: mean time of one run in ns
    :ivar data_out: packet after the run
    :ivar ctx_out: context after the run
    """

    retval: int
    duration_ns: int
    data_out: bytes
    ctx_out: bytes


class Program(Attaching):
    """Load, run, attach and inspect one BPF program.

    Before `load`, `autoload`, `autoattach`, `type`, `expected_attach_type`,
    `flags`, `attach_to` and `target_program` may be assigned.
    """

    def __init__(self, spec: ProgramSpec, binding: Binding) -> None:
        self._spec = spec
        self._binding = binding
        self._fd: Fd | None = None
        self._loaded_for = BtfTarget(0)
        self.autoload: bool = spec.autoload
        self.autoattach: bool = spec.autoattach
        self.type: int = spec.type
        self._attach_type: int | None = spec.expected_attach_type
        self.flags: int = spec.flags
        self.attach_to: str = spec.attach_to
        #: A loaded program whose function `attach_to` names: for freplace, and for fentry and
        #: fexit on a BPF program. None for the kernel's own functions.
        self.target_program: links.HasFd | None = None
        #: Bits of ``BPF_LOG_*`` (``bpf_verifier.h``): 1 for a log, 2 for a longer one, 4 for
        #: statistics. Assign them before loading.
        self.log_level: int = 0
        #: What the verifier wrote when it accepted the program, if `log_level` asks for that.
        self.log: str = ""

    @classmethod
    def from_id(cls, program_id: int) -> Program:
        """Open a loaded program by its kernel-wide id (BPF_PROG_GET_FD_BY_ID).

        Such a program can be run, attached, pinned and asked for its `info`. It has no section,
        and the kernel does not report its ``expected_attach_type``. It is 0 unless programs of
        that type have only one. Assign it if the method that attaches the program needs it.

        :raises DeniedByPolicy: without CAP_SYS_ADMIN
        :raises BpfError: ENOENT if no program has that id
        """
        return cls._standing(sys_bpf.get_fd_by_id("prog", program_id))

    @classmethod
    def from_pinned(cls, path: str | os.PathLike[str]) -> Program:
        """Open a program that is pinned in a bpf file system (BPF_OBJ_GET); see `from_id`.

        :raises BpfError: ENOENT if nothing is pinned there, EINVAL if it is not a program
        """
        return cls._standing(sys_bpf.obj_get(os.fspath(path), "prog"))

    @classmethod
    def _standing(cls, fd: Fd) -> Program:
        # For a program that another process loaded: there is no object file.
        from .binding import Binding
        from .kernel.host import Facts
        from .obj.spec import Function, ObjectSpec, ProgramSpec

        try:
            info = sys_bpf.prog_info(fd)
        except BaseException:
            fd.close()
            raise
        nothing = Function(info.name, 0, "", 0, 0, False, False, memoryview(b""))
        types = attach_types(info.type)
        only = types[0] if len(types) == 1 else 0
        known = find_by_type(info.type, only)
        if known is not None and known.attach_type == 0 and known.how == "cgroup":
            known = None  # a guess of its direction
        word = uapi_word(ProgType, "BPF_PROG_TYPE_", info.type)
        spec = ProgramSpec(
            name=info.name or f"id {info.id}",
            section=known.prefix if known is not None else word,
            type=info.type,
            expected_attach_type=only,
            flags=0,
            attach_to="",
            autoload=False,
            autoattach=False,
            insn_cnt=info.xlated_prog_len // 8,
            sec_def=known,
            function=nothing,
        )
        program = cls(spec, Binding(ObjectSpec("", "", 0, {}, {}, {}, None), Facts()))
        program._fd = fd
        if len(types) > 1:
            program._attach_type = None
        return program

    @property
    def expected_attach_type(self) -> int:
        """Return for what it was or will be loaded (``enum bpf_attach_type``)."""
        return self._attach_type or 0

    @expected_attach_type.setter
    def expected_attach_type(self, value: int) -> None:
        self._attach_type = value

    @property
    def knows_attach_type(self) -> bool:
        """Tell whether `expected_attach_type` is known: see `from_id`."""
        return self._attach_type is not None

    # -- facts of the object file

    @property
    def handler(self) -> str:
        """Return the first part of the section name, without ``?`` and ``.s``: ``fexit.multi``."""
        return self.section.lstrip("?").partition("/")[0].removesuffix(".s")

    @property
    def is_multi(self) -> bool:
        """Return True for a ``*.multi`` tracing program. It is loaded when attached; see
        `attach_multi`."""
        return self.type == ProgType.BPF_PROG_TYPE_TRACING and self.expected_attach_type in _MULTI

    @property
    def is_loaded_late(self) -> bool:
        """Return True if `Object.load` leaves it out.

        A multi program, and freplace without a target, are loaded when they are attached. A
        struct_ops program that no map uses is not needed.
        """
        if self.type == ProgType.BPF_PROG_TYPE_STRUCT_OPS:
            return self._binding.struct_ops_place(self.name) is None
        return self.is_multi or self._lacks_program

    @property
    def _lacks_program(self) -> bool:
        return self.type == ProgType.BPF_PROG_TYPE_EXT and self.target_program is None

    # -- loading

    @property
    def loaded(self) -> bool:
        return self._fd is not None and not self._fd.closed

    @property
    def fd(self) -> Fd:
        """Return the loaded program's descriptor.

        :raises StateError: before `load` and after `close`
        """
        if self._fd is None:
            raise StateError(f"program {self.name!r} is not loaded", self._how_to_load())
        if self._fd.closed:
            hint = "open the object again" if self._binding.closed else "call its load()"
            raise StateError(f"program {self.name!r} is closed", hint)
        return self._fd

    def _how_to_load(self) -> str:
        if self._binding.closed:
            return f"its object is {self._binding.closed_because}"
        if self.is_multi:
            return "a multi program is loaded when it is attached: call attach_multi(functions)"
        if self._lacks_program:
            return f"it is loaded when it is attached: call {table.WAYS['freplace'].call}"
        if not self.autoload:
            return "its autoload is off: call its load()"
        return "call load() of its object"

    def fileno(self) -> int:
        return self.fd.fileno()

    def load(self) -> None:
        """Relocate and load the program (BPF_PROG_LOAD). A second call does nothing.

        :raises VerifierError: if the verifier refuses it
        :raises RelocationError: if it refers to something this kernel lacks
        :raises DeniedByPolicy: if a capability, lockdown or sysctl forbids it
        """
        if self.loaded:
            return
        if not self.type:
            raise BpfError(
                errno.EINVAL,
                f"program {self.name!r}: missing program type",
                f"libbpf does not know section {self.section!r}; set .type before loading",
            )
        if self.is_multi:
            raise PlanError(
                f"program {self.name!r} ({self.section}) is loaded when it is attached: "
                "its instructions depend on the functions; call attach_multi(functions)"
            )
        self._fd = self._load_for(self._target(self.attach_to))

    def _load_for(self, target: BtfTarget) -> Fd:
        if target.module and not target.number:
            target = target._replace(number=self._binding.facts.btf.number(target.module))
        self._loaded_for = target
        fd = self._load(target)
        try:
            self._check_module()
        except BaseException:
            fd.close()
            raise
        return fd

    def _check_module(self) -> None:
        # On 6.1 a loaded program does not hold its function's module. The module may be unloaded,
        # and another function may take its place.
        target = self._loaded_for
        if target.module and self._binding.facts.btf.number(target.module) != target.number:
            raise BpfError(
                errno.ENOENT,
                f"module {target.module!r}",
                "it was unloaded or reloaded after this program was loaded for a function "
                "in it; open and load the object again",
            )

    def _load(self, target: BtfTarget) -> Fd:
        attach_type = self.expected_attach_type
        if self.type == ProgType.BPF_PROG_TYPE_STRUCT_OPS:
            target, attach_type = self._struct_ops_place()
        program = replace(
            self._binding.relocated(self.name),
            type=self.type,
            attach_type=attach_type,
            flags=self.flags,
            target=target,
            log_level=self.log_level,
        )
        try:
            return self._binding.load(program, on_log=self._keep_log)
        except VerifierError as error:
            from .obj.missing import explain  # only for errors

            lacking = explain(self._binding.linked(self.name), self._binding.spec, error.log)
            if lacking is not None:
                error.hint = f"this kernel lacks something: {lacking}"
            raise

    def _keep_log(self, log: str) -> None:
        self.log = log

    def _struct_ops_place(self) -> tuple[BtfTarget, int]:
        place = self._binding.struct_ops_place(self.name)
        if place is None:
            what = f"program {self.name!r} ({self.section})"
            raise BpfError(errno.EINVAL, what, "no struct_ops map of the object uses it")
        return place

    def _target(self, attach_to: str) -> BtfTarget:
        # The kernel function (or tracepoint typedef, LSM hook, iterator) to load for.
        if self.type == ProgType.BPF_PROG_TYPE_EXT or self.target_program is not None:
            return self._function_of_program(attach_to)
        if self.type not in (ProgType.BPF_PROG_TYPE_TRACING, ProgType.BPF_PROG_TYPE_LSM):
            return BtfTarget(0)
        known = BTF_TARGETS.get(AttachType(self.expected_attach_type))
        if known is None:
            return BtfTarget(0)
        prefix, what = known
        module, _, name = attach_to.rpartition(":")
        if not name:
            raise BpfError(
                errno.EINVAL,
                f"program {self.name!r} ({self.section}): no {what} named",
                f"set .attach_to, or write it in the section: {self.handler}/NAME",
            )
        with self._named():
            return btf_target(self._binding.facts.btf, prefix + name, module or None, what)

    def _function_of_program(self, function: str) -> BtfTarget:
        if self.target_program is None or not function:
            raise BpfError(
                errno.EINVAL,
                f"program {self.name!r} ({self.section}): no program and function to replace",
                "call attach_freplace(target_program, function), or set .target_program and "
                ".attach_to before loading",
            )
        with self._named():
            found = links.find_in_program(self.target_program, function)
        return BtfTarget(found.btf_id, program=found.program)

    def clone(self, attach_to: str | None = None, *, target: BtfTarget | None = None) -> Program:
        """Load a second copy of this program for another kernel function.

        Maps and globals are shared with the original.

        :param attach_to: ``function`` or ``module:function``
        :param target: the function's BTF id instead of its name, if the caller knows it
        :raises VerifierError: as `load`
        """
        copy = Program(self._spec, self._binding)
        copy.type, copy.flags = self.type, self.flags
        copy.expected_attach_type = self.expected_attach_type
        copy.attach_to = attach_to if attach_to is not None else self.attach_to
        copy.target_program = self.target_program
        copy._fd = copy._load_for(target or copy._target(copy.attach_to))
        return copy

    def info(self) -> sys_bpf.ProgInfo:
        """Ask the kernel for id, tag, sizes, run time in ns, map ids etc.
        (BPF_OBJ_GET_INFO_BY_FD)."""
        return sys_bpf.prog_info(self.fd)

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Give it a path in a bpf file system, which keeps it loaded (BPF_OBJ_PIN).

        If only the last folder of the path is missing, it is made.

        :raises BpfError: EEXIST if the path exists, EPERM if it is not in a bpf file system
        """
        with self._named():
            sys_bpf.obj_pin(self.fd, os.fspath(path))

    def test_run(
        self,
        data: bytes | None = None,
        ctx: bytes | None = None,
        repeat: int = 1,
        *,
        flags: int = 0,
        cpu: int = 0,
    ) -> RunResult:
        """Run the program once or `repeat` times (BPF_PROG_TEST_RUN).

        For fentry and fexit programs the kernel itself calls bpf_fentry_test1..8, and for
        fmod_ret programs bpf_modify_return_test. `data` and `ctx` do not apply to these.

        :param data: packet for networking programs, bytes
        :param ctx: context struct for programs that take one
        :raises BpfError: EOPNOTSUPP/ENOTSUPP for program types that cannot be run this way; EINVAL
            if the type needs data or ctx, or takes none; EINTR if a signal came between two runs
        :raises TypeError: `data` or `ctx` is not bytes
        """
        inputs: dict[str, object] = {"data": data, "ctx": ctx}
        for label, given in inputs.items():
            if given is not None and not isinstance(given, (bytes, bytearray, memoryview)):
                kind = type(given).__name__
                raise TypeError(f"{label} of a test run: bytes expected, not {kind}")
        size = 0 if data is None else len(data) + _GROWTH
        with self._named():
            try:
                result = sys_prog.prog_test_run(
                    self.fd,
                    data_in=data,
                    data_out_size=size,
                    ctx_in=ctx,
                    ctx_out_size=0 if ctx is None or self.type in _CTX_IN_ONLY else len(ctx),
                    repeat=repeat,
                    flags=flags,
                    cpu=cpu,
                )
            except BpfError as error:
                error.hint = error.hint or _run_hint(error.errno or 0, self.type, data, ctx)
                raise
        return RunResult(result.retval, result.duration, result.data_out, result.ctx_out)

    # -- attaching

    @property
    def _multi(self) -> MultiPrograms:
        # Plans, loads and attaches this object's multi programs.
        from .multi.programs import MultiPrograms  # lazy: it imports the whole planner, 30 ms

        return self._binding.share(MultiPrograms)

    def template(self) -> Template:
        """Return the multi program before it is fitted to functions, for `pybpf.trampoline.plan`.

        :raises PlanError: if this is not a ``*.multi`` program
        """
        return self._multi.template(self)

    def attach_multi(
        self,
        functions: Asked | Plan | None = None,
        *,
        mechanism: Mechanisms = "auto",
        prefer: str | None = None,
        lowering: str | Lowering = "auto",
        cookies: Cookies | None = None,
        progress: Progress | None = None,
        planned: Callable[[Plan], None] | None = None,
        unknown: str | None = None,
        rates: Mapping[str, float] | None = None,
        horizon: float = 3600.0,
    ) -> MultiLink:
        """Attach a ``fentry.multi``, ``fexit.multi`` or ``fsession.multi`` program.

        One function that cannot be attached to never fails the rest. It is listed in ``.skipped``
        with its reason.

        :param functions: a glob (``vfs_*``, ``module:glob``), ``NAME@ADDRESS``, or a sequence of
            these, candidates of `select` or targets; None takes the section's glob. Or a plan of
            `pybpf.trampoline.plan`: it is carried out as it is, unless modules came or went since;
            then its functions are planned again
        :param mechanism: "auto", "tracing_multi", "trampoline", "kprobe_multi" or "kprobe"; or a
            sequence of these; each function gets the first that can run the program on it
        :param prefer: "overhead" for the lowest cost per call, however long attaching takes
        :param lowering: "auto"; or "direct" or "frame" to compare the two
        :param cookies: ``__u64`` for bpf_get_attach_cookie: one for all, one per named function
            in order, a mapping by name or target (0 for the others), or a function of the target.
            Functions that share a name share its cookie, and the logger ``pybpf`` warns. To tell
            them apart, name them as NAME@ADDRESS or give targets.
        :param progress: called with (programs attached, programs in total)
        :param planned: called with the plan before anything is attached
        :param unknown: "registers": if a function's prototype is not known, a kprobe mechanism
            is used and the program sees the registers as they are. Without it, such a function
            is skipped if the program reads arguments or the return value
        :param rates: calls per second by name, or by ``name [module]``, as far as known.
            Functions that are called often get the lowest cost per call, the others the lowest
            cost of attaching
        :param horizon: with rates: seconds that the program will stay attached
        :raises PlanError: nothing matches, every function was refused (``.skipped`` lists them
            with the reasons), or the use of the context cannot be proved
        :raises VerifierError: the program itself is at fault, for any function
        :raises TypeError: a requested item is not a name, glob, candidate or target
        :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
        :raises BpfError: EMFILE if it needs one link per function and more links than the process
            may open, and the hard limit (RLIMIT_NOFILE) does not allow a higher soft limit
        """
        asked = functions if functions is not None else self.attach_to
        if functions is None and not asked:
            raise PlanError(
                f"program {self.name!r}: section {self.section!r} names no functions; "
                "give a glob or names"
            )
        from .multi.options import AttachOptions  # lazy: it imports the whole planner, 30 ms
        from .multi.plan import Plan

        options = AttachOptions(
            mechanism=mechanism,
            prefer=prefer,
            lowering=lowering,
            cookies=cookies,
            progress=progress,
            planned=planned,
            unknown=unknown,
            rates=rates,
            horizon=horizon,
        )
        if not isinstance(asked, Plan):
            return self._multi.attach(self, asked, options)
        own = replace(AttachOptions(), cookies=cookies, progress=progress, planned=planned)
        if options != own:
            raise PlanError(
                f"program {self.name!r}: a plan says how to attach; leave out mechanism, prefer, "
                "lowering, unknown, rates and horizon"
            )
        return self._multi.carry_out(self, asked, options)

    def check_multi(self, plan: Plan) -> int:
        """Let the verifier check everything that a plan would load. Nothing is attached.

        If a group loads a program for each function, only the first one is loaded.

        :param plan: a plan of this program, from `pybpf.trampoline.plan`
        :returns: number of programs that were loaded
        :raises VerifierError: the verifier refuses one
        :raises DeniedByPolicy: a capability, lockdown or sysctl forbids it
        """
        return self._multi.check(self, plan)

    @property
    def attach_problem(self) -> BpfError | None:
        """Return why `attach` cannot work by the section alone, None if it can.

        ``.hint`` of the error names the method to call instead.
        """
        if self._lacks_program:
            what = f"section {self.section!r} does not say which program's function it replaces"
            return BpfError(errno.EINVAL, what, f"call {table.WAYS['freplace'].call}")
        return table.problem(self.attaches, self.section, self.attach_to)

    def attach(self, *, cookie: int = 0) -> links.Link | links.LinkSet | MultiLink:
        """Attach as the section says, e.g. ``kprobe/vfs_read``, ``fexit.multi/vfs_*``.

        :param cookie: ``__u64`` for bpf_get_attach_cookie, where the kind has cookies
        :raises UnsupportedFeature: for sections that libbpf can attach but pybpf cannot yet
        :raises BpfError: EINVAL if the section does not say where, naming the method to call
            instead; or the kernel's refusal
        :raises PlanError: for a multi program, as `attach_multi`
        """
        known = self._spec.sec_def
        request = links.Request(
            program=self,
            section=self.section,
            target=self.attach_to,
            attach_type=self.expected_attach_type,
            retprobe=known is not None and known.retprobe,
            cookie=cookie,
            facts=self._binding.facts,
        )
        with self._named():
            if self._lacks_program and (problem := self.attach_problem) is not None:
                raise problem
            return table.attach(self.attaches, request)

    def attach_tracing(self, *, cookie: int = 0) -> links.Link:
        """Attach to the target it was loaded for: fentry, fexit, fmod_ret, fsession, tp_btf, lsm.

        :param cookie: ``__u64`` for bpf_get_attach_cookie
        :raises BpfError: see `pybpf.links.attach_tracing`; ENOENT if the function's module was
            unloaded or reloaded since
        """
        what = f"{self.handler}/{self.attach_to}"
        with self._named("tracing", "lsm"):
            self._check_module()
            link = links.attach_tracing(self, self.expected_attach_type, cookie=cookie, what=what)
            try:
                self._check_module()
            except BaseException:
                link.close()
                raise
            return link

    def attach_freplace(self, target_program: links.HasFd, function: str = "") -> links.Link:
        """Replace a function of a loaded program.

        This program is loaded for that function if it is not loaded yet. A loaded program can be
        attached to any function with the same prototype.

        :param target_program: a loaded program with BTF
        :param function: a global function, or the program's own; by default, as the section says
        :raises VerifierError: the prototypes differ, or the program is at fault
        :raises BpfError: ESRCH if the program has no such function, with near names; EBUSY if it
            is already replaced
        """
        name = function or self.attach_to
        what = f"freplace/{name}"
        with self._named("freplace"):
            if self.loaded:
                target = links.find_in_program(target_program, name)
                return links.attach_freplace(self, target, what=what)
            former = self.target_program, self.attach_to
            self.target_program, self.attach_to = target_program, name
            try:
                self.load()
            except BaseException:
                self.target_program, self.attach_to = former
                raise
            return links.attach_freplace(self, what=what)

    # -- end

    def close(self) -> None:
        """Release the loaded program. Its links stay attached."""
        if self._fd is not None:
            self._fd.close()

    def __enter__(self) -> Self:
        if self._fd is not None:
            self.fileno()  # says that it is closed
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "not loaded"
        if self._fd is not None:
            state = "closed" if self._fd.closed else f"fd {self._fd.fileno()}"
        return f"<Program {self.name} ({self.section}): {state}>"
