"""What ``-C GROUP.KEY=VALUE`` sets, under retsnoop's names. Pure."""

from __future__ import annotations

from collections.abc import Callable

from ...dataclass import dataclass
from .usage import NotYet, UsageError

__all__ = ["Settings", "apply", "help_text"]


@dataclass(slots=True)
class Settings:
    """Settings and their defaults.

    :ivar ringbuf_size: bytes
    :ivar sessions_size: sessions at a time
    :ivar unfiltered: keep the frames of trampolines and BPF programs
    :ivar emit_addrs: address in front of each frame of a stack
    :ivar dec_offs: decimal offsets
    """

    ringbuf_size: int = 8 << 20
    sessions_size: int = 4096
    unfiltered: bool = False
    emit_addrs: bool = False
    dec_offs: bool = False


def _size(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise UsageError(f"give a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return convert


def _bool(text: str) -> bool:
    if text.lower() in ("true", "y", "1"):
        return True
    if text.lower() in ("false", "n", "0"):
        return False
    raise UsageError(f"give true, y, 1, false, n or 0, not {text!r}")


@dataclass(frozen=True, slots=True)
class _Setting:
    key: str
    attribute: str
    convert: Callable[[str], object]
    default: str
    help: str


_SETTINGS = (
    _Setting(
        "bpf.ringbuf-size",
        "ringbuf_size",
        _size(1, 1 << 30),
        "8388608",
        "size of the ring buffer in bytes, rounded up to a power of 2 pages",
    ),
    _Setting(
        "bpf.sessions-size",
        "sessions_size",
        _size(1, 1 << 20),
        "4096",
        "largest number of sessions at a time",
    ),
    _Setting(
        "stacks.unfiltered", "unfiltered", _bool, "false", "frames of BPF trampolines and programs"
    ),
    _Setting("stacks.emit-addrs", "emit_addrs", _bool, "false", "an address before each symbol"),
    _Setting("stacks.dec-offs", "dec_offs", _bool, "false", "decimal offsets, +123 and not +0x7b"),
)
_BY_KEY = {setting.key: setting for setting in _SETTINGS}
_LATER = frozenset(
    {
        "stacks.symb-mode",
        "args.max-total-args-size",
        "args.max-sized-arg-size",
        "args.max-str-arg-size",
        "args.capture-raw-ptrs",
        "args.fmt-mode",
        "args.fmt-max-arg-width",
        "fmt.lbr-max-count",
    }
)


def apply(settings: Settings, text: str) -> None:
    """Set what ``GROUP.KEY=VALUE`` says.

    :raises UsageError: for an unknown key or a value out of range
    """
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise UsageError(f"-C needs GROUP.KEY=VALUE, not {text!r}")
    if key in _LATER:
        raise NotYet(f"-C {key} is not available yet")
    setting = _BY_KEY.get(key)
    if setting is None:
        raise UsageError(f"no setting {key!r}; there are: {', '.join(_BY_KEY)}")
    try:
        setattr(settings, setting.attribute, setting.convert(value))
    except UsageError as error:
        raise UsageError(f"-C {key}: {error}") from None


def help_text() -> str:
    """What ``--config-help`` prints."""
    lines = [f"  {s.key:<20} {s.help} (default {s.default})" for s in _SETTINGS]
    return "\n".join(["Settings of -C KEY=VALUE:", *lines]) + "\n"
