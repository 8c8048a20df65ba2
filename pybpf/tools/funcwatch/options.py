"""What a run of funcwatch is asked to do."""

from __future__ import annotations

from ...dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .addresses import Address

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """Hold what the command line says.

    :param file: file with more globs, read again at SIGHUP; "" for none
    :param interval: seconds between two outputs
    :param duration: seconds after which it ends, None for no end
    :param top: most functions shown per interval, 0 for all, None for the output's default
    :param pids: processes to count, all if empty
    :param comms: names of commands to count, all if empty
    :param cgroup: directory of the cgroup to count, "" for all
    :param mechanism: as in `Program.attach_multi`
    :param prometheus: where to serve a page of metrics, None for nowhere
    :param otlp: address of an OpenTelemetry collector, "" for none
    :param max_overhead: share of CPU time that the programs may take, None for no limit
    :param measure: seconds to measure rates of calls before planning, None for no measuring
    :param command: command to run, empty for none
    """

    globs: tuple[str, ...]
    deny: tuple[str, ...] = ()
    interval: float = 1.0
    duration: float | None = None
    top: int | None = None
    json: bool = False
    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    cgroup: str = ""
    mechanism: str = "auto"
    verbose: bool = False
    prometheus: Address | None = None
    otlp: str = ""
    max_overhead: float | None = None
    measure: float | None = None
    file: str = ""
    command: tuple[str, ...] = ()
