"""Start and end every tool: its output, the wording of its errors, its exit status.

Standard output is wrapped so that its errors cannot be confused with those of a file the tool
reads. If the reader of the output goes away, the tool ends silently, as with SIGPIPE.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Callable

from ..errors import BpfError, ObjectFormatError, PlanError, RelocationError
from ..wording import many, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from _typeshed import ReadableBuffer

__all__ = ["explain", "run", "script"]

_STDOUT, _STDERR = 1, 2
# New objects between two searches for garbage in cycles. Python's 700 has it search dozens of
# times while modules are imported, which leaves no garbage.
_YOUNG = 50_000


class _OutputError(Exception):
    # Not an OSError, because tools catch those and blame the file they were reading.
    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Output(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it: the kernel may take a part, and `python3 -u` would drop the rest."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                # None: another program has set this terminal or pipe not to block.
                left = left[super().write(left) or self._wait() :]
        except OSError as error:
            raise _OutputError(error) from None
        return size

    def _wait(self) -> int:
        from select import POLLOUT, poll

        room = poll()
        room.register(self, POLLOUT)
        room.poll()
        return 0


def _prepare_streams() -> None:
    # Python has None for a stream that was closed. Its number is taken here. Otherwise the next
    # opened file would get it and be written to. Writing to a read-only stream fails as usual.
    for number, stream, mode in (
        (_STDOUT, sys.stdout, os.O_RDONLY),
        (_STDERR, sys.stderr, os.O_WRONLY),
    ):
        if stream is None:
            _to_null(number, mode)
    if sys.stderr is None:
        sys.stderr = open(_STDERR, "w", closefd=False)  # noqa: SIM115  for as long as we run
    former = sys.stdout if isinstance(sys.stdout, io.TextIOWrapper) else None
    raw = _Output(_STDOUT, "w", closefd=False)
    unbuffered = former is not None and former.write_through  # python3 -u
    sys.stdout = io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=former.encoding if former else "utf-8",
        errors=_errors(former),
        line_buffering=raw.isatty(),
        write_through=unbuffered,
    )


def _errors(former: io.TextIOWrapper | None) -> str:
    # How to write a character that the encoding of the terminal does not have.
    if former is None:
        return "surrogateescape"
    try:
        "\N{HORIZONTAL ELLIPSIS}".encode(former.encoding)
    except (UnicodeEncodeError, LookupError):
        return "replace"
    return former.errors or "strict"


def _to_null(number: int, mode: int) -> None:
    null = os.open(os.devnull, mode)
    if null != number:
        os.dup2(null, number)
        os.close(null)


def explain(error: Exception, file: object = "") -> str:
    """Put an error into words, with the name of the file it is about.

    Names in it cannot control the terminal (`plain`).

    :param file: the file that was being read, for errors that do not name it
    """
    if isinstance(error, OSError) and not isinstance(error, BpfError):
        name = error.filename or file
        text = f"{name}: {error.strerror or error}" if name else str(error.strerror or error)
    else:
        text = str(error)
    return plain(text, lines=True)


def run(name: str, main: Callable[[], int]) -> NoReturn:
    """Run a tool and end the process with its status.

    The status is 141 (128 + SIGPIPE) if the reader of its output went away, and 130 if it was
    interrupted while it worked. It is 1, with one line of explanation, if its output cannot be
    written or there is not enough memory.
    """
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    _prepare_streams()
    try:
        try:
            status = main()
        finally:
            # Nothing is left to undo. Python's own end would answer with a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            sys.stdout.flush()
            gc.freeze()  # or the end looks for garbage among all objects of all modules: 10 ms
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except MemoryError:
        status = 1
        with contextlib.suppress(OSError):
            print(f"{name}: not enough memory", file=sys.stderr)
    except _OutputError as lost:
        if isinstance(lost.error, BrokenPipeError):
            status = 128 + signal.SIGPIPE
        else:
            status = 1
            with contextlib.suppress(OSError):
                print(f"{name}: standard output: {lost.error.strerror}", file=sys.stderr)
        _to_null(_STDOUT, os.O_WRONLY)  # for what is left in the buffer at exit
    sys.exit(status)


def script(
    main: Callable[..., object], usage: str | None, *kinds: Callable[[str], Any], last: Any
) -> NoReturn:
    """Run a tool of one file and end the process, as `run` does, with status 0 if `main` returns.

    The status is 1, with one line of explanation, if the kernel refuses something, a file cannot
    be read, or an object does not fit this kernel. It is 2 if the arguments are wrong.

    :param main: called with the arguments
    :param usage: what ``--help`` shows
    :param kinds: each makes an argument of its text, or raises ValueError
    :param last: the last argument if it is left out
    """
    name = os.path.basename(sys.argv[0])

    def guarded() -> int:
        words = sys.argv[1:]
        if {"-h", "--help"} & set(words):
            print(usage)
            return 0
        try:
            given = [kind(word) for kind, word in zip(kinds, words, strict=False)]
            if not len(kinds) - 1 <= len(words) <= len(kinds):
                expected = f"{len(kinds) - 1} or {len(kinds)} expected"
                raise ValueError(f"{many(len(words), 'argument')} given, {expected}")
        except ValueError as error:
            print(f"{name}: {explain(error)}\n{usage}", file=sys.stderr)
            return 2
        given += [last][: len(kinds) - len(given)]
        try:
            main(*given)
        except (OSError, ObjectFormatError, PlanError, RelocationError) as error:
            print(f"{name}: {explain(error)}", file=sys.stderr)
            return 1
        return 0

    run(name, guarded)
