"""Programs of an object, without a kernel: how they are run and attached, and what errors say."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pybpf
from pybpf import programs
from pybpf._sys import link as sys_link
from pybpf._sys import perf
from pybpf._sys.fd import Fd
from pybpf._uapi.enums import AttachType, ProgType
from pybpf.errors import BpfError
from pybpf.kernel import lookup
from pybpf.kernel.host import Facts
from pybpf.obj.sections import find
from tests.support.savedfacts import saved_facts

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.from_json(saved_facts())


@pytest.fixture
def kinds(facts: Facts) -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "attach_kinds.bpf.o", facts=facts) as obj:
        for program in obj.programs.values():
            program._fd = Fd(os.open(os.devnull, os.O_RDONLY), "program")
        yield obj


def test_test_run_takes_three_arguments_by_position(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data, ctx, repeat: the documented signature."""
    seen: dict[str, Any] = {}

    def run(fd: Fd, **how: Any) -> SimpleNamespace:
        seen.update(how)
        return SimpleNamespace(retval=0, duration=0, data_out=b"", ctx_out=b"")

    monkeypatch.setattr(programs.sys_prog, "prog_test_run", run)
    kinds.programs["on_tp"].test_run(b"data", b"ctx", 7)
    assert (seen["data_in"], seen["ctx_in"], seen["repeat"]) == (b"data", b"ctx", 7)


def refuse(*args: object, **how: object) -> None:
    raise BpfError(errno.EBUSY, "BPF_SOMETHING")


@pytest.fixture
def refusing(kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch) -> pybpf.Object:
    """Every link, perf event and run is refused."""
    for module, start in ((sys_link, ("link_create", "raw_tracepoint_open")), (perf, "open_")):
        for name in [n for n in vars(module) if n.startswith(start)]:
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(programs.sys_prog, "prog_test_run", refuse)
    return kinds


NAMES = ["on_tp", "on_raw_tp", "on_tp_btf", "on_kprobe", "on_kretprobe", "on_multi", "on_ret_multi"]


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_attach_names_program_and_section(refusing: pybpf.Object, name: str) -> None:
    """By its section, whatever it is and wherever it fails; once."""
    program = refusing.programs[name]
    with pytest.raises(BpfError) as caught:
        program.attach()
    assert str(caught.value).startswith(f"program {name!r} ({program.section}): ")
    assert str(caught.value).count(name) == 1


WAYS: dict[str, Callable[[pybpf.Program], object]] = {
    "test_run": lambda p: p.test_run(),
    "tracing": lambda p: p.attach_tracing(),
    "kprobe": lambda p: p.attach_kprobe("f"),
    "kprobe_multi": lambda p: p.attach_kprobe_multi(syms=["f"]),
    "tracepoint": lambda p: p.attach_tracepoint("a", "b"),
    "raw_tp": lambda p: p.attach_raw_tp("a"),
    "uprobe": lambda p: p.attach_uprobe("/bin/true", 0),
    "uprobe by symbol": lambda p: p.attach_uprobe("libc.so.6", "malloc"),
    "xdp": lambda p: p.attach_xdp("lo"),
    "cgroup": lambda p: p.attach_cgroup(3),
    "netns": lambda p: p.attach_netns("/proc/self/ns/net"),
}


@pytest.mark.parametrize("way", WAYS)
def test_so_does_each_way_of_its_own(refusing: pybpf.Object, way: str) -> None:
    """attach_*() and test_run()."""
    with pytest.raises(BpfError) as caught:
        WAYS[way](refusing.programs["on_raw_tp"])
    text = str(caught.value)
    assert text.startswith("program 'on_raw_tp' (raw_tp/sys_enter): ")
    assert text.count("on_raw_tp") == 1 and "BPF_SOMETHING: EBUSY" in text


def test_a_clone_names_its_own_function_too(refusing: pybpf.Object) -> None:
    """Of many clones of one section, which one it was."""
    program = refusing.programs["on_tp_btf"]
    program.attach_to = "sys_exit"
    with pytest.raises(BpfError, match=r"program 'on_tp_btf' \(tp_btf/sys_enter, on sys_exit\): "):
        program.attach()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("kprobe", r"names no target.*call attach_kprobe\(function\), or write kprobe/FUNCTION"),
        ("kprobe/a b", "is not FUNCTION"),
        ("tp/sched", r"'sched' is not CATEGORY/NAME.*write tp/CATEGORY/NAME"),
        ("uprobe/libc.so.6", "is not BINARY:FUNCTION"),
        ("usdt/a:b", "'a:b' is not BINARY:PROVIDER:NAME"),
        ("uprobe.multi/a", "'a' is not BINARY:GLOB"),
        ("xdp", r"section 'xdp' does not say where to attach.*call attach_xdp\(interface\)"),
        ("cgroup_skb/egress", r"call attach_cgroup\(path_or_fd\)"),
        ("lsm_cgroup/socket_bind", r"call attach_cgroup\(path_or_fd\)"),
        ("sk_lookup", r"call attach_netns\(path_or_fd\)"),
        ("syscall", r"call test_run\(\)"),
        ("fexit.multi", r"call attach_multi\(functions\), or write fexit.multi/GLOB"),
        ("pybpf_unknown/x", r"libbpf has no such section name"),
    ],
)
def test_sections_that_cannot_be_attached_by(
    refusing: pybpf.Object, section: str, words: str
) -> None:
    """One error, which names the method to call where there is one."""
    program = become(refusing.programs["on_kprobe"], section)
    with pytest.raises(BpfError, match=words) as caught:
        program.attach()
    assert str(caught.value).startswith(f"program 'on_kprobe' ({section}): ")


def become(program: pybpf.Program, section: str) -> pybpf.Program:
    """The same program as if its source had SEC(section)."""
    known = find(section)
    kind = (known.type, known.attach_type) if known is not None else (0, 0)
    target = section.partition("/")[2] if known is None or known.takes_extra else ""
    program._spec = replace(
        program.spec,
        section=section,
        attach_to=target,
        sec_def=known,
        autoattach=known is not None and known.auto,
    )
    program.type, program.expected_attach_type = kind
    program.attach_to, program.autoattach = target, program.spec.autoattach
    return program


def only(obj: pybpf.Object, *sections: str) -> pybpf.Object:
    """The same object as if it had only these programs."""
    for number, program in enumerate(obj.programs.values()):
        program.autoload = number < len(sections)
        if program.autoload:
            become(program, sections[number])
    return obj


def test_an_object_that_says_nowhere_where_to_attach_is_told_so(refusing: pybpf.Object) -> None:
    """Not an empty set of links: each program with what to call."""
    with pytest.raises(BpfError, match="no section says where") as caught:
        only(refusing, "xdp", "uprobe", "tc").attach()
    text = str(caught.value)
    assert "on_tp: call attach_xdp(interface)" in text
    assert "on_raw_tp: call attach_uprobe(binary, symbol_or_offset)" in text
    assert "on_tp_btf: call attach_tcx(interface, direction) or attach_tc(" in text


def test_what_is_left_to_the_caller_is_named(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is attached; a program that was turned off is not mentioned."""
    monkeypatch.setattr(sys_link, "raw_tracepoint_open", lambda *args, **how: null())
    monkeypatch.setattr(sys_link, "link_detach", unsupported)
    obj = only(kinds, "raw_tp/sys_enter", "xdp", "uprobe")
    obj.programs["on_tp_btf"].autoattach = False
    with obj.attach() as links:
        assert list(links) == ["on_tp"] and links.attached
        assert links.by_hand == {"on_raw_tp": "call attach_xdp(interface)"}
        links.detach()
        assert list(links) == ["on_tp"] and not links.attached


def test_a_program_turned_on_by_hand_fails_and_undoes_the_rest(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """autoattach = True on an XDP program: the caller is told, and nothing stays attached."""
    made: list[Fd] = []

    def link(*args: object, **how: object) -> Fd:
        made.append(null())
        return made[-1]

    monkeypatch.setattr(sys_link, "raw_tracepoint_open", link)
    obj = only(kinds, "raw_tp/sys_enter", "xdp")
    obj.programs["on_raw_tp"].autoattach = True
    with pytest.raises(BpfError, match=r"'on_raw_tp' \(xdp\).*call attach_xdp"):
        obj.attach()
    assert [fd.closed for fd in made] == [True]


def unsupported(*args: object) -> None:
    raise BpfError(errno.EOPNOTSUPP, "BPF_LINK_DETACH")


def null() -> Fd:
    return Fd(os.open(os.devnull, os.O_RDONLY), "link")


def test_types_set_by_hand_decide_how_it_is_attached(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program whose section libbpf does not know, with its types assigned."""
    seen: list[int] = []

    def link(fd: object, attach_type: int, **how: object) -> Fd:
        seen.append(attach_type)
        return null()

    monkeypatch.setattr(sys_link, "link_create_tracing", link)
    program = become(kinds.programs["on_tp_btf"], "mine/vfs_read")
    program.type = ProgType.BPF_PROG_TYPE_TRACING
    program.expected_attach_type = AttachType.BPF_TRACE_FENTRY
    program.attach().close()
    assert seen == [AttachType.BPF_TRACE_FENTRY]


WRONG: dict[str, tuple[type[Exception], str, Callable[[pybpf.Program], object]]] = {
    "interface": (BpfError, "'loo'.*near: lo|there are: .*lo", lambda p: p.attach_xdp("loo")),
    "index": (BpfError, "index 999999.*ENODEV", lambda p: p.attach_xdp(999999)),
    "huge index": (BpfError, "ENODEV", lambda p: p.attach_xdp(1 << 70)),
    "interface type": (TypeError, "its name or index", lambda p: p.attach_xdp(None)),  # type: ignore[arg-type]
    "mode": (ValueError, "'native'", lambda p: p.attach_xdp("lo", mode="drv")),
    "cgroup": (BpfError, "ENOENT.*near: self", lambda p: p.attach_cgroup("/proc/selff")),
    "cgroup file": (BpfError, "not a directory", lambda p: p.attach_cgroup("/proc/version")),
    "cgroup type": (TypeError, "a path or a descriptor", lambda p: p.attach_cgroup(1.5)),  # type: ignore[arg-type]
    "netns": (BpfError, "ENOENT.*near: net", lambda p: p.attach_netns("/proc/self/ns/nett")),
    "netns type": (TypeError, "a path or a descriptor", lambda p: p.attach_netns(None)),  # type: ignore[arg-type]
    "library": (BpfError, "ENOENT.*near: libc", lambda p: p.attach_uprobe("libcc.so.6", "malloc")),
    "program": (BpfError, "program 'no_such_x'", lambda p: p.attach_uprobe("no_such_x", "main")),
    "path": (BpfError, "ENOENT", lambda p: p.attach_uprobe("/no/such", "main")),
    "symbol": (BpfError, "near: malloc", lambda p: p.attach_uprobe("libc.so.6", "mallocc")),
    "offset": (BpfError, "the file has", lambda p: p.attach_uprobe("libc.so.6", 1 << 60)),
    "return inside": (
        BpfError,
        "a whole function",
        lambda p: p.attach_uprobe("libc.so.6", "malloc+4", retprobe=True),
    ),
    "not ELF": (
        pybpf.ObjectFormatError,
        "cannot hold|not an ELF",
        lambda p: p.attach_uprobe("/etc/passwd", "main"),
    ),
    "symbol type": (TypeError, "symbol_or_offset", lambda p: p.attach_uprobe("libc.so.6", None)),  # type: ignore[arg-type]
    "binary type": (TypeError, "binary", lambda p: p.attach_uprobe(b"/bin/sh", "main")),  # type: ignore[arg-type]
    "function type": (TypeError, "address=", lambda p: p.attach_kprobe(0xFFFF)),  # type: ignore[arg-type]
    "no function": (BpfError, "name of a function", lambda p: p.attach_kprobe()),
    "event type": (TypeError, "category", lambda p: p.attach_tracepoint(1, "x")),  # type: ignore[arg-type]
    "raw event type": (TypeError, "name of a tracepoint", lambda p: p.attach_raw_tp(3)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_name_or_type_is_one_clear_error(kinds: pybpf.Object, what: str) -> None:
    """Of the library's errors, or TypeError; it names what was given and what comes near."""
    kind, words, way = WRONG[what]
    with pytest.raises(kind, match=words):
        way(kinds.programs["on_raw_tp"])


def test_advice_that_cannot_be_had_hides_no_error(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without BTF or the right to read names the error is the kernel's, without near names."""

    def unknown(*args: object, **how: object) -> Fd:
        raise BpfError(errno.ENOENT, "BPF_SOMETHING")

    def unreadable(*args: object) -> Iterator[str]:
        raise pybpf.UnsupportedFeature("BTF")
        yield ""

    monkeypatch.setattr(sys_link, "raw_tracepoint_open", unknown)
    monkeypatch.setattr(lookup, "raw_tracepoint_names", unreadable)
    with pytest.raises(BpfError, match="ENOENT") as caught:
        kinds.programs["on_raw_tp"].attach_raw_tp("sched_swich")
    assert not caught.value.hint and "BPF_SOMETHING" in str(caught.value)


def test_a_program_of_another_kind_is_told_how_it_is_attached(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel answers EINVAL; for a program of the right kind that means something else."""

    def wrong(*args: object, **how: object) -> Fd:
        raise BpfError(errno.EINVAL, "BPF_LINK_CREATE")

    monkeypatch.setattr(sys_link, "link_create_generic", wrong)
    program = kinds.programs["on_kprobe"]
    with pytest.raises(BpfError, match=r"kprobe/__x64_sys_getpgid': call attach_kprobe\("):
        program.attach_xdp("lo")
    with pytest.raises(BpfError) as caught:
        become(program, "xdp").attach_xdp("lo")
    assert not caught.value.hint


@pytest.mark.parametrize(
    ("name", "attach", "near"),
    [
        ("kprobe", lambda p: p.attach_kprobe("bpf_fentry_tst1"), "bpf_fentry_test1"),
        ("raw_tp", lambda p: p.attach_raw_tp("sched_swich"), "sched_switch"),
    ],
)
def test_an_unknown_function_or_event_suggests_near_names(
    kinds: pybpf.Object,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    attach: Callable[[pybpf.Program], object],
    near: str,
) -> None:
    """The kernel says ENOENT; kallsyms and BTF know what was perhaps meant."""

    def unknown(*args: object, **how: object) -> Fd:
        raise BpfError(errno.ENOENT, "BPF_SOMETHING")

    monkeypatch.setattr(perf, "open_kprobe", unknown)
    monkeypatch.setattr(sys_link, "raw_tracepoint_open", unknown)
    with pytest.raises(BpfError, match=f"near: .*{near}"):
        attach(kinds.programs["on_raw_tp"])


@pytest.mark.parametrize(
    ("code", "how", "says"),
    [
        (errno.EADDRNOTAVAIL, {}, "several functions have this name: give the address"),
        (errno.EILSEQ, {"offset": 1}, "no instruction starts at this offset"),
        (errno.EINVAL, {}, "the kernel allows no kprobe at this place"),
        (errno.EINVAL, {"offset": 4, "retprobe": True}, "its offset is 0"),
        (errno.ENOMEM, {}, ""),
    ],
)
def test_a_place_that_cannot_be_probed(
    kinds: pybpf.Object,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    how: dict[str, Any],
    says: str,
) -> None:
    """The kernel's errno alone does not tell what is wrong with the place."""

    def refuse(*args: object, **more: object) -> Fd:
        raise BpfError(code, "perf_event_open")

    monkeypatch.setattr(perf, "open_kprobe", refuse)
    with pytest.raises(BpfError) as caught:
        kinds.programs["on_raw_tp"].attach_kprobe("m_start", **how)
    assert caught.value.errno == code and says in caught.value.hint
    assert bool(caught.value.hint) == bool(says)
