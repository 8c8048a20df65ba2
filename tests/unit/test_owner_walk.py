"""Who holds links: fdinfo as the kernel writes it, processes that come and go."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pybpf.kernel.owners import KINDS, Held, Owner, Owners, Pin, Process, collect, parse_fdinfo

LINK_INFO = """pos:\t0
flags:\t02000000
mnt_id:\t15
ino:\t1063
link_type:\ttracing
link_id:\t7
prog_tag:\tdeadbeefdeadbeef
prog_id:\t42
attach_type:\t24
target_obj_id:\t1
target_btf_id:\t77
"""
PROG_INFO = (
    "pos:\t0\nprog_type:\t26\nprog_jited:\t1\nprog_tag:\tdead\nmemlock:\t4096\nprog_id:\t42\n"
)


def process(
    pid: int, fds: Iterable[tuple[str, str]] | Exception, text: str | Exception = LINK_INFO
) -> Process:
    def listed() -> Iterable[tuple[str, str]]:
        if isinstance(fds, Exception):
            raise fds
        return fds

    def fdinfo(number: str) -> str:
        if isinstance(text, Exception):
            raise text
        return text

    return Process(pid, f"p{pid}", listed, fdinfo)


def test_fdinfo() -> None:
    """Only a link names a link."""
    assert parse_fdinfo(LINK_INFO) == 7
    assert parse_fdinfo(PROG_INFO) is None
    assert parse_fdinfo("pos:\t0\nlink_id:\t\n") is None


def test_holders() -> None:
    """Several processes, several descriptors of one link, a pin; only links' are read."""
    link = "anon_inode:bpf_link"
    found = collect(
        [
            process(20, [("3", link), ("4", link), ("5", "/dev/null")]),
            process(10, [("3", "anon_inode:bpf-link")]),  # opened by its id
            process(30, [("9", "anon_inode:bpf-prog")], AssertionError("not to be read")),
            process(40, [("9", "socket:[1]")], AssertionError("not to be read")),
        ],
        [Pin("/sys/fs/bpf/mine", 7), Pin("/sys/fs/bpf/alone", 8)],
    )
    assert found.of_link(7) == Held((Owner(10, "p10"), Owner(20, "p20")), ("/sys/fs/bpf/mine",))
    assert str(found.of_link(7)) == "p10(10) p20(20) pinned /sys/fs/bpf/mine"
    assert str(found.of_link(8)) == "pinned /sys/fs/bpf/alone"
    assert not found.of_link(99)
    assert str(found.of_link(99)) == "no process"


def test_holders_of_other_kinds() -> None:
    """Programs, maps and BTF objects too, if they are asked for; a link's fdinfo names its
    program, which does not make its holder one that holds the program itself."""
    sources = [
        process(10, [("3", "anon_inode:bpf-prog")], PROG_INFO),
        process(20, [("4", "anon_inode:bpf-map")], "pos:\t0\nmap_id:\t42\nfrozen:\t0\n"),
        process(30, [("5", "anon_inode:btf")], "pos:\t0\nbtf_id:\t42\n"),
        process(40, [("6", "anon_inode:bpf_link")]),
    ]
    found = collect(sources, [Pin("/sys/fs/bpf/m", 42, "map")], KINDS)
    assert found.of("prog", 42).owners == (Owner(10, "p10"),)
    assert found.of("map", 42) == Held((Owner(20, "p20"),), ("/sys/fs/bpf/m",))
    assert found.of("btf", 42).owners == (Owner(30, "p30"),)
    assert found.of_link(7).owners == (Owner(40, "p40"),)
    assert not collect(sources).of("prog", 42)


def test_holders_of_links_that_run_a_program() -> None:
    """Whoever holds a link of a program keeps the program: processes and pins, told apart from
    those that hold the program itself."""
    sources = [
        process(10, [("3", "anon_inode:bpf-prog")], PROG_INFO),
        process(40, [("6", "anon_inode:bpf_link")]),
        process(50, [("6", "anon_inode:bpf-link")]),
    ]
    pins = [Pin("/sys/fs/bpf/l", 7, "link", 42), Pin("/sys/fs/bpf/p", 42, "prog")]
    found = collect(sources, pins, ["prog"])
    assert found.of("prog", 42) == Held((Owner(10, "p10"),), ("/sys/fs/bpf/p",))
    by_link = Held((Owner(40, "p40"), Owner(50, "p50")), ("/sys/fs/bpf/l",))
    assert found.of_links_that_run(42) == by_link
    assert not found.links and not found.of_links_that_run(7)
    alone = collect(sources, pins, ["link"])
    assert alone.of_link(7) == by_link and not alone.running
    assert str(collect([process(1, PermissionError(13, "no"))]).of_links_that_run(1)) == "not known"


def test_what_cannot_be_seen_is_said() -> None:
    """With another user's process, finding no owner does not mean that there is none."""
    found = collect([process(1, PermissionError(13, "no")), process(2, [])])
    assert found.hidden == 1
    assert str(found.of_link(7)) == "not known"
    assert found.of_link(7).to_dict() == {"processes": [], "pins": [], "certain": False}


def test_an_odd_error_is_not_nobody() -> None:
    """Whatever a process answers that is not "ended" may hide a holder; others are still seen."""
    found = collect(
        [process(1, OSError(5, "EIO")), process(2, [("3", "anon_inode:bpf_link")])],
    )
    assert found.hidden == 1
    assert found.of_link(7).owners == (Owner(2, "p2"),)
    assert not found.of_link(7).certain


def test_processes_and_descriptors_that_end_meanwhile() -> None:
    link = [("3", "anon_inode:bpf_link")]
    found = collect(
        [
            process(1, FileNotFoundError(2, "gone")),
            process(2, link, FileNotFoundError(2, "closed")),
            process(3, link, ProcessLookupError(3, "gone")),
            process(4, link),
        ]
    )
    assert found.hidden == 0
    assert found.of_link(7).owners == (Owner(4, "p4"),)
    assert isinstance(found, Owners)


def test_every_running_process_is_walked() -> None:
    """On this machine, one walk finds this process, and every link has an owner."""
    from pybpf.kernel import owners

    seen = {p.pid for p in owners._processes()}
    assert os.getpid() in seen
    mine = dict(owners._fds(os.getpid()))
    assert mine["0"] == os.readlink("/proc/self/fd/0")
    assert isinstance(owners.read(), Owners)
