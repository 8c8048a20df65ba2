"""Settings of ``-C GROUP.KEY=VALUE``, with retsnoop's names. Pure."""

from __future__ import annotations

from collections.abc import Callable

from ...dataclass import dataclass
from .usage import UsageError

__all__ = ["LINES_BY_WORD", "Settings", "apply", "help_text"]

#: What ``-s`` may be followed by, and the value of ``stacks.symb-mode`` that it means.
LINES_BY_WORD = {
    "": "linenum",
    "l": "linenum",
    "linenum": "linenum",
    "s": "inlines",
    "i": "inlines",
    "inlines": "inlines",
    "n": "none",
    "none": "none",
}


@dataclass(slots=True)
class Settings:
    """Hold settings and their defaults.

    :ivar ringbuf_size: bytes
    :ivar sessions_size: most sessions at a time
    :ivar max_depth: most frames kept of a session
    :ivar unfiltered: keep the frames of trampolines and BPF programs
    :ivar symb_mode: source lines: "none", "linenum" or "inlines"; "" is inlines if a file has them
    :ivar emit_addrs: put the address in front of each frame of a stack
    :ivar dec_offs: show decimal offsets
    :ivar max_total_args_size: most bytes captured of all arguments of a call
    :ivar max_sized_arg_size: most bytes of one argument of a known size
    :ivar max_str_arg_size: most bytes of one string
    :ivar capture_raw_ptrs: show pointers in front of what they point to
    :ivar lbr_max_count: most branches shown, 0 for all
    :ivar fmt_mode: "compact", "multiline" or "verbose"
    :ivar fmt_max_arg_width: most characters of one argument, 0 for all
    """

    ringbuf_size: int = 8 << 20
    sessions_size: int = 4096
    max_depth: int = 64
    symb_mode: str = ""
    unfiltered: bool = False
    emit_addrs: bool = False
    dec_offs: bool = False
    max_total_args_size: int = 3072
    max_sized_arg_size: int = 256
    max_str_arg_size: int = 256
    capture_raw_ptrs: bool = False
    lbr_max_count: int = 0
    fmt_mode: str = "compact"
    fmt_max_arg_width: int = 120


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


def _word(*words: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        for word in words:
            if text and word.startswith(text.lower()):
                return word
        raise UsageError(f"give {', '.join(words[:-1])} or {words[-1]}, not {text!r}")

    return convert


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
        "bpf.max-depth",
        "max_depth",
        _size(1, 64),
        "64",
        "depth of nested calls that a session keeps, at most 64",
    ),
    _Setting(
        "stacks.symb-mode",
        "symb_mode",
        _word("none", "linenum", "inlines"),
        "as -s",
        "source lines of stacks: none, linenum or inlines",
    ),
    _Setting(
        "stacks.unfiltered", "unfiltered", _bool, "false", "frames of BPF trampolines and programs"
    ),
    _Setting("stacks.emit-addrs", "emit_addrs", _bool, "false", "an address before each symbol"),
    _Setting("stacks.dec-offs", "dec_offs", _bool, "false", "decimal offsets: +123, not +0x7b"),
    _Setting(
        "args.max-total-args-size",
        "max_total_args_size",
        _size(1, 16384),
        "3072",
        "bytes captured of all arguments of a call, at most 16384",
    ),
    _Setting(
        "args.max-sized-arg-size",
        "max_sized_arg_size",
        _size(1, 8192),
        "256",
        "bytes captured of one argument of a known size, at most 8192",
    ),
    _Setting(
        "args.max-str-arg-size",
        "max_str_arg_size",
        _size(1, 8192),
        "256",
        "bytes captured of one string, at most 8192",
    ),
    _Setting(
        "args.capture-raw-ptrs",
        "capture_raw_ptrs",
        _bool,
        "false",
        "pointers in front of what they point to",
    ),
    _Setting(
        "args.fmt-mode",
        "fmt_mode",
        _word("compact", "multiline", "verbose"),
        "compact",
        "compact, multiline (a line each) or verbose (a line for each member)",
    ),
    _Setting(
        "args.fmt-max-arg-width",
        "fmt_max_arg_width",
        _size(0, 250),
        "120",
        "characters of one argument, compact and multiline; 0 for all",
    ),
    _Setting(
        "fmt.lbr-max-count", "lbr_max_count", _size(1, 1 << 16), "all", "last branches to show"
    ),
)
_BY_KEY = {setting.key: setting for setting in _SETTINGS}


def apply(settings: Settings, text: str) -> None:
    """Set what ``GROUP.KEY=VALUE`` says.

    :raises UsageError: for an unknown key or a value out of range
    """
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise UsageError(f"-C needs GROUP.KEY=VALUE, not {text!r}")
    setting = _BY_KEY.get(key)
    if setting is None:
        raise UsageError(f"no setting {key!r}; there are: {', '.join(_BY_KEY)}")
    try:
        setattr(settings, setting.attribute, setting.convert(value))
    except UsageError as error:
        raise UsageError(f"-C {key}: {error}") from None


def help_text() -> str:
    """Return what ``--config-help`` prints."""
    lines = [f"  {s.key:<24} {s.help} (default {s.default})" for s in _SETTINGS]
    return "\n".join(["Settings of -C KEY=VALUE:", *lines]) + "\n"
