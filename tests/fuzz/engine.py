"""Change inputs at random, the same way for the same seed.

An input is made from one seed file of a target by a few small changes: flipped bits, numbers
that tend to break things, runs of bytes repeated, removed or taken from elsewhere, cut ends.
Text is also changed by words and lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

__all__ = ["Change", "change_bytes", "change_text", "several", "shrunk"]

#: Change one input. `others` are seeds to take parts from.
Change = Callable[[bytes, Sequence[bytes], Random], bytes]

_NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 48, 63, 64, 100, 127, 128, 255, 256, 1000, 4095),
    *(4096, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000),
    *(0xFFFFFFF0, 0xFFFFFFFF, 0x100000000, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000),
    *(0xFFFFFFFF81000000, 0xFFFFFFFFFFFFFFFF),
)
_WORDS = (
    *("", "0", "1", "-1", "00", "+1", "1_0", "0x", "0x10", "-0x10", "1e9", "nan", "inf", "-inf"),
    *("²", "１", "٣", "é", "\udc80", "\x00", "\x1b[2J", "\x7f", "\x85", "\u2028", "\x0b", "\x1c"),
    *("18446744073709551616", "-9223372036854775809", "f" * 16, "f" * 17, "9" * 5000, "x" * 3000),
    *("[", "]", "[bpf]", "\t[", "\t", " ", "\n", ":", "-", "@", "(", ")", "%", "$", ",", '"', "*"),
    *("__ftrace_invalid_address__", "bpf_trampoline_", "a" * 40),
)
_CHARACTERS = "-+_xX.,:;@#[]() \t\r\n\0\x1b\x1c\x85\u2028²٣１gzGfF0\udcff"
_WINDOW = 200  # characters around a place that are split into words
_TOKEN = re.compile(r"[A-Za-z_.]+|[0-9a-fA-F]+|\s|[^\sA-Za-z0-9_.]")
_LONGEST = 1 << 16  # bytes of an input, unless its seed is longer


def change_bytes(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Make one change to bytes."""
    out = bytearray(data)
    size = len(out)
    at = random.randrange(size) if size else 0
    match random.randrange(10):
        case 0 | 1 if size:
            out[at] ^= 1 << random.randrange(8)
        case 2 if size:
            out[at] = random.randrange(256)
        case 3 | 4 | 5 if size:
            width = random.choice((1, 2, 4, 4, 8))
            at -= at % width if random.random() < 0.8 else 0
            number = random.choice(_NUMBERS) + random.choice((0, 0, 0, 1, -1))
            raw = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
            out[at : at + width] = raw[: max(size - at, 0)]
        case 6 if size:
            width = random.choice((1, 2, 4, 8))
            old = int.from_bytes(out[at : at + width], "little")
            new = old + random.randint(-35, 35) & (1 << 8 * width) - 1
            out[at : at + width] = new.to_bytes(width, "little")[: size - at]
        case 7 if size:
            length = random.choice((1, 4, 8, 12, 16, 24, 64, random.randrange(1, size + 1)))
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            out[at : at + length] = other[start : start + length]
        case 8 if size:
            length = random.choice((1, 4, 8, 16, random.randrange(1, size + 1)))
            if random.random() < 0.5:
                del out[at : at + length]
            else:
                times = random.choice((1, 1, 2, 16, 256))
                out[at:at] = bytes(out[at : at + length]) * times
        case _:
            del out[at:]
    return bytes(out[: max(_LONGEST, size)])


def change_text(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Make one change to text, by words and lines; now and then by bytes."""
    if random.random() < 0.25 or data[:2] == b"\x1f\x8b":
        return change_bytes(data, others, random)
    text = data.decode("utf-8", "surrogateescape")
    if random.random() < 0.3:
        lines = text.split("\n")
        at = random.randrange(len(lines))
        match random.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, random.choice(lines))
            case 2:
                lines[at:at] = [lines[at]] * random.choice((2, 100))
            case _:
                lines[at], lines[-1 - at] = lines[-1 - at], lines[at]
        text = "\n".join(lines)
    elif text and random.random() < 0.3:
        # One character for another, so that columns stay where they are.
        at = random.randrange(len(text))
        if random.random() < 0.6:
            at = text.rfind("\n", 0, at) + 1 + random.choice((0, 0, 1, 2, 15, 16, 17, 18, 19))
        text = text[:at] + random.choice(_CHARACTERS) + text[at + 1 :]
    else:
        near = random.randrange(len(text) + 1)
        tokens = list(_TOKEN.finditer(text, max(near - _WINDOW, 0), near + _WINDOW))
        word = random.choice(_WORDS)
        if tokens:
            one = random.choice(tokens)
            if random.random() < 0.3:
                word = random.choice(tokens)[0]
            end = one.start() if random.random() < 0.3 else one.end()
            text = text[: one.start()] + word + text[end:]
        else:
            text = word
    errors = "surrogatepass" if random.random() < 0.1 else "surrogateescape"
    return text.encode("utf-8", errors)[: max(_LONGEST, len(data))]


def several(change: Change, data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Make one to six changes, mostly few."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 6))):
        data = change(data, others, random)
    return data


def shrunk(data: bytes, still: Callable[[bytes], bool], tries: int = 300) -> bytes:
    """Remove what an input does not need to do the same.

    :param still: whether a smaller input does the same
    :param tries: most inputs to try
    """
    step = max(len(data) // 2, 1)
    while step and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            tries -= 1
            smaller = data[:at] + data[at + step :]
            if still(smaller):
                data = smaller
            else:
                at += step
        step //= 2
    return data
