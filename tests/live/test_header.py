"""Programs that use what pybpf.h offers, run by the kernel."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.features import Feature

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "header.bpf.o") as opened:
        for program in opened.programs.values():
            program.autoload = False
        yield opened


class Node(ctypes.Structure):
    """``struct node`` of the program."""


Node._fields_ = [
    ("number", ctypes.c_int),
    ("next", ctypes.POINTER(Node)),
    ("name", ctypes.c_char * 8),
]


def load(obj: pybpf.Object, name: str) -> pybpf.Program:
    obj.programs[name].autoload = True
    obj.load()
    return obj.programs[name]


@pytest.mark.needs(Feature.SYSCALL)
def test_values_become_text(obj: pybpf.Object) -> None:
    """Signed and unsigned numbers and strings, five of them; bpf_printk takes as many."""
    assert load(obj, "values_as_text").test_run().retval == 0
    assert obj.globals.text == "-5 deadbeef word 7 2147483648"
    assert obj.globals.length == len(obj.globals.text) + 1


@pytest.mark.needs(Feature.SYSCALL)
def test_structs_of_a_process(obj: pybpf.Object) -> None:
    """They are followed without CO-RE, which would look for them in the kernel."""
    second = Node(number=-7, name=b"second")
    first = Node(number=1, next=ctypes.pointer(second))
    program = load(obj, "structs_of_a_process")
    assert program.test_run(ctx=struct.pack("<Q", ctypes.addressof(first))).retval == 7
    assert (obj.globals.number, obj.globals.name) == (-7, "second")


@pytest.mark.needs(Feature.ITER)
def test_text_of_an_iterator(obj: pybpf.Object) -> None:
    """Each task is a line of five values."""
    with load(obj, "text_of_an_iterator").attach_iter() as link:
        assert set(link.read().splitlines()) == {b"a-1-2-3-4"}


def test_helpers_of_the_network(obj: pybpf.Object) -> None:
    """A packet gets two bytes more, in the order of the network."""
    ran = load(obj, "room_before_a_packet").test_run(bytes(64))
    assert (ran.retval, ran.data_out) == (2, b"\x08\x00" + bytes(64))


@pytest.mark.needs(Feature.KPROBE)
def test_arguments_of_a_system_call(obj: pybpf.Object) -> None:
    """They are the caller's, though the kernel's function has only one: the registers."""
    libc = ctypes.CDLL(None, use_errno=True)
    with load(obj, "on_dup3").attach():
        assert libc.dup3(-3, 12345, 0o2000000) == -1
    assert list(obj.globals.arguments) == [-3, 12345, 0o2000000]
