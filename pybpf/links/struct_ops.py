"""Links of struct_ops maps: sets of programs that the kernel calls like one of its own modules."""

from __future__ import annotations

import errno

from .._sys import link as sys_link
from .._sys.element import Element, last_errno
from .._uapi.enums import MapFlag
from ..errors import BpfError
from .link import HasFd, Link
from .plain import Attachment, duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..maps import Map

__all__ = ["StructOpsLink", "attach_struct_ops"]

_KEY = bytes(4)  # the only entry


class StructOpsLink(Link):
    """Keep a struct_ops map registered until this is closed or detached."""

    def update(self, program: HasFd, *, old: HasFd | None = None) -> None:
        """Replace the map by another, without a gap (BPF_LINK_UPDATE, 6.4).

        :param program: a loaded struct_ops map of the same kind
        :param old: if given, replace only if this map is attached now
        :raises BpfError: EINVAL for a map of another kind; EPERM if `old` is not attached
        """
        publish = getattr(program, "publish", None)
        if publish is not None:
            publish()
        sys_link.link_update_map(self.fileno(), program, old=old)


def publish(where: Map, value: bytes) -> None:
    """Write the value of a struct_ops map once. Later calls do nothing.

    :param value: the value, with the descriptors of its programs
    :raises BpfError: EINVAL if a member that the kernel needs is not set
    """
    try:
        where.raw[_KEY] = value
    except BpfError as error:
        if error.errno == errno.EBUSY:
            return  # it is already set, and cannot be changed
        if error.errno == errno.EINVAL:
            error.hint = "perhaps a member that the kernel needs is not set"
        elif error.errno == errno.EEXIST:
            error.hint = "something with that name is registered"
        raise


def attach_struct_ops(where: Map, value: bytes) -> Link:
    """Register a struct_ops map.

    A map with BPF_F_LINK (section ``.struct_ops.link``) is registered by a link. Any other map is
    registered by its value, and closing deletes the value.

    :param value: the value, with the descriptors of its programs
    :raises BpfError: EINVAL if a member that the kernel needs is not set; EEXIST if something
        with that name is registered
    """
    what = f"struct_ops {where.name}"
    own = duplicate(where, what)
    try:
        publish(where, value)
        if where.map_flags & MapFlag.BPF_F_LINK:
            link = StructOpsLink(sys_link.link_create_map(own), what)
            own.close()
            return link
    except BaseException as error:
        own.close()
        if isinstance(error, BpfError):
            if error.errno == errno.EEXIST:
                error.hint = "something with that name is registered"
            error.add_context(what)
        raise

    def undo() -> None:
        # Needs no descriptor, as there may be none left.
        entry = Element(own.fileno(), len(_KEY), 0)
        entry.key[:] = _KEY
        if entry.delete() < 0 and (code := last_errno()) != errno.ENOENT:
            raise BpfError(code, f"{what}: unregistering")

    return Attachment(own, what, undo)
