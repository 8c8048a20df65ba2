"""The system call layer against a kernel that is not there: arguments, retries, errors."""

from __future__ import annotations

import ctypes
import struct
import sys
from array import array
from errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBUSY,
    EINTR,
    EINVAL,
    EMFILE,
    ENFILE,
    ENOENT,
    ENOSPC,
    EPERM,
)
from typing import Any

import pytest

from pybpf._sys import bpf, denied, door, element, info, perf
from pybpf._sys import link as sys_link
from pybpf._sys import prog as sys_prog
from pybpf._uapi import structs
from pybpf._uapi.defines import CAP_BPF, CAP_PERFMON
from pybpf._uapi.enums import AttachType, Cmd, LinkType, MapType, ProgType
from pybpf._uapi.enums import PerfEventType as P
from pybpf._uapi.perf import PerfEventAttr
from pybpf.errors import BpfError, DeniedByPolicy, VerifierError
from tests.support.fakes import FakeKernel, read_bytes

INSNS = bytes.fromhex("b7000000000000009500000000000000")
ALL_CAPS = denied.Circumstances(caps=(1 << 41) - 1, lockdown="none")
NO_CAPS = denied.Circumstances(caps=0, lockdown="none", unprivileged_bpf_disabled=2)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    monkeypatch.setattr(denied, "circumstances", lambda: ALL_CAPS)
    return FakeKernel(monkeypatch)


def _answer(*results: int) -> Any:
    left = list(results)
    return lambda attr: left.pop(0)


# -- the door


def test_errno_becomes_the_exceptions_errno(kernel: FakeKernel) -> None:
    """A refusal carries errno and command name; each call passes its own structure's size."""
    kernel.on[Cmd.BPF_MAP_FREEZE] = _answer(-EBUSY)
    with pytest.raises(BpfError) as caught:
        bpf.map_freeze(5)
    assert caught.value.errno == EBUSY
    assert str(caught.value).startswith("BPF_MAP_FREEZE: EBUSY: ")
    assert kernel.calls == [(Cmd.BPF_MAP_FREEZE, ctypes.sizeof(structs.MapElem))]


def test_eperm_is_explained(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPERM elsewhere is DeniedByPolicy with the missing capability in its hint."""
    monkeypatch.setattr(denied, "circumstances", lambda: NO_CAPS)
    kernel.on[Cmd.BPF_PROG_GET_FD_BY_ID] = _answer(-EPERM)
    with pytest.raises(DeniedByPolicy, match=r"BPF_PROG_GET_FD_BY_ID 7: EPERM.*CAP_SYS_ADMIN"):
        bpf.get_fd_by_id("prog", 7)


def test_the_address_of_bytes_and_writable_buffers() -> None:
    """An address points at the caller's own bytes, arrays and memoryviews; 0 if there are none."""
    for memory in (b"12345678", bytearray(b"12345678"), array("B", b"12345678")):
        assert read_bytes(door.address(memory), 8) == b"12345678"
    memory = bytearray(b"12345678")
    ctypes.memmove(door.address(memoryview(memory)), b"abcd", 4)
    assert memory == b"abcd5678"
    assert door.address(b"") == door.address(None) == door.address(array("Q")) == 0


# -- prepared commands


def test_entries_of_maps_use_the_door(kernel: FakeKernel) -> None:
    """Every command of an Element reaches the replaced door, with its key, value and flags."""
    seen: list[tuple[str, bytes, int]] = []

    def see(name: str) -> Any:
        def answer(attr: Any) -> int:
            seen.append((name, read_bytes(attr.key, 4) if attr.key else b"", attr.flags))
            if attr.next_key:  # or the value, or nothing: a union
                ctypes.memmove(attr.next_key, b"next", 4)
            return 0

        return answer

    for name in ("LOOKUP_ELEM", "UPDATE_ELEM", "LOOKUP_AND_DELETE_ELEM", "GET_NEXT_KEY"):
        kernel.on[Cmd[f"BPF_MAP_{name}"]] = see(name)
    kernel.on[Cmd.BPF_MAP_DELETE_ELEM] = _answer(-ENOENT)
    one = element.Element(5, 4, 8)
    one.key[:] = b"key1"
    assert (one.lookup(), bytes(one.value)) == (0, b"next" + bytes(4))
    assert one.with_flags(one.update, 1) == one.lookup_and_delete() == 0
    assert one.first() == one.next() == 0
    assert bytes(one.next_key) == b"next"
    assert one.delete() == -1 and element.last_errno() == ENOENT
    assert seen == [
        ("LOOKUP_ELEM", b"key1", 0),
        ("UPDATE_ELEM", b"key1", 1),
        ("LOOKUP_AND_DELETE_ELEM", b"key1", 0),
        ("GET_NEXT_KEY", b"", 0),
        ("GET_NEXT_KEY", b"key1", 0),
    ]


def test_batches_use_the_door(kernel: FakeKernel) -> None:
    """A batch passes room, map and buffers; it says how many entries the kernel did."""
    seen: list[tuple[int, int]] = []

    def answer(attr: Any) -> int:
        seen.append((attr.map_fd, attr.count))
        ctypes.memmove(attr.keys, b"1234", 4)
        attr.count = 3
        return -ENOENT

    for name in ("LOOKUP", "UPDATE", "DELETE", "LOOKUP_AND_DELETE"):
        kernel.on[Cmd[f"BPF_MAP_{name}_BATCH"]] = answer
    for name in ("lookup", "update", "delete", "lookup_and_delete"):
        batch = element.Batch(5, 4, 8, 16)
        assert getattr(batch, name)() == -1 and element.last_errno() == ENOENT
        assert batch.count == 3 and bytes(batch.keys[:4]) == b"1234"
    assert seen == [(5, 16)] * 4


def test_perf_events_use_the_door(kernel: FakeKernel) -> None:
    """perf_event_open(2) passes its attr through the same door, and errno comes back."""
    seen = []

    def answer(attr: Any) -> int:
        seen.append((attr.type, attr.size))
        return -EPERM if len(seen) > 1 else kernel.fd()

    kernel.on_perf = answer
    perf.perf_event_open(PerfEventAttr(type=9), cpu=0).close()
    with pytest.raises(DeniedByPolicy, match="perf_event_open test: EPERM"):
        perf.perf_event_open(PerfEventAttr(type=9), cpu=0, doing="test")
    assert seen == [(9, ctypes.sizeof(PerfEventAttr))] * 2


def test_a_signal_does_not_stop_perf_event_open(kernel: FakeKernel) -> None:
    """EINTR, while the process is in exec(2), is not for the caller."""
    answers = iter([-EINTR, -EINTR, kernel.fd()])
    kernel.on_perf = lambda attr: next(answers)
    perf.perf_event_open(PerfEventAttr(), pid=7).close()
    assert next(answers, None) is None


def test_a_semaphore_beyond_four_gigabytes(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event has 32 bits for its place. The rest would be cut off: another place."""
    monkeypatch.setattr(perf, "pmu", lambda name: (8, 1))
    with pytest.raises(BpfError, match=r"semaphore at 0x100000008 of /x: EINVAL.*first 4 GiB"):
        perf.open_uprobe("/x", 16, ref_ctr_offset=(1 << 32) + 8)


def _uprobe() -> None:
    perf.open_uprobe("/bin/true", 0)


def _socket_map() -> None:
    bpf.map_create(MapType.BPF_MAP_TYPE_SOCKMAP, key_size=4, value_size=4, max_entries=1)


@pytest.mark.parametrize(
    ("call", "lacks"),
    [(_uprobe, "CAP_SYS_ADMIN"), (_socket_map, "CAP_NET_ADMIN")],
)
def test_what_two_capabilities_do_not_allow(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, call: Any, lacks: str
) -> None:
    """Uprobes and maps of sockets take more than CAP_BPF and CAP_PERFMON, and that is said."""
    two = denied.Circumstances(caps=1 << CAP_BPF | 1 << CAP_PERFMON, lockdown="none")
    monkeypatch.setattr(denied, "circumstances", lambda: two)
    monkeypatch.setattr(perf, "pmu", lambda name: (9, 1))
    kernel.on_perf = _answer(-EACCES)
    kernel.on[Cmd.BPF_MAP_CREATE] = _answer(-EPERM)
    with pytest.raises(DeniedByPolicy) as caught:
        call()
    assert caught.value.hint.startswith(f"this process lacks {lacks}")


# -- maps


def test_map_create_passes_names_and_numbers(kernel: FakeKernel) -> None:
    """Every argument lands in the field of its name; a long name is cut to 15 bytes."""
    seen: dict[str, Any] = {}

    def create(attr: Any) -> int:
        for field in ("map_type", "key_size", "value_size", "max_entries", "map_flags"):
            seen[field] = getattr(attr, field)
        seen["name"], seen["extra"], seen["inner"] = (
            attr.map_name,
            attr.map_extra,
            attr.inner_map_fd,
        )
        return kernel.fd()

    kernel.on[Cmd.BPF_MAP_CREATE] = create
    made = bpf.map_create(
        MapType.BPF_MAP_TYPE_BLOOM_FILTER,
        key_size=0,
        value_size=4,
        max_entries=9,
        map_flags=64,
        map_extra=3,
        inner_map_fd=11,
        name="a_rather_long_name_it_is",
    )
    made.close()
    assert seen == {
        "map_type": 30,
        "key_size": 0,
        "value_size": 4,
        "max_entries": 9,
        "map_flags": 64,
        "name": b"a_rather_long_n",
        "extra": 3,
        "inner": 11,
    }


def test_map_create_asks_a_new_kernel_why(kernel: FakeKernel) -> None:
    """EINVAL is asked about again with BPF_COMMON_ATTRS, and the kernel's words are the hint."""

    def why(attr: Any) -> int:
        ctypes.memmove(kernel.common[-1].log_buf, b"Invalid map_name.\n", 18)
        return -EINVAL

    kernel.on[Cmd.BPF_MAP_CREATE] = _answer(-EINVAL)
    kernel.on[Cmd.BPF_MAP_CREATE | Cmd.BPF_COMMON_ATTRS] = why
    with pytest.raises(BpfError, match=r"BPF_MAP_CREATE 'a-b': EINVAL.*\(Invalid map_name\.\)"):
        bpf.map_create(1, key_size=4, value_size=4, max_entries=1, name="a-b")


def test_map_create_on_an_old_kernel(kernel: FakeKernel) -> None:
    """A kernel without common attributes answers EINVAL once more: the first error stands."""
    kernel.on[Cmd.BPF_MAP_CREATE] = _answer(-EINVAL)
    kernel.on[Cmd.BPF_MAP_CREATE | Cmd.BPF_COMMON_ATTRS] = _answer(-EINVAL)
    with pytest.raises(BpfError) as caught:
        bpf.map_create(1, key_size=4, value_size=4, max_entries=1, name="x")
    assert caught.value.errno == EINVAL and caught.value.hint == ""


# -- loading programs


class Verifier:
    """Refuses with a log of `size` bytes, as BPF_PROG_LOAD does."""

    def __init__(self, log: bytes, errno: int = EACCES, *, true_size: bool = True) -> None:
        self.log, self.errno, self.true_size = log, errno, true_size
        self.sizes: list[int] = []

    def __call__(self, attr: Any) -> int:
        self.sizes.append(attr.log_size)
        if not attr.log_level:
            assert attr.log_size == 0 and attr.log_buf == 0
            return -self.errno
        room = attr.log_size - 1
        ctypes.memmove(attr.log_buf, self.log[-room:] + b"\0", min(room, len(self.log)) + 1)
        if self.true_size:
            attr.log_true_size = len(self.log) + 1
        return -self.errno if len(self.log) <= room else -ENOSPC


def _refused(**arguments: Any) -> VerifierError:
    with pytest.raises(VerifierError) as caught:
        sys_prog.prog_load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, INSNS, name="prog", **arguments)
    return caught.value


def test_a_load_that_succeeds_asks_for_no_log(kernel: FakeKernel) -> None:
    """One call, no log buffer, and every argument in its field."""
    seen: dict[str, Any] = {}

    def load(attr: Any) -> int:
        seen["insns"] = read_bytes(attr.insns, attr.insn_cnt * 8)
        seen["license"] = ctypes.string_at(attr.license)
        seen["log"] = attr.log_level, attr.log_size, attr.log_buf
        seen["name"] = attr.prog_name
        seen["fds"] = struct.unpack("2i", read_bytes(attr.fd_array, 8))
        seen["lines"] = attr.line_info_cnt, attr.line_info_rec_size
        seen["funcs"] = attr.func_info_cnt, read_bytes(attr.func_info, 8)
        seen["target"] = attr.attach_btf_id, attr.attach_btf_obj_fd, attr.expected_attach_type
        return kernel.fd()

    kernel.on[Cmd.BPF_PROG_LOAD] = load
    sys_prog.prog_load(
        ProgType.BPF_PROG_TYPE_TRACING,
        INSNS,
        name="a_function_of_sixteen",
        license="Dual MIT/GPL",
        fd_array=(0, 9),
        line_info=bytes(32),
        line_info_rec_size=16,
        func_info=b"funcinfo",
        func_info_rec_size=8,
        attach_btf_id=77,
        attach_btf_obj_fd=6,
        expected_attach_type=AttachType.BPF_TRACE_FEXIT,
    ).close()
    assert seen == {
        "insns": INSNS,
        "license": b"Dual MIT/GPL",
        "log": (0, 0, 0),
        "name": b"a_function_of_s",
        "fds": (0, 9),
        "lines": (2, 16),
        "funcs": (1, b"funcinfo"),
        "target": (77, 6, 25),
    }
    assert len(kernel.calls) == 1


def test_a_refused_load_is_repeated_with_a_log(kernel: FakeKernel) -> None:
    """The second attempt has a log; it reaches the exception whole, with a summary."""
    log = b"0: R1=ctx() R10=fp0\n0: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n"
    verifier = kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(log)
    error = _refused()
    assert error.errno == EACCES and error.program == "prog"
    assert error.log == log.decode()
    assert error.summary == "0: (95) exit\nR0 !read_ok"
    assert not error.truncated
    assert len(verifier.sizes) == 2 and verifier.sizes[0] == 0


def test_a_log_that_does_not_fit_is_asked_for_at_its_true_size(kernel: FakeKernel) -> None:
    """6.4 and newer name the size, so the third attempt fits; the first errno is reported."""
    log = b"x" * 300_000 + b"\nR0 !read_ok\n"
    verifier = kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(log, EINVAL)
    error = _refused()
    assert error.errno == EINVAL and error.log == log.decode() and not error.truncated
    assert len(verifier.sizes) == 3 and verifier.sizes[2] >= len(log) + 1


def test_a_log_grows_step_by_step_on_older_kernels(kernel: FakeKernel) -> None:
    """Without the true size the buffer grows fourfold until the log fits."""
    verifier = kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(b"y" * 3_000_000 + b"\n", true_size=False)
    assert len(_refused().log) == 3_000_001
    assert verifier.sizes == [0, 1 << 16, 1 << 18, 1 << 20, 1 << 22]


def test_a_log_beyond_measure_is_marked_truncated(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit the end of the log is kept and `truncated` says so; errno is the verifier's."""
    monkeypatch.setattr(sys_prog, "LOG_MOST", 1 << 17)
    kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(b"z" * 500_000 + b"\nthe end\n")
    error = _refused()
    assert error.truncated and error.errno == EACCES
    assert error.log.endswith("the end\n")


def test_a_log_that_is_no_utf8_is_read_all_the_same(kernel: FakeKernel) -> None:
    """Type names in the log may hold any bytes."""
    kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(b"\xff\xfe bad type\n")
    assert "bad type" in _refused().log


def test_refused_without_a_word(kernel: FakeKernel) -> None:
    """With only statistics in the log there is no VerifierError, but errno and a hint."""
    kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(b"processed 0 insns (limit 1000000)\n", EINVAL)
    with pytest.raises(BpfError) as caught:
        sys_prog.prog_load(99, INSNS, name="prog")
    assert type(caught.value) is BpfError
    assert "the verifier did not start" in caught.value.hint


def test_refused_by_policy(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPERM without a log is DeniedByPolicy and names what the program type takes."""
    monkeypatch.setattr(denied, "circumstances", lambda: NO_CAPS)
    kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(b"", EPERM)
    with pytest.raises(DeniedByPolicy, match=r"CAP_BPF and CAP_PERFMON.*unprivileged_bpf"):
        sys_prog.prog_load(ProgType.BPF_PROG_TYPE_KPROBE, INSNS)


def test_eacces_with_a_log_is_the_verifier(kernel: FakeKernel) -> None:
    """EACCES is the verifier's most common answer: with a log it is not a policy."""
    kernel.on[Cmd.BPF_PROG_LOAD] = Verifier(b"R1 invalid mem access 'scalar'\n", EACCES)
    assert _refused().summary == "R1 invalid mem access 'scalar'"


@pytest.mark.parametrize(
    "said",
    ["unknown func %s", "program of this type cannot use helper %s"],
    ids=["before 6.11", "since"],
)
def test_a_helper_that_lockdown_takes_is_a_policy(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """The verifier knows no such helper then. Without lockdown, or for others, it is the program's
    fault."""
    log = f"0: (85) call 113\n{said}\nprocessed 1 insns\n"
    for level, helper, taken in (
        ("confidentiality", "bpf_probe_read_kernel#113", True),
        ("confidentiality", "bpf_probe_write_user#36", True),
        ("integrity", "bpf_probe_write_user#36", True),
        ("integrity", "bpf_probe_read_kernel#113", False),
        ("none", "bpf_probe_write_user#36", False),
        ("confidentiality", "bpf_redirect#23", False),
    ):
        monkeypatch.setattr(
            denied, "circumstances", lambda level=level: ALL_CAPS._replace(lockdown=level)
        )
        kernel.on[Cmd.BPF_PROG_LOAD] = Verifier((log % helper).encode(), EINVAL)
        with pytest.raises(DeniedByPolicy if taken else VerifierError) as caught:
            sys_prog.prog_load(1, INSNS, name="prog")
        if taken:
            name = helper.partition("#")[0]
            assert caught.value.hint == (
                f"kernel lockdown is in {level} mode, where programs cannot call {name}"
            )
            assert isinstance(caught.value.__cause__, VerifierError)
            assert caught.value.__cause__.log == log % helper


def test_eagain_is_tried_again(kernel: FakeKernel) -> None:
    """A signal during verification is EAGAIN: the load is simply repeated."""
    fd = kernel.fd()
    kernel.on[Cmd.BPF_PROG_LOAD] = _answer(-EAGAIN, -EAGAIN, fd)
    with sys_prog.prog_load(1, INSNS) as loaded:
        assert loaded.fileno() == fd
    assert len(kernel.calls) == 3


def test_eagain_is_not_tried_for_ever(kernel: FakeKernel) -> None:
    """Five attempts, with and without a log, then the error is reported."""
    kernel.on[Cmd.BPF_PROG_LOAD] = lambda attr: -EAGAIN
    with pytest.raises(BpfError) as caught:
        sys_prog.prog_load(1, INSNS)
    assert caught.value.errno == EAGAIN
    assert len(kernel.calls) == 10


@pytest.mark.parametrize("number", [EMFILE, ENFILE])
def test_no_descriptor_left_is_said_as_it_is(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No second verification for a log, and no module imported: there is no file for it."""
    kernel.on[Cmd.BPF_PROG_LOAD] = lambda attr: -number
    monkeypatch.setitem(sys.modules, "pybpf._sys.verifier", None)
    monkeypatch.setitem(sys.modules, "pybpf._sys.denied", None)
    with pytest.raises(BpfError, match="BPF_PROG_LOAD 'prog'") as caught:
        sys_prog.prog_load(1, INSNS, name="prog")
    assert caught.value.errno == number and len(kernel.calls) == 1


def test_a_log_of_a_good_load(kernel: FakeKernel) -> None:
    """With log_level the first attempt has a log, which on_log gets."""

    def load(attr: Any) -> int:
        assert attr.log_level == 4
        ctypes.memmove(attr.log_buf, b"processed 2 insns\0", 18)
        return kernel.fd()

    kernel.on[Cmd.BPF_PROG_LOAD] = load
    logs: list[str] = []
    sys_prog.prog_load(1, INSNS, log_level=4, on_log=logs.append).close()
    assert logs == ["processed 2 insns"] and len(kernel.calls) == 1


def test_a_log_nobody_asked_to_see(kernel: FakeKernel) -> None:
    """log_level without on_log, and on_log without anything logged, are both fine."""

    def load(attr: Any) -> int:
        ctypes.memmove(attr.log_buf, b"words\0" if attr.log_level == 2 else b"\0", 1)
        return kernel.fd()

    kernel.on[Cmd.BPF_PROG_LOAD] = load
    sys_prog.prog_load(1, INSNS, log_level=2).close()
    logs: list[str] = []
    sys_prog.prog_load(1, INSNS, log_level=1, on_log=logs.append).close()
    assert logs == []


# -- other commands


def test_btf_load_grows_its_log(kernel: FakeKernel) -> None:
    """A dump that does not fit is asked for again, so that the last line is the reason."""
    sizes = []

    def load(attr: Any) -> int:
        sizes.append(attr.btf_log_size)
        if attr.btf_log_size and attr.btf_log_size < 1_000_000:
            return -ENOSPC
        if attr.btf_log_size:
            ctypes.memmove(attr.btf_log_buf, b"[9] Invalid name\0", 17)
        return -EINVAL

    kernel.on[Cmd.BPF_BTF_LOAD] = load
    with pytest.raises(BpfError, match="Invalid name") as caught:
        bpf.btf_load(b"junk")
    assert caught.value.errno == EINVAL
    assert sizes == [0, 1 << 16, 1 << 18, 1 << 20]


def test_btf_load_hint_is_the_kernels_last_line(kernel: FakeKernel) -> None:
    """A refused BTF says why."""

    def load(attr: Any) -> int:
        if not attr.btf_log_level:
            return -EINVAL
        text = b"magic: 0xeb9f\n[1] INT int size=5\nInvalid type_size\n\0"
        ctypes.memmove(attr.btf_log_buf, text, len(text))
        return -EINVAL

    kernel.on[Cmd.BPF_BTF_LOAD] = load
    with pytest.raises(BpfError, match=r"BPF_BTF_LOAD: EINVAL.*Invalid type_size"):
        bpf.btf_load(b"junk")


def test_ids_end_at_enoent(kernel: FakeKernel) -> None:
    """Walking ids asks for the next above the last and ends quietly."""
    starts = []

    def after(attr: Any) -> int:
        starts.append(attr.start_id)
        if attr.start_id >= 9:
            return -ENOENT
        attr.next_id = {0: 4, 4: 9}[attr.start_id]
        return 0

    kernel.on[Cmd.BPF_PROG_GET_NEXT_ID] = after
    assert list(bpf.ids("prog")) == [4, 9]
    assert starts == [0, 4, 9]
    with pytest.raises(BpfError):
        bpf.get_next_id("prog", 9)


def test_objects_that_come_and_go_are_none(kernel: FakeKernel) -> None:
    """Gone (ENOENT) and still being made (EAGAIN) are not errors in a walk. All others are."""
    kernel.attrs |= {
        Cmd.BPF_LINK_GET_NEXT_ID: structs.GetId,
        Cmd.BPF_LINK_GET_FD_BY_ID: structs.GetId,
    }
    refused = {2: -EAGAIN, 3: -ENOENT}
    made = 4

    def after(attr: Any) -> int:
        attr.next_id = attr.start_id + 1
        return 0 if attr.next_id <= made else -ENOENT

    def opened(attr: Any) -> int:
        nonlocal made
        made += 1  # somebody makes a link for each that is read
        return refused.get(attr.start_id) or kernel.fd()

    kernel.on[Cmd.BPF_LINK_GET_NEXT_ID] = after
    kernel.on[Cmd.BPF_LINK_GET_FD_BY_ID] = opened
    assert [(number, fd is not None) for number, fd in bpf.walk("link")] == [
        (1, True),
        (2, False),
        (3, False),
        (4, True),
    ]
    assert bpf.open_by_id("link", 2) is None
    refused[5] = -EMFILE
    with pytest.raises(BpfError, match="BPF_LINK_GET_FD_BY_ID 5: EMFILE"):
        bpf.open_by_id("link", 5)
    refused[5] = -EPERM
    with pytest.raises(DeniedByPolicy):
        bpf.open_by_id("link", 5)


def test_link_update_of_another_program(kernel: FakeKernel) -> None:
    """EPERM of a conditional update means another program is attached."""
    seen = []

    def update(attr: Any) -> int:
        seen.append((attr.link_fd, attr.new_prog_fd, attr.flags, attr.old_prog_fd))
        return -EPERM if attr.flags else 0

    kernel.on[Cmd.BPF_LINK_UPDATE] = update
    sys_link.link_update(3, 4)
    with pytest.raises(BpfError, match="another program") as caught:
        sys_link.link_update(3, 4, old_prog_fd=5)
    assert type(caught.value) is BpfError
    assert seen == [(3, 4, 0, 0), (3, 4, 4, 5)]


def test_test_run_says_once_as_zero(kernel: FakeKernel) -> None:
    """repeat=1 is sent as 0, which every program type takes; outputs have their true sizes."""

    def run(attr: Any) -> int:
        assert attr.repeat == 0
        assert read_bytes(attr.data_in, attr.data_size_in) == b"packet"
        ctypes.memmove(attr.data_out, b"PACK", 4)
        attr.data_size_out, attr.retval, attr.duration = 4, 2, 55
        ctypes.memmove(attr.ctx_in, b"CTX", 3)
        return 0

    kernel.on[Cmd.BPF_PROG_TEST_RUN] = run
    ran = sys_prog.prog_test_run(3, data_in=b"packet", data_out_size=64, ctx_in=b"ctx", repeat=1)
    assert ran == (2, 55, b"PACK", b"CTX")


def test_raw_tracepoint_without_a_name(kernel: FakeKernel) -> None:
    """A program that knows its target has no name to give: the pointer is 0."""
    kernel.on[Cmd.BPF_RAW_TRACEPOINT_OPEN] = lambda attr: (
        kernel.fd() if attr.name == 0 and attr.prog_fd == 8 and attr.cookie == 3 else -EINVAL
    )
    sys_link.raw_tracepoint_open(8, None, cookie=3).close()


# -- links


def test_kprobe_multi_by_names(kernel: FakeKernel) -> None:
    """Names arrive as an array of C strings, cookies as u64 beside them."""
    kernel.attrs[Cmd.BPF_LINK_CREATE] = structs.LinkCreateKprobeMulti

    def create(attr: Any) -> int:
        multi = attr.kprobe_multi
        names = struct.unpack("2Q", read_bytes(multi.syms, 16))
        assert [ctypes.string_at(n) for n in names] == [b"vfs_read", b"vfs_write"]
        assert struct.unpack("2Q", read_bytes(multi.cookies, 16)) == (7, 1 << 63)
        assert (attr.attach_type, multi.cnt, multi.flags, multi.addrs) == (42, 2, 1, 0)
        return kernel.fd()

    kernel.on[Cmd.BPF_LINK_CREATE] = create
    sys_link.link_create_kprobe_multi(
        3, flags=1, syms=["vfs_read", "vfs_write"], cookies=[7, 1 << 63]
    ).close()


def test_kprobe_multi_by_addresses(kernel: FakeKernel) -> None:
    """Addresses arrive as u64, from a list or an array."""
    kernel.attrs[Cmd.BPF_LINK_CREATE] = structs.LinkCreateKprobeMulti
    seen = []

    def create(attr: Any) -> int:
        multi = attr.kprobe_multi
        seen.append((struct.unpack("3Q", read_bytes(multi.addrs, 24)), multi.syms, multi.cookies))
        return kernel.fd()

    kernel.on[Cmd.BPF_LINK_CREATE] = create
    where = [0xFFFFFFFF81000000, 0xFFFFFFFF81000010, 0xFFFFFFFFC0000000]
    sys_link.link_create_kprobe_multi(3, addrs=where).close()
    sys_link.link_create_kprobe_multi(3, addrs=array("Q", where)).close()
    assert seen == [(tuple(where), 0, 0)] * 2


def test_tracing_multi(kernel: FakeKernel) -> None:
    """Ids are u32, cookies u64."""
    kernel.attrs[Cmd.BPF_LINK_CREATE] = structs.LinkCreateTracingMulti

    def create(attr: Any) -> int:
        multi = attr.tracing_multi
        assert struct.unpack("2I", read_bytes(multi.ids, 8)) == (100, 200)
        assert struct.unpack("2Q", read_bytes(multi.cookies, 16)) == (1, 2)
        assert (attr.attach_type, multi.cnt) == (60, 2)
        return kernel.fd()

    kernel.on[Cmd.BPF_LINK_CREATE] = create
    sys_link.link_create_tracing_multi(
        3, AttachType.BPF_TRACE_FEXIT_MULTI, [100, 200], [1, 2]
    ).close()


def test_too_few_cookies_never_reach_the_kernel(kernel: FakeKernel) -> None:
    """The kernel would read past the end of a short array."""
    with pytest.raises(ValueError, match="1 cookie for 2 functions"):
        sys_link.link_create_kprobe_multi(3, syms=["a", "b"], cookies=[1])
    with pytest.raises(ValueError, match="1 cookie for 2 functions"):
        sys_link.link_create_tracing_multi(3, 59, [1, 2], [1])
    assert not kernel.calls


def test_unknown_attach_type_still_has_a_name(kernel: FakeKernel) -> None:
    """An attach type of a future kernel is named by number in the error."""
    kernel.attrs[Cmd.BPF_LINK_CREATE] = structs.LinkCreate
    kernel.on[Cmd.BPF_LINK_CREATE] = _answer(-EBUSY)
    with pytest.raises(BpfError, match="attach type 200"):
        sys_link.link_create_generic(3, 4, 200)


# -- infos


class Infos:
    """BPF_OBJ_GET_INFO_BY_FD of one made-up object."""

    def __init__(self, kernel: FakeKernel, kind: Any, fill: Any) -> None:
        self.kind, self.fill, self.asked = kind, fill, 0
        kernel.on[Cmd.BPF_OBJ_GET_INFO_BY_FD] = self

    def __call__(self, attr: Any) -> int:
        self.asked += 1
        assert attr.info_len == ctypes.sizeof(self.kind)
        return int(self.fill(self.kind.from_address(attr.info)) or 0)


def test_prog_info_asks_again_for_what_did_not_fit(kernel: FakeKernel) -> None:
    """100 maps and 40 functions need a second call; nothing is cut off."""

    def fill(i: Any) -> int:
        room_maps, i.nr_map_ids = i.nr_map_ids, 100
        room_ksyms, i.nr_jited_ksyms = i.nr_jited_ksyms, 40
        room_lens, i.nr_jited_func_lens = i.nr_jited_func_lens, 40
        n = min(room_maps, 100)
        ctypes.memmove(i.map_ids, struct.pack(f"{n}I", *range(n)), 4 * n)
        n = min(room_ksyms, 40)
        ctypes.memmove(i.jited_ksyms, struct.pack(f"{n}Q", *range(1000, 1000 + n)), 8 * n)
        n = min(room_lens, 40)
        ctypes.memmove(i.jited_func_lens, struct.pack(f"{n}I", *range(n)), 4 * n)
        i.id, i.name, i.type = 12, b"prog", 26
        i.tag[:] = bytes(range(8))
        return 0

    asked = Infos(kernel, structs.ProgInfo, fill)
    got = info.prog_info(3)
    assert asked.asked == 2
    assert got.map_ids == tuple(range(100))
    assert got.jited_ksyms == tuple(range(1000, 1040)) and got.jited_func_lens == tuple(range(40))
    assert (got.id, got.name, got.tag) == (12, "prog", "0001020304050607")
    assert got.jited_insns == got.xlated_insns == b""


def test_prog_info_fetches_code_only_when_asked(kernel: FakeKernel) -> None:
    """Machine code and instructions are each a second call's work, and only on request."""

    def fill(i: Any) -> int:
        for length, pointer, data in (
            ("jited_prog_len", "jited_prog_insns", b"JIT!"),
            ("xlated_prog_len", "xlated_prog_insns", b"XLATED"),
        ):
            if getattr(i, pointer):
                ctypes.memmove(getattr(i, pointer), data, min(getattr(i, length), len(data)))
            setattr(i, length, len(data))
        i.nr_map_ids = i.nr_jited_ksyms = i.nr_jited_func_lens = 0
        return 0

    asked = Infos(kernel, structs.ProgInfo, fill)
    plain = info.prog_info(3)
    assert (plain.jited_insns, plain.xlated_insns, asked.asked) == (b"", b"", 1)
    assert (plain.jited_prog_len, plain.xlated_prog_len) == (4, 6)
    assert info.prog_info(3, jited=True)[-2:] == (b"JIT!", b"")
    assert info.prog_info(3, xlated=True)[-2:] == (b"", b"XLATED")


def test_prog_info_without_the_right_to_see_addresses(kernel: FakeKernel) -> None:
    """The kernel clears the pointers it does not fill: the addresses are absent, not zeros."""

    def fill(i: Any) -> int:
        i.nr_jited_ksyms = i.nr_jited_func_lens = 2
        i.jited_ksyms = i.jited_func_lens = 0
        i.nr_map_ids = 0
        return 0

    Infos(kernel, structs.ProgInfo, fill)
    got = info.prog_info(3)
    assert got.jited_ksyms == () and got.jited_func_lens == ()


def _link(kernel: FakeKernel, kind: int, fill: Any) -> info.LinkInfo:
    def both(i: Any) -> int:
        result = int(fill(i) or 0)
        i.type, i.id, i.prog_id = kind, 5, 6
        return result

    Infos(kernel, structs.LinkInfo, both)
    return info.link_info(3)


def test_link_info_of_tracing(kernel: FakeKernel) -> None:
    """A tracing link says attach type, BTF object and function id."""

    def fill(i: Any) -> None:
        i.tracing.attach_type, i.tracing.target_obj_id, i.tracing.target_btf_id = 25, 1, 777
        i.tracing.cookie = 1 << 40

    got = _link(kernel, LinkType.BPF_LINK_TYPE_TRACING, fill)
    assert (got.id, got.prog_id, got.attach_type, got.target_btf_id) == (5, 6, 25, 777)
    assert got.target_obj_id == 1 and got.cookie == 1 << 40


def test_link_info_of_a_kprobe_reads_its_name(kernel: FakeKernel) -> None:
    """The second call brings the function's name; a longer one a bigger buffer."""
    name = b"f" * 200 + b"\0"

    def fill(i: Any) -> int:
        probe = i.perf_event.kprobe
        i.perf_event.type = P.BPF_PERF_EVENT_KRETPROBE
        room, probe.name_len = probe.name_len, len(name)
        probe.offset, probe.addr, probe.missed, probe.cookie = 4, 0xFFFF, 2, 9
        if not probe.func_name:
            return 0
        ctypes.memmove(probe.func_name, name[: room - 1] + b"\0", min(room, len(name)))
        return -ENOSPC if room < len(name) else 0

    got = _link(kernel, LinkType.BPF_LINK_TYPE_PERF_EVENT, fill)
    assert got.name == "f" * 200 and got.perf_type == P.BPF_PERF_EVENT_KRETPROBE
    assert (got.offset, got.addr, got.missed, got.cookie) == (4, 0xFFFF, 2, 9)


def test_link_info_of_an_old_kernel_without_cookies(kernel: FakeKernel) -> None:
    """E2BIG for a pointer the kernel does not know: addresses come without cookies."""

    def fill(i: Any) -> int:
        multi = i.kprobe_multi
        if multi.cookies:
            return -E2BIG
        room, multi.count = multi.count, 2
        if room:
            ctypes.memmove(multi.addrs, struct.pack("2Q", 10, 20), 16)
        return 0

    got = _link(kernel, LinkType.BPF_LINK_TYPE_KPROBE_MULTI, fill)
    assert list(got.addrs) == [10, 20] and got.cookies == () and got.count == 2


def test_link_info_without_functions(kernel: FakeKernel) -> None:
    """A kernel that does not tell the count (7.2, tracing_multi) is not asked for arrays."""
    asked = []

    def fill(i: Any) -> None:
        asked.append(i.tracing_multi.ids)

    got = _link(kernel, LinkType.BPF_LINK_TYPE_TRACING_MULTI, fill)
    assert asked == [0] and (got.count, got.ids, got.addrs) == (0, (), ())


def test_link_info_of_an_old_kernel_without_places(kernel: FakeKernel) -> None:
    """6.6 has uprobe.multi and does not describe it. The pointers would be E2BIG: no room."""

    def fill(i: Any) -> int:
        return -E2BIG if i.uprobe_multi.path_size else 0

    got = _link(kernel, LinkType.BPF_LINK_TYPE_UPROBE_MULTI, fill)
    assert got == info.LinkInfo(LinkType.BPF_LINK_TYPE_UPROBE_MULTI, 5, 6)


def test_link_info_of_a_future_link(kernel: FakeKernel) -> None:
    """An unknown type still gives id and program."""
    assert _link(kernel, 60, lambda i: None) == info.LinkInfo(60, 5, 6)


def test_link_info_shows_what_its_type_has(kernel: FakeKernel) -> None:
    """No zeros of other types; numbers that have names by name; a zero that is an answer stays."""

    def tracing(i: Any) -> None:
        i.tracing.attach_type, i.tracing.target_obj_id, i.tracing.target_btf_id = 25, 1, 777

    got = _link(kernel, LinkType.BPF_LINK_TYPE_TRACING, tracing)
    assert repr(got) == (
        "LinkInfo(type=BPF_LINK_TYPE_TRACING, id=5, prog_id=6, attach_type=BPF_TRACE_FEXIT, "
        "target_obj_id=1, target_btf_id=777)"
    )
    got = _link(kernel, LinkType.BPF_LINK_TYPE_XDP, lambda i: None)
    assert repr(got) == "LinkInfo(type=BPF_LINK_TYPE_XDP, id=5, prog_id=6, ifindex=0)"
    got = _link(kernel, LinkType.BPF_LINK_TYPE_CGROUP, lambda i: None)
    assert repr(got).endswith("attach_type=BPF_CGROUP_INET_INGRESS, cgroup_id=0)")
    got = _link(kernel, LinkType.BPF_LINK_TYPE_TRACING_MULTI, lambda i: None)
    assert repr(got) == "LinkInfo(type=BPF_LINK_TYPE_TRACING_MULTI, id=5, prog_id=6)"
    assert repr(info.LinkInfo(60, 5, 6)) == "LinkInfo(type=60, id=5, prog_id=6)"
    many = info.LinkInfo(LinkType.BPF_LINK_TYPE_KPROBE_MULTI, 5, 6, addrs=(1,) * 99, offsets=(1, 2))
    assert "addrs=<99 numbers>, offsets=[1, 2]" in repr(many)


def test_btf_info_with_a_long_name_and_data(kernel: FakeKernel) -> None:
    """Name and data are asked for until they fit."""
    name, blob = b"m" * 300 + b"\0", b"B" * 999

    def fill(i: Any) -> int:
        room, i.name_len = i.name_len, len(name) - 1
        space, i.btf_size = i.btf_size, len(blob)
        i.id, i.kernel_btf = 3, 1
        if space:
            ctypes.memmove(i.btf, blob, min(space, len(blob)))
        ctypes.memmove(i.name, name[: room - 1] + b"\0", min(room, len(name)))
        return -ENOSPC if room < len(name) else 0

    Infos(kernel, structs.BtfInfo, fill)
    got = info.btf_info(3, data=True)
    assert got == (3, "m" * 300, True, 999, blob)


def test_an_info_error_says_of_what(kernel: FakeKernel) -> None:
    """EINVAL of a descriptor of another kind names the kind that was asked for."""
    kernel.on[Cmd.BPF_OBJ_GET_INFO_BY_FD] = _answer(-EINVAL)
    with pytest.raises(BpfError, match="BPF_OBJ_GET_INFO_BY_FD of a map: EINVAL"):
        info.map_info(3)
