"""retsnoop's command line: letters, defaults, and what contradicts what."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.errnos import NAMES, name_of, number_of
from pybpf.tools.manpages import roff
from pybpf.tools.retsnoop import options, settings
from pybpf.tools.retsnoop.differences import DIFFERENCES
from pybpf.tools.retsnoop.options import Mechanism, parse
from pybpf.tools.retsnoop.usage import NotHere, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "stacks", "trace", "success"),
    [
        ("", True, False, False),
        ("-E", True, False, False),
        ("-T", False, True, True),
        ("-TE", True, True, False),
        ("-ET", True, True, False),
        ("-TSn", False, True, False),
        ("-TSy", False, True, True),
        ("-S", True, False, True),
        ("-Sy", True, False, True),
        ("-TES", True, True, True),
        ("-Tx ENOENT", False, True, False),
        ("-x EINVAL", True, False, False),
    ],
)
def test_modes(text: str, stacks: bool, trace: bool, success: bool) -> None:
    """-T alone turns stacks off and successes on; everything else is errors only."""
    got = parse(["-e", "f", *text.split()])
    assert (got.stacks, got.trace, got.success) == (stacks, trace, success)


def test_globs_accumulate_and_files_expand() -> None:
    """-e -a -d may repeat, take files of globs, and know modules."""
    got = parse(
        ["-e", "do_*", "--entry=f [nfs]", "-a", "@list", "-d", "x?", "-dy", "--allow", "z"],
        read_file={"list": "one two*\n\tthree[kvm*]\n"}.__getitem__,
    )
    assert got.entry == ["do_*", "f [nfs]"]
    assert got.allow == ["one", "two*", "three[kvm*]", "z"]
    assert got.deny == ["x?", "y"]


def test_filters() -> None:
    """Values of the filters end up typed and in their units."""
    got = parse(
        shlex.split("-e f -p 1 -p 22 -P 3 -n cat -N sh -N bash -L 5 -x ENOENT -x -EINVAL -X NULL")
    )
    assert (got.allow_pids, got.deny_pids) == ([1, 22], [3])
    assert (got.allow_comms, got.deny_comms) == (["cat"], ["sh", "bash"])
    assert got.min_duration == 5_000_000
    assert got.errors.allow == {2, 22}
    assert got.errors.deny == {0}


def test_any_error_is_no_filter_but_errors_only() -> None:
    """`-x any` allows every error, in whatever case it is written."""
    got = parse(["-T", "-e", "f", "-x", "Any"])
    assert got.errors.allow is None
    assert not got.success


def test_command_and_settings() -> None:
    """What follows -- is not looked at; -C sets what it names."""
    got = parse(shlex.split("-e f -C bpf.ringbuf-size=4096 -Cstacks.dec-offs=y -vv -- ls -e -T --"))
    assert got.command == ("ls", "-e", "-T", "--")
    assert got.settings.ringbuf_size == 4096
    assert got.settings.dec_offs
    assert got.verbose == 2
    assert not got.trace


@pytest.mark.parametrize(
    ("letter", "mechanism"),
    [("-M", Mechanism.MULTI), ("-K", Mechanism.SINGLE), ("-F", Mechanism.TRAMPOLINE)],
)
def test_mechanisms(letter: str, mechanism: Mechanism) -> None:
    """Each letter forces one mechanism; without any the choice is free."""
    assert parse(["-e", "f", letter]).mechanism is mechanism
    assert parse(["-e", "f"]).mechanism is Mechanism.AUTO


def test_presets_need_no_entry_glob() -> None:
    """A preset brings its own entry globs, and those need not match."""
    got = parse(["-c", "perf"])
    assert got.entry == []
    assert "*_sys_perf_event_open" in got.soft_entry


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no entry"),
        ("-a f", "no entry"),
        ("-e", "needs a value"),
        ("-e f -Q", "unknown option -Q"),
        ("-e f --nope", "unknown option --nope"),
        ("-e f --kprobe", "ambiguous"),
        ("-e f --trace=1", "no value"),
        ("-e f extra", "after --"),
        ("-e f --", "no command"),
        ("-e **", "not a function glob"),
        ("-e f[", "not a function glob"),
        ("-e f -p x", "process id"),
        ("-e f -p 0", "process id"),
        ("-e f -L 0", "-L"),
        ("-e f -L 1.5", "-L"),
        ("-e f -x ENOSUCH", "ENOSUCH"),
        ("-e f -X any", "reject every"),
        ("-e f -x any -S", "contradicts"),
        ("-e f -Sy -x EINVAL", "contradicts"),
        ("-e f -S2", "y or n"),
        ("-e f -M -K", "exclude"),
        ("-e f -F -K", "exclude"),
        ("-c nope", "no case"),
        ("-e f -C x", "GROUP.KEY=VALUE"),
        ("-e f -C a.b=1", "no setting"),
        ("-e f -C bpf.ringbuf-size=0", "bpf.ringbuf-size"),
        ("-e f -C stacks.dec-offs=maybe", "true, y, 1"),
        ("-e @/no/such/file", "@/no/such/file: No such file or directory"),
    ],
)
def test_nonsense_is_a_usage_error(text: str, says: str) -> None:
    """Every contradiction and unknown word is one UsageError that says what is wrong."""
    with pytest.raises(UsageError) as caught:
        parse(text.split())
    assert says in str(caught.value)
    assert not isinstance(caught.value, NotHere)


def test_what_is_not_here_says_why() -> None:
    """An option that only the original has gets the man page's reason, not that of an unknown."""
    whys = dict(DIFFERENCES)
    with pytest.raises(NotHere) as caught:
        parse(["-e", "f", "--debug", "bpf"])
    assert str(caught.value) == f"--debug bpf: {whys['--debug bpf']}"
    for old in ("--stacks-map-size", "--ringbuf-map-size"):
        with pytest.raises(NotHere, match=r"bpf\.ringbuf-size"):
            parse(["-e", "f", old, "1"])


# Every option of retsnoop's --help, 0.11 and later, and what its --debug and -C take.
ORIGINAL = shlex.split(
    "-e --entry -a --allow -d --deny -c --case -E --call-stack -T --trace -A --capture-args "
    "-J --inject-probe -B --lbr --dry-run -M -K -F -p -P -n -N -L -S -I -x -X --allow-retval "
    "--deny-retval -k -s --debug -v -V -h --help --usage --config-help -C"
)
ORIGINAL_HIDDEN = ["--stacks-map-size", "--ringbuf-map-size"]
ORIGINAL_DEBUG = ["multi-kprobe", "full-lbr", "bpf"]
ORIGINAL_SETTINGS = shlex.split(
    "bpf.ringbuf-size bpf.sessions-size stacks.symb-mode stacks.unfiltered stacks.emit-addrs "
    "stacks.dec-offs args.max-total-args-size args.max-sized-arg-size args.max-str-arg-size "
    "args.capture-raw-ptrs args.fmt-mode args.fmt-max-arg-width fmt.lbr-max-count"
)


def test_every_option_of_the_original_is_here_or_listed_with_the_reason() -> None:
    """The man page has each: as an option, or among the differences."""
    page = options.page("pybpf retsnoop")
    have = {name for argument in page.arguments for name in argument.names}
    heading, notes = page.about.notes
    assert heading == "Differences from retsnoop" and notes == DIFFERENCES
    listed = {term for terms, _ in notes for term in terms.split(", ")}
    assert [one for one in ORIGINAL if one not in have] == []
    assert [one for one in ORIGINAL_HIDDEN if one not in have | listed] == []
    assert [one for one in ORIGINAL_SETTINGS if one not in settings.help_text()] == []
    for feature in ORIGINAL_DEBUG:
        if f"--debug {feature}" not in listed:
            assert parse(["-e", "f", "--debug", feature])
    text = roff(page)
    for term, what in notes:
        assert term.replace("-", "\\-") in text
        assert what.replace("-", "\\-") in text


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("", ""),
        ("-s", "linenum"),
        ("-ss", "inlines"),
        ("-sn", "none"),
        ("--symbolize=inlines", "inlines"),
        ("-C stacks.symb-mode=line", "linenum"),
    ],
)
def test_source_lines(text: str, mode: str) -> None:
    """-s and the setting are one thing; a path is taken as it is."""
    got = parse(["-e", "f", "-k", "/boot/vmlinux", *text.split()])
    assert (got.settings.symb_mode, got.vmlinux) == (mode, "/boot/vmlinux")


def test_source_path_globs() -> None:
    """`:PATH` is kept for the run, which knows the source; `:` alone names nothing."""
    got = parse(["-e", ":fs/open.c", "-a", "*", "-d", ":mm/*"])
    assert (got.entry, got.allow, got.deny) == ([":fs/open.c"], ["*"], [":mm/*"])
    with pytest.raises(UsageError, match="a path has to follow"):
        parse(["-e", ":"])


@pytest.mark.parametrize(
    ("text", "allow", "deny"),
    [
        ("--allow-retval 5", [(5, 5)], []),
        ("--allow-retval -ENOENT --deny-retval=NULL", [(-2, -2)], [(0, 0)]),
        ("--allow-retval EINVAL", [(-22, -22)], []),
        ("--deny-retval -0x10..16", [], [(-16, 16)]),
        ("--allow-retval 0xffffffffffffffff", [(-1, -1)], []),
    ],
)
def test_return_values(
    text: str, allow: list[tuple[int, int]], deny: list[tuple[int, int]]
) -> None:
    """Numbers of any base, errors by name and ranges; sessions that succeed are then shown."""
    got = parse(["-e", "f", *text.split()])
    assert (got.allow_retvals, got.deny_retvals, got.success) == (allow, deny, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--allow-retval many", "no return value"),
        ("--allow-retval 5..1", "the larger one"),
        ("--allow-retval 5 -x EINVAL", "cannot be used with -x"),
        ("--deny-retval 5 -X EINVAL", "cannot be used with -x or -X"),
        (" ".join(["--allow-retval 5"] * 17), "at most 16"),
        ("--max-sessions 0", "--max-sessions needs"),
        ("--duration never", "--duration needs"),
        ("-J kprobe:f", "without -T"),
        ("-T -J kprobe:", "give kprobe:NAME"),
        ("-T -J tp:sched", "give kprobe:NAME"),
        ("-T -J tp:a:b:c", "give kprobe:NAME"),
        ("-T -J usdt:x", "give kprobe:NAME"),
        ("-T -J kprobe:f+x", "not an offset"),
        ("-T -J kretprobe:f+1", "an offset goes with"),
        ("-T -J kprobe:f*+1", "an offset goes with"),
        ("-T --user-stack", "add -E"),
        ("-Bmany", "give a number, or one of any"),
        ("--duration inf", "--duration needs"),
    ],
)
def test_nonsense_of_ends_and_values(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(["-e", "f", *text.split()])


def test_help_names_every_option_that_works() -> None:
    """The help text has each option once, and what is missing with the reason."""
    text = options.help_text()
    names = "entry allow deny case call-stack trace dry-run json pid comm longer config lbr why"
    names += " capture-args inject-probe interim-stacks user-stack max-sessions duration cgroup"
    names += " allow-retval deny-retval trace-out symbolize kernel"
    for name in shlex.split(names):
        assert len(re.findall(rf"--{name}\b(?!-)", text)) == 1, name
    assert max(map(len, text.splitlines())) <= 99
    assert "bpf.sessions-size" in settings.help_text()


def test_exit_statuses_of_the_program() -> None:
    """--help is 0 on stdout, a usage error 2 on stderr; neither needs a kernel."""
    tool = str(ROOT / "tools" / "retsnoop")
    done = subprocess.run(
        [sys.executable, tool, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: retsnoop")
    done = subprocess.run(
        [sys.executable, tool, "-e", "f", "-sx"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "-s takes none (n), linenum or inlines (s), not 'x'" in done.stderr


def test_error_names() -> None:
    """The table agrees with the C library where that knows a number, and knows the kernel's own."""
    import errno

    for number, name in errno.errorcode.items():
        assert number_of(name) == number
    assert name_of(512) == "ERESTARTSYS"
    assert name_of(524) == "ENOTSUPP"
    assert name_of(530) == "ERECALLCONFLICT"
    assert [n for n in (41, 58, 520) if n in NAMES] == []
    assert number_of("-ENOENT") == 2
    assert number_of("ENOENTX") is None
