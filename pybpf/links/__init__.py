"""Links keep programs attached. There is one module for each kind.

A `Link` owns its file descriptors. Closing it detaches the program. Each
`attach_*` function takes a loaded program's descriptor and makes one kind
of ``struct bpf_link`` (BPF_LINK_CREATE; UAPI ``enum bpf_link_type``), with a
cookie if the kind has one. After an error nothing stays attached.
`pybpf.links.table` says which function a section name asks for.
"""

from __future__ import annotations

from .._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.fd import make_room
    from .cgroup import attach_cgroup
    from .freplace import attach_freplace, find_in_program
    from .iter import IterLink, attach_iter
    from .kprobe import attach_kprobe, attach_kprobe_multi
    from .link import Closes, HasFd, Link, LinkSet, PerfLink, Request, attach_to_fd
    from .netfilter import attach_netfilter
    from .netns import attach_netns
    from .perf_event import attach_perf_event, attach_sampling
    from .plain import Attachment, attach_reuseport, attach_socket
    from .sockmap import attach_sockmap
    from .tc import attach_tc, attach_xdp_netlink
    from .tcx import NETKIT_SIDES, TCX_DIRECTIONS, attach_netkit, attach_tcx
    from .tracepoint import attach_raw_tracepoint, attach_tracepoint
    from .tracing import attach_tracing, attach_tracing_multi
    from .uprobe import attach_uprobe, attach_uprobe_multi
    from .usdt import UsdtLink, UsdtSpecs, attach_usdt
    from .xdp import attach_xdp

__all__ = [
    "NETKIT_SIDES",
    "TCX_DIRECTIONS",
    "Attachment",
    "Closes",
    "HasFd",
    "IterLink",
    "Link",
    "LinkSet",
    "PerfLink",
    "Request",
    "UsdtLink",
    "UsdtSpecs",
    "attach_cgroup",
    "attach_freplace",
    "attach_iter",
    "attach_kprobe",
    "attach_kprobe_multi",
    "attach_netfilter",
    "attach_netkit",
    "attach_netns",
    "attach_perf_event",
    "attach_raw_tracepoint",
    "attach_reuseport",
    "attach_sampling",
    "attach_socket",
    "attach_sockmap",
    "attach_tc",
    "attach_tcx",
    "attach_to_fd",
    "attach_tracepoint",
    "attach_tracing",
    "attach_tracing_multi",
    "attach_uprobe",
    "attach_uprobe_multi",
    "attach_usdt",
    "attach_xdp",
    "attach_xdp_netlink",
    "find_in_program",
    "make_room",
]

# A program attaches in one way, and loading needs none: all of them take 20 ms to import.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "Attachment": ".plain",
        "Closes": ".link",
        "HasFd": ".link",
        "IterLink": ".iter",
        "Link": ".link",
        "LinkSet": ".link",
        "NETKIT_SIDES": ".tcx",
        "PerfLink": ".link",
        "Request": ".link",
        "TCX_DIRECTIONS": ".tcx",
        "UsdtLink": ".usdt",
        "UsdtSpecs": ".usdt",
        "attach_cgroup": ".cgroup",
        "attach_freplace": ".freplace",
        "attach_iter": ".iter",
        "attach_kprobe": ".kprobe",
        "attach_kprobe_multi": ".kprobe",
        "attach_netfilter": ".netfilter",
        "attach_netkit": ".tcx",
        "attach_netns": ".netns",
        "attach_perf_event": ".perf_event",
        "attach_raw_tracepoint": ".tracepoint",
        "attach_reuseport": ".plain",
        "attach_sampling": ".perf_event",
        "attach_socket": ".plain",
        "attach_sockmap": ".sockmap",
        "attach_tc": ".tc",
        "attach_tcx": ".tcx",
        "attach_to_fd": ".link",
        "attach_tracepoint": ".tracepoint",
        "attach_tracing": ".tracing",
        "attach_tracing_multi": ".tracing",
        "attach_uprobe": ".uprobe",
        "attach_uprobe_multi": ".uprobe",
        "attach_usdt": ".usdt",
        "attach_xdp": ".xdp",
        "attach_xdp_netlink": ".tc",
        "find_in_program": ".freplace",
        "make_room": ".._sys.fd",
    },
)
