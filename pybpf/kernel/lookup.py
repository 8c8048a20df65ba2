"""Find places in the kernel by name, and suggest names for a wrong one."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from .._uapi.enums import AttachType
from ..btf import BtfKind
from ..dataclass import dataclass
from ..errors import BpfError
from ..namedtuple import NamedTuple
from .globs import Matcher, Pattern, is_glob, parse_pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .btf import KernelBtf
    from .host import Facts, SavedBtf

__all__ = [
    "BTF_TARGETS",
    "SYSCALL_PREFIXES",
    "BtfTarget",
    "asked_place",
    "btf_target",
    "function_names",
    "kprobe_places",
    "near_names",
    "raw_tracepoint_names",
    "syscall_names",
]

_LONGEST = 512  # letters of a name to compare: KSYM_NAME_LEN
_WORD = 4  # words in a name with fewer letters are ignored
_COMMON = 100  # a word that this many names share is ignored
_BESIDE = 100  # at most this many functions lie between two of one subject
_TRACEPOINT = "btf_trace_"  # in front of the name of each tracepoint's typedef

#: What the name of a system call's entry starts with, on x86-64 and where calls have no wrappers.
SYSCALL_PREFIXES = ("__x64_sys_", "__se_sys_", "sys_")

#: ``enum bpf_attach_type`` -> (prefix of the BTF name, name of the target in messages).
BTF_TARGETS = {
    AttachType.BPF_TRACE_RAW_TP: (_TRACEPOINT, "tracepoint"),
    AttachType.BPF_LSM_MAC: ("bpf_lsm_", "LSM hook"),
    AttachType.BPF_LSM_CGROUP: ("bpf_lsm_", "LSM hook"),
    AttachType.BPF_TRACE_ITER: ("bpf_iter_", "iterator"),
    AttachType.BPF_TRACE_FENTRY: ("", "kernel function"),
    AttachType.BPF_TRACE_FEXIT: ("", "kernel function"),
    AttachType.BPF_MODIFY_RETURN: ("", "kernel function"),
    AttachType.BPF_TRACE_FSESSION: ("", "kernel function"),
}


class BtfTarget(NamedTuple):
    """Name a kernel function or type that a program is loaded for.

    :ivar btf_id: id in its BTF
    :ivar module: module whose BTF that is, "" for the kernel itself
    :ivar number: `KernelBtf.number` of the module when it was looked up; 0 if not looked up
    :ivar program: descriptor of the BPF program that the function is in, 0 for the kernel's own
    """

    btf_id: int
    module: str = ""
    number: int = 0
    program: int = 0


def btf_target(kernel: KernelBtf | SavedBtf, name: str, module: str | None, what: str) -> BtfTarget:
    """Find a kernel function, or the type of a tracepoint, by its name in BTF.

    :param name: name of a FUNC, or of a TYPEDEF if it starts with ``btf_trace_``
    :param module: look only in this module, ``vmlinux`` for the kernel itself; None: anywhere
    :param what: name of the target in messages
    :raises BpfError: ESRCH, as in libbpf, with near names
    """
    kind = BtfKind.TYPEDEF if name.startswith(_TRACEPOINT) else BtfKind.FUNC
    if module is None or module == "vmlinux":
        found = kernel.vmlinux().find(name, kind)
        if found is not None:
            return BtfTarget(found)
    for owner in [module] if module else kernel.modules():
        if owner == "vmlinux":
            continue
        number = kernel.number(owner)
        btf = kernel.get(owner)
        found = btf.find(name, kind) if btf is not None else None
        if btf is not None and found is not None and found >= btf.start_id:
            return BtfTarget(found, owner, number)
    hint = _no_module(kernel, module) if module else ""
    raise BpfError(
        errno.ESRCH,
        f"{what} {name!r}" + (f" in module {module!r}" if module else ""),
        hint or _near_types(kernel, name, kind),
    )


def _no_module(kernel: KernelBtf | SavedBtf, module: str) -> str:
    known = list(kernel.modules())
    if module == "vmlinux" or module in known:
        return ""
    near = near_names(module, known)
    said = f"no module of that name with BTF is loaded; try: modprobe {module}"
    return f"{said}; near: {', '.join(near)}" if near else said


def _near_types(kernel: KernelBtf | SavedBtf, name: str, kind: int) -> str:
    btf = kernel.vmlinux()
    near = near_names(name, (btf.name(i) for i in btf.ids(kind)))
    where = "the kernel's BTF has no such name: it may be inlined, renamed or in a module"
    return f"{where}; near: {', '.join(near)}" if near else where


@dataclass(frozen=True, slots=True)
class KprobePlaces:
    """Say where kprobes go.

    :param addresses: entries of functions, ascending
    :param modules: modules of these functions; addresses are valid while these stay loaded
    """

    addresses: tuple[int, ...]
    modules: frozenset[str]


def kprobe_places(facts: Facts, glob: str) -> KprobePlaces:
    """Find the traceable functions that a glob names.

    :param glob: ``NAME``, ``NAME [MODULE]`` or ``MODULE:NAME`` with ``*`` and ``?``, as
        `pybpf.kernel.globs` reads it
    :raises PlanError: if the glob is malformed
    :raises BpfError: ENOENT if nothing matches; with near names, or the module that is not loaded
    """
    pattern = parse_pattern(glob)
    matcher = Matcher([pattern])
    ftrace, symbols = facts.ftrace, facts.kallsyms
    out: dict[int, str] = {}
    for position in matcher.positions(ftrace):
        name, module = ftrace.split(ftrace.lines[position])
        found = [s for s in symbols.by_name(name) if s.is_function and s.module == module]
        if len(found) > 1:
            found = [s for s in found if ftrace.is_site_of(position, s.addr)]
        out |= {s.addr: module for s in found}
    if not out:
        what = f"no traceable kernel function matches {glob!r}"
        raise BpfError(errno.ENOENT, what, _what_helps(facts, pattern))
    return KprobePlaces(tuple(sorted(out)), frozenset(out.values()))


def _what_helps(facts: Facts, pattern: Pattern) -> str:
    # For a pattern that matches nothing.
    module = pattern.owner
    if module and not is_glob(module) and module not in facts.loaded:
        return f"module {module!r} is not loaded; try: modprobe {module}"
    if not pattern.is_exact:
        return ""
    near = near_names(pattern.name, facts.ftrace.names())
    return f"near: {', '.join(near)}" if near else ""


def asked_place(facts: Facts, glob: str) -> KprobePlaces | None:
    """Ask the running kernel for the function that a glob without stars names, and read no table.

    It does not tell whether the function can be traced, but refuses a link that it cannot make.

    :param glob: as `kprobe_places` reads it
    :returns: what `kprobe_places` would return if the function can be traced; None if the
        tables have to tell, as for functions of modules and names that several functions share
    :raises PlanError: if the glob is malformed
    """
    pattern = parse_pattern(glob)
    if not pattern.is_exact or pattern.owner or facts.is_saved:
        return None
    from .funcfind import FunctionFinder  # 2 ms, only for exact names

    try:
        with FunctionFinder() as finder:
            address = finder.find(pattern.name)
    except OSError:  # no rights, an older kernel, or no /sys
        return None
    return None if address is None else KprobePlaces((address,), frozenset({""}))


def syscall_names(facts: Facts) -> Iterator[str]:
    """Iterate over the names of the kernel's system calls.

    :raises DeniedByPolicy: if addresses are hidden (kernel.kptr_restrict)
    """
    prefix = SYSCALL_PREFIXES[0]
    found = facts.kallsyms.find_prefix(prefix)
    return (symbol.name.removeprefix(prefix) for symbol in found)


def function_names(facts: Facts) -> Iterator[str]:
    """Iterate over the names of the kernel's functions, including those of modules."""
    return facts.kallsyms.function_names()


def raw_tracepoint_names(facts: Facts) -> Iterator[str]:
    """Iterate over the names of the kernel's own raw tracepoints, as its BTF lists them.

    :raises UnsupportedFeature: if the kernel has no BTF
    """
    btf = facts.btf.vmlinux()
    names = (btf.name(i) for i in btf.ids(BtfKind.TYPEDEF))
    return (name.removeprefix(_TRACEPOINT) for name in names if name.startswith(_TRACEPOINT))


def near_names(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """Find names that are near to `name`, best first.

    Spelling is compared only with names that begin alike or contain `name`,
    so 50,000 names cost some ten milliseconds. If none is near, the
    first word of the name may have changed: ``do_rmdir`` became ``filename_rmdir``.

    :param names: in the order of their addresses, if they are functions
    """
    if len(name) < 3:
        return []
    import difflib

    name = name[:_LONGEST]
    names = [other for other in names if len(other) <= _LONGEST]
    plain = name.lstrip("_")
    near = list(_alike(name, plain, names))
    inside = sorted((n for n in near if plain in n), key=lambda n: (len(n), n))
    close = difflib.get_close_matches(name, near[:4000], limit, 0.75)
    return list(dict.fromkeys([*close, *inside] or _of_one_word(plain, names)))[:limit]


def _of_one_word(name: str, names: Sequence[str]) -> list[str]:
    # Names that share the longest word. Functions of one source file lie side by side. The
    # place with most names that share the word is the core. The others belong to file systems.
    for word in sorted(name.split("_"), key=len, reverse=True):
        if len(word) < _WORD:
            break
        found = [at for at, other in enumerate(names) if word in other and word in other.split("_")]
        if not 0 < len(found) <= _COMMON:
            continue
        groups = [[found[0]]]
        for before, at in pairwise(found):
            if at - before > _BESIDE:
                groups.append([])
            groups[-1].append(at)
        groups.sort(key=len, reverse=True)
        return [n for group in groups for n in sorted((names[at] for at in group), key=len)]
    return []


def _alike(name: str, plain: str, names: Iterable[str]) -> Iterator[str]:
    starts = (name[:3], plain[:3], f"_{plain[:3]}", f"__{plain[:3]}")
    low, high = len(name) - 3, len(name) + 3
    for other in names:
        if plain in other or (low <= len(other) <= high and other.startswith(starts)):
            yield other
