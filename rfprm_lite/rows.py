"""Rows of input for the command line: JSON lines, validated, errors by line number."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

import msgspec

from rfprm_lite.errors import InputError


class ScoreRow(msgspec.Struct, frozen=True):
    """A problem and a response: text, or a list of steps. Other fields are passed over."""

    problem: str
    response: str | list[str]


class BestOfNRow(msgspec.Struct, frozen=True):
    """A problem and its candidates, each a text or a list of steps. Other fields are passed over."""

    problem: str
    candidates: list[str | list[str]]


Row = TypeVar("Row", ScoreRow, BestOfNRow)

ROWS_A_BATCH = 64


def read_rows(lines: Iterable[bytes], kind: type[Row]) -> Iterator[tuple[int, Row]]:
    """Line number (from 1) and row; blank lines and a byte order mark are passed over. Raises InputError."""
    for number, line in numbered(lines):
        try:
            yield number, msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeError) as error:
            fields = " and ".join(kind.__struct_fields__)
            raise InputError(f"line {number} is no JSON object with {fields}: {error}") from error


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers (from 1), without blank ones and without a byte order mark."""
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


def read_text(file: BinaryIO) -> str:
    """A plain text in UTF-8 without a byte order mark and the line break that ends it. Raises InputError."""
    try:
        return file.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"the plain-text input is no UTF-8 text: {error}") from error


def batches(rows: Iterator[tuple[int, Row]]) -> Iterator[list[tuple[int, Row]]]:
    """ROWS_A_BATCH rows at a time; the rows before a malformed line are yielded before its error is raised."""
    batch: list[tuple[int, Row]] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == ROWS_A_BATCH:
                yield batch
                batch = []
    except InputError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
