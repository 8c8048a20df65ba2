"""Changes that keep an input's structure, so that they get past the first checks."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.fuzz.engine import change_bytes, change_text

__all__ = ["change_btf", "change_elf", "change_facts", "change_json", "packed"]

_BTF = struct.Struct("<HBBIIIII")
# Words after struct btf_type by kind, as in UAPI btf.h: (fixed, per entry).
_WORDS = {1: (1, 0), 3: (3, 0), 4: (0, 3), 5: (0, 3), 6: (0, 2), 13: (0, 2), 14: (1, 0)}
_WORDS |= {15: (0, 3), 17: (1, 0), 19: (0, 3)}
_SIZES = (0, 1, 2, 3, 4, 8, 16, 64, 255, 4096, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def change_btf(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Change a field of one type record; now and then any byte."""
    if len(data) < _BTF.size or random.random() < 0.15:
        return change_bytes(data, others, random)
    _, _, _, header, at, length, _, strings = _BTF.unpack_from(data)
    start = header + at
    words = list(struct.unpack_from(f"<{length // 4}I", data, start)) if _fits(data) else []
    records = _records(words)
    if not records:
        return change_bytes(data, others, random)
    for _ in range(random.choice((1, 1, 2, 4))):
        _change_record(words, random.randrange(len(records)), records, strings, random)
    raw = struct.pack(f"<{len(words)}I", *words)
    return data[:start] + raw + data[start + len(raw) :]


def _fits(data: bytes) -> bool:
    _, _, _, header, at, length, _, _ = _BTF.unpack_from(data)
    return length % 4 == 0 and header + at + length <= len(data)


def _records(words: list[int]) -> list[tuple[int, int]]:
    # (first word, words) of each record.
    found = []
    at = 0
    while at + 3 <= len(words):
        info = words[at + 1]
        fixed, each = _WORDS.get(info >> 24 & 0x7F, (0, 0))
        size = 3 + fixed + each * (info & 0xFFFF)
        found.append((at, size))
        at += size
    return found if at == len(words) else found[:-1]


def _change_record(
    words: list[int], number: int, records: list[tuple[int, int]], strings: int, random: Random
) -> None:
    at, size = records[number]
    count = len(records)
    # Itself, one of its neighbours, any type, none, one too many: records start at type 1.
    near = number + 1 + random.randint(-3, 3)
    ids = (
        number + 1,
        number + 1,
        near,
        random.randint(1, count),
        0,
        count + 1,
        random.randrange(9),
    )
    reference = max(random.choice(ids), 0)
    kind = words[at + 1] >> 24 & 0x7F
    match random.randrange(8):
        case 0:
            words[at] = random.choice((0, 1, random.randrange(strings + 2), strings, 1 << 31))
        case 1:
            words[at + 1] = words[at + 1] & ~0x7F000000 | random.randrange(1, 21) << 24
        case 2:
            words[at + 1] ^= random.choice((1 << 31, 1, 2, 4, 1 << 16))
        case 3 | 4:
            sized = kind in (1, 4, 5, 6, 15, 16, 19)
            words[at + 2] = random.choice(_SIZES) if sized else reference
        case 5 if size > 3:
            words[at + random.randrange(3, size)] = random.choice(_SIZES)
        case 6 | 7 if size > 3:
            # The type of an element or of an entry.
            entry = {3: 3, 4: 4, 5: 4, 13: 4, 15: 3}.get(kind, 3)
            step = {4: 3, 5: 3, 13: 2, 15: 3}.get(kind, size)
            places = range(at + entry, at + size, step)
            if places:
                words[random.choice(places)] = reference
        case _:
            words[at + 2] = reference


def change_elf(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Change one section of an ELF file, or its headers."""
    if len(data) < 64 or random.random() < 0.2:
        return change_bytes(data, others, random)
    (shoff,) = struct.unpack_from("<Q", data, 40)
    entsize, count = struct.unpack_from("<HH", data, 58)
    if not count or entsize != 64 or shoff + 64 * count > len(data):
        return change_bytes(data, others, random)
    header = shoff + 64 * random.randrange(count)
    if random.random() < 0.2:
        changed = change_bytes(data[header : header + 64], others, random).ljust(64, b"\0")[:64]
        return data[:header] + changed + data[header + 64 :]
    _, kind, _, _, offset, size = struct.unpack_from("<IIQQQQ", data, header)
    if kind == 8 or not size or offset + size > len(data):
        return change_bytes(data, others, random)
    section = data[offset : offset + size]
    if section[:2] == b"\x9f\xeb" and random.random() < 0.9 and size > 200:
        section = change_btf(section, others, random)
    else:
        section = change_bytes(section, others, random)
    # At the same place, so that the headers still fit.
    section = section.ljust(size, b"\0")[:size]
    return data[:offset] + section + data[offset + size :]


def change_json(value: Any, random: Random) -> Any:
    """Replace, drop or repeat one value inside a JSON value."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        out = dict(value)
        if random.random() < 0.1:
            del out[key]
        elif random.random() < 0.1:
            out[random.choice(("", "\x1b", "é", "a" * 300, "x"))] = out[key]
        else:
            out[key] = change_json(value[key], random)
        return out
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return [*value[:at], change_json(value[at], random), *value[at + 1 :]]
    whole = (0, -1, 1 << 63, 1 << 64, -(1 << 65), 10**400, 10**30, 65536)
    odd = (0.5, 1e308, float("inf"), float("-inf"), float("nan"), True, False, None)
    texts = ("", "0", "x", "\x1b[31m", "\udc80", "é" * 99, "9" * 5000, "2147483648", "nan")
    nested: Any = []
    for _ in range(50):
        nested = [nested]
    return random.choice((*whole, *odd, *texts, [], {}, [1, 2], {"a": 1}, nested))


def change_facts(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Change saved facts: their values, or a part that is packed in them."""
    if random.random() < 0.1:
        return change_text(data, others, random)
    try:
        facts = json.loads(data)
    except ValueError:
        return change_bytes(data, others, random)
    if not isinstance(facts, dict):
        return change_text(data, others, random)
    packed = [k for k in ("kallsyms", "ftrace", "blacklist") if isinstance(facts.get(k), str)]
    choice = random.random()
    if choice < 0.35 and packed:
        key = random.choice(packed)
        facts[key] = _repacked(facts[key], change_text, random)
    elif choice < 0.5 and isinstance(facts.get("btf"), dict) and facts["btf"]:
        key = random.choice(list(facts["btf"]))
        if isinstance(facts["btf"][key], str):
            facts["btf"] = facts["btf"] | {key: _repacked(facts["btf"][key], change_btf, random)}
    else:
        facts = change_json(facts, random)
    return json.dumps(facts).encode()


def _repacked(text: str, change: Any, random: Random) -> str:
    try:
        raw = zlib.decompress(base64.b64decode(text))
    except (ValueError, zlib.error):
        return text
    if random.random() < 0.03:
        raw = raw[:1] * (65 << 20)  # a small file that is large once it is unpacked
    else:
        raw = change(raw, [raw], random)
    return packed(raw)


def packed(data: bytes) -> str:
    """Pack a part of saved facts."""
    return base64.b64encode(zlib.compress(data, 1)).decode()
