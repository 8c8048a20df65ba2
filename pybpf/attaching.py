"""Attaching a program by names: a method for each kind, from interfaces to probes.

What a program is, its section and its object, is here too, because every error of attaching says
it. Loading, and the kinds whose target decides how a program is loaded (fentry, freplace,
multi programs), are `pybpf.programs`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from . import links
from ._uapi.enums import AttachType
from .errors import BpfError, StateError
from .kernel import lookup
from .links import table
from .obj.sections import attach_types, find_by_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from .binding import Binding
    from .maps import Map
    from .obj.spec import ProgramSpec

__all__ = ["Attaching"]

# Ways of attaching (as in `pybpf.obj.sections`) whose programs are all kprobes to the kernel.
_PROBES = ("kprobe", "ksyscall", "uprobe", "usdt")

_SESSIONS = (AttachType.BPF_TRACE_KPROBE_SESSION, AttachType.BPF_TRACE_UPROBE_SESSION)


def _word_of(attach_type: int, words: Mapping[str, AttachType]) -> str:
    return next((word for word, number in words.items() if number == attach_type), "")


def _usdt_specs(binding: Binding) -> links.UsdtSpecs:
    return links.UsdtSpecs(binding.maps)


class Attaching:
    """Attach one BPF program to what names say.

    :ivar type: ``enum bpf_prog_type``
    :ivar expected_attach_type: ``enum bpf_attach_type``
    :ivar attach_to: what the section names, or what was assigned instead
    """

    _spec: ProgramSpec
    _binding: Binding
    type: int
    expected_attach_type: int
    attach_to: str

    if TYPE_CHECKING:

        def fileno(self) -> int: ...

        @property
        def knows_attach_type(self) -> bool: ...

    @property
    def spec(self) -> ProgramSpec:
        """Return the blueprint, as read from the object."""
        return self._spec

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def section(self) -> str:
        """Return the section name as written in the source, e.g. ``fexit/vfs_read``."""
        return self._spec.section

    @property
    def attaches(self) -> str:
        """Return how it is attached: a word of `pybpf.obj.sections`, "" if not known.

        The section decides, unless `type` or `expected_attach_type` were changed.
        """
        known = self._spec.sec_def
        types = (self.type, self.expected_attach_type)
        if known is None or (known.type, known.attach_type) != types:
            known = find_by_type(*types) or known
        return known.how if known is not None else ""

    @contextmanager
    def _named(self, *ways: str) -> Iterator[None]:
        # Add the program's name to errors raised in this block. If the kernel's EINVAL may mean
        # that the program is of another kind than these `ways` of attaching need, add a hint
        # with the way its own section needs.
        own = self.attach_to == self._spec.attach_to
        on = "" if own else f", on {self.attach_to}"
        who = f"program {self.name!r} ({self.section}{on})"
        try:
            yield
        except BpfError as error:
            if ways and error.errno == errno.EINVAL and self.attaches not in ways:
                way = table.WAYS.get(self.attaches, table.Way())
                if way.hint and not error.hint:
                    kind = f"section {self.section!r}" if self.section else "this type"
                    error.hint = f"a program of {kind}: {way.hint}"
            if who not in error.context and not isinstance(error, StateError):
                error.add_context(who)
            raise

    def _at_return(self, wanted: bool | None) -> bool:
        known = self._spec.sec_def
        return wanted if wanted is not None else known is not None and known.retprobe

    def _for_session(self, wanted: bool | None) -> bool:
        return wanted if wanted is not None else self.expected_attach_type in _SESSIONS

    def _need_attach_type(self) -> None:
        # The kernel attaches some programs with any attach type: an egress filter at ingress.
        if self.knows_attach_type:
            return
        known = [f"{AttachType(one).name} ({one:d})" for one in attach_types(self.type)]
        which = ", ".join(known[:3]) + (", ..." if len(known) > 3 else "")
        hint = f"assign .expected_attach_type: {which}"
        raise BpfError(errno.EINVAL, "the kernel does not tell what it was loaded for", hint)

    def attach_kprobe(
        self,
        function: str = "",
        offset: int = 0,
        retprobe: bool | None = None,
        *,
        address: int = 0,
        cookie: int = 0,
    ) -> links.Link:
        """Attach to one kernel function by a kprobe or kretprobe.

        :param function: its name, or "" if `address` is given
        :param offset: bytes from its start; must be 0 for a return probe
        :param retprobe: run when the function returns; None means that the section says so
            (``kretprobe``, ``uretprobe``)
        :param address: absolute kernel address, instead of `function`
        :param cookie: ``__u64`` for bpf_get_attach_cookie
        :raises TypeError: if `function` is not a str
        :raises BpfError: ENOENT for an unknown name, with near names; EINVAL for a place that
            must not be probed; EADDRNOTAVAIL for a name that several functions share
        """
        with self._named(*_PROBES):
            return links.attach_kprobe(
                self,
                function,
                offset=offset,
                address=address,
                retprobe=self._at_return(retprobe),
                cookie=cookie,
                names=lambda: lookup.function_names(self._binding.facts),
            )

    def attach_kprobe_multi(
        self,
        *,
        syms: Sequence[str] | None = None,
        addrs: Sequence[int] | None = None,
        cookies: Sequence[int] | None = None,
        retprobe: bool | None = None,
        session: bool | None = None,
    ) -> links.Link:
        """Attach to many kernel functions with one link; see `pybpf.links.attach_kprobe_multi`.

        :param retprobe: run when the functions return; None means that the section says so
            (``kretprobe.multi``)
        :param session: run at entry and return; None means that the program was loaded for it
            (``kprobe.session``)
        """
        with self._named("kprobe_multi", "kprobe_session"):
            return links.attach_kprobe_multi(
                self,
                syms=syms,
                addrs=addrs,
                cookies=cookies,
                retprobe=self._at_return(retprobe),
                session=self._for_session(session),
            )

    def attach_tracepoint(self, category: str, name: str, *, cookie: int = 0) -> links.Link:
        """Attach to a static tracepoint, e.g. ``("sched", "sched_switch")``.

        :param cookie: ``__u64`` for bpf_get_attach_cookie
        :raises TypeError: if a name is not a str
        :raises BpfError: ENOENT if tracefs does not list that event, with near names
        """
        with self._named("tracepoint"):
            return links.attach_tracepoint(self, category, name, cookie=cookie)

    def attach_raw_tp(self, name: str, *, cookie: int = 0) -> links.Link:
        """Attach to a raw tracepoint, e.g. ``sched_switch``.

        :param cookie: ``__u64``; needs Linux 6.10 or newer when not 0
        :raises TypeError: if `name` is not a str
        :raises BpfError: ENOENT if the tracepoint does not exist, with near names
        """
        with self._named("raw_tracepoint"):
            return links.attach_raw_tracepoint(
                self,
                name,
                cookie=cookie,
                names=lambda: lookup.raw_tracepoint_names(self._binding.facts),
            )

    def attach_uprobe(
        self,
        binary: str | os.PathLike[str],
        symbol_or_offset: str | int,
        pid: int | None = None,
        retprobe: bool | None = None,
        *,
        ref_ctr_offset: int = 0,
        cookie: int = 0,
    ) -> links.Link:
        """Attach to a function of an executable or library by a uprobe or uretprobe.

        :param binary: path, or name: ``libc.so.6`` (LD_LIBRARY_PATH and the system's library
            directories), ``bash`` (PATH)
        :param symbol_or_offset: ``malloc``, ``malloc+0x10``, ``memcpy@GLIBC_2.14``, or bytes
            from the start of the file
        :param pid: trace only that process; None for all, 0 for the caller's
        :param retprobe: run when the function returns; None means that the section says so
            (``kretprobe``, ``uretprobe``)
        :param ref_ctr_offset: file offset of a USDT semaphore (bytes), 0 for none
        :param cookie: ``__u64`` for bpf_get_attach_cookie
        :raises TypeError: if an argument is of another type
        :raises ObjectFormatError: if the file is not an ELF64 file
        :raises BpfError: ENOENT if the file, library or function does not exist, with near names;
            EINVAL if a name means several functions; ESRCH if the process does not exist
        """
        with self._named(*_PROBES):
            return links.attach_uprobe(
                self,
                binary,
                symbol_or_offset,
                pid=pid,
                retprobe=self._at_return(retprobe),
                ref_ctr_offset=ref_ctr_offset,
                cookie=cookie,
            )

    def attach_uprobe_multi(
        self,
        binary: str | os.PathLike[str],
        glob_or_symbols: str | Sequence[str],
        pid: int | None = None,
        retprobe: bool | None = None,
        session: bool | None = None,
        *,
        cookies: int | Sequence[int] | None = None,
    ) -> links.Link:
        """Attach to many functions of an executable or library with one link (Linux 6.6).

        :param binary: path or name, as for `attach_uprobe`
        :param glob_or_symbols: a glob, ``*alloc``, or a list of names
        :param pid: trace only that process; None for all, 0 for the caller's
        :param retprobe: run when the functions return; None means that the section says so
            (``uretprobe.multi``)
        :param session: run at entry and return (Linux 6.13); None means that the program was
            loaded for it (``uprobe.session``)
        :param cookies: ``__u64`` for bpf_get_attach_cookie: one for all, or one per name in order
        :raises UnsupportedFeature: the kernel has no uprobe.multi links
        :raises BpfError: ENOENT if the file or function does not exist, with near names
        """
        with self._named("uprobe_multi"):
            return links.attach_uprobe_multi(
                self,
                binary,
                glob_or_symbols,
                pid=pid,
                retprobe=self._at_return(retprobe),
                session=self._for_session(session),
                cookies=cookies,
            )

    def attach_usdt(
        self,
        binary: str | os.PathLike[str],
        provider: str,
        name: str,
        pid: int | None = None,
        *,
        cookie: int = 0,
    ) -> links.UsdtLink:
        """Attach to a static probe of a program or library (USDT), at all its places.

        The BPF program includes ``usdt.h`` (ours or libbpf's) and reads arguments with
        ``bpf_usdt_arg``.

        :param binary: path or name, as for `attach_uprobe`
        :param provider: ``python``, ``libc``
        :param name: ``gc__start``
        :param pid: trace only that process; None for all, 0 for the caller's
        :param cookie: ``__u64`` for bpf_usdt_cookie
        :raises TypeError: if an argument is of another type
        :raises ObjectFormatError: if the file is not an ELF64 file, or its notes are malformed
        :raises BpfError: ENOENT if the file or probe does not exist, with near names
        """
        with self._named(*_PROBES):
            specs = self._binding.share(_usdt_specs)
            return links.attach_usdt(self, specs, binary, provider, name, pid=pid, cookie=cookie)

    def attach_xdp(
        self, interface: str | int, mode: str = "auto", *, link: bool = True
    ) -> links.Link:
        """Attach an XDP program to a network interface.

        :param interface: its name (``eth0``) or index
        :param mode: "auto", "generic" (any driver), "native" (in the driver) or "offload"
        :param link: False uses netlink, as ``ip link set dev NAME xdp`` does (before Linux 5.9)
        :raises ValueError: for an unknown mode
        :raises TypeError: if `interface` is neither a str nor an int
        :raises BpfError: ENODEV if the interface does not exist, with near names; EBUSY if it has
            an XDP program; EOPNOTSUPP if its driver does not have that mode
        """
        with self._named("xdp"):
            if not link:
                return links.attach_xdp_netlink(self, interface, mode=mode)
            return links.attach_xdp(self, interface, mode=mode)

    def attach_cgroup(
        self, cgroup: str | os.PathLike[str] | int | links.HasFd, *, mode: str = "link"
    ) -> links.Link:
        """Attach to a cgroup. It acts on that cgroup and all below it.

        :param cgroup: path of its directory in a cgroup2 file system, or a descriptor of it
        :param mode: "link"; or, with BPF_PROG_ATTACH and without a link, "multi" (together with
            others), "override" (a cgroup below may have another one instead) or "exclusive"
        :raises ValueError: for an unknown mode
        :raises TypeError: if it is neither
        :raises BpfError: ENOENT if the directory does not exist, with near names; EBADF if it is
            not a cgroup of the v2 hierarchy
        """
        with self._named("cgroup"):
            self._need_attach_type()
            return links.attach_cgroup(
                self,
                cgroup,
                self.expected_attach_type,
                mode=mode,
                what=f"{self.section} on {cgroup!r}",
            )

    def attach_netns(self, netns: str | os.PathLike[str] | int | links.HasFd) -> links.Link:
        """Attach a flow_dissector or sk_lookup program to a network namespace.

        :param netns: path (``/run/netns/NAME``, ``/proc/PID/ns/net``), or a descriptor of it
        :raises TypeError: if it is neither
        :raises BpfError: ENOENT if the file does not exist, with near names; EINVAL if it is not a
            network namespace
        """
        with self._named("netns"):
            return links.attach_netns(
                self, netns, self.expected_attach_type, what=f"{self.section} on {netns!r}"
            )

    def attach_tcx(
        self,
        interface: str | int,
        direction: str = "",
        before: links.Link | links.HasFd | int | bool | None = None,
        after: links.Link | links.HasFd | int | bool | None = None,
    ) -> links.Link:
        """Attach to the traffic of a network interface with a tcx link (Linux 6.6).

        :param interface: its name or index
        :param direction: "ingress" or "egress"; may be left out if the section says it
        :param before: run before this link, program or program id; True: before all
        :param after: run after this link, program or program id; True or nothing: after all
        :raises ValueError: for an unknown direction, or if both places are given
        :raises UnsupportedFeature: before Linux 6.6
        :raises BpfError: ENODEV if the interface does not exist, with near names; ENOENT if what
            `before` or `after` names is not attached there
        """
        with self._named("tcx", "tc", "netkit"):
            direction = direction or _word_of(self.expected_attach_type, links.TCX_DIRECTIONS)
            return links.attach_tcx(self, interface, direction, before=before, after=after)

    def attach_tc(
        self, interface: str | int, direction: str = "", priority: int | None = None
    ) -> links.Link:
        """Attach to a network interface as a filter of traffic control (clsact, by netlink).

        Use it on kernels before 6.6, or to share a hook with filters of ``tc``. On newer kernels
        use `attach_tcx`, which has a link.

        :param interface: its name or index
        :param direction: "ingress" or "egress"; may be left out if the section says it
        :param priority: 1 to 65535, lower runs first; None takes the first free one
        :raises ValueError: for an unknown direction or a wrong priority
        :raises BpfError: ENODEV if the interface does not exist, with near names; EEXIST if it has
            an old ``ingress`` qdisc, which excludes ``clsact``
        """
        with self._named("tc", "tcx", "netkit"):
            direction = direction or _word_of(self.expected_attach_type, links.TCX_DIRECTIONS)
            return links.attach_tc(self, interface, direction, priority=priority, name=self.name)

    def attach_netkit(
        self,
        interface: str | int,
        side: str = "",
        before: links.Link | links.HasFd | int | bool | None = None,
        after: links.Link | links.HasFd | int | bool | None = None,
    ) -> links.Link:
        """Attach to what one side of a pair of netkit interfaces sends (Linux 6.7).

        :param interface: the primary interface of the pair, by name or index
        :param side: "primary" or "peer"; may be left out if the section says it
        :param before: as in `attach_tcx`
        :param after: as in `attach_tcx`
        :raises ValueError: for an unknown side, or if both places are given
        :raises BpfError: ENODEV if the interface does not exist; ENXIO if it is not a netkit device
        """
        with self._named("netkit", "tcx", "tc"):
            side = side or _word_of(self.expected_attach_type, links.NETKIT_SIDES)
            return links.attach_netkit(self, interface, side, before=before, after=after)

    def attach_netfilter(
        self, family: str, hook: str, priority: int = 0, *, defrag: bool = False
    ) -> links.Link:
        """Attach to a netfilter hook of this process's network namespace (Linux 6.4).

        :param family: "ipv4" or "ipv6"
        :param hook: "prerouting", "input", "forward", "output" or "postrouting"
        :param priority: lower runs first; each priority can be used once
        :param defrag: put fragments together first; needs a priority above -400
        :raises ValueError: for an unknown family or hook
        :raises BpfError: EBUSY if the priority is taken
        """
        with self._named("netfilter"):
            return links.attach_netfilter(self, family, hook, priority, defrag=defrag)

    def attach_sockmap(self, sockets: Map) -> links.Link:
        """Attach an sk_skb or sk_msg program to a map of sockets.

        :param sockets: a sockmap or sockhash; sockets that are put into it run the program
        :raises BpfError: EINVAL if it is not such a map, or the section says neither parser nor
            verdict; EBUSY if the map has a program of that kind
        """
        with self._named("sockmap"):
            what = f"{self.section} on map {getattr(sockets, 'name', sockets)!r}"
            return links.attach_sockmap(self, sockets, self.expected_attach_type, what=what)

    def attach_socket(self, sock: socket.socket) -> links.Link:
        """Filter what a socket receives (SO_ATTACH_BPF).

        :raises TypeError: if `sock` is not a socket
        :raises BpfError: EINVAL for a program that is not a socket filter
        """
        with self._named("socket"):
            return links.attach_socket(self, sock)

    def attach_reuseport(self, sock: socket.socket) -> links.Link:
        """Attach a program that chooses among sockets sharing an address.

        It uses SO_ATTACH_REUSEPORT_EBPF.

        :param sock: one of the sockets, with SO_REUSEPORT set
        :raises TypeError: if `sock` is not a socket
        :raises BpfError: EINVAL for a program of another type, or without SO_REUSEPORT
        """
        with self._named("reuseport", "socket"):
            return links.attach_reuseport(self, sock)

    def attach_perf_event(
        self,
        event: str = "cpu-clock",
        frequency: int = 99,
        pid: int | None = None,
        cpu: int | Iterable[int] | None = None,
        *,
        period: int = 0,
        cookie: int = 0,
    ) -> links.LinkSet:
        """Open a sampling event on each CPU, or for each thread of a process, and attach to all.

        :param event: ``cpu-clock``, ``cycles``, ``page-faults``..., ``rNNN`` for a raw event
        :param frequency: samples per second
        :param pid: sample the threads that this process has now; None for all processes
        :param cpu: one CPU or several; None for all that are online
        :param period: events between two samples, instead of `frequency`; ns for ``cpu-clock``
        :param cookie: ``__u64`` for bpf_get_attach_cookie
        :returns: a link for each event, by ``cpu 3`` or ``thread 1234``
        :raises BpfError: ENOENT for an unknown event, with near names, or an event that this
            machine does not have; ESRCH if the process does not exist
        """
        with self._named("perf_event"):
            return links.attach_sampling(
                self, event, frequency=frequency, period=period, pid=pid, cpu=cpu, cookie=cookie
            )

    def attach_iter(
        self,
        *,
        map: Map | None = None,
        cgroup: str | os.PathLike[str] | int | links.HasFd | None = None,
        order: str = "descendants_pre",
        pid: int | None = None,
        tid: int | None = None,
    ) -> links.IterLink:
        """Make a link of an iterator program. The link's ``open()`` gives a file to read.

        :param map: for ``bpf_map_elem`` and ``bpf_sk_storage_map``: the map with the entries
        :param cgroup: for ``cgroup``: where to start, a path or a descriptor
        :param order: for ``cgroup``: "self", "descendants_pre", "descendants_post", "ancestors"
        :param pid: for ``task``, ``task_file`` and ``task_vma``: only this process, 0 for the
            caller's
        :param tid: for the same kinds: only this thread, 0 for the caller
        :raises ValueError: for an unknown order, or more than one parameter
        :raises BpfError: EBADF if the iterator needs a map; or the kernel's refusal
        """
        with self._named("iter"):
            what = f"iter/{self.attach_to}"
            return links.attach_iter(
                self, map=map, cgroup=cgroup, order=order, pid=pid, tid=tid, what=what
            )
