"""Ring buffer producers, assembled here: socket filters that BPF_PROG_TEST_RUN repeats.

Each run of a program offers one record to the ring. Its state is the only
element of an array with BPF_F_MMAPABLE, so a test reads the counters while it runs:
``u64 seq`` (records offered), ``u64 dropped`` (refused by the ring), then the payload.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pybpf._sys import prog as sys_prog
from pybpf._sys.fd import Fd
from pybpf._uapi.enums import MapType, ProgType
from pybpf.asm import encode
from pybpf.asm import opcodes as op
from pybpf.asm.insn import (
    Insn,
    alu,
    call,
    exit_,
    ja,
    jmp,
    load,
    map_fd,
    map_value,
    mov,
    mov_reg,
    store,
)
from pybpf.maps import Map

PAYLOAD_AT = 32
LARGEST = 264

_RINGBUF_OUTPUT, _RINGBUF_RESERVE, _RINGBUF_SUBMIT, _RINGBUF_DISCARD = 130, 131, 132, 133


def _count(at: int) -> list[Insn]:
    """Make ``++*(u64 *)(r6 + at)``, with the new value in r1."""
    return [load(op.DW, 1, 6, at), alu(op.ADD, 1, 1), store(op.DW, 6, at, 1)]


def _end() -> list[Insn]:
    return [mov(0, 0), exit_()]


def output_program(ring: int, state: int, size: int | None, flags: int = 0) -> list[Insn]:
    """Call bpf_ringbuf_output with `size` bytes. None: 8, 16, ... 256 bytes in turn."""
    return [
        *map_value(6, state, 0),
        *_count(0),
        store(op.DW, 6, PAYLOAD_AT, 1),
        *(
            [mov(3, size)]
            if size is not None
            else [mov_reg(3, 1), alu(op.AND, 3, 31), alu(op.LSH, 3, 3), alu(op.ADD, 3, 8)]
        ),
        *map_fd(1, ring),
        mov_reg(2, 6),
        alu(op.ADD, 2, PAYLOAD_AT),
        mov(4, flags),
        call(_RINGBUF_OUTPUT),
        jmp(op.JEQ, 0, 0, 3),
        *_count(8),
        *_end(),
    ]


def reserve_program(ring: int, state: int, discard_every: int) -> list[Insn]:
    """Reserve 16 bytes and write the number twice. Discard every n-th record, submit the others."""
    return [
        *map_value(6, state, 0),
        *_count(0),
        mov_reg(7, 1),
        *map_fd(1, ring),
        mov(2, 16),
        mov(3, 0),
        call(_RINGBUF_RESERVE),
        jmp(op.JNE, 0, 0, 4),
        *_count(8),
        ja(9),
        store(op.DW, 0, 0, 7),
        store(op.DW, 0, 8, 7),
        mov_reg(1, 0),
        mov(2, 0),
        alu(op.MOD, 7, discard_every),
        jmp(op.JEQ, 7, 0, 2),
        call(_RINGBUF_SUBMIT),
        ja(1),
        call(_RINGBUF_DISCARD),
        *_end(),
    ]


class Producer:
    """Run a loaded producer program, with its state."""

    def __init__(self, insns: Sequence[Insn], state: Map) -> None:
        self.state = state
        self.program: Fd = sys_prog.prog_load(
            ProgType.BPF_PROG_TYPE_SOCKET_FILTER, encode(insns), name="producer"
        )

    @classmethod
    def output(cls, ring: Map, size: int | None, flags: int = 0) -> Producer:
        state = new_state()
        return cls(output_program(ring.fileno(), state.fileno(), size, flags), state)

    @classmethod
    def reserve(cls, ring: Map, discard_every: int = 1 << 30) -> Producer:
        state = new_state()
        return cls(reserve_program(ring.fileno(), state.fileno(), discard_every), state)

    def run(self, times: int) -> None:
        """Offer this many records."""
        sys_prog.prog_test_run(self.program.fileno(), data_in=bytes(64), repeat=times)

    @property
    def offered(self) -> int:
        with self.state.memory() as memory:
            return int(memory.cast("Q")[0])

    @property
    def dropped(self) -> int:
        with self.state.memory() as memory:
            return int(memory.cast("Q")[1])

    def close(self) -> None:
        self.program.close()
        self.state.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_state() -> Map:
    """Make the array that holds a producer's counters and payload."""
    state = Map.create_new(
        MapType.BPF_MAP_TYPE_ARRAY,
        4,
        PAYLOAD_AT + LARGEST,
        1,
        name="producer_state",
        map_flags=1 << 10,
    )
    state.raw[bytes(4)] = struct.pack("=QQQQ", 0, 0, 0, 0) + bytes(range(256)) + bytes(8)
    return state
