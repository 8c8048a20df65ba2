"""From what a caller asks for to targets that the planner understands.

Globs and names go through `select`, which joins ftrace, kallsyms and BTF. Each
candidate gets its model from BTF. The kernel's link infos say how many programs
its trampoline already holds.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress

from ..btf import Btf
from ..btf.types import Func
from ..bulk import uncollected
from ..dataclass import replace
from ..errors import BpfError, ObjectFormatError, PlanError
from ..features import Feature
from ..kernel.btf import KernelBtf
from ..kernel.globs import VMLINUX
from ..kernel.sleepable import MOST, Question, may_sleep
from ..kernel.speed import slowness
from ..trampoline.links import attachments, make_key
from ..trampoline.model import Models
from .candidates import Ask, Candidate, CandidateColumns, Candidates, SelectFacts
from .columns import TargetColumns, Targets
from .join import by_module, symbols_named
from .mechanisms import MECHANISMS, Mechanism
from .options import AUTO, HORIZON, AttachOptions, Mechanisms
from .plan import Origin, Plan, PlanFacts
from .rates import plan_for
from .reasons import Reason, Skipped
from .select import at_address, select, split_address
from .target import Target
from .template import Template
from .traits import Hook
from .unlisted import hidden
from .variant import Lowering

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from ..kernel.host import Facts
    from ..trampoline.model import Model

__all__ = ["Asked", "Item", "Resolver", "listed", "plan", "plan_facts"]

Item = str | Candidate | Target
#: What a caller may name: a glob, names or globs, candidates, targets.
Asked = str | Iterable[Item]

_KINDS = {str, Candidate, Target}

# What prices and cookies depend on, whatever the mechanism.
_PLANNED_FOR = (Feature.TRACING_MULTI, Feature.ATTACH_COOKIE)
# What the room in a trampoline depends on.
_TRAMPOLINES = (Feature.FSESSION,)


def listed(asked: object) -> list[Item]:
    """List the requested items.

    :raises TypeError: an item is not a name, glob, candidate or target
    """
    if isinstance(asked, str):
        return [asked]
    wanted = "functions are given by a glob or a sequence of names, candidates and targets"
    if isinstance(asked, (bytes, bytearray)) or not isinstance(asked, Iterable):
        raise TypeError(f"{wanted}, not by {asked!r}")
    items = list(asked)
    if not set(map(type, items)) <= _KINDS:  # the fast way for thousands
        for item in items:
            if not isinstance(item, (str, Candidate, Target)):
                raise TypeError(f"{wanted}; {item!r} is none of these")
    return items


def plan_facts(facts: Facts, mechanisms: Iterable[Mechanism] = MECHANISMS) -> PlanFacts:
    """Ask a kernel for what the planner needs. Only these features are probed.

    Whether trampolines copy stack arguments is not probed. The kernel says so when
    attaching (ENOTSUPP), and such functions are then planned again with six slots.

    :param mechanisms: the mechanisms to choose from
    """
    wanted = dict.fromkeys(_PLANNED_FOR)
    for one in mechanisms:
        wanted |= dict.fromkeys(_TRAMPOLINES if one.needs_btf else ())
        wanted |= dict.fromkeys(
            [one.feature] if one.session is None else [one.feature, one.session]
        )
    features = facts.probes.some(*wanted)
    return PlanFacts.of(
        features, slowness=1.0 if facts.is_saved else slowness(), release=facts.release
    )


def plan(
    program: Template | object,
    targets: Asked,
    facts: Facts | PlanFacts,
    mechanism: Mechanisms = "auto",
    *,
    prefer: str | None = None,
    lowering: str | Lowering = "auto",
    unknown: str | None = None,
    rates: Mapping[str, float] | None = None,
    horizon: float = HORIZON,
) -> Plan:
    """Plan what attaching a multi program would do. Nothing is attached.

    :param program: a multi program of an opened object, or a `Template`
    :param targets: a glob, or names, globs, candidates and `Target` values
    :param facts: facts of the running kernel or saved ones, in which names are looked up; or
        `PlanFacts` together with `Target` values: then this is `planner.make_plan`, and pure
    :param mechanism: "auto", a mechanism, or a sequence of them in order of preference
    :param prefer: "overhead": prefer the least cost per call
    :param lowering: "auto", "direct" or "frame"
    :param unknown: "registers": see `AttachOptions`
    :param rates: calls per second by name: see `AttachOptions`
    :param horizon: with rates: seconds that the program will stay attached
    :raises PlanError: as `planner.make_plan` and `AttachOptions`; or names that cannot be looked up
    :raises TypeError: as `listed`
    """
    options = AttachOptions(
        mechanism=mechanism,
        prefer=prefer,
        lowering=lowering,
        unknown=unknown,
        rates=rates,
        horizon=horizon,
    )
    template = program if isinstance(program, Template) else program.template()  # type: ignore[attr-defined]
    asked = targets if isinstance(targets, (str, Candidates)) else listed(targets)
    if isinstance(facts, PlanFacts):
        wanted = listed(asked)
        given = [t for t in wanted if isinstance(t, Target)]
        if len(given) != len(wanted):
            raise PlanError("PlanFacts cannot look up names: give Target values, or Facts")
        return plan_for(template, given, facts, options)
    facts = facts.current()
    resolver = Resolver(facts, live=not facts.is_saved)
    return resolver.plan(template, asked, plan_facts(facts, options.mechanisms), options)


class Resolver:
    """Find targets in one kernel. Models are looked up once, occupancy for each request.

    :param facts: facts of the kernel
    :param live: True if this kernel runs here, so that its links can be read and a
        caller's addresses are checked
    """

    def __init__(self, facts: Facts | SelectFacts, *, live: bool = True) -> None:
        self._facts = facts
        self._live = live
        self._models: dict[str, tuple[Btf | None, Models | None]] = {}
        self._held: Counter[int] | None = None

    def at(self, facts: Facts) -> Self:
        """Use these facts from now on. They are newer, of the same kernel."""
        if facts is not self._facts:
            self._facts = facts
            self._models = {m: known for m, known in self._models.items() if not m}
        return self

    def plan(
        self,
        template: Template,
        asked: Asked,
        facts: PlanFacts,
        options: AttachOptions = AUTO,
        ask: Ask | None = None,
    ) -> Plan:
        """Plan a multi program on the requested functions.

        :param facts: `plan_facts` of the same kernel
        :param ask: see `select`
        :raises PlanError: as `resolve` and `make_plan`
        :raises TypeError: as `listed`
        """
        with uncollected():
            targets, skipped = self.resolve(asked, at_exit=template.hook is not Hook.ENTRY, ask=ask)
            if template.sleepable:
                targets = self.with_sleep(targets)
            made = plan_for(template, targets, facts, options, skipped)
        return replace(made, origin=Origin(template, self._facts, facts, options))

    def with_sleep(self, targets: Iterable[Target]) -> Sequence[Target]:
        """Return the targets, with the running kernel's answer about sleepable programs on each.

        Known answers stay. Saved facts do not have them. Of very many functions, only the first
        `sleepable.MOST` are asked about; the rest stay unknown.
        """
        btf = self._facts.btf
        if not self._live or not isinstance(btf, KernelBtf):
            return targets if isinstance(targets, Sequence) else tuple(targets)
        out = list(targets)
        open_ = [t for t in out if t.may_sleep is None and t.btf_id is not None]
        asked = [Question(t.module, t.btf_id or 0) for t in open_[:MOST]]
        said = may_sleep(asked, btf)
        known = {
            (t.module, t.btf_id): said.get(question)
            for t, question in zip(open_, asked, strict=False)
        }
        return [
            t if t.may_sleep is not None else replace(t, may_sleep=known.get((t.module, t.btf_id)))
            for t in out
        ]

    def resolve(
        self, asked: Asked, *, at_exit: bool, ask: Ask | None = None
    ) -> tuple[Sequence[Target], list[Skipped]]:
        """Return targets for what was requested, and what could not be found.

        :param asked: a glob (``vfs_*``, ``module:glob``), or names, candidates and targets;
            ``NAME@ADDRESS`` means one of several functions of this name
        :param at_exit: a program will run at exit
        :param ask: see `select`
        :raises PlanError: if a glob is malformed, or nothing at all matches
        :raises TypeError: as `listed`
        """
        self._held = None
        if isinstance(asked, Candidates):  # thousands, without an object for each
            return Targets(self._columns(asked.columns)), []
        wanted = listed(asked)
        if set(map(type, wanted)) == {Target}:
            return self._placed(wanted)  # type: ignore[arg-type]
        globs = [w for w in wanted if isinstance(w, str)]
        targets, skipped = self._placed(
            [self.target(w) for w in wanted if isinstance(w, Candidate)]
            + [w for w in wanted if isinstance(w, Target)]
        )
        named = [split_address(text) for text in globs]
        globs = [text for text, address in named if address is None]
        if len(globs) < len(named):
            exact = [(text, address) for text, address in named if address is not None]
            ones, refused = at_address(self._facts, exact, at_exit=at_exit)
            targets += [self.target(c) for c in ones]
            skipped += refused
        if not globs:
            if not targets and isinstance(asked, str):
                raise _nothing(asked, skipped)
            return targets, skipped
        found = select(self._facts, globs, at_exit=at_exit, ask=ask)
        columns = TargetColumns.of(targets)
        known = {(t.module, t.name, t.address) for t in targets}
        columns.extend(self._columns(found.candidates.columns, known))
        skipped += found.skipped
        skipped += [
            Skipped(lost.pattern, "", Reason.NOT_FOUND, lost.detail, lost.hint)
            for lost in found.unmatched
            if not lost.skipped
        ]
        if not columns.names and isinstance(asked, str):
            raise _nothing(asked, skipped)
        return Targets(columns), skipped

    def again(
        self, targets: Sequence[Target], *, at_exit: bool
    ) -> tuple[list[Target], list[Skipped]]:
        """Look up functions again whose modules went away or moved.

        :returns: what each is now, and the functions that no longer exist
        """
        self._held = None
        out: list[Target] = []
        skipped: list[Skipped] = []
        found: dict[tuple[str, str], list[Candidate]] = {}
        loaded = getattr(self._facts, "loaded", ())
        there = [t for t in targets if not t.module or t.module in loaded]
        names = dict.fromkeys(f"{t.module or VMLINUX}:{t.name}" for t in there)
        selection = select(self._facts, names, at_exit=at_exit)
        for candidate in selection.candidates:
            found.setdefault((candidate.module, candidate.name), []).append(candidate)
        lost = {(s.module, s.name): s for s in selection.skipped}
        for target in targets:
            key = (target.module, target.name)
            now = found.get(key, [])
            if len(now) == 1:
                out.append(self.target(now[0]))
            elif target.module and target.module not in loaded:
                skipped.append(Skipped(target.name, target.module, Reason.MODULE_GONE))
            elif now:
                detail = f"{len(now)} functions have its name now"
                skipped.append(Skipped(target.name, target.module, Reason.MOVED, detail))
            else:
                skipped.append(
                    lost.get(key) or Skipped(target.name, target.module, Reason.NOT_FOUND)
                )
        return out, skipped

    def _placed(self, targets: list[Target]) -> tuple[list[Target], list[Skipped]]:
        # Targets that a caller made, each with its address. Only the address tells two names of one
        # function from two functions, and one link must not hold a function twice.
        # An address from a caller may be of another moment, or of another boot.
        out: list[Target] = []
        skipped: list[Skipped] = []
        if targets and self._live and not self._facts.kallsyms.hidden:
            moved = self._moved(targets)
            if moved:
                out, skipped = self.again([targets[i] for i in moved], at_exit=False)
                targets = [t for i, t in enumerate(targets) if i not in moved]
        if 0 not in [t.address for t in targets]:
            return out + targets, skipped
        blind = self._live and hidden(self._facts) is not None
        for target in targets:
            if not target.address and not (blind and target.btf_id):
                at = {
                    s.addr
                    for s in self._facts.kallsyms.by_name(target.name)
                    if s.is_function and s.module == target.module
                }
                if len(at) != 1:
                    where = ", ".join(f"{address:#x}" for address in sorted(at))
                    why = (Reason.AMBIGUOUS, f"{len(at)} addresses", f"give the address: {where}")
                    none = (Reason.NOT_FOUND, "kallsyms does not have it")
                    skipped.append(Skipped(target.name, target.module, *(why if at else none)))
                    continue
                target = replace(target, address=at.pop())
            out.append(target)
        return out, skipped

    def _moved(self, targets: list[Target]) -> dict[int, None]:
        # Positions of targets whose name, address and BTF id do not agree, or no longer do.
        symbols = symbols_named(self._facts.kallsyms, [t.name for t in targets if t.address])
        here = set(zip(symbols.names, symbols.modules, symbols.addrs, strict=True))
        return dict.fromkeys(
            i
            for i, t in enumerate(targets)
            if t.address
            and ((t.name, t.module, t.address) not in here or (t.module and not self._describes(t)))
        )

    def _describes(self, target: Target) -> bool:
        # Whether the BTF id of a module's function belongs to that function.
        if target.btf_id is None:
            return True
        btf = self._facts.btf.get(target.module)
        if btf is None or not btf.start_id <= target.btf_id < btf.start_id + btf.nr_types:
            return False
        return isinstance(btf.type(target.btf_id), Func) and btf.name(target.btf_id) == target.name

    def target(self, candidate: Candidate) -> Target:
        """Return a candidate with its model and occupancy."""
        model = None
        occupied = 0
        if candidate.btf_id is not None:
            models = self._models_of(candidate.module)
            if models is not None:
                # A candidate that a caller kept may be of a module that was rebuilt.
                with suppress(ObjectFormatError, AssertionError):
                    model = models.of_func(candidate.btf_id)
            occupied = self._occupied(candidate.module, candidate.btf_id)
        elif candidate.proto and (models := self._models_of(candidate.module)) is not None:
            with suppress(ObjectFormatError, AssertionError):
                model = models.of(candidate.proto)
        return Target(
            candidate.name,
            candidate.module,
            candidate.address,
            candidate.btf_id,
            model,
            candidate.unique,
            candidate.kprobe,
            occupied,
        )

    def _columns(
        self, found: CandidateColumns, without: Set[tuple[str, str, int]] = frozenset()
    ) -> TargetColumns:
        # Candidates with their models and occupancy.
        if without:
            keys = zip(found.modules, found.names, found.addresses, strict=True)
            found = found.take([i for i, key in enumerate(keys) if key not in without])
        count = len(found.names)
        models: list[Model | None] = [None] * count
        for module, rows in by_module(found.modules):
            known = self._models_of(module) if rows else None
            if known is not None:
                whole = len(rows) == count
                protos = found.protos if whole else [found.protos[i] for i in rows]
                of = known.of_each(set(protos) - {0}).get
                if whole:
                    models = list(map(of, protos))
                    break
                for i, proto in zip(rows, protos, strict=True):
                    models[i] = of(proto)
        return TargetColumns(
            found.names,
            found.modules,
            found.addresses,
            found.btf_ids,
            models,
            found.unique,
            found.kprobe,
            self._occupied_each(found.modules, found.btf_ids),
            [None] * count,
        )

    def _models_of(self, module: str) -> Models | None:
        btf: Btf | None = self._facts.btf.get(module)
        known = self._models.get(module)
        if known is None or known[0] is not btf:  # not read yet, or loaded again
            known = self._models[module] = (btf, Models(btf) if btf is not None else None)
        return known[1]

    def _occupied(self, module: str, btf_id: int) -> int:
        return self._occupied_each([module], [btf_id])[0]

    def _occupied_each(self, modules: Sequence[str], btf_ids: Sequence[int]) -> array[int]:
        # How many programs the trampolines of functions already hold.
        out = array("I", bytes(4 * len(btf_ids)))
        if not self._live or not any(btf_ids):
            return out
        if self._held is None:
            self._held = _held()
        if not self._held:
            return out
        for module, rows in by_module(modules):
            try:
                object_id = self._facts.btf.object_id(module)  # type: ignore[union-attr]
            except (BpfError, AttributeError):
                continue
            for i in rows:
                if btf_id := btf_ids[i]:
                    out[i] = self._held[make_key(object_id, btf_id)]
        return out


def _nothing(asked: str, skipped: list[Skipped]) -> PlanError:
    said = "; ".join(map(str, skipped[:3]))
    named = skipped and skipped[0].label == asked  # then it begins with what was asked for
    return PlanError(said if named else f"{asked!r}: {said}", skipped=skipped)


def _held() -> Counter[int]:
    # How many programs each trampoline holds, as far as links can be read. This is only a hint that
    # avoids attaches which would fail: links come and go meanwhile, and without the right to read
    # links the count is 0. When attaching, the kernel says which trampoline is full.
    held: Counter[int] = Counter()
    with suppress(OSError):
        for one in attachments():
            if one.keys:
                held[one.keys[0]] += 2 if one.kinds == ("fsession",) else 1
    return held
