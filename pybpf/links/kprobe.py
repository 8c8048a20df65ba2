"""Links on kernel functions by kprobes, one or many."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Sequence

from .._sys import link as sys_link
from .._sys import perf
from .._uapi.enums import AttachType, KprobeMultiFlag
from ..digits import number
from ..errors import BpfError, DeniedByPolicy, StateError, UnsupportedFeature
from ..features import Feature, Support
from ..kernel.lookup import (
    SYSCALL_PREFIXES,
    KprobePlaces,
    asked_place,
    function_names,
    kprobe_places,
    syscall_names,
)
from ..wording import many
from .link import HasFd, Link, Request, near, need
from .perf_event import attach_perf_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..kernel.host import Facts

__all__ = [
    "attach_kprobe",
    "attach_kprobe_multi",
    "by_section",
    "multi_by_section",
    "syscall_by_section",
]

_UNKNOWN = (
    "a name is unknown, or several functions share it; "
    "attach_multi tells which one, with near names"
)
# What the kernel's errno for a place means (kernel/kprobes.c, kernel/trace/trace_kprobe.c).
_REFUSED = {
    errno.EADDRNOTAVAIL: "several functions have this name: give the address of one, "
    "or attach_kprobe_multi or attach_multi to all",
    errno.EILSEQ: "no instruction starts at this offset",
    errno.EINVAL: "the kernel allows no kprobe at this place",
}
# How often a glob is looked up again while modules come and go.
_TRIES = 4
# What follows the slash in kprobe/...: "vfs_read", "vfs_read+0x10".
_PLACE = re.compile(r"^(?P<name>[\w.$]+)(?:\+(?P<offset>0x[0-9a-fA-F]+|\d+))?$")


def attach_kprobe(
    program: HasFd,
    function: str = "",
    *,
    offset: int = 0,
    address: int = 0,
    retprobe: bool = False,
    cookie: int = 0,
    names: Callable[[], Iterable[str]] = list,
) -> Link:
    """Attach to one kernel function by a kprobe or kretprobe (perf_event_open).

    :param function: symbol name; "" if `address` is given
    :param offset: bytes from its start; must be 0 for a return probe
    :param address: absolute kernel address, instead of `function`
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :param names: returns the existing names, for the message if `function` does not exist
    :raises TypeError: if `function` is not a str
    :raises BpfError: ENOENT for an unknown name, with near names; EINVAL for a blacklisted
        address; EADDRNOTAVAIL for a name that several functions share
    """
    need(function, str, "name of a kernel function", "a number goes into address=")
    need(offset, int, "offset into the function, in bytes")
    kind = "kretprobe" if retprobe else "kprobe"
    place = function or f"{address:#x}"
    what = f"{kind}/{place}" + (f"+{offset:#x}" if offset else "")
    if not function and not address:
        raise BpfError(errno.EINVAL, kind, "give the name of a function, or an address")
    try:
        event = perf.open_kprobe(function or None, offset or address, retprobe=retprobe)
    except BpfError as error:
        if error.errno == errno.ENOENT and function:
            error.hint = near(function, names) or error.hint
        if error.errno == errno.EINVAL and retprobe and offset:
            error.hint = "a return probe is at the start of a function: its offset is 0"
        error.hint = error.hint or _REFUSED.get(error.errno or 0, "")
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)


def by_section(request: Request) -> Link:
    """Attach ``kprobe/FUNCTION``, ``kprobe/FUNCTION+OFFSET`` or ``kretprobe/FUNCTION``.

    :raises BpfError: EINVAL if the target has another form
    """
    place = _PLACE.match(request.target)
    offset = number(place["offset"] or "0") if place is not None else None
    if place is None or offset is None:
        raise BpfError(errno.EINVAL, f"{request.target!r} is not FUNCTION or FUNCTION+OFFSET")
    return attach_kprobe(
        request.program,
        place["name"],
        offset=offset,
        retprobe=request.retprobe,
        cookie=request.cookie,
        names=lambda: function_names(request.facts),
    )


def syscall_by_section(request: Request) -> Link:
    """Attach ``ksyscall/NAME`` or ``kretsyscall/NAME`` to a system call.

    The name of a system call's entry differs between kernels. Each possible name is tried, so
    symbols need not be read.

    :raises BpfError: ENOENT if the kernel lacks that system call, with near names
    """
    for prefix in SYSCALL_PREFIXES:
        try:
            return attach_kprobe(
                request.program,
                prefix + request.target,
                retprobe=request.retprobe,
                cookie=request.cookie,
            )
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
    hint = near(request.target, lambda: syscall_names(request.facts))
    raise BpfError(errno.ENOENT, f"system call {request.target!r}", hint)


def multi_by_section(request: Request) -> Link:
    """Attach ``kprobe.multi/GLOB``, ``kretprobe.multi/GLOB`` or ``kprobe.session/GLOB``.

    One name needs no list of symbols or of traceable functions, unless it is refused. Modules may
    come and go meanwhile. A link is kept only if its functions' modules stayed.

    :raises UnsupportedFeature: if the kernel has no FPROBE, whatever the names
    :raises BpfError: ENOENT if no traceable function matches
    :raises StateError: if the program is closed
    """
    facts = request.facts
    refusal: BpfError | None = None
    if (place := asked_place(facts, request.target)) is not None:
        try:
            return _on_places(request, place)
        except (DeniedByPolicy, StateError, UnsupportedFeature):
            raise
        except BpfError as error:
            refusal = error  # the tables say why
    for _ in range(_TRIES):
        facts = facts.current()
        try:
            places = kprobe_places(facts, request.target)
        except BpfError as error:
            # No other name or right helps where the kernel takes no such link. Where it refused one
            # for another reason, it takes them.
            if refusal is None and _takes_none(facts):
                raise _no_fprobe() from error
            raise error from refusal
        try:
            link = _on_places(request, places)
        except BpfError:
            if not facts.loaded.lost(places.modules):
                raise
            continue
        if not facts.loaded.lost(places.modules):
            return link
        link.close()
    names = ", ".join(sorted(places.modules - {""}))
    hint = f"modules were unloaded or loaded again each time ({names})"
    raise BpfError(errno.ENOENT, request.what, hint)


def _takes_none(facts: Facts) -> bool:
    if facts.is_saved:
        return False
    try:
        return facts.probes.answer(Feature.KPROBE_MULTI).support is Support.UNSUPPORTED
    except BpfError:
        return False


def _no_fprobe() -> UnsupportedFeature:
    return UnsupportedFeature("kprobe.multi", "5.18", "it was built without CONFIG_FPROBE")


def _on_places(request: Request, places: KprobePlaces) -> Link:
    addrs = places.addresses
    return attach_kprobe_multi(
        request.program,
        addrs=addrs,
        cookies=[request.cookie] * len(addrs) if request.cookie else None,
        retprobe=request.retprobe,
        session=request.attach_type == AttachType.BPF_TRACE_KPROBE_SESSION,
    )


def attach_kprobe_multi(
    program: HasFd,
    *,
    syms: Sequence[str] | None = None,
    addrs: Sequence[int] | None = None,
    cookies: Sequence[int] | None = None,
    retprobe: bool = False,
    session: bool = False,
) -> Link:
    """Attach to many functions by one kprobe.multi link (kernels with CONFIG_FPROBE).

    :param syms: symbol names
    :param addrs: addresses of function entries; give exactly one of `syms` and `addrs`
    :param cookies: ``__u64`` per function, in the same order
    :param session: the program was loaded for BPF_TRACE_KPROBE_SESSION (Linux 6.10)
    :raises TypeError: `syms` is one name, not a list
    :raises ValueError: both or none of them are given, or no function, or not a cookie for each
    :raises UnsupportedFeature: if the kernel has no FPROBE
    :raises BpfError: ESRCH if a symbol is unknown or ambiguous, EINVAL or ENOENT if an
        address cannot be probed: one bad function fails the whole link
    """
    if (syms is None) == (addrs is None):
        raise ValueError("give either syms or addrs")
    if isinstance(syms, str):
        raise TypeError(f"syms are several names: [{syms!r}]")
    if not (syms or addrs):
        raise ValueError("no function is named")
    count = len(syms if syms is not None else addrs or ())
    if cookies is not None and len(cookies) != count:
        raise ValueError(f"{many(len(cookies), 'cookie')} for {many(count, 'function')}")
    kind = AttachType.BPF_TRACE_KPROBE_SESSION if session else AttachType.BPF_TRACE_KPROBE_MULTI
    try:
        fd = sys_link.link_create_kprobe_multi(
            program.fileno(),
            flags=KprobeMultiFlag.BPF_F_KPROBE_MULTI_RETURN if retprobe else 0,
            syms=syms,
            addrs=addrs,
            cookies=cookies,
            attach_type=kind,
        )
    except BpfError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise _no_fprobe() from error
        if error.errno == errno.ESRCH and syms is not None:
            error.hint = _UNKNOWN
        error.add_context(f"kprobe.multi on {many(count, 'function')}")
        raise
    return Link(fd, f"{'kretprobe' if retprobe else 'kprobe'}.multi x{count}")
