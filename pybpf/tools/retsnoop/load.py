"""Turn options into variables and map contents of retsnoop.bpf.o."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from ...dataclass import dataclass
from ...errors import BpfError
from .args import pack_spec
from .attach import can_skip_exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Object
    from ...globals import Globals
    from .args import Parameter
    from .attach import Tracing
    from .options import Options
    from .sessions import ErrorFilter

__all__ = ["Counts", "configure", "counts_of", "fill", "sessions_room"]

# Bits of a value of the map `ids`, see retsnoop.bpf.c; and values of `comms`.
_ALLOW_PROCESS, _DENY_PROCESS, _ALLOW_THREAD, _DENY_THREAD = 1, 2, 4, 8
_ALLOW, _DENY = 1, 0
_WAYS = 8  # sessions of a bucket
# A trampoline that a function's first instructions call returns to these bytes of the function.
# That is not yet a call inside it.
_PROLOGUE = 10
_MAX_ERRNO = 4095
_WORDS = (_MAX_ERRNO + 1) // 64


@dataclass(frozen=True, slots=True)
class Counts:
    """Hold the numbers of sessions by what happened to them. The BPF program counts them.

    :param started: opened
    :param sent: handed over to be shown
    :param lost: the ring buffer was full when they ended
    :param success: left out, because they succeeded
    :param duration: left out, because they were too short
    :param error: left out by the error filters
    :param retval: left out by the return value filters
    :param open: the entry function has not returned
    :param no_room: not opened, because all places were taken
    :param incomplete: sent, but the ring buffer had no room for some of their records
    :param deep: number of calls too deep to have a frame
    """

    started: int = 0
    sent: int = 0
    lost: int = 0
    success: int = 0
    duration: int = 0
    error: int = 0
    retval: int = 0
    open: int = 0
    no_room: int = 0
    incomplete: int = 0
    deep: int = 0

    @property
    def filtered(self) -> int:
        """Count sessions that were left out on purpose."""
        return self.success + self.duration + self.error + self.retval

    @property
    def dropped(self) -> int:
        """Count sessions that could not be recorded or handed over."""
        return self.lost + self.no_room


def configure(
    obj: Object,
    options: Options,
    tracing: Tracing,
    parameters: Sequence[Sequence[Parameter]] = (),
) -> None:
    """Set what must be known before loading: constants and sizes of maps.

    :param parameters: parameters of each function; empty if arguments are not captured
    """
    variables = obj.globals
    variables.self_tgid = os.getpid()
    variables.skip_exits = can_skip_exits(tracing.plan)
    variables.emit_success = options.success
    variables.emit_stacks = options.stacks
    variables.emit_trace = options.trace or bool(options.trace_out)
    variables.max_depth = options.settings.max_depth
    variables.emit_lbr = bool(options.lbr)
    variables.emit_interim = options.interim
    variables.emit_user_stacks = options.user_stacks
    variables.capture_context = options.capture_args
    variables.emit_args = options.capture_args
    variables.max_args_bytes = options.settings.max_total_args_size
    variables.min_duration = options.min_duration
    ids, comms = _ids(options), _comms(options)
    variables.filter_ids = bool(ids)
    variables.allow_ids = bool(options.allow_pids)
    variables.filter_comms = bool(comms)
    variables.allow_comms = bool(options.allow_comms)
    variables.filter_cgroup = bool(options.cgroup)
    _set_errors(variables, options.errors)
    variables.filter_retvals = bool(options.allow_retvals or options.deny_retvals)
    for name, ranges in (("allow", options.allow_retvals), ("deny", options.deny_retvals)):
        _set_ranges(variables, name, ranges)
    buckets = sessions_room(options.settings.sessions_size) // _WAYS
    variables.bucket_mask = buckets - 1
    maps = obj.maps
    maps["owners"].max_entries = buckets
    maps["sessions"].max_entries = buckets * _WAYS
    maps["events"].max_entries = options.settings.ringbuf_size
    maps["places"].max_entries = max(1, len(tracing.functions))
    maps["args_specs"].max_entries = max(1, len(parameters))
    maps["ids"].max_entries = max(1, len(ids))
    maps["comms"].max_entries = max(1, len(comms))


def sessions_room(size: int) -> int:
    """Return how many sessions the maps have room for: whole buckets, a power of two of them.

    :param size: sessions that they have to have room for
    """
    return _WAYS << (max(1, -(-size // _WAYS)) - 1).bit_length()


def fill(
    obj: Object,
    options: Options,
    parameters: Sequence[Sequence[Parameter]] = (),
    places: Mapping[int, tuple[int, int]] | None = None,
) -> None:
    """Fill the maps of the loaded object.

    :param places: where the code of entry functions begins and ends

    :raises BpfError: the path is not a cgroup
    """
    obj.maps["ids"].update(_ids(options))
    obj.maps["comms"].update(_comms(options))
    if places:
        first = {number: max(0, start) + _PROLOGUE for number, (start, _) in places.items()}
        obj.maps["places"].update(
            {n: {"start": first[n], "end": end} for n, (_, end) in places.items()}
        )
    if parameters:
        specs = {number: pack_spec(one) for number, one in enumerate(parameters)}
        obj.maps["args_specs"].raw.update(
            {number.to_bytes(4, "little"): spec for number, spec in specs.items()}
        )
    if options.cgroup:
        directory = os.open(options.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            obj.maps["cgroup"][0] = directory
        except BpfError as error:
            raise BpfError(
                error.errno or 0, f"--cgroup {options.cgroup}", "not a directory of cgroup v2"
            ) from None
        finally:
            os.close(directory)


def counts_of(obj: Object) -> Counts:
    """Read the counters. They are exact once nothing is attached."""
    variables = obj.globals
    sent, lost, success, duration, error, retval = variables.ends
    taken = sum(sum(map(bool, bucket.owners)) for bucket in obj.maps["owners"].values())
    return Counts(
        started=variables.last_session,
        sent=sent,
        lost=lost,
        success=success,
        duration=duration,
        error=error,
        retval=retval,
        open=taken,
        no_room=variables.no_room,
        incomplete=variables.incomplete_sessions,
        deep=variables.deep_calls,
    )


def _ids(options: Options) -> dict[int, int]:
    out: dict[int, int] = {}
    for numbers, process, thread in (
        (options.allow_pids, _ALLOW_PROCESS, _ALLOW_THREAD),
        (options.deny_pids, _DENY_PROCESS, _DENY_THREAD),
    ):
        for number in numbers:
            verdict = thread if number in options.threads else process
            out[number] = out.get(number, 0) | verdict
    return out


def _comms(options: Options) -> Mapping[bytes, int]:
    # Denied values come last, so they win.
    return {
        _comm(name): verdict
        for names, verdict in ((options.allow_comms, _ALLOW), (options.deny_comms, _DENY))
        for name in names
    }


def _comm(name: str) -> bytes:
    """Encode a command name as the kernel keeps it: 15 bytes and NULs."""
    return name.encode("utf-8", "surrogateescape")[:15].ljust(16, b"\0")


def _set_errors(variables: Globals, errors: ErrorFilter) -> None:
    variables.filter_errors = errors.allow is not None or bool(errors.deny)
    variables.allow_errors = errors.allow is not None
    variables.allowed_errors = _bits(errors.allow or ())
    variables.denied_errors = _bits(errors.deny)


def _bits(numbers: Iterable[int]) -> list[int]:
    words = [0] * _WORDS
    for number in numbers:
        words[number // 64] |= 1 << number % 64
    return words


def _set_ranges(variables: Globals, name: str, ranges: Sequence[tuple[int, int]]) -> None:
    room = len(getattr(variables, f"{name}_retvals"))
    padded = [*ranges, *[(0, 0)] * (room - len(ranges))]
    setattr(variables, f"{name}_retvals", [{"low": low, "high": high} for low, high in padded])
    setattr(variables, f"{'allowed' if name == 'allow' else 'denied'}_retvals", len(ranges))
