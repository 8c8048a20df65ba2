"""The fact parsers and selection on lines cut out of three real kernels (tests/data/kernel)."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import pytest

from pybpf.btf import Btf
from pybpf.kernel.ftrace import FtraceFunctions, KprobeBlacklist, parse_blacklist, parse_functions
from pybpf.kernel.kallsyms import Kallsyms
from pybpf.multi.reasons import Reason
from pybpf.multi.resolve import Resolver
from pybpf.multi.select import Selection, select

DATA = Path(__file__).parents[1] / "data"
KERNELS = ["6.1", "6.12", "7.3"]


class NoBtf:
    def get(self, module: str) -> Btf | None:
        return None


@dataclass
class Excerpt:
    ftrace: FtraceFunctions
    kallsyms: Kallsyms
    kprobe_blacklist: KprobeBlacklist
    btf: NoBtf

    def pick(self, *globs: str, at_exit: bool = True) -> Selection:
        return select(self, globs, at_exit=at_exit)


def _excerpt(kernel: str) -> Excerpt:
    def data(what: str) -> bytes:
        return (DATA / "kernel" / f"{kernel}.{what}").read_bytes()

    return Excerpt(
        # 6.1 has no available_filter_functions_addrs
        parse_functions(data("ftrace"), with_addresses=kernel != "6.1"),
        Kallsyms(data("kallsyms")),
        parse_blacklist(data("blacklist")),
        NoBtf(),
    )


@pytest.fixture(params=KERNELS)
def excerpt(request: pytest.FixtureRequest) -> Excerpt:
    return _excerpt(request.param)


def test_every_traceable_line_is_accounted_for(excerpt: Excerpt) -> None:
    """All lines become candidates or skips, every candidate's address has the name it came by."""
    selection = excerpt.pick("*")
    lines = set(excerpt.ftrace.lines)
    assert {c.label for c in selection.candidates} | {s.label for s in selection.skipped} == lines
    for candidate in selection.candidates:
        assert candidate.name in {s.name for s in excerpt.kallsyms.at(candidate.address)}


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_denied_and_noreturn(kernel: str) -> None:
    """Each kernel's own denied functions are among ours, and 6.1's, which has no such list."""
    selection = _excerpt(kernel).pick("*")
    skipped = {
        reason: {s.name for s in selection.skipped if s.reason is reason}
        for reason in (Reason.DENIED, Reason.NORETURN)
    }
    denied = {"migrate_disable", "migrate_enable", "__rcu_read_lock", "__rcu_read_unlock"}
    assert skipped[Reason.DENIED] == denied | ({"___migrate_enable"} if kernel == "7.3" else set())
    assert skipped[Reason.NORETURN] == {
        "do_exit",
        "do_group_exit",
        "make_task_dead",
        "__x64_sys_exit",
        "__x64_sys_exit_group",
        "__ia32_sys_exit",
        "__ia32_sys_exit_group",
        *(() if kernel == "7.3" else ("kthread_exit",)),
    }


def test_invalid_addresses_are_no_functions() -> None:
    """6.1 lists holes as names; they are dropped."""
    raw = (DATA / "kernel" / "6.1.ftrace").read_text()
    assert raw.count("__ftrace_invalid_address__") >= 2
    assert not [name for name, _ in _excerpt("6.1").ftrace if name.startswith("__ftrace")]


def test_addresses_pick_the_traceable_static() -> None:
    """Two p_start, one of them traceable: known only where ftrace tells addresses."""
    assert _excerpt("6.1").pick("p_start").skipped[0].reason is Reason.AMBIGUOUS
    for kernel in ("6.12", "7.3"):
        excerpt = _excerpt(kernel)
        (found,) = excerpt.pick("p_start").candidates
        assert not found.unique
        (at,) = excerpt.ftrace.positions("p_start")
        assert excerpt.ftrace.sites is not None
        assert excerpt.ftrace.sites[at] - found.address == 4  # endbr64


def test_call_sites_lie_at_most_four_bytes_in(excerpt: Excerpt) -> None:
    if excerpt.ftrace.sites is None:
        return
    for site, (name, _) in zip(excerpt.ftrace.sites, excerpt.ftrace, strict=True):
        addrs = {s.addr for s in excerpt.kallsyms.by_name(name)}
        assert {site, site - 4} & addrs, name


def test_aliases_of_a_syscall(excerpt: Excerpt) -> None:
    """ftrace names one of three; the others point to it."""
    skipped = excerpt.pick("__x64_sys_getegid16").skipped
    assert [(s.reason, s.hint) for s in skipped] == [(Reason.ALIAS, "use __do_sys_getegid16")]
    (listed,) = excerpt.pick("__do_sys_getegid16").candidates
    names = {s.name for s in excerpt.kallsyms.at(listed.address)}
    assert {"__do_sys_getegid16", "__x64_sys_getegid16", "__ia32_sys_getegid16"} <= names


def test_why_not(excerpt: Excerpt) -> None:
    """Code in special sections is told apart by the symbols around it."""
    for name, what in (("do_syscall_64", "noinstr"), ("start_kernel", "init code")):
        (skipped,) = excerpt.pick(name).skipped
        assert skipped.reason is Reason.NOT_TRACEABLE
        assert what in skipped.detail


def test_blacklisted_code_by_address(excerpt: Excerpt) -> None:
    (symbol,) = excerpt.kallsyms.by_name("do_syscall_64")
    assert excerpt.kprobe_blacklist.covers(symbol.addr)
    assert "do_syscall_64" in excerpt.kprobe_blacklist
    (symbol,) = excerpt.kallsyms.by_name("vfs_read")
    assert not excerpt.kprobe_blacklist.covers(symbol.addr)


def test_functions_of_modules(excerpt: Excerpt) -> None:
    """Globs reach into modules; a module part narrows them; each address is the module's own."""
    dummy = excerpt.pick("dummy:*").candidates
    assert {"dummy_xmit", "dummy_setup", "set_multicast_list"} <= {c.name for c in dummy}
    assert {c.module for c in dummy} == {"dummy"}
    assert excerpt.pick("* [dummy]") == excerpt.pick("dummy:*")
    both = excerpt.pick("dummy_*", "nf_conntrack_in").candidates
    assert {"dummy", "nf_conntrack"} <= {c.module for c in both}
    (symbol,) = excerpt.kallsyms.by_name("dummy_xmit")
    found = excerpt.kallsyms.lookup(symbol.addr + 5)  # modules are not listed by address
    assert found is not None
    assert (found[0], found[1]) == (symbol, 5)


def test_a_name_that_several_modules_have(excerpt: Excerpt) -> None:
    """What is said about a module's function is about that module's."""
    owners = {s.module for s in excerpt.kallsyms.by_name("cleanup_module")}
    assert {"dummy", "nf_conntrack", "nf_defrag_ipv4"} <= owners
    (skipped,) = excerpt.pick("cleanup_module [nf_defrag_ipv4]").skipped
    assert (skipped.module, skipped.reason) == ("nf_defrag_ipv4", Reason.NOT_TRACEABLE)
    (skipped,) = excerpt.pick("vmlinux:cleanup_module").skipped
    assert skipped.reason is Reason.NOT_FOUND


def test_lookup_of_addresses_inside_functions(excerpt: Excerpt) -> None:
    (symbol,) = excerpt.kallsyms.by_name("vfs_unlink")
    found = excerpt.kallsyms.lookup(symbol.addr + 0x41)
    assert found is not None
    assert (found[0].name, found[1]) == ("vfs_unlink", 0x41)


def _with_real_btf(kind: type[Btf] = Btf) -> tuple[Excerpt, Btf]:
    raw = (DATA / "vmlinux-6.12.107-cloud-amd64.btf.gz").read_bytes()
    btf = kind(gzip.decompress(raw), name="vmlinux")

    class OneBtf(NoBtf):
        def get(self, module: str) -> Btf | None:
            return btf if module == "" else None

    excerpt = _excerpt("6.12")
    excerpt.btf = OneBtf()
    return excerpt, btf


def test_ids_come_from_the_real_btf() -> None:
    """Functions that BTF describes get its id; clones, and names with several addresses, none."""
    excerpt, btf = _with_real_btf()
    found = {c.name: c for c in excerpt.pick("*").candidates}
    for name in ("vfs_read", "vfs_unlink", "bpf_fentry_test1", "__do_sys_getegid16"):
        btf_id = found[name].btf_id
        assert btf_id is not None
        assert btf.name(btf_id) == name
    assert found["__intel_pmu_enable_all.isra.0"].no_btf is Reason.NO_BTF
    assert found["version_show"].no_btf is Reason.AMBIGUOUS


class _NewerBtf(Btf):
    """A BTF with the tag that pahole makes from 1.28 on."""

    def has_tag(self, name: str) -> bool:
        return name == "bpf_fastcall" or super().has_tag(name)


def test_a_shared_name_has_no_model_if_an_old_pahole_made_the_btf() -> None:
    """That of 6.12 took functions for equal that return nothing, whatever their parameters."""
    excerpt, _ = _with_real_btf()
    targets, _ = Resolver(excerpt, live=False).resolve(["p_start", "version_show"], at_exit=False)
    assert [(t.name, t.unique, t.model) for t in targets if t.name == "p_start"]
    assert not any(t.unique or t.model for t in targets)


def test_a_shared_name_has_a_model_where_all_its_prototypes_agree() -> None:
    """p_start is (struct seq_file *, loff_t *) everywhere. version_show has several prototypes."""
    excerpt, _ = _with_real_btf(_NewerBtf)
    resolver = Resolver(excerpt, live=False)
    targets, _ = resolver.resolve(["p_start", "version_show"], at_exit=False)
    found = {t.name: t for t in targets}
    agreed, other = found["p_start"], found["version_show"]
    assert not agreed.unique and agreed.btf_id is None and agreed.address
    assert agreed.model and (agreed.model.slots, agreed.model.pointers) == (2, 0b11)
    assert not other.unique and other.model is None
    # The same from a candidate that the caller kept, and by its address.
    (kept,) = excerpt.pick("p_start").candidates
    assert resolver.target(kept) == agreed
    (placed,), _ = resolver.resolve([f"p_start@{agreed.address:#x}"], at_exit=False)
    assert placed == agreed
