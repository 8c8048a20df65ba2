"""Exact names are found by asking about each, and give what the tables would give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.errors import BpfError, PlanError
from pybpf.kernel import funcfind
from pybpf.kernel.host import Facts
from pybpf.multi import programs as multi
from pybpf.multi.asking import Asking, may_ask
from pybpf.multi.options import AttachOptions
from pybpf.multi.programs import MultiPrograms
from pybpf.multi.select import select
from tests.support.savedfacts import saved_facts

OPTIONS = AttachOptions(mechanism="kprobe_multi")


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.from_json(saved_facts())


class Tableless:
    """Facts whose tables must not be read."""

    def __init__(self, facts: Facts) -> None:
        self.btf, self.kprobe_blacklist = facts.btf, facts.kprobe_blacklist

    @property
    def ftrace(self) -> Any:
        raise AssertionError("the list of traceable functions was read")

    @property
    def kallsyms(self) -> Any:
        raise AssertionError("the symbols were read")


def plain_names(facts: Facts) -> dict[str, int]:
    """Functions of which the kernel's answers are certain: by the tables, with their addresses."""
    found = {}
    for line in facts.ftrace.lines:
        symbols = facts.kallsyms.by_name(line)
        if len(symbols) == 1 and len(facts.kallsyms.at(symbols[0].addr)) == 1:
            found[line] = symbols[0].addr
    return found


def test_answers_give_the_same_selection_without_tables(facts: Facts) -> None:
    """Of one name or several, in any order: equal to the last field."""
    known = plain_names(facts)
    allowed = [n for n in known if select(facts, [n], at_exit=True).candidates]
    assert len(allowed) > 40
    for names in (*([n] for n in allowed), allowed[:20], allowed[20:0:-1], ["vmlinux:vfs_read"]):
        expected = select(facts, names, at_exit=True)
        answered = select(Tableless(facts), names, at_exit=True, ask=known.get)  # type: ignore[arg-type]
        assert list(answered.candidates) == list(expected.candidates)
        assert answered == expected
    both = select(Tableless(facts), allowed[:2], entry=allowed[:1], ask=known.get)  # type: ignore[arg-type]
    assert both == select(facts, allowed[:2], entry=allowed[:1])


@pytest.mark.parametrize(
    ("allow", "deny"),
    [(["vfs_*"], []), (["vfs_read"], ["*"]), (["vfs_read", "no_such"], []), (["kvm:vfs_read"], [])],
)
def test_other_questions_are_for_the_tables(
    facts: Facts, allow: list[str], deny: list[str]
) -> None:
    """Globs, denied names, a name without an answer, functions of modules."""
    known = plain_names(facts)
    answered = select(facts, allow, deny=deny, ask=known.get)
    assert answered == select(facts, allow, deny=deny)
    with pytest.raises(AssertionError, match="was read"):
        select(Tableless(facts), allow, deny=deny, ask=known.get)  # type: ignore[arg-type]


def test_a_name_that_is_never_traced_is_for_the_tables(facts: Facts) -> None:
    """The reason is the same as ever, whatever the kernel would answer."""
    for name in ("do_exit", "migrate_disable", "__rcu_read_lock"):
        assert select(facts, [name], at_exit=True, ask=lambda _: 4096) == select(
            facts, [name], at_exit=True
        )


@pytest.mark.parametrize(
    ("options", "may"),
    [
        ({"mechanism": "kprobe_multi"}, True),
        ({"mechanism": "auto"}, False),
        ({"mechanism": ("kprobe_multi", "kprobe")}, False),
        ({"mechanism": "kprobe_multi", "planned": print}, False),
        ({"mechanism": "kprobe_multi", "progress": print}, False),
    ],
)
def test_only_links_that_the_kernel_checks(options: dict[str, Any], may: bool) -> None:
    assert may_ask(AttachOptions(**options)) is may


class Finder:
    """What the kernel knows."""

    closed = 0

    def find(self, name: str) -> int | None:
        if name == "error":
            raise BpfError(1, "test")
        return {"a": 1, "b": 2}.get(name)

    def close(self) -> None:
        Finder.closed += 1


def test_one_name_without_an_answer_ends_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the finder is made when first needed, and closed."""
    for names, answers, answered in (
        ("ab", [1, 2], True),
        (["a", "x", "b"], [1, None, None], False),
        (["error"], [None], False),
        ([], [], False),
    ):
        monkeypatch.setattr(funcfind, "FunctionFinder", Finder)
        Finder.closed = 0
        with Asking() as asking:
            assert [asking(name) for name in names] == answers
            assert asking.answered is answered
        assert Finder.closed == bool(names)


@pytest.mark.parametrize("error", [BpfError(22, "too old"), PermissionError(13, "/sys")])
def test_a_kernel_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(funcfind, "FunctionFinder", refuse)
    with Asking() as asking:
        assert asking("a") is None and not asking.answered


class Attached:
    """A link, and how it was asked for."""

    def __init__(self, by: str, skipped: tuple[str, ...] = ()) -> None:
        self.by, self.skipped, self.closed = by, skipped, False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("name", "first", "by"),
    [
        ("a", None, "answers"),
        ("a", PlanError("refused"), "tables"),
        ("a", BpfError(22, "refused"), "tables"),
        ("a", Attached("answers", ("one",)), "tables"),
        ("x", Attached("answers", ("one",)), "answers"),
        ("x", PlanError("as the tables say"), "error"),
    ],
)
def test_what_is_refused_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, name: str, first: Any, by: str
) -> None:
    """A refusal of functions that were not looked up in the tables is not the last word; one of
    those that were is."""
    made: list[Attached] = []

    def attach(
        self: object, program: object, wanted: Any, options: object, cookie: object, ask: Any = None
    ) -> Attached:
        if ask is None:
            return Attached("tables")
        ask(wanted)
        if isinstance(first, Exception):
            raise first
        made.append(first or Attached("answers"))
        return made[-1]

    monkeypatch.setattr(multi.MultiPrograms, "_attach", attach)
    monkeypatch.setattr(funcfind, "FunctionFinder", Finder)
    binding: Any = SimpleNamespace(
        prepare=lambda: None, forgetting=[], facts=SimpleNamespace(is_saved=False)
    )
    program: Any = SimpleNamespace(name="p", section="fentry.multi/x")
    attaching = MultiPrograms(binding)
    if by == "error":
        with pytest.raises(PlanError, match=r"^program 'p' \(fentry\.multi/x\): as the tables say"):
            attaching.attach(program, name, OPTIONS)
        return
    link: Any = attaching.attach(program, name, OPTIONS)
    assert link.by == by and not link.closed
    assert all(one.closed for one in made if one is not link)
