"""Which functions globs mean: patterns, the join of the sources, every reason to skip."""

from __future__ import annotations

import fnmatch
from array import array
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.btf.decode import FuncColumns
from pybpf.errors import DeniedByPolicy, PlanError
from pybpf.kernel.ftrace import (
    FtraceFunctions,
    KprobeBlacklist,
    parse_blacklist,
    parse_functions,
)
from pybpf.kernel.globs import Matcher, parse_pattern
from pybpf.kernel.kallsyms import Kallsyms
from pybpf.kernel.lookup import near_names
from pybpf.multi.denylist import DENY, NORETURN, denied, never_returns
from pybpf.multi.join import matched
from pybpf.multi.reasons import Reason, Skipped
from pybpf.multi.select import Selection, at_address, select, split_address

FTRACE = b"""\
vfs_read
vfs_write
vfs_readlink
do_sys_openat2
do_exit
migrate_disable
__rcu_read_lock
p_start
p_start
q_start
__do_sys_getegid16
twice_in_btf
same_proto
foo.isra.0
ghost
kvm_init [kvm]
p_start [kvm]
"""

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81000100 T vfs_read
ffffffff81000200 T vfs_write
ffffffff81000300 T vfs_readlink
ffffffff81000400 t do_sys_openat2
ffffffff81000500 T do_exit
ffffffff81000600 T migrate_disable
ffffffff81000700 T __rcu_read_lock
ffffffff81000800 t p_start
ffffffff81000900 t p_start
ffffffff81000a00 t q_start
ffffffff81000b00 t q_start
ffffffff81000c00 t __do_sys_getegid16
ffffffff81000c00 T __x64_sys_getegid16
ffffffff81000d00 t twice_in_btf
ffffffff81000e00 t same_proto
ffffffff81000f00 t foo.isra.0
ffffffff81001000 T __noinstr_text_start
ffffffff81001010 t quiet
ffffffff81002000 T __noinstr_text_end
ffffffff81003000 T hidden_by_notrace
ffffffffc0a00000 t kvm_init\t[kvm]
ffffffffc0a00080 t p_start\t[kvm]
"""


class FakeBtf:
    """FUNCs by (name, proto); ids count from 10, like the real object's interface."""

    start_id = 1

    def __init__(self, funcs: list[tuple[str, int]]) -> None:
        self.table = [(10 + i, name, proto) for i, (name, proto) in enumerate(funcs)]

    def funcs_named(self, names: list[str]) -> FuncColumns:
        ids, own, protos = zip(*self.table, strict=True)
        return FuncColumns(array("I", ids), list(own), array("I", protos))

    def names(self) -> dict[str, list[int]]:
        return {name: self.find_all(name) for _, name, _ in self.table}

    def find_all(self, name: str, kind: int | None = None) -> list[int]:
        return [i for i, n, _ in self.table if n == name]

    def find(self, name: str, kind: int | None = None) -> int | None:
        return next(iter(self.find_all(name)), None)

    def has_tag(self, name: str) -> bool:
        return bool(self.find_all(name))

    def type(self, type_id: int) -> object:
        @dataclass
        class Func:
            type: int

        return Func(self.table[type_id - 10][2])


class FakeBtfs:
    def __init__(self, objects: dict[str, FakeBtf]) -> None:
        self.objects = objects

    def get(self, module: str) -> FakeBtf | None:
        return self.objects.get(module)


BTF = FakeBtfs(
    {
        "": FakeBtf(
            [
                ("vfs_read", 1),
                ("vfs_write", 1),
                ("vfs_readlink", 2),
                ("do_sys_openat2", 3),
                ("do_exit", 4),
                ("migrate_disable", 5),
                ("p_start", 6),
                ("twice_in_btf", 6),
                ("twice_in_btf", 7),
                ("same_proto", 8),
                ("same_proto", 8),
                ("inlined_everywhere", 8),
                ("__x64_sys_getegid16", 9),
                ("__do_sys_getegid16", 9),
            ]
        )
    }
)


@dataclass
class Facts:
    ftrace: FtraceFunctions = field(default_factory=lambda: parse_functions(FTRACE))
    kallsyms: Kallsyms = field(default_factory=lambda: Kallsyms(KALLSYMS))
    btf: FakeBtfs = field(default_factory=lambda: BTF)
    kprobe_blacklist: KprobeBlacklist | None = None


def pick(*allow: str, **kw: object) -> Selection:
    facts = kw.pop("facts", Facts())
    return select(facts, allow, **kw)  # type: ignore[arg-type]


def names(selection: Selection) -> list[str]:
    return [c.label for c in selection.candidates]


def the_skip(selection: Selection) -> Skipped:
    (skipped,) = selection.skipped
    return skipped


# -- patterns --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "module"),
    [
        ("vfs_*", "vfs_*", None),
        ("  vfs_read ", "vfs_read", None),
        ("p_start [kvm]", "p_start", "kvm"),
        ("*[kvm*]", "*", "kvm*"),
        ("kvm:p_*", "p_*", "kvm"),
        ("vmlinux:p_*", "p_*", "vmlinux"),
        ("*", "*", None),
        ("foo.isra.?", "foo.isra.?", None),
    ],
)
def test_pattern_forms(text: str, name: str, module: str | None) -> None:
    pattern = parse_pattern(text)
    assert (pattern.name, pattern.module) == (name, module)


@pytest.mark.parametrize(
    "text",
    ["", " ", "**", "** [kvm]", "a [b", "a]", "[kvm]", "a []", ":fs/*.c", "a:", "a b", "a:b:c"],
)
def test_malformed_patterns(text: str) -> None:
    with pytest.raises(PlanError, match="not a function glob"):
        parse_pattern(text)


lines = st.tuples(
    st.text("ab_.", min_size=1, max_size=5), st.sampled_from(["", "kvm", "kvm_intel", "vmlinuz"])
)
globs = st.text("ab_.*?", min_size=1, max_size=5).filter(lambda g: g != "**")


@given(
    st.lists(st.tuples(globs, st.sampled_from([None, "kvm", "kvm*", "vmlinux", "*"])), max_size=4),
    st.lists(lines, max_size=8),
)
def test_joined_patterns_mean_what_fnmatch_says(
    patterns: list[tuple[str, str | None]], functions: list[tuple[str, str]]
) -> None:
    """The one joined expression agrees with matching each part by itself."""
    texts = [f"{n} [{m}]" if m else n for n, m in functions]
    parsed = [parse_pattern(g if m is None else f"{g} [{m}]") for g, m in patterns]
    expected = {
        i
        for i, (name, module) in enumerate(functions)
        for glob, modglob in patterns
        if fnmatch.fnmatchcase(name, glob)
        and (modglob is None or fnmatch.fnmatchcase(module or "vmlinux", modglob))
    }
    matcher = Matcher(parsed)
    assert matcher.positions(FtraceFunctions(tuple(texts))) == expected
    assert {i for i, text in enumerate(texts) if matcher.matches(text)} == expected
    # Neither is the list split for globs whose beginning is known.
    fresh = parse_functions("".join([f"{text}\n" for text in texts]).encode())
    assert list(matched(fresh, [], parsed).lines) == [texts[i] for i in sorted(expected)]
    if parsed and matcher.beginnings:
        assert fresh._columns is None


def test_exact_names_with_modules_need_no_regex() -> None:
    """Thousands of `NAME [MODULE]` lines, as ftrace's list has them, are looked up one by one."""
    lines = tuple(f"f{i % 3000}" + (f" [m{i % 7}]" if i % 2 else "") for i in range(20_000))
    asked = {"f1 [m9]", "f7 [vmlinux]", *lines[1:8001:4]}
    matcher = Matcher([parse_pattern(text) for text in sorted(asked)])
    assert matcher._regex is None
    meant = {*asked, "f7"}
    wanted = {i for i, line in enumerate(lines) if line in meant}
    assert matcher.positions(FtraceFunctions(lines)) == wanted
    assert all(matcher.matches(line) == (i in wanted) for i, line in enumerate(lines))


# -- what is taken ---------------------------------------------------------


def test_a_glob_takes_functions_with_address_and_btf_id() -> None:
    selection = pick("vfs_*")
    assert names(selection) == ["vfs_read", "vfs_write", "vfs_readlink"]
    first = selection.candidates[0]
    assert (first.address, first.btf_id, first.no_btf) == (0xFFFFFFFF81000100, 10, None)
    assert first.unique
    assert not first.entry
    assert selection.skipped == selection.unmatched == selection.excluded == ()


def test_question_mark_is_one_character() -> None:
    assert names(pick("vfs_rea?")) == ["vfs_read"]


def test_globs_match_whole_names_and_case() -> None:
    assert names(pick("fs_read")) == []
    assert names(pick("VFS_*")) == []


def test_deny_wins_over_allow_and_entry() -> None:
    """What the user's deny globs take out is listed apart."""
    selection = pick("vfs_*", entry=["vfs_read"], deny=["*read*"])
    assert names(selection) == ["vfs_write"]
    assert selection.excluded == ("vfs_read", "vfs_readlink")
    assert [u.pattern for u in selection.unmatched] == ["vfs_read"]
    assert "deny glob" in selection.unmatched[0].detail


def test_entry_globs_select_and_mark() -> None:
    selection = pick("vfs_write", entry=["vfs_read*"])
    assert [(c.name, c.entry) for c in selection.candidates] == [
        ("vfs_read", True),
        ("vfs_write", False),
        ("vfs_readlink", True),
    ]


def test_modules_are_matched_too_unless_told_otherwise() -> None:
    """No module part means kernel and modules; `vmlinux` means the kernel itself."""
    assert names(pick("kvm_*")) == ["kvm_init [kvm]"]
    assert names(pick("p_start [kvm]")) == ["p_start [kvm]"]
    assert names(pick("kvm:*")) == ["kvm_init [kvm]", "p_start [kvm]"]
    assert [c.address for c in pick("p_start").candidates] == [
        0xFFFFFFFF81000800,
        0xFFFFFFFF81000900,
        0xFFFFFFFFC0A00080,
    ]
    assert len(pick("vmlinux:p_start").candidates) == 2


def test_statics_of_one_name_are_for_addresses_only() -> None:
    """Two traceable functions of a name: both can be had by address, neither by BTF id."""
    found = pick("vmlinux:p_start").candidates
    assert [(c.unique, c.btf_id, c.no_btf) for c in found] == [
        (False, None, Reason.AMBIGUOUS),
        (False, None, Reason.AMBIGUOUS),
    ]
    assert pick("p_start [kvm]").candidates[0].unique


def test_a_prototype_of_a_shared_name_needs_a_btf_that_leaves_out_the_others() -> None:
    """What a tag of pahole 1.28 shows: before, prototypes that differ could count as equal."""
    before = [c.proto for c in pick("vmlinux:p_start").candidates]
    assert before == [0, 0]
    older = FakeBtf([("p_start", 6), ("vfs_read", 1), ("bpf_kfunc", 0)])
    found = pick("vmlinux:p_start", facts=Facts(btf=FakeBtfs({"": older}))).candidates
    assert [c.proto for c in found] == [0, 0]
    tagged = FakeBtf([("p_start", 6), ("vfs_read", 1), ("bpf_fastcall", 0)])
    found = pick("vmlinux:p_start", facts=Facts(btf=FakeBtfs({"": tagged}))).candidates
    assert [(c.unique, c.btf_id, c.proto) for c in found] == [(False, None, 6)] * 2
    (one,) = pick("vfs_read", facts=Facts(btf=FakeBtfs({"": tagged}))).candidates
    assert (one.btf_id, one.proto) == (11, 0)
    twice = FakeBtf([("p_start", 6), ("p_start", 7), ("bpf_fastcall", 0)])
    found = pick("vmlinux:p_start", facts=Facts(btf=FakeBtfs({"": twice}))).candidates
    assert [c.proto for c in found] == [0, 0]


def test_when_counts_differ_nobody_knows_which() -> None:
    """Two addresses and one traceable place: skipped, with both numbers."""
    skipped = the_skip(pick("q_*"))
    assert skipped.reason is Reason.AMBIGUOUS
    assert "2 addresses, 1" in skipped.detail


def test_call_sites_tell_which_one_is_traceable() -> None:
    """With ftrace's addresses (6.5) the traceable one of two is found."""
    sites = FtraceFunctions(("q_start",), (0xFFFFFFFF81000B04,))
    (found,) = pick("q_start", facts=Facts(ftrace=sites)).candidates
    assert found.address == 0xFFFFFFFF81000B00
    assert not found.unique


def test_a_site_that_is_nobodys_is_skipped() -> None:
    sites = FtraceFunctions(("vfs_read",), (0xFFFFFFFF81000150,))
    assert the_skip(pick("vfs_read", facts=Facts(ftrace=sites))).reason is Reason.AMBIGUOUS


def test_no_address_twice() -> None:
    """Should ftrace ever name two aliases, the second is skipped: 7.3 crashes on such a link."""
    both = parse_functions(b"__do_sys_getegid16\n__x64_sys_getegid16\n")
    selection = pick("*getegid16", facts=Facts(ftrace=both))
    assert names(selection) == ["__do_sys_getegid16"]
    assert the_skip(selection).reason is Reason.ALIAS


def test_two_prototypes_in_btf_mean_no_id() -> None:
    (found,) = pick("twice_in_btf").candidates
    assert (found.btf_id, found.no_btf) == (None, Reason.AMBIGUOUS)
    (same,) = pick("same_proto").candidates
    assert same.btf_id == 19


def test_need_btf_turns_them_into_skips() -> None:
    selection = pick("foo.isra.0", "vfs_read", "vmlinux:p_start", need_btf=True)
    assert names(selection) == ["vfs_read"]
    assert [(s.name, s.reason) for s in selection.skipped] == [
        ("p_start", Reason.AMBIGUOUS),
        ("p_start", Reason.AMBIGUOUS),
        ("foo.isra.0", Reason.NO_BTF),
    ]
    assert all("kprobe.multi" in s.hint for s in selection.skipped)


def test_many_functions_give_the_same_ids_as_few() -> None:
    """The bulk pass over BTF and the single searches agree."""
    count = 60
    text = "".join(f"ffffffff8100{i:04x} T f{i}\n" for i in range(0, count * 16, 16))
    functions = [f"f{i}" for i in range(0, count * 16, 16)]
    btf = FakeBtfs({"": FakeBtf([(name, 1) for name in functions[1:]])})
    facts = Facts(parse_functions("\n".join(functions).encode()), Kallsyms(text), btf)
    many = {c.name: c.btf_id for c in pick("*", facts=facts).candidates}
    few = {n: pick(n, facts=facts).candidates[0].btf_id for n in functions}
    assert many == few
    assert many["f0"] is None


def test_kprobe_blacklist_marks_by_name_and_address() -> None:
    text = b"0xffffffff81000200-0xffffffff81000210\tsomething\n0x0-0x0\tvfs_read\n"
    facts = Facts(kprobe_blacklist=parse_blacklist(text))
    assert [(c.name, c.kprobe) for c in pick("vfs_*", facts=facts).candidates] == [
        ("vfs_read", False),
        ("vfs_write", False),
        ("vfs_readlink", True),
    ]


# -- what is not, and why --------------------------------------------------


@pytest.mark.parametrize("name", ["migrate_disable", "__rcu_read_lock"])
def test_denied_functions(name: str) -> None:
    """Our own list holds on every kernel, also where the kernel would accept and hang."""
    selection = pick(name)
    assert names(selection) == []
    assert the_skip(selection).reason is Reason.DENIED


def test_noreturn_only_matters_at_exit() -> None:
    assert names(pick("do_exit")) == ["do_exit"]
    assert the_skip(pick("do_exit", at_exit=True)).reason is Reason.NORETURN


def test_listed_by_ftrace_unknown_to_kallsyms() -> None:
    assert the_skip(pick("ghost")).reason is Reason.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "reason", "text"),
    [
        ("__x64_sys_getegid16", Reason.ALIAS, "use __do_sys_getegid16"),
        ("quiet", Reason.NOT_TRACEABLE, "noinstr"),
        ("hidden_by_notrace", Reason.NOT_TRACEABLE, ""),
        ("foo", Reason.NO_BTF, "foo.isra.0"),
        ("inlined_everywhere", Reason.NOT_FOUND, "inlined"),
        ("vfs_raed", Reason.NOT_FOUND, "perhaps vfs_read"),
        ("no_such_thing_at_all", Reason.NOT_FOUND, ""),
        ("kvm_init [ext4]", Reason.NOT_FOUND, "in kvm"),
        ("__bpf_tramp_enter", Reason.DENIED, "recursion"),
    ],
)
def test_a_name_that_cannot_be_had_is_explained(name: str, reason: Reason, text: str) -> None:
    """A literal name is always accounted for: skipped with a reason, and named as unmatched."""
    selection = pick(name)
    skipped = the_skip(selection)
    assert skipped.reason is reason
    assert text in str(skipped)
    assert [u.pattern for u in selection.unmatched] == [name]
    assert text in selection.unmatched[0].detail
    assert selection.unmatched[0].skipped


def test_a_glob_without_matches_offers_near_names() -> None:
    selection = pick("vfs_raed*")
    assert selection.skipped == ()
    (unmatched,) = selection.unmatched
    assert "vfs_read" in str(unmatched)


def test_a_glob_that_matches_only_denied_functions_says_so() -> None:
    selection = pick("migrate_*")
    assert "must not be traced" in selection.unmatched[0].detail


HIDDEN = Kallsyms("".join("0" * 16 + line[16:] for line in KALLSYMS.splitlines(True)))


def test_globs_need_addresses() -> None:
    with pytest.raises(DeniedByPolicy, match=r"exact names do not: .*kptr_restrict"):
        pick("vfs_*", facts=Facts(kallsyms=HIDDEN))


def test_names_are_found_where_addresses_are_hidden() -> None:
    """By BTF alone: id and prototype as ever, no address; denied and unknown ones skipped."""
    names = ("vfs_read", "vfs_raed", "migrate_disable", "p_start", "do_exit")
    shown, hidden = (
        pick(*names, at_exit=True),
        pick(*names, facts=Facts(kallsyms=HIDDEN), at_exit=True),
    )
    (one,) = [c for c in hidden.candidates if c.name == "vfs_read"]
    (same,) = [c for c in shown.candidates if c.name == "vfs_read"]
    assert one == replace(same, address=0) and one.btf_id
    reasons = {s.name: s.reason for s in hidden.skipped}
    assert reasons["migrate_disable"] is Reason.DENIED
    assert reasons["do_exit"] is Reason.NORETURN
    assert reasons["vfs_raed"] is Reason.NOT_FOUND
    assert {c.name for c in hidden.candidates} | set(reasons) == set(names)


@given(
    st.lists(st.sampled_from(["vfs_*", "p_start", "q_*", "*", "do_exit", "foo*", "kvm:*", "nix"])),
    st.lists(st.sampled_from(["vfs_*", "*read", "p_start [kvm]", "*"]), max_size=2),
    st.lists(st.sampled_from(["*write", "p_*", "nix"]), max_size=2),
    st.booleans(),
    st.booleans(),
)
def test_everything_asked_for_is_accounted_for_once(
    allow: list[str], entry: list[str], deny: list[str], at_exit: bool, need_btf: bool
) -> None:
    """Each matched line is a candidate, a skip or excluded; no address comes twice."""
    facts = Facts()
    selection = select(facts, allow, entry=entry, deny=deny, at_exit=at_exit, need_btf=need_btf)
    wanted = Matcher([parse_pattern(p) for p in [*allow, *entry]]).positions(facts.ftrace)
    asked = {facts.ftrace.lines[i] for i in wanted}
    found = {c.label for c in selection.candidates}
    skipped = {s.label for s in selection.skipped}
    excluded = set(selection.excluded)
    assert asked <= found | skipped | excluded
    assert not found & excluded
    addrs = [c.address for c in selection.candidates]
    assert len(addrs) == len(set(addrs))
    again = select(
        facts, allow[::-1], entry=entry[::-1], deny=deny[::-1], at_exit=at_exit, need_btf=need_btf
    )
    assert again.candidates == selection.candidates
    for pattern in {u.pattern for u in selection.unmatched}:
        assert not any(Matcher([parse_pattern(pattern)]).matches(label) for label in found)


# -- the lists -------------------------------------------------------------


def test_deny_list_covers_what_each_kernel_denies() -> None:
    """A superset of the kernels' own lists (6.1, 6.12, 7.3, and those behind debug options)."""
    for name in (
        "migrate_disable",
        "migrate_enable",
        "___migrate_enable",
        "rcu_read_unlock_strict",
        "preempt_count_add",
        "preempt_count_sub",
        "__rcu_read_lock",
        "__rcu_read_unlock",
        "__bpf_prog_enter_sleepable_recur",
        "__bpf_tramp_exit",
    ):
        assert denied(name), name
    for name in ("vfs_read", "rcu_read", "preempt_count", "migrate", "__bpf_prog_run"):
        assert denied(name) is None, name
    assert all(rule.why and rule.source for rule in DENY)


def test_noreturn_list_covers_the_kernels() -> None:
    for name in (
        "__ia32_sys_exit",
        "__ia32_sys_exit_group",
        "__module_put_and_kthread_exit",
        "__x64_sys_exit",
        "__x64_sys_exit_group",
        "do_exit",
        "do_group_exit",
        "kthread_complete_and_exit",
        "kthread_exit",
        "make_task_dead",
        "__kunit_abort",
        "kunit_try_catch_throw",
    ):
        assert never_returns(name)
    assert not never_returns("exit_mm")
    assert all(" " not in name for name in NORETURN)


def test_a_function_that_was_renamed() -> None:
    """The names that share its longest word; first those where most of them lie."""
    table = [f"function_{number}" for number in range(1000)]
    table[100], table[102], table[300], table[500] = "a_rmdir", "b_rmdir", "c_rmdir", "x_rmdirs"
    table[700:704] = ["vfs_rmdir", "lookup_it", "filename_rmdir", "__x64_sys_rmdir"]
    assert near_names("do_rmdir", table) == ["vfs_rmdir", "filename_rmdir", "__x64_sys_rmdir"]
    assert near_names("do_rmdir", ["fat_rmdir", "other"]) == ["fat_rmdir"]
    assert near_names("do_it_to_me", table) == []


def test_near_names_are_quick_and_few() -> None:
    table = [f"function_{i}" for i in range(20000)] + ["tcp_v4_connect", "tcp_v6_connect"]
    assert near_names("tcp_v4_conect", table)[0] == "tcp_v4_connect"
    assert len(near_names("function_1", table)) <= 3
    assert near_names("ab", table) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("p_start", ("p_start", None)),
        ("p_start@0xffffffff81000900", ("p_start", 0xFFFFFFFF81000900)),
        ("p_start@ffffffff81000900", ("p_start", 0xFFFFFFFF81000900)),
        ("kvm:p_start@0x10", ("kvm:p_start", 0x10)),
        ("p_start@0x10 [kvm]", ("p_start [kvm]", 0x10)),
    ],
)
def test_a_name_with_an_address(text: str, wanted: tuple[str, int | None]) -> None:
    assert split_address(text) == wanted


@pytest.mark.parametrize("text", ["p_start@here", "p_start@", "p_*@0x10", "k*:p_start@0x10"])
def test_not_a_name_with_an_address(text: str) -> None:
    with pytest.raises(PlanError, match="address"):
        split_address(text)


def test_the_address_tells_functions_of_one_name_apart() -> None:
    """Where ftrace knows which it has (p_start) and where it does not (q_start)."""
    asked = [("p_start", 0xFFFFFFFF81000900), ("q_start", 0xFFFFFFFF81000B00)]
    asked += [("kvm:p_start", 0xFFFFFFFFC0A00080), ("vfs_read", 0xFFFFFFFF81000100)]
    found, skipped = at_address(Facts(), asked)
    assert skipped == []
    assert [(c.name, c.module, c.address, c.unique) for c in found] == [
        ("p_start", "", 0xFFFFFFFF81000900, False),
        ("q_start", "", 0xFFFFFFFF81000B00, False),
        ("p_start", "kvm", 0xFFFFFFFFC0A00080, True),
        ("vfs_read", "", 0xFFFFFFFF81000100, True),
    ]
    assert [c.btf_id for c in found[:2]] == [None, None]


def test_the_wrong_address_is_a_reason() -> None:
    """Never another function; and ours to refuse stays refused."""
    asked = [("p_start", 0x1000), ("__rcu_read_lock", 0xFFFFFFFF81000700), ("vfs_raed", 0x1)]
    found, (lost, denied_, unknown) = at_address(Facts(), asked)
    assert found == []
    assert lost.reason is Reason.NOT_FOUND and lost.address == 0x1000
    assert "0xffffffff81000800, 0xffffffff81000900" in lost.hint
    assert denied_.reason is Reason.DENIED
    assert (unknown.name, unknown.reason) == ("vfs_raed", Reason.NOT_FOUND)
