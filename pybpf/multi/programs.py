"""Multi programs of an object: template, plan, variants and links.

This module links a multi program into a `Template`, finds targets, lets the engine run the
plan, and loads each variant that the engine needs through the object's `Binding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from .._uapi.defines import BPF_F_SLEEPABLE
from .._uapi.enums import AttachType, MapFlag, MapType, ProgType
from ..asm import encode
from ..asm.insn import PSEUDO_KFUNC_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, Insn
from ..binding import ProgLoad
from ..dataclass import dataclass, replace
from ..errors import BpfError, PlanError, RelocationError
from ..kernel.lookup import BtfTarget, btf_target
from ..obj.linker import Linker, Resolved
from .asking import Asking, may_ask
from .cookies import cookie_function, shared_cookies
from .engine import attach as run
from .engine import check
from .ground import ROUNDS, Ground
from .guard import filled
from .guard_maps import GuardMaps, make_flags
from .link import warn
from .missed import losses_on
from .resolve import Asked, Resolver, listed, plan_facts
from .template import make_template, pack_info
from .traits import Hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .._sys.fd import Fd
    from ..asm.edit import Code
    from ..binding import Binding
    from ..kernel.host import Facts
    from ..programs import Program
    from .candidates import Ask
    from .link import MultiLink
    from .options import AttachOptions
    from .plan import Plan, PlanFacts
    from .reasons import Skipped
    from .resolve import Item
    from .target import Target
    from .template import Template

__all__ = ["MultiPrograms"]

SESSION = "bpf_session_"  # prefix of the session kfuncs

_HOOKS = {
    AttachType.BPF_TRACE_FENTRY_MULTI: Hook.ENTRY,
    AttachType.BPF_TRACE_FEXIT_MULTI: Hook.EXIT,
    AttachType.BPF_TRACE_FSESSION_MULTI: Hook.SESSION,
}


@dataclass(frozen=True, slots=True)
class _Packed:
    # The last loaded code: instructions, func_info and line_info.
    template: Template
    code: Code
    guard: GuardMaps | None
    records: tuple[bytes, bytes, bytes]

    def is_of(self, template: Template, code: Code, guard: GuardMaps | None) -> bool:
        return self.template is template and self.code is code and self.guard is guard


class _MultiLinker(Linker):
    # Each mechanism replaces session kfuncs in its own way. They are left open here and are never
    # an error, although kernels differ in their prototypes and 6.1 has none.
    def resolve(self, number: int) -> Resolved | None:
        extern = self.spec.externs[number]
        if not extern.weak and extern.name.startswith(SESSION):
            raise RelocationError(f"extern {extern.name!r} must be declared __weak")
        return None if extern.name.startswith(SESSION) else super().resolve(number)


class MultiPrograms:
    """Plan, load and attach the multi programs of one object."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        binding.forgetting.append(self.forget)
        self._templates: dict[tuple[str, int, int], Template] = {}
        self._last: _Packed | None = None
        self._flags: Fd | None = None  # for the recursion guard

    def forget(self) -> None:
        """Let go of what can be made again: linked code and templates."""
        self._templates.clear()
        self._last = None
        self.__dict__.pop("_linker", None)
        self.__dict__.pop("_resolver", None)

    def template(self, program: Program) -> Template:
        """Return a multi program's code and what messages need, for planning.

        :raises PlanError: if it is not a ``*.multi`` program
        :raises RelocationError: it refers to something this kernel lacks
        """
        if not program.is_multi:
            raise PlanError(f"program {program.name!r} ({program.section}) is not a multi program")
        if self.binding.is_stale(self._linker):
            self._templates.clear()
            del self.__dict__["_linker"]
        key = (program.name, program.expected_attach_type, program.flags)
        if key not in self._templates:
            self._templates[key] = make_template(
                self._linker.link(program.name),
                self.binding.spec.btf,
                hook=_HOOKS[AttachType(program.expected_attach_type)],
                sleepable=bool(program.flags & BPF_F_SLEEPABLE),
                static=lambda type_id: self.binding.static_twins.get(type_id, type_id),
                arrays=self._arrays(),
            )
        return self._templates[key]

    def _arrays(self) -> frozenset[int]:
        # Numbers of the maps whose look-ups every kernel's verifier inlines.
        maps = self.binding.maps
        return frozenset(
            number
            for number, name in enumerate(self.binding.spec.map_names)
            if name in maps
            and maps[name].type == MapType.BPF_MAP_TYPE_ARRAY
            and not maps[name].map_flags & MapFlag.BPF_F_INNER_MAP
        )

    def make_guard(self) -> GuardMaps:
        """Make maps for one more link: its own misses, and flags shared by all links of the object.

        :raises BpfError: if the kernel refuses
        """
        cpus = self.binding.facts.possible_cpus
        if self._flags is None:
            self._flags = self.binding.keep(make_flags(cpus, self.binding.token_fd))
        return GuardMaps(self._flags, cpus, self.binding.token_fd)

    @cached_property
    def _resolver(self) -> Resolver:
        return Resolver(self.binding.facts, live=not self.binding.facts.is_saved)

    @cached_property
    def _linker(self) -> Linker:
        skip = [m.name for m in self.binding.maps.values() if not m.autocreate]
        return _MultiLinker(self.binding.spec, self.binding.link_target, skip_maps=skip)

    def load_variant(
        self,
        template: Template,
        code: Code,
        *,
        prog_type: int,
        attach_type: int,
        btf_id: int,
        module: str,
        guard: GuardMaps | None = None,
    ) -> Fd:
        """Load one variant of a multi program (BPF_PROG_LOAD).

        :param btf_id: function to load for, 0 for none
        :param module: module whose BTF it is in, "" for vmlinux
        :param guard: maps of its recursion guard, if it has one
        """
        self.binding.require_running()
        self.binding.prepare()
        tracing = prog_type == ProgType.BPF_PROG_TYPE_TRACING
        insns, func_info, line_info = self._packed(template, code, guard)
        return self.binding.load(
            ProgLoad(
                template.name,
                insns,
                prog_type,
                attach_type,
                flags=BPF_F_SLEEPABLE if template.sleepable and tracing else 0,
                target=BtfTarget(btf_id, module if tracing else ""),
                func_info=func_info,
                line_info=line_info,
            )
        )

    def _packed(
        self, template: Template, code: Code, guard: GuardMaps | None
    ) -> tuple[bytes, bytes, bytes]:
        # The last variant is kept, because clones load the same one for each function.
        last = self._last
        if last is None or not last.is_of(template, code, guard):
            info = pack_info(code) if self.binding.btf_fd else (b"", b"")
            insns = self._variant_bytes(template, code, guard)
            last = self._last = _Packed(template, code, guard, (insns, *info))
        return last.records

    def _variant_bytes(self, template: Template, code: Code, guard: GuardMaps | None) -> bytes:
        # Map numbers become descriptors, and session calls become the kernel's kfuncs.
        out = bytearray(encode(code.insns))
        guards = guard.maps if guard is not None else {}
        for slot, insn in enumerate(code.insns):
            at = 8 * slot
            if guard is not None and (own := filled(insn, guards, guard.mask)) is not insn:
                out[at : at + 8] = encode([own])
            elif insn.is_ld_imm64 and insn.src in (PSEUDO_MAP_FD, PSEUDO_MAP_VALUE):
                fd = self.binding.map_fd(insn.imm)
                out[at + 4 : at + 8] = fd.to_bytes(4, "little")
            elif insn.is_call and insn.src == 0 and insn.imm in template.session_calls:
                name = template.session_calls[insn.imm]
                target = btf_target(self.binding.facts.btf, name, "vmlinux", "kfunc")
                call = Insn(insn.code, 0, PSEUDO_KFUNC_CALL, 0, target.btf_id)
                out[at : at + 8] = encode([call])
        return bytes(out)

    def check(self, program: Program, plan: Plan) -> int:
        """See `Program.check_multi`."""
        self.binding.prepare()
        return check(self, self.template(program), plan)

    def carry_out(self, program: Program, plan: Plan, options: AttachOptions) -> MultiLink:
        """Do what a plan says; see `Program.attach_multi`.

        :param options: cookies and what to call; the rest is as it was planned
        """
        hook = _HOOKS.get(AttachType(program.expected_attach_type))
        if (plan.program, plan.hook) != (program.name, hook):
            what = f"program {plan.program!r} ({plan.hook.value})"
            raise PlanError(f"program {program.name!r}: the plan is for {what}")
        if plan.origin is None:
            raise PlanError(
                f"program {program.name!r}: the plan does not say how it was made; "
                "make it by pybpf.trampoline.plan(program, functions, facts), or give its .targets"
            )
        one_each = isinstance(options.cookies, Sequence)
        cookie = cookie_function(options.cookies, plan.targets if one_each else ())
        options = replace(
            plan.origin.options,
            cookies=options.cookies,
            progress=options.progress,
            planned=options.planned,
        )
        self.binding.prepare()
        template = self.template(program)
        now = self.binding.refresh()
        if plan.origin.is_of(template, now) and now.hold():
            return self._run(program, template, plan, plan.origin.facts, options, cookie, now)
        if not plan.groups:
            raise PlanError(f"program {program.name!r}: the plan has no functions")
        return self._attach(program, list(plan.targets), options, cookie, before=plan.skipped)

    def attach(self, program: Program, asked: Asked, options: AttachOptions) -> MultiLink:
        """Attach a program; see `Program.attach_multi`."""
        try:
            return self._attached(program, asked, options)
        except PlanError as error:
            if f"program {program.name!r}" not in str(error):
                error.add_context(f"program {program.name!r} ({program.section})")
            raise

    def _attached(self, program: Program, asked: Asked, options: AttachOptions) -> MultiLink:
        wanted = asked if isinstance(asked, str) else listed(asked)
        if not wanted:
            raise PlanError(f"program {program.name!r}: no function was named")
        cookie = cookie_function(options.cookies, wanted)
        self.binding.prepare()
        if may_ask(options) and not self.binding.facts.is_saved:
            with Asking() as asking:
                try:
                    link = self._attach(program, wanted, options, cookie, asking)
                    if not asking.answered or not link.skipped:
                        return link
                    link.close()
                except (BpfError, PlanError):
                    if not asking.answered:
                        raise
            # Something was refused. The tables say why.
        return self._attach(program, wanted, options, cookie)

    def _attach(
        self,
        program: Program,
        wanted: str | list[Item],
        options: AttachOptions,
        cookie: Callable[[Target], int] | None,
        ask: Ask | None = None,
        before: Sequence[Skipped] = (),
    ) -> MultiLink:
        template = self.template(program)
        for _ in range(ROUNDS):
            now = self.binding.refresh()
            facts = plan_facts(now, options.mechanisms)
            plan = self._resolver.at(now).plan(template, wanted, facts, options, ask)
            if now.hold():
                break  # otherwise modules came or went while their symbols were read
        if before:
            plan = replace(plan, skipped=(*before, *plan.skipped))
        return self._run(program, template, plan, facts, options, cookie, now)

    def _run(
        self,
        program: Program,
        template: Template,
        plan: Plan,
        facts: PlanFacts,
        options: AttachOptions,
        cookie: Callable[[Target], int] | None,
        now: Facts,
    ) -> MultiLink:
        if cookie is not None and (shared := shared_cookies(cookie, plan.targets)):
            warn(f"program {program.name!r}: {shared}")
        ground = None if now.is_saved else Ground(self._resolver.at(now), now, template)
        return run(self, template, plan, facts, options, cookie, ground, losses_on(now))
