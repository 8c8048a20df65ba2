"""Close descriptors in a separate process, because closing some of them takes minutes.

The kernel undoes an attachment when the last descriptor of its link is closed, and the
process that closes it waits for that, even while the process ends. So the descriptors are first
copied to a small process. Closing them here is then quick, and the other process waits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["Closer"]

# It ends when standard input is closed, which closes all its descriptors. Its parent ends at
# once, so that nobody has to wait for it. Its pid comes through standard output.
_CODE = """\
import os
child = os.fork()
if child:
    os.write(1, b"%d" % child)
    os._exit(0)
os.close(1)
os.read(0, 1)
"""
_NAME = "closes BPF links for pybpf"  # what ps shows


class Closer:
    """Hold copies of descriptors until the context ends, then close them.

    :param descriptors: numbers of open descriptors; they still belong to the caller
    :raises OSError: if the process cannot be started

    :ivar pid: pid of the process
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        import subprocess  # lazy: 10 ms that most runs do not need

        reading, self._gate = os.pipe()
        try:
            with subprocess.Popen(
                [sys.executable or "python3", "-I", "-S", "-c", _CODE, _NAME],
                stdin=reading,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C must not reach it
                cwd="/",
            ) as process:
                assert process.stdout is not None
                said = process.stdout.read()
            if not said:
                raise OSError(process.returncode, "the process that closes links did not start")
            self.pid = int(said)
        except BaseException:
            os.close(self._gate)
            raise
        finally:
            os.close(reading)

    def go(self) -> None:
        """Let it close them. May be called again."""
        gate, self._gate = self._gate, -1
        if gate >= 0:
            os.close(gate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.go()
