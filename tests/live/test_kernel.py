"""The facts of the running kernel: each parser on the real file, each source against another."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf.btf import BtfKind
from pybpf.errors import BpfError, DeniedByPolicy, UnsupportedFeature
from pybpf.features import Answer, Feature, FeatureSet, Support
from pybpf.kernel import btf as kernel_btf
from pybpf.kernel import experiments, kallsyms, kcore, probes
from pybpf.kernel.btffind import BtfFinder
from pybpf.kernel.host import Facts
from pybpf.kernel.kallsyms import Kallsyms
from pybpf.kernel.lookup import BtfTarget
from tests.support import rows

pytestmark = pytest.mark.first_on("host", "6.12")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts()


@pytest.fixture(scope="module")
def symbols(facts: Facts) -> Kallsyms:
    return facts.kallsyms


# -- kallsyms --------------------------------------------------------------


@pytest.mark.first_on("host")
def test_every_line_of_kallsyms_is_understood(symbols: Kallsyms) -> None:
    """The columns found by C-speed steps are those found by splitting each line."""
    lines = symbols.text.splitlines()
    assert len(lines) == len(symbols) > 10_000
    for symbol, line in zip(symbols, lines, strict=True):
        addr, kind, name = line.split("\t")[0].split(" ")
        assert (symbol.addr, symbol.type, symbol.name) == (int(addr, 16), kind, name)


@pytest.mark.first_on("host")
def test_kallsyms_by_name_and_back(symbols: Kallsyms) -> None:
    """Names lead to addresses and those to the names, for functions picked at random."""
    some = random.Random(1).sample(list(symbols), 1000)
    functions = [s for s in some if s.is_function and s.addr >> 47]
    assert len(functions) > 100
    for symbol in functions[:100]:
        assert symbol in symbols.by_name(symbol.name)
        assert symbol in symbols.at(symbol.addr)
        found = symbols.lookup(symbol.addr + 1)
        assert found is not None
        if not symbols.at(symbol.addr + 1):
            assert (found[0].addr, found[1]) == (symbol.addr, 1)


def test_lookup_agrees_with_a_plain_search(symbols: Kallsyms) -> None:
    everything = {int(line[:16], 16) for line in symbols.text.splitlines()}
    addrs = sorted(a for a in everything if a >> 47)
    for low, high in random.Random(2).sample(list(itertools.pairwise(addrs)), 80):
        inside = random.Random(low).randrange(low, min(high, low + 4096))
        found = symbols.lookup(inside)
        assert found is not None
        assert found[0].addr + found[1] == inside
        assert found[0].addr == low


def test_one_name_needs_no_index() -> None:
    """A fresh table answers for one name without splitting its lines."""
    table = kallsyms.read()
    assert [s.is_function for s in table.by_name("bpf_fentry_test1")] == [True]
    assert all(stretch._columns is None for stretch in table._stretches)


def test_hidden_addresses(facts: Facts) -> None:
    """For the user nobody, if the kernel hides addresses, the error names the sysctl."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pybpf.errors import DeniedByPolicy\n"
        "from pybpf.kernel import kallsyms\n"
        "os.setuid(65534)\n"
        "table = kallsyms.read()\n"
        "try: table.by_name('bpf_fentry_test1'); print('shown')\n"
        "except DeniedByPolicy as e: print('hidden', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    # kernel/ksyms_common.c: with kptr_restrict 0 the perf sysctl decides.
    shown = (facts.policy.sysctl("kernel.kptr_restrict") or 0) == 0 and (
        facts.policy.sysctl("kernel.perf_event_paranoid") or 0
    ) <= 1
    assert done.stdout.split()[0] == ("shown" if shown else "hidden")
    if not shown:
        assert "kptr_restrict" in done.stdout


# -- ftrace ----------------------------------------------------------------


def test_the_traceable_functions_or_the_reason(facts: Facts, symbols: Kallsyms) -> None:
    """Either a list whose names are symbols, or one error that says what to do."""
    try:
        functions = facts.ftrace
    except DeniedByPolicy as error:
        assert error.hint
        return
    except BpfError as error:
        assert error.errno == errno.ENOENT
        assert "mount -t tracefs" in error.hint
        return
    assert len(functions) > 10_000
    assert "bpf_fentry_test1" in functions
    known = {symbol.name for symbol in symbols}
    unknown = [name for name, _ in functions if name not in known]
    assert not unknown
    if functions.sites is not None:
        wrong = 0
        for position in range(0, len(functions), 53):
            name, _ = functions.split(functions.lines[position])
            addrs = [s.addr for s in symbols.by_name(name)]
            wrong += not any(functions.is_site_of(position, addr) for addr in addrs)
        assert wrong == 0


# -- BTF -------------------------------------------------------------------


def test_vmlinux_btf_is_read_whole(facts: Facts) -> None:
    btf = facts.btf.vmlinux()
    assert len(btf.raw) == os.stat("/sys/kernel/btf/vmlinux").st_size
    assert btf.find("task_struct", BtfKind.STRUCT)
    assert btf.find("bpf_fentry_test1", BtfKind.FUNC)
    assert facts.btf.vmlinux() is btf
    assert facts.btf.get("vmlinux") is btf


def test_the_kernel_finds_what_its_btf_has(facts: Facts) -> None:
    """Ids that the kernel gives for a name are those of a search in its BTF."""
    btf = facts.btf.vmlinux()
    names = [btf.name(i) for i in btf.ids(BtfKind.FUNC)[::9973]]
    with BtfFinder() as finder:
        for name in (*names, "vfs_read", "no_such_function", "task_struct", "x" * 127):
            for kind in (BtfKind.FUNC, BtfKind.STRUCT):
                found = finder.find(name, kind)
                wanted = btf.find(name, kind)
                assert found == (None if wanted is None else BtfTarget(wanted))
        for wrong in ("", "a\0b", "x" * 128):
            with pytest.raises(ValueError, match="127 bytes"):
                finder.find(wrong, BtfKind.FUNC)


def test_btf_objects_of_the_kernel(facts: Facts) -> None:
    """vmlinux is among the objects, its descriptor is that object, ids agree."""
    found = {o.name: o for o in kernel_btf.objects() if o.kernel}
    assert "vmlinux" in found
    assert set(facts.btf.modules()) <= set(found)
    kernel = kernel_btf.KernelBtf()
    assert kernel.object_id("") == kernel.object_id("vmlinux") == found["vmlinux"].id
    with kernel.fd("") as fd, kernel.fd("vmlinux") as other:
        assert fd.fileno() != other.fileno()
        assert sys_bpf.btf_info(fd).id == sys_bpf.btf_info(other).id == found["vmlinux"].id


def test_modules_have_split_btf(facts: Facts) -> None:
    """Each module's types continue vmlinux's ids."""
    base = facts.btf.vmlinux()
    for name in facts.btf.modules():
        btf = facts.btf.module(name)
        assert btf.start_id == base.nr_types
        assert btf.nr_types > btf.start_id
        assert btf.base is base


def test_a_module_that_is_not_loaded() -> None:
    kernel = kernel_btf.KernelBtf()
    for ask in (kernel.module, kernel.fd, kernel_btf.module):
        with pytest.raises(UnsupportedFeature, match="no_such_module"):
            ask("no_such_module")
    assert kernel.get("no_such_module") is None
    assert kernel.get("../vmlinux") is None


# -- kernel memory ---------------------------------------------------------


def _ways() -> list[type[kcore.KernelMemory]]:
    return [kcore.Kcore, kcore.BpfMemory]


@pytest.mark.parametrize("way", _ways(), ids=["kcore", "bpf"])
def test_each_way_reads_code(way: type[kcore.KernelMemory], symbols: Kallsyms) -> None:
    """A traceable function starts with a nop or call of ftrace, perhaps after endbr64."""
    (symbol,) = symbols.by_name("bpf_fentry_test1")
    try:
        memory = way()
    except UnsupportedFeature:
        assert not os.path.exists("/proc/kcore")
        pytest.skip("this kernel has no /proc/kcore")
    with memory:
        code = memory.read(symbol.addr, 9)
        assert len(code) == 9
        code = code.removeprefix(b"\xf3\x0f\x1e\xfa")
        assert code[:5] == b"\x0f\x1f\x44\x00\x00" or code[:1] in (b"\xe8", b"\xe9")
        assert memory.read(symbol.addr, 0) == b""


@pytest.mark.parametrize("way", _ways(), ids=["kcore", "bpf"])
def test_long_reads_are_the_sum_of_short_ones(
    way: type[kcore.KernelMemory], symbols: Kallsyms
) -> None:
    """Reads longer than a page or the program's buffer come in one piece."""
    start = symbols.by_name("_stext")[0].addr + 5
    try:
        memory = way()
    except UnsupportedFeature:
        pytest.skip("this kernel has no /proc/kcore")
    with memory:
        whole = memory.read(start, 20_000)
        assert len(whole) == 20_000
        assert whole == b"".join(memory.read(start + at, 1000) for at in range(0, 20_000, 1000))


@pytest.mark.parametrize("way", _ways(), ids=["kcore", "bpf"])
@pytest.mark.parametrize("addr", [0, 0x1000, 0xFFFF_0000_0000_0000, 0xFFFF_FFFF_FFFF_F000])
def test_unmapped_addresses(way: type[kcore.KernelMemory], addr: int) -> None:
    try:
        memory = way()
    except UnsupportedFeature:
        pytest.skip("this kernel has no /proc/kcore")
    with memory, pytest.raises(BpfError) as caught:
        memory.read(addr, 16)
    assert caught.value.errno == errno.EFAULT


def test_both_ways_agree(symbols: Kallsyms) -> None:
    """Where both exist they read the same bytes; else the one that works is chosen."""
    start = symbols.by_name("_stext")[0].addr
    with kcore.open_memory() as memory, kcore.BpfMemory() as program:
        assert isinstance(memory, kcore.Kcore) == os.path.exists("/proc/kcore")
        assert memory.read(start, 8192) == program.read(start, 8192)


# -- probes ----------------------------------------------------------------


def test_every_feature_has_an_answer(facts: Facts) -> None:
    """No probe is inconclusive, and each "no" says what the kernel said."""
    features = facts.features
    assert facts.probes.inconclusive == {}
    assert set(features) == set(Feature)
    for feature, answer in features.items():
        assert answer.ok or answer.why, feature


def test_a_certain_answer_is_asked_once(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second question costs no system call; a denial is asked about again."""
    cache = probes.ProbeCache(facts.btf)
    assert cache.supports(Feature.RINGBUF)
    asked: list[Feature] = []

    def denied(feature: Feature) -> Answer:
        asked.append(feature)
        return Answer(Support.DENIED, "for the test", errno.EPERM)

    monkeypatch.setattr(cache, "_ask", denied)
    assert cache.supports(Feature.RINGBUF)
    assert asked == []
    for _ in range(2):
        assert cache.answer(Feature.ITER).support is Support.DENIED
    assert asked == [Feature.ITER, Feature.ITER]


def test_no_memory_is_no_answer(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that says nothing about the feature is raised, not remembered."""
    cache = probes.ProbeCache(facts.btf)

    def fail(probe: probes.ProbeCache) -> None:
        raise BpfError(errno.ENOMEM, "BPF_MAP_CREATE")

    monkeypatch.setitem(experiments.EXPERIMENTS, Feature.RINGBUF, fail)
    with pytest.raises(BpfError):
        cache.answer(Feature.RINGBUF)
    assert Feature.RINGBUF not in cache.all()
    assert "ENOMEM" in cache.inconclusive[Feature.RINGBUF]
    monkeypatch.undo()
    assert cache.supports(Feature.RINGBUF)


@pytest.mark.parametrize(
    ("number", "support"),
    [
        (errno.EPERM, Support.DENIED),
        (errno.EACCES, Support.DENIED),
        (errno.EINVAL, Support.UNSUPPORTED),
        (errno.EOPNOTSUPP, Support.UNSUPPORTED),
        (524, Support.UNSUPPORTED),
        (errno.E2BIG, Support.UNSUPPORTED),
    ],
)
def test_what_an_errno_means(
    facts: Facts, monkeypatch: pytest.MonkeyPatch, number: int, support: Support
) -> None:
    cache = probes.ProbeCache(facts.btf)

    def fail(probe: probes.ProbeCache) -> None:
        raise BpfError(number, "BPF_LINK_CREATE")

    monkeypatch.setitem(experiments.EXPERIMENTS, Feature.RINGBUF, fail)
    answer = cache.answer(Feature.RINGBUF)
    assert (answer.support, answer.errno) == (support, number)
    assert "BPF_LINK_CREATE" in answer.why


def test_probes_leave_nothing_behind(facts: Facts) -> None:
    """After all probes the kernel holds no program, map or link of ours."""
    probes.ProbeCache(facts.btf).all()

    def left() -> list[int]:
        found = []
        for number in sys_bpf.ids("prog"):
            try:
                with sys_bpf.get_fd_by_id("prog", number) as fd:
                    if sys_bpf.prog_info(fd).name.startswith("pybpf_probe"):
                        found.append(number)
            except BpfError:
                continue
        return found

    # What a link held is freed after a grace period.
    deadline = time.monotonic() + 20
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []


# -- the snapshot ----------------------------------------------------------


def test_facts_of_this_machine(facts: Facts) -> None:
    assert facts.release == os.uname().release
    assert facts.machine == os.uname().machine
    assert 0 < len(facts.online_cpus) <= len(facts.possible_cpus)
    assert len(facts.online_cpus) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert facts.policy.sysctl("kernel.kptr_restrict") is not None
    assert facts.rlimits["nofile"][0] > 0
    assert set(facts.btf.modules()) <= set(facts.modules)


@pytest.mark.rows("host")  # tests/e2e/test_features_on_rows.py has it for the others
def test_facts_survive_a_journey(facts: Facts, tmp_path: Path) -> None:
    """Saved here and loaded elsewhere: the same answers, symbols, types."""
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts.to_json()))
    loaded = Facts.from_json(json.loads(path.read_bytes()))
    assert loaded.release == facts.release
    assert loaded.features == FeatureSet(facts.features)
    assert loaded.kallsyms.text == facts.kallsyms.text
    assert loaded.btf.vmlinux().raw == facts.btf.vmlinux().raw


# -- the tool --------------------------------------------------------------


def _tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools/features.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tool_prints_every_feature(facts: Facts, tmp_path: Path) -> None:
    """Table and JSON agree with the library, also on facts loaded from a file."""
    path = tmp_path / "facts.json"
    done = _tool("--json", "--save", str(path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kernel"]["release"] == facts.release
    assert report["kernel"]["btf_types"] == facts.btf.vmlinux().nr_types
    assert {name: entry["support"] for name, entry in report["features"].items()} == {
        feature.value: answer.support.value for feature, answer in facts.features.items()
    }
    if rows.in_guest():
        assert report["kernel"]["lockdown"] == "none"
        assert report["kernel"]["traceable"] > 30_000
    text = _tool("--facts", str(path))
    assert text.returncode == 0, text.stderr
    assert facts.release in text.stdout
    for feature in Feature:
        assert any(line.startswith(f"{feature.value} ") for line in text.stdout.splitlines())


@pytest.mark.rows("host")
def test_the_tools_exit_status(tmp_path: Path) -> None:
    """The status is 2 for a wrong call, and 1 for a file without facts."""
    assert _tool("--no-such-option").returncode == 2
    assert _tool("--facts", "x", "--calibrate").returncode == 2
    (tmp_path / "bad.json").write_text("[]")
    done = _tool("--facts", str(tmp_path / "bad.json"))
    assert done.returncode == 1
    assert "saved facts" in done.stderr
    assert _tool("--facts", str(tmp_path / "absent.json")).returncode == 1


def test_a_type_is_found_without_reading_the_kernels_btf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the kernel or read from its BTF, a name has the same id; none has none."""
    kernel = kernel_btf.KernelBtf()
    names = [("bpf_fentry_test1", BtfKind.FUNC), ("task_struct", BtfKind.STRUCT)]
    names += [("task_struct", BtfKind.FUNC), ("no_such_type_at_all", BtfKind.STRUCT)]
    found = [kernel.find(name, kind) for name, kind in names]
    assert kernel._vmlinux is None, "it was read"
    assert found == [kernel.vmlinux().find(name, kind) for name, kind in names]
    assert found == [kernel.find(name, kind) for name, kind in names]

    def refuse(*_: object) -> None:
        raise DeniedByPolicy(errno.EPERM, "BPF_PROG_LOAD", "no")

    monkeypatch.setattr(BtfFinder, "__init__", refuse)
    assert kernel_btf.KernelBtf().find(*names[0]) == found[0]
