"""How each section attaches: one row for each word that `pybpf.obj.sections` gives.

A row names the function that makes the link from a section name, and the method of
`pybpf.Program` that does it from arguments. The function's module is imported when it is first
used: those of all kinds take 15 ms. Nothing else reads section names to attach.
``pybpf obj inspect`` prints from this table too. To add a kind of attachment, write its
module and fill in its row.
"""

from __future__ import annotations

import errno

from .._lazy import load
from ..dataclass import dataclass
from ..errors import BpfError, UnsupportedFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..multi.link import MultiLink
    from .link import Link, LinkSet, Request

__all__ = ["WAYS", "Way", "attach", "problem"]


@dataclass(frozen=True, slots=True)
class Way:
    """Say how the programs of one word are attached. Without any of these, they are not yet.

    :param attach: ``.module:function`` of this package that makes the link, from what the section
        says; the module is imported when a program is attached so
    :param call: the method that attaches such a program, with its arguments
    :param instead: what to do where nothing attaches such a program
    :param form: what a section has after its slash, if `attach` reads it
    """

    attach: str = ""
    call: str = ""
    instead: str = ""
    form: str = "TARGET"

    @property
    def hint(self) -> str:
        """Say what to do if a section does not say where to attach."""
        return f"call {self.call}" if self.call else self.instead

    def maker(self) -> Callable[[Request], Link | LinkSet | MultiLink]:
        """Import the function that makes the link."""
        maker: Callable[[Request], Link | LinkSet | MultiLink] = load(self.attach, __package__)
        return maker


#: Every word of `pybpf.obj.sections.SectionDef.how`.
WAYS: Mapping[str, Way] = {
    # Kernel functions.
    "tracing": Way(".tracing:by_section", "attach_tracing() after setting .attach_to", form="NAME"),
    "lsm": Way(".tracing:by_section", "attach_tracing() after setting .attach_to", form="HOOK"),
    "tracing_multi": Way(".tracing:multi_by_section", "attach_multi(functions)", form="GLOB"),
    "kprobe": Way(".kprobe:by_section", "attach_kprobe(function)", form="FUNCTION"),
    "ksyscall": Way(".kprobe:syscall_by_section", "attach_kprobe(function)", form="NAME"),
    "kprobe_multi": Way(".kprobe:multi_by_section", "attach_kprobe_multi(syms=[...])", form="GLOB"),
    "kprobe_session": Way(
        ".kprobe:multi_by_section", "attach_kprobe_multi(syms=[...])", form="GLOB"
    ),
    # Tracepoints and iterators.
    "tracepoint": Way(
        ".tracepoint:by_section", "attach_tracepoint(category, name)", form="CATEGORY/NAME"
    ),
    "raw_tracepoint": Way(".tracepoint:raw_by_section", "attach_raw_tp(name)", form="NAME"),
    "iter": Way(".iter:by_section", "attach_iter(map=..., cgroup=..., pid=...)", form="KIND"),
    # User space.
    "uprobe": Way(
        ".uprobe:by_section", "attach_uprobe(binary, symbol_or_offset)", form="BINARY:FUNCTION"
    ),
    "uprobe_multi": Way(
        ".uprobe:multi_by_section",
        "attach_uprobe_multi(binary, glob_or_symbols)",
        form="BINARY:GLOB",
    ),
    "usdt": Way(
        ".usdt:by_section", "attach_usdt(binary, provider, name)", form="BINARY:PROVIDER:NAME"
    ),
    # What the caller names: a device, a cgroup, a namespace, a map.
    "xdp": Way(call="attach_xdp(interface)"),
    "cgroup": Way(call="attach_cgroup(path_or_fd)"),
    "netns": Way(call="attach_netns(path_or_fd)"),
    "socket": Way(call="attach_socket(socket)"),
    "reuseport": Way(call="attach_reuseport(socket)"),
    "map_entry": Way(instead="put program.fileno() into an entry of a devmap or cpumap"),
    "run": Way(instead="it is run, not attached: call test_run()"),
    "freplace": Way(
        ".freplace:by_section", "attach_freplace(target_program, function)", form="FUNCTION"
    ),
    "struct_ops": Way(instead="it is attached with its map: obj.maps[NAME].attach()"),
    "tc": Way(call="attach_tcx(interface, direction) or attach_tc(interface, direction)"),
    "tcx": Way(call="attach_tcx(interface, direction)"),
    "netkit": Way(call="attach_netkit(interface, side)"),
    "netfilter": Way(call="attach_netfilter(family, hook, priority)"),
    "sockmap": Way(call="attach_sockmap(map)"),
    "perf_event": Way(call="attach_perf_event(event)"),
    "lwt": Way(
        instead="it runs from a route: pin() it and name the path in "
        "`ip route add ... encap bpf in|out|xmit pinned PATH`"
    ),
    "lirc": Way(
        instead="pybpf cannot attach to infrared receivers: pin() it, and load it with ir-keytable"
    ),
}


def problem(how: str, section: str, target: str) -> BpfError | None:
    """Return why a program cannot be attached by its section, None if it can.

    :param how: word of `pybpf.obj.sections`, "" for a section name that libbpf does not know
    :param section: section name, for the message
    :param target: what the section or ``attach_to`` names
    :returns: an error to raise, whose ``.hint`` says what to call instead;
        `UnsupportedFeature` if pybpf has nothing to call
    """
    if not how:
        hint = "libbpf has no such section name; call the attach_*() method you need"
        return BpfError(errno.EINVAL, f"section {section!r} does not say how to attach", hint)
    way = WAYS.get(how, Way())
    if way.attach:
        if target:
            return None
        write = f"write {section.partition('/')[0]}/{way.form}"
        hint = f"{way.hint}, or {write}" if way.hint else write
        return BpfError(errno.EINVAL, f"section {section!r} names no target", hint)
    if way.hint:
        what = f"section {section!r} does not say where to attach"
        return BpfError(errno.EINVAL, what, way.hint)
    return UnsupportedFeature(f"attaching by section {section!r}", by="pybpf yet")


def attach(how: str, request: Request) -> Link | LinkSet | MultiLink:
    """Attach a program as its section says.

    :param how: word of `pybpf.obj.sections`, "" for a section name that libbpf does not know
    :raises UnsupportedFeature: if pybpf cannot attach such programs
    :raises BpfError: EINVAL if the section does not say where, with the method to call in the
        hint; or if the kernel refuses
    """
    error = problem(how, request.section, request.target)
    if error is not None:
        raise error
    return WAYS[how].maker()(request)
