"""On every kernel row, probes give the known answers and selection agrees with the kernel."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pybpf
from pybpf._sys import bpf as sys_bpf
from pybpf._sys import link as sys_link
from pybpf._sys import perf as sys_perf
from pybpf._sys import prog as sys_prog
from pybpf._uapi.enums import AttachType, ProgType
from pybpf.asm import insn as asm
from pybpf.btf import BtfKind
from pybpf.errors import BpfError, PlanError, UnsupportedFeature
from pybpf.features import Feature, Support
from pybpf.kernel.btffind import BtfFinder
from pybpf.kernel.funcfind import FunctionFinder
from pybpf.kernel.host import Facts
from pybpf.kernel.lookup import BtfTarget, KprobePlaces, asked_place, kprobe_places
from pybpf.links import kprobe
from pybpf.multi.candidates import Candidate
from pybpf.multi.reasons import Reason
from pybpf.multi.select import Selection, select
from pybpf.trampoline.model import Models
from tests.support import rows

ROOT = Path(__file__).resolve().parents[2]
RETURN_0 = asm.encode([asm.mov(0, 0), asm.exit_()])


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts()


@pytest.fixture(scope="module")
def everything(facts: Facts) -> Selection:
    """All functions of the kernel, selected for a program at exit."""
    return select(facts, ["*"], at_exit=True)


def test_probes_say_what_is_known_of_the_row(facts: Facts, kernel_row: str) -> None:
    """Exactly the features that vagrant/rows.json calls missing are missing; none is denied."""
    unsupported = {f.value for f, a in facts.features.items() if a.support is Support.UNSUPPORTED}
    denied = {f.value for f, a in facts.features.items() if a.support is Support.DENIED}
    assert facts.probes.inconclusive == {}
    assert denied == set()
    assert unsupported == rows.lacks(kernel_row)


def test_no_feature_is_missed_on_a_newer_kernel(facts: Facts, kernel_row: str) -> None:
    """A "no" on a kernel at or above `since` is an error of the probe, with known exceptions.

    Debian's 6.1 is built without CONFIG_FPROBE, and nothing there may be traced asleep.
    """

    def number(release: str) -> tuple[int, ...]:
        return tuple(int(n) for n in release.split(".")[:2])

    running = number(facts.release)
    wrong = {f.value for f, a in facts.features.items() if not a.ok and number(f.since) <= running}
    assert wrong == ({"kprobe.multi", "fentry.s"} if kernel_row == "6.1" else set())
    early = {f.value for f, a in facts.features.items() if a.ok and number(f.since) > running}
    assert early == set()


@pytest.mark.long
def test_calibration(facts: Facts) -> None:
    """Every mechanism the kernel has is measured, with plausible times."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/features.py"), "--json", "--calibrate"],
        capture_output=True,
        text=True,
        check=True,
    )
    costs = {cost["mechanism"]: cost for cost in json.loads(done.stdout)["costs"]}
    expected = {
        "trampoline": Feature.FENTRY,
        "tracing_multi": Feature.TRACING_MULTI,
        "kprobe_multi": Feature.KPROBE_MULTI,
        "kprobe": Feature.KPROBE,
    }
    assert set(costs) == {name for name, feature in expected.items() if facts.supports(feature)}
    for cost in costs.values():
        assert cost["load"] > 0
        assert cost["link"] + cost["attach"] > 0
        assert cost["detach"] + cost["detach_link"] > 0
    # What the planner is built on: many functions in one link are far cheaper.
    for name in {"tracing_multi", "kprobe_multi"} & set(costs):
        assert costs[name]["attach"] < costs["trampoline"]["attach"] / 4


# -- selection against the kernel ------------------------------------------


def _load(kind: ProgType, **more: int) -> sys_bpf.Fd:
    return sys_prog.prog_load(kind, RETURN_0, name="pybpf_select", **more)


@pytest.mark.needs("kprobe.multi")
def test_what_is_selected_can_be_attached_to(everything: Selection) -> None:
    """Ten thousand candidates from all over the kernel, by address, in one link: none refused."""
    candidates = everything.candidates
    assert len(candidates) > 35_000
    addrs = [c.address for c in candidates[:: len(candidates) // 10_000]]
    with (
        _load(
            ProgType.BPF_PROG_TYPE_KPROBE, expected_attach_type=AttachType.BPF_TRACE_KPROBE_MULTI
        ) as program,
        sys_link.link_create_kprobe_multi(program, addrs=addrs) as link,
    ):
        assert sys_bpf.link_info(link).count == len(addrs)


@pytest.mark.needs("tracing_multi.info")
def test_ids_lead_to_the_selected_addresses(facts: Facts) -> None:
    """The kernel resolves each candidate's BTF id to the address selection gave it."""
    models = Models(facts.btf.vmlinux())
    candidates = [
        c
        for c in select(facts, ["vfs_*", "tcp_v4_*"]).candidates
        if c.btf_id and models.of_func(c.btf_id).obstacle is None
    ]
    assert len(candidates) > 60
    attach = AttachType.BPF_TRACE_FENTRY_MULTI
    by_id: dict[int | None, Candidate] = {c.btf_id: c for c in candidates}
    with (
        _load(ProgType.BPF_PROG_TYPE_TRACING, expected_attach_type=attach) as program,
        sys_link.link_create_tracing_multi(
            program, attach, [c.btf_id for c in candidates if c.btf_id]
        ) as link,
    ):
        info = sys_bpf.link_info(link)
    assert set(info.ids) == set(by_id)
    for btf_id, addr in zip(info.ids, info.addrs, strict=True):
        assert addr - by_id[btf_id].address in (0, 4), by_id[btf_id].name


def test_the_kprobe_mark_is_what_the_kernel_says(everything: Selection) -> None:
    """Perf kprobes open where a candidate says so and are refused where it does not."""
    candidates = everything.candidates
    refused = [c for c in candidates if not c.kprobe]
    assert refused
    for candidate in refused[:: max(len(refused) // 8, 1)]:
        with pytest.raises(BpfError) as caught:
            sys_perf.open_kprobe(None, candidate.address).close()
        assert caught.value.errno == errno.EINVAL, candidate.name
    good = [c for c in candidates if c.kprobe]
    for candidate in good[:: len(good) // 8]:
        sys_perf.open_kprobe(None, candidate.address).close()


def test_ambiguous_names_are_ambiguous_for_the_kernel(facts: Facts, everything: Selection) -> None:
    """A name that selection marks as not unique is refused by name; its address is not."""
    twice = [c for c in everything.candidates if not c.unique and c.kprobe]
    assert len(twice) > 50
    tried = 0
    for candidate in twice[:: len(twice) // 5]:
        names = [s for s in facts.kallsyms.by_name(candidate.name) if s.is_function]
        if len({s.addr for s in names}) < 2:
            continue  # a variable has the name too: kprobes look for functions only
        with pytest.raises(BpfError) as caught:
            sys_perf.open_kprobe(candidate.name).close()
        assert caught.value.errno == errno.EADDRNOTAVAIL, candidate.name
        sys_perf.open_kprobe(None, candidate.address).close()
        tried += 1
    assert tried >= 3


def test_aliases_share_a_trampoline(facts: Facts) -> None:
    """The alias that selection refuses really is the other function's address."""
    selection = select(facts, ["__x64_sys_getegid16"], at_exit=True)
    (skipped,) = selection.skipped
    assert skipped.reason is Reason.ALIAS
    listed = skipped.hint.removeprefix("use ")
    (found,) = select(facts, [listed]).candidates
    assert found.address in {s.addr for s in facts.kallsyms.by_name("__x64_sys_getegid16")}


def test_selection_everywhere(facts: Facts, everything: Selection) -> None:
    """All functions at once: every line of ftrace is accounted for."""
    selection = everything
    assert len(selection.candidates) + len(selection.skipped) >= len(facts.ftrace.names())
    assert len({c.address for c in selection.candidates}) == len(selection.candidates)
    reasons = {s.reason for s in selection.skipped}
    assert {Reason.DENIED, Reason.NORETURN} <= reasons
    assert (Reason.AMBIGUOUS in reasons) == (facts.ftrace.sites is None)


def test_facts_carry_selection_to_another_machine(facts: Facts, tmp_path: Path) -> None:
    """Saved facts have the same features, symbols and types, and select the same candidates."""
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts.to_json()))
    assert os.path.getsize(path) < 12_000_000
    loaded = Facts.from_json(json.loads(path.read_bytes()))
    assert loaded.features == facts.features
    assert loaded.kallsyms.text == facts.kallsyms.text
    assert loaded.btf.vmlinux().raw == facts.btf.vmlinux().raw
    globs = ["vfs_*", "*_sys_getegid16", "p_*", "do_exit"]
    assert select(loaded, globs) == select(facts, globs)


# -- modules ---------------------------------------------------------------


@pytest.fixture(scope="module")
def with_modules() -> Facts:
    """Facts of the kernel after two modules were loaded."""
    for module in ("nf_conntrack", "dummy"):
        subprocess.run(["modprobe", module], check=True, capture_output=True)
    return Facts()


def test_modules_in_every_source(with_modules: Facts) -> None:
    """kallsyms, ftrace, BTF and the kernel's objects all know the loaded modules."""
    facts = with_modules
    loaded = {"nf_conntrack", "dummy"}
    assert loaded <= set(facts.modules)
    assert loaded <= set(facts.btf.modules())
    assert loaded <= set(facts.ftrace.modules())
    assert loaded <= {s.module for s in facts.kallsyms if s.is_function}
    (symbol,) = facts.kallsyms.by_name("nf_conntrack_in")
    assert symbol.module == "nf_conntrack"
    found = facts.kallsyms.lookup(symbol.addr + 8)
    assert found is not None
    assert (found[0].name, found[1]) == ("nf_conntrack_in", 8)


def test_module_functions_are_selected(with_modules: Facts) -> None:
    """By either spelling; ids are those of the module's BTF, which continues vmlinux's."""
    facts = with_modules
    found = select(facts, ["nf_conntrack:nf_ct_*"])
    assert len(found.candidates) > 20
    assert found == select(facts, ["nf_ct_* [nf_conntrack]"])
    btf = facts.btf.get("nf_conntrack")
    assert btf is not None
    for candidate in found.candidates:
        assert candidate.module == "nf_conntrack"
        if candidate.btf_id is not None:
            assert candidate.btf_id >= btf.start_id
            assert btf.name(candidate.btf_id) == candidate.name
    assert select(facts, ["vmlinux:nf_conntrack_in"]).skipped[0].reason is Reason.NOT_FOUND


def test_the_kernel_finds_functions_of_modules(with_modules: Facts) -> None:
    """The id and the module's name, without reading any BTF; the descriptor it gave is closed."""
    btf = with_modules.btf.get("nf_conntrack")
    assert btf is not None
    with BtfFinder() as finder:
        found = finder.find("nf_conntrack_in", BtfKind.FUNC)
        assert found == BtfTarget(btf.find("nf_conntrack_in", BtfKind.FUNC) or 0, "nf_conntrack")
        assert finder.find("vfs_read", BtfKind.FUNC) == BtfTarget(
            with_modules.btf.vmlinux().find("vfs_read", BtfKind.FUNC) or 0
        )


@pytest.mark.first_on("6.1", "latest")
def test_the_kernel_answers_for_functions_what_its_tables_say(with_modules: Facts) -> None:
    """An address is given only of a function that selection finds by name, and nowhere else.

    Symbols of all kinds are asked about: static functions that share a name, aliases, data,
    functions of modules, and functions that nobody can trace.
    """
    facts = with_modules
    every = [symbol.name for symbol in facts.kallsyms]
    listed = [facts.ftrace.split(line)[0] for line in facts.ftrace.lines]
    names = [*every[::421], *listed[::193], "vfs_read", "name_show", "no_such_function", "x" * 127]
    traceable = set(listed)
    try:
        finder = FunctionFinder()
    except UnsupportedFeature:
        pytest.skip("this kernel does not count the symbols of a name")
    with finder:
        answers = {name: finder.find(name) for name in dict.fromkeys(names)}
    assert sum(map(bool, answers.values())) > len(listed[::193]) // 2
    assert answers["name_show"] is answers["no_such_function"] is answers["x" * 127] is None
    for name, address in answers.items():
        symbols = facts.kallsyms.by_name(name)
        if address is not None:
            assert [s.addr for s in symbols] == [address] and not symbols[0].module
            if name in traceable:
                allowed = select(facts, [name]).candidates
                assert [c.address for c in allowed] in ([address], [])
                assert all(c.unique for c in allowed)
            else:  # it has no other name that ftrace lists, which would be named as the reason
                at = {s.name for s in facts.kallsyms.at(address)}
                assert not at & traceable


@pytest.mark.needs(Feature.KPROBE_MULTI)
@pytest.mark.parametrize(
    "name", ["__pfx_vfs_read", "jiffies", "asm_exc_debug", "no_such", "vfs_read"]
)
def test_a_name_is_refused_for_the_reason_that_the_tables_give(facts: Facts, name: str) -> None:
    """Also one that the kernel knows, tells the address of, and cannot trace."""
    with pybpf.open(ROOT / "tests/data/multi_cost.bpf.o") as obj:
        program = obj.programs["entry_0"]
        expected = select(facts, [name])
        if expected.candidates:
            with program.attach_multi(name, mechanism="kprobe_multi") as link:
                assert [t.address for t in link.targets] == [expected.candidates[0].address]
                assert link.skipped == ()
        else:
            with pytest.raises(PlanError) as refused:
                program.attach_multi([name], mechanism="kprobe_multi")
            assert refused.value.skipped == expected.skipped


@pytest.mark.needs(Feature.KPROBE_MULTI)
@pytest.mark.parametrize(
    "name", ["__pfx_vfs_read", "jiffies", "asm_exc_debug", "no_such", "name_show", "vfs_read"]
)
def test_a_section_of_one_name_attaches_where_the_tables_say(
    facts: Facts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kprobe.multi/NAME: the same places and the same error, with or without reading the tables."""
    expected: KprobePlaces | BpfError
    try:
        expected = kprobe_places(facts, name)
    except BpfError as error:
        expected = error
    told = asked_place(Facts(), name)
    with pybpf.open(ROOT / "tests/data/attach_kinds.bpf.o") as obj:
        program = obj.programs["on_multi"]
        program.attach_to = name
        program.load()
        if isinstance(expected, BpfError):
            with pytest.raises(BpfError) as caught:
                program.attach()
            assert str(caught.value).endswith(str(expected))
            assert caught.value.errno == expected.errno
            return
        assert told in (None, expected) and (name != "name_show" or told is None)
        if told is not None:
            monkeypatch.setattr(kprobe, "kprobe_places", lambda *asked: pytest.fail("read tables"))
        with program.attach() as link:
            assert link.what == f"kprobe.multi x{len(expected.addresses)}"
            assert link.info().prog_id == program.info().id


def test_a_module_function_takes_a_program(with_modules: Facts) -> None:
    """The id and the BTF object's descriptor together make the verifier accept the target."""
    facts = with_modules
    (found,) = select(facts, ["nf_conntrack_in"], need_btf=True).candidates
    assert found.btf_id is not None
    assert not facts.is_saved
    with (
        facts.btf.fd("nf_conntrack") as btf_fd,  # type: ignore[union-attr]
        _load(
            ProgType.BPF_PROG_TYPE_TRACING,
            expected_attach_type=AttachType.BPF_TRACE_FENTRY,
            attach_btf_id=found.btf_id,
            attach_btf_obj_fd=btf_fd.fileno(),
        ) as program,
    ):
        info = sys_bpf.prog_info(program)
        assert info.attach_btf_id == found.btf_id
        assert info.attach_btf_obj_id == facts.btf.object_id("nf_conntrack")  # type: ignore[union-attr]
