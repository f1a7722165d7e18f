"""Rows of JSON: one a line, objects over several lines, or an array, read as a stream.

In: a file. Out: its rows, each with its own text, which is what is written again.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

import msgspec

from rfprm_lite.data import row as limits
from rfprm_lite.data.row import File, Row, Values
from rfprm_lite.errors import InputError

_CHUNK = 2**16
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers (from 1), without blank ones and without a byte order mark.

    A line that is longer than LONGEST_ROW has the first so many bytes of it, and no line break.
    """
    number = 0
    while line := file.readline(limits.LONGEST_ROW):
        number += 1
        if line == b"\n":  # at once: a file may hold millions
            continue
        rest = line
        while len(rest) == limits.LONGEST_ROW and not rest.endswith(b"\n"):
            rest = file.readline(limits.LONGEST_ROW)
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


def json_rows(file: BinaryIO, where: File) -> Iterator[Row]:
    """The rows of a file of JSON, without blank lines."""
    lines = numbered(file)
    first = next(lines, None)
    if first is not None and (first[1].lstrip().startswith(b"[") or first[1].strip() == b"{"):
        yield from _spread_rows(first[1], file, where)
        return
    for number, line in chain([] if first is None else [first], lines):
        place = f"line {number}{where.of}"
        content = line.decode(errors="backslashreplace")
        if len(line) >= limits.LONGEST_ROW:
            wrong = InputError(f"{place} is longer than {limits.LONGEST_ROW >> 20} MiB")
            yield Row(number, wrong, content[:1000], place, where)
        else:
            yield Row(number, _object(line, place), content, place, where)


def _object(line: bytes, place: str) -> Values | InputError:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        try:
            value = json.loads(line.decode())  # which takes what Python writes: NaN, Infinity, halves of surrogates
        except (ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else InputError(f"{place} is no JSON object: {error}")


def _spread_rows(beginning: bytes, file: BinaryIO, where: File) -> Iterator[Row]:
    """The objects of an array, or objects that go over several lines; never are all of them in memory."""
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    decode_value = json.JSONDecoder().raw_decode
    text, at, number = decode(beginning).lstrip(), 0, 1
    in_array = text.startswith("[")
    at = int(in_array)

    def more() -> bool:
        nonlocal text, at
        data = file.read(max(_CHUNK, len(text) - at))
        text, at = text[at:] + decode(data, not data), 0
        return bool(data)

    while True:
        place = f"row {number}{where.of}"
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if not in_array and at == len(text):
            if not more():
                return
            continue
        if in_array and text.startswith("]", at):
            if (text[at + 1 :] + decode(file.read(_CHUNK))).strip():
                raise InputError(
                    f"something stands behind the array of {number - 1} rows{where.of}: one row a line, or one array"
                )
            return
        try:
            value, end = decode_value(text, at)
        except (ValueError, RecursionError) as error:
            too_long = len(text) - at > limits.LONGEST_ROW
            if isinstance(error, RecursionError) or too_long or not more():
                raise InputError(
                    f"{place}, {'in an array' if in_array else 'over lines'}, is no JSON: {error}"
                ) from error
            continue
        if end == len(text) and more():
            continue  # a number may go on
        content, at = text[at:end], end
        yield Row(number, _array_object(value, content, place), _legible(content), place, where)
        number += 1


def _array_object(value: object, content: str, place: str) -> Values | InputError:
    if not isinstance(value, dict):
        return InputError(f"{place} is no JSON object, but {type(value).__name__}")
    return value if _is_utf8(content) else InputError(f"{place} is no UTF-8")


def _legible(text: str) -> str:
    """The text with the bytes that are no UTF-8 written as escapes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
