"""Programs read the true values, and every way of attaching attaches."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.features import Feature
from tests.support.require import facts

DATA = Path(__file__).resolve().parents[1] / "data"

# net/bpf/test_run.c: what the kernel calls its test functions with, and their sums.
CALLS = {
    1: ([1], 2),
    2: ([2, 3], 5),
    3: ([4, 5, 6], 15),
    4: ([7, 8, 9, 10], 34),
    5: ([11, 12, 13, 14, 15], 65),
    6: ([16, 17, 18, 19, 20, 21], 111),
}


@pytest.fixture
def args() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "fentry_args.bpf.o", facts=facts()) as obj:
        obj.load()
        yield obj


@pytest.mark.needs(Feature.FENTRY)
def test_fentry_and_fexit_read_the_true_values(args: pybpf.Object) -> None:
    """bpf_fentry_test1..6: every argument at entry and exit, the return value, the address."""
    facts = args.facts
    with args.attach():
        args.programs["entry1"].test_run()
    for number, (values, ret) in CALLS.items():
        entry, leave = args.maps["seen"][number], args.maps["seen"][8 + number]
        padded = values + [0] * (6 - len(values))
        assert list(entry.args) == padded
        assert list(leave.args) == padded
        assert leave.ret == ret
        address = facts.kallsyms.by_name(f"bpf_fentry_test{number}")[0].addr
        assert entry.ip == leave.ip == address
        assert entry.count == leave.count == 1


@pytest.mark.needs(Feature.TRACING_COOKIE)
def test_cookies_of_trampoline_links(args: pybpf.Object) -> None:
    """Each link's own cookie, zero when none was given."""
    entry, leave = args.programs["entry2"], args.programs["exit2"]
    with entry.attach(cookie=0x1122334455667788), leave.attach():
        entry.test_run()
    assert args.maps["seen"][2].cookie == 0x1122334455667788
    assert args.maps["seen"][8 + 2].cookie == 0


def test_detached_program_sees_nothing(args: pybpf.Object) -> None:
    with args.programs["entry1"].attach():
        pass
    args.programs["entry2"].test_run()
    assert args.maps["seen"][1].count == 0


def test_clone_on_another_function(args: pybpf.Object) -> None:
    """A clone runs on its own function and shares the original's maps."""
    # int (int) fits bpf_fentry_test1 only; loading for test6 must be refused for entry6's args.
    with args.programs["entry2"].clone("bpf_fentry_test3") as clone:
        assert clone.loaded
        with clone.attach_tracing():
            clone.test_run()
    seen = args.maps["seen"][2]
    assert list(seen.args)[:2] == [4, 5]
    assert seen.ip == args.facts.kallsyms.by_name("bpf_fentry_test3")[0].addr


def test_reading_a_slot_that_is_not_there_is_a_verifier_error(args: pybpf.Object) -> None:
    """entry6 on a function of one argument: refused, and the log says which argument."""
    with pytest.raises(pybpf.VerifierError) as caught:
        args.programs["entry6"].clone("bpf_fentry_test1").close()
    assert "bpf_fentry_test1" in caught.value.log
    assert caught.value.program == "entry6"
    assert caught.value.summary


def test_unknown_function_names_near_ones(args: pybpf.Object) -> None:
    with pytest.raises(pybpf.BpfError, match=r"bpf_fentry_tes.*near: bpf_fentry_test") as caught:
        args.programs["entry1"].clone("bpf_fentry_tes").close()
    assert caught.value.errno == errno.ESRCH
    assert "program 'entry1' (fentry/bpf_fentry_test1, on bpf_fentry_tes)" in str(caught.value)


def test_an_object_that_attaches_to_nothing_says_which_program() -> None:
    """The error names file, program, section and function, each once."""
    with pybpf.open(DATA / "multi.bpf.o", facts=facts()) as obj:
        for program in obj.programs.values():
            program.autoattach = program.name == "on_exit"
        obj.programs["on_exit"].attach_to = "bpf_fentry_tes"
        obj.load()
        with pytest.raises(pybpf.PlanError) as caught:
            obj.attach()
        text = str(caught.value)
        assert re.search(r"multi\.bpf\.o: program 'on_exit' \(fexit\.multi/\S+\): ", text), text
        assert text.count("bpf_fentry_tes:") == 1 and "bpf_fentry_test" in text, text


def test_core_asserted_in_bpf() -> None:
    """CO-RE against this kernel: the program returns the line of the first check that fails."""
    with pybpf.open(DATA / "core_lines.bpf.o", facts=facts()) as obj:
        obj.load()
        for name in ("on_fentry", "on_sys_enter"):
            obj.globals.line = -1
            with obj.programs[name].attach():
                os.getppid()
                if name == "on_fentry":
                    obj.programs[name].test_run()
            assert obj.globals.line == 0, f"core_lines.bpf.c, line {obj.globals.line}"


@pytest.fixture
def kinds() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "attach_kinds.bpf.o", facts=facts()) as obj:
        obj.globals.my_tgid = os.getpid()
        for program in obj.programs.values():
            program.autoload = False
        obj.load()
        yield obj


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("on_tp", "tp_hits"),
        ("on_kprobe", "kprobe_hits"),
        ("on_kretprobe", "kretprobe_hits"),
        pytest.param("on_multi", "multi_hits", marks=pytest.mark.needs(Feature.KPROBE_MULTI)),
        pytest.param(
            "on_ret_multi", "ret_multi_hits", marks=pytest.mark.needs(Feature.KPROBE_MULTI)
        ),
    ],
)
def test_attach_by_section_with_a_cookie(kinds: pybpf.Object, name: str, variable: str) -> None:
    """The program runs once per getpgid() while attached, with its cookie, and not afterwards."""
    program = kinds.programs[name]
    program.load()
    with program.attach(cookie=0xC00C1E) as link:
        for _ in range(3):
            os.getpgid(0)
        assert link.info().prog_id == program.info().id
    os.getpgid(0)
    hits = getattr(kinds.globals, variable)
    assert (hits.count, hits.cookie) == (3, 0xC00C1E)


@pytest.mark.parametrize(
    ("name", "variable"),
    [("on_ksyscall", "ksyscall_hits"), ("on_kretsyscall", "kretsyscall_hits")],
)
def test_system_calls_by_name(kinds: pybpf.Object, name: str, variable: str) -> None:
    """ksyscall/NAME is the kernel's entry of that system call, whatever it is called there."""
    program = kinds.programs[name]
    program.load()
    with program.attach(cookie=7):
        os.getpgid(0)
        os.getpgid(0)
    os.getpgid(0)
    hits = getattr(kinds.globals, variable)
    assert (hits.count, hits.cookie) == (2, 7)


@pytest.mark.needs(Feature.KPROBE_SESSION)
def test_a_session_runs_at_entry_and_return(kinds: pybpf.Object) -> None:
    """One program of kprobe.session/GLOB runs twice per call, with its cookie."""
    program = kinds.programs["on_session"]
    program.load()
    with program.attach(cookie=9):
        os.getpgid(0)
    os.getpgid(0)
    assert (kinds.globals.session_hits.count, kinds.globals.session_hits.cookie) == (2, 9)


@pytest.mark.parametrize(
    "name",
    [
        *("on_tp", "on_raw_tp", "on_tp_btf", "on_kprobe", "on_kretprobe"),
        pytest.param("on_multi", marks=pytest.mark.needs(Feature.KPROBE_MULTI)),
    ],
)
def test_detach_works_on_every_kind(kinds: pybpf.Object, name: str) -> None:
    """detach() also works without BPF_LINK_DETACH, and on a pinned link."""
    variable = name.removeprefix("on_") + "_hits"
    program = kinds.programs[name]
    program.load()
    pin = Path(f"/sys/fs/bpf/pybpf-{os.getpid()}-{name}")
    for pinned in (False, True):
        link = program.attach()
        if pinned:
            link.pin(pin)
        before = getattr(kinds.globals, variable).count
        os.getpgid(0)
        assert getattr(kinds.globals, variable).count > before
        link.detach()
        after = getattr(kinds.globals, variable).count
        os.getpgid(0)
        assert getattr(kinds.globals, variable).count == after
        assert not link.attached and link.closed and not pin.exists()
        link.detach()


@pytest.mark.needs(Feature.FENTRY)
def test_a_pinned_link_outlives_close_and_is_detached_by_path(args: pybpf.Object) -> None:
    """close() leaves a fexit program attached that is pinned; from_pinned().detach() ends it."""
    pin = Path(f"/sys/fs/bpf/pybpf-{os.getpid()}-exit2")
    program = args.programs["exit2"]
    with program.attach() as link:
        link.pin(pin)
    program.test_run()
    assert args.maps["seen"][8 + 2].count == 1
    pybpf.Link.from_pinned(pin).detach()
    program.test_run()
    assert args.maps["seen"][8 + 2].count == 1 and not pin.exists()


@pytest.mark.needs(Feature.FENTRY)
def test_what_a_multi_link_was_on_stays_readable() -> None:
    """The values stay after detach(), for a report, and .attached becomes False."""
    with pybpf.open(DATA / "multi.bpf.o", facts=facts()) as obj:
        obj.load()
        link = obj.programs["on_exit"].attach_multi(["bpf_fentry_test1", "bpf_fentry_test2"])
        names = [target.name for target in link.targets]
        assert link.attached and len(link) == len(names) == 2
        link.detach()
        assert [target.name for target in link.targets] == names and len(link) == 2
        assert not link.attached and not link.links and link.groups == link.plan.groups


@pytest.mark.parametrize(
    ("attach", "words"),
    [
        (lambda p: p.attach_kprobe("__x64_sys_getpgd"), "ENOENT.*near: .*__x64_sys_getpgid"),
        (
            lambda p: p.attach_tracepoint("syscalls", "sys_enter_getpgd"),
            "near: .*sys_enter_getpgid",
        ),
        (lambda p: p.attach_tracepoint("syscals", "sys_enter_getpgid"), "near: syscalls"),
        (lambda p: p.attach_raw_tp("sched_swich"), "near: sched_switch"),
        (lambda p: p.attach_uprobe("libc.so.6", "getppidd"), "near: getppid"),
    ],
    ids=["kprobe", "event", "category", "raw_tp", "uprobe"],
)
def test_names_that_come_near(
    kinds: pybpf.Object, attach: Callable[[pybpf.Program], pybpf.Link], words: str
) -> None:
    """A misspelt function or event gives one error that suggests near names."""
    program = kinds.programs["on_raw_tp"]
    program.load()
    with pytest.raises(pybpf.BpfError, match=words) as caught:
        attach(program).close()
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("name", "variable"), [("on_raw_tp", "raw_tp_hits"), ("on_tp_btf", "tp_btf_hits")]
)
def test_raw_tracepoints(kinds: pybpf.Object, name: str, variable: str) -> None:
    program = kinds.programs[name]
    program.load()
    with program.attach():
        os.getpgid(0)
    assert getattr(kinds.globals, variable).count >= 1


def test_kretprobe_sees_the_return_value(kinds: pybpf.Object) -> None:
    program = kinds.programs["on_kretprobe"]
    program.load()
    with program.attach():
        expected = os.getpgid(0)
    assert kinds.globals.kretprobe_value == expected


@pytest.mark.needs(Feature.KPROBE_MULTI)
def test_kprobe_multi_by_address_and_by_symbol(kinds: pybpf.Object) -> None:
    """Both forms, a cookie per function; a wrong name fails with the count in the message."""
    program = kinds.programs["on_multi"]
    program.load()
    address = kinds.facts.kallsyms.by_name("__x64_sys_getpgid")[0].addr
    for how in ({"addrs": [address]}, {"syms": ["__x64_sys_getpgid"]}):
        with program.attach_kprobe_multi(cookies=[5], **how):
            os.getpgid(0)
        assert kinds.globals.multi_hits.cookie == 5
    with pytest.raises(pybpf.BpfError, match=r"kprobe\.multi on 1 function\b"):
        program.attach_kprobe_multi(syms=["no_such_function_at_all"])


@pytest.mark.needs(Feature.FMOD_RET)
def test_fmod_ret_decides() -> None:
    """getpgid(PID) fails as fmod_ret decided, and a fexit program sees that value."""
    with pybpf.open(DATA / "fmod_ret.bpf.o", facts=facts()) as obj:
        obj.globals.my_tgid = os.getpid()
        obj.load()
        with (
            obj.programs["on_modify"].attach(cookie=9),
            obj.programs["on_exit"].attach(),
        ):
            os.getpgid(os.getpid())
            assert (obj.globals.seen_ret, obj.globals.runs) == (0, 1)
            obj.globals.decided = -errno.EPERM
            with pytest.raises(PermissionError):
                os.getpgid(os.getpid())
            assert (obj.globals.seen_ret, obj.globals.runs) == (-errno.EPERM, 2)
        assert obj.globals.fmod_cookie == 9
        os.getpgid(os.getpid())


def test_all_or_nothing() -> None:
    """When one program of an object cannot be attached, none stays attached."""
    with pybpf.open(DATA / "fentry_args.bpf.o", facts=facts()) as obj:
        obj.load()
        with obj.programs["exit6"].attach(), pytest.raises(pybpf.BpfError, match="exit6"):
            obj.attach()  # exit6 is on its function already: EBUSY
        obj.programs["entry1"].test_run()
        assert obj.maps["seen"][1].count == 0


@pytest.mark.needs(Feature.FENTRY)
def test_an_iterator_is_read_in_whole_and_again() -> None:
    """Each opening of the link runs the iterator again. It lists this process's threads."""
    with pybpf.open(DATA / "iter_task.bpf.o", facts=facts()) as obj:
        obj.load()
        program = obj.programs["tasks"]
        own = {(int(tid), os.getpid()) for tid in os.listdir("/proc/self/task")}
        with program.attach() as link:
            for chunk in (65536, 4096):
                with link.open() as file:
                    parts = list(iter(lambda: file.read(chunk), b""))  # noqa: B023
                assert all(0 < len(part) <= chunk for part in parts)
                data = b"".join(parts)
                seen = set(struct.iter_unpack("<ii", data))
                assert own <= seen and len(seen) > len(own)
