"""Programs, sections and linkers while modules go and move."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import pybpf
from pybpf import programs
from pybpf._sys.fd import Fd
from pybpf.binding import ProgLoad
from pybpf.errors import BpfError, DeniedByPolicy, StateError, UnsupportedFeature
from pybpf.features import Answer, Support
from pybpf.kernel import funcfind
from pybpf.kernel.host import Facts
from pybpf.kernel.lookup import BtfTarget, KprobePlaces
from pybpf.links import Link, kprobe
from pybpf.obj.linker import Linker, LinkTarget, Resolved
from pybpf.obj.reader import read_object

DATA = Path(__file__).parents[1] / "data"


def descriptor(what: str = "link") -> Fd:
    return Fd(os.open(os.devnull, os.O_RDONLY), what)


class Kernel:
    """Modules with a number; something may happen at each call."""

    def __init__(self) -> None:
        self.numbers = {"red": 5}
        self.calls: list[str] = []
        self.links: list[Link] = []
        self.at: dict[int, Callable[[], None]] = {}
        self.btf = SimpleNamespace(number=self.number)

    def number(self, module: str) -> int:
        return self.numbers.get(module, 0)

    def reload(self) -> None:
        self.numbers["red"] += 1

    def happen(self, what: str) -> None:
        if len(self.calls) in self.at:
            self.at[len(self.calls)]()
        self.calls.append(what)

    def link(self, what: str) -> Link:
        self.happen(what)
        self.links.append(Link(descriptor(what), what))
        return self.links[-1]

    def left(self) -> list[Link]:
        return [link for link in self.links if not link.closed]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    for link in made.left():
        link.close()


# -- a program that was loaded for a function of a module ------------------


@pytest.fixture
def program(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[pybpf.Program]:
    spec = read_object((DATA / "fentry_args.bpf.o").read_bytes()).programs
    one = next(iter(spec.values()))

    def load(program: ProgLoad, *, on_log: object) -> Fd:
        kernel.happen("load")
        return descriptor("program")

    binding: Any = SimpleNamespace(
        facts=kernel, relocated=lambda name: ProgLoad(name, b""), load=load
    )
    monkeypatch.setattr(programs.links, "attach_tracing", lambda *args, **more: kernel.link("link"))
    made = pybpf.Program(one, binding)
    monkeypatch.setattr(
        made, "_target", lambda attach_to: BtfTarget(7, "red", kernel.number("red"))
    )
    yield made
    made.close()


def test_a_module_that_stays(kernel: Kernel, program: pybpf.Program) -> None:
    program.load()
    with program.attach_tracing() as link:
        assert kernel.left() == [link]


@pytest.mark.parametrize("call", [0, 1], ids=["while loading", "while linking"])
def test_a_module_that_is_loaded_anew_meanwhile(
    kernel: Kernel, program: pybpf.Program, call: int
) -> None:
    """The error says what to do, and no link and no program stays."""
    kernel.at[call] = kernel.reload
    with pytest.raises(BpfError, match=r"module 'red'.*reloaded after.*load the object again"):
        program.load()
        program.attach_tracing()
    assert kernel.left() == []
    assert program.loaded == (call == 1)


def test_a_module_that_was_loaded_anew_before_attaching(
    kernel: Kernel, program: pybpf.Program
) -> None:
    """On 6.1 the kernel would take the address that it found when the program was loaded."""
    program.load()
    kernel.reload()
    with pytest.raises(BpfError, match="module 'red'"):
        program.attach_tracing()
    with pytest.raises(BpfError, match="module 'red'"):
        program.attach()
    assert kernel.calls == ["load"]


# -- kprobe.multi/GLOB -----------------------------------------------------


class Moment:
    """Stands for facts: which time module red was loaded."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.red = kernel.number("red")
        self.loaded = self
        self.is_saved = False
        self.probes = SimpleNamespace(answer=lambda feature: Answer(Support.SUPPORTED))

    def current(self) -> Moment:
        return self if self.red == self.kernel.number("red") else Moment(self.kernel)

    def lost(self, modules: Iterable[str]) -> set[str]:
        moved = self.red != self.kernel.number("red")
        return {"red"} & set(modules) if moved else set()


@pytest.fixture
def request_(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Any:
    def places(facts: Moment, glob: str) -> KprobePlaces:
        return KprobePlaces((0x1000 * facts.red,), frozenset({"", "red"}))

    monkeypatch.setattr(kprobe, "kprobe_places", places)
    monkeypatch.setattr(
        kprobe,
        "attach_kprobe_multi",
        lambda program, *, addrs, **more: kernel.link(f"{addrs[0]:#x}"),
    )
    return SimpleNamespace(
        program=None,
        target="*",
        what="kprobe.multi/*",
        retprobe=False,
        cookie=0,
        attach_type=0,
        facts=Moment(kernel),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_a_glob_is_looked_up_again(kernel: Kernel, request_: Any, fails: bool) -> None:
    """Whether the kernel took the old addresses or refused them."""

    def change() -> None:
        kernel.reload()
        if fails:
            kernel.calls.append("refused")
            raise BpfError(errno.EINVAL, "no such place")

    kernel.at[0] = change
    link = kprobe.multi_by_section(request_)
    assert link.what == "0x6000" and kernel.left() == [link]


def test_a_glob_is_not_looked_up_for_ever(kernel: Kernel, request_: Any) -> None:
    kernel.at = dict.fromkeys(range(100), kernel.reload)
    with pytest.raises(BpfError, match=r"modules were unloaded or loaded again each time \(red\)"):
        kprobe.multi_by_section(request_)
    assert kernel.left() == []


class Asked:
    """Stand in for the kernel's look-up by name, which knows only some of the functions."""

    known: ClassVar = {"one": 0x7000}
    closed = 0

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *exc: object) -> None:
        Asked.closed += 1

    def find(self, name: str) -> int | None:
        return self.known.get(name)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The globs that were looked up in tables."""
    looked_up: list[str] = []
    inner = kprobe.kprobe_places

    def places(facts: Any, glob: str) -> KprobePlaces:
        looked_up.append(glob)
        return inner(facts, glob)

    monkeypatch.setattr(kprobe, "kprobe_places", places)
    monkeypatch.setattr(funcfind, "FunctionFinder", Asked)
    return looked_up


@pytest.mark.parametrize("name", ["one", "vmlinux:one", "one [vmlinux]"])
def test_one_name_needs_no_tables(request_: Any, asked: list[str], name: str) -> None:
    """The kernel is asked where it is, and no list is read."""
    request_.target = name
    before = Asked.closed
    assert kprobe.multi_by_section(request_).what == "0x7000"
    assert asked == [] and Asked.closed == before + 1


@pytest.mark.parametrize("glob", ["on*", "red:one", "re?:one", "two"])
def test_what_only_tables_tell(request_: Any, asked: list[str], glob: str) -> None:
    """Globs, functions of modules, and names of which the kernel does not tell."""
    request_.target = glob
    assert kprobe.multi_by_section(request_).what == "0x5000"
    assert asked == [glob]


@pytest.mark.parametrize("error", [BpfError(errno.EPERM, "test"), FileNotFoundError()])
def test_without_an_answer_the_tables_are_read(
    request_: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """No rights, an older kernel, no /sys."""

    def refuse() -> None:
        raise error

    monkeypatch.setattr(funcfind, "FunctionFinder", refuse)
    request_.target = "one"
    assert kprobe.multi_by_section(request_).what == "0x5000"
    assert asked == ["one"]


def test_saved_facts_are_not_asked_about(request_: Any, asked: list[str]) -> None:
    request_.target, request_.facts.is_saved = "one", True
    assert kprobe.multi_by_section(request_).what == "0x5000"


def test_the_tables_say_why_a_name_is_refused(
    kernel: Kernel, request_: Any, asked: list[str]
) -> None:
    """ftrace does not trace it: the link is refused, and the error is that of the tables."""

    def refuse() -> None:
        kernel.calls.append("refused")
        raise BpfError(errno.EINVAL, "no such place")

    def untraced(facts: Any, glob: str) -> KprobePlaces:
        raise BpfError(errno.ENOENT, "no traceable kernel function matches 'one'")

    kernel.at[0] = refuse
    request_.target = "one"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BpfError) as caught:
        patch.setattr(kprobe, "kprobe_places", untraced)
        kprobe.multi_by_section(request_)
    assert "no traceable" in str(caught.value) and "no such place" in str(caught.value.__cause__)
    assert kernel.left() == []
    assert kprobe.multi_by_section(request_).what == "0x7000"


@pytest.mark.parametrize("glob", ["on*", "red:one", "two"])
@pytest.mark.parametrize(
    "error", [BpfError(errno.ENOENT, "nothing matches"), DeniedByPolicy(errno.EPERM, "hidden")]
)
def test_a_kernel_without_the_links_says_so_first(
    request_: Any, monkeypatch: pytest.MonkeyPatch, glob: str, error: BpfError
) -> None:
    """Neither another name nor another right would help there. Unknown is not no."""

    def refuse(facts: Any, glob: str) -> KprobePlaces:
        raise error

    monkeypatch.setattr(kprobe, "kprobe_places", refuse)
    request_.target = glob
    for support in Support:
        answer = Answer(support, "EOPNOTSUPP")
        request_.facts.probes = SimpleNamespace(answer=lambda feature, answer=answer: answer)
        with pytest.raises(BpfError) as caught:
            kprobe.multi_by_section(request_)
        if support is Support.UNSUPPORTED:
            assert isinstance(caught.value, UnsupportedFeature)
            assert "CONFIG_FPROBE" in str(caught.value) and caught.value.__cause__ is error
        else:
            assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        StateError("the program is closed"),
        UnsupportedFeature("kprobe.multi", "5.18"),
        DeniedByPolicy(errno.EPERM, "a link", "lockdown"),
    ],
)
def test_tables_are_not_asked_about_other_refusals(
    kernel: Kernel, request_: Any, asked: list[str], error: BpfError
) -> None:
    """They know nothing of closed programs, other kernels and missing rights."""

    def refuse() -> None:
        kernel.calls.append("refused")
        raise error

    kernel.at[0] = refuse
    request_.target = "one"
    with pytest.raises(type(error)) as caught:
        kprobe.multi_by_section(request_)
    assert caught.value is error and asked == []


# -- what was linked -------------------------------------------------------


def test_what_a_linker_depends_on() -> None:
    """Addresses, modules' types, and names that were not there: a module may bring them."""
    spec = read_object((DATA / "obj_externs.bpf.o").read_bytes())
    linker = Linker(spec, LinkTarget())
    assert not linker.depends_on_modules
    for found, depends in [
        (Resolved(btf_id=3), False),
        (Resolved(btf_id=3, module="red"), True),
        (Resolved(address=0x1000), True),
        (None, True),
    ]:
        linker._resolved = {0: Resolved(btf_id=1), 1: found}
        assert linker.depends_on_modules is depends


def test_programs_are_linked_again_when_modules_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was found in modules; the rest is linked once."""
    facts = Facts()
    later = Facts()
    now = [facts]
    monkeypatch.setattr(Facts, "current", lambda self: now[0])
    linked: list[str] = []

    class Made(Linker):
        depends_on_modules = True  # type: ignore[assignment]

        def link(self, name: str) -> Any:
            linked.append(name)
            return f"code of {name}"

    monkeypatch.setattr("pybpf.binding.Linker", Made)
    monkeypatch.setattr(type(facts.btf), "vmlinux", lambda self: None)
    with pybpf.open(DATA / "obj_externs.bpf.o", facts=facts) as obj:
        binding = obj.binding
        assert binding.linked("a") == binding.linked("a") == "code of a"
        now[0] = later
        assert binding.linked("a") == "code of a"
        assert obj.facts is later and binding.linked("a")
        assert linked == ["a", "a"]
        Made.depends_on_modules = False  # type: ignore[assignment]
        now[0] = Facts()
        binding.linked("a")
        assert linked == ["a", "a"]


def test_modules_of_an_object_are_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor of a module's BTF is the loaded one's, and the former is closed."""
    opened: list[Fd] = []

    def fd(self: object, name: str) -> Fd:
        opened.append(descriptor(f"BTF {len(opened)}"))
        return opened[-1]

    from pybpf.kernel.btf import KernelBtf

    monkeypatch.setattr(KernelBtf, "fd", fd)
    current = [5]
    monkeypatch.setattr(KernelBtf, "number", lambda self, name: current[0])
    with pybpf.open(DATA / "fentry_args.bpf.o") as obj:
        first = obj.binding.module_fd("red")
        assert obj.binding.module_fd("red") == first and len(opened) == 1
        current[0] = 6
        obj.binding.module_fd("red")
        assert [one.closed for one in opened] == [True, False]
    assert all(one.closed for one in opened)
