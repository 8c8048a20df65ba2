"""Links of sk_skb and sk_msg programs on maps of sockets."""

from __future__ import annotations

import errno

from .._uapi.enums import AttachType, MapType
from ..errors import BpfError
from .link import HasFd, Link, attach_to_fd
from .plain import attach_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..maps import Map

__all__ = ["attach_sockmap"]

_KINDS = (MapType.BPF_MAP_TYPE_SOCKMAP, MapType.BPF_MAP_TYPE_SOCKHASH)


def attach_sockmap(program: HasFd, where: Map, attach_type: int, *, what: str = "sockmap") -> Link:
    """Attach to a sockmap or sockhash. Sockets that are put into it run the program.

    Uses a link (6.10 and newer), otherwise BPF_PROG_ATTACH. `close` detaches either way.

    :param where: the map
    :param attach_type: the program's ``expected_attach_type`` (``enum bpf_attach_type``)
    :raises BpfError: EINVAL if it is not such a map, or the program has no attach type; EBUSY if
        it has a program of that kind
    """
    if getattr(where, "type", None) not in _KINDS:
        kind = getattr(where, "type_name", type(where).__name__)
        raise BpfError(errno.EINVAL, what, f"a sockmap or sockhash is needed, not {kind}")
    if attach_type == AttachType.BPF_CGROUP_INET_INGRESS:  # 0: a bare "sk_skb" section
        hint = "its section does not say which; set .expected_attach_type before loading"
        raise BpfError(errno.EINVAL, f"{what}: parser or verdict?", hint)
    try:
        return attach_to_fd(program, where.fileno(), attach_type, what=what)
    except BpfError as error:
        if error.errno != errno.EINVAL:
            error.add_context(what)
            raise
    try:
        return attach_plain(program, where.fileno(), attach_type, what=what)
    except BpfError as error:
        error.add_context(what)
        raise
