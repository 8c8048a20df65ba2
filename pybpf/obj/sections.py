"""Section names of programs: what ``SEC("...")`` says about a program.

A section name is ``PREFIX`` or ``PREFIX/EXTRA``. The prefix decides program
type, expected attach type, load flags and how the program is attached. The
extra names the target. The pattern says whether a prefix may have an extra
(a trailing "+"), as libbpf writes it. All 116 patterns that libbpf
1.8 knows are here. Each says in one word how its programs are attached.
`pybpf.links.table` maps that word to the function that attaches them.

Numbers are UAPI values (``enum bpf_prog_type``, ``enum bpf_attach_type``).
"""

from __future__ import annotations

from .._uapi.defines import BPF_F_SLEEPABLE, BPF_F_XDP_HAS_FRAGS
from .._uapi.enums import AttachType as A
from .._uapi.enums import ProgType as P
from ..dataclass import dataclass

__all__ = ["SECTIONS", "SectionDef", "attach_types", "find", "find_by_type"]


@dataclass(frozen=True, slots=True)
class SectionDef:
    """Describe one pattern.

    :param prefix: section name without "/EXTRA"
    :param takes_extra: "/EXTRA" may follow
    :param type: ``enum bpf_prog_type``
    :param attach_type: expected ``enum bpf_attach_type``; 0 if the type has none
    :param how: how its programs are attached: a key of
        `pybpf.links.table.WAYS`
    :param auto: the section name alone says how to attach it
    :param sleepable: loads with BPF_F_SLEEPABLE
    :param frags: loads with BPF_F_XDP_HAS_FRAGS
    :param attach_btf: the extra names a BTF type that must be known at load
    :param retprobe: fires at the function's return
    """

    prefix: str
    takes_extra: bool
    type: int
    attach_type: int
    how: str
    auto: bool = False
    sleepable: bool = False
    frags: bool = False
    attach_btf: bool = False
    retprobe: bool = False

    @property
    def pattern(self) -> str:
        """Return the pattern as libbpf writes it."""
        return self.prefix + "+" if self.takes_extra else self.prefix

    @property
    def prog_flags(self) -> int:
        """Return the ``bpf_attr.prog_flags`` that the pattern asks for."""
        return BPF_F_SLEEPABLE * self.sleepable | BPF_F_XDP_HAS_FRAGS * self.frags


def _rows() -> list[SectionDef]:
    rows: list[SectionDef] = []

    def auto(
        how: str,
        kind: int,
        attach_type: int,
        *prefixes: str,
        sleepable: bool = True,
        attach_btf: bool = False,
    ) -> None:
        """Add PREFIX+ for each prefix and, unless `sleepable` is False, also PREFIX.s+."""
        for prefix in prefixes:
            for suffix in ("", ".s") if sleepable else ("",):
                rows.append(
                    SectionDef(
                        prefix + suffix,
                        True,
                        kind,
                        attach_type,
                        how,
                        auto=True,
                        sleepable=bool(suffix),
                        attach_btf=attach_btf,
                        retprobe=prefix.startswith(("kret", "uret")),
                    )
                )

    def by_hand(how: str, kind: int, **prefixes: int) -> None:
        """Add exact names. "__" stands for "/" because keywords cannot contain it."""
        for prefix, attach_type in prefixes.items():
            rows.append(SectionDef(prefix.replace("__", "/"), False, kind, attach_type, how))

    # Kernel and user probes.
    auto("kprobe", P.BPF_PROG_TYPE_KPROBE, 0, "kprobe", "kretprobe", sleepable=False)
    auto("ksyscall", P.BPF_PROG_TYPE_KPROBE, 0, "ksyscall", "kretsyscall", sleepable=False)
    auto(
        "kprobe_multi",
        P.BPF_PROG_TYPE_KPROBE,
        A.BPF_TRACE_KPROBE_MULTI,
        "kprobe.multi",
        "kretprobe.multi",
        sleepable=False,
    )
    auto(
        "kprobe_session",
        P.BPF_PROG_TYPE_KPROBE,
        A.BPF_TRACE_KPROBE_SESSION,
        "kprobe.session",
        sleepable=False,
    )
    auto("uprobe", P.BPF_PROG_TYPE_KPROBE, 0, "uprobe", "uretprobe")
    auto(
        "uprobe_multi",
        P.BPF_PROG_TYPE_KPROBE,
        A.BPF_TRACE_UPROBE_MULTI,
        "uprobe.multi",
        "uretprobe.multi",
    )
    auto("uprobe_multi", P.BPF_PROG_TYPE_KPROBE, A.BPF_TRACE_UPROBE_SESSION, "uprobe.session")
    auto("usdt", P.BPF_PROG_TYPE_KPROBE, 0, "usdt")

    # Tracepoints.
    auto("tracepoint", P.BPF_PROG_TYPE_TRACEPOINT, 0, "tracepoint", "tp")
    auto("raw_tracepoint", P.BPF_PROG_TYPE_RAW_TRACEPOINT, 0, "raw_tracepoint", "raw_tp")
    auto(
        "raw_tracepoint",
        P.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
        0,
        "raw_tracepoint.w",
        "raw_tp.w",
        sleepable=False,
    )

    # Programs whose target is a BTF type.
    for prefix, attach_type in (
        ("tp_btf", A.BPF_TRACE_RAW_TP),
        ("fentry", A.BPF_TRACE_FENTRY),
        ("fexit", A.BPF_TRACE_FEXIT),
        ("fmod_ret", A.BPF_MODIFY_RETURN),
        ("fsession", A.BPF_TRACE_FSESSION),
    ):
        auto("tracing", P.BPF_PROG_TYPE_TRACING, attach_type, prefix, attach_btf=True)
    for prefix, attach_type in (
        ("fentry.multi", A.BPF_TRACE_FENTRY_MULTI),
        ("fexit.multi", A.BPF_TRACE_FEXIT_MULTI),
        ("fsession.multi", A.BPF_TRACE_FSESSION_MULTI),
    ):
        auto("tracing_multi", P.BPF_PROG_TYPE_TRACING, attach_type, prefix)
    auto("iter", P.BPF_PROG_TYPE_TRACING, A.BPF_TRACE_ITER, "iter", attach_btf=True)
    auto("lsm", P.BPF_PROG_TYPE_LSM, A.BPF_LSM_MAC, "lsm", attach_btf=True)
    auto("freplace", P.BPF_PROG_TYPE_EXT, 0, "freplace", sleepable=False, attach_btf=True)
    rows.append(
        SectionDef(
            "lsm_cgroup",
            True,
            P.BPF_PROG_TYPE_LSM,
            A.BPF_LSM_CGROUP,
            "cgroup",
            attach_btf=True,
        )
    )

    # Struct_ops programs are attached through their map; syscall programs are only run.
    rows.append(SectionDef("struct_ops", True, P.BPF_PROG_TYPE_STRUCT_OPS, 0, "struct_ops"))
    rows.append(
        SectionDef(
            "struct_ops.s", True, P.BPF_PROG_TYPE_STRUCT_OPS, 0, "struct_ops", sleepable=True
        )
    )
    rows.append(SectionDef("syscall", False, P.BPF_PROG_TYPE_SYSCALL, 0, "run", sleepable=True))

    # Networking. The caller names a device, a socket, a map or a cgroup.
    for prefix, attach_type in (
        ("", A.BPF_XDP),
        ("/devmap", A.BPF_XDP_DEVMAP),
        ("/cpumap", A.BPF_XDP_CPUMAP),
    ):
        for frags in (False, True):
            rows.append(
                SectionDef(
                    ("xdp.frags" if frags else "xdp") + prefix,
                    False,
                    P.BPF_PROG_TYPE_XDP,
                    attach_type,
                    "map_entry" if prefix else "xdp",
                    frags=frags,
                )
            )
    by_hand("socket", P.BPF_PROG_TYPE_SOCKET_FILTER, socket=0)
    by_hand("tc", P.BPF_PROG_TYPE_SCHED_CLS, tc=0, classifier=0)
    by_hand("tc", P.BPF_PROG_TYPE_SCHED_ACT, action=0)
    by_hand(
        "tcx",
        P.BPF_PROG_TYPE_SCHED_CLS,
        tc__ingress=A.BPF_TCX_INGRESS,
        tc__egress=A.BPF_TCX_EGRESS,
        tcx__ingress=A.BPF_TCX_INGRESS,
        tcx__egress=A.BPF_TCX_EGRESS,
    )
    by_hand(
        "netkit",
        P.BPF_PROG_TYPE_SCHED_CLS,
        netkit__primary=A.BPF_NETKIT_PRIMARY,
        netkit__peer=A.BPF_NETKIT_PEER,
    )
    by_hand("perf_event", P.BPF_PROG_TYPE_PERF_EVENT, perf_event=0)
    by_hand("lwt", P.BPF_PROG_TYPE_LWT_IN, lwt_in=0)
    by_hand("lwt", P.BPF_PROG_TYPE_LWT_OUT, lwt_out=0)
    by_hand("lwt", P.BPF_PROG_TYPE_LWT_XMIT, lwt_xmit=0)
    by_hand("lwt", P.BPF_PROG_TYPE_LWT_SEG6LOCAL, lwt_seg6local=0)
    by_hand(
        "reuseport",
        P.BPF_PROG_TYPE_SK_REUSEPORT,
        sk_reuseport=A.BPF_SK_REUSEPORT_SELECT,
        sk_reuseport__migrate=A.BPF_SK_REUSEPORT_SELECT_OR_MIGRATE,
    )
    by_hand(
        "sockmap",
        P.BPF_PROG_TYPE_SK_SKB,
        sk_skb=0,
        sk_skb__stream_parser=A.BPF_SK_SKB_STREAM_PARSER,
        sk_skb__stream_verdict=A.BPF_SK_SKB_STREAM_VERDICT,
        sk_skb__verdict=A.BPF_SK_SKB_VERDICT,
    )
    by_hand("sockmap", P.BPF_PROG_TYPE_SK_MSG, sk_msg=A.BPF_SK_MSG_VERDICT)
    by_hand("lirc", P.BPF_PROG_TYPE_LIRC_MODE2, lirc_mode2=A.BPF_LIRC_MODE2)
    by_hand("netns", P.BPF_PROG_TYPE_FLOW_DISSECTOR, flow_dissector=A.BPF_FLOW_DISSECTOR)
    by_hand("netns", P.BPF_PROG_TYPE_SK_LOOKUP, sk_lookup=A.BPF_SK_LOOKUP)
    by_hand("netfilter", P.BPF_PROG_TYPE_NETFILTER, netfilter=A.BPF_NETFILTER)

    # Cgroups.
    by_hand("cgroup", P.BPF_PROG_TYPE_SOCK_OPS, sockops=A.BPF_CGROUP_SOCK_OPS)
    by_hand(
        "cgroup",
        P.BPF_PROG_TYPE_CGROUP_SKB,
        cgroup_skb__ingress=A.BPF_CGROUP_INET_INGRESS,
        cgroup_skb__egress=A.BPF_CGROUP_INET_EGRESS,
        cgroup__skb=0,
    )
    by_hand(
        "cgroup",
        P.BPF_PROG_TYPE_CGROUP_SOCK,
        cgroup__sock=A.BPF_CGROUP_INET_SOCK_CREATE,
        cgroup__sock_create=A.BPF_CGROUP_INET_SOCK_CREATE,
        cgroup__sock_release=A.BPF_CGROUP_INET_SOCK_RELEASE,
        cgroup__post_bind4=A.BPF_CGROUP_INET4_POST_BIND,
        cgroup__post_bind6=A.BPF_CGROUP_INET6_POST_BIND,
    )
    by_hand(
        "cgroup",
        P.BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        cgroup__bind4=A.BPF_CGROUP_INET4_BIND,
        cgroup__bind6=A.BPF_CGROUP_INET6_BIND,
        cgroup__connect4=A.BPF_CGROUP_INET4_CONNECT,
        cgroup__connect6=A.BPF_CGROUP_INET6_CONNECT,
        cgroup__connect_unix=A.BPF_CGROUP_UNIX_CONNECT,
        cgroup__sendmsg4=A.BPF_CGROUP_UDP4_SENDMSG,
        cgroup__sendmsg6=A.BPF_CGROUP_UDP6_SENDMSG,
        cgroup__sendmsg_unix=A.BPF_CGROUP_UNIX_SENDMSG,
        cgroup__recvmsg4=A.BPF_CGROUP_UDP4_RECVMSG,
        cgroup__recvmsg6=A.BPF_CGROUP_UDP6_RECVMSG,
        cgroup__recvmsg_unix=A.BPF_CGROUP_UNIX_RECVMSG,
        cgroup__getpeername4=A.BPF_CGROUP_INET4_GETPEERNAME,
        cgroup__getpeername6=A.BPF_CGROUP_INET6_GETPEERNAME,
        cgroup__getpeername_unix=A.BPF_CGROUP_UNIX_GETPEERNAME,
        cgroup__getsockname4=A.BPF_CGROUP_INET4_GETSOCKNAME,
        cgroup__getsockname6=A.BPF_CGROUP_INET6_GETSOCKNAME,
        cgroup__getsockname_unix=A.BPF_CGROUP_UNIX_GETSOCKNAME,
    )
    by_hand("cgroup", P.BPF_PROG_TYPE_CGROUP_SYSCTL, cgroup__sysctl=A.BPF_CGROUP_SYSCTL)
    by_hand(
        "cgroup",
        P.BPF_PROG_TYPE_CGROUP_SOCKOPT,
        cgroup__getsockopt=A.BPF_CGROUP_GETSOCKOPT,
        cgroup__setsockopt=A.BPF_CGROUP_SETSOCKOPT,
    )
    by_hand("cgroup", P.BPF_PROG_TYPE_CGROUP_DEVICE, cgroup__dev=A.BPF_CGROUP_DEVICE)
    return rows


SECTIONS: dict[str, SectionDef] = {row.prefix: row for row in _rows()}


def find(section: str) -> SectionDef | None:
    """Find what a section name means. None for a name that libbpf does not know either.

    :param section: name without a leading "?"
    """
    exact = SECTIONS.get(section)
    if exact is not None:
        return exact
    prefix, slash, _ = section.partition("/")
    row = SECTIONS.get(prefix) if slash else None
    return row if row is not None and row.takes_extra else None


def find_by_type(prog_type: int, attach_type: int) -> SectionDef | None:
    """Find the first pattern with these types, for a program whose section does not say.

    :param prog_type: ``enum bpf_prog_type``
    :param attach_type: ``enum bpf_attach_type``
    """
    types = (prog_type, attach_type)
    return next((row for row in SECTIONS.values() if (row.type, row.attach_type) == types), None)


def attach_types(prog_type: int) -> list[int]:
    """List the attach types that programs of a type may have (``enum bpf_attach_type``)."""
    found = (row.attach_type for row in SECTIONS.values() if row.type == prog_type)
    return list(dict.fromkeys(found))
