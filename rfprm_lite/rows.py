"""Rows of input for the command line: JSON lines, validated, errors by line number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

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


def read_rows(lines: Iterable[str], kind: type[Row]) -> Iterator[tuple[int, Row]]:
    """Line number (from 1) and row; blank lines are passed over. Raises InputError."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeError) as error:
            fields = " and ".join(kind.__struct_fields__)
            raise InputError(f"line {number} is no JSON object with {fields}: {error}") from error
