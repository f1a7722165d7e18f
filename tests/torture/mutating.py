"""Wrong files made of right ones: bytes are flipped, cut and spliced, JSON is changed in its values.

In: files, and a random generator. Out: one more file. The generator decides all, so that a seed gives the same files.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

NUMBERS = (
    0, 1, -1, 2, 255, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64,
    10**30, 0.5, -0.0, 1e-320, 1e308, -1e308, 1e999, -1e999, float("nan"),
)  # fmt: skip
TEXTS = (
    "", " ", "\n", "\n\n", "\x00", "a", "\ud800", "\U0010ffff", "﻿", "é" * 300, "a" * 3000, "../x", "/dev/zero", "con",
    "<think>", "</think>", "<|im_end|>", "<extra_0>", "blank-lines", "whole", "float32", "int8", "cpu", "cuda", "paged",
    "none", "special", "text", "slot", "read", "problem", "step", "steps", "content", "user", "assistant", "system",
    "mean+final", "last", "default", "yarn", "silu", "{n}", "%s", "0", "-1", "1e999", "(a+)+$", "\\", "[", "type",
)  # fmt: skip
BYTES = (
    b"[" * 3000, b'{"a":' * 3000, b"[[", b"{", b"}", b"]", b'"', b"\\u0000", b"\\ud800", b"null", b"true", b"1e999",
    b"NaN", b"9" * 40, b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b",", b'""', b"'", b"\x00" * 8, b"\xff" * 8,
    b"<think>", b"</think>", b"```", b"$$", b"\\[", b"<|channel|>", b"\x1f\x8b\x08", b"BZh9", b"\x28\xb5\x2f\xfd",
    b"PK\x03\x04", b"PAR1", b"(", b"=", b"[[a]]", b"\x80\x02", b"R", b".",
)  # fmt: skip


def mutated(random: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A file made of one of others by a few changes."""
    data = random.choice(seeds)
    if data[:1] in (b"{", b"[") and random.random() < 0.6:
        data = _json(random, data, seeds)
        if random.random() < 0.7:
            return data
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        data = random.choice(CHANGES)(random, data, seeds)
    return data


def _flip(random: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    at = _place(random, data)
    return data[:at] + bytes([(data[at] if at < len(data) else 0) ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _overwrite(random: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    at, value = _place(random, data), random.choice(NUMBERS)
    if isinstance(value, float):
        return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    size = random.choice((1, 2, 4, 8))
    raw = (value % 256**size).to_bytes(size, random.choice(("little", "big")))
    return data[:at] + raw + data[at + size :]


def _cut(random: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = _range(random, data)
    return data[:start] + data[end:]


def _truncate(random: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    return data[: _place(random, data)]


def _repeat(random: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = _range(random, data)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 20)) + data[end:]


def _insert(random: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    at = _place(random, data)
    return data[:at] + random.choice(BYTES) + data[at:]


def _splice(random: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at, other = _place(random, data), random.choice(seeds)
    start, end = _range(random, other)
    return data[:at] + other[start:end] + data[at + random.choice((0, end - start)) :]


def _number(random: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Another number in the place of the first digits behind a place."""
    at = _place(random, data)
    digits = range(ord("0"), ord("9") + 1)
    start = next((i for i in range(at, len(data)) if data[i] in digits), at)
    end = next((i for i in range(start, len(data)) if data[i] not in digits), len(data))
    return data[:start] + str(random.choice(NUMBERS)).encode() + data[end:]


CHANGES = (_flip, _overwrite, _cut, _truncate, _repeat, _insert, _splice, _number)


def _place(random: random.Random, data: bytes) -> int:
    return random.randrange(len(data) + 1)


def _range(random: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(random, data)
    return start, min(len(data), start + random.choice((1, 2, 4, 16, 200, len(data))))


def _json(random: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """The same JSON with other values, or without some, or with those of another file."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # no JSON, or nested too deep for Python's reader
        return data
    for _ in range(random.choice((1, 1, 2, 4))):
        holder, key = _some(random, value)
        if holder is None:
            break
        if random.random() < 0.15:
            del holder[key]
        elif isinstance(holder, list) and random.random() < 0.2:
            holder.insert(key, holder[key])
        elif isinstance(holder, dict) and random.random() < 0.1:
            holder[random.choice(TEXTS)] = holder.pop(key)
        else:
            holder[key] = _other(random, holder[key], seeds)
    try:
        return json.dumps(value, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")
    except RecursionError:
        return data


def _some(random: random.Random, value: Any) -> tuple[Any, Any]:
    """Some place within a value: what holds it, and its key there."""
    holder, key = None, None
    while isinstance(value, dict | list) and value:
        holder = value
        key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        value = holder[key]
        if random.random() < 0.2:
            break
    return holder, key


def _other(random: random.Random, value: Any, seeds: Sequence[bytes]) -> Any:
    kind = random.randrange(8)
    if kind == 0:
        return random.choice((None, True, False, [], {}, [[]], [None], {"a": {}}))
    if kind == 1:
        return random.choice(TEXTS)
    if kind == 2:
        return random.choice(NUMBERS)
    if kind == 3:
        return [value, value]
    if kind == 4:
        return {random.choice(TEXTS): value}
    if kind == 5 and isinstance(value, str):
        return value + random.choice(TEXTS)
    if kind == 6 and isinstance(value, str):
        return value[: random.randrange(len(value) + 1)]
    if kind == 6 and isinstance(value, int | float):
        return value + random.choice((-1, 1))
    try:
        other = json.loads(random.choice(seeds))
    except (ValueError, RecursionError):
        return random.choice(NUMBERS)
    holder, key = _some(random, other)
    return other if holder is None else holder[key]
