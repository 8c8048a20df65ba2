"""The join of symbols, traceable places and BTF in columns is the join done name by name."""

from __future__ import annotations

import fnmatch
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from pybpf.btf import Btf, BtfBuilder, BtfKind, types
from pybpf.kernel.ftrace import FtraceFunctions, KprobeBlacklist, parse_blacklist, parse_functions
from pybpf.kernel.kallsyms import Kallsyms, Symbol
from pybpf.multi.candidates import Candidate
from pybpf.multi.columns import Targets
from pybpf.multi.denylist import denied, never_returns
from pybpf.multi.options import AttachOptions
from pybpf.multi.planner import make_plan
from pybpf.multi.reasons import Reason, Skipped
from pybpf.multi.resolve import Resolver
from pybpf.multi.select import select
from pybpf.multi.target import Target
from pybpf.trampoline.model import MAX_PARAMS, MAX_SLOTS, Model, Models, Return
from pybpf.wording import many
from tests.support.examples import examples
from tests.unit.test_planner import KERNELS, PROGRAMS

# -- the reference: one function after the other ---------------------------


def naive_lines(
    facts: Facts, allow: list[str], deny: list[str]
) -> dict[tuple[str, str], list[int]]:
    """Which lines are meant, by name and module; in file order."""

    def meant(name: str, module: str, globs: list[str]) -> bool:
        for glob in globs:
            owner, colon, name_glob = glob.rpartition(":")
            if fnmatch.fnmatchcase(name, name_glob) and (
                not colon or fnmatch.fnmatchcase(module or "vmlinux", owner)
            ):
                return True
        return False

    kept: dict[tuple[str, str], list[int]] = {}
    for i, (name, module) in enumerate(facts.ftrace):
        if meant(name, module, allow) and not meant(name, module, deny):
            kept.setdefault((name, module), []).append(i)
    return kept


def naive_refusal(name: str, module: str, at_exit: bool) -> Skipped | None:
    """What our own lists say."""
    if (rule := denied(name)) is not None:
        return Skipped(name, module, Reason.DENIED, rule.why)
    if at_exit and never_returns(name):
        return Skipped(name, module, Reason.NORETURN, hint="an entry program can be attached")
    return None


def naive_btf(facts: Facts, name: str, module: str) -> tuple[int | None, Reason | None]:
    """The BTF id of a name, or why it has none."""
    btf = facts.btf.get(module)
    if btf is None:
        return None, Reason.NO_BTF
    ids = [
        i
        for i in range(btf.start_id, btf.nr_types)
        if btf.kind(i) == BtfKind.FUNC and btf.name(i) == name
    ]
    if not ids:
        return None, Reason.NO_BTF
    prototypes = {btf.type(i).type for i in ids}  # type: ignore[attr-defined]
    return (ids[0], None) if len(prototypes) == 1 else (None, Reason.AMBIGUOUS)


def naive_places(
    facts: Facts, name: str, module: str, lines: list[int]
) -> tuple[list[int], bool, Skipped | None]:
    """Addresses of the functions behind equal lines, and whether nothing else has the name."""
    symbols = [s for s in facts.kallsyms if (s.name, s.module) == (name, module)]
    addresses = list(dict.fromkeys(s.addr for s in symbols if s.is_function))
    unique = len({s.addr for s in symbols}) == 1
    if not addresses:
        why = Skipped(name, module, Reason.NOT_FOUND, "ftrace lists it, kallsyms does not")
        return [], unique, why
    if facts.ftrace.sites is None:
        good = addresses
    else:
        sites = [facts.ftrace.sites[i] for i in lines]
        good = [a for a in addresses if any(a <= site <= a + 4 for site in sites)]
    if len(good) == len(lines):
        return good, unique, None
    detail = f"{many(len(addresses), 'address', 'addresses')}, {len(lines)} of them traceable"
    if len(addresses) == len(lines):
        detail = f"none of {len(addresses)} addresses is where ftrace has it"
    return [], unique, Skipped(name, module, Reason.AMBIGUOUS, detail)


def naive_select(
    facts: Facts, allow: list[str], deny: list[str], at_exit: bool
) -> tuple[list[Candidate], list[Skipped]]:
    """What `select` finds, and what it leaves out of that."""
    first: list[Skipped] = []
    skipped: list[Skipped] = []
    out: list[Candidate] = []
    seen: dict[int, str] = {}
    blacklist = facts.kprobe_blacklist
    lines = naive_lines(facts, allow, deny)
    for position in sorted(i for some in lines.values() for i in some):
        refusal = naive_refusal(*facts.ftrace.split(facts.ftrace.lines[position]), at_exit)
        if refusal is not None and refusal not in first[-1:]:
            first.append(refusal)
    for (name, module), positions in lines.items():
        if naive_refusal(name, module, at_exit) is not None:
            continue
        found, unique, why = naive_places(facts, name, module, positions)
        if why is not None:
            skipped.append(why)
        for address in found:
            if address in seen:
                detail = f"{seen[address]} is at the same address"
                skipped.append(Skipped(name, module, Reason.ALIAS, detail))
                continue
            seen[address] = f"{name} [{module}]" if module else name
            btf_id, no = naive_btf(facts, name, module)
            if not unique:
                btf_id, no = None, Reason.AMBIGUOUS
            kprobe = not blacklist or not (name in blacklist or blacklist.covers(address))
            out.append(
                Candidate(name, module, address, btf_id, no_btf=no, unique=unique, kprobe=kprobe)
            )
    return out, first + skipped


def naive_model(btf: Btf, func_id: int) -> Model:
    """The model of a function, from its types as values."""
    func = btf.type(func_id)
    assert isinstance(func, types.Func)
    proto = btf.type(func.type)
    assert isinstance(proto, types.FuncProto)
    obstacle: Reason | None = None
    params = proto.params
    if params and params[-1].type == 0:
        obstacle = Reason.VARIADIC
        params = params[:-1]
    if len(params) > MAX_PARAMS:
        obstacle = obstacle or Reason.TOO_MANY_SLOTS
    slots = pointers = 0
    structs = False
    for param in params:
        kind = btf.type(btf.skip_mods_and_typedefs(param.type))
        size = 8
        if isinstance(kind, types.Ptr):
            pointers |= 1 << slots
        elif isinstance(kind, (types.Struct, types.Union)):
            structs = True
            size = kind.size
            if size > 16:
                obstacle = obstacle or Reason.BIG_STRUCT
        elif isinstance(kind, (types.Int, types.Enum, types.Enum64, types.Float)):
            size = kind.size
            structs |= size > 8  # __int128 may lie on the stack, as a struct may
        slots += (size + 7) // 8
    if slots > MAX_SLOTS:
        obstacle = obstacle or Reason.TOO_MANY_SLOTS
    returns = naive_return(btf, proto.type)
    if returns[0] is Return.STRUCT:
        obstacle = obstacle or Reason.RETURNS_STRUCT
    return Model(slots, *returns, len(params), structs, pointers, obstacle)


def naive_return(btf: Btf, type_id: int) -> tuple[Return, int, bool]:
    """Kind, size and sign of a return value."""
    match btf.type(btf.skip_mods_and_typedefs(type_id)):
        case types.Void():
            return Return.VOID, 0, False
        case types.Ptr():
            return Return.POINTER, 8, False
        case types.Struct() | types.Union() as one:
            return Return.STRUCT, one.size, False
        case types.Int() as one if one.is_bool:
            return Return.BOOL, one.size, False
        case types.Int() as one:
            kind = Return.WIDE if one.size > 8 else Return.INT
            return kind, one.size, one.signed
        case types.Enum() | types.Enum64() as one:
            return Return.ENUM, one.size, one.signed
    return Return.INT, 8, True


# -- random kernels --------------------------------------------------------


@dataclass
class Btfs:
    objects: dict[str, Btf]

    def get(self, module: str) -> Btf | None:
        return self.objects.get(module)


@dataclass
class Facts:
    ftrace: FtraceFunctions
    kallsyms: Kallsyms
    btf: Btfs
    kprobe_blacklist: KprobeBlacklist | None = None
    loaded: dict[str, object] = field(default_factory=dict)


NAMES = [f"f{i}" for i in range(5)]
NAMES += [
    "do_exit",
    "__rcu_read_lock",
    "rcu_read_lock_held",
    "a.isra.0",
]
MODULES = ["", "", "", "mod", "other"]
START = 0xFFFFFFFF81000000
MODEL_TYPES: tuple[types.Type, ...] = (
    types.Int("int", 4, 32, 0, 1),
    types.Int("u64", 8, 64),
    types.Int("bool", 1, 8, 0, 4),
    types.Int("wide", 16, 128, 0, 1),
    types.Ptr(1),
    types.Struct("one", 8),
    types.Struct("two", 16),
    types.Struct("big", 24),
    types.Union("empty", 0),
    types.Enum("e", 4, (), True),
    types.Enum64("e64", 8),
    types.Float("float", 4),
    types.Typedef("td", 5),
    types.Const(6),
    types.Const(0),
    types.Fwd("fwd"),
)


def describe(
    builder: BtfBuilder, prototypes: list[list[int]], functions: list[tuple[str, int]]
) -> None:
    """Append prototypes (return type and parameters), then functions by their numbers."""
    protos = [
        builder.add(
            types.FuncProto(ids[0], tuple([types.Param("p", type_id) for type_id in ids[1:]]))
        )
        for ids in prototypes
    ]
    for name, number in functions:
        builder.add(types.Func(name, protos[number % len(protos)]))


@st.composite
def kernels(draw: DrawFn) -> Facts:
    """A kernel with few names, so that everything that can collide does."""
    places = st.sampled_from([START + 16 * i for i in range(12)])
    symbols = draw(
        st.lists(
            st.builds(
                Symbol,
                st.sampled_from(NAMES),
                places,
                st.sampled_from("TtTtTtTtTtWD"),
                st.sampled_from(MODULES),
            ),
            max_size=16,
        )
    )
    # As the kernel lists them: its own first, by address.
    own = sorted([s for s in symbols if not s.module], key=lambda s: s.addr)
    text = "".join([f"{START - 16:016x} T _text\n"] + [line_of(s) for s in own])
    text += "".join([line_of(s) for s in symbols if s.module])
    there = sorted({(s.name, s.module, s.addr) for s in symbols})
    lines = draw(st.permutations(there))[: draw(st.integers(0, len(there)))] if there else []
    lines += draw(
        st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(MODULES), places), max_size=3)
    )
    with_sites = draw(st.booleans())
    listed = "".join(
        [
            (f"{address + 4 * (address >> 4 & 1):016x} " if with_sites else "")
            + (f"{name} [{module}]\n" if module else f"{name}\n")
            for name, module, address in lines
        ]
    )
    protos = st.lists(
        st.lists(st.integers(0, len(MODEL_TYPES)), min_size=1, max_size=14), min_size=1, max_size=3
    )
    functions = st.lists(st.tuples(st.sampled_from(NAMES[:-1]), st.integers(0, 2)), max_size=12)
    builder = BtfBuilder()
    for one in MODEL_TYPES:
        builder.add(one)
    filler = draw(st.sampled_from([0, 60]))  # more names than are searched for one by one
    many = [(f"g{i}", 0) for i in range(filler)]
    describe(builder, draw(protos), draw(functions) + many)
    kernel = Btf(builder.build())
    module = BtfBuilder(kernel)
    describe(module, draw(protos), draw(functions))
    text += "".join([f"{START + 0x10000 + 16 * i:016x} t g{i}\t[mod]\n" for i in range(filler)])
    listed += "".join(
        [
            (f"{START + 0x10000 + 16 * i:016x} " if with_sites else "") + f"g{i} [mod]\n"
            for i in range(filler)
        ]
    )
    low = draw(places)
    banned = f"{low:#x}-{low + 48:#x}\tsomething\n0x0-0x0\t{draw(st.sampled_from(NAMES))}\n"
    return Facts(
        parse_functions(listed.encode(), with_addresses=with_sites),
        Kallsyms(text),
        Btfs({"": kernel, "mod": Btf(module.build(), base=kernel)}),
        draw(st.sampled_from([None, parse_blacklist(banned.encode())])),
    )


def line_of(symbol: Symbol) -> str:
    """A line of /proc/kallsyms."""
    owner = f"\t[{symbol.module}]" if symbol.module else ""
    return f"{symbol.addr:016x} {symbol.type} {symbol.name}{owner}\n"


globs = st.just(["*"]) | st.lists(
    st.sampled_from(
        ["*", "f*", "f1", "f2", "mod:*", "mod:f?", "vmlinux:*", "*.isra*", "o*:f*", "d*"]
    ),
    min_size=1,
    max_size=4,
)
denies = st.lists(st.sampled_from(["f3", "mod:*", "*_*", "f?"]), max_size=2)


# -- the proofs ------------------------------------------------------------


@settings(max_examples=examples(300))
@given(kernels(), globs, denies, st.booleans(), st.booleans())
def test_columns_find_what_a_walk_over_names_finds(
    facts: Facts, allow: list[str], deny: list[str], at_exit: bool, need_btf: bool
) -> None:
    """Same functions, same reasons, same order, for every kind of glob."""
    found = select(facts, allow, deny=deny, at_exit=at_exit, need_btf=need_btf)  # type: ignore[arg-type]
    candidates, skipped = naive_select(facts, allow, deny, at_exit)
    if need_btf:
        told = {s.label: s for s in found.skipped if s.reason in (Reason.NO_BTF, Reason.AMBIGUOUS)}
        assert all(c.label in told for c in candidates if c.no_btf)
        candidates = [c for c in candidates if not c.no_btf]
    assert list(found.candidates) == candidates
    assert found.candidates == tuple(candidates)
    assert list(found.skipped[: len(skipped)]) == skipped


@given(kernels(), globs, st.booleans())
def test_targets_have_the_models_of_their_functions(
    facts: Facts, asked: list[str], at_exit: bool
) -> None:
    """What is planned with is what each function by itself would be given."""
    targets, skipped = Resolver(facts, live=False).resolve(asked, at_exit=at_exit)  # type: ignore[arg-type]
    candidates, refused = naive_select(facts, asked, [], at_exit)
    assert list(targets) == [
        Target(
            c.name,
            c.module,
            c.address,
            c.btf_id,
            None if c.btf_id is None else naive_model(facts.btf.objects[c.module], c.btf_id),
            c.unique,
            c.kprobe,
        )
        for c in candidates
    ]
    assert skipped[: len(refused)] == refused


@given(kernels(), st.sampled_from(PROGRAMS), st.sampled_from(KERNELS), st.randoms())
def test_a_plan_of_columns_is_the_plan_of_their_targets(
    facts: Facts, program: object, kernel: object, random: object
) -> None:
    """Columns and a caller's own targets, in whatever order, are planned alike."""
    targets, skipped = Resolver(facts, live=False).resolve(["*"], at_exit=True)  # type: ignore[arg-type]
    assert isinstance(targets, Targets)
    shuffled = list(targets)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    plans = [
        make_plan(program, some, kernel, AttachOptions(), skipped)  # type: ignore[arg-type]
        for some in (targets, shuffled, targets[::-1])
    ]
    assert plans[0] == plans[1] == plans[2]
    assert str(plans[0]) == str(plans[1])


@given(st.lists(st.lists(st.integers(0, len(MODEL_TYPES)), min_size=1, max_size=15), max_size=12))
def test_a_model_is_what_its_types_say(prototypes: list[list[int]]) -> None:
    """Numbers of the records give what types as values give; equal models are one object."""
    builder = BtfBuilder()
    for one in MODEL_TYPES:
        builder.add(one)
    describe(builder, prototypes, [(f"f{i}", i) for i in range(len(prototypes))])
    btf = Btf(builder.build())
    models = Models(btf)
    columns = btf.func_columns()
    together = models.of_each(columns.protos)
    known: dict[Model, Model] = {}
    for func_id, proto in zip(columns.ids, columns.protos, strict=True):
        model = models.of_func(func_id)
        assert model == naive_model(btf, func_id)
        assert together[proto] is model is known.setdefault(model, model)


def test_what_is_no_prototype_has_no_model() -> None:
    """One malformed function of thousands is left out; asked for by itself it is an error."""
    builder = BtfBuilder()
    number = builder.add(types.Int("int", 4, 32, 0, 1))
    good = builder.add(types.FuncProto(number, (types.Param("a", number),)))
    btf = Btf(builder.build())
    assert set(Models(btf).of_each([number, good, 99])) == {good}
    with pytest.raises(ValueError, match="no type with id 99"):
        Models(btf).of(99)


@given(st.lists(st.integers(0, 9), max_size=9), st.data())
def test_rows_are_a_sequence_of_targets(rows: list[int], data: st.DataObject) -> None:
    """Made when looked at, they behave as the tuple of what they stand for."""
    targets = Targets.of([Target(f"f{i}", "", 16 * i, i or None) for i in range(10)])
    some = targets.take(rows)
    plain = tuple(targets[i] for i in rows)
    assert some == plain and tuple(some) == plain and hash(some) == hash(plain)
    assert repr(some) == repr(plain) and len(some) == len(plain)
    part = data.draw(st.slices(len(plain)))
    assert some[part] == plain[part]
    assert list(some.addresses) == [t.address for t in plain]
    assert array("I", some.btf_ids) == array("I", [t.btf_id or 0 for t in plain])
    for i in range(-len(plain), len(plain)):
        assert some[i] == plain[i]
    with pytest.raises(IndexError):
        some[len(plain)]


def test_a_look_makes_one_target_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands, one that is looked at costs one object."""
    made: list[int] = []
    targets = Targets.of([Target(f"f{i}") for i in range(50)]).take(range(10, 40))
    monkeypatch.setattr(
        targets, "_make", lambda at, make=targets._make: made.append(at) or make(at)
    )

    def looks() -> Iterator[Target]:
        yield targets[3]
        yield targets[-1]

    assert [t.name for t in looks()] == ["f13", "f39"]
    assert len(made) == 2
