"""Read from the kernel's links which program is attached to which function, and how.

A link names the trampoline of its function by a key: the id of a BTF object and the id of
the FUNC in it, or the id of a traced program. `attachments` asks for every tracing and
tracing_multi link (BPF_OBJ_GET_INFO_BY_FD).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .._sys import bpf as sys_bpf
from .._sys.bpf import LinkInfo
from .._uapi.enums import AttachType, LinkType
from ..dataclass import dataclass
from ..errors import BpfError, DeniedByPolicy

__all__ = [
    "Attached",
    "LinkReading",
    "attachments",
    "link_infos",
    "make_key",
    "read_links",
    "split_key",
]

_KERNEL_BIT = 0x8000_0000
# The kinds a program of an attach type can have in an image. For LSM programs it depends on
# the hook: a void hook has no return value to change, so the program runs at its exit.
_KINDS: dict[int, tuple[str, ...]] = {
    AttachType.BPF_TRACE_FENTRY: ("fentry",),
    AttachType.BPF_TRACE_FEXIT: ("fexit",),
    AttachType.BPF_MODIFY_RETURN: ("fmod_ret",),
    AttachType.BPF_LSM_MAC: ("fmod_ret", "fexit"),
    AttachType.BPF_TRACE_FSESSION: ("fsession",),
    AttachType.BPF_TRACE_FENTRY_MULTI: ("fentry",),
    AttachType.BPF_TRACE_FEXIT_MULTI: ("fexit",),
    AttachType.BPF_TRACE_FSESSION_MULTI: ("fsession",),
}


def make_key(btf_obj_id: int, btf_id: int, *, program: bool = False) -> int:
    """Make the key of a trampoline.

    :param btf_obj_id: id of the BTF object, or of the traced program if `program`
    :param btf_id: id of the FUNC in it
    """
    return btf_obj_id << 32 | btf_id | (0 if program else _KERNEL_BIT)


def split_key(key: int) -> tuple[int, int, bool]:
    """Split a key into (BTF object or program id, BTF id, whether it traces a program)."""
    return key >> 32, key & (_KERNEL_BIT - 1), not key & _KERNEL_BIT


@dataclass(frozen=True, slots=True)
class Attached:
    """Describe one program on one function, as a link says.

    :param link: link id
    :param program: program id
    :param keys: trampoline keys it may mean. A link does not say whether its object id is
        a program's or a BTF object's. Empty if the kernel does not say which function.
    :param kinds: what it may be in an image: ``fentry``, ``fexit``, ``fmod_ret``, ``fsession``
    :param cookie: ``__u64``, or None if the kernel does not say
    """

    link: int
    program: int
    keys: tuple[int, ...]
    kinds: tuple[str, ...]
    cookie: int | None = None


@dataclass(frozen=True, slots=True)
class LinkReading:
    """Hold the kernel's links at one moment.

    :param infos: what the kernel says about each, by id
    :param pending: ids of links that were still being created or had just been removed. The
        kernel says nothing about them, but their programs may already be in images.
    """

    infos: tuple[LinkInfo, ...]
    pending: frozenset[int] = frozenset()


def read_links() -> LinkReading:
    """Read what the kernel says about each of its links.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    infos: list[LinkInfo] = []
    pending: set[int] = set()
    for number, fd in sys_bpf.walk("link"):
        if fd is None:
            pending.add(number)
            continue
        try:
            infos.append(sys_bpf.link_info(fd))
        except DeniedByPolicy:
            raise
        except BpfError:
            # If one link's details cannot be read (the path of a uprobe is too long), the
            # others are still listed.
            infos.append(sys_bpf.link_info(fd, details=False))
    return LinkReading(tuple(infos), frozenset(pending))


def link_infos() -> Iterator[LinkInfo]:
    """Return what the kernel says about each of its links, by id; see `read_links`.

    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    return iter(read_links().infos)


def attachments(infos: Iterable[LinkInfo] | None = None) -> list[Attached]:
    """List what every tracing and tracing_multi link of the kernel says, by link id.

    Linux 7.2 does not name the functions of a tracing_multi link, so such a link gives one
    entry without keys. Extension programs (freplace) have no image and are left out.

    :param infos: `link_infos` that were read already
    :raises DeniedByPolicy: without CAP_SYS_ADMIN
    """
    given = link_infos() if infos is None else infos
    return [one for info in given for one in _attached(info)]


def _attached(info: LinkInfo) -> Iterator[Attached]:
    multi = info.type == LinkType.BPF_LINK_TYPE_TRACING_MULTI
    if not multi and info.type != LinkType.BPF_LINK_TYPE_TRACING:
        return
    if multi and not info.ids:
        yield Attached(info.id, info.prog_id, (), ("fentry", "fexit", "fsession"))
        return
    kinds = _KINDS.get(info.attach_type)
    if kinds is None:
        return
    if multi:
        cookies = info.cookies or [0] * len(info.ids)
        for btf_id, cookie in zip(info.ids, cookies, strict=True):
            keys: tuple[int, ...] = (make_key(info.btf_obj_id, btf_id),)
            yield Attached(info.id, info.prog_id, keys, kinds, cookie)
        return
    obj, btf_id = info.target_obj_id, info.target_btf_id
    keys = (make_key(obj, btf_id), make_key(obj, btf_id, program=True))
    # Kernels before 7.0 report a cookie of 0 for every link, so 0 means unknown.
    yield Attached(info.id, info.prog_id, keys, kinds, info.cookie or None)
