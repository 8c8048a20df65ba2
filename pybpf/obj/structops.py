"""Struct_ops maps: lay out a struct of the object as the running kernel has it.

Theory of operation. The kernel has a struct of function pointers and settings for each kind of
struct_ops (``tcp_congestion_ops``). The map holds a value struct around it, with a state first
(``bpf_struct_ops_tcp_congestion_ops``). The object has its own version of the inner struct.
Members are matched by name: plain ones are copied, and pointers to functions become
descriptors of programs. A program is loaded for the kernel's struct and the number of its member.
A member that this kernel lacks is fine as long as it is zero.
"""

from __future__ import annotations

from ..btf import BtfKind, FuncProto, Ptr, Struct
from ..btf.absent import near
from ..btf.names import essential_name
from ..dataclass import dataclass
from ..errors import RelocationError
from ..wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..btf import Btf
    from ..btf.types import Member

__all__ = ["VALUE_PREFIX", "Layout", "Slot", "lay_out"]

#: Prefix of the name of the kernel's value struct.
VALUE_PREFIX = "bpf_struct_ops_"
_MAX_SIZE = 1 << 20  # bytes; struct sched_ext_ops, the largest, has 500


@dataclass(frozen=True, slots=True)
class Slot:
    """Say where a program goes.

    :param member: number of the member in the kernel's struct
    :param offset: offset of its descriptor in the map's value, bytes
    """

    member: int
    offset: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Describe a struct_ops map as one kernel has it.

    :param type_id: the struct, in the kernel's or a module's BTF
    :param value_type_id: the value struct around it, in the same BTF
    :param value: what the map will hold, without the descriptors of programs
    :param slots: places of programs, by member name
    """

    type_id: int
    value_type_id: int
    value: bytes
    slots: Mapping[str, Slot]


def lay_out(
    map_name: str,
    local: Btf,
    type_id: int,
    data: bytes,
    programs: Mapping[str, str],
    kernel: Btf,
) -> Layout | None:
    """Lay out a struct of an object for a kernel. None if that BTF has no such struct.

    :param map_name: name of the map, for messages
    :param type_id: the struct in `local`
    :param data: its contents
    :param programs: program name by member name
    :param kernel: BTF of the kernel or a module
    :raises RelocationError: a member that is set does not exist there, or has another kind
    """
    ours = local.type(type_id)
    assert isinstance(ours, Struct)
    name = essential_name(ours.name)
    kernel_id = kernel.find(name, BtfKind.STRUCT)
    value_id = kernel.find(VALUE_PREFIX + name, BtfKind.STRUCT)
    if not kernel_id or not value_id:
        return None
    theirs, around = kernel.type(kernel_id), kernel.type(value_id)
    assert isinstance(theirs, Struct) and isinstance(around, Struct)
    if around.size > _MAX_SIZE:
        what = f"struct {around.name} of this kernel has {many(around.size, 'byte')}"
        raise RelocationError(f"map {map_name!r}: {what}")
    start = _data_offset(kernel, around, kernel_id, map_name)
    value = bytearray(around.size)
    slots: dict[str, Slot] = {}
    members = {member.name: (number, member) for number, member in enumerate(theirs.members)}
    for member in ours.members:
        size = local.sizeof(member.type)
        at = member.bit_offset // 8
        content = data[at : at + size]
        is_set = member.name in programs or content.strip(b"\0")
        found = members.get(essential_name(member.name))
        what = f"map {map_name!r}: member {member.name!r} of struct {name}"
        if found is None:
            if is_set:
                hint = near(member.name, members)
                also = f" (near: {', '.join(hint)})" if hint else ""
                raise RelocationError(f"{what} does not exist in this kernel{also}")
            continue
        number, theirs_member = found
        offset = start + theirs_member.bit_offset // 8
        if member.bitfield_size or theirs_member.bitfield_size:
            if is_set:
                raise RelocationError(f"{what} is a bit field, which cannot be set")
            continue
        if member.name in programs:
            if not _is_function_pointer(kernel, theirs_member):
                raise RelocationError(f"{what} is not a function pointer in this kernel")
            slots[member.name] = Slot(number, offset)
        elif is_set or size == kernel.sizeof(theirs_member.type):
            if size != kernel.sizeof(theirs_member.type):
                theirs_size = kernel.sizeof(theirs_member.type)
                sizes = f"{many(size, 'byte')}, but {theirs_size} in this kernel"
                raise RelocationError(f"{what} has {sizes}")
            value[offset : offset + size] = content
    return Layout(kernel_id, value_id, bytes(value), slots)


def _data_offset(kernel: Btf, around: Struct, type_id: int, map_name: str) -> int:
    for member in around.members:
        if kernel.skip_mods_and_typedefs(member.type) == type_id:
            return member.bit_offset // 8
    raise RelocationError(f"map {map_name!r}: struct {around.name} of this kernel has no data")


def _is_function_pointer(btf: Btf, member: Member) -> bool:
    pointer = btf.type(btf.skip_mods_and_typedefs(member.type))
    return isinstance(pointer, Ptr) and isinstance(
        btf.type(btf.skip_mods_and_typedefs(pointer.type)), FuncProto
    )
