"""The system call layer against the running kernel."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

import pytest

from pybpf._sys import bpf, perf
from pybpf._sys import link as sys_link
from pybpf._sys import prog as sys_prog
from pybpf._sys.element import Batch, Element, last_errno
from pybpf._sys.fd import Fd
from pybpf._sys.files import tracefs_directories
from pybpf._uapi.enums import AttachType, ElemFlag, LinkType, MapType, ProgType
from pybpf._uapi.enums import PerfEventType as P
from pybpf._uapi.perf import PerfEventAttr, PerfSw, PerfType
from pybpf.asm import encode
from pybpf.asm.insn import call, exit_, mov
from pybpf.errors import BpfError, DeniedByPolicy, VerifierError
from pybpf.programs import Program

pytestmark = pytest.mark.first_on("host", "6.12")

SOCKET_FILTER = ProgType.BPF_PROG_TYPE_SOCKET_FILTER


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def _return(value: int) -> bytes:
    return _insn(0xB7, imm=value) + _insn(0x95)


def _hash(entries: int = 16, **more: int) -> Fd:
    return bpf.map_create(
        MapType.BPF_MAP_TYPE_HASH,
        key_size=4,
        value_size=8,
        max_entries=entries,
        name="sys_test",
        **more,
    )


# -- maps


def test_map_and_what_the_kernel_says_of_it() -> None:
    """A created map has the numbers it was asked for, and is not inherited by other programs."""
    with _hash(5, map_flags=1) as fd:
        got = bpf.map_info(fd)
        assert fcntl.fcntl(fd.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert got[:1] + got[2:7] == (1, 4, 8, 5, 1, "sys_test")
    assert got.id > 0


def test_elements() -> None:
    """Update, lookup, next key, delete on a real hash map."""
    with _hash() as fd:
        one = Element(fd.fileno(), 4, 8)
        for n in range(3):
            one.key[:], one.value[:] = struct.pack("I", n), struct.pack("Q", n * n)
            assert one.with_flags(one.update, ElemFlag.BPF_NOEXIST) == 0
        one.value[:] = bytes(8)
        assert one.lookup() == 0 and struct.unpack("Q", one.value) == (4,)
        assert one.with_flags(one.update, ElemFlag.BPF_NOEXIST) == -1
        assert last_errno() == errno.EEXIST
        keys, end = set(), one.first()
        while not end:
            keys.add(struct.unpack("I", one.next_key)[0])
            one.key[:] = one.next_key
            end = one.next()
        assert last_errno() == errno.ENOENT and keys == {0, 1, 2}
        one.key[:] = struct.pack("I", 1)
        assert one.lookup_and_delete() == 0 and struct.unpack("Q", one.value) == (1,)
        assert one.lookup_and_delete() == -1 and last_errno() == errno.ENOENT
        one.key[:] = struct.pack("I", 2)
        assert one.delete() == 0
        assert one.delete() == -1 and last_errno() == errno.ENOENT


def test_batches() -> None:
    """All entries in, out in two calls, and out for good, by the batch commands."""
    count = 1000
    with _hash(2000) as fd:
        batch = Batch(fd.fileno(), 4, 8, count)
        keys = array("I", range(count)).tobytes()
        batch.keys[:] = keys
        batch.values[:] = array("Q", (n * 3 for n in range(count))).tobytes()
        assert batch.update() == 0 and batch.count == count
        got: dict[int, int] = {}
        walk = Batch(fd.fileno(), 4, 8, 700)
        result = 0
        while result == 0:
            walk.count = 700
            result = walk.lookup()
            n = walk.count
            got |= zip(walk.keys.cast("I")[:n], walk.values.cast("Q")[:n], strict=True)
            walk.advance()
        assert last_errno() == errno.ENOENT and got == {n: n * 3 for n in range(count)}
        batch.keys[:], batch.count = keys, count
        assert batch.delete() == 0 and batch.count == count
        assert Element(fd.fileno(), 4, 8).first() == -1 and last_errno() == errno.ENOENT


def test_a_map_the_kernel_refuses() -> None:
    """The error names command and map; a kernel that can explain is quoted."""
    with pytest.raises(BpfError, match="BPF_MAP_CREATE 'a-b': EINVAL") as caught:
        bpf.map_create(
            MapType.BPF_MAP_TYPE_ARRAY, key_size=4, value_size=4, max_entries=1, name="a-b"
        )
    if os.uname().release.startswith("7.3"):
        assert "map_name" in caught.value.hint


# -- programs


def test_program_and_what_the_kernel_says_of_it() -> None:
    """A loaded program runs, and its info has the instructions and machine code it runs."""
    with _hash() as used:
        insns = _insn(0x18, 1, 1, imm=used.fileno()) + _insn(0) + _return(42)
        with sys_prog.prog_load(SOCKET_FILTER, insns, name="forty_two") as fd:
            ran = sys_prog.prog_test_run(fd, data_in=bytes(64), data_out_size=128)
            got = bpf.prog_info(fd, xlated=True, jited=True)
            assert got.map_ids == (bpf.map_info(used).id,)
    assert ran.retval == 42 and ran.data_out == bytes(64)
    assert (got.type, got.name, got.gpl_compatible) == (SOCKET_FILTER, "forty_two", True)
    assert len(got.xlated_insns) == got.xlated_prog_len and got.xlated_insns.endswith(_return(42))
    assert len(got.jited_insns) == got.jited_prog_len > 0
    assert len(got.jited_ksyms) == len(got.jited_func_lens) == 1
    assert len(bytes.fromhex(got.tag)) == 8


@pytest.mark.parametrize("longer", [100, 2000])
def test_a_packet_that_becomes_longer(longer: int) -> None:
    """What a program adds to its packet comes back, however much it is."""
    adjust_tail = 65
    code = encode([mov(2, longer), mov(3, 0), call(adjust_tail), exit_()])
    with (
        sys_prog.prog_load(ProgType.BPF_PROG_TYPE_XDP, code) as fd,
        Program.from_id(bpf.prog_info(fd).id) as program,
    ):
        ran = program.test_run(bytes(64))
    assert (ran.retval, ran.data_out) == (0, bytes(64 + longer))


def test_a_program_the_verifier_refuses() -> None:
    """VerifierError has errno, name, log and the line that matters."""
    with pytest.raises(VerifierError) as caught:
        sys_prog.prog_load(SOCKET_FILTER, _insn(0x95), name="no_r0")
    error = caught.value
    assert (error.errno, error.program, error.truncated) == (errno.EACCES, "no_r0", False)
    assert "0: (95) exit" in error.log and "processed 1 insns" in error.log
    assert "R0 !read_ok" in error.summary and "processed" not in error.summary
    assert "R0 !read_ok" in str(error)


def test_a_log_longer_than_the_first_buffer() -> None:
    """30,000 instructions of log arrive whole: first and last line are there."""
    body = b"".join(_insn(0xB7, imm=n) for n in range(30_000))
    with pytest.raises(VerifierError) as caught:
        sys_prog.prog_load(SOCKET_FILTER, body + _insn(0x79, 0, 3) + _insn(0x95), name="long")
    log = caught.value.log
    assert len(log) > 1_000_000 and not caught.value.truncated
    assert log.startswith("0: ") and "R3 !read_ok" in log[-2000:]
    assert "R3 !read_ok" in caught.value.summary


def test_the_log_of_a_good_load() -> None:
    """log_level gives the verifier's statistics of a program it accepts."""
    logs: list[str] = []
    sys_prog.prog_load(SOCKET_FILTER, _return(0), log_level=4, on_log=logs.append).close()
    assert len(logs) == 1 and "processed 2 insns" in logs[0]


def test_no_such_program_type() -> None:
    """A refusal before verification is an errno with a hint, not a VerifierError."""
    with pytest.raises(BpfError) as caught:
        sys_prog.prog_load(200, _return(0))
    assert type(caught.value) is BpfError and caught.value.errno == errno.EINVAL
    assert caught.value.hint


def test_syscall_program_changes_its_context() -> None:
    """A BPF_PROG_TYPE_SYSCALL program gives its context back."""
    insns = _insn(0xB7, 2, imm=7) + _insn(0x7B, 1, 2) + _return(3)  # *(u64 *)(r1 + 0) = 7
    with sys_prog.prog_load(ProgType.BPF_PROG_TYPE_SYSCALL, insns, prog_flags=1 << 4) as fd:
        ran = sys_prog.prog_test_run(fd, ctx_in=struct.pack("QQ", 1, 2), repeat=1)
    assert ran.retval == 3 and struct.unpack("QQ", ran.ctx_out) == (7, 2)


def test_raw_tracepoint_program_runs_once() -> None:
    """A raw tracepoint program, whose test run takes no repeat count at all."""
    insns = _insn(0x79, 0, 1) + _insn(0x95)  # r0 = *(u64 *)(r1 + 0)
    with sys_prog.prog_load(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, insns) as fd:
        assert sys_prog.prog_test_run(fd, ctx_in=struct.pack("QQ", 5, 6), repeat=1).retval == 5


# -- BTF


def test_kernel_btf_by_id() -> None:
    """Object 1 is vmlinux, and its bytes are those of /sys/kernel/btf/vmlinux."""
    with bpf.get_fd_by_id("btf", 1) as fd:
        got = bpf.btf_info(fd, data=True)
    assert (got.id, got.name, got.kernel_btf) == (1, "vmlinux", True)
    assert got.data == Path("/sys/kernel/btf/vmlinux").read_bytes() and got.size == len(got.data)


def test_btf_load() -> None:
    """Our smallest BTF is taken and comes back; a broken one is refused in the kernel's words."""
    types = struct.pack("<IIII", 1, 1 << 24, 4, 0x01000020)
    strings = b"\0int\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    blob = header + types + strings
    with bpf.btf_load(blob) as fd:
        got = bpf.btf_info(fd, data=True)
    assert got.data == blob and not got.kernel_btf
    with pytest.raises(BpfError, match="BPF_BTF_LOAD: EINVAL") as caught:
        bpf.btf_load(header + types[:-4] + b"\xff" * 4 + strings)
    assert caught.value.hint


# -- ids, pins


@pytest.mark.parametrize("kind", ["prog", "map"])
def test_ids_lead_back_to_the_object(kind: str) -> None:
    """An object's id is listed, in ascending order, and opens another descriptor of it."""
    with _hash() as m, sys_prog.prog_load(SOCKET_FILTER, _return(1), name="by_id") as p:
        own = bpf.prog_info(p).id if kind == "prog" else bpf.map_info(m).id
        listed = list(bpf.ids(kind))
        assert own in listed and listed == sorted(listed)
        assert bpf.get_next_id(kind, own - 1) == own
        with bpf.get_fd_by_id(kind, own) as again:
            got = bpf.prog_info(again).id if kind == "prog" else bpf.map_info(again).id
        assert got == own
    with pytest.raises(BpfError) as caught:
        bpf.get_fd_by_id(kind, own)
    assert caught.value.errno == errno.ENOENT


def test_pin_and_get(bpffs: Path) -> None:
    """A pinned map outlives its descriptor and is found again by its path."""
    path = str(bpffs / "a map")
    with _hash() as fd:
        own = bpf.map_info(fd).id
        bpf.obj_pin(fd, path)
        with pytest.raises(BpfError) as caught:
            bpf.obj_pin(fd, path)
        assert caught.value.errno == errno.EEXIST
    with bpf.obj_get(path) as again:
        assert bpf.map_info(again).id == own
    os.unlink(path)
    with pytest.raises(BpfError) as caught:
        bpf.obj_get(path)
    assert caught.value.errno == errno.ENOENT and path in str(caught.value)


def test_pin_in_a_new_folder(bpffs: Path, tmp_path: Path) -> None:
    """The last folder of the path is made, for this user alone, and not kept for nothing; a
    second missing one is an error, and nothing is made elsewhere."""
    folder = bpffs / "new"
    with _hash() as fd:
        bpf.obj_pin(fd, str(folder / "one"))
        bpf.obj_pin(fd, str(folder / "two"))
        assert {one.name for one in folder.iterdir()} == {"one", "two"}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        for path in (folder / "a" / "one", tmp_path / "new" / "one", folder / "with.dot"):
            with pytest.raises(BpfError):
                bpf.obj_pin(fd, str(path))
    assert not folder.exists() and not (tmp_path / "new").exists()


def test_pin_elsewhere(tmp_path: Path) -> None:
    """Pinning outside a bpf file system says which file system the path is on."""
    with _hash() as fd, pytest.raises(BpfError) as caught:
        bpf.obj_pin(fd, str(tmp_path / "pin"))
    assert "not on a bpf file system" in caught.value.hint
    assert not isinstance(caught.value, DeniedByPolicy)


def test_a_descriptor_of_another_kind() -> None:
    """Asking a map for a program's facts (and so on) is an error, not garbage."""
    with _hash() as m, sys_prog.prog_load(SOCKET_FILTER, _return(1)) as p:
        for fd, ask, what in (
            (m, bpf.prog_info, "program"),
            (p, bpf.map_info, "map"),
            (m, bpf.link_info, "link"),
            (p, bpf.btf_info, "BTF object"),
        ):
            with pytest.raises(BpfError, match=f"of a {what}: EINVAL"):
                ask(fd)


# -- links


def test_raw_tracepoint_link() -> None:
    """A link on sys_enter knows its tracepoint and program."""
    program = sys_prog.prog_load(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, _return(0), name="raw")
    with program, sys_link.raw_tracepoint_open(program, "sys_enter") as link:
        got = bpf.link_info(link)
        assert got.prog_id == bpf.prog_info(program).id
        assert got.id in bpf.ids("link")
    assert (got.type, got.name) == (LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT, "sys_enter")


def test_no_such_raw_tracepoint() -> None:
    """The error names what was looked for."""
    with (
        sys_prog.prog_load(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, _return(0)) as program,
        pytest.raises(BpfError, match="no_such_tp") as caught,
    ):
        sys_link.raw_tracepoint_open(program, "no_such_tp")
    assert caught.value.errno == errno.ENOENT


def _attach_perf(open_event: object, prog_type: int, *, cookie: int) -> bpf.LinkInfo:
    with (
        open_event() as event,  # type: ignore[operator]
        sys_prog.prog_load(prog_type, _return(0), name="perf") as program,
        sys_link.link_create_perf_event(program, event, cookie) as link,
    ):
        return bpf.link_info(link)


@pytest.mark.needs("kprobe", "perf.cookie")
@pytest.mark.parametrize("retprobe", [False, True])
def test_kprobe_link(retprobe: bool) -> None:
    """A kprobe by name; where the kernel tells, the link knows function and cookie."""
    got = _attach_perf(
        lambda: perf.open_kprobe("vfs_statx", retprobe=retprobe),
        ProgType.BPF_PROG_TYPE_KPROBE,
        cookie=0x1122334455667788,
    )
    assert got.type == LinkType.BPF_LINK_TYPE_PERF_EVENT
    if got.perf_type:  # 6.6 and newer
        kind = P.BPF_PERF_EVENT_KRETPROBE if retprobe else P.BPF_PERF_EVENT_KPROBE
        assert (got.perf_type, got.name, got.offset) == (kind, "vfs_statx", 0)
        assert got.cookie in (0, 0x1122334455667788)


@pytest.mark.needs("kprobe")
def test_no_such_kprobe() -> None:
    """An unknown function is ENOENT, and the message names it."""
    with pytest.raises(BpfError) as caught:
        perf.open_kprobe("no_such_function_anywhere")
    assert caught.value.errno == errno.ENOENT
    assert "kprobe no_such_function_anywhere" in str(caught.value)


def test_tracepoint_link() -> None:
    """A tracepoint by the number tracefs gives."""
    if not any(Path(root, "events").is_dir() for root in tracefs_directories()):
        pytest.skip("tracefs is not mounted")
    got = _attach_perf(
        lambda: perf.open_tracepoint("syscalls", "sys_enter_getpgid"),
        ProgType.BPF_PROG_TYPE_TRACEPOINT,
        cookie=3,
    )
    assert got.type == LinkType.BPF_LINK_TYPE_PERF_EVENT
    if got.perf_type:
        assert (got.perf_type, got.name) == (P.BPF_PERF_EVENT_TRACEPOINT, "sys_enter_getpgid")


@pytest.mark.parametrize(("category", "name"), [("syscalls", "no_such"), ("..", "x"), ("", "x")])
def test_no_such_tracepoint(category: str, name: str) -> None:
    """A missing tracepoint is ENOENT, and a name never leads out of tracefs."""
    with pytest.raises(BpfError) as caught:
        perf.open_tracepoint(category, name)
    assert caught.value.errno == errno.ENOENT


def test_uprobe_link() -> None:
    """A uprobe in a file: the link knows path and offset, and the program runs there."""
    counter = bpf.map_create(
        MapType.BPF_MAP_TYPE_ARRAY, key_size=4, value_size=8, max_entries=1, name="count"
    )
    # A page of its own: int3-able code at a known offset of a file that we map and call.
    code = bytes.fromhex("55 4889e5 b82a000000 5d c3".replace(" ", ""))
    with counter:
        insns = (
            _insn(0x62, 10, off=-4)  # *(u32 *)(r10 - 4) = 0
            + _insn(0xBF, 2, 10)
            + _insn(0x07, 2, imm=-4)
            + _insn(0x18, 1, 1, imm=counter.fileno())
            + _insn(0)
            + _insn(0x85, imm=1)  # bpf_map_lookup_elem
            + _insn(0x15, 0, off=2)
            + _insn(0xB7, 1, imm=1)
            + _insn(0xDB, 0, 1)  # lock *(u64 *)(r0 + 0) += r1
            + _return(0)
        )
        with (
            sys_prog.prog_load(ProgType.BPF_PROG_TYPE_KPROBE, insns, name="up") as program,
            _CodeFile(code) as target,
        ):
            with (
                perf.open_uprobe(target.path, 0) as event,
                sys_link.link_create_perf_event(program, event, 9) as link,
            ):
                got = bpf.link_info(link)
                assert [target.call() for _ in range(3)] == [42, 42, 42]
            counted = Element(counter.fileno(), 4, 8)
            assert counted.lookup() == 0 and struct.unpack("Q", counted.value) == (3,)
            assert target.call() == 42
            assert counted.lookup() == 0 and struct.unpack("Q", counted.value) == (3,)
    if got.perf_type:
        assert (got.perf_type, got.offset) == (P.BPF_PERF_EVENT_UPROBE, 0)
        assert got.name.endswith(os.path.basename(target.path))


class _CodeFile:
    """Machine code in a temporary file, mapped executable."""

    def __init__(self, code: bytes) -> None:
        self.code = code

    def __enter__(self) -> _CodeFile:
        # Not mmap.mmap: it gives no address of a read-only mapping, and the kernel puts no
        # uprobe into a writable one.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._unmap = libc.munmap
        self._unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.file = tempfile.NamedTemporaryFile()
        self.path = self.file.name
        self.file.write(self.code.ljust(4096, b"\xcc"))
        self.file.flush()
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        self._at = libc.mmap(None, 4096, protection, mmap.MAP_PRIVATE, self.file.fileno(), 0)
        assert self._at != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
        self.call = ctypes.CFUNCTYPE(ctypes.c_int)(self._at)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._unmap(self._at, 4096) == 0
        self.file.close()


@pytest.mark.needs("kprobe.multi")
def test_kprobe_multi_link() -> None:
    """One link on two functions: by names with cookies, by addresses, and what it says of them."""
    with sys_prog.prog_load(
        ProgType.BPF_PROG_TYPE_KPROBE,
        _return(0),
        name="multi",
        expected_attach_type=AttachType.BPF_TRACE_KPROBE_MULTI,
    ) as program:
        by_name = sys_link.link_create_kprobe_multi(
            program, syms=["vfs_read", "vfs_write"], cookies=[5, 6]
        )
        with by_name:
            named = bpf.link_info(by_name)
        assert named.type == LinkType.BPF_LINK_TYPE_KPROBE_MULTI
        if not named.count:
            return  # before 6.6 the kernel does not tell
        assert named.count == 2
        if named.cookies:
            assert sorted(named.cookies) == [5, 6]
        addrs = list(named.addrs)
        if all(addrs):
            with sys_link.link_create_kprobe_multi(program, addrs=array("Q", addrs)) as by_address:
                assert sorted(bpf.link_info(by_address).addrs) == sorted(addrs)


def test_iterator() -> None:
    """An iterator over the programs writes one line for each run we let it have."""
    from pybpf.btf import Btf, BtfKind

    btf = Btf(Path("/sys/kernel/btf/vmlinux").read_bytes(), name="vmlinux")
    target = btf.find("bpf_iter_bpf_prog", BtfKind.FUNC)
    if target is None:
        pytest.skip("this kernel has no bpf_prog iterator")
    with sys_prog.prog_load(
        ProgType.BPF_PROG_TYPE_TRACING,
        _return(0),
        name="walk",
        expected_attach_type=AttachType.BPF_TRACE_ITER,
        attach_btf_id=target,
    ) as program:
        assert bpf.prog_info(program).attach_btf_id == target
        with sys_link.link_create_iter(program) as link, sys_link.iter_create(link) as reader:
            assert os.read(reader.fileno(), 100) == b""
            got = bpf.link_info(link)
            with sys_prog.prog_load(
                ProgType.BPF_PROG_TYPE_TRACING,
                _return(0),
                expected_attach_type=AttachType.BPF_TRACE_ITER,
                attach_btf_id=target,
            ) as other:
                sys_link.link_update(link, other, old_prog_fd=program)
                assert bpf.link_info(link).prog_id == bpf.prog_info(other).id
                with pytest.raises(BpfError, match="another program"):
                    sys_link.link_update(link, other, old_prog_fd=program)
    assert (got.type, got.name) == (LinkType.BPF_LINK_TYPE_ITER, "bpf_prog")


def test_xdp_link_on_loopback() -> None:
    """An XDP link knows its interface; BPF_LINK_DETACH leaves it without one."""
    with (
        sys_prog.prog_load(ProgType.BPF_PROG_TYPE_XDP, _return(2), name="xdp") as program,
        sys_link.link_create_generic(program, 1, AttachType.BPF_XDP, 2) as link,  # generic mode
    ):
        assert bpf.link_info(link).ifindex == 1
        sys_link.link_detach(link)
        assert bpf.link_info(link).ifindex == 0


# -- perf events, statistics


def test_cpu_clock_runs_a_program() -> None:
    """A program attached to a clock event by ioctl is run by time."""
    counter = bpf.map_create(
        MapType.BPF_MAP_TYPE_ARRAY, key_size=4, value_size=8, max_entries=1, name="ticks"
    )
    with counter:
        insns = (
            _insn(0x62, 10, off=-4)
            + _insn(0xBF, 2, 10)
            + _insn(0x07, 2, imm=-4)
            + _insn(0x18, 1, 1, imm=counter.fileno())
            + _insn(0)
            + _insn(0x85, imm=1)
            + _insn(0x15, 0, off=2)
            + _insn(0xB7, 1, imm=1)
            + _insn(0xDB, 0, 1)
            + _return(0)
        )
        with sys_prog.prog_load(ProgType.BPF_PROG_TYPE_PERF_EVENT, insns, name="tick") as program:
            cpu = min(os.sched_getaffinity(0))
            allowed = os.sched_getaffinity(0)
            clock = PerfEventAttr(
                type=PerfType.PERF_TYPE_SOFTWARE, config=PerfSw.PERF_COUNT_SW_CPU_CLOCK
            )
            clock.freq, clock.sample_freq = 1, 1000
            with perf.perf_event_open(clock, cpu=cpu) as event:
                perf.set_bpf(event, program)
                perf.enable(event)
                os.sched_setaffinity(0, {cpu})
                try:
                    counted = Element(counter.fileno(), 4, 8)
                    for _ in range(2_000_000):
                        assert counted.lookup() == 0
                        if counted.value != bytes(8):
                            break
                finally:
                    os.sched_setaffinity(0, allowed)
    assert struct.unpack("Q", counted.value)[0] > 0


def test_statistics_count_runs() -> None:
    """While statistics are on, a program's info counts its runs."""
    with sys_prog.prog_load(SOCKET_FILTER, _return(0), name="counted") as program:
        sys_prog.prog_test_run(program, data_in=bytes(64), repeat=10)
        assert bpf.prog_info(program).run_cnt == 0
        with bpf.enable_stats():
            sys_prog.prog_test_run(program, data_in=bytes(64), repeat=10)
        assert bpf.prog_info(program).run_cnt == 10


# -- without rights


def test_denied_without_capabilities() -> None:
    """A process without capabilities is told which it lacks, not just EPERM."""
    script = """
import ctypes, os, struct
from pybpf._sys import bpf
from pybpf._sys import prog as sys_prog
from pybpf.errors import DeniedByPolicy
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
for call in (
    lambda: bpf.map_create(1, key_size=4, value_size=4, max_entries=1, name="x"),
    lambda: bpf.get_fd_by_id("prog", 1),
    lambda: sys_prog.prog_load(2, bytes(8), name="k"),
):
    try:
        call()
    except DeniedByPolicy as error:
        print(error)
    else:
        print("allowed")
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", "import pybpf._sys.denied\n" + script],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert "CAP_SYS_ADMIN" in lines[1] and "CAP_BPF and CAP_PERFMON" in lines[2], done.stdout
    assert "CAP_BPF" in lines[0] or lines[0] == "allowed"  # by kernel.unprivileged_bpf_disabled


@pytest.mark.parametrize("kind", ["prog", "map", "btf", "link"])
def test_an_id_that_nothing_has(kind: str) -> None:
    """The error says that nothing has it."""
    with pytest.raises(BpfError, match="has this id, or it is gone") as caught:
        bpf.get_fd_by_id(kind, 0x7FFFFFFF)
    assert caught.value.errno == errno.ENOENT
