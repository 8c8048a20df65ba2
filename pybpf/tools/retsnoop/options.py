"""The command line: retsnoop's letters, GNU style.

Short options can be combined (``-TS``). An optional argument follows its option
without a space (``-Sn``). Only a command may stand alone, after ``--``. One table
holds every option with its help. It also holds the original's options that are not
available, so that they get a clear answer. Pure except for reading ``@FILE``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence

from ... import errnos
from ...dataclass import dataclass, field
from ...errors import PlanError
from ...kernel.globs import parse_pattern
from ..pages import Argument, Page
from ..parsers import STATUSES, About, Example
from . import settings
from .differences import DIFFERENCES, reason
from .presets import PRESETS
from .probespec import Spec, parse_spec
from .sessions import NULL, ErrorFilter
from .usage import NotHere, UsageError

__all__ = [
    "Mechanism",
    "Options",
    "help_text",
    "page",
    "parse",
    "usage_text",
]

_USAGE = "-e GLOB [OPTION...] [-- COMMAND [ARGUMENT...]]"
_ABOUT = About(
    "the kernel function that failed, and its stack",
    """\
With a command, the whole system is traced while it runs (-n NAME narrows that), and its exit
status is returned. Without one, tracing goes on until Ctrl-C. Needs root.""",
    (
        Example("-e do_sys_openat2 -- cat /no/such/file", "where opening a file fails"),
        Example("-c bpf -n bpftool", "what refuses the bpf() calls of one command"),
        Example("-T -e vfs_read -a 'ext4_*' -n cat", "which functions reading goes through"),
    ),
    (*STATUSES, (127, "COMMAND not found")),
    ("Differences from retsnoop", DIFFERENCES),
)


#: Most return values or ranges in the filters; the BPF program has as many places.
MAX_RANGES = 16


class Mechanism(enum.Enum):
    """Say how to attach: the library's mechanisms in order of preference."""

    AUTO = ("tracing_multi", "kprobe_multi", "trampoline", "kprobe")
    MULTI = ("kprobe_multi", "kprobe")
    SINGLE = ("kprobe",)
    TRAMPOLINE = ("trampoline",)


@dataclass(slots=True)
class Options:
    """Hold what the command line asks for.

    :ivar entry: globs of entry functions; each must match something
    :ivar soft_entry: more of them, of presets and source paths, that need not match
    :ivar allow: globs of functions inside a session; the user is warned if one matches nothing
    :ivar soft_allow: more of them, of presets and source paths, that need not match
    :ivar success: show sessions that succeed too
    :ivar allow_pids: process ids (tgid)
    :ivar threads: ids that belong to threads, not processes
    :ivar cgroup: directory of a cgroup, "" for any
    :ivar min_duration: ns
    :ivar allow_retvals: lowest and highest value that the entry function may return
    :ivar trace_out: path of a file for the calls, "" for none
    :ivar vmlinux: path of the kernel's debug information, "" to look for it
    :ivar lbr: kinds of branches to record, bits of ``enum perf_branch_sample_type``
    :ivar duration: seconds after which the run ends, 0 for never
    :ivar max_sessions: sessions after which it ends, 0 for never
    :ivar command: program and arguments, () to run until interrupted
    """

    entry: list[str] = field(default_factory=list)
    soft_entry: list[str] = field(default_factory=list)
    soft_allow: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)
    stacks: bool = True
    trace: bool = False
    success: bool = False
    capture_args: bool = False
    probes: list[Spec] = field(default_factory=list)
    trace_out: str = ""
    lbr: int = 0
    full_lbr: bool = False
    interim: bool = False
    user_stacks: bool = False
    vmlinux: str = ""
    mechanism: Mechanism = Mechanism.AUTO
    dry_run: bool = False
    why: list[str] = field(default_factory=list)
    json: bool = False
    allow_pids: list[int] = field(default_factory=list)
    deny_pids: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    cgroup: str = ""
    allow_comms: list[str] = field(default_factory=list)
    deny_comms: list[str] = field(default_factory=list)
    errors: ErrorFilter = field(default_factory=ErrorFilter)
    allow_retvals: list[tuple[int, int]] = field(default_factory=list)
    deny_retvals: list[tuple[int, int]] = field(default_factory=list)
    min_duration: int = 0
    duration: float = 0
    max_sessions: int = 0
    settings: settings.Settings = field(default_factory=settings.Settings)
    verbose: int = 0
    help: str = ""
    version: bool = False
    command: tuple[str, ...] = ()


# -- parsing ----------------------------------------------------------------


class _Arg(enum.Enum):
    NONE = 0
    REQUIRED = 1
    GLUED = 2  # optional, without a space after the option


class _State:
    """Hold what was read so far. Some options mean something only together."""

    def __init__(self, read_file: Callable[[str], str]) -> None:
        self.options = Options()
        self.read_file = read_file
        self.call_stack = False
        self.success: bool | None = None
        self.success_text = ""
        self.mechanism = ""
        self.allow_errors: set[int] | None = None
        self.any_error = False
        self.deny_errors: set[int] = set()
        self.retvals = False


_Handler = Callable[[_State, str], None]


@dataclass(frozen=True, slots=True)
class _Option:
    short: str
    long: str
    arg: _Arg
    metavar: str
    help: str
    handle: _Handler


def _expand(state: _State, value: str) -> list[str]:
    """Return the value, or the words of ``@FILE``."""
    if not value.startswith("@"):
        return [value]
    try:
        return state.read_file(value[1:]).split()
    except OSError as error:
        raise UsageError(f"{value}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{value}: {error}") from None


def _globs(name: str) -> _Handler:
    def handle(state: _State, value: str) -> None:
        for glob in _expand(state, value):
            try:
                if glob == ":":
                    raise UsageError("a path has to follow the :, as in :kernel/bpf/*.c")
                if not glob.startswith(":"):
                    parse_pattern(glob)
            except PlanError as error:
                raise UsageError(str(error)) from None
            getattr(state.options, name).append(glob)

    return handle


def _branches(state: _State, value: str) -> None:
    from .lbr import parse_branches  # imports kernel numbers, which --help does not need

    state.options.lbr |= parse_branches(value)


def _probes(state: _State, value: str) -> None:
    state.options.probes += [parse_spec(text) for text in _expand(state, value)]


def _preset(state: _State, value: str) -> None:
    preset = PRESETS.get(value)
    if preset is None:
        raise UsageError(f"no case {value!r}; there are: {', '.join(sorted(PRESETS))}")
    state.options.soft_entry += preset.entry
    state.options.soft_allow += preset.allow
    state.options.deny += preset.deny


def _pids(name: str) -> _Handler:
    def handle(state: _State, value: str) -> None:
        if not value.isascii() or not value.isdigit() or not 0 < int(value) < 1 << 31:
            raise UsageError(f"not a process id: {value!r}")
        getattr(state.options, name).append(int(value))

    return handle


def _comms(name: str) -> _Handler:
    def handle(state: _State, value: str) -> None:
        for comm in _expand(state, value):
            getattr(state.options, name).append(comm)

    return handle


def _error(value: str) -> int:
    if value == "NULL":
        return NULL
    number = errnos.number_of(value)
    if number is None:
        raise UsageError(f"no error {value!r}: give a name such as EINVAL, or NULL, or any")
    return number


def _allow_error(state: _State, value: str) -> None:
    if state.allow_errors is None:
        state.allow_errors = set()
    if value.lower() == "any":
        state.any_error = True
    else:
        state.allow_errors.add(_error(value))


def _deny_error(state: _State, value: str) -> None:
    if value.lower() == "any":
        raise UsageError("-X any would reject every failed session")
    state.deny_errors.add(_error(value))


def _number(text: str) -> int:
    """Read a return value: a number in any base, NULL, or an error name, negative or not."""
    sign = -1 if text.startswith("-") else 1
    if text == "NULL":
        return 0
    try:
        value = sign * int(text.lstrip("-"), 0)
    except ValueError:
        number = errnos.number_of(text)
        if number is None:
            raise UsageError(f"no return value: {text!r}; give a number, -ENAME or NULL") from None
        return -number
    if not -(1 << 63) <= value < 1 << 64:
        raise UsageError(f"{text} does not fit 64 bits")
    return value - (1 << 64) if value >> 63 > 0 else value


def _retvals(name: str) -> _Handler:
    def handle(state: _State, value: str) -> None:
        low, dots, high = value.partition("..")
        span = (_number(low), _number(high if dots else low))
        if span[0] > span[1]:
            raise UsageError(f"{value}: the first value is the larger one")
        ranges = getattr(state.options, name)
        ranges.append(span)
        if len(ranges) > MAX_RANGES:
            raise UsageError(f"at most {MAX_RANGES} return values or ranges can be given")
        state.retvals = True

    return handle


def _positive(name: str, what: str) -> _Handler:
    def handle(state: _State, value: str) -> None:
        if not value.isascii() or not value.isdigit() or int(value) < 1:
            raise UsageError(f"--{what} needs a whole number above 0, not {value!r}")
        setattr(state.options, name, int(value))

    return handle


def _seconds(state: _State, value: str) -> None:
    try:
        state.options.duration = float(value)
    except ValueError:
        state.options.duration = 0
    if not 0 < state.options.duration < 1e9:
        raise UsageError(f"--duration needs a number of seconds above 0, not {value!r}")


def _set_text(name: str) -> _Handler:
    def handle(state: _State, value: str) -> None:
        setattr(state.options, name, value)

    return handle


def _longer(state: _State, value: str) -> None:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UsageError(f"-L needs a whole number of milliseconds above 0, not {value!r}")
    state.options.min_duration = int(value) * 1_000_000


def _success(state: _State, value: str) -> None:
    if value not in ("", "y", "n"):
        raise UsageError(f"-S takes y or n without a space, e.g. -Sn, not {value!r}")
    state.success = value != "n"
    state.success_text = f"-S{value}"


def _mechanism(letter: str, mechanism: Mechanism) -> _Handler:
    def handle(state: _State, value: str) -> None:
        if state.mechanism not in ("", letter):
            raise UsageError(f"-{state.mechanism} and -{letter} exclude each other")
        state.mechanism = letter
        state.options.mechanism = mechanism

    return handle


def _set(name: str, value: object) -> _Handler:
    def handle(state: _State, _: str) -> None:
        setattr(state.options, name, value)

    return handle


def _call_stack(state: _State, _: str) -> None:
    state.call_stack = True


def _verbose(state: _State, value: str) -> None:
    if value.strip("v"):
        raise UsageError(f"-v takes more v, not {value!r}")
    state.options.verbose += 1 + len(value)


def _symbolize(state: _State, value: str) -> None:
    mode = settings.LINES_BY_WORD.get(value)
    if mode is None:
        raise UsageError(f"-s takes none (n), linenum or inlines (s), not {value!r}")
    state.options.settings.symb_mode = mode


def _debug(state: _State, value: str) -> None:
    # Refused batches are always bisected, so there is nothing to switch on.
    if value == "full-lbr":
        state.options.full_lbr = True
    elif value != "multi-kprobe":
        _not_here(f"--debug {value}")
        raise UsageError(f"--debug takes full-lbr, not {value!r}")


def _not_here(option: str) -> None:
    """Raise `NotHere` for what only the original takes."""
    if why := reason(option):
        raise NotHere(f"{option}: {why}")


def _config(state: _State, value: str) -> None:
    settings.apply(state.options.settings, value)


def _show(text: str) -> _Handler:
    return _set("help", text)


_N, _R, _G = _Arg.NONE, _Arg.REQUIRED, _Arg.GLUED

_GROUPS: tuple[tuple[str, tuple[_Option, ...]], ...] = (
    (
        "Functions (GLOB is NAME, 'NAME [MODULE]' or :fs/*.c with * and ?, or @FILE with several)",
        (
            _Option("e", "entry", _R, "GLOB", "functions that open a session", _globs("entry")),
            _Option(
                "a", "allow", _R, "GLOB", "functions to show inside a session", _globs("allow")
            ),
            _Option("d", "deny", _R, "GLOB", "functions to leave out, in any case", _globs("deny")),
            _Option(
                "c",
                "case",
                _R,
                "CASE",
                f"ready-made set of functions: {', '.join(sorted(PRESETS))}",
                _preset,
            ),
        ),
    ),
    (
        "What to show",
        (
            _Option("E", "call-stack", _N, "", "stack of each failure (default)", _call_stack),
            _Option(
                "T", "trace", _N, "", "trace of function calls; -TE for both", _set("trace", True)
            ),
            _Option(
                "A", "capture-args", _N, "", "arguments of the calls", _set("capture_args", True)
            ),
            _Option(
                "J",
                "inject-probe",
                _R,
                "PROBE",
                "kprobe:F[+OFF], kretprobe:F, tp:CAT:NAME, rawtp:NAME or @FILE",
                _probes,
            ),
            _Option(
                "",
                "user-stack",
                _N,
                "",
                "stack of the program that called, above the kernel's",
                _set("user_stacks", True),
            ),
            _Option(
                "B",
                "lbr",
                _G,
                "SPEC",
                "last branches before a failure (default: any_return)",
                _branches,
            ),
            _Option(
                "",
                "trace-out",
                _R,
                "FILE",
                "calls as a file for Perfetto or Chrome (Trace Event Format)",
                _set_text("trace_out"),
            ),
            _Option("", "json", _N, "", "JSON Lines on standard output", _set("json", True)),
        ),
    ),
    (
        "How to attach (default: fentry.multi, else kprobe.multi, else fentry, else kprobes)",
        (
            _Option(
                "M",
                "kprobes-multi",
                _N,
                "",
                "one kprobe.multi link, or single kprobes where the kernel lacks it",
                _mechanism("M", Mechanism.MULTI),
            ),
            _Option(
                "K",
                "kprobes",
                _N,
                "",
                "single kprobes, one for each function",
                _mechanism("K", Mechanism.SINGLE),
            ),
            _Option(
                "F",
                "fentries",
                _N,
                "",
                "fentry and fexit, a program for each function",
                _mechanism("F", Mechanism.TRAMPOLINE),
            ),
            _Option(
                "",
                "dry-run",
                _N,
                "",
                "plan only: programs are loaded for the verifier, but not attached",
                _set("dry_run", True),
            ),
            _Option(
                "",
                "why",
                _R,
                "GLOB",
                "functions that can be traced and how, and why the others cannot",
                _globs("why"),
            ),
        ),
    ),
    (
        "Filters (default: every process, every error)",
        (
            _Option("p", "pid", _R, "PID", "process or thread to show, by id", _pids("allow_pids")),
            _Option(
                "P",
                "no-pid",
                _R,
                "PID",
                "process or thread to leave out, by id",
                _pids("deny_pids"),
            ),
            _Option(
                "n",
                "comm",
                _R,
                "NAME",
                "command to show, by name, or @FILE with names",
                _comms("allow_comms"),
            ),
            _Option(
                "N",
                "no-comm",
                _R,
                "NAME",
                "command to leave out, by name, or @FILE with names",
                _comms("deny_comms"),
            ),
            _Option(
                "L",
                "longer",
                _R,
                "MS",
                "shortest session to show, in milliseconds (default: 0)",
                _longer,
            ),
            _Option(
                "S",
                "success-stacks",
                _G,
                "y|n",
                "sessions that succeed too (default: y with -T alone, else n)",
                _success,
            ),
            _Option(
                "I",
                "interim-stacks",
                _N,
                "",
                "stacks of errors that are overwritten too, and at each -J probe",
                _set("interim", True),
            ),
            _Option(
                "x",
                "allow-errors",
                _R,
                "ERR",
                "error to show, e.g. EINVAL, NULL, any (default: any)",
                _allow_error,
            ),
            _Option(
                "",
                "cgroup",
                _R,
                "PATH",
                "cgroup (v2) whose tasks to show, by its directory",
                _set_text("cgroup"),
            ),
            _Option(
                "",
                "allow-retval",
                _R,
                "VALUE",
                "entry function's return value to show: 5, -ENOENT, LOW..HIGH",
                _retvals("allow_retvals"),
            ),
            _Option(
                "",
                "deny-retval",
                _R,
                "VALUE",
                "entry function's return value to leave out",
                _retvals("deny_retvals"),
            ),
            _Option(
                "",
                "max-sessions",
                _R,
                "N",
                "number of sessions after which the run ends",
                _positive("max_sessions", "max-sessions"),
            ),
            _Option(
                "",
                "duration",
                _R,
                "S",
                "seconds after which the run ends",
                _seconds,
            ),
            _Option(
                "X", "deny-errors", _R, "ERR", "error to leave out, whatever -x says", _deny_error
            ),
        ),
    ),
    (
        "Symbols and settings",
        (
            _Option(
                "C",
                "config",
                _R,
                "KEY=VALUE",
                "one of the settings that --config-help lists",
                _config,
            ),
            _Option(
                "",
                "debug",
                _R,
                "FEATURE",
                "full-lbr: also the branches of the tracing itself",
                _debug,
            ),
        ),
    ),
    (
        "Source lines (they need the extra pybpf[dwarf] and a vmlinux with debug information)",
        (
            _Option(
                "k",
                "kernel",
                _R,
                "PATH",
                "the vmlinux (default: looked for where distributions keep it)",
                _set_text("vmlinux"),
            ),
            _Option(
                "s",
                "symbolize",
                _G,
                "MODE",
                "none (n), linenum or inlines (s; default if there is one)",
                _symbolize,
            ),
        ),
    ),
    (
        "Help",
        (
            _Option("v", "verbose", _G, "v", "reasons for decisions; -vv for more", _verbose),
            _Option(
                "V", "version", _N, "", "version; -Vv with kernel features", _set("version", True)
            ),
            _Option("h", "help", _N, "", "this text", _show("help")),
            _Option("", "usage", _N, "", "one line of usage", _show("usage")),
            _Option("", "config-help", _N, "", "settings of -C, with defaults", _show("config")),
        ),
    ),
)

_OPTIONS = tuple(option for _, options in _GROUPS for option in options)
_SHORT = {option.short: option for option in _OPTIONS if option.short}
_LONG = {option.long: option for option in _OPTIONS}


# -- the whole --------------------------------------------------------------


def _words(arguments: Sequence[str]) -> Iterator[tuple[_Option, str, str]]:
    """Yield (option, its argument, its text on the command line) for each option."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            matches = [o for o in _OPTIONS if o.long == name] or [
                o for o in _OPTIONS if o.long.startswith(name)
            ]
            if not matches:
                _not_here(f"--{name}")
            if len(matches) != 1:
                what = "ambiguous" if matches else "unknown"
                raise UsageError(f"{what} option --{name}")
            option = matches[0]
            if equals and option.arg is _N:
                raise UsageError(f"--{option.long} takes no value")
            if option.arg is _R and not equals:
                value = _next(rest, f"--{option.long}")
            yield option, value, f"--{option.long}"
        elif word.startswith("-") and word != "-":
            yield from _cluster(word[1:], rest)
        else:
            raise UsageError(f"unexpected argument {word!r}; a command to trace goes after --")


def _cluster(letters: str, rest: list[str]) -> Iterator[tuple[_Option, str, str]]:
    while letters:
        letter, letters = letters[0], letters[1:]
        option = _SHORT.get(letter)
        if option is None:
            raise UsageError(f"unknown option -{letter}")
        value = ""
        if option.arg is _R:
            value = letters or _next(rest, f"-{letter}")
            letters = ""
        elif option.arg is _G:
            value, letters = letters, ""
        yield option, value, f"-{letter}"


def _next(rest: list[str], name: str) -> str:
    if not rest:
        raise UsageError(f"{name} needs a value")
    return rest.pop(0)


def _read_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def parse(arguments: Sequence[str], read_file: Callable[[str], str] = _read_file) -> Options:
    """Read a command line, without the program's name.

    :raises UsageError: if it makes no sense
    """
    own, command = list(arguments), None
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
        if not command:
            raise UsageError("no command after --")
    state = _State(read_file)
    for option, value, _ in _words(own):
        option.handle(state, value)
    options = state.options
    options.command = tuple(command or ())
    _settle(state)
    if options.help or options.version:
        return options
    if not (options.entry or options.soft_entry or options.why):
        raise UsageError("no entry functions: give at least one -e GLOB (or -c CASE)")
    return options


def _settle(state: _State) -> None:
    """Apply what options mean together."""
    options = state.options
    only_errors = state.allow_errors is not None
    if only_errors and state.success:
        raise UsageError(f"-x shows errors only, so {state.success_text} contradicts it")
    # -T alone is about calls: no stack, and sessions that succeed are shown too.
    options.stacks = state.call_stack or not options.trace
    if options.probes and not (options.trace or options.interim):
        raise UsageError("-J shows nothing without -T (calls) or -I (stacks)")
    if options.user_stacks and not options.stacks:
        raise UsageError("--user-stack needs stacks: add -E")
    if state.success is not None:
        options.success = state.success
    else:
        options.success = options.trace and not options.stacks and not only_errors
    if state.retvals:
        if only_errors or state.deny_errors:
            raise UsageError("--allow-retval and --deny-retval cannot be used with -x or -X")
        if state.success is None:
            options.success = True
    allow = None
    if state.allow_errors is not None and not state.any_error:
        allow = frozenset(state.allow_errors)
    options.errors = ErrorFilter(allow, frozenset(state.deny_errors))


def usage_text(prog: str = "retsnoop") -> str:
    """Return one line of usage."""
    return f"Usage: {prog} {_USAGE}\n"


def help_text(prog: str = "retsnoop") -> str:
    """Return what ``--help`` prints."""
    lines = [usage_text(prog).rstrip(), _ABOUT.summary, "", *_ABOUT.text.splitlines()]
    for title, options in _GROUPS:
        lines += ["", f"{title}:"]
        for option in options:
            if option.help:
                lines.append(f"  {_spelling(option):<30} {option.help}")
    return "\n".join([*lines, "", _ABOUT.epilog(prog)]) + "\n"


def page(prog: str) -> Page:
    """Describe the command line."""
    arguments = [
        Argument(
            tuple(filter(None, (f"-{o.short}" if o.short else "", f"--{o.long}"))),
            o.metavar,
            o.help,
            tuple(sorted(PRESETS)) if o.long == "case" else (),
            o.arg is _G,
            title,
        )
        for title, options in _GROUPS
        for o in options
        if o.help
    ]
    return Page(prog, _ABOUT, _USAGE, tuple(arguments), takes_command=True)


def _spelling(option: _Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    if option.arg is _R:
        return f"{short}--{option.long}={option.metavar}"
    if option.arg is _G:
        return f"{short}--{option.long}[={option.metavar}]"
    return f"{short}--{option.long}"
