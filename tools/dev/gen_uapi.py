#!/usr/bin/env python3
"""Write pybpf/_uapi/{enums,helper_args,helpers,perf,structs}.py from a kernel's BTF.

The input is tests/data/uapi-VERSION.btf.gz: the BTF of the newest kernel we
know, reduced to what the tables below name, so that it is small and its
content can be reviewed (`tools/btf.py dump`). Everything in the output is a
layout or a number of the Linux user-space API.

    gen_uapi.py                       write the five files
    gen_uapi.py --check               exit with 1 if they differ from what would be written
    gen_uapi.py --reduce VMLINUX_BTF --kernel 7.3.4
                                      make a new input from a full BTF, then write

BTF does not say which of the nameless members of ``union bpf_attr``
belongs to which command. `ATTRS` names them, by their first field.
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
sys.path[:1] = [str(ROOT)]

from pybpf.btf import (  # noqa: E402
    Array,
    Btf,
    Const,
    Enum,
    Enum64,
    Int,
    Member,
    Struct,
    Type,
    Typedef,
    Union,
    Volatile,
)
from pybpf.btf.encode import BtfBuilder  # noqa: E402
from pybpf.tools.entry import run  # noqa: E402

__all__ = ["find_input", "generate", "main", "reduce"]

# Python class -> (enum name or "" for nameless, a member that identifies it, is it a set of flags)
ENUMS: dict[str, tuple[str, str, bool]] = {
    "Cmd": ("bpf_cmd", "BPF_MAP_CREATE", False),
    "MapType": ("bpf_map_type", "BPF_MAP_TYPE_HASH", False),
    "ProgType": ("bpf_prog_type", "BPF_PROG_TYPE_KPROBE", False),
    "AttachType": ("bpf_attach_type", "BPF_TRACE_FENTRY", False),
    "LinkType": ("bpf_link_type", "BPF_LINK_TYPE_TRACING", False),
    "PerfEventType": ("bpf_perf_event_type", "BPF_PERF_EVENT_KPROBE", False),
    "FdType": ("bpf_task_fd_type", "BPF_FD_TYPE_KPROBE", False),
    "StatsType": ("bpf_stats_type", "BPF_STATS_RUN_TIME", False),
    "StreamId": ("bpf_stream_id", "BPF_STDOUT", False),
    "CgroupIterOrder": ("bpf_cgroup_iter_order", "BPF_CGROUP_ITER_SELF_ONLY", False),
    "CoreReloKind": ("bpf_core_relo_kind", "BPF_CORE_FIELD_BYTE_OFFSET", False),
    "XdpAction": ("xdp_action", "XDP_PASS", False),
    "ElemFlag": ("", "BPF_NOEXIST", True),
    "MapFlag": ("", "BPF_F_NO_PREALLOC", True),
    "KprobeMultiFlag": ("", "BPF_F_KPROBE_MULTI_RETURN", True),
    "UprobeMultiFlag": ("", "BPF_F_UPROBE_MULTI_RETURN", True),
    "StackFlag": ("", "BPF_F_USER_STACK", True),
    "RingbufFlag": ("", "BPF_RB_NO_WAKEUP", True),
}

# The 200 helpers take as long to import as all other enums, so they have their own file.
HELPER_ENUMS: dict[str, tuple[str, str, bool]] = {
    "Helper": ("bpf_func_id", "BPF_FUNC_map_lookup_elem", False),
}

# How many arguments each helper has, which BTF does not say. For trace_printk, as for the verifier,
# only the format and its size count: the others are numbers to it, even pointers.
# Source: the prototypes in include/uapi/linux/bpf.h of 6.12; no helper has been added since.
HELPER_ARGS: dict[int, str] = {
    0: """
        ktime_get_ns get_prandom_u32 get_smp_processor_id get_current_pid_tgid
        get_current_uid_gid get_current_task get_numa_node_id get_current_cgroup_id
        jiffies64 ktime_get_boot_ns get_current_task_btf ktime_get_coarse_ns get_retval
        ktime_get_tai_ns
    """,
    1: """
        get_cgroup_classid skb_vlan_pop get_route_realm get_hash_recalc set_hash_invalid
        get_socket_cookie get_socket_uid rc_repeat skb_cgroup_id sk_release spin_lock
        spin_unlock sk_fullsock tcp_sock skb_ecn_set_ce get_listener_sock send_signal
        send_signal_thread get_netns_cookie get_current_ancestor_cgroup_id sk_cgroup_id
        skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock
        skc_to_udp6_sock skb_cgroup_classid this_cpu_ptr sock_from_file sys_close
        timer_cancel get_func_ip get_attach_cookie task_pt_regs skc_to_unix_sock
        get_func_arg_cnt set_retval xdp_get_buff_len skc_to_mptcp_sock
    """,
    2: """
        map_lookup_elem map_delete_elem trace_printk get_current_comm perf_event_read
        redirect skb_change_type current_task_under_cgroup skb_pull_data csum_update
        xdp_adjust_head set_hash xdp_adjust_meta override_return sock_ops_cb_flags_set
        msg_apply_bytes msg_cork_bytes xdp_adjust_tail get_local_storage
        skb_ancestor_cgroup_id map_pop_elem map_peek_elem sk_storage_delete tcp_send_ack
        sk_ancestor_cgroup_id ringbuf_submit ringbuf_discard ringbuf_query csum_level
        inode_storage_delete per_cpu_ptr redirect_peer task_storage_delete bprm_opts_set
        timer_set_callback get_func_ret kptr_xchg ringbuf_submit_dynptr
        ringbuf_discard_dynptr tcp_raw_check_syncookie_ipv4 tcp_raw_check_syncookie_ipv6
        cgrp_storage_delete
    """,
    3: """
        probe_read tail_call clone_redirect skb_vlan_push get_stackid skb_get_tunnel_opt
        skb_set_tunnel_opt skb_change_proto skb_under_cgroup probe_write_user
        skb_change_tail skb_change_head probe_read_str redirect_map perf_prog_read_value
        bind lwt_seg6_adjust_srh map_push_elem rc_pointer_rel sysctl_get_current_value
        sysctl_get_new_value sysctl_set_new_value probe_read_user probe_read_kernel
        probe_read_user_str probe_read_kernel_str sk_assign seq_write ringbuf_reserve
        reserve_hdr_opt d_path copy_from_user ima_inode_hash sys_bpf timer_init timer_start
        get_branch_snapshot strncmp get_func_arg skb_set_tstamp ima_file_hash
        map_lookup_percpu_elem dynptr_data tcp_raw_gen_syncookie_ipv4
        tcp_raw_gen_syncookie_ipv6
    """,
    4: """
        map_update_elem skb_get_tunnel_key skb_set_tunnel_key skb_load_bytes skb_adjust_room
        sk_redirect_map sock_map_update perf_event_read_value msg_redirect_map msg_pull_data
        get_stack fib_lookup sock_hash_update msg_redirect_hash sk_redirect_hash
        lwt_push_encap lwt_seg6_store_bytes lwt_seg6_action rc_keydown sk_select_reuseport
        msg_push_data msg_pop_data sysctl_get_name strtol strtoul sk_storage_get
        read_branch_records get_ns_current_pid_tgid ringbuf_output get_task_stack
        load_hdr_opt store_hdr_opt inode_storage_get seq_printf_btf redirect_neigh
        task_storage_get for_each_map_elem btf_find_by_name_kind trace_vprintk
        kallsyms_lookup_name loop xdp_load_bytes xdp_store_bytes dynptr_from_mem
        ringbuf_reserve_dynptr user_ringbuf_drain cgrp_storage_get
    """,
    5: """
        skb_store_bytes l3_csum_replace l4_csum_replace perf_event_output csum_diff
        setsockopt getsockopt skb_get_xfrm_state skb_load_bytes_relative sk_lookup_tcp
        sk_lookup_udp skc_lookup_tcp tcp_check_syncookie tcp_gen_syncookie skb_output
        xdp_output seq_printf snprintf_btf check_mtu snprintf find_vma copy_from_user_task
        dynptr_read dynptr_write
    """,
}

PERF_ENUMS: dict[str, tuple[str, str, bool]] = {
    "PerfType": ("perf_type_id", "PERF_TYPE_SOFTWARE", False),
    "PerfHw": ("perf_hw_id", "PERF_COUNT_HW_CPU_CYCLES", False),
    "PerfSw": ("perf_sw_ids", "PERF_COUNT_SW_CPU_CLOCK", False),
    "PerfSample": ("perf_event_sample_format", "PERF_SAMPLE_RAW", True),
    "PerfBranch": ("perf_branch_sample_type", "PERF_SAMPLE_BRANCH_ANY", True),
    "PerfFormat": ("perf_event_read_format", "PERF_FORMAT_ID", True),
    "PerfRecord": ("perf_event_type", "PERF_RECORD_SAMPLE", False),
}

# Python class -> (path into union bpf_attr, the commands that use it). A path element is the
# name of a member, or "." + the name of a field for the nameless member that has that field.
# Members after the path's last struct are kept. Of a nameless union only the named variant is kept.
ATTRS: dict[str, tuple[str, str]] = {
    "MapCreate": (".map_type", "BPF_MAP_CREATE"),
    "MapElem": (".next_key", "BPF_MAP_*_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_MAP_FREEZE"),
    "MapBatch": ("batch", "BPF_MAP_*_BATCH"),
    "ProgLoad": (".prog_type", "BPF_PROG_LOAD"),
    "Obj": (".pathname", "BPF_OBJ_PIN, BPF_OBJ_GET"),
    "ProgAttach": (".attach_bpf_fd", "BPF_PROG_ATTACH, BPF_PROG_DETACH"),
    "ProgTestRun": ("test", "BPF_PROG_TEST_RUN"),
    "GetId": (".open_flags", "BPF_*_GET_NEXT_ID, BPF_*_GET_FD_BY_ID"),
    "GetInfo": ("info", "BPF_OBJ_GET_INFO_BY_FD"),
    "ProgQuery": ("query", "BPF_PROG_QUERY"),
    "RawTracepointOpen": ("raw_tracepoint", "BPF_RAW_TRACEPOINT_OPEN"),
    "BtfLoad": (".btf_size", "BPF_BTF_LOAD"),
    "TaskFdQuery": ("task_fd_query", "BPF_TASK_FD_QUERY"),
    "LinkCreate": ("link_create/.target_btf_id", "BPF_LINK_CREATE, the general form"),
    "LinkCreateIter": ("link_create/.iter_info", "BPF_LINK_CREATE of an iterator"),
    "LinkCreatePerfEvent": ("link_create/perf_event", "BPF_LINK_CREATE on a perf event"),
    "LinkCreateKprobeMulti": ("link_create/kprobe_multi", "BPF_LINK_CREATE of a kprobe.multi"),
    "LinkCreateTracing": ("link_create/tracing", "BPF_LINK_CREATE of fentry, fexit, lsm..."),
    "LinkCreateNetfilter": ("link_create/netfilter", "BPF_LINK_CREATE of a netfilter hook"),
    "LinkCreateTcx": ("link_create/tcx", "BPF_LINK_CREATE of tcx"),
    "LinkCreateUprobeMulti": ("link_create/uprobe_multi", "BPF_LINK_CREATE of a uprobe.multi"),
    "LinkCreateNetkit": ("link_create/netkit", "BPF_LINK_CREATE of netkit"),
    "LinkCreateCgroup": ("link_create/cgroup", "BPF_LINK_CREATE on a cgroup"),
    "LinkCreateTracingMulti": ("link_create/tracing_multi", "BPF_LINK_CREATE of a *.multi"),
    "LinkUpdate": ("link_update", "BPF_LINK_UPDATE"),
    "LinkDetach": ("link_detach", "BPF_LINK_DETACH"),
    "EnableStats": ("enable_stats", "BPF_ENABLE_STATS"),
    "IterCreate": ("iter_create", "BPF_ITER_CREATE"),
    "ProgBindMap": ("prog_bind_map", "BPF_PROG_BIND_MAP"),
    "TokenCreate": ("token_create", "BPF_TOKEN_CREATE"),
    "ProgStreamRead": ("prog_stream_read", "BPF_PROG_STREAM_READ_BY_FD"),
    "ProgAssocStructOps": ("prog_assoc_struct_ops", "BPF_PROG_ASSOC_STRUCT_OPS"),
}

# Python class -> struct or union of the same meaning
STRUCTS: dict[str, str] = {
    "CommonAttr": "struct bpf_common_attr",
    "ProgInfo": "struct bpf_prog_info",
    "MapInfo": "struct bpf_map_info",
    "BtfInfo": "struct bpf_btf_info",
    "LinkInfo": "struct bpf_link_info",
    "IterLinkInfo": "union bpf_iter_link_info",
    "FuncInfo": "struct bpf_func_info",
    "LineInfo": "struct bpf_line_info",
    "CoreRelo": "struct bpf_core_relo",
    "StackBuildId": "struct bpf_stack_build_id",
}

PERF_STRUCTS: dict[str, str] = {"PerfEventAttr": "struct perf_event_attr"}

HEADER = '''"""{what} of Linux {kernel}.

GENERATED by tools/dev/gen_uapi.py from tests/data/{source}. Do not edit: change
the tables there and run it again; tests/unit/test_uapi.py compares.
"""

from __future__ import annotations

'''

# Ends of enums (__MAX_BPF_CMD, PERF_TYPE_MAX...). They change with every release, so no program
# may depend on them. A leading "__" would also be mangled in a class body.
_END_MARKER = re.compile(r"__|MAX_BPF_|PERF_\w+_MAX$")


def find_input() -> Path:
    """Return the committed BTF blob. There is exactly one."""
    (path,) = DATA.glob("uapi-*.btf.gz")
    return path


def _members(btf: Btf, type_id: int) -> tuple[Member, ...]:
    t = btf.type(btf.skip_mods_and_typedefs(type_id))
    if not isinstance(t, Struct | Union):
        raise SystemExit(f"type {type_id} is not a struct or union")
    return t.members


def _enum_id(btf: Btf, name: str, witness: str) -> int:
    for kind in (Enum.KIND, Enum64.KIND):
        for type_id in btf.find_all(name, kind) if name else btf.ids(kind):
            t = btf.type(type_id)
            if not isinstance(t, Enum | Enum64) or t.name != name:
                continue
            if any(v.name == witness for v in t.values):
                return type_id
    raise SystemExit(f"no enum {name!r} with {witness} in this BTF")


def _struct_id(btf: Btf, c_name: str) -> int:
    keyword, name = c_name.split()
    type_id = btf.find(name, Struct.KIND if keyword == "struct" else Union.KIND)
    if type_id is None:
        raise SystemExit(f"no {c_name} in this BTF")
    return type_id


def _pick(btf: Btf, type_id: int, step: str) -> Member:
    for m in _members(btf, type_id):
        if m.name:
            if step in (m.name, "." + m.name):
                return m
        elif step.startswith("."):
            inner = [m]
            while inner:
                for sub in _members(btf, inner.pop().type):
                    if sub.name == step[1:]:
                        return m
                    if not sub.name:
                        inner.append(sub)
    raise SystemExit(f"no member {step} in type {type_id}")


@dataclass
class _Writer:
    """Collect class definitions, inner ones before the outer ones that use them."""

    btf: Btf
    out: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)  # body of an inner class -> its name

    def ctype(self, type_id: int, hint: str) -> tuple[str, int, int]:
        """Return Python expression, size and alignment (bytes) of a member's type."""
        t = self.btf.type(self.btf.skip_mods_and_typedefs(type_id))
        if isinstance(t, Int):
            sign = "int" if t.signed and not t.is_char else "uint"
            return ("c_char" if t.is_char else f"c_{sign}{t.size * 8}"), t.size, t.size
        if isinstance(t, Enum | Enum64):
            return f"c_{'int' if t.signed else 'uint'}{t.size * 8}", t.size, t.size
        if isinstance(t, Array):
            inner, size, align = self.ctype(t.type, hint)
            inner = "c_uint8" if hint.endswith("build_id") else inner
            return f"{inner} * {t.nelems}", size * t.nelems, align
        if isinstance(t, Struct | Union):
            name = hint if hint.startswith("_") else "_" + hint
            base = "Union" if isinstance(t, Union) else "Structure"
            name, align = self.define(name, base, t.members, t.size, "", public=False)
            return name, t.size, align
        raise SystemExit(f"{hint}: cannot express {t!r}")

    def define(
        self,
        name: str,
        base: str,
        members: tuple[Member, ...],
        size: int,
        doc: str,
        *,
        public: bool,
    ) -> tuple[str, int]:
        """Emit a class, once per body. Return its name and its alignment in bytes."""
        rows: list[str] = []
        anonymous: list[str] = []
        at = 0  # where ctypes would put the next byte
        align = 1
        bits_of = -1  # byte offset of the storage unit that bitfields fill
        for m in members:
            field_name = m.name or f"_u{len(anonymous)}"
            if not m.name:
                anonymous.append(field_name)
            kind, width, m_align = self.ctype(m.type, f"{name}_{field_name.lstrip('_')}")
            align = max(align, m_align)
            if m.bitfield_size:
                unit = m.bit_offset // (width * 8) * width
                if unit != bits_of:
                    bits_of, used = unit, 0
                if m.bit_offset != unit * 8 + used:
                    raise SystemExit(f"{name}.{field_name}: a gap between bitfields")
                used += m.bitfield_size
                at = unit + width
                rows.append(f'("{field_name}", {kind}, {m.bitfield_size}),')
                continue
            bits_of = -1
            offset = m.bit_offset // 8
            if base == "Structure":
                natural = -(-at // m_align) * m_align
                if natural != offset:
                    rows.append(f'("_pad{at}", c_uint8 * {offset - at}),')
            at = offset + width
            rows.append(f'("{field_name}", {kind}),')
        if base == "Structure" and -(-at // align) * align != size:
            rows.append(f'("_pad{at}", c_uint8 * {size - at}),')
        lines = [f'    """{doc}"""\n'] if doc else []
        lines.append("    __slots__ = ()")
        if anonymous:
            names = ", ".join(f'"{a}"' for a in anonymous) + ("," if len(anonymous) == 1 else "")
            lines.append(f"    _anonymous_ = ({names})")
        if len(rows) == 1:
            lines.append(f"    _fields_ = ({rows[0]})")
        else:
            lines += ["    _fields_ = (", *(f"        {row}" for row in rows), "    )"]
        body = f"({base}):\n" + "\n".join(lines)
        if not public and body in self.seen:
            return self.seen[body], align
        self.seen[body] = name
        self.out.append(f"class {name}{body}")
        if public:
            self.names.append(name)
        return name, align

    def attr(self, name: str, path: str, commands: str) -> None:
        """Emit one variant of union bpf_attr."""
        steps = path.split("/")
        member = _pick(self.btf, _struct_id(self.btf, "union bpf_attr"), steps[0])
        t = self.btf.type(member.type)
        assert isinstance(t, Struct)
        members, size = t.members, t.size
        if len(steps) == 2:
            *head, variants = members
            assert not variants.name, "the variants of link_create are its last, nameless member"
            one = _pick(self.btf, variants.type, steps[1])
            base = variants.bit_offset
            if one.name:
                members = (*head, Member(one.name, one.type, base))
                size = self._size(base, one.type)
            else:
                inner = _members(self.btf, one.type)
                members = (*head, *(Member(m.name, m.type, base + m.bit_offset) for m in inner))
                size = self._size(base, one.type)
            # The kernel aligns the members of the union to 8 bytes. A separate variant may
            # need less, and then it ends earlier.
        where = "``union bpf_attr``" + (f", ``{path}``" if not path.startswith(".") else "")
        self.define(name, "Structure", members, size, f"{commands}: {where}.", public=True)

    def _size(self, base_bits: int, type_id: int) -> int:
        align = max(4, self.btf.alignof(type_id))
        end = base_bits // 8 + self.btf.sizeof(type_id)
        return -(-end // align) * align


def _enum(btf: Btf, name: str, c_name: str, witness: str, flags: bool) -> str:
    t = btf.type(_enum_id(btf, c_name, witness))
    assert isinstance(t, Enum | Enum64)
    doc = f"``enum {c_name}``." if c_name else f"The nameless enum with ``{witness}``."
    rows = [v for v in t.values if not _END_MARKER.match(v.name)]
    body = "".join(f"    {v.name} = {f'0x{v.val:X}' if flags else v.val}\n" for v in rows)
    return f'class {name}(IntEnum):\n    """{doc}"""\n\n{body}'


def _file(
    btf: Btf,
    header: str,
    enums: dict[str, tuple[str, str, bool]],
    attrs: dict[str, tuple[str, str]],
    structs: dict[str, str],
) -> str:
    """Return the text of one generated file."""
    classes = [_enum(btf, name, *what).rstrip() for name, what in enums.items()]
    writer = _Writer(btf)
    for name, (path, commands) in attrs.items():
        writer.attr(name, path, commands)
    for name, c_name in structs.items():
        t = btf.type(_struct_id(btf, c_name))
        assert isinstance(t, Struct | Union)
        base = "Union" if isinstance(t, Union) else "Structure"
        writer.define(name, base, t.members, t.size, f"``{c_name}``.", public=True)
    body = "\n\n\n".join([*classes, *writer.out])
    imports = []
    bases = set(re.findall(r"\b(?:Structure|Union|IntEnum)\b(?=\):)", body))
    bases |= set(re.findall(r"\bc_\w+", body))
    origins = {"IntEnum": "..intenum", "Structure": ".exact", "Union": ".exact"}
    for module in ("ctypes", "..intenum", ".exact"):
        used = sorted(
            (w for w in bases if origins.get(w, "ctypes") == module),
            key=lambda w: (not w[0].isupper(), re.sub(r"\d+", lambda n: n[0].zfill(3), w)),
        )
        imports += [f"from {module} import {', '.join(used)}\n"] if used else []
    # ctypes stands apart from the modules of this package.
    separated = "\n".join(filter(None, ("".join(imports[:1]), "".join(imports[1:]))))
    exported = sorted([*enums, *writer.names])
    names = "".join(f'    "{n}",\n' for n in exported)
    names = f"__all__ = [\n{names}]" if len(exported) > 1 else f'__all__ = ["{exported[0]}"]'
    return f"{header}{separated}\n{names}\n\n\n{body}\n"


def _helper_args(btf: Btf, header: str) -> str:
    counts = {name: n for n, names in HELPER_ARGS.items() for name in names.split()}
    t = btf.type(_enum_id(btf, *HELPER_ENUMS["Helper"][:2]))
    assert isinstance(t, Enum | Enum64)
    by_number = {v.val: v.name.removeprefix("BPF_FUNC_") for v in t.values}
    by_number = {val: name for val, name in by_number.items() if not _END_MARKER.match(name)}
    by_number.pop(0)  # unspec
    if set(by_number.values()) != counts.keys():
        raise SystemExit(f"HELPER_ARGS: {sorted(set(by_number.values()) ^ counts.keys())}")
    rows = [0, *(counts[by_number[number]] for number in range(1, len(by_number) + 1))]
    lines = [", ".join(map(str, rows[at : at + 30])) for at in range(0, len(rows), 30)]
    body = "".join(f"    {line},\n" for line in lines)
    return (
        f'{header}__all__ = ["HELPER_ARGS"]\n\n'
        "# Arguments that each helper takes, by its number. Apart from `Helper`, whose 200 names\n"
        "# take 6 ms to import.\n"
        f"# fmt: off\nHELPER_ARGS = (\n{body})\n# fmt: on\n"
    )


def generate(btf: Btf, source: str) -> dict[str, str]:
    """Return file name -> text, for the generated files.

    :param source: name of the input, ``uapi-VERSION.btf.gz``
    """
    match = re.fullmatch(r"uapi-(.+)\.btf\.gz", source)
    kernel = match.group(1) if match else source

    def header(what: str) -> str:
        return HEADER.format(what=what, kernel=kernel, source=source)

    return {
        "enums.py": _file(btf, header("Enumerations"), ENUMS, {}, {}),
        "helper_args.py": _helper_args(btf, header("Numbers of arguments of the helper functions")),
        "helpers.py": _file(btf, header("Helper function numbers"), HELPER_ENUMS, {}, {}),
        "perf.py": _file(
            btf, header("perf_event_open's enums and struct"), PERF_ENUMS, {}, PERF_STRUCTS
        ),
        "structs.py": _file(btf, header("Structures"), {}, ATTRS, STRUCTS),
    }


def reduce(btf: Btf) -> bytes:
    """Make BTF that has only what `generate` reads, in the order of its tables."""
    roots = [
        _enum_id(btf, name, witness)
        for table in (ENUMS, HELPER_ENUMS, PERF_ENUMS)
        for name, witness, _ in table.values()
    ]
    names = ["union bpf_attr", *STRUCTS.values(), *PERF_STRUCTS.values()]
    roots += [_struct_id(btf, name) for name in names]
    order: dict[int, int] = {0: 0}
    pending = roots
    while pending:
        found: list[int] = []
        for type_id in pending:
            if type_id not in order:
                order[type_id] = len(order)
                found += _references(btf.type(type_id))
        pending = found
    builder = BtfBuilder()
    for type_id in list(order)[1:]:
        builder.add(_renumbered(btf.type(type_id), order))
    return builder.build()


def _references(t: Type) -> list[int]:
    if isinstance(t, Struct | Union):
        return [m.type for m in t.members]
    if isinstance(t, Array):
        return [t.type, t.index_type]
    if isinstance(t, Typedef | Const | Volatile):
        return [t.type]
    if isinstance(t, Int | Enum | Enum64):
        return []
    raise SystemExit(f"a {t!r} must not be in the user-space API")


def _renumbered(t: Type, ids: dict[int, int]) -> Type:
    if isinstance(t, Struct | Union):
        return replace(t, members=tuple(replace(m, type=ids[m.type]) for m in t.members))
    if isinstance(t, Array):
        return replace(t, type=ids[t.type], index_type=ids[t.index_type])
    if isinstance(t, Typedef | Const | Volatile):
        return replace(t, type=ids[t.type])
    return t


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Write the generated files of pybpf/_uapi from a kernel's BTF."
    )
    parser.add_argument("--check", action="store_true", help="compare instead of write")
    parser.add_argument(
        "--reduce", type=Path, metavar="BTF", help="full BTF to make the input from"
    )
    parser.add_argument(
        "--kernel", metavar="VERSION", help="release of the kernel that the BTF belongs to"
    )
    args = parser.parse_args(argv)
    if bool(args.reduce) != bool(args.kernel):
        parser.error("--reduce and --kernel go together")
    if args.reduce:
        blob = reduce(Btf(args.reduce.read_bytes()))
        for old in DATA.glob("uapi-*.btf.gz"):
            old.unlink()
        (DATA / f"uapi-{args.kernel}.btf.gz").write_bytes(gzip.compress(blob, 9, mtime=0))
    source = find_input()
    stale = 0
    for name, text in generate(Btf(gzip.decompress(source.read_bytes())), source.name).items():
        path = ROOT / "pybpf" / "_uapi" / name
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        print(f"{'stale' if args.check else 'written'}: {path.relative_to(ROOT)}")
        if not args.check:
            path.write_text(text)
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    run("gen_uapi.py", main)
