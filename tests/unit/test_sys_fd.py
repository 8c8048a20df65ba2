"""`Fd`: one owner, closed once."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pybpf._sys.fd import Fd, set_tracer
from pybpf.errors import StateError
from tests.support.fdleak import FdTracker


def _pipe() -> tuple[Fd, Fd]:
    reader, writer = os.pipe()
    return Fd(reader, "reader"), Fd(writer, "writer")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


def test_close_is_idempotent_and_spares_a_reused_number() -> None:
    """A second close does nothing, even when the number means another file by then."""
    a, b = _pipe()
    number = a.fileno()
    a.close()
    assert a.closed and not _is_open(number)
    reused = os.dup2(b.fileno(), number)
    a.close()
    assert _is_open(reused)
    os.close(reused)
    b.close()


def test_a_closed_fd_has_no_number() -> None:
    """fileno of a closed one is an error that says what was closed, not -1 for the kernel."""
    a, b = _pipe()
    a.close()
    b.close()
    uses: list[Callable[[], object]] = [a.fileno, a.dup, a.release]
    for use in uses:
        with pytest.raises(StateError, match="reader: it is closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF
    nameless = Fd(os.open(os.devnull, os.O_RDONLY))
    nameless.close()
    with pytest.raises(StateError, match="file descriptor: it is closed"):
        nameless.fileno()


def test_release_gives_up_ownership() -> None:
    """The number stays open and the object lets go without a warning."""
    a, b = _pipe()
    number = a.release()
    assert a.closed and _is_open(number)
    a.close()
    assert _is_open(number)
    os.close(number)
    b.close()


def test_dup_is_another_close_on_exec_descriptor() -> None:
    """The copy outlives the original and is not inherited."""
    a, b = _pipe()
    with a.dup() as copy:
        a.close()
        assert _is_open(copy.fileno())
        assert fcntl.fcntl(copy.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert copy.what == "reader"
    b.close()


def test_with_closes() -> None:
    """Leaving the block closes, on errors too."""
    a, b = _pipe()
    number = a.fileno()
    with pytest.raises(KeyError), b, a:
        raise KeyError
    assert a.closed and b.closed and not _is_open(number)


def test_collected_while_open_warns_and_closes(owned_descriptors: FdTracker) -> None:
    """A forgotten Fd is a ResourceWarning naming it, and no leak of the descriptor."""
    a, b = _pipe()
    number = a.fileno()
    with pytest.warns(ResourceWarning, match="reader> was never closed"):
        del a
        gc.collect()
    assert not _is_open(number)
    assert len(owned_descriptors.leaked) == 1
    owned_descriptors.leaked.clear()  # it was on purpose
    b.close()


def test_standard_numbers_are_left_free() -> None:
    """Without standard input and output, a descriptor does not become 0 to 2: for the kernel 0
    is often none. The moved one is close-on-exec, and nothing stays open."""
    code = """
import fcntl, os
from pybpf._sys.fd import Fd
kept = os.dup(2)
for number in (0, 1, 2):
    os.close(number)
made = [Fd(os.open("/dev/null", os.O_RDWR)) for _ in range(4)]
numbers = [one.fileno() for one in made]
flags = [fcntl.fcntl(one, fcntl.F_GETFD) for one in made]
closed = [number for number in range(3) if not os.path.exists(f"/proc/self/fd/{number}")]
os.write(kept, repr((min(numbers) > 2, set(flags), closed)).encode())
for one in made:
    one.close()
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"(True, {1}, [0, 1, 2])"


@pytest.mark.parametrize("number", [-1, -22])
def test_a_negative_number_is_refused(number: int) -> None:
    """A negative result cannot be mistaken for a descriptor."""
    with pytest.raises(ValueError, match="not a file descriptor"):
        Fd(number)


def test_tracker_knows_who_opened() -> None:
    """The leak tracker names this file for an Fd that is still open, and forgets closed ones."""
    tracker = FdTracker()
    former = set_tracer(tracker)
    try:
        a, b = _pipe()
        c = a.dup()
        number = c.release()
        a.close()
        assert len(tracker.open) == 1
        (text,) = tracker.open.values()
        assert "writer" in text and "test_sys_fd.py" in text
        b.close()
        assert not tracker.open and not tracker.leaked
    finally:
        set_tracer(former)
    os.close(number)


def test_room_for_thousands_of_descriptors_is_made_or_refused_in_words() -> None:
    """The soft limit goes up as far as needed, never the hard one."""
    script = (
        "import errno, os, resource\n"
        "from pybpf._sys.fd import make_room\n"
        "from pybpf.errors import BpfError\n"
        "limit = resource.RLIMIT_NOFILE\n"
        "resource.setrlimit(limit, (100, 400))\n"
        "make_room(10)\n"
        "assert resource.getrlimit(limit) == (100, 400)\n"
        "make_room(200)\n"
        "soft, hard = resource.getrlimit(limit)\n"
        "assert 200 < soft < 400 and hard == 400, (soft, hard)\n"
        "for _ in range(200): os.dup(0)\n"
        "try: make_room(500, 'attach')\n"
        "except BpfError as error: assert error.errno == errno.EMFILE; print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("attach: EMFILE")
    assert "the hard limit is 400" in done.stdout and "ulimit -n" in done.stdout
